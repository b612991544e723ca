"""Inference: classes at the size of an image, over scales, flips and sliding windows."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial, reduce
from itertools import pairwise

import cv2
import numpy as np
import torch
from jaxtyping import Float, UInt8
from torch import Tensor, nn

from ovenet_core.layers import upsample
from ovenet_core.memory import float32_region
from ovenet_core.ovenet import Prediction

IMAGENET_MEAN = (0.485, 0.456, 0.406)  # of ImageNet, RGB in [0, 1]
IMAGENET_STD = (0.229, 0.224, 0.225)
OUTPUT_STRIDE = 4  # the network predicts at 1/4 of the image's resolution
MIN_SIDE = 32  # pixels to a side; its lowest resolution is 1/32
STRIP = 32  # rows of the image whose scores are in memory at a time
AVERAGING = ("probabilities", "reference")


@dataclass(frozen=True)
class InferenceConfig:
    """How the classes of an image are found (section 4.2: six scales and flip).

    Attributes:
        scales: sizes of the image that the network sees, as factors of its own. A side that a scale makes shorter
            than 32 pixels, the least that the network takes, has 32.
        flip: each of them also mirrored, left to right.
        window, stride: (height, width) in pixels, multiples of 4, of the windows that slide over the image where it
            is not seen whole. The last ones of a row or column are moved inside. By default the crop that the
            networks are trained with, side by side, as the reference does.
        averaging: "probabilities": the mean of the softmaxes over scales and flips. "reference": the logits' mean over
            the flip, exponentiated, and summed over the scales. Where windows overlap, the mean of their softmaxes,
            or of their exponentiated logits, is taken first.
        whole: an image is seen whole up to scale 1, if it then has no more pixels than this. With the window it
            bounds the memory that the network takes, and with a row of windows what is kept of each scale.

    Raises:
        ValueError: naming the attribute that is out of range.
    """

    scales: tuple[float, ...] = (1.0,)
    flip: bool = False
    window: tuple[int, int] = (512, 1024)
    stride: tuple[int, int] = (512, 1024)
    averaging: str = "probabilities"
    whole: int = 1024 * 2048

    def __post_init__(self):
        if not self.scales or min(self.scales) <= 0:
            raise ValueError(f"scales are {self.scales}; expected one or more above 0, such as (0.5, 1.0, 1.5)")
        if self.averaging not in AVERAGING:
            raise ValueError(f"averaging is {self.averaging!r}; expected one of {', '.join(map(repr, AVERAGING))}")
        for side, step in zip(self.window, self.stride, strict=True):
            if side % OUTPUT_STRIDE or step % OUTPUT_STRIDE or side < 2 * MIN_SIDE or not 0 < step <= side:
                raise ValueError(
                    f"window is {self.window}, stride {self.stride}; expected multiples of {OUTPUT_STRIDE}, "
                    f"windows of {2 * MIN_SIDE} or more and strides above 0 and no longer than they are"
                )

    @classmethod
    def for_crop(
        cls,
        crop: Sequence[int],
        scales: Sequence[float] = (1.0,),
        flip: bool = False,
        window: Sequence[int] = (),
        stride: Sequence[int] = (),
        averaging: str = "probabilities",
    ) -> "InferenceConfig":
        """For a network that was trained with such crops, as the notebooks' parameters have it.

        Without a window it is the crop, made as large as the least window and a multiple of 4; without a stride windows
        lie side by side.

        Raises:
            ValueError: naming the attribute that is out of range.
        """
        window = tuple(window) or tuple(max(-(-side // OUTPUT_STRIDE) * OUTPUT_STRIDE, 2 * MIN_SIDE) for side in crop)
        stride = tuple(stride) or window
        if not len(window) == len(stride) == 2:
            raise ValueError(f"window is {window}, stride {stride}; expected (height, width), such as [512, 1024]")
        return cls(tuple(scales), flip, window, stride, averaging)

    def window_at(self, scale: float, height: int, width: int) -> tuple[int, int]:
        """The (height, width) that the network sees at once of an image scaled to height x width."""
        return (height, width) if scale <= 1 and height * width <= self.whole else self.window


SINGLE_SCALE = InferenceConfig()
SIX_SCALES = InferenceConfig((0.5, 0.75, 1.0, 1.25, 1.5, 1.75), flip=True)  # six and flip: section 4.2; which six: ours


def normalise(
    images: UInt8[Tensor, "batch 3 height width"], channels_last: bool = False
) -> Float[Tensor, "batch 3 height width"]:
    """RGB in [0, 255] to what the network expects: [0, 1], minus the ImageNet mean, over the ImageNet deviation."""
    mean, deviation = (torch.tensor(v, device=images.device).view(3, 1, 1) for v in (IMAGENET_MEAN, IMAGENET_STD))
    images = (images.float() / 255 - mean) / deviation
    return images.contiguous(memory_format=torch.channels_last) if channels_last else images


def predict(
    network: nn.Module,
    image: UInt8[np.ndarray, "height width 3"],
    *,
    image_size: tuple[int, int] | None = None,
    channels_last: bool = False,
) -> Prediction:
    """The network's prediction for one image (RGB), resized to `image_size` (height, width) first if given."""
    if image_size is not None:
        image = cv2.resize(image, image_size[::-1], interpolation=cv2.INTER_AREA)
    device = next(network.parameters()).device
    pixels = torch.from_numpy(np.ascontiguousarray(image.transpose(2, 0, 1))).to(device)
    with torch.inference_mode():
        return network(normalise(pixels[None], channels_last))


