"""Parity with the authors' augmentation: every `augment<i>` of the golden data, with the draws that it had."""

import math
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors import safe_open

from ovenet_core.data.transforms import Draws, augment
from ovenet_core.layers import normalise
from ovenet_core.training.config import DataConfig

GOLDEN = Path(__file__).parents[2] / ".." / "shared" / "golden_protocol" / "inference_and_augmentation.safetensors"
ABSENT = pytest.mark.skip(reason=f"needs the golden data in {GOLDEN}")


def cases() -> list:
    """The names of all augmentations in the file."""
    if not GOLDEN.is_file():
        return [pytest.param("", marks=ABSENT)]
    with safe_open(GOLDEN, "np") as tensors:
        found = sorted({name.split("/")[0] for name in sorted(tensors.keys()) if name.startswith("augment")})
    assert found
    return found


def half_up(value: Fraction) -> int:
    return math.floor(value + Fraction(1, 2))


@pytest.mark.parametrize("case", cases())
def test_augmentation_is_the_authors(case):
    with safe_open(GOLDEN, "np") as tensors:
        names = ("drawn", "image_rgb", "labels", "out_image", "out_labels")
        drawn, image, label, expected, expected_label = (tensors.get_tensor(f"{case}/{name}") for name in names)
    base_size, *crop, tenths, x, y, flip = map(int, drawn)
    longer = half_up(Fraction(base_size * tenths, 10))
    resized = [half_up(Fraction(length * longer, max(label.shape))) for length in label.shape]
    # The middle of the interval in [0, 1) that stands for a place.
    down, across = ((at + 0.5) / (max(r, c) - c + 1) for at, r, c in zip((y, x), resized, crop, strict=True))
    settings = DataConfig(crop=tuple(crop), base_size=base_size, resize_first=True, padding="black")
    got, got_label = augment(image, label, settings, Draws(tenths / 10, down, across, flip == -1))
    normalised = normalise(torch.from_numpy(got.transpose(2, 0, 1).copy())[None])[0]
    np.testing.assert_allclose(normalised.numpy(), expected, rtol=0, atol=1e-4)
    np.testing.assert_array_equal(got_label, expected_label)
