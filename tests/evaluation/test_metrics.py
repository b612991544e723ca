"""Scores: counts against brute force, ratios by hand, classes that do not occur."""

import json

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from ovenet_core.evaluation.metrics import (
    Scores,
    class_iou,
    confusion_matrix,
    group_matrix,
    instance_iou,
    instance_shares,
)

# Rows are labels, columns predictions. Class 2 is never predicted, class 3 neither occurs nor is predicted.
BY_HAND = Scores(np.array([[6.0, 2, 0, 0], [1, 3, 0, 0], [2, 2, 0, 0], [0, 0, 0, 0]]))
NAMES = ("road", "car", "pole", "train")


def random_case(seed: int, classes: int, *shape: int) -> tuple[Tensor, Tensor]:
    """Predictions, and labels of which a fifth are ignored."""
    rng = torch.Generator().manual_seed(seed)
    label = torch.randint(0, classes, shape, generator=rng)
    ignored = torch.rand(shape, generator=rng) < 0.2
    return torch.randint(0, classes, shape, generator=rng), label.masked_fill(ignored, 255)


def counts_of(prediction: Tensor, label: Tensor, classes: int) -> list[list[int]]:
    return confusion_matrix(prediction, label, classes).tolist()


@settings(max_examples=30, deadline=None)
@given(seed=st.integers(0, 999), classes=st.integers(1, 20))
def test_counts_equal_brute_force(seed, classes):
    prediction, label = random_case(seed, classes, 2, 5, 6)
    expected = [[0] * classes for _ in range(classes)]
    for p, truth in zip(prediction.flatten().tolist(), label.flatten().tolist(), strict=True):
        if truth != 255:
            expected[truth][p] += 1
    assert counts_of(prediction, label, classes) == expected


def test_counts_by_hand_have_the_label_first():
    assert counts_of(torch.tensor([1, 1, 0, 1]), torch.tensor([0, 0, 1, 1]), 2) == [[0, 2], [1, 1]]


def test_ignored_pixels_do_not_count():
    """Whatever is predicted there."""
    assert counts_of(torch.tensor([0, 1, 1]), torch.tensor([255, 255, 1]), 2) == [[0, 0], [0, 1]]


def test_nothing_but_ignored_pixels_leaves_all_scores_undefined():
    scores = Scores(confusion_matrix(torch.zeros(4, dtype=torch.int64), torch.full((4,), 255), 3))
    assert all(np.isnan(v) for v in (scores.miou, scores.mean_accuracy, scores.pixel_accuracy, *scores.iou))


@pytest.mark.parametrize("prediction_type", [torch.uint8, torch.int64])
@pytest.mark.parametrize("label_type", [torch.uint8, torch.int32, torch.int64])
def test_integer_types_do_not_matter(prediction_type, label_type):
    """Bytes do not overflow: 150 classes make 22500 cells."""
    prediction, label = random_case(0, 150, 40, 50)
    expected = counts_of(prediction, label, 150)
    assert counts_of(prediction.to(prediction_type), label.to(label_type), 150) == expected


@pytest.mark.parametrize("kind", [torch.uint8, torch.int32, torch.int64])
def test_labels_are_left_as_they_are(kind):
    prediction, label = (t.to(kind) for t in random_case(0, 5, 6, 7))
    before = prediction.clone(), label.clone()
    confusion_matrix(prediction, label, 5)
    assert torch.equal(prediction, before[0]) and torch.equal(label, before[1])


def test_nothing_at_all_counts_nothing():
    assert counts_of(torch.zeros(0, dtype=torch.uint8), torch.zeros(0, dtype=torch.uint8), 2) == [[0, 0], [0, 0]]


def test_iou_by_hand():
    """Hits over label or prediction: 6 / (8 + 9 - 6), 3 / (4 + 7 - 3), 0 / 4; NaN for the class that is absent."""
    np.testing.assert_allclose(BY_HAND.iou, [6 / 11, 3 / 8, 0, np.nan])
    hits, labels, predictions = np.array([[6, 0], [8, 0], [9, 0]])
    np.testing.assert_allclose(class_iou(hits, labels, predictions), [6 / 11, np.nan])


def test_accuracy_by_hand():
    np.testing.assert_allclose(BY_HAND.accuracy, [6 / 8, 3 / 4, 0, np.nan])


def test_means_leave_out_the_absent_class():
    assert pytest.approx((6 / 11 + 3 / 8 + 0) / 3) == BY_HAND.miou
    assert pytest.approx((6 / 8 + 3 / 4 + 0) / 3) == BY_HAND.mean_accuracy


