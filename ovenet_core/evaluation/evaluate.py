"""Evaluation of a split: every score by which its dataset is known, overall, by condition and by image."""

import os
from collections import defaultdict
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
from jaxtyping import Float, Integer
from torch import Tensor
from tqdm.auto import tqdm

from ovenet_core.data import Sample, SegmentationDataset
from ovenet_core.evaluation import metrics
from ovenet_core.evaluation.boundary_metrics import BANDS, BoundaryCounts, LabelBoundaries
from ovenet_core.utils import ConfigError, DataError, all_gather, rank, right_name, world_size

NEAR_PIXELS = 4  # a pixel nearer to a label boundary counts as near it
Predictions = Mapping[str, np.ndarray | Tensor]  # train ids by output


@dataclass(frozen=True)
class Counts:
    """What is counted in one or more images; counts of images add up. None is what was not asked for."""

    confusion: Integer[np.ndarray, "label prediction"]
    instances: Float[np.ndarray, "3 classes"] | None = None  # as from `metrics.instance_shares`
    boundaries: BoundaryCounts | None = None

    def __add__(self, other: "Counts") -> "Counts":
        parts = zip(vars(self).values(), vars(other).values(), strict=True)
        return Counts(*(None if ours is None else ours + theirs for ours, theirs in parts))

    def __radd__(self, zero: int) -> "Counts":
        return self  # so that `sum` adds them up


class ImageScores(NamedTuple):
    """Scores of one image; its mIoU is over the classes that occur in its label or in its prediction.

    `pairs` are (label, prediction, pixels, near) as in `image_counts`; none without boundaries.
    """

    name: str
    miou: float
    pixel_accuracy: float
    pairs: tuple[tuple[int, int, int, int], ...] = ()

    @classmethod
    def of(cls, name: str, counts: Counts) -> "ImageScores":
        """Score the counts of one image."""
        scores, pairs = metrics.Scores(counts.confusion), ()
        if counts.boundaries is not None:
            occurring = np.nonzero(counts.confusion)
            near = counts.boundaries.bands[BANDS.index(NEAR_PIXELS)]
            pairs = np.stack([*occurring, counts.confusion[occurring], near[occurring]], axis=1).tolist()
        return cls(name, scores.miou, scores.pixel_accuracy, tuple(map(tuple, pairs)))

    def as_dict(self) -> dict:
        """Return the scores for evaluation.json; None where no pixel has a label."""
        return {"name": self.name} | metrics.by_name(("miou", "pixel_accuracy"), (self.miou, self.pixel_accuracy))


@dataclass(frozen=True)
class Evaluation:
    """The scores of one output (S_i, S_s or S_f) over labelled images, all in [0, 1]."""

    dataset: SegmentationDataset
    counts: Counts
    conditions: Mapping[str, "Evaluation"] = field(default_factory=dict)  # of the images of each (fog, dusk, …)
    images: tuple[ImageScores, ...] = ()  # in the order of the samples

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
        return metrics.Scores(self.counts.confusion)

    @cached_property
    def group_scores(self) -> dict[str, dict[str, float]]:
        """By score, values by name: "category_iou" and iIoU, "instance_iou" and "category_instance_iou", where given.

        Only classes that have instances, and categories whose classes all have them, have iIoU.
        """
        data, shares, result = self.dataset, self.counts.instances, {}
        if data.categories is not None:
            names, groups = metrics.group_matrix(data.categories)
            result["category_iou"] = dict(zip(names, self.scores.grouped(groups).iou.tolist(), strict=True))
        if shares is not None:
            sizes = np.array([data.instance_sizes.get(name, np.nan) for name in data.class_names])
            kinds = ("instance_iou", data.class_names), ("category_instance_iou", data.categories)
            for (score, members), correct in zip(kinds, shares[:2], strict=True):
                names, groups = metrics.group_matrix(members)
                iou = metrics.instance_iou(self.scores, correct, shares[2], sizes, groups).tolist()
                result[score] = {n: i for n, i, group in zip(names, iou, groups, strict=True) if sizes[group].min() > 0}
        return {score: values for score, values in result.items() if values}

    def ranked(self) -> list[ImageScores]:
        """Sort the images that have a label from the lowest to the highest mIoU, equal ones by name."""
        return sorted((i for i in self.images if not np.isnan(i.miou)), key=lambda i: (i.miou, i.name))

    def as_dict(self) -> dict:
        """Return means, and values by name, for result.json; None where there are none. Images are left out."""
        result = self.scores.as_dict(self.dataset.class_names)
        for score, values in self.group_scores.items():
            result |= metrics.with_mean(score, list(values), np.array(list(values.values())))
        if self.counts.boundaries is not None:
            result["boundaries"] = self.counts.boundaries.as_dict(self.dataset.class_names)
        if self.conditions:
            result["conditions"] = {name: evaluation.as_dict() for name, evaluation in self.conditions.items()}
        return result


