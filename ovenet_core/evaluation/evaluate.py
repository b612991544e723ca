"""Evaluation of a split: every score by which its dataset is known, overall, by condition and by image."""

import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cached_property
from typing import NamedTuple

import cv2
import numpy as np
import pandas as pd
import torch
from jaxtyping import Float, Integer, UInt8
from torch import Tensor
from tqdm.auto import tqdm

from ovenet_core import utils
from ovenet_core.data import Sample, SegmentationDataset
from ovenet_core.evaluation import metrics
from ovenet_core.evaluation.boundary_metrics import BANDS, BoundaryCounts, BoundaryScores, LabelBoundaries
from ovenet_core.utils import ConfigError, DataError, right_name

NEAR_PIXELS = 4  # a pixel nearer to a label boundary counts as near it
Read = Callable[[Sample], Mapping[str, np.ndarray | Tensor]]


@dataclass(frozen=True)
class Counts:
    """What is counted in one or more images; counts of images add up.

    Attributes:
        instances: as from `metrics.instance_shares`; None without instances.
        boundaries: None if they were not asked for.
    """

    confusion: Integer[np.ndarray, "label prediction"]
    instances: Float[np.ndarray, "3 classes"] | None = None
    boundaries: BoundaryCounts | None = None

    def __add__(self, other: "Counts") -> "Counts":
        return Counts(
            self.confusion + other.confusion,
            None if self.instances is None else self.instances + other.instances,
            None if self.boundaries is None else self.boundaries + other.boundaries,
        )

    def __radd__(self, zero: int) -> "Counts":
        return self  # so that `sum` adds them up


class ImageScores(NamedTuple):
    """Scores of one image; its mIoU is over the classes that occur in its label or in its prediction.

    Attributes:
        pairs: (label, prediction, pixels, pixels within `NEAR_PIXELS` of a label boundary) of the pairs of train ids
            that occur; empty without boundaries.
    """

    name: str
    miou: float
    pixel_accuracy: float
    pairs: tuple[tuple[int, int, int, int], ...] = ()

    @classmethod
    def of(cls, name: str, counts: Counts) -> "ImageScores":
        """Score the counts of one image."""
        scores, pairs = metrics.Scores(counts.confusion.astype(np.float64)), ()
        if counts.boundaries is not None:
            occurring = np.nonzero(counts.confusion)
            near = counts.boundaries.trimap[BANDS.index(NEAR_PIXELS)]
            pairs = zip(*(a.tolist() for a in (*occurring, counts.confusion[occurring], near[occurring])), strict=True)
        return cls(name, scores.miou, scores.pixel_accuracy, tuple(pairs))

    def as_dict(self) -> dict:
        """Return the scores for evaluation.json; None where no pixel has a label."""
        return {
            "name": self.name,
            "miou": metrics.none_if_nan(self.miou),
            "pixel_accuracy": metrics.none_if_nan(self.pixel_accuracy),
        }


