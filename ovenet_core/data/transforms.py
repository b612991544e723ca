"""Augmentation: paired random scale, crop and flip of an image and its label."""

import cv2
import numpy as np
from jaxtyping import UInt8

from ovenet_core.cross_entropy import IGNORE_INDEX

IMAGENET_MEAN_COLOUR = (124, 116, 104)  # RGB; 255 times the mean that inputs are normalised with


def sample_rng(seed: int, epoch: int, index: int) -> np.random.Generator:
    """The random numbers of one image in one epoch, whatever worker asks for them and in whatever order."""
    return np.random.default_rng([seed, epoch, index])


def random_crop(
    image: UInt8[np.ndarray, "height width 3"],
    label: UInt8[np.ndarray, "height width"],
    *,
    crop: tuple[int, int],
    rng: np.random.Generator,
    scale: tuple[float | int, float | int] = (0.5, 2.0),
    flip: bool = True,
    fill: tuple[int, int, int] = IMAGENET_MEAN_COLOUR,
    ignore_label: int = IGNORE_INDEX,
) -> tuple[UInt8[np.ndarray, "crop_height crop_width 3"], UInt8[np.ndarray, "crop_height crop_width"]]:
    """A random crop of the randomly scaled and flipped image, and of its label.

    The scale is uniform in `scale`, the place uniform in the image, the flip a coin's. Only the
    window of the source that the crop shows is resized, not the whole image: the same crop, up to
    the rounding of the window to whole pixels.

    Args:
        image: RGB in [0, 255].
        label: train ids.
        crop: (height, width) of the result in pixels.
        rng: from `generator`; four numbers are drawn whatever the arguments.
        fill: RGB of what a scaled image smaller than the crop leaves free on the right and below;
            its label is `ignore_label`.

    Raises:
        ValueError: image and label differ in size, or the crop or scale is not positive.
    """
    if image.shape[:2] != label.shape:
        raise ValueError(
            f"image of {image.shape[:2]} and label of {label.shape} pixels: expected the same "
            "size; give a pair as Benchmark.read returns it"
        )
    if min(crop) < 1 or not 0 < scale[0] <= scale[1]:
        raise ValueError(
            f"crop {crop} and scale {scale}: expected (height, width) of 1 pixel or more and an "
            "ascending pair of scales above 0"
        )
    factor = rng.uniform(*scale)
    top, rows, height = _window(label.shape[0], crop[0], factor, rng.random())
    left, columns, width = _window(label.shape[1], crop[1], factor, rng.random())
    flipped = bool(rng.random() < 0.5) and flip
    window = np.s_[top : top + rows, left : left + columns]
    # Linear and exact nearest share the half-pixel convention; plain INTER_NEAREST takes the corner of a
    # pixel for its centre, which shifts labels by up to half a pixel against the image.
    image = cv2.resize(image[window], (width, height), interpolation=cv2.INTER_LINEAR)
    label = cv2.resize(label[window], (width, height), interpolation=cv2.INTER_NEAREST_EXACT)
    if (height, width) != crop:
        border = (0, crop[0] - height, 0, crop[1] - width, cv2.BORDER_CONSTANT)
        image = cv2.copyMakeBorder(image, *border, value=fill)
        label = cv2.copyMakeBorder(label, *border, value=ignore_label)
    return (cv2.flip(image, 1), cv2.flip(label, 1)) if flipped else (image, label)


def _window(length: int, target: int, factor: float, place: float) -> tuple[int, int, int]:
    """Along one axis: start and length of the source window, and the length that it is resized to."""
    taken = min(length, max(1, round(target / factor)))
    start = int(place * (length - taken + 1))
    # A window of the full length is the whole image, which the scale may leave smaller than the crop.
    resized = target if taken < length else min(target, max(1, round(length * factor)))
    return start, taken, resized
