"""Inference: the classes of an image at its own size, over scales, flips and sliding windows."""

from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from itertools import product
from typing import Annotated, Any, Literal

import cv2
import numpy as np
import torch
from jaxtyping import Float, Num, UInt8
from pydantic import Field, field_validator
from torch import Tensor, nn

from ovenet_core.data import in_proportion, resize_to
from ovenet_core.evaluation.sliding_window import Forward, LogitRows, RowStrip, Size, row_strips, starts
from ovenet_core.layers import MIN_SIDE, OUTPUT_STRIDE, normalise, upsample
from ovenet_core.memory import float32_region
from ovenet_core.ovenet import Prediction
from ovenet_core.utils import ConfigError, config_dataclass

MIN_WINDOW = 2 * MIN_SIDE  # pixels of a window's shorter side
WindowSide = Annotated[int, Field(ge=MIN_WINDOW, multiple_of=OUTPUT_STRIDE)]
Step = Annotated[int, Field(gt=0, multiple_of=OUTPUT_STRIDE)]
Image = Num[np.ndarray, "height width 3"]  # RGB in [0, 255]
ImageSize = tuple[int, int] | int | None
ClassTensor = UInt8[Tensor, "height width"]  # train ids
Scores = Float[Tensor, "classes rows width"]


@config_dataclass
class InferenceConfig:
    """How the classes of an image are predicted (section 4.2: six scales and flip).

    Attributes:
        scales: sizes at which the network sees the image, as factors of its own.
        window: (height, width) in pixels, multiples of 4, of the windows that slide over an image that is not seen
            whole. An offset is a share of what the network sees, so windows have the size of the test images.
        stride: (height, width) from one window to the next; empty: side by side. The last ones of a row or column are
            moved inside.
        averaging: "probabilities": the mean of the softmaxes over windows, scales and flips of the image, whose sides
            keep 32 pixels or more. "reference": as the authors' code, in maps of full size. Logits are averaged over
            the flip of each window, upsampled to the window, exponentiated, averaged over windows, resized to the
            image, and summed over scales.
        max_whole_pixels: up to scale 1, an image of at most so many pixels is seen whole; with "reference" any image.
            With the window this bounds the memory that the network takes, and with a row of windows the logits that
            are kept of each scale.
    """

    scales: Annotated[tuple[Annotated[float, Field(gt=0)], ...], Field(min_length=1)] = (1.0,)
    flip: bool = False  # show each scale mirrored, too, left to right
    window: tuple[WindowSide, WindowSide] = (1024, 2048)  # of Cityscapes
    stride: Annotated[tuple[Step, Step], Field(validate_default=True)] = ()
    averaging: Literal["probabilities", "reference"] = "probabilities"
    max_whole_pixels: Annotated[int, Field(ge=0)] = 1024 * 2048

    @field_validator("stride", mode="before")
    @classmethod
    def _side_by_side(cls, stride: tuple[int, ...], info) -> tuple[int, ...]:
        return stride or info.data.get("window", stride)

    @field_validator("stride")
    @classmethod
    def _check_stride(cls, stride: tuple[int, int], info) -> tuple[int, int]:
        window = info.data.get("window", stride)
        if stride[0] > window[0] or stride[1] > window[1]:
            raise ValueError(f"steps no longer than the sides of the window, {window}")
        return stride

    @property
    def file_suffix(self) -> str:
        """What the names of files with scores end with: `_six_scales` for six scales and flip, else nothing."""
        return "_six_scales" if (self.scales, self.flip) == (SIX_SCALES.scales, SIX_SCALES.flip) else ""


SINGLE_SCALE = InferenceConfig()
SIX_SCALES = InferenceConfig((0.5, 0.75, 1.0, 1.25, 1.5, 1.75), flip=True)  # section 4.2; which six: authors' code


def predict(network: nn.Module, image: Image, *, image_size: ImageSize = None, **options: Any) -> Prediction:
    """Run the network on one image, first resized to `image_size` as by `resize_to`; with options of its `forward`."""
    image = image if image_size is None else resize_to(image_size, image)
    pixels = torch.from_numpy(image.transpose(2, 0, 1).copy()).to(next(network.parameters()).device)
    with torch.inference_mode():
        return network(normalise(pixels[None]), **options)


def classes(prediction: Prediction, size: tuple[int, int]) -> dict[str, ClassTensor]:
    """Take the train ids of S_i, S_s and S_f from a prediction for one image, at (height, width)."""
    outputs = prediction.outputs().items()
    return {name: prediction.upsample(o.main, size).argmax(1)[0].to(torch.uint8) for name, o in outputs}


def predict_classes(
    network: nn.Module,
    image: Image,
    inference: InferenceConfig = SINGLE_SCALE,
    *,
    outputs: Sequence[str] | None = None,
    image_size: ImageSize = None,
) -> dict[str, ClassTensor]:
    """Predict the train ids of S_i, S_s and S_f (of a baseline: S_i) at the size of the image, on the network's device.

    Each pixel has the class with the highest score (`predict_scores`). Logits are kept at 1/4 of each scale's
    resolution, of one row of windows at a time; with averaging "probabilities" they are upsampled and averaged a few
    rows at a time. The network runs in evaluation mode, and returns to its own mode; autocast is the caller's.

    Args:
        outputs: some of those that the network has, else a `ConfigError`; memory and time grow with their number.
        image_size: to which the image is resized before it is scaled, as in training (`resize_to`).
    """
    outputs = available_outputs(network, outputs)
    with _evaluation_mode(network):
        strips = _score_strips(network, image, inference, outputs, image_size)
        ids = [torch.stack([scores.max(0).indices.to(torch.uint8) for scores in strip]) for strip in strips]
    return dict(zip(outputs, torch.cat(ids, 1), strict=True))


