"""What is done to images before the network sees them: the resizing to its size, and augmentation."""

from typing import NamedTuple, Protocol, runtime_checkable

import cv2
import numpy as np
from jaxtyping import UInt8

from ovenet_core.cross_entropy import IGNORE_INDEX
from ovenet_core.layers import IMAGENET_MEAN
from ovenet_core.utils import ConfigError

IMAGENET_MEAN_COLOUR = tuple(round(255 * mean) for mean in IMAGENET_MEAN)  # RGB in [0, 255]
PADDING = {"mean": IMAGENET_MEAN_COLOUR, "black": (0, 0, 0)}


@runtime_checkable
class Augmentation(Protocol):
    """How training images are augmented: the fields of `DataConfig`, which explains them."""

    image_size: tuple[int, int] | int | None
    crop: tuple[int, int]
    scale_range: tuple[float, float]
    scale_step: float | None
    base_size: int | None
    resize_first: bool
    padding: str
    flip: bool


class Draws(NamedTuple):
    """What is random in the augmentation of one image."""

    scale: float
    down: float  # place of the crop, from 0 at the top to just below 1 at the bottom
    across: float  # likewise, from left to right
    flipped: bool


def resize_to(
    size: tuple[int, int] | int | None, pixels: UInt8[np.ndarray, "height width *channels"]
) -> UInt8[np.ndarray, "new_height new_width *channels"]:
    """Resize an image (by area) or a label (nearest) to the (height, width) that the network takes; None keeps it.

    One number is the length of the shorter side; the longer one follows from the aspect.
    """
    if size is None:
        return pixels
    if isinstance(size, int):
        size = in_proportion(pixels.shape[:2], min(pixels.shape[:2]), size)
    return cv2.resize(pixels, size[::-1], interpolation=cv2.INTER_AREA if pixels.ndim == 3 else cv2.INTER_NEAREST_EXACT)


def sample_rng(seed: int, epoch: int, index: int) -> np.random.Generator:
    """Return the random numbers of one image in one epoch, whatever worker asks for them and in whatever order."""
    return np.random.default_rng([seed, epoch, index])


def draw_augmentation(augmentation: Augmentation, rng: np.random.Generator) -> Draws:
    """Draw scale, place and flip, all uniform: four numbers from `rng`, in this order whatever the augmentation."""
    (low, high), step = augmentation.scale_range, augmentation.scale_step
    if step is None:
        scale = rng.uniform(low, high)
    else:
        scale = low + step * int(rng.random() * (round((high - low) / step) + 1))
    return Draws(scale, rng.random(), rng.random(), bool(rng.random() < 0.5) and augmentation.flip)


def augment(
    image: UInt8[np.ndarray, "height width 3"],
    label: UInt8[np.ndarray, "height width"],
    augmentation: Augmentation,
    draws: Draws,
) -> tuple[UInt8[np.ndarray, "crop_height crop_width 3"], UInt8[np.ndarray, "crop_height crop_width"]]:
    """Cut the drawn crop of the scaled and flipped RGB image, and of its label.

    Only the window of the source that the crop shows is resized: the same crop, up to the rounding of the window to
    whole pixels. With `resize_first`, as in the authors' code, the whole image is resized. What a scaled image smaller
    than the crop leaves free, on the right and below, is padded and ignored. `ConfigError` if sizes differ.
    """
    if image.shape[:2] != label.shape:
        raise ConfigError("label", f"{label.shape} pixels", f"{image.shape[:2]} as the image", "give a whole pair")
    crop, longer, scale = augmentation.crop, max(label.shape), draws.scale
    base_size = augmentation.base_size or longer
    if augmentation.resize_first:
        size = in_proportion(label.shape, longer, int(base_size * scale + 0.5))[::-1]
        image = cv2.resize(image, size, interpolation=cv2.INTER_LINEAR)
        label = cv2.resize(label, size, interpolation=cv2.INTER_NEAREST)
    factor = 1.0 if augmentation.resize_first else scale * (base_size / longer)
    top, rows, height = _window(label.shape[0], crop[0], factor, draws.down)
    left, columns, width = _window(label.shape[1], crop[1], factor, draws.across)
    window = np.s_[top : top + rows, left : left + columns]
    # Linear and exact nearest share the half-pixel convention; plain INTER_NEAREST takes the corner of a
    # pixel for its centre, which shifts labels by up to half a pixel against the image.
    image = cv2.resize(image[window], (width, height), interpolation=cv2.INTER_LINEAR)
    label = cv2.resize(label[window], (width, height), interpolation=cv2.INTER_NEAREST_EXACT)
    if (height, width) != crop:
        border = (0, crop[0] - height, 0, crop[1] - width, cv2.BORDER_CONSTANT)
        image = cv2.copyMakeBorder(image, *border, value=PADDING[augmentation.padding])
        label = cv2.copyMakeBorder(label, *border, value=IGNORE_INDEX)
    return (cv2.flip(image, 1), cv2.flip(label, 1)) if draws.flipped else (image, label)


def in_proportion(size: tuple[int, int], side: int, new_side: int) -> tuple[int, int]:
    """Return the size of an image after resizing that makes `side` pixels `new_side`; halves are rounded up."""
    height, width = (max(1, int(length * new_side / side + 0.5)) for length in size)
    return height, width


def _window(length: int, target: int, factor: float, place: float) -> tuple[int, int, int]:
    """Return along one axis: start and length of the source window, and the length that it is resized to."""
    taken = min(length, max(1, round(target / factor)))
    start = int(place * (length - taken + 1))
    # A window of the full length is the whole image, which the scale may leave smaller than the crop.
    resized = target if taken < length else min(target, max(1, round(length * factor)))
    return start, taken, resized
