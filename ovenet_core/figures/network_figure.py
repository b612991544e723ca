"""Figures 1 and 2 of the paper: the network, drawn with the tensors that it computes for one image.

Places and sizes in the diagram are in inches, from its bottom left; the images of a row have their middles at one y.
"""

from collections.abc import Sequence

import matplotlib.pyplot as plt
import numpy as np
from jaxtyping import Bool, Float
from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.colors import Normalize
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle

from ovenet_core.data import SegmentationDataset
from ovenet_core.figures import images, method_diagram
from ovenet_core.figures.method_diagram import BACKBONE, METHOD, OFFSET, SEMANTIC, arrow, box
from ovenet_core.figures.model_pair import ComparisonExample
from ovenet_core.figures.qualitative import GAP, LEGENDS, PAGE, STYLE, TITLE, Page, draw, edge, legends, panel_image
from ovenet_core.figures.selection import Region, regions

ENLARGED = {  # what is shown of the region that fusion repaired
    "seeds": "seeds $p + o(p)$",
    "S_i": "$S_i$",
    "S_s": "$S_s$",
    "S_f": "$S_f$",
    "label": "label",
    "fusion": "$S_i$ to $S_f$",
}


def changed_classes(frame: ComparisonExample, part: Region, count: int = 3) -> list[int]:
    """Train ids of the classes that fusion gave to, or took from, most pixels of a part of the image, the most first;
    of two alike the one that it gave, then the one that covers more of the image."""
    initial, fused, here = frame.maps["S_i"], frame.maps["S_f"], within(frame.fused_otherwise, part)
    taken, given, covered = (np.bincount(ids, minlength=256) for ids in (initial[here], fused[here], fused.ravel()))
    return np.lexsort((-covered, -given, -taken - given))[:count].tolist()


def around(region: Region, height: int, width: int) -> Region:
    """A part of a height x width image around a region: of its shape, a quarter to half of its width across."""
    left, top, across, down = region
    share = min(max(1.4 * across / width, 1.4 * down / height, 0.25), 0.5)
    wide, high = round(share * width), round(share * height)
    left, top = round(left + (across - wide) / 2), round(top + (down - high) / 2)
    return min(max(left, 0), width - wide), min(max(top, 0), height - high), wide, high


def within(mask: Bool[np.ndarray, "height width"], part: Region) -> Bool[np.ndarray, "height width"]:
    """The mask, empty outside a part of the image."""
    (left, top, wide, high), found = part, np.zeros_like(mask)
    here = np.s_[top : top + high, left : left + wide]
    found[here] = mask[here]
    return found


def network_figure(frame: ComparisonExample, data: SegmentationDataset) -> Figure:
    """Figures 1 and 2: the network, drawn with the tensors that it computes for one image.

    Framed, and enlarged below, is the largest region that fusion repaired (or changed, if it repaired thin lines
    alone), with arrows to the seeds of pixels that it changed. Of the logits there are those of the classes that fusion
    changed most in it, the first one in front, on one scale for C, C_s and C_f.
    """
    height, width = frame.label.shape
    ratio, zoom = min(height / width, 1), (PAGE - 7 * GAP) / 6
    longest, side = images.reference_length(frame.prediction.offsets), 0.92
    pitch = side * ratio + 0.36
    tall = 3 * pitch - 0.1
    changed, repaired = frame.fused_otherwise, frame.fused_otherwise & (frame.maps["S_f"] == frame.label)
    part = around((*regions(repaired, 1), *regions(changed, 1), (0, 0, width, height))[0], height, width)
    with plt.rc_context(STYLE):
        page = Page(tall + 2 * TITLE + zoom * ratio + 0.2 + LEGENDS)
        ax = page.axes(0, 0, PAGE, tall)
        rows = [tall - TITLE - side * ratio / 2 - i * pitch for i in range(3)]
        flow(ax, rows, side * ratio)
        scale = tensors(ax, frame, data, rows, side, longest, part)
        ax.set(xlim=(0, PAGE), ylim=(0, tall))
        ax.set_axis_off()
        page.text(
            tall,
            "The framed region, enlarged: pixels that fusion changed, with arrows to their seeds; "
            "predictions; label; what fusion did.",
        )
        left, upper, wide, high = part
        top = tall + 2 * TITLE
        for place, kind in enumerate(ENLARGED):
            ax = page.axes(GAP + place * (zoom + GAP), top, zoom, zoom * ratio)
            if kind == "seeds":
                pixels = images.farthest_points(within(changed, part), 15)
                images.seed_arrows(ax, frame.image, frame.prediction.offsets[0], pixels, 2.5, frame.label)
                edge(ax)
            else:
                draw(ax, kind, frame, data, longest)
            ax.images[0].set_interpolation("nearest")
            ax.set(xlim=(left - 0.5, left + wide - 0.5), ylim=(upper + high - 0.5, upper - 0.5))
            ax.set_title(ENLARGED[kind])
        top += zoom * ratio + 0.08
        legends(page, top, [frame], data, {"offsets", "confidence", *ENLARGED}, longest)
        logit_bar(page.axes(PAGE - 2.55, top + 0.53, 0.8, 0.1), *scale)
    return page.figure


