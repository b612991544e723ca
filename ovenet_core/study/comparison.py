"""Paired differences between the systems of the study, with intervals, from the runs of one scale."""

import difflib
import json
import zlib
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property, lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from ovenet_core.data import CAMERA_SIZES, SegmentationDataset, get_dataset
from ovenet_core.evaluation import BANDS, NEAR_PIXELS, OUTPUT_STRIDE, ratio
from ovenet_core.study.offset_analysis import DISTANCES
from ovenet_core.study.results import Run, RunSelection
from ovenet_core.study.statistics import ClassCounts, Estimate, Score, miou, paired_difference
from ovenet_core.training import PROTOCOLS, Experiment

IMAGE_COUNTS_FILE = "images.csv.gz"  # what 04_evaluation counted of each image
OFFSET_ANALYSIS_FILE = "offset_analysis.json"  # what 08_offset_analysis found


# -- Runs with what was counted of each image


@dataclass(frozen=True)
class Study:
    """The runs of one scale, with the scores of each image (`04_evaluation`) and offsets (`08_offset_analysis`)."""

    scale: str
    found: RunSelection

    def __post_init__(self):
        if self.scale not in PROTOCOLS:
            near = difflib.get_close_matches(self.scale, list(PROTOCOLS), n=1, cutoff=0)[0]
            raise ValueError(f"scale is {self.scale!r}; expected one of {', '.join(PROTOCOLS)}; did you mean {near!r}?")

    @cached_property
    def data(self) -> SegmentationDataset:
        return get_dataset(PROTOCOLS[self.scale][0].benchmark)

    def runs(self, variant: str) -> dict[int, Run]:
        """The counted runs of a variant, by seed."""
        return self.found.by_preset.get(f"{self.scale}/{variant}", {})

    def having(self, variant: str, file: str = IMAGE_COUNTS_FILE) -> dict[int, Run]:
        """Those of them that have a file, by default the one of `04_evaluation`."""
        return {seed: run for seed, run in self.runs(variant).items() if (run.folder / file).exists()}

    def tallies(self, run: Run, output: str = "", pixels: str = "pixels") -> tuple[list[str], ClassCounts]:
        """Names of images, and the tallies of an output, by default the answer: of all pixels, `near` or `far`.

        Nothing of an output that the file has not, or where there is no file.

        Raises:
            ValueError: they are not those of the run's own scores, but of other weights, another split or other scales.
        """
        output = output or run.answer
        path = run.folder / IMAGE_COUNTS_FILE
        every = {}
        if path.exists():
            with readable(path, "04_evaluation"):
                every = _tallies(path, path.stat().st_mtime_ns, self.data.num_classes)
        names, made = every.get((output, pixels), ([], np.zeros((0, 3, self.data.num_classes))))
        if names and pixels == "pixels":
            found, own = float(miou(made.sum(0, keepdims=True))[0]), run.score("miou", output=output)
            if not abs(found - own) < 0.1:  # points; another device or precision changes single pixels
                raise ValueError(
                    f"{run.folder / IMAGE_COUNTS_FILE}: mIoU of {output} {found:.2f}%, in result.json {own:.2f}%; "
                    "run 04_evaluation of this run again, at one scale, on the split of result.json"
                )
        return names, made

    def pairs(
        self, one: str, other: str, outputs: tuple[str, str] = ("", ""), pixels: str = "pixels"
    ) -> dict[int, tuple[ClassCounts, ClassCounts]]:
        """By seed, the tallies of two variants' runs that were scored on the same images, these in the same order."""
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

    def over(
        self, pairs: Sequence[tuple[ClassCounts, ClassCounts]], score: Score, summary: Score = np.asarray
    ) -> Estimate:
        """`paired_difference` of pairs of runs on this scale's images."""
        return paired_difference(pairs, score, summary, alike=self.data.frames_alike)

    def analyses(self, variant: str = "ovenet", near: int = NEAR_PIXELS) -> dict[int, dict[str, Any]]:
        """By seed, what `08_offset_analysis` found of the runs of a variant: the row of all pixels, by name.

        Beside it the same of the pixels within `near` of a boundary, one of `BANDS` (`near_…`), and the share of such
        pixels (`near_share`); `f_right` and `f_wrong`, the mean of F where the seed has the pixel's label and where it
        has not, each as (least, most); `f_wrong_by_distance`, what the latter would be if F were alike for all pixels
        of a band of distance; and `cell`, the side of a cell of the network's grid in pixels of the label. NaN where no
        pixel has the number.
        """
        rows = {}
        for seed, run in self.having(variant, OFFSET_ANALYSIS_FILE).items():
            path = run.folder / OFFSET_ANALYSIS_FILE
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
            f"{path}: damaged, or of another dataset ({error!r}); run {notebook} of this run again"
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
    if experiment.image_size is None:
        return OUTPUT_STRIDE
    height, _ = CAMERA_SIZES.get(experiment.benchmark, (np.nan, np.nan))  # of other cameras it is not known here
    return OUTPUT_STRIDE * height / experiment.image_size[0]


@lru_cache(maxsize=512)
def _tallies(path: Path, changed: int, classes: int) -> dict[tuple[str, str], tuple[list[str], ClassCounts]]:
    """By output and pixels, the names and tallies of a file: read once as long as it is not changed; not to be written
    to. The names are sorted."""
    counts = pd.read_csv(path, dtype={"image": str}, keep_default_na=False)  # a name may be 001, or NA
    counts["far"] = counts["pixels"] - counts["near"]
    made = {}
    for output, rows in counts.groupby("output"):
        images, names = pd.factorize(rows["image"], sort=True)
        label, prediction = rows["label"].to_numpy(), rows["prediction"].to_numpy()
        hit = label == prediction
        for pixels in ("pixels", "near", "far"):
            number, tallies = rows[pixels].to_numpy(float), np.zeros((len(names), 3, classes))
            np.add.at(tallies[:, 0], (images[hit], label[hit]), number[hit])
            np.add.at(tallies[:, 1], (images, label), number)
            np.add.at(tallies[:, 2], (images, prediction), number)
            made[output, pixels] = list(names), tallies
    return made
