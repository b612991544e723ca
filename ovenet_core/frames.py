"""The pictures that figures show: both networks on a picture, pictures chosen by rule, regions found, not picked."""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import cv2
import numpy as np
import pandas as pd
import torch
from jaxtyping import Bool
from torch import nn

from ovenet_core import inference, models, plots
from ovenet_core.benchmarks import IGNORE, Benchmark, DataError, Sample
from ovenet_core.evaluation import evaluate
from ovenet_core.experiments import Experiment
from ovenet_core.ovenet import Prediction

NAMES = {"hrnet": "HRNet", "hrnet_ocr": "HRNet+OCR"}
SCORES = {"miou": "mIoU", "pixel_accuracy": "accuracy"}
Region = tuple[int, int, int, int]  # left, top, width, height, in pixels


@dataclass(frozen=True, eq=False)
class Frame:
    """One picture, and all of it that figures show.

    Attributes:
        maps: predicted train ids, uint8 at the size of the label: "baseline", and OVeNet's "S_i", "S_s", "S_f".
        prediction: what OVeNet returned, at 1/4 of the resolution that it saw.
        caption: a line of text above the pictures.
    """

    image: plots.Picture
    label: plots.Label
    maps: Mapping[str, plots.Label]
    prediction: Prediction
    caption: str = ""

    @property
    def fused_otherwise(self) -> Bool[np.ndarray, "height width"]:
        """Where S_f differs from S_i; ignored pixels do not count."""
        return (self.maps["S_i"] != self.maps["S_f"]) & (plots.array(self.label) != IGNORE)


