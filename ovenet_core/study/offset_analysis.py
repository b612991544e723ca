"""What offsets and confidence do, counted over a split: what the paper says about them in words (sections 1, 3.2, 4.3).

Counted at the size of the labels, over pixels with a valid label, by condition, by the class of the pixel's label and
by its distance from the nearest label boundary. What the numbers mean:

- *Length* of o(p), in pixels of the label: o is in normalised coordinates, so x counts (W - 1) / 2 and y (H - 1) / 2.
  The field, at 1/4 resolution, is upsampled as the confidence loss upsamples it (`Prediction.upsample`).
- *Distance* of p: Euclidean, from the nearest pixel that touches one of another class (`label_boundary`), 0 on such a
  pixel. Neither the image's border nor an ignored pixel makes a boundary.
- *Seed* of p: p + o(p), clamped to the image. Its label is that of the nearest pixel, as in L_F; where that is ignored,
  the pixel does not count. Its distance is read between pixels, bilinearly.
- *Away from the boundary*: the angle between o(p) and the gradient of the distance at p, where o(p) is longer than
  `MOVED` and the gradient at least `SLOPE`: no way leads away from the middle of a segment, or of a thin structure.
- *Gain*: distance of the seed minus distance of p, where o(p) is longer than `MOVED`. Any vector leads away from a
  boundary, so vectors of the same lengths in uniformly random directions are counted next to them.
- *Confidence*: the sigmoid of the upsampled logits of F, against H(p) = H(p + o(p)), which L_F teaches it (equation 6).
- *Repaired*: S_i wrong, S_f right; *degraded*: the reverse. *Oracle confidence*: right where S_i, S_s or S_f is.
- *Oracle seed*: right where S_i has the pixel's class in the window of single pixels that tau, or a share of it, spans.
  Both oracles look up the label. Where they are wrong they have the class of S_f, so they are never below it.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import pairwise
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
from ovenet_core.ovenet import OVeNet
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
Maps = Mapping[str, ClassMap]


def random_directions(length: Values, random: Generator) -> Field:
    """Return vectors of these lengths, each in a random direction."""
    angle = torch.from_numpy(random.uniform(0, 2 * np.pi, length.shape).astype(np.float32))
    return torch.from_numpy(length) * torch.stack([angle.cos(), angle.sin()])


def seeds_reached(
    name: str, offsets: Field, moved: np.ndarray, label: ClassMap, distance: Values
) -> tuple[ClassMap, dict[str, np.ndarray]]:
    """Return the label of each pixel's seed; and, where all is known, its gain, and whether it is of the same class."""
    seed_labels = labels_at_seeds(torch.from_numpy(label)[None], offsets[None])[0].numpy()
    seed_distance = resample(torch.from_numpy(distance)[None, None], seed_positions(offsets[None]))[0, 0].numpy()
    with np.errstate(invalid="ignore"):  # without a boundary all are infinitely far from it
        gain = seed_distance - distance
    counted = moved & (seed_labels != IGNORE_INDEX) & np.isfinite(gain)
    same = counted & (seed_labels == label)
    values = {"counted": counted, "gain": np.where(counted, gain, 0), "same": same, "deeper": same & (gain > 0)}
    return seed_labels, {f"{name}_{what}": value for what, value in values.items()}


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


def oracle_predictions(maps: Maps, label: ClassMap, tau: float) -> dict[str, ClassMap]:
    """Return the predictions S_i, S_s and S_f, and the oracles: all of `MAPS`."""
    height, width = label.shape
    right = {"oracle confidence": np.any([maps[name] == label for name in ("S_i", "S_s", "S_f")], axis=0)}
    for name, share in zip(ORACLE_SEEDS, SHARES, strict=True):
        reach = tuple(int(tau * share * (side - 1) / 2 + 1e-6) for side in (width, height))
        right[name] = within_reach(maps["S_i"], label, reach)
    return {**maps} | {name: np.where(mask, label, maps["S_f"]) for name, mask in right.items()}


