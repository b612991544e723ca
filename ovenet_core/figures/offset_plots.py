"""Figures of what offsets and confidence do, from the tables of an `Analysis`. Each function draws a whole figure."""

from collections.abc import Mapping, Sequence
from contextlib import contextmanager

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import seaborn as sns
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from ovenet_core.figures.images import BLUE, GREEN, ORANGE, PURPLE, TITLES
from ovenet_core.study import DISTANCES, ORACLE_SEEDS, SHARES, Analysis

GREY = "0.45"
ACROSS = "distance from the nearest label boundary, pixels"
TICKS = tuple(name.replace("below ", "< ").replace(" to ", "–").replace(" or more", " +") for name in DISTANCES)
# From where to where in DISTANCES, and a colour: in each figure the same pixels look the same.
NEAR, MIDDLE, FAR = (0, 3), (3, 5), (5, 7)
PARTS = {"below 4 px": (NEAR, ORANGE), "4 to 16 px": (MIDDLE, GREEN), "16 px or more": (FAR, BLUE)}
MOST = 25  # classes in a figure


@contextmanager
def panels(columns: int, height: float = 4.6, widths: Sequence[float] | None = None):
    """A figure with a row of axes, in the style of all of these."""
    with sns.axes_style("whitegrid"), sns.plotting_context("notebook", font_scale=1.1):
        figure, axes = plt.subplots(1, columns, figsize=(16, height), layout="constrained", width_ratios=widths)
        yield figure, np.atleast_1d(axes)


def by_distance(analysis: Analysis, condition: str = "all") -> pd.DataFrame:
    return analysis.table.loc[condition].loc["distance"].loc[list(DISTANCES)]


def by_class(analysis: Analysis, condition: str = "all") -> pd.DataFrame:
    """Of many classes those with most pixels, in the order of the benchmark."""
    table = analysis.table.loc[condition].loc["class"]
    return table.loc[table.index.isin(table["pixels"].nlargest(MOST).index)]


def lines(ax: Axes, table: pd.DataFrame, columns: Mapping[str, tuple], title: str, scale: float = 1.0) -> None:
    """Columns of a table by distance: {column: (name, colour, dashes)}."""
    for column, (name, colour, dashes) in columns.items():
        ax.plot(range(len(table)), scale * table[column], dashes, color=colour, label=name, linewidth=2)
    ax.set_xticks(range(len(TICKS)), TICKS)
    ax.set(xlabel=ACROSS, title=title)
    ax.legend()


def bars(ax: Axes, table: pd.DataFrame, columns: Mapping[str, tuple], title: str, scale: float = 1.0) -> None:
    """Columns of a table as horizontal bars: {column: (name, colour)}; the first row on top."""
    height, rows = 0.8 / len(columns), np.arange(len(table))
    for place, (column, (name, colour)) in enumerate(columns.items()):
        middle = rows + height * (place - (len(columns) - 1) / 2)
        ax.barh(middle, scale * table[column], height, color=colour, label=name)
    ax.set_yticks(rows, table.index)
    ax.set(ylim=(len(table) - 0.4, -0.6), title=title)
    ax.grid(False, axis="y")
    ax.legend()


def lengths(analysis: Analysis) -> Figure:
    """(a) Length of the offsets, by distance and by class."""
    kinds = {"length_median": ("half of them are shorter", BLUE, "-o"), "length_90": ("90% are shorter", GREY, "--s")}
    classes = by_class(analysis)
    with panels(2, max(4.6, 0.36 * len(classes))) as (figure, axes):
        lines(axes[0], by_distance(analysis), kinds, "length of the offsets, pixels, by distance")
        axes[0].set_ylim(bottom=0)
        bars(axes[1], classes, {c: (n, colour) for c, (n, colour, _) in kinds.items()}, "by class of the pixel's label")
        axes[1].set_xlabel("length of the offsets, pixels")
    return figure


def directions(analysis: Analysis) -> Figure:
    """(b) Where the offsets point, and what they find there, against random directions."""
    table = by_distance(analysis)
    ours, random = ("offsets", BLUE, "-o"), ("random directions", GREY, "--s")
    with panels(3) as (figure, axes):
        for name, (part, colour) in PARTS.items():
            shares = 100 * analysis.angle_shares(*part)
            axes[0].plot(shares.index, shares, "-o", color=colour, label=name, linewidth=2)
        axes[0].axhline(100 / 18, color=GREY, linestyle="--", label="random directions")
        axes[0].set_xticks([0, 90, 180], ["0°\naway from\nboundary", "90°\nalong it", "180°\ntowards\nboundary"])
        axes[0].set(ylim=(0, None), title="% of the offsets by direction")
        axes[0].legend(title="distance")
        gains = {"seed_gain": ours, "random_gain": random}
        lines(axes[1], table, gains, "gain: how much further from\nthe boundary the seed is, pixels")
        axes[1].axhline(0, color="black", linewidth=1)
        deeper = {"seed_same": ("seed of the same class", BLUE, "-o")}
        deeper |= {"random_same": ("… random direction", GREY, "-s")}
        deeper |= {"seed_deeper": ("same class and deeper inside", BLUE, "--o")}
        deeper |= {"random_deeper": ("… random direction", GREY, "--s")}
        lines(axes[2], table, deeper, "% of the seeds", 100)
        axes[2].set_ylim(0, 102)
    return figure


