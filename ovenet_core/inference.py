"""Inference: classes at the size of a picture, over scales, flips and sliding windows, and of whole splits on disk."""

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass
from functools import partial
from itertools import product
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch
from jaxtyping import Float, UInt8
from torch import Tensor, nn
from tqdm.auto import tqdm

from ovenet_core import files
from ovenet_core.benchmarks import Benchmark, DataError, Sample
from ovenet_core.hrnet import full_precision, resize
from ovenet_core.ovenet import Prediction
from ovenet_core.runs import write_atomically, write_json

MEAN = (0.485, 0.456, 0.406)  # of ImageNet, RGB in [0, 1]
DEVIATION = (0.229, 0.224, 0.225)
GRID = 4  # the network predicts at 1/4 of the picture's resolution
SMALLEST = 32  # pixels to a side; its lowest resolution is 1/32
STRIP = 32  # rows of the picture whose scores are in memory at a time
AVERAGING = ("probabilities", "reference")


@dataclass(frozen=True)
class Inference:
    """How the classes of a picture are found (section 4.2: six scales and flip).

    Attributes:
        scales: sizes of the picture that the network sees, as factors of its own. A side that a scale makes shorter
            than 32 pixels, the least that the network takes, has 32 (or its own length, if that is shorter).
        flip: each of them also mirrored, left to right.
        window, stride: (height, width) in pixels, multiples of 4, of the windows that slide over the picture where it
            is not seen whole. The last ones of a row or column are moved inside. By default the crop that the
            networks are trained with, side by side, as the reference does.
        averaging: "probabilities": the mean of the softmaxes over scales and flips. "reference": the logits' mean over
            the flip, exponentiated, and summed over the scales. Where windows overlap, the mean of their softmaxes,
            or of their exponentiated logits, is taken first.
        whole: a picture is seen whole up to scale 1, if it then has no more pixels than this. With the window it
            bounds the memory that the network takes, whatever the size of the picture.

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
            if side % GRID or step % GRID or side < 2 * SMALLEST or not 0 < step <= side:
                raise ValueError(f"window is {self.window}, stride {self.stride}; expected multiples of {GRID}, "
                                 f"windows of {2 * SMALLEST} or more and strides above 0 and no longer than they are")

    def window_at(self, scale: float, height: int, width: int) -> tuple[int, int]:
        """The (height, width) that the network sees at once of a picture scaled to height x width."""
        return (height, width) if scale <= 1 and height * width <= self.whole else self.window


SINGLE_SCALE = Inference()
SIX_SCALES = Inference((0.5, 0.75, 1.0, 1.25, 1.5, 1.75), flip=True)  # section 4.2, of Tables 1 and 2


def normalise(
    images: UInt8[Tensor, "batch 3 height width"], channels_last: bool = False
) -> Float[Tensor, "batch 3 height width"]:
    """RGB in [0, 255] to what the network expects: [0, 1], minus the ImageNet mean, over the ImageNet deviation."""
    mean, deviation = (torch.tensor(v, device=images.device).view(3, 1, 1) for v in (MEAN, DEVIATION))
    images = (images.float() / 255 - mean) / deviation
    return images.contiguous(memory_format=torch.channels_last) if channels_last else images


def predict(
    network: nn.Module,
    image: UInt8[np.ndarray, "height width 3"],
    *,
    picture_size: tuple[int, int] | None = None,
    channels_last: bool = False,
) -> Prediction:
    """The network's prediction for one picture (RGB), resized to `picture_size` (height, width) first if given."""
    if picture_size is not None:
        image = cv2.resize(image, picture_size[::-1], interpolation=cv2.INTER_AREA)
    device = next(network.parameters()).device
    pixels = torch.from_numpy(np.ascontiguousarray(image.transpose(2, 0, 1))).to(device)
    with torch.inference_mode():
        return network(normalise(pixels[None], channels_last))


