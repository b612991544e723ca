"""What offsets and confidence do, counted over a split: what the paper says of them in words (sections 1, 3.2 and 4.3).

Counted at the size of the labels, over pixels with a valid label, by condition, by the class of the pixel's label and
by its distance from the nearest label boundary. What the numbers mean:

- *Length* of o(p), in pixels of the label: o is in normalised coordinates, so that x counts (W - 1) / 2 and y
  (H - 1) / 2. The field, at 1/4 resolution, is upsampled as the confidence loss upsamples it (`Prediction.upsampled`).
- *Distance* of p, Euclidean, from the nearest pixel that touches one of another class (`boundaries.label_boundary`):
  0 on such a pixel. Neither the image's border nor an ignored pixel makes a boundary.
- *Seed* of p: p + o(p), clamped to the image. Its label is that of the pixel nearest to it, as in L_F; where that
  is ignored, the pixel is left out of what needs it. Its distance is read between pixels, bilinearly.
- *Away from the boundary*: the angle between o(p) and the gradient of the distance at p, where o(p) is longer than
  `MOVED` and the gradient at least `SLOPE`: no way leads away from the middle of a segment, or of a thin structure.
- *Gain*: distance of the seed minus distance of p, where o(p) is longer than `MOVED`. From a boundary any vector
  leads further away, so vectors of the same lengths in uniformly random directions are counted beside them.
- *Confidence*: the sigmoid of the upsampled logits of F, against H(p) = H(p + o(p)), which L_F teaches it (equation 6).
- *Repaired, degraded*: S_i wrong and S_f right, and the reverse.
- *Perfect F*: right where S_i, S_s or S_f is right: at least as good as any choice between S_i and S_s.
- *Best seed*: right where S_i has the pixel's class somewhere in the window that tau, or a share of it, spans around
  the pixel. Both are bounds that look up the label. Where they are wrong they have the class of S_f, and so are never
  below it. The window is that of single pixels; between them, a seed of S_s mixes the logits of four.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import pairwise

import cv2
import numpy as np
import pandas as pd
import torch
from jaxtyping import Bool, Float, UInt8
from torch import Tensor
from tqdm.auto import tqdm

from ovenet_core.cross_entropy import IGNORE_INDEX
from ovenet_core.data import DataError, Sample, SegmentationDataset
from ovenet_core.evaluation import (
    BANDS,
    Counts,
    Evaluation,
    classes,
    count_image,
    distance_to,
    label_boundary,
    mean,
    none_if_nan,
    predict,
    ratio,
)
from ovenet_core.ovenet import OVeNet, Prediction
from ovenet_core.resampling import labels_at_seeds, pixel_positions, resample, seed_positions

MOVED = 0.5  # pixels; shorter offsets stay on their pixel and have no direction worth counting
SLOPE = 0.25  # pixels of distance per pixel; 1 on a slope, 0.5 on a straight boundary, 0 where no way leads away
SHARES = (1 / 16, 1 / 8, 1 / 4, 1 / 2, 1.0)  # of tau, for the oracle seed
LENGTHS = np.concatenate([[0.0], np.geomspace(0.25, 4096, 8 * 14 + 1)])  # edges; eight bins to each doubling
ANGLES = np.arange(0, 181, 10)  # edges, in degrees
CONFIDENCES = 20  # bins of F, of equal width

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
    """The prediction of an OVeNet for one image, at (height, width)."""
    maps = {name: found.numpy(force=True) for name, found in classes(prediction, size).items()}
    offsets = prediction.upsample(prediction.offsets.float(), size)[0].cpu()
    confidence = prediction.upsample(prediction.confidence_logits.float(), size)[0, 0].sigmoid()
    return UpsampledPrediction(maps, offsets, confidence.numpy(force=True))


@dataclass(frozen=True)
class OffsetCounts:
    """Sums over pixels of one or more images; sums of them are those of all images.

    Attributes:
        sums: of each quantity, by class of the label and by distance.
        lengths, angles: pixels in each bin of `LENGTHS` and `ANGLES`, by class and by distance.
        confidence: by class, distance and bin of F: pixels, sum of F, and pixels whose seed has their label.
    """

    sums: Mapping[str, Float[np.ndarray, "classes distances"]]
    lengths: Float[np.ndarray, "classes distances lengths"]
    angles: Float[np.ndarray, "classes distances angles"]
    confidence: Float[np.ndarray, "3 classes distances bins"]

    def __add__(self, other: "OffsetCounts") -> "OffsetCounts":
        sums = {name: value + other.sums[name] for name, value in self.sums.items()}
        lengths, angles = self.lengths + other.lengths, self.angles + other.angles
        return OffsetCounts(sums, lengths, angles, self.confidence + other.confidence)


def half_sides(field: Field) -> Float[Tensor, "2 1 1"]:
    """Pixels (along x, along y) of one unit of normalised coordinates."""
    height, width = field.shape[-2:]
    return torch.tensor([width - 1.0, height - 1.0]).view(2, 1, 1) / 2


def random_directions(offsets: Field, random: np.random.Generator) -> Field:
    """Vectors of the same lengths, in pixels, each in a random direction."""
    half = half_sides(offsets)
    angle = torch.from_numpy(random.uniform(0, 2 * np.pi, offsets.shape[1:]).astype(np.float32))
    return (offsets * half).norm(dim=0) * torch.stack([angle.cos(), angle.sin()]) / half


def seeds_reached(offsets: Field, label: ClassMap, distance: Values) -> tuple[ClassMap, Values]:
    """The label of each pixel's seed, and how much further from the boundary it is than the pixel."""
    found = labels_at_seeds(torch.from_numpy(label)[None], offsets[None])[0].numpy()
    there = resample(torch.from_numpy(distance)[None, None], seed_positions(offsets[None]))[0, 0].numpy()
    with np.errstate(invalid="ignore"):  # without a boundary all are infinitely far from it
        return found, there - distance


