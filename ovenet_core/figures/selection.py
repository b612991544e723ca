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


def ranked(scores: pd.DataFrame) -> pd.DataFrame:
    """Sort images from the largest `gain` to the largest loss, equal ones by name, and add their `rank` from 1 on."""
    table = scores.sort_index().sort_values("gain", ascending=False, kind="stable")
    return table.assign(rank=range(1, len(table) + 1))


def spread(scores: pd.DataFrame, count: int, without: Collection[str] = ()) -> pd.DataFrame:
    """Choose `count` images evenly spread over the ranking, each with the `rule` that chose it; all if there are fewer.

    Three images are the largest gain, the median (of two the one with less gain) and the largest loss. A position
    between two images goes to the one with less gain. Images shown elsewhere (`without`) leave the ranking first.
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


def regions(mask: Mask, count: int = 3) -> list[Region]:
    """Find the rectangles around the largest connected areas of a mask, at most `count`, the largest first.

    The margin is 1/200 of the image's longer side, 1 pixel or more. Lines of up to twice the margin are left out,
    areas no further apart are one, and rectangles extend by twice the margin on each side. While a rectangle covers
    more than a quarter of the image, lines of up to twice the thickness go too. No area is below 1/1000 of the image.
    """
    margin = thickness = max(1, round(max(mask.shape) / 200))
    found = _rectangles(mask, thickness, margin, count)
    while thickness < min(mask.shape) // 4 and any(4 * wide * high > mask.size for *_, wide, high in found):
        thickness *= 2
        found = _rectangles(mask, thickness, margin, count) or found
    return found


def _rectangles(mask: Mask, thickness: int, margin: int, count: int) -> list[Region]:
    """Find `regions`, without lines of up to twice `thickness`."""
    thin, near = (cv2.getStructuringElement(cv2.MORPH_RECT, (2 * n + 1,) * 2) for n in (thickness, margin))
    solid = cv2.morphologyEx(mask.astype(np.uint8), cv2.MORPH_OPEN, thin)
    _, areas, boxes, _ = cv2.connectedComponentsWithStats(cv2.dilate(solid, near))
    pixels = np.bincount(areas[solid > 0], minlength=len(boxes))  # without the margin that is in the boxes
    largest = [area for area in np.argsort(-pixels, kind="stable")[:count] if pixels[area] >= mask.size / 1000]
    first = (boxes[largest, :2] - margin).clip(0)
    last = np.minimum(boxes[largest, :2] + boxes[largest, 2:4] + margin, mask.shape[::-1])
    return list(map(tuple, np.hstack([first, last - first]).tolist()))


def around(region: Region, height: int, width: int) -> Region:
    """Return a part of a height x width image around a region, of the image's shape, a quarter to half its width."""
    left, top, across, down = region
    share = min(max(1.4 * across / width, 1.4 * down / height, 0.25), 0.5)
    wide, high = round(share * width), round(share * height)
    left, top = round(left + (across - wide) / 2), round(top + (down - high) / 2)
    return min(max(left, 0), width - wide), min(max(top, 0), height - high), wide, high


def within(mask: Mask, part: Region) -> Mask:
    """Empty a mask outside a part of the image."""
    (left, top, width, height), inside = part, np.zeros_like(mask)
    inside[top : top + height, left : left + width] = True
    return mask & inside


def improves(region: Region, label: images.Label, before: images.Label, after: images.Label) -> bool:
    """Tell whether more pixels of a region were repaired than degraded."""
    right_before, right_after = (np.sum(within(ids == label, region)) for ids in (before, after))
    return bool(right_after > right_before)
