"""The predictions of a split on disk: a folder of PNGs, made by `inference`, continued where it was interrupted."""

import json
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from jaxtyping import UInt8
from torch import nn
from tqdm.auto import tqdm

from ovenet_core.data import DataError, Sample, SegmentationDataset, io
from ovenet_core.evaluation.inference import SINGLE_SCALE, InferenceConfig, checked_outputs, predict_classes
from ovenet_core.utils import write_atomically, write_json


@dataclass(frozen=True)
class SavedPredictions:
    """Predictions on disk: `folder/OUTPUT/NAME.png`, one channel of train ids at the size of the image.

    Attributes:
        outputs: which of S_i, S_s and S_f there are; the last one is the one to hand in.
    """

    folder: Path
    outputs: tuple[str, ...]

    def path(self, sample: Sample, output: str) -> Path:
        return self.folder / output / f"{sample.name}.png"

    def read(self, sample: Sample) -> dict[str, UInt8[np.ndarray, "height width"]]:
        """The train ids of each output for one image.

        Raises:
            DataError: one of the files is missing or damaged.
        """
        try:
            return {output: io.decode_ids(self.path(sample, output), np.uint8) for output in self.outputs}
        except DataError as error:
            raise DataError(f"{error}. Or predict into this folder again: only what is not there is made") from error

    def has(self, sample: Sample) -> bool:
        """Whether all outputs of an image are there and whole."""
        with suppress(DataError):
            return bool(self.read(sample))
        return False


def predict_split(
    network: nn.Module,
    data: SegmentationDataset,
    samples: Sequence[Sample],
    folder: str | Path,
    inference: InferenceConfig = SINGLE_SCALE,
    *,
    identity: Mapping[str, Any],
    outputs: Sequence[str] | None = None,
    image_size: tuple[int, int] | None = None,
    channels_last: bool = False,
    progress: bool = True,
) -> SavedPredictions:
    """Predict images into a folder, one PNG per image and output; what is there already is kept.

    Interrupted, it goes on where it stopped, and leaves the same bytes. A file that was damaged is made anew.

    Args:
        identity: what the predictions depend on beside the arguments here, such as the run's configuration hash and
            the fingerprint of the data; written to `identity.json` with the arguments.
        outputs: some of S_i, S_s and S_f; by default all that the network has.

    Raises:
        DataError: the folder holds predictions of another identity, or other files; two images have one name; a
            image cannot be read.
        ValueError: the network has no such output.
    """
    outputs = checked_outputs(network, outputs)
    names = [sample.name for sample in samples]
    if len(set(names)) < len(names):
        twice = next(name for name in names if names.count(name) > 1)
        raise DataError(f"{twice}: two images of this name, expected one; predict them into folders of their own")
    saved = SavedPredictions(Path(folder), outputs)
    _claim(
        saved.folder,
        {
            **identity,
            "benchmark": data.name,
            "inference": asdict(inference),
            "outputs": outputs,
            "image_size": image_size,
        },
    )
    for output in outputs:
        (saved.folder / output).mkdir(exist_ok=True)
    for sample in tqdm(samples, desc="predicting", unit="image", disable=not progress):
        if saved.has(sample):
            continue
        image = data.read_image(sample)
        layout = {"image_size": image_size, "channels_last": channels_last}
        found = predict_classes(network, image, inference, outputs=outputs, **layout)
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
            raise DataError(
                f"{folder}: {found.name} and no identity.json is in it, expected predictions or nothing; "
                "give another folder"
            )
        write_json(file, identity)
    mine, other = _flat(identity), _flat(json.loads(file.read_text()))
    if differing := [name for name in {**mine, **other} if mine.get(name) != other.get(name)]:
        raise DataError(
            f"{folder} holds other predictions. These and those differ in "
            f"{'; '.join(f'{n}: {mine.get(n)!r}, {other.get(n)!r}' for n in differing)}. "
            "Give another folder, or delete this one"
        )


def _flat(values: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Nested mappings as one, with names such as `inference.scales`."""
    found = {}
    for name, value in values.items():
        found |= _flat(value, f"{prefix}{name}.") if isinstance(value, dict) else {prefix + name: value}
    return found
