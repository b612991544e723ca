"""Scores from counts: IoU, mean IoU and accuracies; IoU of categories and of instances as Cityscapes defines them.

Counts of images add up; scores are ratios of sums over all images, as the datasets' owners define them.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Bool, Float, Integer, UInt8
from torch import Tensor

from ovenet_core.utils import DataError


class ConfusionMatrix:
    """Counts of (label, predicted class) over images, kept on the device of the first one.

    Args:
        num_classes: labels and predictions are train ids from 0 to `num_classes` - 1; label 255 is left out.
    """

    def __init__(self, num_classes: int):
        self.num_classes = num_classes
        self.counts: Integer[Tensor, "label prediction"] = torch.zeros(num_classes, num_classes, dtype=torch.int64)

    def update(self, prediction: Integer[Tensor, "*pixels"], label: Integer[Tensor, "*pixels"]) -> None:
        """Add predicted classes and labels of the same shape; a class that does not exist is a `DataError`."""
        classes = self.num_classes
        # Ignored pixels get a row of their own, which is dropped: no copy of the valid ones is made.
        pair = label.to(torch.int32, copy=True).clamp_(max=classes).mul_(classes).add_(prediction)
        if prediction.numel() and not 0 <= prediction.min() <= prediction.max() < classes:
            span = f"classes from {prediction.min()} to {prediction.max()}"
            raise DataError("prediction", span, f"train ids from 0 to {classes - 1}", "predict these classes")
        counts = torch.bincount(pair.flatten(), minlength=classes * (classes + 1))
        self.counts = self.counts.to(counts.device) + counts.view(classes + 1, classes)[:classes]

    def update_from_scores(
        self, scores: Float[Tensor, "batch classes height width"], label: Integer[Tensor, "batch height width"]
    ) -> None:
        """Add images by their class scores; of equal scores the first counts. NaN is a `DataError`."""
        # Over planes in memory, max takes about a third of the time of argmax, and finds the same (torch 2.14).
        highest, prediction = scores.max(dim=1)
        if highest.isnan().any():
            raise DataError("scores", "NaN", "finite numbers", "check the code that computes the scores")
        self.update(prediction, label)

    def scores(self) -> "Scores":
        """Score the counts so far."""
        return Scores(self.counts.cpu().numpy().astype(np.float64))


@dataclass(frozen=True)
class Scores:
    """Scores of a confusion matrix, all in [0, 1].

    A class that neither occurs nor is predicted has IoU NaN and does not count in the mean; likewise for accuracies.
    """

    confusion: Float[np.ndarray, "label prediction"]

    @property
    def iou(self) -> Float[np.ndarray, " classes"]:
        return class_iou(np.diag(self.confusion), self.confusion.sum(1), self.confusion.sum(0))

    @property
    def accuracy(self) -> Float[np.ndarray, " classes"]:
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

    def grouped(self, groups: Bool[np.ndarray, "groups classes"]) -> "Scores":
        """Score the classes of each group, such as a category of Cityscapes, as one class."""
        members = groups.astype(np.float64)
        return Scores(members @ self.confusion @ members.T)

    def as_dict(self, class_names: tuple[str, ...]) -> dict:
        """Return means, and IoU by class name, for result.json; None where a class does not occur."""
        means = {name: none_if_nan(getattr(self, name)) for name in ("miou", "pixel_accuracy", "mean_accuracy")}
        return means | {"iou": by_name(class_names, self.iou)}


def class_iou(hits, labels, predictions):
    """Compute IoU, in [0, 1], from pixel counts: correct, of the label, and predicted; NaN for an absent class."""
    return ratio(hits, labels + predictions - hits)


def instance_shares(
    prediction: UInt8[np.ndarray, "height width"],
    instances: Integer[np.ndarray, "height width"],
    lookup: UInt8[np.ndarray, "256"],
    groups: Bool[np.ndarray, "groups classes"],
) -> Float[np.ndarray, "3 classes"]:
    """Sum, by class, the shares of its instances that are predicted correctly, and count the instances.

    Args:
        prediction: train ids.
        instances: label value x 1000 + number, as in Cityscapes; lower values, such as those of crowds, do not count.
        lookup: train id of each label value, 255 for none (`SegmentationDataset.lookup`).
        groups: the classes of each category.

    Returns:
        Sums over instances of the share of pixels with the right class; the same for the right category; the number of
        instances.
    """
    classes, category = groups.shape[1], groups.argmax(0)
    counted = (instances > 1000) & (lookup[np.minimum(instances // 1000, 255)] < classes)
    ids, predicted = instances[counted].astype(np.int64), prediction[counted]
    true_class, sizes = lookup[ids // 1000], np.bincount(ids)
    present = np.flatnonzero(sizes)
    correct = predicted == true_class, category[predicted] == category[true_class]
    hits = [np.bincount(ids[pixels], minlength=len(sizes))[present] for pixels in correct]
    weights = [*(hit / sizes[present] for hit in hits), np.ones(len(present))]
    return np.stack([np.bincount(lookup[present // 1000], weight, minlength=classes) for weight in weights])


def instance_iou(
    scores: Scores,
    shares: Float[np.ndarray, " classes"],
    instances: Float[np.ndarray, " classes"],
    sizes: Float[np.ndarray, " classes"],
    groups: Bool[np.ndarray, "groups classes"],
) -> Float[np.ndarray, " groups"]:
    """Compute iIoU of each group of classes: every instance weighs as if it had the average size of its class.

    iIoU = iTP / (iTP + FP + iFN) (Cordts et al., CVPR 2016, section 4.1). False positives belong to no instance and
    are not weighted.

    Args:
        scores: of the classes.
        shares, instances: from `instance_shares`: summed shares of correct pixels; number of instances.
        sizes: average pixels of an instance; NaN for a class without instances, whose group has iIoU NaN.
        groups: the classes of each group: an identity matrix for the iIoU of classes.
    """
    confusion = scores.grouped(groups).confusion
    false_positives = confusion.sum(0) - np.diag(confusion)
    true, every = (np.array([(sizes * values)[group].sum() for group in groups]) for values in (shares, instances))
    return ratio(true, every + false_positives)


def group_matrix(groups: Sequence[str]) -> tuple[tuple[str, ...], Bool[np.ndarray, "groups classes"]]:
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


def by_name(names: Sequence[str], values: Float[np.ndarray, " names"]) -> dict[str, float | None]:
    """Name the values for JSON; None for NaN."""
    return {name: none_if_nan(value) for name, value in zip(names, values, strict=True)}


def with_mean(score: str, names: Sequence[str], values: Float[np.ndarray, " names"]) -> dict:
    """Return the mean of a score, and its values by name, as result.json has them."""
    return {f"mean_{score}": none_if_nan(mean(values)), score: by_name(names, values)}
