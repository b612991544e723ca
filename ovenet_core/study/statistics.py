"""Statistics."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float

from ovenet_core.evaluation import ratio

DRAWS = 2000
ERRORS = 25  # of the mean over seeds, for each draw of images; each of them with both signs
FEWEST_BLOCKS = 5  # of neighbouring images in a draw
LEVEL = 0.95

# Of each class its hits, the pixels of its label and those of its prediction: all that the scores here need of a
# confusion matrix, and a fiftieth of it for the 150 classes of ADE20K.
ClassCounts = Float[np.ndarray, "images 3 classes"]
Sums = Float[np.ndarray, "draws 3 classes"]
Score = Callable[[np.ndarray], np.ndarray]


# -- Differences


@dataclass(frozen=True)
class Estimate:
    """A number with its interval, and from how many seeds; NaN where there is none."""

    value: float = np.nan
    low: float = np.nan
    high: float = np.nan
    seeds: int = 0

    def __str__(self) -> str:
        if np.isnan(self.value):
            return "–"
        return f"{self.value:.2f} [{self.low:.2f}, {self.high:.2f}]" if self.low == self.low else f"{self.value:.2f}"


def class_iou(sums: Sums) -> Float[np.ndarray, "draws classes"]:
    """IoU in % of each class; NaN for one that does not occur."""
    hits, labels, predictions = np.moveaxis(sums, 1, 0)
    return 100 * ratio(hits, labels + predictions - hits)


def miou(sums: Sums) -> Float[np.ndarray, " draws"]:
    """mIoU in %, over the classes that occur."""
    return np.nanmean(class_iou(sums), axis=1)


def accuracy(sums: Sums) -> Float[np.ndarray, " draws"]:
    """Pixel accuracy in %."""
    hits, labels, _ = np.moveaxis(sums, 1, 0)
    return 100 * ratio(hits.sum(1), labels.sum(1))


def share_of_gains(gains: Float[np.ndarray, "draws classes"]) -> Float[np.ndarray, " draws"]:
    """The share, in %, of gains among the classes that differ; one that neither network finds says nothing."""
    return 100 * ratio((gains > 0).sum(1), ((gains > 0) | (gains < 0)).sum(1))


def paired_difference(
    pairs: Sequence[tuple[ClassCounts, ClassCounts]],
    score: Score = miou,
    summary: Score = np.asarray,
    draws: int = DRAWS,
    seed: int = 0,
    alike: int = 1,
) -> Estimate:
    """The mean difference in a score over pairs of runs, with an interval over images and seeds.

    In each draw the same images are drawn for all runs, and to the mean over pairs errors are added that follow the
    t distribution of the mean of so few seeds (with several scores, the multivariate one): a bootstrap of three seeds
    would give too narrow an interval. With one pair nothing is known of seeds, and the interval is one over images.

    Args:
        pairs: for each seed, the tallies of each image by the one system and by the other.
        score: of sums of them.
        summary: of the mean differences, where `score` gives several numbers.
        alike: how many neighbouring images are drawn together (`Benchmark.frames_alike`).
    """
    if not pairs:
        return Estimate()
    random = np.random.default_rng(seed)
    count = len(pairs[0][0])
    weights = block_bootstrap_weights(count, min(alike, max(count // FEWEST_BLOCKS, 1)), draws, random)
    exact, drawn = (
        np.array([_summed(one, w, score) - _summed(other, w, score) for one, other in pairs])
        for w in (np.ones((1, count)), weights)
    )
    noisy = drawn.mean(0)
    if len(pairs) > 1:
        errors = _error_of_mean(exact[:, 0], ERRORS * draws, random)
        noisy = np.concatenate([np.repeat(noisy, ERRORS, axis=0) + sign * errors for sign in (1, -1)])
    numbers = summary(noisy)
    if (numbers := numbers[~np.isnan(numbers)]).size == 0:  # of draws in which no image has what is scored
        numbers = np.array([np.nan])
    low, high = np.quantile(numbers, [(1 - LEVEL) / 2, (1 + LEVEL) / 2])
    return Estimate(float(summary(exact.mean(0))[0]), float(low), float(high), len(pairs))


def block_bootstrap_weights(
    count: int, block: int, draws: int, random: np.random.Generator
) -> Float[np.ndarray, "draws images"]:
    """How often each image is in each draw of as many: a bootstrap of blocks of neighbours, where the last has the
    first for a neighbour (Politis and Romano, 1992); of single images where `block` is 1."""
    first = random.integers(count, size=(draws, -(-count // block), 1))
    taken = ((first + np.arange(block)) % count).reshape(draws, -1)[:, :count]
    return np.stack([np.bincount(row, minlength=count) for row in taken]).astype(float)


def _error_of_mean(values: np.ndarray, draws: int, random: np.random.Generator) -> np.ndarray:
    """Draws of the error of the mean of a few values (seeds, or seeds x scores; two or more), after Student."""
    count = len(values)
    normal = random.standard_normal((draws, count)) / np.sqrt(count * (count - 1))
    scale = np.sqrt(random.chisquare(count - 1, draws) / (count - 1))
    return (normal / scale[:, None]) @ (values - values.mean(0))


def _summed(tallies: ClassCounts, weights: Float[np.ndarray, "draws images"], score: Score) -> np.ndarray:
    """The score of each draw; a class of the labels that a draw happens to lack is in none of its scores."""
    sums = (weights @ tallies.reshape(len(tallies), -1)).reshape(-1, *tallies.shape[1:])
    labels, predictions = sums[:, 1], sums[:, 2]
    predictions[(labels == 0) & tallies[:, 1].any(0)] = 0
    return score(sums)


def t_interval(values: Sequence[float]) -> Estimate:
    """The mean of one number of each seed, with the t interval of the mean where there are two seeds or more."""
    if len(values) < 2:
        return Estimate(*values, seeds=len(values))
    # Of eleven seeds or more the interval is that of eleven: rather too wide than too narrow.
    t = {2: 12.706, 3: 4.303, 4: 3.182, 5: 2.776, 6: 2.571, 7: 2.447, 8: 2.365, 9: 2.306, 10: 2.262}
    half = t.get(len(values), 2.228) * np.std(values, ddof=1) / len(values) ** 0.5
    mean = float(np.mean(values))
    return Estimate(mean, float(mean - half), float(mean + half), len(values))


def interval_hull(least: Sequence[float], most: Sequence[float]) -> Estimate:
    """`over_seeds` of numbers of which only the least and the most are known: the middle, in both intervals."""
    low, high = t_interval(least), t_interval(most)
    return Estimate((low.value + high.value) / 2, low.low, high.high, low.seeds)
