"""Augmentation: reproducible, aligned to a fraction of a pixel, and honest at the borders."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from jaxtyping import TypeCheckError

from ovenet_core.cross_entropy import IGNORE_INDEX
from ovenet_core.data.transforms import IMAGENET_MEAN_COLOUR, random_crop, resize_to, sample_rng
from ovenet_core.utils import ConfigError


def image(height: int, width: int, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    return (
        rng.integers(0, 256, (height, width, 3), dtype=np.uint8),
        rng.integers(0, 19, (height, width), dtype=np.uint8),
    )


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
    pixels, label = random_crop(*image(*size), crop=crop, scale=(low, low + more), rng=sample_rng(seed, 0, 0))
    assert pixels.shape == (*crop, 3) and label.shape == crop
    assert pixels.dtype == label.dtype == np.uint8


@settings(max_examples=30, deadline=None)
@given(seed=st.integers(0, 999))
def test_at_scale_one_the_crop_is_a_window_of_the_source(seed):
    height, width, rows, columns = 12, 15, 5, 7
    label = np.arange(height * width, dtype=np.uint8).reshape(height, width)
    image = np.stack([label, label, label], axis=2)
    got, got_label = random_crop(
        image, label, crop=(rows, columns), scale=(1, 1), flip=False, rng=sample_rng(seed, 0, 0)
    )
    top, left = divmod(int(got_label[0, 0]), width)
    np.testing.assert_array_equal(got_label, label[top : top + rows, left : left + columns])
    np.testing.assert_array_equal(got[..., 0], got_label)


def test_every_place_of_the_crop_occurs():
    label = np.arange(12, dtype=np.uint8).reshape(3, 4)
    image = np.zeros((3, 4, 3), np.uint8)
    crops = [
        random_crop(image, label, crop=(2, 2), scale=(1, 1), flip=False, rng=sample_rng(0, 0, index))
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
        got, got_label = random_crop(image, label, crop=(30, 30), scale=(scale, scale), rng=sample_rng(0, 0, index))
        shifts.append((got[2:-2, 2:-2, 0] / 4 - got_label[2:-2, 2:-2]).mean())
    assert abs(np.mean(shifts)) < 0.1


def test_enlarging_keeps_label_borders_where_the_image_has_them():
    label = np.zeros((20, 20), np.uint8)
    label[:, 10:] = 1
    image = np.stack([label * 200] * 3, axis=2)
    for index in range(20):
        got, got_label = random_crop(image, label, crop=(16, 30), scale=(1.5, 1.5), rng=sample_rng(0, 0, index))
        np.testing.assert_array_equal(got[..., 0] > 100, got_label == 1)


def test_image_smaller_than_the_crop_is_filled_up():
    pixels, label = image(20, 30)
    got, got_label = random_crop(pixels, label, crop=(25, 24), scale=(0.5, 0.5), flip=False, rng=sample_rng(0, 0, 0))
    assert (got_label[:10, :15] != IGNORE_INDEX).all()
    rest = np.ones((25, 24), bool)
    rest[:10, :15] = False
    assert (got_label[rest] == IGNORE_INDEX).all()
    assert (got[rest] == IMAGENET_MEAN_COLOUR).all()


def test_source_is_left_as_it_was():
    pixels, label = image(30, 40)
    before = pixels.copy(), label.copy()
    for index in range(5):
        got = random_crop(pixels, label, crop=(10, 10), scale=(1, 1), rng=sample_rng(0, 0, index))
        for array in got:
            array[:] = 0
    np.testing.assert_array_equal(pixels, before[0])
    np.testing.assert_array_equal(label, before[1])


def test_image_and_label_of_different_sizes_are_refused():
    with pytest.raises((ValueError, TypeCheckError)):
        random_crop(image(10, 12)[0], image(10, 11)[1], crop=(4, 4), rng=sample_rng(0, 0, 0))


@pytest.mark.parametrize("crop, scale", [((0, 4), (1, 1)), ((4, 4), (2, 1)), ((4, 4), (0, 1))])
def test_impossible_crop_or_scale_is_refused(crop, scale):
    with pytest.raises(ConfigError) as caught:
        random_crop(*image(10, 12), crop=crop, scale=scale, rng=sample_rng(0, 0, 0))
    assert str(crop) in caught.value.found and str(scale) in caught.value.found


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
