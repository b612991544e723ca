"""Scores from counts: IoU per class, mean IoU, pixel and mean accuracy; those of Cityscapes for categories, instances.

Counts of images add up; scores are ratios of sums over all images, as the benchmarks' owners define them.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Bool, Float, Integer, UInt8
from torch import Tensor

# Pixels of an average instance in Cityscapes, by which its evaluation weighs instances (Cordts et al., section 4.1).
INSTANCE_SIZES = {
    "person": 3462.4756337644,
    "rider": 3930.4788056518,
    "car": 12794.0202738185,
    "truck": 27855.1264367816,
    "bus": 35732.1511111111,
    "train": 67583.7075812274,
    "motorcycle": 6298.7200839748,
    "bicycle": 4672.3249222261,
}


class ConfusionMatrix:
    """Counts of (label, predicted class) over images, kept on the device of the first one.

    Args:
        num_classes: labels and predictions are train ids from 0 to `num_classes` - 1; label 255 is left out.
    """

    def __init__(self, num_classes: int):
        self.num_classes = num_classes
        self.counts: Integer[Tensor, "label prediction"] = torch.zeros(num_classes, num_classes, dtype=torch.int64)

    def update(self, prediction: Integer[Tensor, "*pixels"], label: Integer[Tensor, "*pixels"]) -> None:
        """Add predicted classes and labels of the same shape; a class that does not exist is a `ValueError`."""
        classes = self.num_classes
        # Ignored pixels get a row of their own, which is dropped: no copy of the valid ones is made.
        cell = label.to(torch.int32, copy=True).clamp_(max=classes).mul_(classes).add_(prediction)
        if prediction.numel() and not 0 <= prediction.min() <= prediction.max() < classes:
            raise ValueError(
                f"predicted classes from {prediction.min()} to {prediction.max()}, expected train ids "
                f"from 0 to {classes - 1}"
            )
        counts = torch.bincount(cell.flatten(), minlength=classes * (classes + 1))
        self.counts = self.counts.to(counts.device) + counts.view(classes + 1, classes)[:classes]

    def update_from_scores(
        self, scores: Float[Tensor, "batch classes height width"], label: Integer[Tensor, "batch height width"]
    ) -> None:
        """Add images by their class scores; of equal ones the first counts. NaN is a `ValueError`."""
        # Over planes in memory, max takes about a third of the time of argmax, and finds the same (torch 2.14).
        highest, prediction = scores.max(dim=1)
        if highest.isnan().any():
            raise ValueError("NaN among the scores, expected numbers; look at what computed them")
        self.update(prediction, label)

    def scores(self) -> "Scores":
        """The scores so far."""
        return Scores(self.counts.cpu().numpy().astype(np.float64))


@dataclass(frozen=True)
class Scores:
    """Scores of a confusion matrix, all in [0, 1].

    A class that neither occurs nor is predicted has IoU NaN and does not count in the mean; likewise for accuracies.
    """

    confusion: Float[np.ndarray, "label prediction"]

    @property
    def iou(self) -> Float[np.ndarray, " classes"]:
        """Intersection over union of each class."""
        hits = np.diag(self.confusion)
        return ratio(hits, self.confusion.sum(0) + self.confusion.sum(1) - hits)

    @property
    def accuracy(self) -> Float[np.ndarray, " classes"]:
        """The share of each class's pixels that are right."""
        return ratio(np.diag(self.confusion), self.confusion.sum(1))

    @property
    def miou(self) -> float:
        return mean(self.iou)

    @property
    def mean_accuracy(self) -> float:
        return mean(self.accuracy)

    @property
    def pixel_accuracy(self) -> float:
        return float(ratio(np.trace(self.confusion), self.confusion.sum()))

    def grouped(self, groups: Bool[np.ndarray, "groups classes"]) -> "Scores":
        """The scores with the classes of a group taken as one, such as the categories of Cityscapes."""
        members = groups.astype(np.float64)
        return Scores(members @ self.confusion @ members.T)

    def as_dict(self, class_names: tuple[str, ...]) -> dict:
        """For result.json: the means and the IoU by class name; None where a class does not occur."""
        return {
            "miou": none_if_nan(self.miou),
            "pixel_accuracy": none_if_nan(self.pixel_accuracy),
            "mean_accuracy": none_if_nan(self.mean_accuracy),
            "iou": by_name(class_names, self.iou),
        }