def classes(prediction: Prediction, size: tuple[int, int]) -> dict[str, UInt8[Tensor, "height width"]]:
    """The predicted train ids of S_i, S_s and S_f for one image, at (height, width)."""
    outputs = prediction.outputs().items()
    return {name: prediction.upsample(o.main, size).argmax(1)[0].to(torch.uint8) for name, o in outputs}


def predict_classes(
    network: nn.Module,
    image: UInt8[np.ndarray, "height width 3"],
    inference: InferenceConfig = SINGLE_SCALE,
    *,
    outputs: Sequence[str] | None = None,
    image_size: tuple[int, int] | None = None,
    channels_last: bool = False,
) -> dict[str, UInt8[Tensor, "height width"]]:
    """The train ids of S_i, S_s and S_f (of a baseline: S_i) at the size of the image, on the network's device.

    Logits are kept at 1/4 of each scale's resolution, of one row of windows at a time, and upsampled and averaged a few
    rows at a time. The network runs in evaluation mode, and goes back to its own; autocast is the caller's.

    Args:
        image: RGB in [0, 255].
        outputs: some of S_i, S_s and S_f; by default all that the network has. Memory and time grow with their number.
        image_size: (height, width) to which the image is resized before it is scaled, as in training.

    Raises:
        ValueError: the network has no such output.
    """
    (height, width), outputs = image.shape[:2], checked_outputs(network, outputs)
    if image_size is not None:
        image = cv2.resize(image, image_size[::-1], interpolation=cv2.INTER_AREA)
    look = partial(predict, network, channels_last=channels_last)
    found: dict[str, list[Tensor]] = {name: [] for name in outputs}
    training = network.training
    network.eval()
    try:
        with torch.inference_mode():
            passes = [[p.strips(height) for p in flips] for flips in _passes(look, image, inference, outputs)]
            for _ in range(0, height, STRIP):
                strips = [[next(one) for one in flips] for flips in passes]
                with float32_region(strips[0][0].weights.device):
                    for name, parts in found.items():
                        scores = _mean_scores(strips, name, width, inference.averaging)
                        parts.append(scores.argmax(0).to(torch.uint8))
            return {name: torch.cat(parts) for name, parts in found.items()}
    finally:
        network.train(training)


def available_outputs(network: nn.Module) -> tuple[str, ...]:
    """S_i, S_s and S_f, or of a baseline S_i; the last one is the network's answer."""
    return ("S_i", "S_s", "S_f") if getattr(network, "offset_head", None) is not None else ("S_i",)


def checked_outputs(network: nn.Module, outputs: Sequence[str] | None) -> tuple[str, ...]:
    """The outputs asked for, by default all that the network has; ValueError if it has no such one."""
    there = available_outputs(network)
    outputs = tuple(there if outputs is None else outputs)
    if not outputs or set(outputs) - set(there):
        raise ValueError(f"outputs {sorted(outputs)}: the network has {', '.join(there)}; choose from these")
    return outputs


@dataclass
class _Strip:
    """What `STRIP` rows of the result are made from: rows of logits by output, and the weights of these in them."""

    logits: dict[str, Float[Tensor, "classes rows columns"]]
    weights: Float[Tensor, "strip rows"]
    align_corners: bool

    def upsample(self, name: str, width: int) -> Float[Tensor, "classes strip width"]:
        """These rows of the logits of one output, resized to the size of the result."""
        near = self.logits[name]
        return self.weights @ upsample(near[None], (near.shape[1], width), self.align_corners)[0]


