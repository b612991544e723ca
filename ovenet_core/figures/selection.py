"""The images that figures show: both networks on an image, images chosen by rule, regions found, not picked."""

from collections.abc import Collection

import cv2
import numpy as np
import pandas as pd
from jaxtyping import Bool

from ovenet_core.figures import images

SCORES = {"miou": "mIoU", "pixel_accuracy": "accuracy"}


# -- Which images, which regions

Region = tuple[int, int, int, int]  # left, top, width, height, in pixels


def ranked(scores: pd.DataFrame) -> pd.DataFrame:
    """The images from the largest `gain` to the largest loss, equal ones by name, with their `rank` from 1 on."""
    table = scores.sort_index().sort_values("gain", ascending=False, kind="stable")
    return table.assign(rank=range(1, len(table) + 1))


def spread(scores: pd.DataFrame, count: int, without: Collection[str] = ()) -> pd.DataFrame:
    """`count` images evenly spread over the ranking, with the `rule` that each was chosen by.

    Of three, the largest gain, the median (of two the one with less gain) and the largest loss; all, if there are not
    more. Places between two images go to the one with less gain.

    Args:
        without: images that are shown elsewhere; the others then stand in one ranking without them.
    """
    left, last = scores.drop(list(without)), len(scores)
    steps, parts = len(left) - 1, max(count - 1, 1)
    places = range(len(left)) if count >= len(left) else [(2 * i * steps + parts) // (2 * parts) for i in range(count)]
    lowest = "largest loss" if scores["gain"].min() < 0 else "smallest gain"
    rules = {last // 2 + 1: "median", last: lowest, 1: "largest gain"}
    chosen = left.iloc[list(places)]
    return chosen.assign(rule=[rules.get(rank, "") for rank in chosen["rank"]])


def failures(scores: pd.DataFrame, count: int) -> pd.DataFrame:
    """`count` images: half of them where OVeNet loses most to the baseline, the others where its own score is lowest.

    An image is there once; where OVeNet loses in too few images, more of the others are taken.
    """
    losses = scores[scores["gain"] < 0].iloc[::-1][: (count + 1) // 2]
    others = scores.drop(losses.index).sort_index().sort_values("S_f", kind="stable")[: count - len(losses)]
    rules = [f"largest loss, no. {i + 1}" for i in range(len(losses))]
    rules += [f"lowest score, no. {i + 1}" for i in range(len(others))]
    return pd.concat([losses, others]).assign(rule=rules)


def captions(chosen: pd.DataFrame, total: int, names: tuple[str, str], score: str = "miou") -> list[str]:
    """The line above each chosen image: its name, the rule, its rank of `total`, the scores of both networks."""
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

    With a margin of 1/200 of the image's longer side, 1 pixel or more: lines of up to twice the margin are left out,
    areas that are no further apart are taken as one, and the rectangles are larger by twice the margin on each side.
    While one takes up more than a quarter of the image, lines of up to twice as much are left out too.

    Args:
        share: areas below this share of the image's pixels are left out.
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


def improves(region: Region, label: images.Label, before: images.Label, after: images.Label) -> bool:
    """Whether more pixels of a region were repaired than degraded."""
    left, top, width, height = region
    here = np.s_[top : top + height, left : left + width]
    kinds = np.bincount(
        images.change_map(label[here], before[here], after[here]).ravel(), minlength=len(images.REPAIRS)
    )
    named = dict(zip(images.REPAIRS, kinds.tolist(), strict=True))
    return named["repaired"] > named["degraded"]
