"""Quality at boundaries: trimap IoU, Boundary IoU and boundary F-score, from counts that add up over images.

A boundary pixel touches, by a side, a pixel of another class. An ignored pixel is in no count, and neither is nor makes
a boundary in trimaps and F-scores. In Boundary IoU the masks end where ignored pixels begin, as they do at the
image's border: it is defined by masks, and so are its authors' numbers.
"""

import math
from dataclasses import dataclass

import cv2
import numpy as np
from jaxtyping import Bool, Float, Integer, UInt8

from ovenet_core.cross_entropy import IGNORE_INDEX
from ovenet_core.evaluation.metrics import Scores, by_name, mean, none_if_nan, ratio

BANDS = (1, 2, 4, 8, 16, 32)  # widths of the trimap, in pixels to each side of the boundary
REGION = 0.02  # depth of the regions of Boundary IoU, as a share of the diagonal (Cheng et al., section 5)
TOLERANCE = 0.0075  # of boundary F-scores, as a share of the diagonal (Csurka et al., BMVC 2013, section 2.3)

ClassMap = UInt8[np.ndarray, "height width"]
Mask = Bool[np.ndarray, "height width"]


def label_boundary(label: Integer[np.ndarray, "height width"]) -> Mask:
    """Pixels that touch one of another class, by a side. An ignored pixel makes no boundary."""
    valid, boundary = label != IGNORE_INDEX, np.zeros(label.shape, bool)
    for here, next_one in ((np.s_[:, :-1], np.s_[:, 1:]), (np.s_[:-1], np.s_[1:])):
        edge = (label[here] != label[next_one]) & valid[here] & valid[next_one]
        boundary[here] |= edge
        boundary[next_one] |= edge
    return boundary


def distance_to(mask: Mask) -> Float[np.ndarray, "height width"]:
    """The Euclidean distance, in pixels, from each pixel to the nearest of the mask, infinite if it is empty."""
    if not mask.any():
        return np.full(mask.shape, np.inf, np.float32)
    return cv2.distanceTransform((~mask).view(np.uint8), cv2.DIST_L2, cv2.DIST_MASK_PRECISE)


def mask_region(classes: ClassMap, depth: int) -> Mask:
    """Pixels at most `depth` (by rows and by columns) from one outside of the mask of their own class.

    For all classes at once this is what the authors of Boundary IoU compute for one mask at a time, by eroding it
    `depth` times with a 3x3 square: a mask also ends at the image's border.
    """
    square = np.ones((2 * depth + 1, 2 * depth + 1), np.uint8)
    region = cv2.erode(classes, square) != cv2.dilate(classes, square)
    region[:depth] = region[-depth:] = region[:, :depth] = region[:, -depth:] = True
    return region


@dataclass(frozen=True)
class BoundaryCounts:
    """Pixel counts of one or more images; sums of them are those of all images.

    Attributes:
        trimap: the confusion matrix within each of `BANDS`.
        regions: by class, intersection and union of the regions of label and prediction (Boundary IoU).
        contours: by class, boundary pixels of the prediction: those near the label's, and all; then those of the
            label: near the prediction's, and all.
    """

    trimap: Integer[np.ndarray, "bands label prediction"]
    regions: Integer[np.ndarray, "2 classes"]
    contours: Integer[np.ndarray, "4 classes"]

    def __add__(self, other: "BoundaryCounts") -> "BoundaryCounts":
        return BoundaryCounts(self.trimap + other.trimap, self.regions + other.regions, self.contours + other.contours)


