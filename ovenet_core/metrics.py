"""Scores from a confusion matrix: IoU per class, mean IoU, pixel and mean accuracy."""

from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float, Integer
from torch import Tensor


class ConfusionMatrix:
    """Counts of (label, predicted class) over pictures, kept on the device of the first one.

    Args:
        num_classes: labels and predictions are train ids from 0 to `num_classes` - 1; label 255 is left out.
    """

    def __init__(self, num_classes: int):
        self.num_classes = num_classes
        self.counts: Integer[Tensor, "label prediction"] = torch.zeros(num_classes, num_classes, dtype=torch.int64)

    def update(self, prediction: Integer[Tensor, "*pixels"], label: Integer[Tensor, "*pixels"]) -> None:
        """Add predicted classes and labels of the same shape."""
        classes = self.num_classes
        # Ignored pixels get a row of their own, which is dropped: no copy of the valid ones is made.
        row = label.to(torch.int32).clamp(max=classes)
        counts = torch.bincount((row * classes + prediction).flatten(), minlength=classes * (classes + 1))
        self.counts = self.counts.to(counts.device) + counts.view(classes + 1, classes)[:classes]

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
        return _ratio(hits, self.confusion.sum(0) + self.confusion.sum(1) - hits)

    @property
    def accuracy(self) -> Float[np.ndarray, " classes"]:
        """The share of each class's pixels that are right."""
        return _ratio(np.diag(self.confusion), self.confusion.sum(1))

    @property
    def miou(self) -> float:
        return _mean(self.iou)

    @property
    def mean_accuracy(self) -> float:
        return _mean(self.accuracy)

    @property
    def pixel_accuracy(self) -> float:
        return float(_ratio(np.trace(self.confusion), self.confusion.sum()))

    def as_dict(self, class_names: tuple[str, ...]) -> dict:
        """For result.json: the means and the IoU by class name; None where a class does not occur."""
        by_class = {n: None if np.isnan(v) else float(v) for n, v in zip(class_names, self.iou, strict=True)}
        return {
            "miou": self.miou,
            "pixel_accuracy": self.pixel_accuracy,
            "mean_accuracy": self.mean_accuracy,
            "iou": by_class,
        }


def _ratio(part, whole):
    with np.errstate(invalid="ignore", divide="ignore"):
        return np.where(whole > 0, part / whole, np.nan)


def _mean(values: np.ndarray) -> float:
    valid = values[~np.isnan(values)]
    return float(valid.mean()) if len(valid) else float("nan")
