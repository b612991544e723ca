"""Quality at boundaries: trimap IoU, Boundary IoU and boundary F-score, from counts that add up over images.

A boundary pixel shares a side with a pixel of another class. Ignored pixels are in no count, and make no boundary in
trimaps and F-scores. In Boundary IoU, which its authors define by masks, masks also end at ignored pixels and at the
image's border.
"""

import math
from dataclasses import dataclass

import cv2
import numpy as np
from jaxtyping import Bool, Float, Integer, UInt8

from ovenet_core.cross_entropy import IGNORE_INDEX
from ovenet_core.evaluation.metrics import ClassMap, PerClass, Scores, ratio, with_mean

BANDS = (1, 2, 4, 8, 16, 32)  # widths of the trimap, in pixels to each side of the boundary
REGION_DEPTH = 0.02  # of the regions of Boundary IoU, as a share of the diagonal (Cheng et al., section 5)
TOLERANCE = 0.0075  # of boundary F-scores, as a share of the diagonal (Csurka et al., BMVC 2013, section 2.3)

Mask = Bool[np.ndarray, "height width"]


def label_boundary(label: Integer[np.ndarray, "height width"]) -> Mask:
    """Mark the pixels that share a side with a pixel of another class. An ignored pixel makes no boundary."""
    valid, boundary = label != IGNORE_INDEX, np.zeros(label.shape, bool)
    for pixel, neighbour in ((np.s_[:, :-1], np.s_[:, 1:]), (np.s_[:-1], np.s_[1:])):
        edge = (label[pixel] != label[neighbour]) & valid[pixel] & valid[neighbour]
        boundary[pixel] |= edge
        boundary[neighbour] |= edge
    return boundary


def distance_to(mask: Mask) -> Float[np.ndarray, "height width"]:
    """Measure the Euclidean distance, in pixels, from each pixel to the mask; infinite if the mask is empty."""
    if not mask.any():
        return np.full(mask.shape, np.inf, np.float32)
    return cv2.distanceTransform((~mask).view(np.uint8), cv2.DIST_L2, cv2.DIST_MASK_PRECISE)


def mask_region(classes: ClassMap, depth: int) -> Mask:
    """Mark the pixels at most `depth` rows and columns from the end of the mask of their own class.

    The authors of Boundary IoU compute the same for one mask at a time, by eroding it `depth` times with a 3x3 square.
    """
    square = np.ones((2 * depth + 1, 2 * depth + 1), np.uint8)
    region = cv2.erode(classes, square) != cv2.dilate(classes, square)
    region[:depth] = region[-depth:] = region[:, :depth] = region[:, -depth:] = True
    return region


@dataclass(frozen=True)
class BoundaryCounts:
    """Pixel counts of one or more images, which add up, and their scores: in [0, 1], NaN for a class without boundary.

    Attributes:
        contours: by class, boundary pixels of the prediction within the tolerance of the label's, and all of them; then
            boundary pixels of the label within the tolerance of the prediction's, and all of them.
    """

    bands: Integer[np.ndarray, "bands label prediction"]  # the confusion matrix within each of `BANDS`
    regions: Integer[np.ndarray, "2 classes"]  # intersection and union of the regions of label and prediction
    contours: Integer[np.ndarray, "4 classes"]

    def __add__(self, other: "BoundaryCounts") -> "BoundaryCounts":
        return BoundaryCounts(self.bands + other.bands, self.regions + other.regions, self.contours + other.contours)

    @property
    def trimap(self) -> dict[int, Scores]:
        """By d: the scores of the pixels within d of a label boundary (Kohli et al., IJCV 2009)."""
        return {d: Scores(band) for d, band in zip(BANDS, self.bands, strict=True)}

    @property
    def boundary_iou(self) -> PerClass:
        """Boundary IoU of each class (Cheng et al., CVPR 2021), its regions summed over the images.

        The region of a mask is the part within 2% of the diagonal, rounded, of the end of the mask.
        """
        return ratio(*self.regions)

    @property
    def boundary_f(self) -> PerClass:
        """The boundary F-score of each class (Csurka et al., BMVC 2013), with pixels summed over the images.

        Precision is the share of the prediction's boundary pixels within 0.75% of the diagonal of a boundary pixel of
        the label, of the same class; recall is the reverse. The score is 0 if only one of the two has the class.
        """
        precision, recall = ratio(*self.contours[:2]), ratio(*self.contours[2:])
        harmonic = np.nan_to_num(ratio(2 * precision * recall, precision + recall))
        return np.where(np.isnan(precision) & np.isnan(recall), np.nan, harmonic)

    def as_dict(self, class_names: tuple[str, ...]) -> dict:
        """Return means, and values by class name and by d, for result.json; None where there are none."""
        result = {"trimap": {str(d): scores.as_dict(class_names) for d, scores in self.trimap.items()}}
        result |= with_mean("boundary_iou", class_names, self.boundary_iou)
        return result | with_mean("boundary_f", class_names, self.boundary_f)


