"""Figures of what offsets and confidence do, from the tables of an `Analysis`. Each function draws a whole figure.

The `styles` of lines or bars are (name, colour, dashes and marker) by column of a table.
"""

from collections.abc import Mapping
from contextlib import contextmanager

import matplotlib.pyplot as plt
import numpy as np
import seaborn as sns

from ovenet_core.figures.images import BLUE, GREEN, ORANGE, PURPLE, TITLES
from ovenet_core.study import DISTANCES, ORACLE_SEEDS, SHARES, Analysis

GREY = "0.45"
TICKS = tuple(name.replace("below ", "< ").replace(" to ", "–").replace(" or more", " +") for name in DISTANCES)
# First and last position in DISTANCES, and a colour: the same pixels look the same in every figure.
PARTS = {"below 4 px": ((0, 3), ORANGE), "4 to 16 px": ((3, 5), GREEN), "16 px or more": ((5, 7), BLUE)}
MAX_CLASSES = 25  # in a figure


@contextmanager
def panels(columns: int, height: float = 4.6):
    """Make a figure with a row of axes, in the style of all figures here."""
    with sns.axes_style("whitegrid"), sns.plotting_context("notebook", font_scale=1.1):
        yield plt.subplots(1, columns, figsize=(16, height), layout="constrained")


def lines(ax: plt.Axes, analysis: Analysis, styles: Mapping, title: str, scale: float = 1.0) -> None:
    """Draw columns of the table by distance."""
    table = analysis.table.loc["all"].loc["distance"].loc[list(DISTANCES)]
    for column, (name, colour, dashes) in styles.items():
        ax.plot(range(len(table)), scale * table[column], dashes, color=colour, label=name, linewidth=2)
    ax.set_xticks(range(len(TICKS)), TICKS)
    ax.set(xlabel="distance from the nearest label boundary, pixels", title=title)
    ax.legend()


def distance_and_class(analysis: Analysis, styles: Mapping, titles: tuple[str, str], scale: float = 1.0) -> plt.Figure:
    """Draw columns of the tables by distance and by class; of many classes those with most pixels."""
    table = analysis.table.loc["all"].loc["class"]
    classes = table.loc[table.index.isin(table["pixels"].nlargest(MAX_CLASSES).index)]
    with panels(2, max(4.6, 0.36 * len(classes))) as (figure, axes):
        lines(axes[0], analysis, styles, titles[0], scale)
        axes[0].set_ylim(bottom=0)
        height, rows = 0.8 / len(styles), np.arange(len(classes))
        for place, (column, (name, colour, _)) in enumerate(styles.items()):
            middle = rows + height * (place - (len(styles) - 1) / 2)
            axes[1].barh(middle, scale * classes[column], height, color=colour, label=name)
        axes[1].set_yticks(rows, classes.index)
        axes[1].set(ylim=(len(classes) - 0.4, -0.6), title=titles[1])
        axes[1].grid(False, axis="y")
        axes[1].legend()
    return figure


def lengths(analysis: Analysis) -> plt.Figure:
    """(a) Draw the length of the offsets, by distance and by class."""
    styles = {"length_median": ("half of them are shorter", BLUE, "-o"), "length_90": ("90% are shorter", GREY, "--s")}
    titles = "length of the offsets, pixels, by distance", "by class of the pixel's label"
    figure = distance_and_class(analysis, styles, titles)
    figure.axes[1].set_xlabel("length of the offsets, pixels")
    return figure


def directions(analysis: Analysis) -> plt.Figure:
    """(b) Draw where the offsets point, and what they find there, against random directions."""
    gains = {"seed_gain": ("offsets", BLUE, "-o"), "random_gain": ("random directions", GREY, "--s")}
    shares = {"seed_same": ("seed of the same class", BLUE, "-o"), "random_same": ("… random direction", GREY, "-s")}
    shares["seed_deeper"] = ("same class and deeper inside", BLUE, "--o")
    shares["random_deeper"] = ("… random direction", GREY, "--s")
    with panels(3) as (figure, axes):
        for name, (part, colour) in PARTS.items():
            angles = 100 * analysis.angle_shares(*part)
            axes[0].plot(angles.index, angles, "-o", color=colour, label=name, linewidth=2)
        axes[0].axhline(100 / 18, color=GREY, linestyle="--", label="random directions")
        axes[0].set_xticks([0, 90, 180], ["0°\naway from\nboundary", "90°\nalong it", "180°\ntowards\nboundary"])
        axes[0].set(ylim=(0, None), title="% of the offsets by direction")
        axes[0].legend(title="distance")
        lines(axes[1], analysis, gains, "gain: how much further from\nthe boundary the seed is, pixels")
        axes[1].axhline(0, color="black", linewidth=1)
        lines(axes[2], analysis, shares, "% of the seeds", 100)
        axes[2].set_ylim(0, 102)
    return figure