def test_pixel_accuracy_by_hand():
    assert pytest.approx(9 / 16) == BY_HAND.pixel_accuracy


def test_class_that_is_only_predicted_counts_in_the_iou_and_not_in_the_accuracy():
    scores = Scores(np.array([[3.0, 1], [0, 0]]))
    np.testing.assert_allclose(scores.iou, [3 / 4, 0])
    np.testing.assert_allclose(scores.accuracy, [3 / 4, np.nan])
    assert scores.miou == pytest.approx(3 / 8)
    assert scores.mean_accuracy == pytest.approx(3 / 4)


def test_perfect_prediction_scores_one():
    label = torch.arange(25).view(5, 5) % 5
    scores = Scores(confusion_matrix(label, label, 5))
    assert scores.miou == scores.pixel_accuracy == scores.mean_accuracy == 1


@settings(max_examples=20, deadline=None)
@given(seed=st.integers(0, 999))
def test_scores_do_not_depend_on_the_order_of_the_classes(seed):
    prediction, label = random_case(seed, 4, 6, 7)
    new = torch.tensor([2, 0, 3, 1])
    permuted = torch.where(label == 255, 255, new[label.clamp(max=3)])
    plain = Scores(confusion_matrix(prediction, label, 4))
    other = Scores(confusion_matrix(new[prediction], permuted, 4))
    np.testing.assert_allclose(other.iou[new], plain.iou)


def test_as_dict_has_the_means_and_the_iou_by_name():
    """None where a class does not occur: it goes into result.json, which has no NaN."""
    result = BY_HAND.as_dict(NAMES)
    assert result == {
        "miou": BY_HAND.miou,
        "pixel_accuracy": BY_HAND.pixel_accuracy,
        "mean_accuracy": BY_HAND.mean_accuracy,
        "iou": {"road": 6 / 11, "car": 3 / 8, "pole": 0.0, "train": None},
    }
    assert json.loads(json.dumps(result, allow_nan=False)) == result


def test_as_dict_of_nothing_has_no_nan():
    result = Scores(np.zeros((2, 2))).as_dict(("road", "car"))
    assert result == {"miou": None, "pixel_accuracy": None, "mean_accuracy": None, "iou": {"road": None, "car": None}}


def test_grouped_classes_count_as_one_by_hand():
    """road, pole and train are one: hits 6 + 0 + 2 + 0 = 8, labels 8 + 4 = 12, predictions 9 + 0; car as before."""
    names, groups = group_matrix(("still", "moves", "still", "still"))
    scores = BY_HAND.grouped(groups)
    assert names == ("still", "moves")
    np.testing.assert_array_equal(scores.confusion, [[8, 4], [1, 3]])
    np.testing.assert_allclose(scores.iou, [8 / (12 + 9 - 8), 3 / 8])


def two_cars() -> tuple[np.ndarray, np.ndarray]:
    """A car of 4 pixels of which 3 are found (one as a bus), one of 2 of which 1 is, and a crowd of cars."""
    prediction = np.array([[1, 1, 1, 2], [1, 0, 0, 1]], np.uint8)
    instances = np.array([[26001, 26001, 26001, 26001], [26002, 26002, 7, 26]], np.uint16)
    return prediction, instances


def test_shares_of_instances_by_hand():
    lookup = np.full(256, 255, np.uint8)
    lookup[[7, 26, 28]] = 0, 1, 2
    shares = instance_shares(*two_cars(), lookup, ("flat", "vehicle", "vehicle"))
    np.testing.assert_allclose(shares, [[0, 3 / 4 + 1 / 2, 0], [0, 4 / 4 + 1 / 2, 0], [0, 2, 0]])


def test_instance_iou_by_hand():
    """Every car weighs 10 pixels: 10 * 5/4 of 2 * 10 and the false positives, of which the road has 1."""
    scores = Scores(np.array([[5.0, 1, 0], [1, 5, 1], [0, 0, 0]]))
    sizes, groups = np.array([np.nan, 10, np.nan]), np.eye(3, dtype=bool)
    iou = instance_iou(scores, np.array([0, 5 / 4, 0]), np.array([0.0, 2, 0]), sizes, groups)
    np.testing.assert_allclose(iou, [np.nan, 12.5 / 21, np.nan])


def test_as_dict_wants_a_name_for_every_class():
    with pytest.raises(ValueError):
        BY_HAND.as_dict(NAMES[:3])
