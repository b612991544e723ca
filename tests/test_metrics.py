"""Scores: counts against brute force, ratios by hand, classes that do not occur."""

import json

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from ovenet_core.metrics import ConfusionMatrix, Scores

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
    matrix = ConfusionMatrix(classes)
    matrix.update(prediction, label)
    return matrix.counts.tolist()


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
    matrix = ConfusionMatrix(3)
    matrix.update(torch.zeros(4, dtype=torch.int64), torch.full((4,), 255))
    scores = matrix.scores()
    assert all(np.isnan(v) for v in (scores.miou, scores.mean_accuracy, scores.pixel_accuracy, *scores.iou))


@pytest.mark.parametrize("prediction_type", [torch.uint8, torch.int64])
@pytest.mark.parametrize("label_type", [torch.uint8, torch.int32, torch.int64])
def test_integer_types_do_not_matter(prediction_type, label_type):
    """Bytes do not overflow: 150 classes make 22500 cells."""
    prediction, label = random_case(0, 150, 40, 50)
    expected = counts_of(prediction, label, 150)
    assert counts_of(prediction.to(prediction_type), label.to(label_type), 150) == expected


def test_updates_add_up():
    """Picture by picture as all at once, and pictures may differ in size."""
    pairs = [random_case(seed, 4, *size) for seed, size in enumerate([(3, 4), (5, 6), (7,)])]
    matrix = ConfusionMatrix(4)
    for prediction, label in pairs:
        matrix.update(prediction, label)
    together = (torch.cat([x.flatten() for x in part]) for part in zip(*pairs, strict=True))
    assert matrix.counts.tolist() == counts_of(*together, 4)


def test_counts_are_exact_integers():
    """Beyond what float32 can count."""
    matrix = ConfusionMatrix(2)
    matrix.counts[0, 0] = 2**40
    matrix.update(torch.tensor([0]), torch.tensor([0]))
    assert matrix.scores().confusion[0, 0] == 2**40 + 1


def test_iou_by_hand():
    """Hits over label or prediction: 6 / (8 + 9 - 6), 3 / (4 + 7 - 3), 0 / 4; NaN for the class that is absent."""
    np.testing.assert_allclose(BY_HAND.iou, [6 / 11, 3 / 8, 0, np.nan])


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
    matrix = ConfusionMatrix(5)
    label = torch.arange(25).view(5, 5) % 5
    matrix.update(label, label)
    scores = matrix.scores()
    assert scores.miou == scores.pixel_accuracy == scores.mean_accuracy == 1


@settings(max_examples=20, deadline=None)
@given(seed=st.integers(0, 999))
def test_scores_do_not_depend_on_the_order_of_the_classes(seed):
    prediction, label = random_case(seed, 4, 6, 7)
    new = torch.tensor([2, 0, 3, 1])
    permuted = torch.where(label == 255, 255, new[label.clamp(max=3)])
    plain, other = ConfusionMatrix(4), ConfusionMatrix(4)
    plain.update(prediction, label)
    other.update(new[prediction], permuted)
    np.testing.assert_allclose(other.scores().iou[new], plain.scores().iou)


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


def test_as_dict_wants_a_name_for_every_class():
    with pytest.raises(ValueError):
        BY_HAND.as_dict(NAMES[:3])
