"""Curves of a training run, and shares of classes."""

import matplotlib.pyplot as plt
import pandas as pd
import seaborn as sns
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from ovenet_core.figures.images import BLUE, GREEN, ORANGE, PURPLE, TITLES

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


def training_curves(history: pd.DataFrame) -> Figure:
    """Draw the loss and its terms, the learning rate, and validation mIoU of S_i, S_s and S_f by iteration.

    Args:
        history: one row per logged iteration: iteration, lr, loss, loss_*, and miou_* in [0, 1], NaN between
            validations. Columns that a network does not have may be missing, such as the offsets of a baseline.
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


def curves(ax: Axes, table: pd.DataFrame, title: str) -> None:
    """Draw each column of the table that has values against the iteration, as `LINES` says or under its own name."""
    for column in [*(c for c in LINES if c in table), *table.columns.difference(list(LINES))]:
        values, (name, colour, dashes) = table[column].dropna(), LINES.get(column, (column, None, "-"))
        if len(values):
            ax.plot(values, dashes, color=colour, label=name)
    ax.set(title=title, xlabel="iteration")
    if len(table.columns) > 1:
        ax.legend()


def class_shares(shares: pd.DataFrame, per_row: int = 50) -> Figure:
    """Draw the share of each class (row) in the labelled pixels of each split (column), on a logarithmic scale.

    Args:
        per_row: classes next to each other.
    """
    table = 100 * shares
    rows = [table.iloc[start : start + per_row] for start in range(0, len(table), per_row)]
    figure, axes = plt.subplots(len(rows), figsize=(15, 5 * len(rows)), layout="constrained", squeeze=False)
    for ax, row in zip(axes[:, 0], rows, strict=True):
        points = row.reset_index().melt("class", var_name="split", value_name="pixels, %")
        points = points[points["pixels, %"] > 0]  # an absent class has no point
        options = {"order": row.index, "size": 10, "palette": "colorblind", "legend": ax is axes[0, 0]}
        sns.stripplot(points, x="class", y="pixels, %", hue="split", jitter=False, ax=ax, **options)
        ax.set(yscale="log", xlabel="")
        ax.yaxis.set_major_formatter("{x:g}")
        ax.grid(alpha=0.4)
        ax.tick_params("x", rotation=60 if len(table) < per_row else 90)
    return figure