def calibration(analysis: Analysis) -> Figure:
    """(c) Confidence F against how many seeds have their pixel's label: reliability, pixels, and by distance."""
    parts = PARTS | {"all": ((0, len(DISTANCES)), "black")}
    found = {name: analysis.reliability(*part) for name, (part, _) in parts.items()}
    with panels(3) as (figure, axes):
        for name, bins in found.items():
            shown = bins[bins["pixels"] >= 1e-3 * bins["pixels"].sum()]
            axes[0].plot(shown["confidence"], shown["rate"], "-o", color=parts[name][1], label=name, linewidth=2)
            shares = 100 * bins["pixels"] / bins["pixels"].sum()
            axes[1].stairs(shares, [*shares.index, 1], color=parts[name][1], linewidth=2)
        low = max(min(axes[0].get_xlim()[0], axes[0].get_ylim()[0]) - 0.03, 0)
        axes[0].plot([low, 1], [low, 1], color=GREY, linestyle="--")
        axes[0].set(xlim=(low, 1.01), ylim=(low, 1.01))
        axes[0].set_title("share of seeds with the pixel's label\n(dashed: calibrated)")
        axes[1].set(xlim=(0, 1.02), ylim=(0, None), title="% of the pixels by $F$")
        axes[1].legend(*axes[0].get_legend_handles_labels(), title="distance, here and on the left", loc="upper left")
        for ax in axes[:2]:
            ax.set_xlabel("confidence $F$")
        kinds = {"confidence": ("mean $F$", PURPLE, "-o"), "calibration_error": ("calibration error", GREY, ":s")}
        kinds |= {"seed_has_label": ("share of seeds with the label", "0.2", "--D")}
        lines(axes[2], by_distance(analysis), kinds, "by distance")
        axes[2].set_ylim(0, 1.02)
    return figure


def repairs(analysis: Analysis) -> Figure:
    """(d) What fusion repaired and degraded, by distance and by class, in % of the pixels there."""
    kinds = {"repaired": ("repaired", BLUE), "degraded": ("degraded", ORANGE)}
    classes = by_class(analysis)
    with panels(2, max(4.6, 0.36 * len(classes))) as (figure, axes):
        dashes = {"repaired": "-o", "degraded": "--s"}
        distances = {c: (*kind, dashes[c]) for c, kind in kinds.items()}
        lines(axes[0], by_distance(analysis), distances, "% of the pixels at that distance", 100)
        axes[0].set_ylim(bottom=0)
        bars(axes[1], classes, kinds, "% of the pixels of the class", 100)
    return figure


def bounds(analysis: Analysis, condition: str = "all") -> Figure:
    """(f) What is right by distance, and mIoU, of the predictions and of the bounds; the oracle seed by its reach."""
    kinds = {"S_i": (TITLES["S_i"], BLUE, ":o"), "S_f": (TITLES["S_f"], GREEN, "-D")}
    kinds |= {
        "oracle confidence": ("perfect $F$", PURPLE, "--^"),
        ORACLE_SEEDS[0]: (r"oracle seed within $\tau$/16", GREY, "--s"),
    }
    scores = 100 * analysis.scores.loc[condition, "miou"]
    with panels(2) as (figure, axes):
        table = by_distance(analysis, condition)
        right = {f"accuracy {name}": kind for name, kind in kinds.items()}
        lines(axes[0], table, right, "% of the pixels that are right", 100)
        axes[1].plot(
            SHARES, scores[list(ORACLE_SEEDS)], "--s", color=GREY, label="oracle seed within reach", linewidth=2
        )
        for name, (text, colour, dashes) in list(kinds.items())[:3]:
            axes[1].axhline(scores[name], linestyle=dashes[:-1], color=colour, label=text, linewidth=2)
        axes[1].set_xscale("log", base=2)
        axes[1].set_xticks(SHARES, [r"$\tau$/16", r"$\tau$/8", r"$\tau$/4", r"$\tau$/2", r"$\tau$"])
        axes[1].set(xlabel="how far a seed may be, along each axis", title="mIoU, %")
        axes[1].legend()
    return figure
