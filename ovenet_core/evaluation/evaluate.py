"""Evaluation of a split: every score that its benchmark is known by, overall, by condition and by image."""

import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cached_property
from itertools import zip_longest
from typing import NamedTuple

import cv2
import numpy as np
import pandas as pd
import torch
from jaxtyping import Float, Integer, UInt8
from torch import Tensor
from tqdm.auto import tqdm

from ovenet_core import utils
from ovenet_core.data import DataError, Sample, SegmentationDataset
from ovenet_core.evaluation.boundary_metrics import BANDS, BoundaryCounts, BoundaryScores, LabelBoundaries
from ovenet_core.evaluation.metrics import (
    INSTANCE_SIZES,
    ConfusionMatrix,
    Scores,
    by_name,
    group_matrix,
    instance_iou,
    instance_shares,
    mean,
    none_if_nan,
)

NEAR_PIXELS = 4  # pixels from a label boundary; of those further away nobody would say that they are at it
Read = Callable[[Sample], Mapping[str, np.ndarray | Tensor]]


@dataclass(frozen=True)
class Counts:
    """What was counted in one or more images; sums of counts are those of all images.

    Attributes:
        instances: as `metrics.instance_shares` has them; None without instances.
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


class ImageScores(NamedTuple):
    """Scores of one image. Its mIoU is over the classes that occur in its label or in its prediction.

    Attributes:
        cells: (label, prediction, pixels, pixels within `NEAR` of a label boundary) of what occurs, as train ids; empty
            without boundaries.
    """

    name: str
    miou: float
    pixel_accuracy: float
    cells: tuple[tuple[int, int, int, int], ...] = ()

    def as_dict(self) -> dict:
        """For evaluation.json: None where no pixel has a label."""
        return {"name": self.name, "miou": none_if_nan(self.miou), "pixel_accuracy": none_if_nan(self.pixel_accuracy)}


@dataclass(frozen=True)
class Evaluation:
    """The scores of one output (S_i, S_s or S_f) over labelled images, all in [0, 1].

    Attributes:
        conditions: the same for the images of each condition (fog, dusk, …), where they have one.
        images: scores of each image, in the order of the samples.
    """

    data: SegmentationDataset
    counts: Counts
    conditions: Mapping[str, "Evaluation"] = field(default_factory=dict)
    images: tuple[ImageScores, ...] = ()

    @cached_property
    def scores(self) -> Scores:
        """IoU and accuracies of classes."""
        return Scores(self.counts.confusion.astype(np.float64))

    @property
    def category_iou(self) -> dict[str, float]:
        """IoU by category; empty for a benchmark without categories."""
        if self.data.categories is None:
            return {}
        names, groups = group_matrix(self.data.categories)
        return dict(zip(names, self.scores.grouped(groups).iou.tolist(), strict=True))

    @property
    def instance_iou(self) -> dict[str, float]:
        """iIoU by class that has instances; empty where these are not given."""
        if self.counts.instances is None:
            return {}
        shares, _, instances = self.counts.instances
        groups, sizes = np.eye(self.data.num_classes, dtype=bool), instance_sizes(self.data)
        iou = instance_iou(self.scores, shares, instances, sizes, groups)
        return {self.data.class_names[c]: float(iou[c]) for c in self.data.instance_classes}

    @property
    def category_instance_iou(self) -> dict[str, float]:
        """iIoU by category of which all classes have instances; empty where these are not given."""
        if self.counts.instances is None:
            return {}
        _, shares, instances = self.counts.instances
        (names, groups), sizes = group_matrix(self.data.categories), instance_sizes(self.data)
        iou = instance_iou(self.scores, shares, instances, sizes, groups)
        whole = [not np.isnan(sizes[group]).any() for group in groups]
        return {name: float(value) for name, value, has in zip(names, iou, whole, strict=True) if has}

    @cached_property
    def boundaries(self) -> BoundaryScores | None:
        return None if self.counts.boundaries is None else BoundaryScores(self.counts.boundaries)

    def ranked(self) -> list[ImageScores]:
        """The images from the lowest to the highest mIoU, equal ones by name; without those that have no label."""
        valid = [image for image in self.images if not np.isnan(image.miou)]
        return sorted(valid, key=lambda image: (image.miou, image.name))

    def as_dict(self) -> dict:
        """For result.json: means, and values by name; None where there are none. Without those of each image."""
        found = self.scores.as_dict(self.data.class_names)
        for name in ("category_iou", "instance_iou", "category_instance_iou"):
            if values := getattr(self, name):
                scores = np.array(list(values.values()))
                found |= {f"mean_{name}": none_if_nan(mean(scores)), name: by_name(list(values), scores)}
        if self.boundaries is not None:
            found["boundaries"] = self.boundaries.as_dict(self.data.class_names)
        if self.conditions:
            found["conditions"] = {name: evaluation.as_dict() for name, evaluation in self.conditions.items()}
        return found


def instance_sizes(data: SegmentationDataset) -> Float[np.ndarray, " classes"]:
    """Average pixels of an instance of each class, by its name in Cityscapes; NaN for a class without instances."""
    sizes = np.full(data.num_classes, np.nan)
    for c in data.instance_classes:
        sizes[c] = INSTANCE_SIZES.get(data.class_names[c], np.nan)
    return sizes


def evaluate(
    data: SegmentationDataset,
    samples: Sequence[Sample],
    read: Read,
    *,
    boundaries: bool = True,
    workers: int | None = None,
    progress: bool = True,
) -> dict[str, Evaluation]:
    """Scores of predictions over labelled samples, at the size of the labels; ignored pixels do not count.

    Where several processes run together, each counts its share of the samples, and all get the scores of all.

    Args:
        read: gives the predicted train ids of a sample by output, such as "S_i", "S_s", "S_f"; at its label's size.
        boundaries: also the scores at boundaries, which take most of the time.
        workers: threads that read and count images; by default one for each core. With 1, `read` is called here.

    Returns:
        An evaluation for each output. Instance scores are there if all samples have their instances.

    Raises:
        DataError: naming the sample: its label is withheld or cannot be read, a prediction has another size or
            classes that do not exist, its outputs are others than those of the first; or there are no samples.
    """
    if not samples:
        raise DataError(f"{data.name}: no samples to score, expected one or more; choose another split")
    with_instances = bool(data.instance_classes and data.categories) and all(s.instances for s in samples)

    def count(sample: Sample) -> dict[str, Counts]:
        return count_image(data, sample, read(sample), boundaries=boundaries, instances=with_instances)

    mine = samples[utils.rank() :: utils.world_size()]
    totals: dict[str, dict[str | None, Counts]] = {}
    images: dict[str, list[ImageScores]] = {}
    with _mapping(workers or os.cpu_count() or 1) as map_:
        counted = tqdm(map_(count, mine), "scoring", len(mine), unit="image", disable=not progress)
        for sample, outputs in zip(mine, counted, strict=True):
            if totals and outputs.keys() != totals.keys():
                raise DataError(
                    f"{sample.name}: predictions {', '.join(outputs)}, expected {', '.join(totals)} as for "
                    "the images before; predict this one anew"
                )
            for name, counts in outputs.items():
                _add(totals.setdefault(name, {}), {sample.condition: counts})
                images.setdefault(name, []).append(_of_image(sample.name, counts))
    shares = utils.all_gather((totals, images))
    sums: dict[str, dict[str | None, Counts]] = {}
    for theirs, _ in shares:
        for name, counts in theirs.items():
            _add(sums.setdefault(name, {}), counts)
    rounds = {name: zip_longest(*(found.get(name, ()) for _, found in shares)) for name in sums}
    ordered = {name: tuple(p for round_ in rounds[name] for p in round_ if p is not None) for name in sums}
    return {name: _evaluation(data, sums[name], ordered[name]) for name in sums}


def _of_image(name: str, counts: Counts) -> ImageScores:
    scores, cells = Scores(counts.confusion.astype(np.float64)), np.zeros((0, 4), int)
    if counts.boundaries is not None:
        label, prediction = np.nonzero(counts.confusion)
        both = counts.confusion, counts.boundaries.trimap[BANDS.index(NEAR_PIXELS)]
        cells = np.stack([label, prediction, *(matrix[label, prediction] for matrix in both)], axis=1)
    return ImageScores(name, scores.miou, scores.pixel_accuracy, tuple(map(tuple, cells.tolist())))


def image_counts(evaluations: Mapping[str, Evaluation]) -> pd.DataFrame:
    """The confusion matrix of every image, long: what a bootstrap over images draws from.

    Returns:
        A row for each output ("S_i", …), image, label and prediction (train ids) that occur together, with their
        `pixels`, and those of them `near` a label boundary: within `NEAR` pixels.
    """
    rows = [(output, p.name, *cell) for output, e in evaluations.items() for p in e.images for cell in p.cells]
    return pd.DataFrame(rows, columns=["output", "image", "label", "prediction", "pixels", "near"])


def _add(sums: dict[str | None, Counts], counts: Mapping[str | None, Counts]) -> None:
    for condition, more in counts.items():
        sums[condition] = sums[condition] + more if condition in sums else more


def _evaluation(
    data: SegmentationDataset, sums: dict[str | None, Counts], images: tuple[ImageScores, ...]
) -> Evaluation:
    first, *others = sums.values()
    known = [c for c in (*data.conditions, *sums) if c in sums and c is not None]
    conditions = {condition: Evaluation(data, sums[condition]) for condition in known}
    return Evaluation(data, sum(others, start=first), conditions, images)


@contextmanager
def _mapping(workers: int) -> Iterator[Callable]:
    """`map`, by threads if there are to be several; OpenCV's own threads would get in their way."""
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
    data: SegmentationDataset,
    sample: Sample,
    predictions: Mapping[str, np.ndarray | Tensor],
    *,
    boundaries: bool,
    instances: bool,
) -> dict[str, Counts]:
    """The counts of each output for one image; `DataError` as `evaluate`."""
    label = data.read_label(sample)
    idents = data.read_instances(sample) if instances else None
    edges = LabelBoundaries(label, data.num_classes) if boundaries else None
    groups = group_matrix(data.categories)[1] if instances else None
    found = {}
    for name, prediction in predictions.items():
        classes = _checked(data, sample, name, prediction, label.shape)
        matrix = ConfusionMatrix(data.num_classes)
        matrix.update(torch.from_numpy(classes), torch.from_numpy(label))
        found[name] = Counts(
            matrix.counts.numpy(),
            instance_shares(classes, idents, data.lookup, groups) if instances else None,
            edges.count(classes) if boundaries else None,
        )
    return found


def _checked(
    data: SegmentationDataset, sample: Sample, name: str, prediction: np.ndarray | Tensor, size: tuple[int, int]
) -> UInt8[np.ndarray, "height width"]:
    """A prediction as an array, of the size of the label, with classes that exist."""
    classes = prediction.numpy(force=True) if isinstance(prediction, Tensor) else prediction
    if classes.dtype != np.uint8 or classes.shape != size:
        raise DataError(
            f"{sample.name}: {name} is {classes.dtype} of shape {classes.shape}, expected uint8 of shape "
            f"{size} as {sample.label}; predict it at the size of the label"
        )
    if classes.size and classes.max() >= data.num_classes:
        unknown = [c for c in np.unique(classes).tolist() if c >= data.num_classes]
        raise DataError(
            f"{sample.name}: {name} has classes {unknown}, expected train ids from 0 to "
            f"{data.num_classes - 1} of {data.name}; predict it with a network for this benchmark"
        )
    return np.ascontiguousarray(classes)
