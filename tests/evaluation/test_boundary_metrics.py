"""Boundary scores against brute force: pixel by pixel, mask by mask, as their papers define them."""

import json
import math
from itertools import product

import numpy as np
import pytest

from ovenet_core.evaluation.boundary_metrics import (
    BANDS,
    BoundaryCounts,
    LabelBoundaries,
    disc,
    distance_to,
    label_boundary,
    mask_region,
)

CLASSES = 4


def blocks(seed: int, height: int = 34, width: int = 47, ignored: bool = True) -> np.ndarray:
    """A map of rectangles of `CLASSES` - 1 classes, with some ignored ones: class 3 is in no label."""
    rng = np.random.default_rng(seed)
    label = np.zeros((height, width), np.uint8)
    for _ in range(12):
        top, left, down, right = rng.integers((0, 0, 1, 1), (height, width, 14, 14))
        label[top : top + down, left : left + right] = rng.choice([0, 1, 2, 255 if ignored else 1])
    return label


def case(seed: int) -> tuple[np.ndarray, np.ndarray]:
    """A label, and a prediction that is the label shifted, with class 3 in places."""
    label = blocks(seed)
    rng = np.random.default_rng(seed)
    prediction = np.roll(np.where(label == 255, 2, label), rng.integers(-4, 5, 2), (0, 1)).astype(np.uint8)
    prediction[rng.random(label.shape) < 0.02] = 3
    return label, prediction


def scores_of(label: np.ndarray, prediction: np.ndarray, classes: int = CLASSES) -> BoundaryCounts:
    return LabelBoundaries(label, classes).count(prediction)


def slow_boundary(label: np.ndarray) -> set[tuple[int, int]]:
    height, width = label.shape
    found = set()
    for v, u in product(range(height), range(width)):
        sides = [(v + 1, u), (v - 1, u), (v, u + 1), (v, u - 1)]
        values = [label[y, x] for y, x in sides if 0 <= y < height and 0 <= x < width]
        if label[v, u] != 255 and any(value not in (label[v, u], 255) for value in values):
            found.add((v, u))
    return found


@pytest.mark.parametrize("seed", range(3))
def test_boundary_pixels_equal_brute_force(seed):
    label = blocks(seed)
    assert set(map(tuple, np.argwhere(label_boundary(label)).tolist())) == slow_boundary(label)


def test_an_ignored_pixel_makes_no_boundary():
    assert not label_boundary(np.array([[0, 0, 255, 1, 1]], np.uint8)).any()


@pytest.mark.parametrize("seed", range(3))
def test_distances_are_euclidean(seed):
    mask = np.random.default_rng(seed).random((40, 70)) < 0.005
    mask[seed, 3] = True
    expected = np.min([np.hypot(*(np.indices(mask.shape) - place[:, None, None])) for place in np.argwhere(mask)], 0)
    np.testing.assert_allclose(distance_to(mask), expected, rtol=1e-6)


def test_everything_is_far_from_an_empty_mask():
    assert np.isinf(distance_to(np.zeros((3, 4), bool))).all()


@pytest.mark.parametrize("seed", range(3))
def test_trimap_counts_equal_brute_force(seed):
    label, prediction = case(seed)
    boundary = np.array(list(slow_boundary(label)))
    bands = LabelBoundaries(label, CLASSES).count(prediction).bands
    for d, counted in zip(BANDS, bands, strict=True):
        expected = np.zeros((CLASSES, CLASSES), int)
        for v, u in np.argwhere(label != 255):
            if ((boundary - (v, u)) ** 2).sum(1).min() < d**2:
                expected[label[v, u], prediction[v, u]] += 1
        np.testing.assert_array_equal(counted, expected)


@pytest.mark.parametrize("d", BANDS)
def test_a_band_has_d_pixels_to_each_side_of_a_straight_boundary(d):
    label = np.zeros((5, 100), np.uint8)
    label[:, 50:] = 1
    assert scores_of(label, label).trimap[d].confusion.sum() == 5 * 2 * d


def test_a_label_without_a_boundary_has_no_band():
    label = np.zeros((20, 30), np.uint8)
    assert LabelBoundaries(label, CLASSES).count(label).bands.sum() == 0


def slow_region(mask: np.ndarray, depth: int) -> np.ndarray:
    """What is left of a mask when what has only the mask around it, `depth` pixels wide, is taken away."""
    padded = np.pad(mask, depth)
    return np.array(
        [
            [
                mask[v, u] and not padded[v : v + 2 * depth + 1, u : u + 2 * depth + 1].all()
                for u in range(mask.shape[1])
            ]
            for v in range(mask.shape[0])
        ]
    )


@pytest.mark.parametrize("depth", [1, 2, 5, 40])
def test_regions_of_all_masks_at_once_equal_those_of_each(depth):
    label = blocks(1)
    region = mask_region(label, depth)
    for c in np.unique(label):
        np.testing.assert_array_equal(region & (label == c), slow_region(label == c, depth))


