"""Curves of a training run, shares of classes, and forest plots: differences with their intervals."""

import re
from collections.abc import Mapping, Sequence

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import seaborn as sns

from ovenet_core.figures.images import BLUE, GREEN, ORANGE, PURPLE, TITLES
from ovenet_core.study import MIN_SEEDS, Claim

LINES = {  # column of the history: name, colour and dashes; each prediction keeps its own in every figure
    "loss": ("total", "0.2", "-"),
    "loss_initial": (r"$\mathcal{L}(S_i)$", BLUE, ":"),
    "loss_seed": (r"$\mathcal{L}(S_s)$", ORANGE, "--"),
    "loss_fused": (r"$\mathcal{L}(S_f)$", GREEN, "-"),
    "loss_confidence": (r"$\mathcal{L}_F$", PURPLE, "-."),
    "lr": ("learning rate", "0.2", "-"),
    "miou_initial": (TITLES["S_i"], BLUE, ":o"),
    "miou_seed": (TITLES["S_s"], ORANGE, "--s"),
    "miou_fused": (TITLES["S_f"], GREEN, "-D"),
}
PER_ROW = 50  # classes next to each other
SEED_COLOURS = {f"{MIN_SEEDS} seeds or more": "C0", "fewer: nothing is decided": "0.6"}


def training_curves(history: pd.DataFrame) -> plt.Figure:
    """Draw the loss and its terms, the learning rate, and validation mIoU of S_i, S_s and S_f by iteration.

    The history has a row per logged iteration: iteration, lr, loss, loss_*, and miou_* in [0, 1], NaN between
    validations. Columns that a network does not have may be missing.
    """
    history, window = history.set_index("iteration"), max(len(history) // 50, 1)
    losses = history.filter(regex="^loss").dropna(axis=1, how="all").rolling(window, min_periods=1).mean()
    if len(losses.columns) == 2:  # the total of one term is that term
        losses = losses.drop(columns="loss", errors="ignore")
    with sns.axes_style("whitegrid"), sns.plotting_context("talk", font_scale=0.9):
        figure, axes = plt.subplots(1, 3, figsize=(20, 5.5), layout="constrained", width_ratios=[4, 3, 4])
        curves(axes[0], losses, f"loss (running mean of {window})" if window > 1 else "loss")
        axes[0].set_ylim(0, 1.3 * losses.max(axis=None))  # with room for the legend
        curves(axes[1], history[["lr"]], "learning rate")
        curves(axes[2], 100 * history.filter(regex="^miou"), "validation mIoU (%)")
    return figure


def curves(ax: plt.Axes, table: pd.DataFrame, title: str) -> None:
    """Draw each column of the table that has values against the iteration, as `LINES` says or under its own name."""
    for column in [*(c for c in LINES if c in table), *table.columns.difference(list(LINES))]:
        values, (name, colour, dashes) = table[column].dropna(), LINES.get(column, (column, None, "-"))
        if len(values):
            ax.plot(values, dashes, color=colour, label=name)
    ax.set(title=title, xlabel="iteration")
    if len(table.columns) > 1:
        ax.legend()


def class_shares(shares: pd.DataFrame) -> plt.Figure:
    """Draw the share of each class (row) in the labelled pixels of each split (column), on a logarithmic scale."""
    rows = [100 * shares.iloc[start : start + PER_ROW] for start in range(0, len(shares), PER_ROW)]
    figure, axes = plt.subplots(len(rows), figsize=(15, 5 * len(rows)), layout="constrained", squeeze=False)
    for ax, row in zip(axes[:, 0], rows, strict=True):
        points = row.reset_index().melt("class", var_name="split", value_name="pixels, %")
        points = points[points["pixels, %"] > 0]  # an absent class has no point
        options = {"order": row.index, "size": 10, "palette": "colorblind", "legend": ax is axes[0, 0]}
        sns.stripplot(points, x="class", y="pixels, %", hue="split", jitter=False, ax=ax, **options)
        ax.set(yscale="log", xlabel="")
        ax.yaxis.set_major_formatter("{x:g}")
        ax.grid(alpha=0.4)
        ax.tick_params("x", rotation=60 if len(shares) < PER_ROW else 90)
    return figure


def forest_plot(groups: Mapping[str, Sequence[Claim]]) -> plt.Figure:
    """Draw the estimates of mIoU with their 95% intervals, one panel for each group of claims, by its title.

    Claims (or parts of a gain) without an estimate are left out.
    """
    shown = [[c for c in g if c.metric == "miou" and not np.isnan(c.estimate.value)] for g in groups.values()]
    heights = [max(len(claims), 1) for claims in shown]
    size = {"figsize": (9, 2.5 + 0.45 * sum(heights)), "height_ratios": heights}
    figure, axes = plt.subplots(len(shown), layout="constrained", sharex=True, squeeze=False, **size)
    enough, few = SEED_COLOURS.values()
    for ax, title, claims in zip(axes[:, 0], groups, shown, strict=True):
        for place, claim in enumerate(claims):
            estimate, colour = claim.estimate, enough if claim.estimate.seeds >= MIN_SEEDS else few
            ax.plot([estimate.low, estimate.high], [place, place], color=colour, linewidth=3)
            ax.plot(estimate.value, place, "o", color=colour)
        ax.axvline(0, color="black", linewidth=1)
        labels = [claim.comparison or f"{claim.id} {claim.statement}" for claim in claims]
        ax.set_yticks(range(len(claims)), [re.sub(r"S_(\w)", r"$S_\1$", label) for label in labels])
        ax.set_title(title, loc="left", fontsize="medium")
        ax.invert_yaxis()
    for label, colour in SEED_COLOURS.items():
        axes[0, 0].plot([], "o-", color=colour, linewidth=3, label=label)
    figure.legend(loc="outside upper right", ncols=2, frameon=False)
    axes[-1, 0].set_xlabel("difference in mIoU, points, and 95% interval")
    sns.despine(figure, left=True)
    return figure
