"""Inference: the classes of an image at its own size, over scales, flips and sliding windows."""

from collections.abc import Iterator, Sequence
from functools import reduce
from typing import Annotated, Any, Literal

import cv2
import numpy as np
import torch
from jaxtyping import Float, UInt8
from pydantic import Field, field_validator
from torch import Tensor, nn

from ovenet_core.data import resize_to
from ovenet_core.evaluation.sliding_window import Forward, LogitRows, RowStrip, row_strips
from ovenet_core.layers import MIN_SIDE, OUTPUT_STRIDE, normalise
from ovenet_core.memory import float32_region
from ovenet_core.ovenet import Prediction
from ovenet_core.utils import ConfigError, config_dataclass

WindowSide = Annotated[int, Field(ge=2 * MIN_SIDE, multiple_of=OUTPUT_STRIDE)]
Image = UInt8[np.ndarray, "height width 3"]  # RGB in [0, 255]
ClassTensor = UInt8[Tensor, "height width"]  # train ids
Step = Annotated[int, Field(gt=0, multiple_of=OUTPUT_STRIDE)]


@config_dataclass
class InferenceConfig:
    """How the classes of an image are predicted (section 4.2: six scales and flip).

    Attributes:
        scales: sizes at which the network sees the image, as factors of its own. Sides keep 32 pixels or more.
        window, stride: (height, width) in pixels, multiples of 4, of the windows that slide over an image that is not
            seen whole, as the reference's do. The last ones of a row or column are moved inside.
        averaging: "probabilities": the mean of the softmaxes over scales and flips. "reference": the logits' mean over
            the flip, exponentiated, and summed over the scales. Where windows overlap, the mean of their softmaxes,
            or of their exponentiated logits, is taken first.
        max_whole_pixels: up to scale 1, an image of at most so many pixels is seen whole. With the window this bounds
            the memory that the network takes, and with a row of windows the logits that are kept of each scale.
    """

    scales: Annotated[tuple[Annotated[float, Field(gt=0)], ...], Field(min_length=1)] = (1.0,)
    flip: bool = False  # show each scale mirrored, too, left to right
    window: tuple[WindowSide, WindowSide] = (512, 1024)
    stride: Annotated[tuple[Step, Step], Field(validate_default=True)] = (512, 1024)
    averaging: Literal["probabilities", "reference"] = "probabilities"
    max_whole_pixels: Annotated[int, Field(ge=0)] = 1024 * 2048

    @field_validator("stride")
    @classmethod
    def _check_stride(cls, stride: tuple[int, int], info) -> tuple[int, int]:
        window = info.data.get("window", stride)
        if stride[0] > window[0] or stride[1] > window[1]:
            raise ValueError(f"steps no longer than the sides of the window, {window}")
        return stride

    @classmethod
    def for_crop(
        cls, crop: Sequence[int], window: Sequence[int] = (), stride: Sequence[int] = (), **fields: Any
    ) -> "InferenceConfig":
        """Configure inference for a network trained on such crops.

        By default windows are the crop, enlarged to the smallest window and multiples of 4, and lie side by side.
        """
        window = window or [max(-(-side // OUTPUT_STRIDE) * OUTPUT_STRIDE, 2 * MIN_SIDE) for side in crop]
        return cls(window=window, stride=stride or window, **fields)


SINGLE_SCALE = InferenceConfig()
SIX_SCALES = InferenceConfig((0.5, 0.75, 1.0, 1.25, 1.5, 1.75), flip=True)  # six and flip: section 4.2; which six: ours


def predict(
    network: nn.Module, image: Image, *, image_size: tuple[int, int] | None = None, channels_last: bool = False
) -> Prediction:
    """Run the network on one image, first resized to `image_size` (height, width) if given."""
    image = resize_to(image_size, image)
    pixels = torch.from_numpy(image.transpose(2, 0, 1).copy()).to(next(network.parameters()).device)
    with torch.inference_mode():
        return network(normalise(pixels[None], channels_last))


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
    image_size: tuple[int, int] | None = None,
    channels_last: bool = False,
) -> dict[str, ClassTensor]:
    """Predict the train ids of S_i, S_s and S_f (of a baseline: S_i) at the size of the image, on the network's device.

    Logits are kept at 1/4 of each scale's resolution, of one row of windows at a time, and upsampled and averaged a few
    rows at a time. The network runs in evaluation mode, and returns to its own mode; autocast is the caller's.

    Args:
        outputs: some of those that the network has, else a `ConfigError`; memory and time grow with their number.
        image_size: (height, width) to which the image is resized before it is scaled, as in training.
    """
    (height, width), outputs = image.shape[:2], available_outputs(network, outputs)
    image = resize_to(image_size, image)

    def forward(window: np.ndarray) -> tuple[LogitRows, bool]:
        prediction = predict(network, window, channels_last=channels_last)
        logits = prediction.outputs()
        return torch.stack([logits[name].main[0] for name in outputs]), prediction.align_corners

    training = network.training
    network.eval()
    try:
        with torch.inference_mode():
            strips, scales = [], (_row_strips(forward, image, inference, s, height) for s in inference.scales)
            for views in zip(*scales, strict=True):
                with float32_region(views[0][0].weights.device):
                    scores = (_mean_scores(views, o, width, inference.averaging) for o in range(len(outputs)))
                    strips.append(torch.stack([score.argmax(0).to(torch.uint8) for score in scores]))
            return dict(zip(outputs, torch.cat(strips, 1), strict=True))
    finally:
        network.train(training)


def available_outputs(network: nn.Module, asked: Sequence[str] | None = None) -> tuple[str, ...]:
    """Return S_i, S_s and S_f, or of a baseline S_i; of these what is asked for, or a `ConfigError`."""
    available = ("S_i", "S_s", "S_f") if getattr(network, "offset_head", None) is not None else ("S_i",)
    outputs = available if asked is None else tuple(asked)
    if not outputs or set(outputs) - set(available):
        raise ConfigError("outputs", list(outputs), f"some of {', '.join(available)}", "name outputs of this network")
    return outputs


def _row_strips(
    forward: Forward, image: np.ndarray, inference: InferenceConfig, scale: float, rows: int
) -> Iterator[tuple[RowStrip, ...]]:
    """Yield the strips of a result of `rows` rows from top to bottom, at one scale: plain, and mirrored if wanted."""
    size = tuple(max(round(side * scale), MIN_SIDE) for side in image.shape[:2])
    resized = cv2.resize(image, size[::-1], interpolation=cv2.INTER_LINEAR)  # as training scales
    window = size if scale <= 1 and size[0] * size[1] <= inference.max_whole_pixels else inference.window
    options = window, inference.stride, rows, inference.averaging == "probabilities"
    flips = (False, True) if inference.flip else (False,)
    return zip(*(row_strips(forward, resized, *options, mirrored) for mirrored in flips), strict=True)


def _mean_scores(
    views: Sequence[Sequence[RowStrip]], output: int, width: int, averaging: str
) -> Float[Tensor, "classes strip width"]:
    """Average one output over scales and flips; the class with the highest score is the prediction."""
    upsampled = ([view.upsample(output, width) for view in flips] for flips in views)
    if len(views) == len(views[0]) == 1:
        return next(upsampled)[0]
    if averaging == "probabilities":
        return sum(logits.softmax(0) for flips in upsampled for logits in flips)
    # The logarithm of the sum: it has its maximum in the same place, and does not overflow.
    return reduce(torch.logaddexp, (sum(flips) / len(flips) for flips in upsampled))