def score_table(results: Mapping[str, Mapping], by: str = "mean") -> pd.DataFrame:
    """Tabulate the scores of several outputs (or conditions), in %, a column for each; NaN where an output has none.

    Args:
        results: by output, the scores as in `Evaluation.as_dict` and in result.json.
        by: the rows; none where the dataset has no such groups. "mean": the means. "class" and "category": with columns
            (score, output). "instance": iIoU of the classes that have instances. "condition": mIoU. "distance": mIoU
            within d pixels of a label boundary.
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
    read: Callable[[Sample], Predictions],
    *,
    boundaries: bool = True,
    workers: int | None = None,
    progress: bool = True,
) -> dict[str, Evaluation]:
    """Score each output over labelled samples, at the size of the labels; ignored pixels do not count.

    Instance scores are there if all samples have their instances. Where several processes run together, each counts its
    share of the samples, and all get the scores of all.

    Args:
        read: gives the predicted train ids of a sample by output, such as "S_i", "S_s", "S_f"; at its label's size.
        boundaries: also score boundaries, which takes most of the time.
        workers: threads that read and count images; by default one for each core. With 1, `read` is called here.

    Raises:
        DataError: naming the sample: its label is withheld or cannot be read, a prediction has another size or
            classes that do not exist, its outputs differ from those of the first sample; or there are no samples.
    """
    if not samples:
        raise DataError(dataset.name, "no samples to score", "one or more", "choose another split")
    with_instances = bool(dataset.instance_classes and dataset.categories) and all(s.instances for s in samples)

    def count(sample: Sample) -> dict[str, Counts]:
        return count_image(dataset, sample, read(sample), boundaries=boundaries, instances=with_instances)

    mine = samples[rank() :: world_size()]
    sums: dict[str, dict[str | None, Counts]] = {}
    images: dict[str, list[ImageScores]] = {}
    with _thread_map(workers or os.cpu_count() or 1) as map_:
        counted = tqdm(map_(count, mine), "scoring", len(mine), unit="image", disable=not progress)
        for sample, outputs in zip(mine, counted, strict=True):
            if sums and outputs.keys() != sums.keys():
                expected = f"{', '.join(sums)} as for the images before"
                raise DataError(sample.name, f"predictions {', '.join(outputs)}", expected, "predict it again")
            for output, counts in outputs.items():
                sums.setdefault(output, defaultdict(int))[sample.condition] += counts
                images.setdefault(output, []).append(ImageScores.of(sample.name, counts))
    parts, evaluations = all_gather((sums, images)), {}
    for output in parts[0][0]:
        counts, ordered = defaultdict(int), [None] * len(samples)
        for first, (theirs, scored) in enumerate(parts):
            ordered[first :: len(parts)] = scored.get(output, ())
            for condition, more in theirs.get(output, {}).items():
                counts[condition] += more
        evaluations[output] = Evaluation.from_counts(dataset, counts, ordered)
    return evaluations


def image_counts(evaluations: Mapping[str, Evaluation]) -> pd.DataFrame:
    """Tabulate the confusion matrix of every image: what a bootstrap over images draws from.

    A row for each output ("S_i", …), image, label and prediction (train ids) that occur together, with their `pixels`,
    and how many of these are `near`: within `NEAR_PIXELS` of a label boundary.
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
    dataset: SegmentationDataset, sample: Sample, predictions: Predictions, *, boundaries: bool, instances: bool
) -> dict[str, Counts]:
    """Count each output for one image; `DataError` as `evaluate`."""
    label, counts = dataset.read_label(sample), {}
    edges = LabelBoundaries(label, dataset.num_classes) if boundaries else None
    instance_ids = dataset.read_instances(sample) if instances else None
    for output, prediction in predictions.items():
        ids = prediction.numpy(force=True) if isinstance(prediction, Tensor) else prediction
        where = f"{sample.name}, {output}"
        if ids.dtype != np.uint8 or ids.shape != label.shape:
            found, expected = f"{ids.dtype} of shape {ids.shape}", f"uint8 of shape {label.shape} as {sample.label}"
            raise DataError(where, found, expected, "predict at the size of the label")
        if ids.max(initial=0) >= dataset.num_classes:
            unknown = [c for c in np.unique(ids).tolist() if c >= dataset.num_classes]
            expected = f"train ids from 0 to {dataset.num_classes - 1} of {dataset.name}"
            raise DataError(where, f"classes {unknown}", expected, "predict with a network for this dataset")
        ids = np.ascontiguousarray(ids)
        counts[output] = Counts(
            metrics.confusion_matrix(torch.from_numpy(ids), torch.from_numpy(label), dataset.num_classes),
            metrics.instance_shares(ids, instance_ids, dataset.lookup, dataset.categories) if instances else None,
            edges.count(ids) if boundaries else None,
        )
    return counts