class LabelBoundaries:
    """The boundaries of one label, against which any number of predictions are counted.

    Args:
        label: train ids and `IGNORE`.
        num_classes: train ids are below.
    """

    def __init__(self, label: ClassMap, num_classes: int):
        self.label, self.num_classes = label, num_classes
        diagonal = math.hypot(*label.shape)
        self.depth, self.tolerance = max(round(REGION * diagonal), 1), max(TOLERANCE * diagonal, 1.0)
        boundary = label_boundary(label)
        distance = distance_to(boundary)
        # A boundary has a pixel on both sides, so that those nearer than d are d to each side.
        self.near = np.flatnonzero((distance < BANDS[-1]) & (label != IGNORE_INDEX))
        band = np.digitize(distance.ravel()[self.near], BANDS)
        self.cells = (band * num_classes + label.ravel()[self.near]) * num_classes
        self.region = mask_region(label, self.depth)
        self.contours = np.where(boundary, label, IGNORE_INDEX)

    def count(self, prediction: ClassMap) -> BoundaryCounts:
        """The counts of predicted train ids for this label."""
        classes = self.num_classes
        rings = np.bincount(self.cells + prediction.ravel()[self.near], minlength=len(BANDS) * classes**2)
        prediction = np.where(self.label == IGNORE_INDEX, self.label, prediction)
        predicted = np.where(label_boundary(prediction), prediction, IGNORE_INDEX)
        pairs = ((predicted, self.contours), (self.contours, predicted))
        return BoundaryCounts(
            rings.reshape(len(BANDS), classes, classes).cumsum(0),
            self._count_regions(prediction),
            np.concatenate([self._count_near(ours, theirs) for ours, theirs in pairs]),
        )

    def _count_regions(self, prediction: ClassMap) -> Integer[np.ndarray, "2 classes"]:
        region = mask_region(prediction, self.depth)
        both = self.region & region & (self.label == prediction)
        label, predicted, shared = map(self._by_class, (self.label[self.region], prediction[region], self.label[both]))
        return np.stack([shared, label + predicted - shared])

    def _count_near(self, ours: ClassMap, theirs: ClassMap) -> Integer[np.ndarray, "2 classes"]:
        """Of our boundary pixels, by class: those within the tolerance of one of theirs, and all."""
        reach = int(self.tolerance)
        theirs = np.pad(theirs, reach, constant_values=IGNORE_INDEX)
        rows, columns = np.nonzero(ours != IGNORE_INDEX)
        classes, width, theirs = ours[rows, columns], theirs.shape[1], theirs.ravel()
        places, left = (rows + reach) * width + columns + reach, classes
        # From near to far, with those that have found one left out: most find it within a few steps.
        for dy, dx in disc(self.tolerance):
            alone = theirs[places + (dy * width + dx)] != left
            places, left = places[alone], left[alone]
        every = self._by_class(classes)
        return np.stack([every - self._by_class(left), every])

    def _by_class(self, ids: UInt8[np.ndarray, " pixels"]) -> Integer[np.ndarray, " classes"]:
        return np.bincount(ids, minlength=256)[: self.num_classes]


def disc(radius: float) -> list[tuple[int, int]]:
    """The whole-numbered (dy, dx) of at most that Euclidean length, by length."""
    reach = range(-int(radius), int(radius) + 1)
    inside = [(dy, dx) for dy in reach for dx in reach if dy**2 + dx**2 <= radius**2]
    return sorted(inside, key=lambda step: step[0] ** 2 + step[1] ** 2)


@dataclass(frozen=True)
class BoundaryScores:
    """Scores of counts, all in [0, 1]; NaN for a class that has no boundary in label or prediction."""

    counts: BoundaryCounts

    @property
    def trimap(self) -> dict[int, Scores]:
        """By d: the scores of the pixels within d of a label boundary (Kohli et al., IJCV 2009)."""
        return {d: Scores(band.astype(np.float64)) for d, band in zip(BANDS, self.counts.trimap, strict=True)}

    @property
    def boundary_iou(self) -> Float[np.ndarray, " classes"]:
        """Boundary IoU of each class (Cheng et al., CVPR 2021), its regions summed over the images.

        The region of a mask is what of it lies within 2% of the diagonal, rounded, of its end.
        """
        return ratio(*self.counts.regions)

    @property
    def boundary_f(self) -> Float[np.ndarray, " classes"]:
        """The boundary F-score of each class (Csurka et al., BMVC 2013), with pixels summed over the images.

        Precision is the share of the prediction's boundary pixels within 0.75% of the diagonal of the label's of the
        same class, recall the reverse; 0 if only one of the two has the class.
        """
        precision, recall = ratio(*self.counts.contours[:2]), ratio(*self.counts.contours[2:])
        none = np.isnan(precision) & np.isnan(recall)
        harmonic = np.nan_to_num(ratio(2 * precision * recall, precision + recall))
        return np.where(none, np.nan, harmonic)

    def as_dict(self, class_names: tuple[str, ...]) -> dict:
        """For result.json: means, and values by class name and by d; None where there are none."""
        return {
            "trimap": {str(d): scores.as_dict(class_names) for d, scores in self.trimap.items()},
            "mean_boundary_iou": none_if_nan(mean(self.boundary_iou)),
            "boundary_iou": by_name(class_names, self.boundary_iou),
            "mean_boundary_f": none_if_nan(mean(self.boundary_f)),
            "boundary_f": by_name(class_names, self.boundary_f),
        }