@dataclass(frozen=True)
class Evaluation:
    """The scores of one output (S_i, S_s or S_f) over labelled images, all in [0, 1].

    Attributes:
        conditions: the same for the images of each condition (fog, dusk, …), where the dataset has conditions.
        images: scores of each image, in the order of the samples.
    """

    dataset: SegmentationDataset
    counts: Counts
    conditions: Mapping[str, "Evaluation"] = field(default_factory=dict)
    images: tuple[ImageScores, ...] = ()

    @classmethod
    def from_counts(
        cls, dataset: SegmentationDataset, counts: Mapping[str | None, Counts], images: Sequence[ImageScores] = ()
    ) -> "Evaluation":
        """Score the counts of each condition (None: of images without one), and their sum."""
        known = [c for c in dict.fromkeys((*dataset.conditions, *counts)) if c in counts and c is not None]
        return cls(dataset, sum(counts.values()), {c: cls(dataset, counts[c]) for c in known}, tuple(images))

    @cached_property
    def scores(self) -> metrics.Scores:
        """IoU and accuracies of classes."""
        return metrics.Scores(self.counts.confusion.astype(np.float64))

    @property
    def category_iou(self) -> dict[str, float]:
        """IoU by category; empty for a dataset without categories."""
        if self.dataset.categories is None:
            return {}
        names, groups = metrics.group_matrix(self.dataset.categories)
        return dict(zip(names, self.scores.grouped(groups).iou.tolist(), strict=True))

    @property
    def instance_iou(self) -> dict[str, float]:
        """iIoU by class that has instances; empty where instances are not given."""
        return self._instance_iou(0, self.dataset.class_names)

    @property
    def category_instance_iou(self) -> dict[str, float]:
        """iIoU by category whose classes all have instances; empty where instances are not given."""
        return self._instance_iou(1, self.dataset.categories)

    def _instance_iou(self, row: int, group_of_class: Sequence[str] | None) -> dict[str, float]:
        if self.counts.instances is None:
            return {}
        names, groups = metrics.group_matrix(group_of_class)
        sizes = np.array([self.dataset.instance_sizes.get(name, np.nan) for name in self.dataset.class_names])
        iou = metrics.instance_iou(self.scores, self.counts.instances[row], self.counts.instances[2], sizes, groups)
        return {name: float(i) for name, i, group in zip(names, iou, groups, strict=True) if sizes[group].min() > 0}

    @cached_property
    def boundaries(self) -> BoundaryScores | None:
        return None if self.counts.boundaries is None else BoundaryScores(self.counts.boundaries)

    def ranked(self) -> list[ImageScores]:
        """Sort the images that have a label from the lowest to the highest mIoU, equal ones by name."""
        valid = [image for image in self.images if not np.isnan(image.miou)]
        return sorted(valid, key=lambda image: (image.miou, image.name))

    def as_dict(self) -> dict:
        """Return means, and values by name, for result.json; None where there are none. Images are left out."""
        result = self.scores.as_dict(self.dataset.class_names)
        for score in ("category_iou", "instance_iou", "category_instance_iou"):
            if values := getattr(self, score):
                result |= metrics.with_mean(score, list(values), np.array(list(values.values())))
        if self.boundaries is not None:
            result["boundaries"] = self.boundaries.as_dict(self.dataset.class_names)
        if self.conditions:
            result["conditions"] = {name: evaluation.as_dict() for name, evaluation in self.conditions.items()}
        return result


def score_table(results: Mapping[str, Mapping], by: str = "mean") -> pd.DataFrame:
    """Tabulate the scores of several outputs (or conditions), in %; NaN where an output has none.

    Args:
        results: by output, the scores as in `Evaluation.as_dict` and in result.json.
        by: the rows. "mean": the means. "class" and "category": with columns (score, output). "instance": iIoU of the
            classes that have instances. "condition": mIoU. "distance": mIoU within d pixels of a label boundary.

    Returns:
        A column for each output; no rows where the dataset has no such groups.
    """

    tables = {output: _tables({**scores, **scores.get("boundaries", {})}) for output, scores in results.items()}
    named = next(iter(tables.values()))
    if by not in named:
        raise ConfigError("by", repr(by), right_name(by, named), "correct the name")
    columns = {(score, output): table[by][score] for score in named[by] for output, table in tables.items()}
    table = 100 * pd.DataFrame(columns, dtype=float).dropna(axis=1, how="all")
    return table if by in ("class", "category") else table.droplevel(0, axis=1)


def _tables(scores: Mapping) -> dict[str, dict[str, Mapping]]:
    """Arrange the scores as {kind of rows: {score: {row: value}}}."""
    by_name = lambda *names: {name: scores.get(name, {}) for name in names}  # noqa: E731
    return {
        "mean": {"": {name: value for name, value in scores.items() if not isinstance(value, Mapping)}},
        "class": by_name("iou", "boundary_iou", "boundary_f"),
        "category": by_name("category_iou", "category_instance_iou"),
        "instance": by_name("instance_iou"),
        "condition": {"miou": {name: part["miou"] for name, part in scores.get("conditions", {}).items()}},
        "distance": {"miou": {int(d): band["miou"] for d, band in scores.get("trimap", {}).items()}},
    }


