"""What offsets and confidence do, counted over a split: what the paper says about them in words (sections 1, 3.2, 4.3).

Counted at the size of the labels, over pixels with a valid label, by condition, by the class of the pixel's label and
by its distance from the nearest label boundary. What the numbers mean:

- *Length* of o(p), in pixels of the label: o is in normalised coordinates, so x counts (W - 1) / 2 and y (H - 1) / 2.
  The field, at 1/4 resolution, is upsampled as the confidence loss upsamples it (`Prediction.upsample`).
- *Distance* of p: Euclidean, from the nearest pixel that touches one of another class (`label_boundary`), 0 on such a
  pixel. Neither the image's border nor an ignored pixel makes a boundary.
- *Seed* of p: p + o(p), clamped to the image. Its label is the label of the pixel nearest to it, as in L_F. Where that
  is ignored, the pixel does not count in what needs it. Its distance is read between pixels, bilinearly.
- *Away from the boundary*: the angle between o(p) and the gradient of the distance at p, where o(p) is longer than
  `MOVED` and the gradient at least `SLOPE`: no way leads away from the middle of a segment, or of a thin structure.
- *Gain*: distance of the seed minus distance of p, where o(p) is longer than `MOVED`. Any vector leads away from a
  boundary, so vectors of the same lengths in uniformly random directions are counted next to them.
- *Confidence*: the sigmoid of the upsampled logits of F, against H(p) = H(p + o(p)), which L_F teaches it (equation 6).
- *Repaired, degraded*: S_i wrong and S_f right, and the reverse.
- *Oracle confidence*: right where S_i, S_s or S_f is right: at least as good as any choice between S_i and S_s.
- *Oracle seed*: right where S_i has the pixel's class somewhere in the window that tau, or a share of it, spans around
  the pixel. Both oracles look up the label. Where they are wrong they have the class of S_f, so they are never below
  it. The window is one of single pixels; between them, a seed of S_s mixes the logits of four.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property, reduce
from itertools import pairwise
from operator import add
from typing import Any

import cv2
import numpy as np
import pandas as pd
import torch
from jaxtyping import Bool, Float, UInt8
from numpy.random import Generator
from torch import Tensor
from tqdm.auto import tqdm

from ovenet_core.cross_entropy import IGNORE_INDEX
from ovenet_core.data import Sample, SegmentationDataset
from ovenet_core.evaluation import BANDS, Evaluation, classes, count_image, distance_to, label_boundary, predict, ratio
from ovenet_core.ovenet import OVeNet, Prediction
from ovenet_core.resampling import labels_at_seeds, pixel_positions, resample, seed_positions
from ovenet_core.utils import ConfigError, DataError

MOVED = 0.5  # pixels; shorter offsets stay on their pixel and have no direction worth counting
SLOPE = 0.25  # pixels of distance per pixel; 1 on a slope, 0.5 on a straight boundary, 0 where no way leads away
SHARES = (1 / 16, 1 / 8, 1 / 4, 1 / 2, 1.0)  # of tau, for the oracle seed
LENGTHS = np.concatenate([[0.0], np.geomspace(0.25, 4096, 8 * 14 + 1)])  # edges; eight bins to each doubling
ANGLES = np.arange(0, 181, 10)  # edges, in degrees
CONFIDENCES = 20  # bins of F, of equal width
NO_SHARES = ("pixels", "length", "length_median", "length_90", "cosine", "seed_gain", "random_gain")  # columns

DISTANCES = (f"below {BANDS[0]}", *(f"{a} to {b}" for a, b in pairwise(BANDS)), f"{BANDS[-1]} or more")
ORACLE_SEEDS = tuple("oracle seed" if s == 1 else f"oracle seed, tau/{round(1 / s)}" for s in SHARES)
MAPS = ("S_i", "S_s", "S_f", "oracle confidence", *ORACLE_SEEDS)

ClassMap = UInt8[np.ndarray, "height width"]
Field = Float[Tensor, "2 height width"]
Values = Float[np.ndarray, "height width"]


@dataclass(frozen=True)
class UpsampledPrediction:
    """The prediction for one image at the size of its label.

    Attributes:
        maps: predicted train ids of S_i, S_s and S_f.
        offsets: (dx, dy) in normalised image coordinates.
        confidence: F, in [0, 1].
    """

    maps: Mapping[str, ClassMap]
    offsets: Field
    confidence: Values


def upsample_prediction(prediction: Prediction, size: tuple[int, int]) -> UpsampledPrediction:
    """Upsample the prediction of an OVeNet for one image to (height, width)."""
    maps = {name: class_map.numpy(force=True) for name, class_map in classes(prediction, size).items()}
    offsets = prediction.upsample(prediction.offsets.float(), size)[0].cpu()
    confidence = prediction.upsample(prediction.confidence_logits.float(), size)[0, 0].sigmoid()
    return UpsampledPrediction(maps, offsets, confidence.numpy(force=True))


class OffsetCounts(dict[str, Float[np.ndarray, "classes distances ..."]]):
    """Sums of quantities over pixels, by class of the label and by distance; they add up over images.

    "lengths" and "angles" are the pixels in each bin of `LENGTHS` and `ANGLES`; "confidence" has, for each bin of F,
    pixels, sum of F, and pixels whose seed has their label.
    """

    def __add__(self, other: "OffsetCounts") -> "OffsetCounts":
        return OffsetCounts({name: values + other[name] for name, values in self.items()})


def half_sides(field: Field) -> Float[Tensor, "2 1 1"]:
    """Return the pixels (along x, along y) of one unit of normalised coordinates."""
    height, width = field.shape[-2:]
    return torch.tensor([width - 1.0, height - 1.0]).view(2, 1, 1) / 2


def random_directions(offsets: Field, random: Generator) -> Field:
    """Return vectors of the same lengths, in pixels, each in a random direction."""
    half = half_sides(offsets)
    angle = torch.from_numpy(random.uniform(0, 2 * np.pi, offsets.shape[1:]).astype(np.float32))
    return (offsets * half).norm(dim=0) * torch.stack([angle.cos(), angle.sin()]) / half


def seeds_reached(offsets: Field, label: ClassMap, distance: Values) -> tuple[ClassMap, Values]:
    """Return the label of each pixel's seed, and how much further from the boundary it is than the pixel."""
    seed_labels = labels_at_seeds(torch.from_numpy(label)[None], offsets[None])[0].numpy()
    seed_distance = resample(torch.from_numpy(distance)[None, None], seed_positions(offsets[None]))[0, 0].numpy()
    with np.errstate(invalid="ignore"):  # without a boundary all are infinitely far from it
        return seed_labels, seed_distance - distance


