"""Paired differences between systems, with intervals over images and random seeds."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float
from scipy import stats

from ovenet_core.evaluation import class_iou, ratio

ERRORS_PER_DRAW = 25  # of the mean over seeds, for each draw of images; each error counts with both signs
MIN_BLOCKS = 5  # of neighbouring images in a draw
LEVEL = 0.95

# Per class: hits, pixels of the label, pixels of the prediction. The scores here need no more of a confusion matrix,
# and this is a fiftieth of it for the 150 classes of ADE20K.
ClassCounts = Float[np.ndarray, "images 3 classes"]
Pair = tuple[ClassCounts, ClassCounts]  # of two systems, on the same images
Sums = Float[np.ndarray, "draws 3 classes"]
Weights = Float[np.ndarray, "draws images"]
Score = Callable[[np.ndarray], np.ndarray]


@dataclass(frozen=True)
class Estimate:
    """A number with its interval and the number of seeds behind it; NaN where there is none."""

    value: float = np.nan
    low: float = np.nan
    high: float = np.nan
    seeds: int = 0

    def __str__(self) -> str:
        if np.isnan(self.value):
            return "–"
        return f"{self.value:.2f}" if np.isnan(self.low) else f"{self.value:.2f} [{self.low:.2f}, {self.high:.2f}]"


def iou_percent(sums: Sums) -> Float[np.ndarray, "draws classes"]:
    """Compute the IoU of each class in %; NaN for a class that does not occur."""
    return 100 * class_iou(*np.moveaxis(sums, 1, 0))


def miou(sums: Sums) -> Float[np.ndarray, " draws"]:
    """Compute the mIoU in %, over the classes that occur."""
    return np.nanmean(iou_percent(sums), axis=1)


def accuracy(sums: Sums) -> Float[np.ndarray, " draws"]:
    """Compute the pixel accuracy in %."""
    hits, labels, _ = np.moveaxis(sums, 1, 0)
    return 100 * ratio(hits.sum(1), labels.sum(1))


def share_of_gains(gains: Float[np.ndarray, "draws classes"]) -> Float[np.ndarray, " draws"]:
    """Compute the share of gains in %, among the classes whose score differs."""
    return 100 * ratio((gains > 0).sum(1), ((gains > 0) | (gains < 0)).sum(1))


def paired_difference(
    pairs: Sequence[Pair], score: Score = miou, summary: Score = np.asarray, block_length=1, draws=2000, seed=0
) -> Estimate:
    """Estimate the mean difference in a score over pairs of runs, one for each seed, with its interval.

    Each draw takes the same images for all runs. The mean over pairs then gets errors that follow the t distribution
    of the mean of so few seeds (for several scores, the multivariate one), because a bootstrap of three seeds would
    give too narrow an interval. One pair says nothing of other seeds: its interval is over images alone. `summary`
    makes one number of the mean differences, where `score` gives several.
    """
    if not pairs:
        return Estimate()
    random, count = np.random.default_rng(seed), len(pairs[0][0])
    weights = block_bootstrap_weights(count, min(block_length, max(count // MIN_BLOCKS, 1)), draws, random)
    exact, drawn = (
        np.array([_score_sums(one, w, score) - _score_sums(other, w, score) for one, other in pairs])
        for w in (np.ones((1, count)), weights)
    )
    differences = drawn.mean(0)
    if len(pairs) > 1:
        errors = _draw_errors_of_mean(exact[:, 0], ERRORS_PER_DRAW * draws, random)
        differences = np.repeat(differences, ERRORS_PER_DRAW, axis=0)
        differences = np.concatenate([differences + sign * errors for sign in (1, -1)])
    summaries = summary(differences)
    summaries = summaries[~np.isnan(summaries)]  # a draw may have no pixel to score
    low, high = np.quantile(summaries, [(1 - LEVEL) / 2, (1 + LEVEL) / 2]) if summaries.size else (np.nan, np.nan)
    return Estimate(float(summary(exact.mean(0))[0]), float(low), float(high), len(pairs))


def block_bootstrap_weights(count: int, block_length: int, draws: int, random: np.random.Generator) -> Weights:
    """Count how often each image is in each draw of the circular block bootstrap (Politis and Romano, 1992)."""
    first = random.integers(count, size=(draws, -(-count // block_length), 1))
    taken = ((first + np.arange(block_length)) % count).reshape(draws, -1)[:, :count]
    return np.stack([np.bincount(row, minlength=count) for row in taken]).astype(float)


def _draw_errors_of_mean(values: np.ndarray, draws: int, random: np.random.Generator) -> np.ndarray:
    """Draw errors of the mean of a few values (seeds, or seeds x scores; two or more), after Student."""
    count = len(values)
    normal = random.standard_normal((draws, count)) / np.sqrt(count * (count - 1))
    deviation = np.sqrt(random.chisquare(count - 1, draws) / (count - 1))
    return (normal / deviation[:, None]) @ (values - values.mean(0))


def _score_sums(counts: ClassCounts, weights: Weights, score: Score) -> np.ndarray:
    """Score each draw; a class of the labels that a draw happens to lack enters none of its scores."""
    sums = (weights @ counts.reshape(len(counts), -1)).reshape(-1, *counts.shape[1:])
    labels, predictions = sums[:, 1], sums[:, 2]
    predictions[(labels == 0) & counts[:, 1].any(0)] = 0
    return score(sums)


def t_interval(values: Sequence[float]) -> Estimate:
    """Estimate the mean of one number per seed, with its t interval where there are two seeds or more."""
    count = len(values)
    if count < 2:
        return Estimate(*values, seeds=count)
    half = stats.t.ppf((1 + LEVEL) / 2, count - 1) * np.std(values, ddof=1) / count**0.5
    mean = float(np.mean(values))
    return Estimate(mean, float(mean - half), float(mean + half), count)


def interval_hull(least: Sequence[float], most: Sequence[float]) -> Estimate:
    """Estimate a mean of which only bounds are known per seed: their middle, and the hull of both t intervals."""
    low, high = t_interval(least), t_interval(most)
    return Estimate((low.value + high.value) / 2, low.low, high.high, low.seeds)