def calibration(analysis: Analysis) -> plt.Figure:
    """(c) Draw confidence F against the share of seeds with their pixel's label: reliability, pixels, by distance."""
    styles = {"confidence": ("mean $F$", PURPLE, "-o"), "calibration_error": ("calibration error", GREY, ":s")}
    styles["seed_has_label"] = ("share of seeds with the label", "0.2", "--D")
    with panels(3) as (figure, axes):
        for name, (part, colour) in (PARTS | {"all": ((0, len(DISTANCES)), "black")}).items():
            bins = analysis.reliability(*part)
            shares = bins["pixels"] / bins["pixels"].sum()
            common = bins[shares >= 1e-3]
            axes[0].plot(common["confidence"], common["rate"], "-o", color=colour, label=name, linewidth=2)
            axes[1].stairs(100 * shares, [*shares.index, 1], color=colour, linewidth=2)
        low = max(min(axes[0].get_xlim()[0], axes[0].get_ylim()[0]) - 0.03, 0)
        axes[0].plot([low, 1], [low, 1], color=GREY, linestyle="--")
        title = "share of seeds with the pixel's label\n(dashed: calibrated)"
        axes[0].set(xlim=(low, 1.01), ylim=(low, 1.01), xlabel="confidence $F$", title=title)
        axes[1].set(xlim=(0, 1.02), ylim=(0, None), xlabel="confidence $F$", title="% of the pixels by $F$")
        axes[1].legend(*axes[0].get_legend_handles_labels(), title="distance, here and on the left", loc="upper left")
        lines(axes[2], analysis, styles, "by distance")
        axes[2].set_ylim(0, 1.02)
    return figure


def repairs(analysis: Analysis) -> plt.Figure:
    """(d) Draw what fusion repaired and degraded, by distance and by class, in % of the pixels there."""
    styles = {"repaired": ("repaired", BLUE, "-o"), "degraded": ("degraded", ORANGE, "--s")}
    titles = "% of the pixels at that distance", "% of the pixels of the class"
    return distance_and_class(analysis, styles, titles, 100)


def bounds(analysis: Analysis) -> plt.Figure:
    """(f) Draw accuracy by distance and mIoU, of the predictions and of the oracles; the oracle seed by its reach."""
    styles = {"S_i": (TITLES["S_i"], BLUE, ":o"), "S_f": (TITLES["S_f"], GREEN, "-D")}
    styles["oracle confidence"] = ("oracle confidence", PURPLE, "--^")
    seed = {f"accuracy {ORACLE_SEEDS[0]}": (r"oracle seed within $\tau$/16", GREY, "--s")}
    scores = 100 * analysis.scores.loc["all", "miou"]
    with panels(2) as (figure, axes):
        right = {f"accuracy {name}": style for name, style in styles.items()} | seed
        lines(axes[0], analysis, right, "% of the pixels that are right", 100)
        axes[1].plot(
            SHARES, scores[list(ORACLE_SEEDS)], "--s", color=GREY, label="oracle seed within reach", linewidth=2
        )
        for name, (text, colour, dashes) in styles.items():
            axes[1].axhline(scores[name], linestyle=dashes[:-1], color=colour, label=text, linewidth=2)
        axes[1].set_xscale("log", base=2)
        axes[1].set_xticks(SHARES, [r"$\tau$/16", r"$\tau$/8", r"$\tau$/4", r"$\tau$/2", r"$\tau$"])
        axes[1].set(xlabel="how far a seed may be, along each axis", title="mIoU, %")
        axes[1].legend()
    return figure
