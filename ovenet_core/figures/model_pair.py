"""What networks predict for one image, and a trained baseline next to a trained OVeNet."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from jaxtyping import Bool
from torch import nn

from ovenet_core.cross_entropy import IGNORE_INDEX
from ovenet_core.data import Sample, SegmentationDataset
from ovenet_core.evaluation import classes, evaluate, predict
from ovenet_core.figures.images import ImageArray, Label, array
from ovenet_core.figures.selection import SCORE_NAMES, ranked
from ovenet_core.ovenet import Prediction
from ovenet_core.training import Experiment, autocast, load_trained, require_classes
from ovenet_core.utils import ConfigError, DataError

BASELINE_NAMES = {"hrnet": "HRNet", "hrnet_ocr": "HRNet+OCR"}  # by backbone


@dataclass(frozen=True, eq=False)
class Example:
    """One image, and all that figures show of it.

    Attributes:
        label: train ids, at the size of the image; None without a label.
        maps: predicted train ids, uint8 at the size of the image: "S_i", "S_s", "S_f" and, of a pair, "baseline".
        prediction: what the network (of a pair, OVeNet) returned, at 1/4 of the resolution of its input.
        caption: a line of text above the images.
    """

    image: ImageArray
    label: Label | None = None
    maps: Mapping[str, Label] = field(default_factory=dict)
    prediction: Prediction | None = None
    caption: str = ""

    @property
    def changed_by_fusion(self) -> Bool[np.ndarray, "height width"]:
        """Where S_f differs from S_i; ignored pixels do not count."""
        return (self.maps["S_i"] != self.maps["S_f"]) & (array(self.label) != IGNORE_INDEX)


def predict_example(network: nn.Module, image: ImageArray, label: Label | None = None, **predict_options) -> Example:
    """Predict one image with a network in evaluation mode, with options of `evaluation.predict`."""
    prediction = predict(network, image, **predict_options)
    maps = {name: array(ids) for name, ids in classes(prediction, image.shape[:2]).items()}
    return Example(image, label, maps, prediction)


@dataclass(frozen=True, eq=False)
class ModelPair:
    """A trained baseline and a trained OVeNet to compare on a dataset, each with its experiment."""

    dataset: SegmentationDataset
    baseline: tuple[Experiment, nn.Module]
    ovenet: tuple[Experiment, nn.Module]

    @property
    def names(self) -> tuple[str, str]:
        """The names of the two in figures."""
        backbone, other = (BASELINE_NAMES[experiment.backbone] for experiment, _ in (self.baseline, self.ovenet))
        return backbone, "OVeNet" if backbone == other else f"OVeNet ({other})"

    def example(self, sample: Sample, caption: str = "") -> Example:
        """Predict a labelled image with both networks, each at its training size; `DataError` as `dataset.read`."""
        image, label = self.dataset.read(sample)
        examples = []
        for experiment, network in (self.baseline, self.ovenet):
            with autocast(experiment, next(network.parameters()).device):
                examples.append(predict_example(network, image, label, image_size=experiment.image_size))
        baseline, ovenet = examples
        return replace(ovenet, maps={"baseline": baseline.maps["S_i"]} | ovenet.maps, caption=caption)

    def scores(self, samples: Sequence[Sample], score: str = "miou", progress: bool = True) -> pd.DataFrame:
        """Score every image in %, from the largest gain of OVeNet to its largest loss, equal ones by name.

        The score is "miou", over the classes in an image's label or prediction, or "pixel_accuracy"; another one is a
        `ConfigError`. Each image with labelled pixels has a row: baseline, S_i, S_f, gain (S_f minus baseline), rank.
        """
        if score not in SCORE_NAMES:
            raise ConfigError("score", repr(score), " or ".join(map(repr, SCORE_NAMES)), "choose one of them")
        samples = [replace(sample, instances=None) for sample in samples]  # reading instances would only take time

        def read(sample: Sample) -> dict[str, np.ndarray]:
            maps = self.example(sample).maps
            return {name: maps[name] for name in ("baseline", "S_i", "S_f")}

        evaluations = evaluate(self.dataset, samples, read, boundaries=False, workers=1, progress=progress)
        columns = {name: {i.name: 100 * getattr(i, score) for i in e.images} for name, e in evaluations.items()}
        table = pd.DataFrame(columns).dropna().rename_axis("image").sort_index()
        return ranked(table.assign(gain=table["S_f"] - table["baseline"]))


def open_pair(
    baseline_run: str | Path, ovenet_run: str | Path, dataset: SegmentationDataset, device: str | torch.device = "cpu"
) -> ModelPair:
    """Load the networks of two finished runs, to compare them on a dataset.

    Raises:
        RunError: a folder that is not there, is no run, or has no checkpoint.
        DataError: the runs are of two datasets, or their classes are not the dataset's.
        ConfigError: the first run has an offset head, or the second has none.
    """
    pair = ModelPair(dataset, *(load_trained(run, device=device) for run in (baseline_run, ovenet_run)))
    (baseline, _), (ovenet, _) = pair.baseline, pair.ovenet
    if baseline.branch_stage is not None:
        found = f"a run of OVeNet ({baseline_run})"
        raise ConfigError("baseline_run", found, "a baseline without offsets", "give a run of hrnet or hrnet-ocr")
    if ovenet.branch_stage is None:
        found = f"a run without offsets ({ovenet_run})"
        raise ConfigError("ovenet_run", found, "a run of OVeNet", "give a run of ovenet or ovenet-ocr")
    if baseline.benchmark != ovenet.benchmark:
        trained = f"a run on {ovenet.benchmark}", f"one on {baseline.benchmark}, as {baseline_run}"
        raise DataError(ovenet_run, *trained, "give two runs on one dataset")
    require_classes(ovenet, dataset)
    return pair