def angles_to_slope(vectors: Field, distance: Values) -> Values:
    """Degrees between each vector, in pixels, and the gradient of the distance; NaN where that is below `SLOPE`."""
    with np.errstate(invalid="ignore", divide="ignore"):
        down, right = np.gradient(distance)
        steepness, (x, y) = np.hypot(right, down), vectors.numpy()
        cosine = (x * right + y * down) / (steepness * np.hypot(x, y))
        angle = np.degrees(np.arccos(np.clip(cosine, -1, 1)))
        return np.where(steepness >= SLOPE, angle, np.nan)


def within_reach(predicted: ClassMap, label: ClassMap, reach: tuple[int, int]) -> Bool[np.ndarray, "height width"]:
    """Pixels whose own class is predicted for a pixel at most `reach` (columns, rows) away, along each axis."""
    window, found = (2 * reach[0] + 1, 2 * reach[1] + 1), np.zeros(label.shape, bool)
    for c in np.unique(label[label != IGNORE_INDEX]):
        mask = (predicted == c).astype(np.float32)  # sums of ones are exact
        near = cv2.boxFilter(mask, cv2.CV_32F, window, normalize=False, borderType=cv2.BORDER_CONSTANT)
        found |= (label == c) & (near > 0.5)
    return found


def oracle_predictions(maps: Mapping[str, ClassMap], label: ClassMap, tau: float) -> dict[str, ClassMap]:
    """The predictions S_i, S_s and S_f, and the bounds: all of `MAPS`."""
    height, width = label.shape
    bounds = {"oracle confidence": np.any([maps[name] == label for name in ("S_i", "S_s", "S_f")], axis=0)}
    for name, share in zip(ORACLE_SEEDS, SHARES, strict=True):
        reach = tuple(int(tau * share * (side - 1) / 2 + 1e-6) for side in (width, height))
        bounds[name] = within_reach(maps["S_i"], label, reach)
    return {**maps} | {name: np.where(hit, label, maps["S_f"]) for name, hit in bounds.items()}