def evaluate(
    dataset: SegmentationDataset,
    samples: Sequence[Sample],
    read: Read,
    *,
    boundaries: bool = True,
    workers: int | None = None,
    progress: bool = True,
) -> dict[str, Evaluation]:
    """Score predictions over labelled samples, at the size of the labels; ignored pixels do not count.

    Where several processes run together, each counts its share of the samples, and all get the scores of all.

    Args:
        read: gives the predicted train ids of a sample by output, such as "S_i", "S_s", "S_f"; at its label's size.
        boundaries: also score boundaries, which takes most of the time.
        workers: threads that read and count images; by default one for each core. With 1, `read` is called here.

    Returns:
        An evaluation for each output. Instance scores are there if all samples have their instances.

    Raises:
        DataError: naming the sample: its label is withheld or cannot be read, a prediction has another size or
            classes that do not exist, its outputs differ from those of the first sample; or there are no samples.
    """
    if not samples:
        raise DataError(dataset.name, "no samples to score", "one or more", "choose another split")
    with_instances = bool(dataset.instance_classes and dataset.categories) and all(s.instances for s in samples)

    def count(sample: Sample) -> dict[str, Counts]:
        return count_image(dataset, sample, read(sample), boundaries=boundaries, instances=with_instances)

    mine = samples[utils.rank() :: utils.world_size()]
    sums: dict[str, dict[str | None, Counts]] = {}
    images: dict[str, list[ImageScores]] = {}
    with _thread_map(workers or os.cpu_count() or 1) as map_:
        counted = tqdm(map_(count, mine), "scoring", len(mine), unit="image", disable=not progress)
        for sample, outputs in zip(mine, counted, strict=True):
            if sums and outputs.keys() != sums.keys():
                expected = f"{', '.join(sums)} as for the images before"
                raise DataError(sample.name, f"predictions {', '.join(outputs)}", expected, "predict it again")
            for output, counts in outputs.items():
                of_output = sums.setdefault(output, {})
                of_output[sample.condition] = of_output.get(sample.condition, 0) + counts
                images.setdefault(output, []).append(ImageScores.of(sample.name, counts))
    parts = utils.all_gather((sums, images))
    evaluations = {}
    for output in parts[0][1]:
        counts, ordered = {}, [None] * len(samples)
        for rank, (theirs, scored) in enumerate(parts):
            ordered[rank :: len(parts)] = scored.get(output, ())
            for condition, more in theirs.get(output, {}).items():
                counts[condition] = counts.get(condition, 0) + more
        evaluations[output] = Evaluation.from_counts(dataset, counts, ordered)
    return evaluations


def image_counts(evaluations: Mapping[str, Evaluation]) -> pd.DataFrame:
    """Tabulate the confusion matrix of every image: what a bootstrap over images draws from.

    Returns:
        A row for each output ("S_i", …), image, label and prediction (train ids) that occur together, with their
        `pixels`, and how many of these are `near`: within `NEAR_PIXELS` of a label boundary.
    """
    rows = [(output, i.name, *pair) for output, e in evaluations.items() for i in e.images for pair in i.pairs]
    return pd.DataFrame(rows, columns=["output", "image", "label", "prediction", "pixels", "near"])


@contextmanager
def _thread_map(workers: int) -> Iterator[Callable]:
    """Give `map`, by threads if there are to be several; OpenCV's own threads would get in their way."""
    if workers == 1:
        yield map
        return
    threads = cv2.getNumThreads()
    cv2.setNumThreads(1)
    try:
        with ThreadPoolExecutor(workers) as pool:
            yield pool.map
    finally:
        cv2.setNumThreads(threads)


def count_image(
    dataset: SegmentationDataset,
    sample: Sample,
    predictions: Mapping[str, np.ndarray | Tensor],
    *,
    boundaries: bool,
    instances: bool,
) -> dict[str, Counts]:
    """Count each output for one image; `DataError` as `evaluate`."""
    label = dataset.read_label(sample)
    edges = LabelBoundaries(label, dataset.num_classes) if boundaries else None
    instance_ids = dataset.read_instances(sample) if instances else None
    groups = metrics.group_matrix(dataset.categories)[1] if instances else None
    counts = {}
    for output, prediction in predictions.items():
        ids = _checked(dataset, sample, output, prediction, label.shape)
        matrix = metrics.ConfusionMatrix(dataset.num_classes)
        matrix.update(torch.from_numpy(ids), torch.from_numpy(label))
        counts[output] = Counts(
            matrix.counts.numpy(),
            metrics.instance_shares(ids, instance_ids, dataset.lookup, groups) if instances else None,
            edges.count(ids) if boundaries else None,
        )
    return counts


def _checked(
    dataset: SegmentationDataset, sample: Sample, output: str, prediction: np.ndarray | Tensor, size: tuple[int, int]
) -> UInt8[np.ndarray, "height width"]:
    """Return a prediction as an array; `DataError` unless it has the size of the label and classes that exist."""
    ids = prediction.numpy(force=True) if isinstance(prediction, Tensor) else prediction
    where = f"{sample.name}, {output}"
    if ids.dtype != np.uint8 or ids.shape != size:
        found, expected = f"{ids.dtype} of shape {ids.shape}", f"uint8 of shape {size} as {sample.label}"
        raise DataError(where, found, expected, "predict at the size of the label")
    if ids.size and ids.max() >= dataset.num_classes:
        unknown = [c for c in np.unique(ids).tolist() if c >= dataset.num_classes]
        expected = f"train ids from 0 to {dataset.num_classes - 1} of {dataset.name}"
        raise DataError(where, f"classes {unknown}", expected, "predict with a network for this dataset")
    return np.ascontiguousarray(ids)