def tensors(
    ax: Axes,
    frame: ComparisonExample,
    data: SegmentationDataset,
    rows: Sequence[float],
    side: float,
    longest: float,
    part: Region,
) -> tuple[Normalize, list[str]]:
    """The images of the diagram; returns the scale of the logits and the names of their classes, from the front."""
    top, middle, bottom = rows
    prediction, channels = frame.prediction, changed_classes(frame, part, min(3, data.num_classes))
    logits = {"logits $C$": "S_i", "$C_s$, at the seeds": "S_s", "$C_f$, fused": "S_f"}
    outputs = {title: prediction.outputs()[name].main[0, channels] for title, name in logits.items()}
    shown = {title: images.array(one.float()) for title, one in outputs.items()}
    scale = Normalize(min(map(np.min, shown.values())), max(map(np.max, shown.values())))
    for (title, planes), centre in zip(shown.items(), ((3.0, top), (5.16, middle), (5.16, bottom)), strict=True):
        stack(ax, centre, planes, title, scale, side)
    for kind, centre, title in (
        ("input", (0.51, (top + middle) / 2), "input"),
        ("label", (0.51, bottom), "label"),
        ("offsets", (3.0, middle), "offsets $o$"),
        ("confidence", (3.0, bottom), "confidence $F$"),
        ("S_i", (6.49, top), "$S_i$, initial"),
        ("S_s", (6.49, middle), "$S_s$, seed-based"),
        ("S_f", (6.49, bottom), "$S_f$, fused"),
    ):
        titled(ax, centre, panel_image(kind, frame, data, longest), title, side)
        if kind not in ("offsets", "confidence"):
            spot(ax, centre, part, frame.label.shape, side)
    return scale, [data.class_names[c] for c in channels]


def titled(ax: Axes, centre: tuple, pixels: images.ImageArray, title: str, width: float) -> None:
    """A framed image with its name above; a portrait is as high as others are wide."""
    ratio = pixels.shape[0] / pixels.shape[1]
    width /= max(ratio, 1)
    method_diagram.image_box(ax, centre, pixels, "", width)
    ax.text(centre[0], centre[1] + width * ratio / 2 + 0.035, title, ha="center", fontsize=8)


def stack(
    ax: Axes,
    centre: tuple,
    planes: Float[np.ndarray, "classes rows columns"],
    title: str,
    scale: Normalize,
    width: float,
) -> None:
    """Logits as a stack of images, the first in front."""
    step, last = 0.06, len(planes) - 1
    for i in range(last, -1, -1):
        shift, pixels = step * (i - last / 2), plt.get_cmap("magma")(scale(planes[i]), bytes=True)[..., :3]
        here = centre[0] + shift, centre[1] + shift
        titled(ax, here, pixels, title if i == last else "", width - step * last)


def spot(ax: Axes, centre: tuple, part: Region, size: tuple[int, int], side: float) -> None:
    """Where the enlarged part lies in an image of the diagram."""
    scale = side * min(size[1] / size[0], 1) / size[1]
    left, top, wide, high = (scale * n for n in part)
    corner = centre[0] - scale * size[1] / 2 + left, centre[1] + scale * size[0] / 2 - top - high
    for style in ({"edgecolor": "white", "linewidth": 1.8}, {"edgecolor": "black", "linewidth": 0.8}):
        ax.add_patch(Rectangle(corner, wide, high, fill=False, zorder=4, **style))


def flow(ax: Axes, rows: Sequence[float], high: float) -> None:
    """Boxes and arrows of the diagram, between images of that height: equations 2 and 4."""
    top, middle, bottom = rows
    centre, low = (top + middle) / 2, (middle + bottom) / 2
    arrow(ax, (0.97, centre), (1.1, centre))
    for y in (top, low):
        arrow(ax, (1.58, centre), (1.66, centre), (1.66, y), (1.79, y))
    arrow(ax, (2.41, top), (2.54, top))
    for y in (middle, bottom):
        arrow(ax, (2.4, low), (2.46, low), (2.46, y), (2.54, y))
    box(ax, (1.35, centre), (0.5, 0.5), "backbone\n(HRNet)", BACKBONE)
    box(ax, (2.1, top), (0.62, 0.42), "semantic\nhead", SEMANTIC)
    box(ax, (2.1, low), (0.62, 0.42), "offset\nhead", OFFSET)
    for y in rows:  # softmax, from the logits to the classes
        arrow(ax, (3.4 if y == top else 5.6, y), (6.03, y))
        ax.text(5.83, y + 0.04, "softmax", ha="center", fontsize=7)
    arrow(ax, (3.46, middle), (3.92, middle))
    ax.plot(3.72, middle, "s", color="white", markersize=5, zorder=1)  # C passes over
    arrow(ax, (3.72, top), (3.72, bottom + 0.21))
    arrow(ax, (4.24, top), (4.24, middle + 0.25))
    arrow(ax, (4.56, middle), (4.7, middle))
    arrow(
        ax,
        (4.85, middle - high / 2),
        (4.85, middle - high / 2 - 0.09),
        (4.35, middle - high / 2 - 0.09),
        (4.35, bottom + 0.21),
    )
    arrow(ax, (3.46, bottom), (3.62, bottom))
    arrow(ax, (4.56, bottom), (4.7, bottom))
    box(ax, (4.24, middle), (0.64, 0.5), "resample\nat\n$p + o(p)$", METHOD)
    box(ax, (4.09, bottom), (0.94, 0.42), "fuse\n$(1-F)\\,C + F\\,C_s$", METHOD)


def logit_bar(ax: Axes, scale: Normalize, names: Sequence[str]) -> None:
    """The legend of the logits."""
    bar = ax.figure.colorbar(ScalarMappable(scale, "magma"), cax=ax, orientation="horizontal")
    bar.set_ticks([np.ceil(scale.vmin), np.floor(scale.vmax)])
    bar.set_label(f"logits of {names[0]};\nbehind: " + ",\n".join(names[1:]), fontsize=7, labelpad=1)
