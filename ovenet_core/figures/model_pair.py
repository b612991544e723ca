"""Both networks of a comparison on one image."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from jaxtyping import Bool
from torch import nn

from ovenet_core import evaluation, training
from ovenet_core.cross_entropy import IGNORE_INDEX
from ovenet_core.data import DataError, Sample, SegmentationDataset
from ovenet_core.evaluation import evaluate
from ovenet_core.figures import images
from ovenet_core.figures.selection import SCORES, ranked
from ovenet_core.ovenet import Prediction
from ovenet_core.training import Experiment

SYSTEM_NAMES = {"hrnet": "HRNet", "hrnet_ocr": "HRNet+OCR"}


@dataclass(frozen=True, eq=False)
class ComparisonExample:
    """One image, and all of it that figures show.

    Attributes:
        maps: predicted train ids, uint8 at the size of the label: "baseline", and OVeNet's "S_i", "S_s", "S_f".
        prediction: what OVeNet returned, at 1/4 of the resolution that it saw.
        caption: a line of text above the images.
    """

    image: images.ImageArray
    label: images.Label
    maps: Mapping[str, images.Label]
    prediction: Prediction
    caption: str = ""

    @property
    def fused_otherwise(self) -> Bool[np.ndarray, "height width"]:
        """Where S_f differs from S_i; ignored pixels do not count."""
        return (self.maps["S_i"] != self.maps["S_f"]) & (images.array(self.label) != IGNORE_INDEX)


@dataclass(frozen=True, eq=False)
class ModelPair:
    """A trained baseline and a trained OVeNet to compare on a dataset, each with its experiment."""

    data: SegmentationDataset
    baseline: tuple[Experiment, nn.Module]
    ovenet: tuple[Experiment, nn.Module]

    @property
    def names(self) -> tuple[str, str]:
        """What the two are called in figures."""
        backbone, other = (SYSTEM_NAMES[experiment.backbone] for experiment, _ in (self.baseline, self.ovenet))
        return backbone, "OVeNet" if backbone == other else f"OVeNet ({other})"

    def frame(self, sample: Sample, caption: str = "") -> ComparisonExample:
        """A labelled image through both networks, each at the size that it was trained for; `DataError` as `read`."""
        image, label = self.data.read(sample)
        (_, maps), (prediction, ours) = (_predict(*one, image, label.shape) for one in (self.baseline, self.ovenet))
        return ComparisonExample(image, label, {"baseline": maps["S_i"]} | ours, prediction, caption)

    def scores(self, samples: Sequence[Sample], score: str = "miou", progress: bool = True) -> pd.DataFrame:
        """Scores of every image in %, from the largest gain of OVeNet to its largest loss, equal ones by name.

        Args:
            score: "miou", over the classes in an image's label or prediction, or "pixel_accuracy".

        Returns:
            A row for each image that has labelled pixels: baseline, S_i, S_f, gain (S_f minus baseline), rank.

        Raises:
            ValueError: another score.
            DataError: as `evaluate`.
        """
        if score not in SCORES:
            raise ValueError(f"score is {score!r}; expected one of {', '.join(map(repr, SCORES))}")
        samples = [replace(sample, instances=None) for sample in samples]  # which would only take time

        def read(sample: Sample) -> dict[str, np.ndarray]:
            maps = self.frame(sample).maps
            return {name: maps[name] for name in ("baseline", "S_i", "S_f")}

        found = evaluate(self.data, samples, read, boundaries=False, workers=1, progress=progress)
        columns = {name: {p.name: 100 * getattr(p, score) for p in e.images} for name, e in found.items()}
        table = pd.DataFrame(columns).dropna().rename_axis("image").sort_index()
        return ranked(table.assign(gain=table["S_f"] - table["baseline"]))


def _predict(
    experiment: Experiment, network: nn.Module, image: images.ImageArray, size: tuple[int, int]
) -> tuple[Prediction, dict[str, np.ndarray]]:
    """What a network returns for an image, and its classes at that size."""
    layout = {"image_size": experiment.image_size, "channels_last": experiment.channels_last}
    with training.autocast(experiment, next(network.parameters()).device):
        prediction = evaluation.predict(network, image, **layout)
    return prediction, {name: images.array(ids) for name, ids in evaluation.classes(prediction, size).items()}


def open_pair(
    baseline_run: str | Path, ovenet_run: str | Path, data: SegmentationDataset, device: str | torch.device = "cpu"
) -> ModelPair:
    """The networks of two finished runs, to compare on a dataset.

    Raises:
        FileNotFoundError: a folder that is not there, is no run, or has no checkpoint.
        DataError: the runs are of two datasets, or of other classes than those of `data`.
        ValueError: the first run has an offset head, or the second has none.
    """
    pair = ModelPair(data, *(training.load_trained(run, device=device) for run in (baseline_run, ovenet_run)))
    (baseline, _), (ovenet, _) = pair.baseline, pair.ovenet
    if baseline.branch_stage is not None:
        raise ValueError(
            f"{baseline_run} is a run of OVeNet, expected a baseline without offsets as baseline_run; "
            "give a run of hrnet or hrnet-ocr"
        )
    if ovenet.branch_stage is None:
        raise ValueError(
            f"{ovenet_run} is a run of a network without offsets, expected OVeNet as ovenet_run; "
            "give a run of ovenet or ovenet-ocr"
        )
    if baseline.benchmark != ovenet.benchmark:
        raise DataError(
            f"{baseline_run} was trained on {baseline.benchmark}, {ovenet_run} on {ovenet.benchmark}; "
            "expected one dataset: give two runs of the same"
        )
    training.require_classes(ovenet, data)
    return pair