@pytest.mark.parametrize("seed", range(3))
def test_boundary_iou_equals_that_of_masks(seed):
    """For each class, of masks without the ignored pixels; 2% of the diagonal are 1 pixel here, so 8 times as large."""
    label, prediction = (np.kron(part, np.ones((8, 8), np.uint8)) for part in case(seed))
    depth, found = round(0.02 * math.hypot(*label.shape)), scores_of(label, prediction).boundary_iou
    assert depth == 9
    for c in range(CLASSES):
        truth, guess = (slow_region(m, depth) for m in (label == c, (prediction == c) & (label != 255)))
        expected = (truth & guess).sum() / (truth | guess).sum() if (truth | guess).any() else np.nan
        np.testing.assert_allclose(found[c], expected)


@pytest.mark.parametrize("seed", range(3))
def test_boundary_f_equals_brute_force(seed):
    label, prediction = (np.kron(part, np.ones((8, 8), np.uint8)) for part in case(seed))
    tolerance, found = 0.0075 * math.hypot(*label.shape), scores_of(label, prediction).boundary_f
    assert 3 < tolerance < 4
    guess = np.where(label == 255, 255, prediction)
    contours = [
        [np.array([p for p in slow_boundary(part) if part[p] == c]) for c in range(CLASSES)] for part in (label, guess)
    ]
    for c, (theirs, ours) in enumerate(zip(*contours, strict=True)):
        if len(ours) == 0 or len(theirs) == 0:
            expected = 0.0 if len(ours) or len(theirs) else np.nan
        else:
            near = ((ours[:, None] - theirs[None]) ** 2).sum(2) <= tolerance**2
            precision, recall = near.any(1).mean(), near.any(0).mean()
            expected = 2 * precision * recall / (precision + recall)
        np.testing.assert_allclose(found[c], expected)


def test_a_boundary_as_far_as_the_tolerance_is_found_and_one_pixel_further_is_not():
    """On an image of 600x800, of which 0.75% of the diagonal are 7.5 pixels."""
    label = np.zeros((600, 800), np.uint8)
    label[:, 400:] = 1
    assert scores_of(label, np.roll(label, 7, 1)[:, 7:].repeat([8] + [1] * 792, 1)).boundary_f[:2].tolist() == [1, 1]
    assert scores_of(label, np.roll(label, 8, 1)[:, 8:].repeat([9] + [1] * 791, 1)).boundary_f[:2].tolist() == [0, 0]


@pytest.mark.parametrize("seed", [0, 2])
def test_a_perfect_prediction_scores_one(seed):
    """Whatever it says where the label is ignored; classes that do not occur have no score."""
    label = blocks(seed)
    scores = scores_of(label, np.where(label == 255, 3, label).astype(np.uint8))
    for values in (scores.boundary_iou, scores.boundary_f, *(band.iou for band in scores.trimap.values())):
        assert values[:3].tolist() == [1, 1, 1] and np.isnan(values[3])


def test_what_is_predicted_at_ignored_pixels_does_not_matter():
    label, prediction = case(4)
    other = np.where(label == 255, (prediction + 1) % CLASSES, prediction).astype(np.uint8)
    for one, two in zip(
        *(vars(LabelBoundaries(label, CLASSES).count(p)).values() for p in (prediction, other)), strict=True
    ):
        np.testing.assert_array_equal(one, two)


def test_an_image_of_nothing_but_ignored_pixels_counts_nothing():
    label = np.full((9, 9), 255, np.uint8)
    counts = LabelBoundaries(label, CLASSES).count(np.zeros((9, 9), np.uint8))
    assert all(values.sum() == 0 for values in vars(counts).values())


def test_counts_of_images_add_up():
    """Boundary scores of two images are ratios of sums, not means of ratios."""
    one, two = (LabelBoundaries(label, CLASSES).count(prediction) for label, prediction in (case(5), case(6)))
    both = one + two
    np.testing.assert_allclose(both.boundary_iou, (one.regions + two.regions)[0] / (one.regions + two.regions)[1])
    assert both.trimap[4].confusion.sum() == one.bands[2].sum() + two.bands[2].sum()


@pytest.mark.parametrize("radius", [1.0, 2.0, 4.5])
def test_a_disc_has_all_steps_within_its_radius_from_near_to_far(radius):
    steps = disc(radius)
    lengths = [math.hypot(*step) for step in steps]
    assert lengths == sorted(lengths) and lengths[-1] <= radius and len(set(steps)) == len(steps)
    assert len(steps) == sum(math.hypot(y, x) <= radius for y in range(-9, 10) for x in range(-9, 10))


def test_as_dict_is_json_with_names():
    label, prediction = case(7)
    scores = scores_of(label, prediction, CLASSES + 1)
    names = ("road", "car", "pole", "sign", "train")
    result = scores.as_dict(names)
    assert json.loads(json.dumps(result, allow_nan=False)) == result
    assert list(result["trimap"]) == [str(d) for d in BANDS] and result["boundary_iou"]["train"] is None
    assert result["mean_boundary_iou"] == pytest.approx(np.nanmean(scores.boundary_iou))
