"""Scores from counts: IoU, mean IoU and accuracies; IoU of categories and of instances as Cityscapes defines them.

Counts of images add up; scores are ratios of sums over all images, as the datasets' owners define them.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Bool, Float, Integer, Shaped, UInt8
from torch import Tensor

ClassMap = UInt8[np.ndarray, "height width"]  # train ids
InstanceIds = Integer[np.ndarray, "height width"]  # label value x 1000 + number; lower values are of no instance
PerClass = Float[np.ndarray, " classes"]
Groups = Bool[np.ndarray, "groups classes"]  # the classes of each group, such as a category


def confusion_matrix(
    prediction: Integer[Tensor, "*pixels"], label: Integer[Tensor, "*pixels"], classes: int
) -> Integer[np.ndarray, "label prediction"]:
    """Count the pixels of each label and prediction: train ids below `classes`; pixels with label 255 are left out."""
    # Ignored pixels get a row of their own, which is dropped: no copy of the valid ones is made.
    pair = label.to(torch.int32, copy=True).clamp_(max=classes).mul_(classes).add_(prediction)
    counts = torch.bincount(pair.flatten(), minlength=classes * (classes + 1))
    return counts.view(classes + 1, classes)[:classes].numpy(force=True)


@dataclass(frozen=True)
class Scores:
    """Scores of a confusion matrix, all in [0, 1].

    A class that neither occurs nor is predicted has IoU NaN and does not count in the mean; likewise for accuracies.
    """

    confusion: Shaped[np.ndarray, "label prediction"]

    @property
    def iou(self) -> PerClass:
        return class_iou(np.diag(self.confusion), self.confusion.sum(1), self.confusion.sum(0))

    @property
    def accuracy(self) -> PerClass:
        """The share of each class's pixels that are predicted correctly."""
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

    def grouped(self, groups: Groups) -> "Scores":
        """Score the classes of each group, such as a category of Cityscapes, as one class."""
        return Scores(groups.astype(np.float64) @ self.confusion @ groups.T)

    def as_dict(self, class_names: tuple[str, ...]) -> dict:
        """Return means, and IoU by class name, for result.json; None where a class does not occur."""
        means = {name: none_if_nan(getattr(self, name)) for name in ("miou", "pixel_accuracy", "mean_accuracy")}
        return means | {"iou": by_name(class_names, self.iou)}


def class_iou(hits, labels, predictions):
    """Compute IoU, in [0, 1], from pixel counts: correct, of the label, and predicted; NaN for an absent class."""
    return ratio(hits, labels + predictions - hits)


def instance_shares(
    prediction: ClassMap, instances: InstanceIds, lookup: UInt8[np.ndarray, "256"], categories: Sequence[str]
) -> Float[np.ndarray, "3 classes"]:
    """Sum, by class, the shares of an instance's pixels with its class, and those with its category; count instances.

    `lookup` has the train id of each label value, 255 for none; `categories` the category of each class.
    """
    classes, (_, category) = len(categories), np.unique(categories, return_inverse=True)
    counted = (instances > 1000) & (lookup[np.minimum(instances // 1000, 255)] < classes)
    ids, predicted = instances[counted].astype(np.int64), prediction[counted]
    true_class, sizes = lookup[ids // 1000], np.bincount(ids)
    present = np.flatnonzero(sizes)
    correct = predicted == true_class, category[predicted] == category[true_class]
    hits = [np.bincount(ids[pixels], minlength=len(sizes))[present] for pixels in correct]
    weights = [*(hit / sizes[present] for hit in hits), np.ones(len(present))]
    return np.stack([np.bincount(lookup[present // 1000], weight, minlength=classes) for weight in weights])


def instance_iou(
    scores: Scores, shares: PerClass, instances: PerClass, sizes: PerClass, groups: Groups
) -> Float[np.ndarray, " groups"]:
    """Compute iIoU of each group of classes: every instance weighs as if it had the average size of its class.

    iIoU = iTP / (iTP + FP + iFN) (Cordts et al., CVPR 2016, section 4.1). False positives belong to no instance and
    are not weighted. `shares` and `instances` are from `instance_shares`; `sizes` are average pixels of an instance,
    NaN for a class without instances, whose group has iIoU NaN.
    """
    confusion = scores.grouped(groups).confusion
    false_positives = confusion.sum(0) - np.diag(confusion)
    true, every = (np.array([(sizes * values)[group].sum() for group in groups]) for values in (shares, instances))
    return ratio(true, every + false_positives)


def group_matrix(groups: Sequence[str]) -> tuple[tuple[str, ...], Groups]:
    """Turn the group of each class into the names of the groups, in order of appearance, and their classes."""
    names = tuple(dict.fromkeys(groups))
    return names, np.array([[group == name for group in groups] for name in names])


def ratio(part, whole):
    """Divide part by whole; NaN where the whole is 0 or NaN."""
    with np.errstate(invalid="ignore", divide="ignore"):
        return np.where(whole > 0, np.divide(part, whole), np.nan)


def mean(values: Float[np.ndarray, " values"]) -> float:
    """Average the values that are not NaN; NaN if there are none."""
    valid = values[~np.isnan(values)]
    return float(valid.mean()) if len(valid) else float("nan")


def none_if_nan(value: float) -> float | None:
    """Replace NaN, which JSON does not have, by None."""
    return None if np.isnan(value) else float(value)


def by_name(names: Sequence[str], values: Iterable[float]) -> dict[str, float | None]:
    """Name the values for JSON; None for NaN."""
    return {name: none_if_nan(value) for name, value in zip(names, values, strict=True)}


def with_mean(score: str, names: Sequence[str], values: Float[np.ndarray, " names"]) -> dict:
    """Return the mean of a score, and its values by name, as result.json has them."""
    return {f"mean_{score}": none_if_nan(mean(values)), score: by_name(names, values)}
