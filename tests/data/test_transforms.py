"""Augmentation: reproducible, aligned to a fraction of a pixel, and honest at the borders."""

import math
import zlib
from collections import Counter
from fractions import Fraction

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from jaxtyping import TypeCheckError

from ovenet_core.cross_entropy import IGNORE_INDEX
from ovenet_core.data import ACDC, ADE20K, CAMVID, CITYSCAPES, TrainingDataset
from ovenet_core.data.transforms import (
    IMAGENET_MEAN_COLOUR,
    Draws,
    augment,
    draw_augmentation,
    resize_to,
    sample_rng,
)
from ovenet_core.training.config import DataConfig
from ovenet_core.utils import ConfigError

AUTHORS = {"scale_range": (0.5, 2.1), "scale_step": 0.1, "resize_first": True, "padding": "black"}


def image(height: int, width: int, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    return (
        rng.integers(0, 256, (height, width, 3), dtype=np.uint8),
        rng.integers(0, 19, (height, width), dtype=np.uint8),
    )


def random_crop(image: np.ndarray, label: np.ndarray, *, rng: np.random.Generator, **settings):
    augmentation = DataConfig(**settings)
    return augment(image, label, augmentation, draw_augmentation(augmentation, rng))


def test_same_seed_epoch_and_index_give_the_same_crop():
    pair = image(40, 60)
    first, second = (random_crop(*pair, crop=(20, 30), rng=sample_rng(3, 4, 5)) for _ in range(2))
    np.testing.assert_array_equal(first[0], second[0])
    np.testing.assert_array_equal(first[1], second[1])


@pytest.mark.parametrize("other", [(4, 4, 5), (3, 5, 5), (3, 4, 6), (4, 3, 5), (5, 4, 3)])
def test_another_seed_epoch_or_index_gives_other_numbers(other):
    assert sample_rng(3, 4, 5).random() != sample_rng(*other).random()


@settings(max_examples=60, deadline=None)
@given(
    size=st.tuples(st.integers(1, 70), st.integers(1, 70)),
    crop=st.tuples(st.integers(1, 50), st.integers(1, 50)),
    low=st.floats(0.1, 2),
    more=st.floats(0, 2),
    seed=st.integers(0, 99),
)
def test_result_has_the_size_of_the_crop(size, crop, low, more, seed):
    pixels, label = random_crop(*image(*size), crop=crop, scale_range=(low, low + more), rng=sample_rng(seed, 0, 0))
    assert pixels.shape == (*crop, 3) and label.shape == crop
    assert pixels.dtype == label.dtype == np.uint8


@settings(max_examples=30, deadline=None)
@given(seed=st.integers(0, 999))
def test_at_scale_one_the_crop_is_a_window_of_the_source(seed):
    height, width, rows, columns = 12, 15, 5, 7
    label = np.arange(height * width, dtype=np.uint8).reshape(height, width)
    image = np.stack([label, label, label], axis=2)
    got, got_label = random_crop(
        image, label, crop=(rows, columns), scale_range=(1, 1), flip=False, rng=sample_rng(seed, 0, 0)
    )
    top, left = divmod(int(got_label[0, 0]), width)
    np.testing.assert_array_equal(got_label, label[top : top + rows, left : left + columns])
    np.testing.assert_array_equal(got[..., 0], got_label)


def test_every_place_of_the_crop_occurs():
    label = np.arange(12, dtype=np.uint8).reshape(3, 4)
    image = np.zeros((3, 4, 3), np.uint8)
    crops = [
        random_crop(image, label, crop=(2, 2), scale_range=(1, 1), flip=False, rng=sample_rng(0, 0, index))
        for index in range(200)
    ]
    assert {int(crop[1][0, 0]) for crop in crops} == {0, 1, 2, 4, 5, 6}


def test_flip_mirrors_image_and_label_together():
    pair = image(30, 40)
    mirrored = 0
    for index in range(20):
        plain = random_crop(*pair, crop=(20, 24), flip=False, rng=sample_rng(0, 0, index))
        maybe = random_crop(*pair, crop=(20, 24), flip=True, rng=sample_rng(0, 0, index))
        flips = [not np.array_equal(a, b) for a, b in zip(plain, maybe, strict=True)]
        assert flips[0] == flips[1]
        if flips[0]:
            mirrored += 1
            np.testing.assert_array_equal(plain[0][:, ::-1], maybe[0])
            np.testing.assert_array_equal(plain[1][:, ::-1], maybe[1])
    assert 4 < mirrored < 16


@pytest.mark.parametrize("scale", [0.61, 0.73, 0.87, 1.13, 1.37, 1.61, 1.83])
@pytest.mark.parametrize("axis", [0, 1])
def test_label_is_not_shifted_against_the_image(scale, axis):
    # Both are a ramp along one axis, so that their mean difference is the shift, in pixels of the source.
    ramp = np.arange(60, dtype=np.uint8)
    label = np.ascontiguousarray(np.broadcast_to(ramp[:, None] if axis == 0 else ramp, (60, 60)))
    image = np.stack([4 * label] * 3, axis=2)
    shifts = []
    for index in range(30):
        got, got_label = random_crop(
            image, label, crop=(30, 30), scale_range=(scale, scale), rng=sample_rng(0, 0, index)
        )
        shifts.append((got[2:-2, 2:-2, 0] / 4 - got_label[2:-2, 2:-2]).mean())
    assert abs(np.mean(shifts)) < 0.1


def test_enlarging_keeps_label_borders_where_the_image_has_them():
    label = np.zeros((20, 20), np.uint8)
    label[:, 10:] = 1
    image = np.stack([label * 200] * 3, axis=2)
    for index in range(20):
        got, got_label = random_crop(image, label, crop=(16, 30), scale_range=(1.5, 1.5), rng=sample_rng(0, 0, index))
        np.testing.assert_array_equal(got[..., 0] > 100, got_label == 1)


def test_image_smaller_than_the_crop_is_filled_up():
    pixels, label = image(20, 30)
    got, got_label = random_crop(
        pixels, label, crop=(25, 24), scale_range=(0.5, 0.5), flip=False, rng=sample_rng(0, 0, 0)
    )
    assert (got_label[:10, :15] != IGNORE_INDEX).all()
    rest = np.ones((25, 24), bool)
    rest[:10, :15] = False
    assert (got_label[rest] == IGNORE_INDEX).all()
    assert (got[rest] == IMAGENET_MEAN_COLOUR).all()


def test_source_is_left_as_it_was():
    pixels, label = image(30, 40)
    before = pixels.copy(), label.copy()
    for index in range(5):
        got = random_crop(pixels, label, crop=(10, 10), scale_range=(1, 1), rng=sample_rng(0, 0, index))
        for array in got:
            array[:] = 0
    np.testing.assert_array_equal(pixels, before[0])
    np.testing.assert_array_equal(label, before[1])


def test_image_and_label_of_different_sizes_are_refused():
    with pytest.raises((ValueError, TypeCheckError)):
        random_crop(image(10, 12)[0], image(10, 11)[1], crop=(4, 4), rng=sample_rng(0, 0, 0))


@pytest.mark.parametrize("size", [(20, 30), (10, 15), (37, 11)])
def test_image_and_label_are_resized_to_the_size_of_the_network_without_a_shift(size):
    ramp = np.broadcast_to(np.arange(60, dtype=np.uint8), (40, 60)).copy()
    pixels, label = resize_to(size, np.stack([4 * ramp] * 3, axis=2)), resize_to(size, ramp)
    assert pixels.shape == (*size, 3) and label.shape == size
    assert abs((pixels[..., 0] / 4 - label).mean()) <= 0.5 and set(label.ravel()) <= set(range(60))


def test_without_a_size_nothing_is_resized():
    pixels, label = image(10, 12)
    np.testing.assert_array_equal(resize_to(None, pixels), pixels)
    np.testing.assert_array_equal(resize_to(None, label), label)


# -- Draws


SETTINGS = [{}, {"flip": False}, {"scale_step": 0.5}, AUTHORS, AUTHORS | {"base_size": 200, "flip": False}]


@pytest.mark.parametrize("settings", SETTINGS, ids=str)
def test_four_numbers_are_drawn_in_the_same_order_whatever_the_settings(settings):
    for index in range(20):
        rng, reference = sample_rng(0, 1, index), sample_rng(0, 1, index)
        draws, augmentation = draw_augmentation(DataConfig(**settings), rng), DataConfig(**settings)
        scale = reference.uniform(*augmentation.scale_range)
        assert draws[1:3] == (reference.random(), reference.random())
        assert draws.flipped == (reference.random() < 0.5 and augmentation.flip)
        assert rng.random() == reference.random()
        assert draws.scale == scale if augmentation.scale_step is None else abs(draws.scale - scale) < 0.5


def test_crops_of_stored_runs_stay_as_they_were():
    """The sum is of the code that stored runs were trained with."""
    crops = [random_crop(*image(48, 64), crop=(40, 72), rng=sample_rng(7, 0, index))[1] for index in range(40)]
    assert zlib.crc32(np.stack(crops).tobytes()) == 4045888060


@pytest.mark.parametrize(
    "low, high, step, values",
    [(0.5, 2.1, 0.1, 17), (0.5, 1.6, 0.1, 12), (0.5, 2.0, 0.5, 4), (1.0, 1.0, 0.3, 1), (0.7, 0.9, 0.2, 2)],
)
def test_scales_in_steps_are_all_those_of_the_range_and_equally_frequent(low, high, step, values):
    settings = DataConfig(scale_range=(low, high), scale_step=step)
    drawn = Counter(draw_augmentation(settings, sample_rng(0, 0, i)).scale for i in range(200 * values))
    np.testing.assert_allclose(sorted(drawn), np.linspace(low, high, values), rtol=1e-12)
    assert len(drawn) == values
    # Five standard deviations of a binomial distribution.
    assert all(abs(count - 200) < 5 * math.sqrt(200) for count in drawn.values())


@pytest.mark.parametrize("step", [0.3, 0.7, 1.7, 100.0, 1e9])
def test_step_that_does_not_divide_the_scale_range_is_refused(step):
    with pytest.raises(ConfigError) as caught:
        DataConfig(scale_range=(0.5, 2.1), scale_step=step)
    assert (caught.value.where, caught.value.found) == ("scale_step", repr(step))
    assert "1.6" in caught.value.expected


@pytest.mark.parametrize(
    "field, value",
    [
        ("scale_step", 0.0),
        ("scale_step", -0.1),
        ("base_size", 0),
        ("padding", "white"),
        ("image_size", 0),
        ("crop", (0, 4)),
        ("scale_range", (2.0, 1.0)),
        ("scale_range", (0.0, 1.0)),
    ],
)
def test_impossible_settings_are_refused_by_name(field, value):
    with pytest.raises(ConfigError) as caught:
        DataConfig(**{field: value})
    assert caught.value.where.split("[")[0] == field


# -- Sizes


def half_up(value: Fraction) -> int:
    return math.floor(value + Fraction(1, 2))


sizes = st.tuples(st.integers(1, 60), st.integers(1, 60))


@settings(max_examples=100, deadline=None)
@given(size=sizes, base_size=st.integers(1, 60), tenths=st.integers(5, 21))
def test_base_size_is_the_longer_side_at_scale_one(size, base_size, tenths):
    exact = Fraction(base_size * tenths, 10)
    # A crop that shows the whole scaled image.
    side = half_up(exact) + 1
    shown = {}
    for first in (True, False):
        augmentation = DataConfig(crop=(side, side), base_size=base_size, resize_first=first)
        _, label = augment(*image(*size), augmentation, Draws(tenths / 10, 0.0, 0.0, False))
        inside = label != IGNORE_INDEX
        shown[first] = inside.any(1).sum(), inside.any(0).sum()
        assert inside[: shown[first][0], : shown[first][1]].all()
    longer = max(1, half_up(exact))
    assert shown[True] == tuple(max(1, half_up(Fraction(length * longer, max(size)))) for length in size)
    for got, length in zip(shown[False], size, strict=True):
        assert abs(got - max(1, exact * length / max(size))) <= Fraction(1, 2) + Fraction(1, 10**9)


@settings(max_examples=60, deadline=None)
@given(size=sizes, crop=sizes, seed=st.integers(0, 99), first=st.booleans())
def test_base_size_of_the_own_longer_side_changes_nothing(size, crop, seed, first):
    own = {"crop": crop, "resize_first": first}
    plain = random_crop(*image(*size), rng=sample_rng(seed, 0, 0), **own)
    based = random_crop(*image(*size), rng=sample_rng(seed, 0, 0), base_size=max(size), **own)
    for got, expected in zip(based, plain, strict=True):
        np.testing.assert_array_equal(got, expected)


@settings(max_examples=60, deadline=None)
@given(size=sizes, crop=sizes, seed=st.integers(0, 99), padding=st.sampled_from(["mean", "black"]))
def test_resizing_first_changes_nothing_at_scale_one(size, crop, seed, padding):
    still = {"crop": crop, "scale_range": (1.0, 1.0), "padding": padding}
    one, other = (
        random_crop(*image(*size), rng=sample_rng(seed, 0, 0), resize_first=first, **still) for first in (True, False)
    )
    for got, expected in zip(one, other, strict=True):
        np.testing.assert_array_equal(got, expected)


@settings(max_examples=100, deadline=None)
@given(size=sizes, crop=sizes, base_size=st.integers(1, 60), seed=st.integers(0, 999))
def test_resizing_first_cuts_the_whole_resized_and_padded_image(size, crop, base_size, seed):
    """Brute force: the crop is one of all windows of that image, the one that was drawn."""
    pixels, label = image(*size)
    augmentation = DataConfig(crop=crop, base_size=base_size, **AUTHORS)
    draws = draw_augmentation(augmentation, sample_rng(seed, 0, 0))
    longer = max(1, half_up(Fraction(base_size * round(10 * draws.scale), 10)))
    rows, columns = (max(1, half_up(Fraction(length * longer, max(size)))) for length in size)
    padded = np.zeros((max(rows, crop[0]), max(columns, crop[1]), 4), np.uint8)
    padded[..., 3] = IGNORE_INDEX
    padded[:rows, :columns, :3] = cv2.resize(pixels, (columns, rows), interpolation=cv2.INTER_LINEAR)
    padded[:rows, :columns, 3] = cv2.resize(label, (columns, rows), interpolation=cv2.INTER_NEAREST)
    windows = np.lib.stride_tricks.sliding_window_view(padded, crop, axis=(0, 1))
    place = math.floor(draws.down * windows.shape[0]), math.floor(draws.across * windows.shape[1])
    expected = windows[place].transpose(1, 2, 0)
    if draws.flipped:
        expected = expected[:, ::-1]
    got, got_label = augment(pixels, label, augmentation, draws)
    np.testing.assert_array_equal(got, expected[..., :3])
    np.testing.assert_array_equal(got_label, expected[..., 3])


def test_every_place_of_the_resized_and_padded_image_is_equally_frequent():
    label = np.arange(12, dtype=np.uint8).reshape(3, 4)
    still = {"crop": (2, 2), "scale_range": (1.0, 1.0), "resize_first": True, "flip": False}
    crops = [random_crop(np.dstack([label] * 3), label, rng=sample_rng(0, 0, i), **still)[1] for i in range(1200)]
    places = Counter(int(crop[0, 0]) for crop in crops)
    assert places.keys() == {0, 1, 2, 4, 5, 6}
    assert all(abs(count - 200) < 5 * math.sqrt(200) for count in places.values())


@pytest.mark.parametrize("first", [True, False])
def test_padding_is_black_and_ignored(first):
    settings = {"crop": (25, 24), "scale_range": (0.5, 0.5), "padding": "black", "resize_first": first}
    pixels, label = image(20, 30)
    got, got_label = random_crop(np.maximum(pixels, 1), label, rng=sample_rng(0, 0, 0), flip=False, **settings)
    inside = np.zeros((25, 24), bool)
    inside[:10, :15] = True
    np.testing.assert_array_equal((got > 0).all(2), inside)
    np.testing.assert_array_equal((got > 0).any(2), inside)
    np.testing.assert_array_equal(got_label != IGNORE_INDEX, inside)


@settings(max_examples=100, deadline=None)
@given(size=sizes, shorter=st.integers(1, 60))
def test_one_number_is_the_shorter_side_and_keeps_the_aspect(size, shorter):
    pixels, label = image(*size)
    got, got_label = resize_to(shorter, pixels), resize_to(shorter, label)
    assert got.shape[:2] == got_label.shape == tuple(half_up(Fraction(side * shorter, min(size))) for side in size)
    assert min(got_label.shape) == shorter
    for one, other in ((got, pixels), (got_label, label)):
        np.testing.assert_array_equal(one, resize_to(got_label.shape, other))


def test_sizes_of_the_test_are_those_of_the_benchmarks():
    expected = {CITYSCAPES: (1024, 2048), ACDC: (1080, 1920), ADE20K: (520, 520), CAMVID: (360, 480)}
    assert {dataset: dataset.test_window for dataset in expected} == expected


def test_training_images_are_resized_to_the_shorter_side_and_then_augmented(tmp_path):
    for folder, suffix, pixels in zip(("images", "annotations"), ("jpg", "png"), image(40, 60), strict=True):
        (tmp_path / folder / "training").mkdir(parents=True)
        assert cv2.imwrite(str(tmp_path / folder / "training" / f"a.{suffix}"), pixels)
    samples = ADE20K.samples(tmp_path, "train")
    augmentation = DataConfig(image_size=52, base_size=52, crop=(52, 52), **AUTHORS)
    dataset = TrainingDataset(ADE20K, samples, 3, augmentation)
    small, label = (resize_to((52, 78), pixels) for pixels in ADE20K.read(samples[0]))
    for epoch in range(10):
        draws = draw_augmentation(augmentation, sample_rng(3, epoch, 0))
        got, got_label, name = dataset[epoch, 0]
        expected = augment(small, label, augmentation, draws)
        np.testing.assert_array_equal(got.numpy().transpose(1, 2, 0), expected[0])
        np.testing.assert_array_equal(got_label.numpy(), expected[1])
        # The shorter side at scale 1 is then two thirds of the base size.
        scaled = min(52, half_up(Fraction(half_up(Fraction(52 * round(10 * draws.scale), 10)) * 2, 3)))
        assert name == "a" and (got.numpy().any((0, 2)).sum()) == scaled