class LabelBoundaries:
    """The boundaries of one label (train ids and `IGNORE_INDEX`), against which any predictions are counted."""

    def __init__(self, label: ClassMap, num_classes: int):
        self.label, self.num_classes = label, num_classes
        diagonal = math.hypot(*label.shape)
        self.depth, self.tolerance = max(round(REGION_DEPTH * diagonal), 1), max(TOLERANCE * diagonal, 1.0)
        boundary = label_boundary(label)
        distance = distance_to(boundary)
        # A boundary has pixels on both sides, so pixels at a distance below d are a band of d pixels to each side.
        self.band_pixels = np.flatnonzero((distance < BANDS[-1]) & (label != IGNORE_INDEX))
        band = np.digitize(distance.ravel()[self.band_pixels], BANDS)
        self.band_bins = (band * num_classes + label.ravel()[self.band_pixels]) * num_classes
        self.region = mask_region(label, self.depth)
        self.contours = np.where(boundary, label, IGNORE_INDEX)

    def count(self, prediction: ClassMap) -> BoundaryCounts:
        """Count predicted train ids for this label."""
        classes = self.num_classes
        bins = self.band_bins + prediction.ravel()[self.band_pixels]
        rings = np.bincount(bins, minlength=len(BANDS) * classes**2).reshape(len(BANDS), classes, classes)
        prediction = np.where(self.label == IGNORE_INDEX, self.label, prediction)
        region = mask_region(prediction, self.depth)
        both = self.region & region & (self.label == prediction)
        ids = self.label[self.region], prediction[region], self.label[both]
        label, predicted, shared = map(self._count_classes, ids)
        contours = np.where(label_boundary(prediction), prediction, IGNORE_INDEX)
        matches = self._count_matches(contours, self.contours), self._count_matches(self.contours, contours)
        regions = np.stack([shared, label + predicted - shared])
        return BoundaryCounts(rings.cumsum(0), regions, np.concatenate(matches))

    def _count_matches(self, contours: ClassMap, others: ClassMap) -> Integer[np.ndarray, "2 classes"]:
        """Count, by class, the contour pixels within the tolerance of another contour of their class, and all."""
        reach = int(self.tolerance)
        others = np.pad(others, reach, constant_values=IGNORE_INDEX)
        rows, columns = np.nonzero(contours != IGNORE_INDEX)
        ids, width, others = contours[rows, columns], others.shape[1], others.ravel()
        places, unmatched = (rows + reach) * width + columns + reach, ids
        # From near to far, without the pixels that have a match: most have one within a few steps.
        for dy, dx in disc(self.tolerance):
            missed = others[places + (dy * width + dx)] != unmatched
            places, unmatched = places[missed], unmatched[missed]
        every = self._count_classes(ids)
        return np.stack([every - self._count_classes(unmatched), every])

    def _count_classes(self, ids: UInt8[np.ndarray, " pixels"]) -> Integer[np.ndarray, " classes"]:
        return np.bincount(ids, minlength=256)[: self.num_classes]


def disc(radius: float) -> list[tuple[int, int]]:
    """List the integer steps (dy, dx) within a Euclidean radius, the shortest first."""
    reach = range(-int(radius), int(radius) + 1)
    inside = [(dy, dx) for dy in reach for dx in reach if dy**2 + dx**2 <= radius**2]
    return sorted(inside, key=lambda step: step[0] ** 2 + step[1] ** 2)
