"""Paired differences between the systems of the study, with intervals, from the runs of one scale."""

import difflib
import json
import zlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property, lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from jaxtyping import Float

from ovenet_core.benchmarks import Benchmark, benchmark
from ovenet_core.boundaries import BANDS
from ovenet_core.collection import Collection, Run
from ovenet_core.evaluation import NEAR
from ovenet_core.experiments import SCALES, Experiment
from ovenet_core.inference import GRID
from ovenet_core.inspection import CAMERA_SIZES
from ovenet_core.metrics import ratio
from ovenet_core.offset_analysis import DISTANCES

DRAWS = 2000
ERRORS = 25  # of the mean over seeds, for each draw of pictures; each of them with both signs
FEWEST_BLOCKS = 5  # of neighbouring pictures in a draw
LEVEL = 0.95
PICTURES = "pictures.csv.gz"  # what 04_evaluation counted of each picture
OFFSETS = "offset_analysis.json"  # what 08_offset_analysis found

# Of each class its hits, the pixels of its label and those of its prediction: all that the scores here need of a
# confusion matrix, and a fiftieth of it for the 150 classes of ADE20K.
Tallies = Float[np.ndarray, "pictures 3 classes"]
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
    pairs: Sequence[tuple[Tallies, Tallies]],
    score: Score = miou,
    summary: Score = np.asarray,
    draws: int = DRAWS,
    seed: int = 0,
    alike: int = 1,
) -> Estimate:
    """The mean difference in a score over pairs of runs, with an interval over pictures and seeds.

    In each draw the same pictures are drawn for all runs, and to the mean over pairs errors are added that follow the
    t distribution of the mean of so few seeds (with several scores, the multivariate one): a bootstrap of three seeds
    would give too narrow an interval. With one pair nothing is known of seeds, and the interval is one over pictures.

    Args:
        pairs: for each seed, the tallies of each picture by the one system and by the other.
        score: of sums of them.
        summary: of the mean differences, where `score` gives several numbers.
        alike: how many neighbouring pictures are drawn together (`Benchmark.frames_alike`).
    """
    if not pairs:
        return Estimate()
    random = np.random.default_rng(seed)
    count = len(pairs[0][0])
    weights = _drawn(count, min(alike, max(count // FEWEST_BLOCKS, 1)), draws, random)
    exact, drawn = (
        np.array([_summed(one, w, score) - _summed(other, w, score) for one, other in pairs])
        for w in (np.ones((1, count)), weights)
    )
    noisy = drawn.mean(0)
    if len(pairs) > 1:
        errors = _error_of_mean(exact[:, 0], ERRORS * draws, random)
        noisy = np.concatenate([np.repeat(noisy, ERRORS, axis=0) + sign * errors for sign in (1, -1)])
    numbers = summary(noisy)
    if (numbers := numbers[~np.isnan(numbers)]).size == 0:  # of draws in which no picture has what is scored
        numbers = np.array([np.nan])
    low, high = np.quantile(numbers, [(1 - LEVEL) / 2, (1 + LEVEL) / 2])
    return Estimate(float(summary(exact.mean(0))[0]), float(low), float(high), len(pairs))


def _drawn(count: int, block: int, draws: int, random: np.random.Generator) -> Float[np.ndarray, "draws pictures"]:
    """How often each picture is in each draw of as many: a bootstrap of blocks of neighbours, where the last has the
    first for a neighbour (Politis and Romano, 1992); of single pictures where `block` is 1."""
    first = random.integers(count, size=(draws, -(-count // block), 1))
    taken = ((first + np.arange(block)) % count).reshape(draws, -1)[:, :count]
    return np.stack([np.bincount(row, minlength=count) for row in taken]).astype(float)


def _error_of_mean(values: np.ndarray, draws: int, random: np.random.Generator) -> np.ndarray:
    """Draws of the error of the mean of a few values (seeds, or seeds x scores; two or more), after Student."""
    count = len(values)
    normal = random.standard_normal((draws, count)) / np.sqrt(count * (count - 1))
    scale = np.sqrt(random.chisquare(count - 1, draws) / (count - 1))
    return (normal / scale[:, None]) @ (values - values.mean(0))


def _summed(tallies: Tallies, weights: Float[np.ndarray, "draws pictures"], score: Score) -> np.ndarray:
    """The score of each draw; a class of the labels that a draw happens to lack is in none of its scores."""
    sums = (weights @ tallies.reshape(len(tallies), -1)).reshape(-1, *tallies.shape[1:])
    labels, predictions = sums[:, 1], sums[:, 2]
    predictions[(labels == 0) & tallies[:, 1].any(0)] = 0
    return score(sums)


def over_seeds(values: Sequence[float]) -> Estimate:
    """The mean of one number of each seed, with the t interval of the mean where there are two seeds or more."""
    if len(values) < 2:
        return Estimate(*values, seeds=len(values))
    # Of eleven seeds or more the interval is that of eleven: rather too wide than too narrow.
    t = {2: 12.706, 3: 4.303, 4: 3.182, 5: 2.776, 6: 2.571, 7: 2.447, 8: 2.365, 9: 2.306, 10: 2.262}
    half = t.get(len(values), 2.228) * np.std(values, ddof=1) / len(values) ** 0.5
    mean = float(np.mean(values))
    return Estimate(mean, float(mean - half), float(mean + half), len(values))


def between(least: Sequence[float], most: Sequence[float]) -> Estimate:
    """`over_seeds` of numbers of which only the least and the most are known: the middle, in both intervals."""
    low, high = over_seeds(least), over_seeds(most)
    return Estimate((low.value + high.value) / 2, low.low, high.high, low.seeds)


# -- Runs with what was counted of each picture


@dataclass(frozen=True)
class Study:
    """The runs of one scale, with the scores of each picture (`04_evaluation`) and offsets (`08_offset_analysis`)."""

    scale: str
    found: Collection

    def __post_init__(self):
        if self.scale not in SCALES:
            near = difflib.get_close_matches(self.scale, list(SCALES), n=1, cutoff=0)[0]
            raise ValueError(f"scale is {self.scale!r}; expected one of {', '.join(SCALES)}; did you mean {near!r}?")

    @cached_property
    def data(self) -> Benchmark:
        return benchmark(SCALES[self.scale][0].benchmark)

    def runs(self, variant: str) -> dict[int, Run]:
        """The counted runs of a variant, by seed."""
        return self.found.by_preset.get(f"{self.scale}/{variant}", {})

    def having(self, variant: str, file: str = PICTURES) -> dict[int, Run]:
        """Those of them that have a file, by default the one of `04_evaluation`."""
        return {seed: run for seed, run in self.runs(variant).items() if (run.folder / file).exists()}

    def tallies(self, run: Run, output: str = "", pixels: str = "pixels") -> tuple[list[str], Tallies]:
        """Names of pictures, and the tallies of an output, by default the answer: of all pixels, `near` or `far`.

        Nothing of an output that the file has not, or where there is no file.

        Raises:
            ValueError: they are not those of the run's own scores, but of other weights, another split or other scales.
        """
        output = output or run.answer
        path = run.folder / PICTURES
        every = {}
        if path.exists():
            with readable(path, "04_evaluation"):
                every = _tallies(path, path.stat().st_mtime_ns, self.data.num_classes)
        names, made = every.get((output, pixels), ([], np.zeros((0, 3, self.data.num_classes))))
        if names and pixels == "pixels":
            found, own = float(miou(made.sum(0, keepdims=True))[0]), run.score("miou", output=output)
            if not abs(found - own) < 0.1:  # points; another device or precision changes single pixels
                raise ValueError(
                    f"{run.folder / PICTURES}: mIoU of {output} {found:.2f}%, in result.json {own:.2f}%; "
                    "run 04_evaluation of this run again, at one scale, on the split of result.json"
                )
        return names, made

    def pairs(
        self, one: str, other: str, outputs: tuple[str, str] = ("", ""), pixels: str = "pixels"
    ) -> dict[int, tuple[Tallies, Tallies]]:
        """By seed, the tallies of two variants' runs that were scored on the same pictures, these in the same order."""
        ours, theirs = self.runs(one), self.runs(other)
        made = {}
        for seed in sorted(ours.keys() & theirs.keys()):
            names, one_made = self.tallies(ours[seed], outputs[0], pixels)
            other_names, other_made = self.tallies(theirs[seed], outputs[1], pixels)
            if names and names == other_names:
                made[seed] = one_made, other_made
        return made

    def difference(
        self, one: str, other: str, outputs: tuple[str, str] = ("", ""), pixels: str = "pixels", score: Score = miou
    ) -> Estimate:
        """`paired_difference` of two variants, or of two outputs of one."""
        return self.over([*self.pairs(one, other, outputs, pixels).values()], score)

    def over(self, pairs: Sequence[tuple[Tallies, Tallies]], score: Score, summary: Score = np.asarray) -> Estimate:
        """`paired_difference` of pairs of runs on this scale's pictures."""
        return paired_difference(pairs, score, summary, alike=self.data.frames_alike)

    def analyses(self, variant: str = "ovenet", near: int = NEAR) -> dict[int, dict[str, Any]]:
        """By seed, what `08_offset_analysis` found of the runs of a variant: the row of all pixels, by name.

        Beside it the same of the pixels within `near` of a boundary, one of `BANDS` (`near_…`), and the share of such
        pixels (`near_share`); `f_right` and `f_wrong`, the mean of F where the seed has the pixel's label and where it
        has not, each as (least, most); `f_wrong_by_distance`, what the latter would be if F were alike for all pixels
        of a band of distance; and `cell`, the side of a cell of the network's grid in pixels of the label. NaN where no
        pixel has the number.
        """
        rows = {}
        for seed, run in self.having(variant, OFFSETS).items():
            path = run.folder / OFFSETS
            with readable(path, "08_offset_analysis"):
                split = (analysis := json.loads(path.read_text())).get("split")
            if split != run.result["split"]:
                raise ValueError(
                    f"{path}: of the split {split!r}, the run's is {run.result['split']!r}; run "
                    "08_offset_analysis on that split again"
                )
            with readable(path, "08_offset_analysis"):
                found = analysis["offset_analysis"]
                table = [row for row in found["table"] if row["condition"] == "all"]
                row = next(row for row in table if row["by"] == "all") | _by_distance(table, near)
                row |= _confidence_by_truth(row, found["reliability"]) | {"cell": _cell(run.experiment)}
                rows[seed] = {name: np.nan if value is None else value for name, value in row.items()}
        return rows


@contextmanager
def readable(path: Path, notebook: str) -> Iterator[None]:
    """ValueError with the file and the remedy, where what a notebook left cannot be read."""
    try:
        yield
    except (OSError, EOFError, zlib.error, LookupError, StopIteration, AttributeError, TypeError, ValueError) as error:
        raise ValueError(
            f"{path}: damaged, or of another data set ({error!r}); run {notebook} of this run again"
        ) from error


def _by_distance(table: Sequence[Mapping[str, Any]], within: int) -> dict[str, float]:
    """Means over bands of distance: of those `within` pixels of a boundary; and, of all, of F at wrong seeds."""
    bands = [row for row in table if row["by"] == "distance" and row["pixels"]]
    near = [row for row in bands if row["group"] in DISTANCES[: BANDS.index(within) + 1]]
    wrong = [
        row | {"pixels": row["pixels"] * (1 - row["seed_has_label"])}
        for row in bands
        if row["seed_has_label"] is not None
    ]

    def mean(name: str, rows: Sequence[Mapping[str, Any]]) -> float:
        """Over the bands that have the number, weighed by their pixels."""
        values, pixels = (np.array([row[key] for row in rows], float) for key in (name, "pixels"))
        known = ~np.isnan(values)
        return float(ratio(pixels[known] @ values[known], pixels[known].sum()))

    names, rate = ("length_median", "seed_deeper", "random_deeper", "brier"), mean("seed_has_label", near)
    share = ratio(sum(row["pixels"] for row in near), sum(row["pixels"] for row in bands))
    return {f"near_{name}": mean(name, near) for name in names} | {
        "near_brier_of_rate": rate * (1 - rate),
        "near_share": float(share),
        "f_wrong_by_distance": mean("confidence", wrong),
    }


def _confidence_by_truth(
    row: Mapping[str, Any], reliability: Sequence[Mapping[str, Any]]
) -> dict[str, tuple[float, float]]:
    """The mean of F over the pixels whose seed has their label, and over the others: the least and the most it may be.

    Older files have neither, but the Brier score, which is the mean of F² - 2 F s + s (s is 1 where the seed has the
    pixel's label), and bins of F. These bound the sum of F², and so that of F s: F is spread least in a bin where all
    have its mean, most where all are at its ends.
    """
    if "f_wrong" in row:
        return {name: (np.nan if row[name] is None else row[name],) * 2 for name in ("f_right", "f_wrong")}
    pixels, f, rate = (np.array([b[name] or 0 for b in reliability]) for name in ("pixels", "confidence", "rate"))
    low, high = np.arange(len(f)) / len(f), np.arange(1, len(f) + 1) / len(f)
    squares = np.array([pixels @ f**2, pixels @ (f * (low + high) - low * high)])
    count, right = pixels.sum(), pixels @ rate
    of_right = (squares + right - (row["brier"] or 0) * count) / 2
    return {
        "f_right": tuple(ratio(of_right, np.full(2, right))),
        "f_wrong": tuple(ratio(pixels @ f - of_right, np.full(2, count - right)))[::-1],
    }


def _cell(experiment: Experiment) -> float:
    if experiment.picture_size is None:
        return GRID
    height, _ = CAMERA_SIZES.get(experiment.benchmark, (np.nan, np.nan))  # of other cameras it is not known here
    return GRID * height / experiment.picture_size[0]


@lru_cache(maxsize=512)
def _tallies(path: Path, changed: int, classes: int) -> dict[tuple[str, str], tuple[list[str], Tallies]]:
    """By output and pixels, the names and tallies of a file: read once as long as it is not changed; not to be written
    to. The names are sorted."""
    counts = pd.read_csv(path, dtype={"picture": str}, keep_default_na=False)  # a name may be 001, or NA
    counts["far"] = counts["pixels"] - counts["near"]
    made = {}
    for output, rows in counts.groupby("output"):
        pictures, names = pd.factorize(rows["picture"], sort=True)
        label, prediction = rows["label"].to_numpy(), rows["prediction"].to_numpy()
        hit = label == prediction
        for pixels in ("pixels", "near", "far"):
            number, tallies = rows[pixels].to_numpy(float), np.zeros((len(names), 3, classes))
            np.add.at(tallies[:, 0], (pictures[hit], label[hit]), number[hit])
            np.add.at(tallies[:, 1], (pictures, label), number)
            np.add.at(tallies[:, 2], (pictures, prediction), number)
            made[output, pixels] = list(names), tallies
    return made