def angles_to_slope(vectors: Field, distance: Values) -> Values:
    """Measure degrees between vectors, in pixels, and the gradient of the distance; NaN where that is below `SLOPE`."""
    with np.errstate(invalid="ignore", divide="ignore"):
        down, right = np.gradient(distance)
        steepness, (x, y) = np.hypot(right, down), vectors.numpy()
        cosine = (x * right + y * down) / (steepness * np.hypot(x, y))
        return np.where(steepness >= SLOPE, np.degrees(np.arccos(np.clip(cosine, -1, 1))), np.nan)


def within_reach(predicted: ClassMap, label: ClassMap, reach: tuple[int, int]) -> Bool[np.ndarray, "height width"]:
    """Mark pixels whose own class is predicted for a pixel at most `reach` (columns, rows) away, along each axis."""
    window, reached = (2 * reach[0] + 1, 2 * reach[1] + 1), np.zeros(label.shape, bool)
    for c in np.unique(label[label != IGNORE_INDEX]):
        mask = (predicted == c).astype(np.float32)  # sums of ones are exact
        count = cv2.boxFilter(mask, cv2.CV_32F, window, normalize=False, borderType=cv2.BORDER_CONSTANT)
        reached |= (label == c) & (count > 0.5)
    return reached


def oracle_predictions(maps: Mapping[str, ClassMap], label: ClassMap, tau: float) -> dict[str, ClassMap]:
    """Return the predictions S_i, S_s and S_f, and the oracles: all of `MAPS`."""
    height, width = label.shape
    right = {"oracle confidence": np.any([maps[name] == label for name in ("S_i", "S_s", "S_f")], axis=0)}
    for name, share in zip(ORACLE_SEEDS, SHARES, strict=True):
        reach = tuple(int(tau * share * (side - 1) / 2 + 1e-6) for side in (width, height))
        right[name] = within_reach(maps["S_i"], label, reach)
    return {**maps} | {name: np.where(mask, label, maps["S_f"]) for name, mask in right.items()}