def count_offsets(
    offsets: Field, confidence: Values, maps: Maps, label: ClassMap, num_classes: int, random: Generator
) -> pd.Series:
    """Sum what offsets, confidence and fusion do in one image, by class of the label and by distance.

    Args:
        offsets: (dx, dy) in normalised image coordinates.
        confidence: F, in [0, 1].
        maps: all of `MAPS`, see `oracle_predictions`.

    Returns:
        Arrays (classes, distances, ...) by name, which add up over images. "lengths" and "angles" are pixels by bin of
        `LENGTHS` and `ANGLES`; "bins" has, for each bin of F, pixels, sum of F, and pixels whose seed has their label.
    """
    valid, distance = label != IGNORE_INDEX, distance_to(label_boundary(label))
    group = label.astype(np.int64) * len(DISTANCES) + np.digitize(distance, BANDS)
    shape = num_classes, len(DISTANCES)

    def histogram(where: np.ndarray, weights: np.ndarray | None, bins: np.ndarray | int, count: int) -> np.ndarray:
        places, weights = (group * count + bins)[where], None if weights is None else weights[where]
        return np.bincount(places, weights, np.prod(shape) * count).reshape(*shape, count).astype(float)

    half = torch.tensor(label.shape[::-1]).sub(1).view(2, 1, 1) / 2  # pixels along x and y of one normalised unit
    vectors = offsets * half
    length = vectors.norm(dim=0).numpy()
    moved = length > MOVED
    seed_labels, of_seeds = seeds_reached("seed", offsets, moved, label, distance)
    _, of_random = seeds_reached("random", random_directions(length, random) / half, moved, label, distance)
    pairs, same = seed_labels != IGNORE_INDEX, (seed_labels == label) & valid
    angle = np.where(moved & valid, angles_to_slope(vectors, distance), np.nan)
    sloped, angle_bin = ~np.isnan(angle), np.minimum(np.nan_to_num(angle) // 10, len(ANGLES) - 2).astype(int)
    confidence_bin = np.minimum((confidence * CONFIDENCES).astype(int), CONFIDENCES - 1)
    unclamped = pixel_positions(*label.shape, like=offsets).permute(2, 0, 1) + offsets
    quantities = {"pixels": valid, "length": length, "moved": moved, "outside": unclamped.abs().amax(0).numpy() > 1}
    quantities |= {"sloped": sloped, "cosine": np.nan_to_num(np.cos(np.radians(angle))), "away": angle < 90}
    quantities |= of_seeds | of_random | {"pairs": pairs, "seed_has_label": same, "confidence": confidence * pairs}
    quantities |= {"f_right": confidence * same, "brier": (confidence - same) ** 2 * pairs}
    right = {name: maps[name] == label for name in MAPS}
    initial, seed, fused = (right[name] for name in ("S_i", "S_s", "S_f"))
    quantities |= {f"accuracy {name}": mask for name, mask in right.items()}
    quantities |= {"repaired": ~initial & fused, "degraded": initial & ~fused}
    for name, only in (("only_seed", seed & ~initial), ("only_initial", initial & ~seed)):
        quantities |= {name: only, f"{name}_kept": only & fused, f"{name}_f": only * confidence}
    counts = {name: histogram(valid, values, 0, 1)[..., 0] for name, values in quantities.items()}
    counts["lengths"] = histogram(valid, None, np.digitize(length, LENGTHS[1:]), len(LENGTHS))
    counts["angles"] = histogram(sloped, None, angle_bin, len(ANGLES) - 1)
    of_bins = [histogram(valid & pairs, w, confidence_bin, CONFIDENCES) for w in (None, confidence, same)]
    return pd.Series(counts | {"bins": np.stack(of_bins, axis=-1)}, dtype=object)


@dataclass(frozen=True)
class Analysis:
    """What was counted in a split, as plain tables; shares in [0, 1], lengths in pixels of the label."""

    data: SegmentationDataset
    counts: Mapping[str | None, pd.Series]  # by condition, None where the dataset has none: see `count_offsets`
    evaluations: Mapping[str, Evaluation]  # the scores of each of `MAPS`, overall and by condition
    images: pd.DataFrame  # name, condition, and valid, repaired and degraded pixels of each image

    @cached_property
    def groups(self) -> dict[str, pd.Series]:
        """The counts of all images, and of each condition."""
        known = [name for name in dict.fromkeys((*self.data.conditions, *self.counts)) if name in self.counts]
        return {"all": sum(self.counts[name] for name in known)} | {name: self.counts[name] for name in known if name}

    @cached_property
    def table(self) -> pd.DataFrame:
        """Every number by (condition, by, group): by "all", by "distance", and by "class" that occurs."""
        rows = {}
        for condition, counts in self.groups.items():
            own_class, distance = np.indices(counts["pixels"].shape)
            chosen = {("all", "all"): own_class >= 0}
            chosen |= {("distance", name): distance == place for place, name in enumerate(DISTANCES)}
            occurring = np.flatnonzero(counts["pixels"].sum(1))
            chosen |= {("class", self.data.class_names[place]): own_class == place for place in occurring}
            rows |= {(condition, *group): _row(counts, mask) for group, mask in chosen.items()}
        return pd.DataFrame.from_dict(rows, orient="index").rename_axis(["condition", "by", "group"])

    @cached_property
    def scores(self) -> pd.DataFrame:
        """mIoU, trimap mIoU within d pixels, Boundary IoU and boundary F-score by (condition, prediction)."""
        rows = {}
        for name, evaluation in self.evaluations.items():
            for condition, one in {"all": evaluation, **evaluation.conditions}.items():
                scores = one.as_dict()
                row, boundaries = {k: scores[k] for k in ("miou", "pixel_accuracy")}, scores["boundaries"]
                row |= {f"trimap_{d}": band["miou"] for d, band in boundaries["trimap"].items()}
                row |= {score: boundaries[f"mean_{score}"] for score in ("boundary_iou", "boundary_f")}
                rows[condition, name] = row
        index = pd.MultiIndex.from_product([self.groups, self.evaluations], names=["condition", "prediction"])
        return pd.DataFrame.from_dict(rows, orient="index", dtype=float).reindex(index)

    def percent(self, *columns: str) -> pd.DataFrame:
        """Return columns of the table of all conditions, shares in %; `net` is repaired minus degraded."""
        table = self.table.loc["all"].eval("net = repaired - degraded")[[*columns]]
        return table * [1 if name in NO_SHARES else 100 for name in columns]

    def reliability(self, nearest: int = 0, farthest: int = len(DISTANCES)) -> pd.DataFrame:
        """Return, by bin of F, pixels, mean F, and how many have a seed of their label; of some of `DISTANCES`."""
        pixels, f, same = self.groups["all"]["bins"][:, nearest:farthest].sum(axis=(0, 1)).T
        edges = pd.Index(np.arange(CONFIDENCES) / CONFIDENCES, name="F from")
        return pd.DataFrame({"pixels": pixels, "confidence": ratio(f, pixels), "rate": ratio(same, pixels)}, edges)

    def angle_shares(self, nearest: int = 0, farthest: int = len(DISTANCES)) -> pd.Series:
        """Return the share of offsets by their angle to the way away from the boundary; of some of `DISTANCES`."""
        counts = self.groups["all"]["angles"][:, nearest:farthest].sum(axis=(0, 1))
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


def _row(counts: pd.Series, chosen: Bool[np.ndarray, "classes distances"]) -> dict[str, float]:
    """Compute the numbers of some classes at some distances; NaN where there is nothing to count."""
    s = {name: values[chosen].sum() for name, values in counts.items()}
    _, f, same = counts["bins"][chosen].sum(0).T
    s |= {"calibration_error": np.abs(f - same).sum(), "other": s["pairs"] - s["seed_has_label"]}
    s |= {"f_wrong": s["confidence"] - s["f_right"], "all": counts["pixels"].sum(), "share": s["pixels"]}

    def per(whole: str, *parts: str) -> dict[str, float]:
        return {part: float(ratio(s[part], s[whole])) for part in parts}

    row, lengths = {"pixels": int(s["pixels"])} | per("all", "share"), counts["lengths"][chosen].sum(0).cumsum()
    row |= per("pixels", "length")
    for name, share in (("length_median", 0.5), ("length_90", 0.9)):
        row[name] = float(np.interp(share * lengths[-1], [0, *lengths[:-1]], LENGTHS)) if lengths[-1] else np.nan
    row |= per("pixels", "moved", "outside", "sloped") | per("sloped", "cosine", "away")
    for kind in ("seed", "random"):
        row |= per(f"{kind}_counted", f"{kind}_gain", f"{kind}_same", f"{kind}_deeper")
    row |= per("pairs", "seed_has_label", "confidence", "calibration_error", "brier")
    row |= per("seed_has_label", "f_right") | per("other", "f_wrong")
    row["brier_of_rate"] = row["seed_has_label"] * (1 - row["seed_has_label"])
    row |= per("pixels", "repaired", "degraded", "only_seed", "only_initial")
    for only in ("only_seed", "only_initial"):
        row |= per(only, f"{only}_kept", f"{only}_f")
    return row | per("pixels", *(f"accuracy {name}" for name in MAPS))


def analyse(
    network: OVeNet, data: SegmentationDataset, samples: Sequence[Sample], *, progress: bool = True, **options
) -> Analysis:
    """Predict labelled images, each whole and once, and count what offsets and confidence do.

    Args:
        network: an OVeNet; autocast is the caller's.
        options: `image_size` of `predict`.

    Raises:
        DataError: there are no samples, or one has no label.
        ConfigError: the network has no offset head.
    """
    if not samples:
        raise DataError(data.name, "no samples", "one or more", "choose another split")
    if network.offset_head is None:
        raise ConfigError("network", "a network without offsets", "OVeNet", "give the run of another system")
    random, images = np.random.default_rng(0), []
    totals: dict[str, dict[str | None, Any]] = {name: {} for name in ("offsets", *MAPS)}  # by condition
    for sample in tqdm(samples, desc="analysing", unit="image", disable=not progress):
        image, label = data.read(sample)
        prediction = predict(network, image, **options)
        maps = {name: class_map.numpy(force=True) for name, class_map in classes(prediction, label.shape).items()}
        maps = oracle_predictions(maps, label, network.offset_head.tau)
        fields = prediction.offsets.float(), prediction.confidence_logits.float()
        offsets, logits = (prediction.upsample(field, label.shape)[0] for field in fields)
        confidence = logits[0].sigmoid().numpy(force=True)
        counted = count_offsets(offsets.cpu(), confidence, maps, label, data.num_classes, random)
        scored = count_image(data, sample, maps, boundaries=True, instances=False)
        for name, counts in ({"offsets": counted} | scored).items():
            totals[name][sample.condition] = totals[name].get(sample.condition, 0) + counts
        pixels = {name: int(counted[name].sum()) for name in ("pixels", "repaired", "degraded")}
        images.append({"image": sample.name, "condition": sample.condition} | pixels)
    evaluations = {name: Evaluation.from_counts(data, totals[name]) for name in MAPS}
    return Analysis(data, totals["offsets"], evaluations, pd.DataFrame(images).set_index("image"))
