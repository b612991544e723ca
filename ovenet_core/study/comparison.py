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
from ovenet_core.study.statistics import ClassCounts, Estimate, Pair, Score, miou, paired_difference
from ovenet_core.training import PROTOCOLS
from ovenet_core.utils import ConfigError, RunError, right_name

EVALUATION_FILE = "evaluation.json"  # left by 04_evaluation: all scores
FINAL = ("", "")  # of two runs, the final predictions


@dataclass(frozen=True)
class Study:
    """The runs of one protocol, with the counts of each image (`04_evaluation`) and offsets (`08_offset_analysis`)."""

    protocol: str
    selection: RunSelection

    def __post_init__(self):
        if self.protocol not in PROTOCOLS:
            raise ConfigError("protocol", repr(self.protocol), right_name(self.protocol, PROTOCOLS), "correct the name")

    @cached_property
    def dataset(self) -> SegmentationDataset:
        return get_dataset(PROTOCOLS[self.protocol].benchmark)

    def runs(self, variant: str, file: str = "") -> dict[int, Run]:
        """Return the counted runs of a variant, by seed; with `file`, those whose folder has this file."""
        runs = self.selection.by_preset.get(f"{self.protocol}/{variant}", {})
        return {seed: run for seed, run in runs.items() if not file or (run.folder / file).exists()}

    def class_counts(self, run: Run, output: str = "", pixels: str = "pixels") -> tuple[list[str], ClassCounts]:
        """Return the names of images, and their class counts; both are empty where the file or the output is missing.

        Args:
            pixels: "pixels" for all, those "near" boundaries or "far", or "near, far": side by side along the classes.

        Raises:
            RunError: the file is damaged, or its mIoU is not the run's: other weights, another split, other scales.
        """
        output, path, by_output = output or run.final_output, run.folder / IMAGE_COUNTS_FILE, {}
        if path.exists():
            with readable(path, "04_evaluation"):
                by_output = _read_class_counts(path, path.stat().st_mtime_ns, self.dataset.num_classes)
        names, counts = by_output.get((output, pixels), ([], np.zeros((0, 3, self.dataset.num_classes))))
        if names and pixels == "pixels":
            counted, own = float(miou(counts.sum(0, keepdims=True))[0]), run.score("miou", output=output)
            if not abs(counted - own) < 0.1:  # points; another device or precision changes single pixels
                found, expected = f"mIoU of {output} {counted:.2f}%", f"{own:.2f}% as in result.json"
                fix = "run 04_evaluation of this run again, at one scale, on the split of result.json"
                raise RunError(path, found, expected, fix)
        return names, counts

    def pairs(self, one: str, other: str, outputs: tuple[str, str] = FINAL, pixels: str = "pixels") -> dict[int, Pair]:
        """Return by seed the class counts of two variants' runs that were scored on the same images."""
        ours, theirs = self.runs(one), self.runs(other)
        pairs = {}
        for seed in sorted(ours.keys() & theirs.keys()):
            names, counts = self.class_counts(ours[seed], outputs[0], pixels)
            other_names, other_counts = self.class_counts(theirs[seed], outputs[1], pixels)
            if names and names == other_names:
                pairs[seed] = counts, other_counts
        return pairs

    def estimate(self, pairs: Mapping[int, Pair], score: Score = miou, summary: Score = np.asarray) -> Estimate:
        """Estimate the `paired_difference` of pairs of runs on this protocol's images."""
        return paired_difference([*pairs.values()], score, summary, self.dataset.block_length)

    def analyses(self, near: int = NEAR_PIXELS) -> dict[int, dict[str, Any]]:
        """Return by seed what `08_offset_analysis` found of OVeNet's runs: its row of all pixels, by name.

        Further names: the same within `near` pixels of a boundary, one of `BANDS` (`near_…`); the share of such pixels
        (`near_share`); `f_right` and `f_wrong`, the mean of F where the seed has the pixel's label and where not, as
        (least, most); `f_wrong_by_distance`, the latter if F were the same for all pixels of a band of distance;
        `output_pixel`, the side of a pixel of the output in pixels of the label. NaN where no pixel has the number.
        A RunError names a file that is damaged, or of another split.
        """
        rows = {}
        for seed, run in self.runs("ovenet", OFFSET_ANALYSIS_FILE).items():
            path = run.folder / OFFSET_ANALYSIS_FILE
            with readable(path, "08_offset_analysis"):
                analysis = json.loads(path.read_text())
                if (split := analysis.get("split")) != (own := run.result["split"]):
                    fix = "run 08_offset_analysis of this run again, on that split"
                    raise RunError(path, f"the split {split!r}", repr(own), fix)
                table = [row for row in analysis["offset_analysis"]["table"] if row["condition"] == "all"]
                whole, *_ = (row for row in table if row["by"] == "all")
                row = whole | _summarize_bands(table, near)
                row |= {name: tuple(row[name] or (np.nan, np.nan)) for name in ("f_right", "f_wrong")}
                height, size = (self.dataset.image_size or (np.nan,))[0], run.experiment.image_size
                row["output_pixel"] = OUTPUT_STRIDE * (height / size[0] if isinstance(size, tuple) else 1)
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
    wrong = [r | {"pixels": r["pixels"] * (1 - rate)} for r in bands if (rate := r["seed_has_label"]) is not None]

    def mean(name: str, rows: Sequence[Mapping[str, Any]]) -> float:
        """Average over the bands that have the number, weighted by their pixels."""
        values, pixels = (np.array([row[key] for row in rows], float) for key in (name, "pixels"))
        known = ~np.isnan(values)
        return float(ratio(pixels[known] @ values[known], pixels[known].sum()))

    means = {f"near_{name}": mean(name, near) for name in ("length_median", "seed_deeper", "random_deeper", "brier")}
    rate, share = mean("seed_has_label", near), ratio(*(sum(row["pixels"] for row in part) for part in (near, bands)))
    of_bands = {"near_brier_of_rate": rate * (1 - rate), "near_share": float(share)}
    return means | of_bands | {"f_wrong_by_distance": mean("confidence", wrong)}


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
        both, hit = np.zeros((len(names), 3, 2 * classes)), label == prediction
        near, far = np.split(both, 2, axis=2)  # views: a class too many is an error
        for counts, number in ((near, group["near"].to_numpy(float)), (far, group["far"].to_numpy(float))):
            np.add.at(counts[:, 0], (images[hit], label[hit]), number[hit])
            np.add.at(counts[:, 1], (images, label), number)
            np.add.at(counts[:, 2], (images, prediction), number)
        parts = {"pixels": near + far, "near": near, "far": far, "near, far": both}
        by_output |= {(output, pixels): (list(names), counts) for pixels, counts in parts.items()}
    return by_output
