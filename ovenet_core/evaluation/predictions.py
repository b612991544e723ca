"""The predictions of a split on disk: a folder of PNGs, continued where it was interrupted."""

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pandas as pd
from torch import nn
from tqdm.auto import tqdm

from ovenet_core.data import Sample, SegmentationDataset, decode_ids
from ovenet_core.evaluation.inference import SINGLE_SCALE, InferenceConfig, available_outputs, predict_classes
from ovenet_core.evaluation.metrics import ClassMap
from ovenet_core.utils import DataError, write_atomically, write_json


@dataclass(frozen=True)
class SavedPredictions:
    """Predictions on disk: `folder/OUTPUT/NAME.png`, one channel of train ids at the size of the image."""

    folder: Path
    outputs: tuple[str, ...]  # some of S_i, S_s and S_f; the last one is the final prediction

    def path(self, sample: Sample, output: str) -> Path:
        return self.folder / output / f"{sample.name}.png"

    def read(self, sample: Sample) -> dict[str, ClassMap]:
        """Read the train ids of each output for one image; `DataError` if a file is missing or damaged."""
        try:
            return {output: decode_ids(self.path(sample, output), np.uint8) for output in self.outputs}
        except DataError as error:
            fix = "predict into this folder again: only missing and damaged files are made"
            raise DataError(error.where, error.found, error.expected, fix) from error

    def has(self, sample: Sample) -> bool:
        """Tell whether all outputs of an image are there and whole."""
        with suppress(DataError):
            return bool(self.read(sample))
        return False


def predict_split(
    network: nn.Module,
    dataset: SegmentationDataset,
    samples: Sequence[Sample],
    folder: str | Path,
    inference: InferenceConfig = SINGLE_SCALE,
    *,
    identity: Mapping[str, Any],
    outputs: Sequence[str] | None = None,
    progress: bool = True,
    **options: Any,
) -> SavedPredictions:
    """Predict images into a folder, one PNG per image and output; an interrupted call continues with the same bytes.

    Args:
        identity: what the predictions depend on besides the arguments here, such as the run's configuration hash and
            the fingerprint of the data; written to `identity.json` with the arguments.
        outputs, options: as `predict_classes` takes them; the option is `image_size`.

    Raises:
        DataError: the folder has other files or another identity, two images one name, or an image cannot be read.
    """
    saved = SavedPredictions(Path(folder), available_outputs(network, outputs))
    name, count = Counter(sample.name for sample in samples).most_common(1)[0] if samples else ("", 0)
    if count > 1:
        raise DataError(name, f"{count} images of this name", "one", "predict them into folders of their own")
    settings = {"outputs": saved.outputs, "image_size": options.get("image_size")}
    _claim(saved.folder, {**identity, "dataset": dataset.name, "inference": asdict(inference), **settings})
    for output in saved.outputs:
        (saved.folder / output).mkdir(exist_ok=True)
    for sample in tqdm(samples, desc="predicting", unit="image", disable=not progress):
        if saved.has(sample):
            continue
        image = dataset.read_image(sample)
        for output, ids in predict_classes(network, image, inference, outputs=saved.outputs, **options).items():
            _, png = cv2.imencode(".png", ids.numpy(force=True))
            write_atomically(saved.path(sample, output), lambda file, png=png: file.write(png.tobytes()), mode="wb")
    return saved


def _claim(folder: Path, identity: dict[str, Any]) -> None:
    """Write the identity into the folder; refuse a folder of another identity."""
    file, identity = folder / "identity.json", json.loads(json.dumps(identity))
    folder.mkdir(parents=True, exist_ok=True)
    if not file.exists():
        if foreign := next((path for path in folder.iterdir() if not path.name.startswith(".")), None):
            found = f"{foreign.name} and no identity.json"
            raise DataError(folder, found, "predictions or nothing", "give another folder")
        write_json(file, identity)
    ours, theirs = (pd.json_normalize(i).to_dict("records")[0] for i in (identity, json.loads(file.read_text())))
    if differing := [name for name in {**ours, **theirs} if ours.get(name) != theirs.get(name)]:
        found, expected = ("; ".join(f"{n}: {i.get(n)!r}" for n in differing) for i in (theirs, ours))
        raise DataError(folder, f"predictions of {found}", expected, "give another folder, or delete this one")