def predict_scores(
    network: nn.Module,
    image: Image,
    inference: InferenceConfig = SINGLE_SCALE,
    *,
    outputs: Sequence[str] | None = None,
    image_size: ImageSize = None,
) -> dict[str, Float[Tensor, "classes height width"]]:
    """Predict the sums over scales and flips that `predict_classes` takes the classes from; the arguments are the same.

    They are sums of softmaxes. With averaging "reference" they are sums of exponentiated logits, and a `ConfigError` if
    these overflow.
    """
    outputs = available_outputs(network, outputs)
    with _evaluation_mode(network):
        strips = [list(strip) for strip in _score_strips(network, image, inference, outputs, image_size)]
    return {output: torch.cat(scores, 1) for output, scores in zip(outputs, zip(*strips, strict=True), strict=True)}


def available_outputs(network: nn.Module, asked: Sequence[str] | None = None) -> tuple[str, ...]:
    """Return S_i, S_s and S_f, or of a baseline S_i; of these what is asked for, or a `ConfigError`."""
    available = ("S_i", "S_s", "S_f") if getattr(network, "offset_head", None) is not None else ("S_i",)
    outputs = available if asked is None else tuple(asked)
    if not outputs or set(outputs) - set(available):
        raise ConfigError("outputs", list(outputs), f"some of {', '.join(available)}", "name outputs of this network")
    return outputs


@contextmanager
def _evaluation_mode(network: nn.Module) -> Iterator[None]:
    training = network.training
    network.eval()
    try:
        with torch.inference_mode():
            yield
    finally:
        network.train(training)


def _score_strips(
    network: nn.Module, image: Image, inference: InferenceConfig, outputs: Sequence[str], image_size: ImageSize
) -> Iterator[Iterable[Scores]]:
    """Yield the scores of the outputs from top to bottom, some rows at a time."""
    (height, width), image = image.shape[:2], resize_to(image_size, image)

    def forward(window: np.ndarray, **options: Any) -> tuple[LogitRows, bool]:
        prediction = predict(network, window, **options)
        logits = prediction.outputs()
        return torch.stack([logits[name].main[0] for name in outputs]), prediction.align_corners

    if inference.averaging == "reference":
        yield _reference_scores(forward, image, inference, len(outputs), (height, width))
        return
    scales = (_row_strips(forward, image, inference, scale, (height, width)) for scale in inference.scales)
    for views in zip(*scales, strict=True):
        views = [view for flips in views for view in flips]
        with float32_region(views[0].weights.device):
            sums = views[0].upsample(width).softmax(1)
            for view in views[1:]:
                sums += view.upsample(width).softmax(1)
            yield sums


def _row_strips(
    forward: Forward, image: np.ndarray, inference: InferenceConfig, scale: float, result: Size
) -> Iterator[tuple[RowStrip, ...]]:
    """Yield the strips of the result from top to bottom, at one scale: plain, and mirrored if wanted."""
    size = tuple(max(round(side * scale), MIN_SIDE) for side in image.shape[:2])
    resized = cv2.resize(image, size[::-1], interpolation=cv2.INTER_LINEAR)  # as training scales
    window = size if scale <= 1 and size[0] * size[1] <= inference.max_whole_pixels else inference.window
    flips = (False, True) if inference.flip else (False,)
    return zip(*(row_strips(forward, resized, window, inference.stride, result, m) for m in flips), strict=True)


def _reference_scores(
    forward: Forward, image: np.ndarray, inference: InferenceConfig, outputs: int, size: tuple[int, int]
) -> Iterator[Scores]:
    """Yield the scores of each output as the authors' code computes them, at (height, width)."""
    scales, longer = [], max(image.shape[:2])
    for scale in inference.scales:
        scaled = in_proportion(image.shape[:2], longer, int(longer * scale + 0.5))
        resized = cv2.resize(image.astype(np.float32), scaled[::-1], interpolation=cv2.INTER_LINEAR)
        window, windows = inference.window if scale > 1 else scaled, []
        tops, lefts = (starts(*axis, multiple=1) for axis in zip(scaled, window, inference.stride, strict=True))
        for top, left in product(tops, lefts):
            place = np.s_[top : top + window[0], left : left + window[1]]
            # The authors' code knows no least side.
            options = {"min_side": 1} if min(resized[place].shape[:2]) < MIN_SIDE else {}
            logits, align_corners = forward(resized[place], **options)
            if inference.flip:
                logits = (logits + forward(resized[place][:, ::-1], **options)[0].flip(-1)) / 2
            windows.append((place, logits))
        scales.append((scaled, windows))
    with float32_region(logits.device):
        for output in range(outputs):
            sums = 0
            for scaled, windows in scales:
                scores, counts = logits.new_zeros(logits.shape[1], *scaled), logits.new_zeros(scaled)
                for place, logits in windows:
                    here = scores[:, *place]
                    here += upsample(logits[output][None], here.shape[1:], align_corners)[0].exp_()
                    counts[place] += 1
                sums = sums + upsample((scores / counts)[None], size, align_corners)[0]
            if not sums.isfinite().all():
                found, fix = "reference, and logits above 88", 'set it to "probabilities"'
                raise ConfigError("averaging", found, "exponentials that float32 can hold", fix)
            yield sums
