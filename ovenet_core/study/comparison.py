"""Paired differences between the systems of the study, with intervals, from the runs of one protocol."""

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

from ovenet_core.data import SegmentationDataset, get_dataset
from ovenet_core.evaluation import BANDS, NEAR_PIXELS, ratio
from ovenet_core.layers import OUTPUT_STRIDE
from ovenet_core.study.offset_analysis import DISTANCES
from ovenet_core.study.results import IMAGE_COUNTS_FILE, OFFSET_ANALYSIS_FILE, Run, RunSelection
from ovenet_core.study.statistics import ClassCounts, Estimate, Score, miou, paired_difference
from ovenet_core.training import PROTOCOLS, Experiment
from ovenet_core.utils import ConfigError, RunError, right_name

EVALUATION_FILE = "evaluation.json"  # left by 04_evaluation: all scores
Pairs = dict[int, tuple[ClassCounts, ClassCounts]]


@dataclass(frozen=True)
class Study:
    """The runs of one protocol, with the counts of each image (`04_evaluation`) and offsets (`08_offset_analysis`)."""

    protocol: str
    selection: RunSelection

    def __post_init__(self):
        if self.protocol not in PROTOCOLS:
            expected = right_name(self.protocol, PROTOCOLS)
            raise ConfigError("protocol", repr(self.protocol), expected, "correct the name")

    @cached_property
    def dataset(self) -> SegmentationDataset:
        return get_dataset(PROTOCOLS[self.protocol][0].benchmark)

    def runs(self, variant: str) -> dict[int, Run]:
        """Return the counted runs of a variant, by seed."""
        return self.selection.by_preset.get(f"{self.protocol}/{variant}", {})

    def runs_with_file(self, variant: str, file: str = IMAGE_COUNTS_FILE) -> dict[int, Run]:
        """Return the counted runs of a variant whose folder has a file, by seed."""
        return {seed: run for seed, run in self.runs(variant).items() if (run.folder / file).exists()}

    def class_counts(self, run: Run, output: str = "", pixels: str = "pixels") -> tuple[list[str], ClassCounts]:
        """Return the names of images, and the class counts of an output: of all pixels, of the `near` or `far` ones.

        Both are empty where the file is not there or lacks the output. Without `output`, it is the final prediction.

        Raises:
            RunError: the file is damaged, or its mIoU is not the run's: other weights, another split, other scales.
        """
        output = output or run.final_output
        path = run.folder / IMAGE_COUNTS_FILE
        by_output = {}
        if path.exists():
            with readable(path, "04_evaluation"):
                by_output = _read_class_counts(path, path.stat().st_mtime_ns, self.dataset.num_classes)
        names, counts = by_output.get((output, pixels), ([], np.zeros((0, 3, self.dataset.num_classes))))
        if names and pixels == "pixels":
            counted, own = float(miou(counts.sum(0, keepdims=True))[0]), run.score("miou", output=output)
            if not abs(counted - own) < 0.1:  # points; another device or precision changes single pixels
                expected = f"{own:.2f}% as in result.json"
                fix = "run 04_evaluation of this run again, at one scale, on the split of result.json"
                raise RunError(path, f"mIoU of {output} {counted:.2f}%", expected, fix)
        return names, counts

    def pairs(self, one: str, other: str, outputs: tuple[str, str] = ("", ""), pixels: str = "pixels") -> Pairs:
        """Return by seed the class counts of two variants' runs that were scored on the same images."""
        ours, theirs = self.runs(one), self.runs(other)
        pairs = {}
        for seed in sorted(ours.keys() & theirs.keys()):
            names, counts = self.class_counts(ours[seed], outputs[0], pixels)
            other_names, other_counts = self.class_counts(theirs[seed], outputs[1], pixels)
            if names and names == other_names:
                pairs[seed] = counts, other_counts
        return pairs

    def pairs_near_and_far(self, one: str, other: str, outputs: tuple[str, str] = ("", "")) -> Pairs:
        """Return `pairs` with the counts near boundaries and those far away side by side, along the classes."""
        near, far = (self.pairs(one, other, outputs, pixels) for pixels in ("near", "far"))
        return {
            seed: tuple(np.concatenate(parts, axis=2) for parts in zip(near[seed], far[seed], strict=True))
            for seed in near
        }

    def difference(
        self, one: str, other: str, outputs: tuple[str, str] = ("", ""), pixels: str = "pixels", score: Score = miou
    ) -> Estimate:
        """Estimate the `paired_difference` of two variants, or of two outputs of one variant."""
        return self.estimate(self.pairs(one, other, outputs, pixels), score)

    def estimate(self, pairs: Pairs, score: Score, summary: Score = np.asarray) -> Estimate:
        """Estimate the `paired_difference` of pairs of runs on this protocol's images."""
        return paired_difference([*pairs.values()], score, summary, block_length=self.dataset.block_length)

    def analyses(self, variant: str = "ovenet", near: int = NEAR_PIXELS) -> dict[int, dict[str, Any]]:
        """Return by seed what `08_offset_analysis` found of the runs of a variant: its row of all pixels, by name.

        Further names: the same of the pixels within `near` of a boundary, one of `BANDS` (`near_…`); the share of such
        pixels (`near_share`); `f_right` and `f_wrong`, the mean of F where the seed has the pixel's label and where it
        has not, each as (least, most); `f_wrong_by_distance`, what the latter would be if F were the same for all
        pixels of a band of distance; `output_pixel`, the side of a pixel of the network's output in pixels of the
        label. NaN where no pixel has the number.

        Raises:
            RunError: the file is damaged, or of another split.
        """
        rows = {}
        for seed, run in self.runs_with_file(variant, OFFSET_ANALYSIS_FILE).items():
            path = run.folder / OFFSET_ANALYSIS_FILE
            with readable(path, "08_offset_analysis"):
                split = (analysis := json.loads(path.read_text())).get("split")
            if split != run.result["split"]:
                expected, fix = repr(run.result["split"]), "run 08_offset_analysis of this run again, on that split"
                raise RunError(path, f"the split {split!r}", expected, fix)
            with readable(path, "08_offset_analysis"):
                table = [row for row in analysis["offset_analysis"]["table"] if row["condition"] == "all"]
                whole, *_ = (row for row in table if row["by"] == "all")
                row = whole | _summarize_bands(table, near)
                row |= {name: tuple(row[name] or (np.nan, np.nan)) for name in ("f_right", "f_wrong")}
                row |= {"output_pixel": _output_pixel(run.experiment)}
                rows[seed] = {name: np.nan if value is None else value for name, value in row.items()}
        return rows


