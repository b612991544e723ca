"""Choose images by rule, and find the regions to look at, so that nobody picks what looks good."""

from collections.abc import Collection

import cv2
import numpy as np
import pandas as pd
from jaxtyping import Bool

from ovenet_core.figures import images

SCORE_NAMES = {"miou": "mIoU", "pixel_accuracy": "accuracy"}

Region = tuple[int, int, int, int]  # left, top, width, height, in pixels
Mask = Bool[np.ndarray, "height width"]


# -- Images


def ranked(scores: pd.DataFrame) -> pd.DataFrame:
    """Sort images from the largest `gain` to the largest loss, equal ones by name, and add their `rank` from 1 on."""
    table = scores.sort_index().sort_values("gain", ascending=False, kind="stable")
    return table.assign(rank=range(1, len(table) + 1))


def spread(scores: pd.DataFrame, count: int, without: Collection[str] = ()) -> pd.DataFrame:
    """Choose `count` images evenly spread over the ranking, each with the `rule` that chose it.

    Three images are the largest gain, the median (of two the one with less gain) and the largest loss. A position
    between two images goes to the one with less gain. Without so many images, all are chosen.

    Args:
        without: images that are shown elsewhere; the others form one ranking without them.
    """
    left, last = scores.drop(list(without)), len(scores)
    steps, parts = len(left) - 1, max(count - 1, 1)
    places = range(len(left)) if count >= len(left) else [(2 * i * steps + parts) // (2 * parts) for i in range(count)]
    lowest = "largest loss" if scores["gain"].min() < 0 else "smallest gain"
    rules = {last // 2 + 1: "median", last: lowest, 1: "largest gain"}
    chosen = left.iloc[list(places)]
    return chosen.assign(rule=[rules.get(rank, "") for rank in chosen["rank"]])


def failures(scores: pd.DataFrame, count: int) -> pd.DataFrame:
    """Choose `count` images: half where OVeNet loses most to the baseline, half where its own score is lowest.

    No image is chosen twice. If OVeNet loses in too few images, more of the others are taken.
    """
    losses = scores[scores["gain"] < 0].iloc[::-1][: (count + 1) // 2]
    others = scores.drop(losses.index).sort_index().sort_values("S_f", kind="stable")[: count - len(losses)]
    rules = [f"largest loss, no. {i + 1}" for i in range(len(losses))]
    rules += [f"lowest score, no. {i + 1}" for i in range(len(others))]
    return pd.concat([losses, others]).assign(rule=rules)


def captions(chosen: pd.DataFrame, total: int, names: tuple[str, str], score: str = "miou") -> list[str]:
    """Write the line above each chosen image: its name, the rule, its rank of `total`, the scores of both networks."""
    lines = []
    for name, row in chosen.iterrows():
        place = ", ".join(filter(None, [row["rule"], f"rank {row['rank']} of {total} by gain"]))
        gain = f"{row['gain']:+.1f}".replace("-", "\N{MINUS SIGN}")
        scores = f"{names[0]} {row['baseline']:.1f}%, {names[1]} {row['S_f']:.1f}% ({gain})"
        lines.append(f"{name}:  {place};  {SCORE_NAMES[score]} {scores}")
    return lines


# -- Regions


def regions(mask: Mask, count: int = 3, share: float = 1e-3) -> list[Region]:
    """Find the rectangles around the largest connected areas of a mask, at most `count`, the largest first.

    The margin is 1/200 of the image's longer side, 1 pixel or more. Lines of up to twice the margin are left out,
    areas no further apart are one, and rectangles extend by twice the margin on each side. While a rectangle covers
    more than a quarter of the image, lines of up to twice the thickness are left out too.

    Args:
        share: areas below this share of the image's pixels are left out.
    """
    margin = thickness = max(1, round(max(mask.shape) / 200))
    rectangles = _rectangles(mask, thickness, margin, count, share)
    while thickness < min(mask.shape) // 4 and any(
        4 * width * height > mask.size for _, _, width, height in rectangles
    ):
        thickness *= 2
        rectangles = _rectangles(mask, thickness, margin, count, share) or rectangles
    return rectangles


def _rectangles(mask: Mask, thickness: int, margin: int, count: int, share: float) -> list[Region]:
    """Find `regions`, without lines of up to twice `thickness`."""
    height, width = mask.shape
    thin, near = (cv2.getStructuringElement(cv2.MORPH_RECT, (2 * n + 1,) * 2) for n in (thickness, margin))
    solid = cv2.morphologyEx(mask.astype(np.uint8), cv2.MORPH_OPEN, thin)
    areas = cv2.connectedComponents(cv2.dilate(solid, near))[1] * solid  # 0 is outside
    pixels = np.bincount(areas.ravel())[1:]
    rectangles = []
    for area in np.argsort(-pixels, kind="stable")[:count]:
        if pixels[area] >= share * mask.size:
            left, top, across, down = cv2.boundingRect((areas == area + 1).astype(np.uint8))
            right, bottom = min(left + across + 2 * margin, width), min(top + down + 2 * margin, height)
            left, top = max(left - 2 * margin, 0), max(top - 2 * margin, 0)
            rectangles.append((left, top, right - left, bottom - top))
    return rectangles


def around(region: Region, height: int, width: int) -> Region:
    """Return a part of a height x width image around a region, of the image's shape, a quarter to half its width."""
    left, top, across, down = region
    share = min(max(1.4 * across / width, 1.4 * down / height, 0.25), 0.5)
    wide, high = round(share * width), round(share * height)
    left, top = round(left + (across - wide) / 2), round(top + (down - high) / 2)
    return min(max(left, 0), width - wide), min(max(top, 0), height - high), wide, high


def within(mask: Mask, part: Region) -> Mask:
    """Empty a mask outside a part of the image."""
    inside = np.zeros_like(mask)
    inside[slices(part)] = True
    return mask & inside


def slices(region: Region) -> tuple[slice, slice]:
    """Return rows and columns of a region, to index an image with."""
    left, top, width, height = region
    return np.s_[top : top + height, left : left + width]


def improves(region: Region, label: images.Label, before: images.Label, after: images.Label) -> bool:
    """Tell whether more pixels of a region were repaired than degraded."""
    right_before, right_after = (np.sum((ids == label)[slices(region)]) for ids in (before, after))
    return bool(right_after > right_before)