def instance_shares(
    prediction: UInt8[np.ndarray, "height width"],
    instances: Integer[np.ndarray, "height width"],
    lookup: UInt8[np.ndarray, "256"],
    groups: Bool[np.ndarray, "groups classes"],
) -> Float[np.ndarray, "3 classes"]:
    """What of its instances was found, by class: sums of their shares of pixels, and their number.

    Args:
        prediction: train ids.
        instances: label value x 1000 + number, as in Cityscapes; lower values, such as those of crowds, do not count.
        lookup: train id of each label value, 255 for none (`Benchmark.lookup`).
        groups: the classes of each category.

    Returns:
        Sums over instances of the share of pixels with the right class, and of that with the right category; and how
        many instances there are.
    """
    classes, category = groups.shape[1], groups.argmax(0)
    counted = (instances > 1000) & (lookup[np.minimum(instances // 1000, 255)] < classes)
    idents, predicted = instances[counted].astype(np.int64), prediction[counted]
    owner = lookup[idents // 1000]
    sizes = np.bincount(idents)
    found = [
        np.bincount(idents[right], minlength=len(sizes))
        for right in (predicted == owner, category[predicted] == category[owner])
    ]
    present = np.flatnonzero(sizes)
    shares = [*(hits[present] / sizes[present] for hits in found), np.ones(len(present))]
    return np.stack([np.bincount(lookup[present // 1000], share, minlength=classes) for share in shares])


def instance_iou(
    scores: Scores,
    shares: Float[np.ndarray, " classes"],
    instances: Float[np.ndarray, " classes"],
    sizes: Float[np.ndarray, " classes"],
    groups: Bool[np.ndarray, "groups classes"],
) -> Float[np.ndarray, " groups"]:
    """iIoU of each group of classes: every instance weighs as if it had the average size of its class.

    iIoU = iTP / (iTP + FP + iFN) (Cordts et al., CVPR 2016, section 4.1). False positives belong to no instance and
    are not weighted.

    Args:
        scores: of the classes.
        shares, instances: as from `instance_shares`: of right pixels, summed over instances; number of instances.
        sizes: average pixels of an instance; NaN for a class without. Its group has no iIoU (NaN).
        groups: the classes of each group: an identity matrix for the iIoU of classes.
    """
    confusion = scores.grouped(groups).confusion
    false = confusion.sum(0) - np.diag(confusion)
    true, all_ = (np.array([(sizes * values)[g].sum() for g in groups]) for values in (shares, instances))
    return ratio(true, all_ + false)


def group_matrix(groups: Sequence[str]) -> tuple[tuple[str, ...], Bool[np.ndarray, "groups classes"]]:
    """The names of groups, in order of appearance, and which classes are in each, from the group of each class."""
    names = tuple(dict.fromkeys(groups))
    return names, np.array([[group == name for group in groups] for name in names])


def ratio(part, whole):
    """part / whole, NaN where the whole is 0 or NaN."""
    with np.errstate(invalid="ignore", divide="ignore"):
        return np.where(whole > 0, np.divide(part, whole), np.nan)


def mean(values: Float[np.ndarray, " values"]) -> float:
    """The mean of those that are not NaN; NaN if there are none."""
    valid = values[~np.isnan(values)]
    return float(valid.mean()) if len(valid) else float("nan")


def none_if_nan(value: float) -> float | None:
    """For JSON, which has no NaN: None instead."""
    return None if np.isnan(value) else float(value)


def by_name(names: Sequence[str], values: Float[np.ndarray, " names"]) -> dict[str, float | None]:
    """For JSON: the values by name, None for NaN."""
    return {name: none_if_nan(value) for name, value in zip(names, values, strict=True)}