class _Pass:
    """One look at an image, plain or mirrored: its main logits at 1/4 of its resolution, from top to bottom.

    The network sees a row of windows at a time, when their logits are asked for; those above are then forgotten.
    """

    def __init__(
        self,
        look: Callable[[np.ndarray], Prediction],
        image: np.ndarray,
        window: tuple[int, int],
        inference: InferenceConfig,
        outputs: Sequence[str],
        mirrored: bool,
    ):
        self.look, self.window, self.outputs, self.mirrored = look, window, outputs, mirrored
        self.image = image[:, ::-1] if mirrored else image
        height, width = image.shape[:2]
        tops, self.lefts = map(_starts, (height, width), window, inference.stride)
        self.ahead = list(pairwise([*tops, height]))  # rows of windows, from the top of each to that of the next
        self.covers = _covers(tops, window[0], height), _covers(self.lefts, window[1], width)
        self.as_probabilities = inference.averaging == "probabilities" and len(tops) * len(self.lefts) > 1
        self.sums: dict[str, Tensor] = {}  # over windows, by output, of the rows of logits from `first` on
        self.first = self.complete = 0  # of the rows above `complete`, all windows have been seen

    def strips(self, height: int) -> Iterator[_Strip]:
        """What a result of that height is made from, from top to bottom, `STRIP` rows at a time."""
        align_corners = self._look_on(0)
        for rows, weights in _row_weights(len(self.covers[0]), height, align_corners, self.sums[self.outputs[0]]):
            while self.complete < rows.stop:
                self._look_on(min(rows.start, self.complete))
            here = slice(rows.start - self.first, rows.stop - self.first)
            counts = torch.outer(self.covers[0][rows], self.covers[1]).log().to(self.sums[self.outputs[0]])
            logits = {name: total[:, here] - counts for name, total in self.sums.items()}
            if self.mirrored:
                logits = {name: o.flip(-1) for name, o in logits.items()}
            yield _Strip(logits, weights, align_corners)

    def _look_on(self, first: int) -> bool:
        """Let the network see the next row of windows, and forget the rows of logits above `first`; `align_corners`."""
        kept = {name: total[:, first - self.first :].clone() for name, total in self.sums.items()}
        self.sums, self.first = {}, first
        top, below = self.ahead.pop(0)
        for left in self.lefts:
            prediction = self.look(self.image[top : top + self.window[0], left : left + self.window[1]])
            for name in self.outputs:
                # A softmax stays the same when a number is added to all logits of a pixel, upsampled or not. So the
                # logarithms of mean probabilities can stand for logits.
                scores = prediction.outputs()[name].main[0]
                scores = scores.log_softmax(0) if self.as_probabilities else scores
                v, u = top // OUTPUT_STRIDE - first, left // OUTPUT_STRIDE
                if name not in self.sums:
                    rows = v + scores.shape[1]
                    self.sums[name] = scores.new_full((len(scores), rows, len(self.covers[1])), -torch.inf)
                    if name in kept:
                        above = kept.pop(name)
                        self.sums[name][:, : above.shape[1]] = above
                here = self.sums[name][:, v:, u : u + scores.shape[2]]
                here.copy_(torch.logaddexp(here, scores))
        self.complete = -(-below // OUTPUT_STRIDE)
        return prediction.align_corners


def _starts(length: int, window: int, stride: int) -> list[int]:
    """Where the windows along one axis begin: multiples of 4, so that their logits fall on one grid."""
    last = -(-max(length - window, 0) // OUTPUT_STRIDE) * OUTPUT_STRIDE
    return [*range(0, last, stride), last]


def _covers(starts: Sequence[int], window: int, length: int) -> Float[Tensor, " positions"]:
    """How many of the windows along one axis cover each position of the logits."""
    at = torch.arange(0, length, OUTPUT_STRIDE)
    return sum(((start <= at) & (at < start + window)).float() for start in starts)


def _row_weights(
    rows: int, height: int, align_corners: bool, like: Tensor
) -> list[tuple[slice, Float[Tensor, "strip rows"]]]:
    """For every `STRIP` rows of an image of that height: the rows that `resize` makes them from, and their weights."""
    identity = torch.eye(rows, dtype=like.dtype, device=like.device)
    weights = upsample(identity[None, None], (height, rows), align_corners)[0, 0]
    found = []
    for strip in weights.split(STRIP):
        used = strip.any(0).nonzero()
        source = slice(int(used[0]), int(used[-1]) + 1)
        found.append((source, strip[:, source].clone()))
    return found


def _passes(
    look: Callable, image: np.ndarray, inference: InferenceConfig, outputs: Sequence[str]
) -> Iterator[list[_Pass]]:
    """For each scale the look at the image and, with flip, that at the mirrored one."""
    for scale in inference.scales:
        height, width = (max(round(side * scale), MIN_SIDE) for side in image.shape[:2])
        scaled = image
        if (height, width) != image.shape[:2]:  # bilinear, as training scales
            scaled = cv2.resize(image, (width, height), interpolation=cv2.INTER_LINEAR)
        window = inference.window_at(scale, height, width)
        flips = (False, True) if inference.flip else (False,)
        yield [_Pass(look, scaled, window, inference, outputs, mirrored) for mirrored in flips]


def _mean_scores(
    strips: Sequence[Sequence[_Strip]], name: str, width: int, averaging: str
) -> Float[Tensor, "classes strip width"]:
    """Scores of one output over the passes, by scale and flip; the class with the highest one is the answer."""
    upsampled = ([strip.upsample(name, width) for strip in flips] for flips in strips)
    if len(strips) == len(strips[0]) == 1:
        return next(upsampled)[0]
    if averaging == "probabilities":
        return sum(one.softmax(0) for flips in upsampled for one in flips)
    # The logarithm of the sum: it has its maximum in the same place, and does not overflow.
    return reduce(torch.logaddexp, (sum(flips) / len(flips) for flips in upsampled))