@dataclass(frozen=True, eq=False)
class Pair:
    """A trained baseline and a trained OVeNet to compare on a data set, each with its experiment."""

    data: Benchmark
    baseline: tuple[Experiment, nn.Module]
    ovenet: tuple[Experiment, nn.Module]

    @property
    def names(self) -> tuple[str, str]:
        """What the two are called in figures."""
        body, other = (NAMES[experiment.body] for experiment, _ in (self.baseline, self.ovenet))
        return body, "OVeNet" if body == other else f"OVeNet ({other})"

    def frame(self, sample: Sample, caption: str = "") -> Frame:
        """A labelled picture through both networks, each at the size that it was trained for; `DataError` as `read`."""
        image, label = self.data.read(sample)
        (_, maps), (prediction, ours) = (_predict(*one, image, label.shape) for one in (self.baseline, self.ovenet))
        return Frame(image, label, {"baseline": maps["S_i"]} | ours, prediction, caption)

    def scores(self, samples: Sequence[Sample], score: str = "miou", progress: bool = True) -> pd.DataFrame:
        """Scores of every picture in %, from the largest gain of OVeNet to its largest loss, equal ones by name.

        Args:
            score: "miou", over the classes in a picture's label or prediction, or "pixel_accuracy".

        Returns:
            A row for each picture that has labelled pixels: baseline, S_i, S_f, gain (S_f minus baseline), rank.

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
        columns = {name: {p.name: 100 * getattr(p, score) for p in e.pictures} for name, e in found.items()}
        table = pd.DataFrame(columns).dropna().rename_axis("picture").sort_index()
        return ranked(table.assign(gain=table["S_f"] - table["baseline"]))


def _predict(
    experiment: Experiment, network: nn.Module, image: plots.Picture, size: tuple[int, int]
) -> tuple[Prediction, dict[str, np.ndarray]]:
    """What a network returns for a picture, and its classes at that size."""
    layout = {"picture_size": experiment.picture_size, "channels_last": experiment.channels_last}
    with models.autocast(experiment, next(network.parameters()).device):
        prediction = inference.predict(network, image, **layout)
    return prediction, {name: plots.array(ids) for name, ids in inference.classes(prediction, size).items()}


def open_pair(
    baseline_run: str | Path, ovenet_run: str | Path, data: Benchmark, device: str | torch.device = "cpu"
) -> Pair:
    """The networks of two finished runs, to compare on a data set.

    Raises:
        FileNotFoundError: a folder that is not there, is no run, or has no checkpoint.
        DataError: the runs are of two data sets, or of other classes than those of `data`.
        ValueError: the first run has an offset head, or the second has none.
    """
    pair = Pair(data, *(models.load_trained(run, device=device) for run in (baseline_run, ovenet_run)))
    (baseline, _), (ovenet, _) = pair.baseline, pair.ovenet
    if baseline.offset_branch is not None:
        raise ValueError(
            f"{baseline_run} is a run of OVeNet, expected a baseline without offsets as baseline_run; "
            "give a run of hrnet or hrnet-ocr"
        )
    if ovenet.offset_branch is None:
        raise ValueError(
            f"{ovenet_run} is a run of a network without offsets, expected OVeNet as ovenet_run; "
            "give a run of ovenet or ovenet-ocr"
        )
    if baseline.benchmark != ovenet.benchmark:
        raise DataError(
            f"{baseline_run} was trained on {baseline.benchmark}, {ovenet_run} on {ovenet.benchmark}; "
            "expected one data set: give two runs of the same"
        )
    models.require_classes(ovenet, data)
    return pair


# -- Which pictures, which regions


def ranked(scores: pd.DataFrame) -> pd.DataFrame:
    """The pictures from the largest `gain` to the largest loss, equal ones by name, with their `rank` from 1 on."""
    table = scores.sort_index().sort_values("gain", ascending=False, kind="stable")
    return table.assign(rank=range(1, len(table) + 1))


def spread(scores: pd.DataFrame, count: int, without: Collection[str] = ()) -> pd.DataFrame:
    """`count` pictures evenly spread over the ranking, with the `rule` that each was chosen by.

    Of three, the largest gain, the median (of two the one with less gain) and the largest loss; all, if there are not
    more. Places between two pictures go to the one with less gain.

    Args:
        without: pictures that are shown elsewhere; the others then stand in one ranking without them.
    """
    left, last = scores.drop(list(without)), len(scores)
    steps, parts = len(left) - 1, max(count - 1, 1)
    places = range(len(left)) if count >= len(left) else [(2 * i * steps + parts) // (2 * parts) for i in range(count)]
    lowest = "largest loss" if scores["gain"].min() < 0 else "smallest gain"
    rules = {last // 2 + 1: "median", last: lowest, 1: "largest gain"}
    chosen = left.iloc[list(places)]
    return chosen.assign(rule=[rules.get(rank, "") for rank in chosen["rank"]])


def failures(scores: pd.DataFrame, count: int) -> pd.DataFrame:
    """`count` pictures: half of them where OVeNet loses most to the baseline, the others where its own score is lowest.

    A picture is there once; where OVeNet loses in too few pictures, more of the others are taken.
    """
    losses = scores[scores["gain"] < 0].iloc[::-1][: (count + 1) // 2]
    others = scores.drop(losses.index).sort_index().sort_values("S_f", kind="stable")[: count - len(losses)]
    rules = [f"largest loss, no. {i + 1}" for i in range(len(losses))]
    rules += [f"lowest score, no. {i + 1}" for i in range(len(others))]
    return pd.concat([losses, others]).assign(rule=rules)


def captions(chosen: pd.DataFrame, total: int, names: tuple[str, str], score: str = "miou") -> list[str]:
    """The line above each chosen picture: its name, the rule, its rank of `total`, the scores of both networks."""
    found = []
    for name, row in chosen.iterrows():
        place = ", ".join(filter(None, [row["rule"], f"rank {row['rank']} of {total} by gain"]))
        gain = f"{row['gain']:+.1f}".replace("-", "\N{MINUS SIGN}")
        found.append(
            f"{name}:  {place};  {SCORES[score]} {names[0]} {row['baseline']:.1f}%, "
            f"{names[1]} {row['S_f']:.1f}% ({gain})"
        )
    return found


def regions(mask: Bool[np.ndarray, "height width"], count: int = 3, share: float = 1e-3) -> list[Region]:
    """The rectangles around the largest connected areas of a mask, the largest first, at most `count`.

    With a margin of 1/200 of the picture's longer side, 1 pixel or more: lines of up to twice the margin are left out,
    areas that are no further apart are taken as one, and the rectangles are larger by twice the margin on each side.
    While one takes up more than a quarter of the picture, lines of up to twice as much are left out too.

    Args:
        share: areas below this share of the picture's pixels are left out.
    """
    margin = thickness = max(1, round(max(mask.shape) / 200))
    found = _rectangles(mask, thickness, margin, count, share)
    while thickness < min(mask.shape) // 4 and any(4 * width * height > mask.size for _, _, width, height in found):
        thickness *= 2
        found = _rectangles(mask, thickness, margin, count, share) or found
    return found


def _rectangles(mask: np.ndarray, thickness: int, margin: int, count: int, share: float) -> list[Region]:
    """As `regions`, without lines of up to twice `thickness`."""
    height, width = mask.shape
    thin, near = (cv2.getStructuringElement(cv2.MORPH_RECT, (2 * n + 1,) * 2) for n in (thickness, margin))
    solid = cv2.morphologyEx(mask.astype(np.uint8), cv2.MORPH_OPEN, thin)
    areas = cv2.connectedComponents(cv2.dilate(solid, near))[1] * solid  # 0 is what lies outside
    pixels = np.bincount(areas.ravel())[1:]
    found = []
    for area in np.argsort(-pixels, kind="stable")[:count]:
        if pixels[area] >= share * mask.size:
            left, top, across, down = cv2.boundingRect((areas == area + 1).astype(np.uint8))
            right, bottom = min(left + across + 2 * margin, width), min(top + down + 2 * margin, height)
            left, top = max(left - 2 * margin, 0), max(top - 2 * margin, 0)
            found.append((left, top, right - left, bottom - top))
    return found


def improves(region: Region, label: plots.Label, before: plots.Label, after: plots.Label) -> bool:
    """Whether more pixels of a region were repaired than spoilt."""
    left, top, width, height = region
    here = np.s_[top : top + height, left : left + width]
    kinds = np.bincount(plots.repair_map(label[here], before[here], after[here]).ravel(), minlength=len(plots.REPAIRS))
    named = dict(zip(plots.REPAIRS, kinds.tolist(), strict=True))
    return named["repaired"] > named["spoilt"]