def measure(
    seen: UpsampledPrediction,
    maps: Mapping[str, ClassMap],
    label: ClassMap,
    num_classes: int,
    random: np.random.Generator,
) -> OffsetCounts:
    """Everything that is counted of offsets, confidence and fusion in one image; `maps` as from `with_bounds`."""
    valid, distance = label != IGNORE_INDEX, distance_to(label_boundary(label))
    cells = label.astype(np.int64) * len(DISTANCES) + np.digitize(distance, BANDS)
    shape, nowhere = (num_classes, len(DISTANCES)), np.zeros(label.shape, int)

    def histogram(bins: np.ndarray, count: int, where: np.ndarray, weights: np.ndarray | None = None) -> np.ndarray:
        places, weights = cells[where] * count + bins[where], None if weights is None else weights[where]
        return np.bincount(places, weights, np.prod(shape) * count).reshape(*shape, count).astype(float)

    vectors = seen.offsets * half_sides(seen.offsets)
    length, same = vectors.norm(dim=0).numpy(), seeds_reached(seen.offsets, label, distance)[0]
    moved, pairs, same = length > MOVED, same != IGNORE_INDEX, (same == label) & valid
    angle = np.where(moved & valid, angles_to_slope(vectors, distance), np.nan)
    steps, sloped = np.minimum(np.nan_to_num(angle) // 10, len(ANGLES) - 2).astype(int), ~np.isnan(angle)
    confident = np.minimum((seen.confidence * CONFIDENCES).astype(int), CONFIDENCES - 1)
    beyond = pixel_positions(*label.shape, like=seen.offsets).permute(2, 0, 1) + seen.offsets
    quantities = {"pixels": valid, "length": length, "moved": moved, "outside": beyond.abs().amax(0).numpy() > 1}
    quantities |= {"sloped": sloped, "cosine": np.nan_to_num(np.cos(np.radians(angle))), "away": angle < 90}
    for name, field in (("seed", seen.offsets), ("random", random_directions(seen.offsets, random))):
        quantities |= _of_seeds(name, moved, label, *seeds_reached(field, label, distance))
    error = (seen.confidence - same) ** 2
    quantities |= {"pairs": pairs, "same": same, "f": seen.confidence * pairs, "f_squared_error": error * pairs}
    quantities |= {"other": pairs & ~same, "f_same": seen.confidence * same}
    quantities |= _of_fusion({name: maps[name] == label for name in MAPS}, seen.confidence)
    return OffsetCounts(
        {name: histogram(nowhere, 1, valid, v)[..., 0] for name, v in quantities.items()},
        histogram(np.digitize(length, LENGTHS[1:]), len(LENGTHS), valid),
        histogram(steps, len(ANGLES) - 1, sloped),
        np.stack([histogram(confident, CONFIDENCES, valid & pairs, w) for w in (None, seen.confidence, same)]),
    )


def _of_seeds(name: str, moved: np.ndarray, label: ClassMap, found: ClassMap, gain: Values) -> dict[str, np.ndarray]:
    """Gain, and whether the seed has the pixel's label and lies deeper as well, where all of that is known."""
    counted = moved & (found != IGNORE_INDEX) & np.isfinite(gain)
    same = counted & (found == label)
    values = {"counted": counted, "gain": np.where(counted, gain, 0), "same": same, "deeper": same & (gain > 0)}
    return {f"{name}_{what}": value for what, value in values.items()}


def _of_fusion(right: Mapping[str, np.ndarray], confidence: Values) -> dict[str, np.ndarray]:
    """What is right, what fusion repaired and degraded, and what it made of the pixels right in one of S_i and S_s."""
    initial, seed, fused = (right[name] for name in ("S_i", "S_s", "S_f"))
    found = {f"right {name}": hits for name, hits in right.items()}
    found |= {"repaired": ~initial & fused, "degraded": initial & ~fused}
    for name, only in (("only_seed", seed & ~initial), ("only_initial", initial & ~seed)):
        found |= {name: only, f"{name}_kept": only & fused, f"{name}_f": only * confidence}
    return found


@dataclass(frozen=True)
class Analysis:
    """What was found in a split, as plain tables; shares in [0, 1], lengths in pixels of the label.

    Attributes:
        measured: by condition; None where the benchmark has none.
        evaluations: the scores of each of `MAPS`, overall and by condition, boundaries included.
        images: of each image its name, condition, valid, repaired and degraded pixels.
    """

    data: SegmentationDataset
    measured: Mapping[str | None, OffsetCounts]
    evaluations: Mapping[str, Evaluation]
    images: pd.DataFrame

    @cached_property
    def groups(self) -> dict[str, OffsetCounts]:
        """All images, and those of each condition."""
        return {"all": _sum(self.measured)} | {c: m for c, m in self.measured.items() if c is not None}

    @cached_property
    def table(self) -> pd.DataFrame:
        """Every number by (condition, by, group): by "all", by "distance", and by "class" that occurs."""
        rows = {}
        for condition, found in self.groups.items():
            pixels = found.sums["pixels"]
            own, distances = np.indices(pixels.shape)
            rows[condition, "all", "all"] = _row(found, own >= 0)
            for place, group in enumerate(DISTANCES):
                rows[condition, "distance", group] = _row(found, distances == place)
            for place in np.flatnonzero(pixels.sum(1)):
                rows[condition, "class", self.data.class_names[place]] = _row(found, own == place)
        return pd.DataFrame.from_dict(rows, orient="index").rename_axis(["condition", "by", "group"])

    @cached_property
    def scores(self) -> pd.DataFrame:
        """mIoU, trimap mIoU within d pixels, Boundary IoU and boundary F-score by (condition, prediction)."""
        rows = {}
        for name, evaluation in self.evaluations.items():
            for condition, one in ({"all": evaluation} | {**evaluation.conditions}).items():
                edges, found = one.boundaries, one.scores
                row = {"miou": found.miou, "pixel_accuracy": found.pixel_accuracy}
                row |= {f"trimap_{d}": scores.miou for d, scores in edges.trimap.items()}
                row |= {"boundary_iou": mean(edges.boundary_iou), "boundary_f": mean(edges.boundary_f)}
                rows[condition, name] = row
        table = pd.DataFrame.from_dict(rows, orient="index").rename_axis(["condition", "prediction"])
        return table.reindex(pd.MultiIndex.from_product([self.groups, self.evaluations], names=table.index.names))

    def reliability(self, nearest: int = 0, farthest: int = len(DISTANCES), condition: str = "all") -> pd.DataFrame:
        """By bin of F: pixels, mean F, and how many have a seed of their label; of some of `DISTANCES`."""
        pixels, f, same = self.groups[condition].confidence[:, :, nearest:farthest].sum(axis=(1, 2))
        edges = pd.Index(np.arange(CONFIDENCES) / CONFIDENCES, name="F from")
        return pd.DataFrame({"pixels": pixels, "confidence": ratio(f, pixels), "rate": ratio(same, pixels)}, edges)

    def angle_shares(self, nearest: int = 0, farthest: int = len(DISTANCES), condition: str = "all") -> pd.Series:
        """The share of offsets by their angle to the way away from the boundary; of some of `DISTANCES`."""
        counts = self.groups[condition].angles[:, nearest:farthest].sum(axis=(0, 1))
        return pd.Series(ratio(counts, counts.sum()), pd.Index((ANGLES[:-1] + ANGLES[1:]) / 2, name="degrees"))

    def as_dict(self) -> dict:
        """For JSON: the tables, as lists of rows; None where there is no number."""
        frames = {"table": self.table, "scores": self.scores, "images": self.images}
        frames |= {"reliability": self.reliability(), "angles": self.angle_shares().to_frame("share")}
        return {
            name: [
                {k: none_if_nan(v) if isinstance(v, float) else v for k, v in row.items()}
                for row in frame.reset_index().to_dict("records")
            ]
            for name, frame in frames.items()
        }


def _row(found: OffsetCounts, chosen: Bool[np.ndarray, "classes distances"]) -> dict[str, float]:
    """The numbers of some classes at some distances; NaN where there is nothing to count."""
    s = {name: values[chosen].sum() for name, values in found.sums.items()}

    def per(whole: str, *parts: str) -> dict[str, float]:
        return {part: float(ratio(s[part], s[whole])) for part in parts}

    every, lengths = found.sums["pixels"].sum(), found.lengths[chosen].sum(0).cumsum()
    row = {"pixels": int(s["pixels"]), "share": float(s["pixels"] / every)} | per("pixels", "length")
    for name, share in (("length_median", 0.5), ("length_90", 0.9)):
        row[name] = float(np.interp(share * lengths[-1], [0, *lengths[:-1]], LENGTHS)) if lengths[-1] else np.nan
    row |= per("pixels", "moved", "outside", "sloped") | per("sloped", "cosine", "away")
    for kind in ("seed", "random"):
        row |= per(f"{kind}_counted", f"{kind}_gain", f"{kind}_same", f"{kind}_deeper")
    _, f, same = found.confidence[:, chosen].sum(1)
    rate = float(ratio(s["same"], s["pairs"]))
    s |= {"confidence": s["f"], "calibration_error": np.abs(f - same).sum(), "brier": s["f_squared_error"]}
    s |= {"f_right": s["f_same"], "f_wrong": s["f"] - s["f_same"]}
    row |= {"seed_has_label": rate} | per("pairs", "confidence", "calibration_error", "brier")
    row |= per("same", "f_right") | per("other", "f_wrong")
    row["brier_of_rate"] = rate * (1 - rate)
    row |= per("pixels", "repaired", "degraded", "only_seed", "only_initial")
    for only in ("only_seed", "only_initial"):
        row |= per(only, f"{only}_kept", f"{only}_f")
    return row | {f"accuracy {name}": float(ratio(s[f"right {name}"], s["pixels"])) for name in MAPS}


def analyse(
    network: OVeNet,
    data: SegmentationDataset,
    samples: Sequence[Sample],
    *,
    image_size: tuple[int, int] | None = None,
    channels_last: bool = False,
    seed: int = 0,
    progress: bool = True,
) -> Analysis:
    """Predict labelled images, each seen whole and once, and count what offsets and confidence do.

    Args:
        network: an OVeNet; autocast is the caller's.
        image_size: (height, width) to which images are resized before they are predicted, as in training.
        seed: of the random directions.

    Raises:
        DataError: there are no samples, or one has no label.
        ValueError: the network has no offset head.
    """
    if not samples:
        raise DataError(f"{data.name}: no samples to analyse, expected one or more; choose another split")
    if network.offset_head is None:
        raise ValueError("the network predicts no offsets, expected OVeNet; give the run of another system")
    random = np.random.default_rng(seed)
    measured: dict[str | None, OffsetCounts] = {}
    counts: dict[str, dict[str | None, Counts]] = {name: {} for name in MAPS}
    images = []
    for sample in tqdm(samples, desc="analysing", unit="image", disable=not progress):
        image, label = data.read(sample)
        prediction = predict(network, image, image_size=image_size, channels_last=channels_last)
        seen = upsample_prediction(prediction, label.shape)
        maps = oracle_predictions(seen.maps, label, network.offset_head.tau)
        found, condition = measure(seen, maps, label, data.num_classes, random), sample.condition
        scored = count_image(data, sample, maps, boundaries=True, instances=False)
        for parts, one in ((measured, found), *((counts[name], one) for name, one in scored.items())):
            parts[condition] = parts[condition] + one if condition in parts else one
        numbers = {name: int(found.sums[name].sum()) for name in ("pixels", "repaired", "degraded")}
        images.append({"image": sample.name, "condition": condition} | numbers)
    measured = {c: measured[c] for c in dict.fromkeys((*data.conditions, *measured)) if c in measured}
    each = {n: {c: Evaluation(data, p[c]) for c in measured if c is not None} for n, p in counts.items()}
    evaluations = {name: Evaluation(data, _sum(parts), each[name]) for name, parts in counts.items()}
    return Analysis(data, measured, evaluations, pd.DataFrame(images).set_index("image"))


def _sum(parts: Mapping):
    first, *others = parts.values()
    return sum(others, start=first)