def classes(prediction: Prediction, size: tuple[int, int]) -> dict[str, UInt8[Tensor, "height width"]]:
    """The predicted train ids of S_i, S_s and S_f for one picture, at (height, width)."""
    outputs = prediction.outputs().items()
    return {name: prediction.enlarged(o.main, size).argmax(1)[0].to(torch.uint8) for name, o in outputs}


def predict_classes(
    network: nn.Module,
    image: UInt8[np.ndarray, "height width 3"],
    inference: Inference = SINGLE_SCALE,
    *,
    outputs: Sequence[str] | None = None,
    picture_size: tuple[int, int] | None = None,
    channels_last: bool = False,
) -> dict[str, UInt8[Tensor, "height width"]]:
    """The train ids of S_i, S_s and S_f (of a baseline: S_i) at the size of the picture, on the network's device.

    Logits are kept at 1/4 of each scale's resolution, and enlarged and averaged a few rows at a time. The network
    runs in evaluation mode, and goes back to its own; autocast is the caller's.

    Args:
        image: RGB in [0, 255].
        outputs: some of S_i, S_s and S_f; by default all that the network has. Memory and time grow with their number.
        picture_size: (height, width) to which the picture is resized before it is scaled, as in training.

    Raises:
        ValueError: a side of the picture is below 32 pixels, or the network has no such output.
    """
    size, outputs = image.shape[:2], _checked_outputs(network, outputs)
    if picture_size is not None:
        image = cv2.resize(image, picture_size[::-1], interpolation=cv2.INTER_AREA)
    slide = partial(_slide, network, inference=inference, outputs=outputs, channels_last=channels_last)
    training = network.training
    network.eval()
    try:
        with torch.inference_mode():
            passes = [_at_scale(slide, image, scale, inference) for scale in inference.scales]
            with full_precision(passes[0][0].logits[outputs[0]].device):
                return {name: _classes(passes, name, size, inference.averaging) for name in outputs}
    finally:
        network.train(training)


def available_outputs(network: nn.Module) -> tuple[str, ...]:
    """S_i, S_s and S_f, or of a baseline S_i; the last one is the network's answer."""
    return ("S_i", "S_s", "S_f") if getattr(network, "offset_head", None) is not None else ("S_i",)


def _checked_outputs(network: nn.Module, outputs: Sequence[str] | None) -> tuple[str, ...]:
    """The outputs asked for, by default all that the network has; ValueError if it has no such one."""
    there = available_outputs(network)
    outputs = tuple(there if outputs is None else outputs)
    if not outputs or set(outputs) - set(there):
        raise ValueError(f"outputs {sorted(outputs)}: the network has {', '.join(there)}; choose from these")
    return outputs


@dataclass
class _Pass:
    """What one look at a picture gave: logits (classes, rows, columns) at 1/4 of its resolution, by output."""

    logits: dict[str, Tensor]
    align_corners: bool


def _at_scale(
    slide: Callable[[np.ndarray, tuple[int, int]], _Pass], image: np.ndarray, scale: float, inference: Inference
) -> list[_Pass]:
    """What one scale gives and, with flip, what the mirrored picture gives, mirrored back."""
    height, width = (max(round(side * scale), min(side, SMALLEST)) for side in image.shape[:2])
    if (height, width) != image.shape[:2]:  # bilinear, as training scales
        image = cv2.resize(image, (width, height), interpolation=cv2.INTER_LINEAR)
    window = inference.window_at(scale, height, width)
    found = [slide(image, window)]
    if inference.flip:
        mirrored = slide(image[:, ::-1], window)
        found.append(_Pass({name: o.flip(-1) for name, o in mirrored.logits.items()}, mirrored.align_corners))
    return found