@contextmanager
def readable(path: Path, notebook: str) -> Iterator[None]:
    """Raise a RunError with the file and the remedy, where what a notebook left cannot be read."""
    try:
        yield
    except (OSError, EOFError, zlib.error, LookupError, AttributeError, TypeError, ValueError) as error:
        expected = f"a whole file of {notebook}, of the run's dataset"
        raise RunError(path, repr(error), expected, f"run {notebook} of this run again") from error


def _summarize_bands(table: Sequence[Mapping[str, Any]], within: int) -> dict[str, float]:
    """Average over the bands of distance `within` pixels of a boundary; and over all of them, F at wrong seeds."""
    bands = [row for row in table if row["by"] == "distance" and row["pixels"]]
    near = [row for row in bands if row["group"] in DISTANCES[: BANDS.index(within) + 1]]
    known = [row for row in bands if row["seed_has_label"] is not None]
    wrong = [row | {"pixels": row["pixels"] * (1 - row["seed_has_label"])} for row in known]

    def mean(name: str, rows: Sequence[Mapping[str, Any]]) -> float:
        """Average over the bands that have the number, weighted by their pixels."""
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


def _output_pixel(experiment: Experiment) -> float:
    """Return the side of a pixel of the network's output, in pixels of the label; NaN where no size is known."""
    if experiment.image_size is None:
        return OUTPUT_STRIDE
    height, _ = get_dataset(experiment.benchmark).image_size or (np.nan, np.nan)
    return OUTPUT_STRIDE * height / experiment.image_size[0]


@lru_cache(maxsize=512)
def _read_class_counts(path: Path, changed: int, classes: int) -> dict[tuple[str, str], tuple[list[str], ClassCounts]]:
    """Read a file of counts: by output and pixels, the sorted names of images and their class counts (not to be
    written to). A file is read again only when the time of its last change, `changed`, is another."""
    rows = pd.read_csv(path, dtype={"image": str}, keep_default_na=False)  # a name may be 001, or NA
    rows["far"] = rows["pixels"] - rows["near"]
    by_output = {}
    for output, group in rows.groupby("output"):
        images, names = pd.factorize(group["image"], sort=True)
        label, prediction = group["label"].to_numpy(), group["prediction"].to_numpy()
        hit = label == prediction
        for pixels in ("pixels", "near", "far"):
            number, counts = group[pixels].to_numpy(float), np.zeros((len(names), 3, classes))
            np.add.at(counts[:, 0], (images[hit], label[hit]), number[hit])
            np.add.at(counts[:, 1], (images, label), number)
            np.add.at(counts[:, 2], (images, prediction), number)
            by_output[output, pixels] = list(names), counts
    return by_output
