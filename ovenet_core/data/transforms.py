"""What is done to images before the network sees them: the resizing to its size, and augmentation."""

import cv2
import numpy as np
from jaxtyping import UInt8

from ovenet_core.cross_entropy import IGNORE_INDEX
from ovenet_core.layers import IMAGENET_MEAN
from ovenet_core.utils import ConfigError

IMAGENET_MEAN_COLOUR = tuple(round(255 * mean) for mean in IMAGENET_MEAN)  # RGB in [0, 255]


def resize_to(
    size: tuple[int, int] | None, pixels: UInt8[np.ndarray, "height width *channels"]
) -> UInt8[np.ndarray, "new_height new_width *channels"]:
    """Resize an image (by area) or a label (nearest) to the (height, width) that the network takes; None keeps it."""
    if size is None:
        return pixels
    return cv2.resize(pixels, size[::-1], interpolation=cv2.INTER_AREA if pixels.ndim == 3 else cv2.INTER_NEAREST_EXACT)


def sample_rng(seed: int, epoch: int, index: int) -> np.random.Generator:
    """Return the random numbers of one image in one epoch, whatever worker asks for them and in whatever order."""
    return np.random.default_rng([seed, epoch, index])


def random_crop(
    image: UInt8[np.ndarray, "height width 3"],
    label: UInt8[np.ndarray, "height width"],
    *,
    crop: tuple[int, int],
    rng: np.random.Generator,
    scale: tuple[float | int, float | int] = (0.5, 2.0),
    flip: bool = True,
) -> tuple[UInt8[np.ndarray, "crop_height crop_width 3"], UInt8[np.ndarray, "crop_height crop_width"]]:
    """Cut a random crop (height, width) of the randomly scaled and flipped RGB image, and of its label.

    The scale is uniform in `scale`, the place uniform in the image, the flip a coin's. Only the window of the source
    that the crop shows is resized: the same crop, up to the rounding of the window to whole pixels. What a scaled
    image smaller than the crop leaves free, on the right and below, has the mean colour and is ignored. Four numbers
    are drawn from `rng` whatever the arguments. `ConfigError` if sizes differ, or the crop or scale is not positive.
    """
    if image.shape[:2] != label.shape:
        raise ConfigError("label", f"{label.shape} pixels", f"{image.shape[:2]} as the image", "give a whole pair")
    if min(crop) < 1 or not 0 < scale[0] <= scale[1]:
        raise ConfigError("crop, scale", f"{crop}, {scale}", "1 pixel or more, ascending scales above 0", "mend them")
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
        image = cv2.copyMakeBorder(image, *border, value=IMAGENET_MEAN_COLOUR)
        label = cv2.copyMakeBorder(label, *border, value=IGNORE_INDEX)
    return (cv2.flip(image, 1), cv2.flip(label, 1)) if flipped else (image, label)


def _window(length: int, target: int, factor: float, place: float) -> tuple[int, int, int]:
    """Return along one axis: start and length of the source window, and the length that it is resized to."""
    taken = min(length, max(1, round(target / factor)))
    start = int(place * (length - taken + 1))
    # A window of the full length is the whole image, which the scale may leave smaller than the crop.
    resized = target if taken < length else min(target, max(1, round(length * factor)))
    return start, taken, resized