def _slide(
    network: nn.Module,
    image: np.ndarray,
    window: tuple[int, int],
    *,
    inference: Inference,
    outputs: Sequence[str],
    channels_last: bool,
) -> _Pass:
    """The main logits of a picture of which the network sees a window at a time."""
    height, width = image.shape[:2]
    rows, columns = map(_starts, (height, width), window, inference.stride)
    canvas: dict[str, Tensor] = {}
    counts = torch.zeros(-(-height // GRID), -(-width // GRID))
    for top, left in product(rows, columns):
        seen = image[top : top + window[0], left : left + window[1]]
        prediction = predict(network, seen, channels_last=channels_last)
        found = {name: prediction.outputs()[name].main[0] for name in outputs}
        if len(rows) == len(columns) == 1:
            return _Pass(found, prediction.align_corners)
        v, u = top // GRID, left // GRID
        here = np.s_[..., v : v + found[outputs[0]].shape[1], u : u + found[outputs[0]].shape[2]]
        counts[here] += 1
        for name, logits in found.items():
            # A softmax stays the same when a number is added to all logits of a pixel, enlarged or not. So the
            # logarithms of mean probabilities can stand for logits.
            scores = logits.log_softmax(0) if inference.averaging == "probabilities" else logits
            total = canvas.setdefault(name, scores.new_full((len(scores), *counts.shape), -torch.inf))
            total[here] = torch.logaddexp(total[here], scores)
    means = {name: total.sub_(counts.log().to(total.device)) for name, total in canvas.items()}
    return _Pass(means, prediction.align_corners)


def _starts(length: int, window: int, stride: int) -> list[int]:
    """Where the windows along one axis begin: multiples of 4, so that their logits fall on one grid."""
    last = -(-max(length - window, 0) // GRID) * GRID
    return [*range(0, last, stride), last]


def _classes(
    passes: Sequence[Sequence[_Pass]], name: str, size: tuple[int, int], averaging: str
) -> UInt8[Tensor, "height width"]:
    """The classes with the highest score over the passes, by scale and flip, of the output of that name."""
    enlarged = [[_strips(p.logits[name], size, p.align_corners) for p in flips] for flips in passes]
    found = []
    for _ in range(0, size[0], STRIP):
        logits = [[next(strips) for strips in flips] for flips in enlarged]
        if len(passes) == len(passes[0]) == 1:
            scores = logits[0][0]
        elif averaging == "probabilities":
            scores = sum(one.softmax(0) for flips in logits for one in flips)
        else:  # the logarithm of the sum: it has its maximum in the same place, and does not overflow
            scores = torch.stack([sum(flips) / len(flips) for flips in logits]).logsumexp(0)
        found.append(scores.argmax(0).to(torch.uint8))
    return torch.cat(found)


def _strips(
    logits: Float[Tensor, "classes rows columns"], size: tuple[int, int], align_corners: bool
) -> Iterator[Float[Tensor, "classes strip width"]]:
    """`resize` of the logits to (height, width), from top to bottom, `STRIP` rows at a time."""
    height, rows = size[0], logits.shape[1]
    identity = torch.eye(rows, dtype=logits.dtype, device=logits.device)
    weights = resize(identity[None, None], (height, rows), align_corners)[0, 0]  # of each row in each row of the result
    for strip in weights.split(STRIP):
        used = strip.any(0).nonzero()
        source = slice(int(used[0]), int(used[-1]) + 1)
        near = logits[:, source]
        yield strip[:, source] @ resize(near[None], (near.shape[1], size[1]), align_corners)[0]


@dataclass(frozen=True)
class SavedPredictions:
    """Predictions on disk: `folder/OUTPUT/NAME.png`, one channel of train ids at the size of the picture.

    Attributes:
        outputs: which of S_i, S_s and S_f there are; the last one is the one to hand in.
    """

    folder: Path
    outputs: tuple[str, ...]

    def path(self, sample: Sample, output: str) -> Path:
        return self.folder / output / f"{sample.name}.png"

    def read(self, sample: Sample) -> dict[str, UInt8[np.ndarray, "height width"]]:
        """The train ids of each output for one picture.

        Raises:
            DataError: one of the files is missing or damaged.
        """
        try:
            return {output: files.decode_ids(self.path(sample, output), np.uint8) for output in self.outputs}
        except DataError as error:
            raise DataError(f"{error}. Or predict into this folder again: only what is not there is made") from error

    def has(self, sample: Sample) -> bool:
        """Whether all outputs of a picture are there and whole."""
        with suppress(DataError):
            return bool(self.read(sample))
        return False


def predict_split(
    network: nn.Module,
    data: Benchmark,
    samples: Sequence[Sample],
    folder: str | Path,
    inference: Inference = SINGLE_SCALE,
    *,
    identity: Mapping[str, Any],
    outputs: Sequence[str] | None = None,
    picture_size: tuple[int, int] | None = None,
    channels_last: bool = False,
    progress: bool = True,
) -> SavedPredictions:
    """Predict pictures into a folder, one PNG per picture and output; what is there already is kept.

    Interrupted, it goes on where it stopped, and leaves the same bytes. A file that was damaged is made anew.

    Args:
        identity: what the predictions depend on beside the arguments here, such as the run's configuration hash and
            the fingerprint of the data; written to `identity.json` with the arguments.
        outputs: some of S_i, S_s and S_f; by default all that the network has.

    Raises:
        DataError: the folder holds predictions of another identity, or other files; two pictures have one name; a
            picture is too small or cannot be read.
        ValueError: the network has no such output.
    """
    outputs = _checked_outputs(network, outputs)
    names = [sample.name for sample in samples]
    if len(set(names)) < len(names):
        twice = next(name for name in names if names.count(name) > 1)
        raise DataError(f"{twice}: two pictures of this name, expected one; predict them into folders of their own")
    saved = SavedPredictions(Path(folder), outputs)
    _claim(saved.folder, {
        **identity, "benchmark": data.name, "inference": asdict(inference), "outputs": outputs,
        "picture_size": picture_size,
    })
    for output in outputs:
        (saved.folder / output).mkdir(exist_ok=True)
    for sample in tqdm(samples, desc="predicting", unit="picture", disable=not progress):
        if saved.has(sample):
            continue
        image = data.read_image(sample)
        try:
            found = predict_classes(
                network, image, inference, outputs=outputs, picture_size=picture_size, channels_last=channels_last
            )
        except ValueError as error:
            raise DataError(f"{sample.image}: {error}") from error
        for output in outputs:
            _, png = cv2.imencode(".png", found[output].numpy(force=True))
            write_atomically(saved.path(sample, output), lambda file, png=png: file.write(png.tobytes()), mode="wb")
    return saved


def _claim(folder: Path, identity: dict[str, Any]) -> None:
    """Make the folder one of this identity; refuse it if it is of another."""
    file, identity = folder / "identity.json", json.loads(json.dumps(identity))
    folder.mkdir(parents=True, exist_ok=True)
    if not file.exists():
        if found := next((path for path in folder.iterdir() if not path.name.startswith(".")), None):
            raise DataError(f"{folder}: {found.name} and no identity.json is in it, expected predictions or nothing; "
                            "give another folder")
        write_json(file, identity)
    mine, other = _flat(identity), _flat(json.loads(file.read_text()))
    if differing := [name for name in {**mine, **other} if mine.get(name) != other.get(name)]:
        raise DataError(f"{folder} holds other predictions. These and those differ in "
                        f"{'; '.join(f'{n}: {mine.get(n)!r}, {other.get(n)!r}' for n in differing)}. "
                        "Give another folder, or delete this one")


def _flat(values: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Nested mappings as one, with names such as `inference.scales`."""
    found = {}
    for name, value in values.items():
        found |= _flat(value, f"{prefix}{name}.") if isinstance(value, dict) else {prefix + name: value}
    return found
