"""Forest plots: differences with their intervals, one below the other."""

import re
from collections.abc import Mapping, Sequence

import matplotlib.pyplot as plt
import numpy as np
import seaborn as sns
from matplotlib.figure import Figure

from ovenet_core.study import MIN_SEEDS, Claim

COLOURS = {f"{MIN_SEEDS} seeds or more": "C0", "fewer: nothing is decided": "0.6"}


def forest_plot(groups: Mapping[str, Sequence[Claim]], metric: str = "miou", name: str = "mIoU") -> Figure:
    """Draw the estimates of one metric with their 95% intervals, one panel for each group of claims.

    Args:
        groups: claims or parts of a gain, by the title of their panel. Those without an estimate are left out.
        metric: of the claims that are drawn.
        name: of the metric.
    """
    shown = {
        title: [c for c in claims if c.metric == metric and not np.isnan(c.estimate.value)]
        for title, claims in groups.items()
    }
    heights = [max(len(claims), 1) for claims in shown.values()]
    size = {"figsize": (9, 2.5 + 0.45 * sum(heights)), "height_ratios": heights}
    figure, axes = plt.subplots(len(shown), layout="constrained", sharex=True, squeeze=False, **size)
    enough, few = COLOURS.values()
    for ax, (title, claims) in zip(axes[:, 0], shown.items(), strict=True):
        for place, claim in enumerate(claims):
            estimate, colour = claim.estimate, enough if claim.estimate.seeds >= MIN_SEEDS else few
            ax.plot([estimate.low, estimate.high], [place, place], color=colour, linewidth=3)
            ax.plot(estimate.value, place, "o", color=colour)
        ax.axvline(0, color="black", linewidth=1)
        labels = [claim.comparison or f"{claim.id} {claim.statement}" for claim in claims]
        ax.set_yticks(range(len(claims)), [re.sub(r"S_(\w)", r"$S_\1$", label) for label in labels])
        ax.set_title(title, loc="left", fontsize="medium")
        ax.invert_yaxis()
    for label, colour in COLOURS.items():
        axes[0, 0].plot([], "o-", color=colour, linewidth=3, label=label)
    figure.legend(loc="outside upper right", ncols=2, frameon=False)
    axes[-1, 0].set_xlabel(f"difference in {name}, points, and 95% interval")
    sns.despine(figure, left=True)
    return figure