def count_offsets(
    prediction: UpsampledPrediction, maps: Mapping[str, ClassMap], label: ClassMap, num_classes: int, random: Generator
) -> OffsetCounts:
    """Count what offsets, confidence and fusion do in one image; `maps` are all of `MAPS`, see `oracle_predictions`."""
    valid, distance = label != IGNORE_INDEX, distance_to(label_boundary(label))
    group = label.astype(np.int64) * len(DISTANCES) + np.digitize(distance, BANDS)
    shape, one_bin = (num_classes, len(DISTANCES)), np.zeros(label.shape, int)

    def histogram(bins: np.ndarray, count: int, where: np.ndarray, weights: np.ndarray | None = None) -> np.ndarray:
        places, weights = group[where] * count + bins[where], None if weights is None else weights[where]
        return np.bincount(places, weights, np.prod(shape) * count).reshape(*shape, count).astype(float)

    offsets, confidence = prediction.offsets, prediction.confidence
    vectors = offsets * half_sides(offsets)
    length, (seed_labels, gain) = vectors.norm(dim=0).numpy(), seeds_reached(offsets, label, distance)
    moved, pairs, same = length > MOVED, seed_labels != IGNORE_INDEX, (seed_labels == label) & valid
    angle = np.where(moved & valid, angles_to_slope(vectors, distance), np.nan)
    sloped, angle_bin = ~np.isnan(angle), np.minimum(np.nan_to_num(angle) // 10, len(ANGLES) - 2).astype(int)
    confidence_bin = np.minimum((confidence * CONFIDENCES).astype(int), CONFIDENCES - 1)
    unclamped = pixel_positions(*label.shape, like=offsets).permute(2, 0, 1) + offsets
    quantities = {"pixels": valid, "length": length, "moved": moved, "outside": unclamped.abs().amax(0).numpy() > 1}
    quantities |= {"sloped": sloped, "cosine": np.nan_to_num(np.cos(np.radians(angle))), "away": angle < 90}
    quantities |= _of_seeds("seed", moved, label, seed_labels, gain)
    quantities |= _of_seeds("random", moved, label, *seeds_reached(random_directions(offsets, random), label, distance))
    quantities |= {"pairs": pairs, "same": same, "other": pairs & ~same}
    quantities |= {"f": confidence * pairs, "f_same": confidence * same, "brier": (confidence - same) ** 2 * pairs}
    quantities |= _of_fusion({name: maps[name] == label for name in MAPS}, confidence)
    counts = {name: histogram(one_bin, 1, valid, values)[..., 0] for name, values in quantities.items()}
    counts["lengths"] = histogram(np.digitize(length, LENGTHS[1:]), len(LENGTHS), valid)
    counts["angles"] = histogram(angle_bin, len(ANGLES) - 1, sloped)
    of_bins = [histogram(confidence_bin, CONFIDENCES, valid & pairs, w) for w in (None, confidence, same)]
    return OffsetCounts(counts | {"confidence": np.stack(of_bins, axis=-1)})


def _of_seeds(name: str, moved: np.ndarray, label: ClassMap, labels: ClassMap, gain: Values) -> dict[str, np.ndarray]:
    """Gain, and whether the seed has the pixel's label and lies deeper as well, where all of that is known."""
    counted = moved & (labels != IGNORE_INDEX) & np.isfinite(gain)
    same = counted & (labels == label)
    values = {"counted": counted, "gain": np.where(counted, gain, 0), "same": same, "deeper": same & (gain > 0)}
    return {f"{name}_{what}": value for what, value in values.items()}


def _of_fusion(right: Mapping[str, np.ndarray], confidence: Values) -> dict[str, np.ndarray]:
    """What is right, what fusion repaired and degraded, and what it made of the pixels right in one of S_i and S_s."""
    initial, seed, fused = (right[name] for name in ("S_i", "S_s", "S_f"))
    values = {f"right {name}": mask for name, mask in right.items()}
    values |= {"repaired": ~initial & fused, "degraded": initial & ~fused}
    for name, only in (("only_seed", seed & ~initial), ("only_initial", initial & ~seed)):
        values |= {name: only, f"{name}_kept": only & fused, f"{name}_f": only * confidence}
    return values


@dataclass(frozen=True)
class Analysis:
    """What was counted in a split, as plain tables; shares in [0, 1], lengths in pixels of the label.

    Attributes:
        counts: by condition; None where the dataset has none.
        evaluations: the scores of each of `MAPS`, overall and by condition, boundaries included.
        images: name, condition, and valid, repaired and degraded pixels of each image.
    """

    data: SegmentationDataset
    counts: Mapping[str | None, OffsetCounts]
    evaluations: Mapping[str, Evaluation]
    images: pd.DataFrame

    @cached_property
    def groups(self) -> dict[str, OffsetCounts]:
        """The counts of all images, and of each condition."""
        conditions = {name: counts for name, counts in self.counts.items() if name is not None}
        return {"all": reduce(add, self.counts.values())} | conditions

    @cached_property
    def table(self) -> pd.DataFrame:
        """Every number by (condition, by, group): by "all", by "distance", and by "class" that occurs."""
        rows = {}
        for condition, counts in self.groups.items():
            pixels = counts["pixels"]
            own_class, distance = np.indices(pixels.shape)
            rows[condition, "all", "all"] = _row(counts, own_class >= 0)
            for place, group in enumerate(DISTANCES):
                rows[condition, "distance", group] = _row(counts, distance == place)
            for place in np.flatnonzero(pixels.sum(1)):
                rows[condition, "class", self.data.class_names[place]] = _row(counts, own_class == place)
        return pd.DataFrame.from_dict(rows, orient="index").rename_axis(["condition", "by", "group"])

    @cached_property
    def scores(self) -> pd.DataFrame:
        """mIoU, trimap mIoU within d pixels, Boundary IoU and boundary F-score by (condition, prediction)."""
        rows = {}
        for name, evaluation in self.evaluations.items():
            for condition, one in ({"all": evaluation} | {**evaluation.conditions}).items():
                scores = one.as_dict()
                row, boundaries = {k: scores[k] for k in ("miou", "pixel_accuracy")}, scores["boundaries"]
                row |= {f"trimap_{d}": band["miou"] for d, band in boundaries["trimap"].items()}
                row |= {score: boundaries[f"mean_{score}"] for score in ("boundary_iou", "boundary_f")}
                rows[condition, name] = row
        table = pd.DataFrame.from_dict(rows, orient="index", dtype=float).rename_axis(["condition", "prediction"])
        return table.reindex(pd.MultiIndex.from_product([self.groups, self.evaluations], names=table.index.names))

    def percent(self, *columns: str) -> pd.DataFrame:
        """Return columns of the table of all conditions, shares in %; `net` is repaired minus degraded."""
        table = self.table.loc["all"].eval("net = repaired - degraded")[[*columns]]
        return table * [1 if name in NO_SHARES else 100 for name in columns]

    def reliability(self, nearest: int = 0, farthest: int = len(DISTANCES), condition: str = "all") -> pd.DataFrame:
        """Return, by bin of F, pixels, mean F, and how many have a seed of their label; of some of `DISTANCES`."""
        pixels, f, same = self.groups[condition]["confidence"][:, nearest:farthest].sum(axis=(0, 1)).T
        edges = pd.Index(np.arange(CONFIDENCES) / CONFIDENCES, name="F from")
        return pd.DataFrame({"pixels": pixels, "confidence": ratio(f, pixels), "rate": ratio(same, pixels)}, edges)

    def angle_shares(self, nearest: int = 0, farthest: int = len(DISTANCES), condition: str = "all") -> pd.Series:
        """Return the share of offsets by their angle to the way away from the boundary; of some of `DISTANCES`."""
        counts = self.groups[condition]["angles"][:, nearest:farthest].sum(axis=(0, 1))
        return pd.Series(ratio(counts, counts.sum()), pd.Index((ANGLES[:-1] + ANGLES[1:]) / 2, name="degrees"))

    def as_dict(self) -> dict[str, list[dict[str, Any]]]:
        """Return the tables for JSON, as lists of rows; None where there is no number.

        `f_right` and `f_wrong` are [least, most] of what is known, here twice the same number.
        """
        tables = {"table": self.table, "scores": self.scores, "images": self.images}
        tables |= {"reliability": self.reliability(), "angles": self.angle_shares().to_frame("share")}
        tables = {name: table.reset_index().astype(object) for name, table in tables.items()}
        rows = {name: table.where(table.notna(), None).to_dict("records") for name, table in tables.items()}
        for row in rows["table"]:
            row |= {name: row[name] if row[name] is None else [row[name]] * 2 for name in ("f_right", "f_wrong")}
        return rows


def _row(counts: OffsetCounts, chosen: Bool[np.ndarray, "classes distances"]) -> dict[str, float]:
    """Compute the numbers of some classes at some distances; NaN where there is nothing to count."""
    s = {name: values[chosen].sum() for name, values in counts.items()}

    def per(whole: str, *parts: str) -> dict[str, float]:
        return {part: float(ratio(s[part], s[whole])) for part in parts}

    share, lengths = float(s["pixels"] / counts["pixels"].sum()), counts["lengths"][chosen].sum(0).cumsum()
    row = {"pixels": int(s["pixels"]), "share": share} | per("pixels", "length")
    for name, share in (("length_median", 0.5), ("length_90", 0.9)):
        row[name] = float(np.interp(share * lengths[-1], [0, *lengths[:-1]], LENGTHS)) if lengths[-1] else np.nan
    row |= per("pixels", "moved", "outside", "sloped") | per("sloped", "cosine", "away")
    for kind in ("seed", "random"):
        row |= per(f"{kind}_counted", f"{kind}_gain", f"{kind}_same", f"{kind}_deeper")
    _, f, same = counts["confidence"][chosen].sum(0).T
    s |= {"confidence": s["f"], "calibration_error": np.abs(f - same).sum()}
    s |= {"f_right": s["f_same"], "f_wrong": s["f"] - s["f_same"]}
    rate = float(ratio(s["same"], s["pairs"]))
    row |= {"seed_has_label": rate} | per("pairs", "confidence", "calibration_error", "brier")
    row |= per("same", "f_right") | per("other", "f_wrong") | {"brier_of_rate": rate * (1 - rate)}
    row |= per("pixels", "repaired", "degraded", "only_seed", "only_initial")
    for only in ("only_seed", "only_initial"):
        row |= per(only, f"{only}_kept", f"{only}_f")
    return row | {f"accuracy {name}": float(ratio(s[f"right {name}"], s["pixels"])) for name in MAPS}


def analyse(
    network: OVeNet,
    data: SegmentationDataset,
    samples: Sequence[Sample],
    *,
    seed: int = 0,
    progress: bool = True,
    **options,
) -> Analysis:
    """Predict labelled images, each whole and once, and count what offsets and confidence do.

    Args:
        network: an OVeNet; autocast is the caller's.
        seed: seed of the random directions.
        options: `image_size` and `channels_last` of `predict`.

    Raises:
        DataError: there are no samples, or one has no label.
        ConfigError: the network has no offset head.
    """
    if not samples:
        raise DataError(data.name, "no samples", "one or more", "choose another split")
    if network.offset_head is None:
        raise ConfigError("network", "a network without offsets", "OVeNet", "give the run of another system")
    random = np.random.default_rng(seed)
    totals: dict[str, dict[str | None, Any]] = {name: {} for name in ("offsets", *MAPS)}  # by condition
    images = []
    for sample in tqdm(samples, desc="analysing", unit="image", disable=not progress):
        image, label = data.read(sample)
        prediction = upsample_prediction(predict(network, image, **options), label.shape)
        maps = oracle_predictions(prediction.maps, label, network.offset_head.tau)
        offsets, condition = count_offsets(prediction, maps, label, data.num_classes, random), sample.condition
        scored = count_image(data, sample, maps, boundaries=True, instances=False)
        for name, counts in ({"offsets": offsets} | scored).items():
            totals[name][condition] = totals[name][condition] + counts if condition in totals[name] else counts
        pixels = {name: int(offsets[name].sum()) for name in ("pixels", "repaired", "degraded")}
        images.append({"image": sample.name, "condition": condition} | pixels)
    conditions = dict.fromkeys((*data.conditions, *totals["offsets"]))
    counts = {name: totals["offsets"][name] for name in conditions if name in totals["offsets"]}
    evaluations = {name: Evaluation.from_counts(data, totals[name]) for name in MAPS}
    return Analysis(data, counts, evaluations, pd.DataFrame(images).set_index("image"))
