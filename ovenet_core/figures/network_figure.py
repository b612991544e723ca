"""The diagram of the method, and Figures 1 and 2: the network, drawn with the tensors that it computes for one image.

Places and sizes in the diagram are in inches, from its bottom left. Lines and text follow matplotlib's settings.
"""

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.colors import Normalize
from matplotlib.figure import Figure
from matplotlib.patches import FancyArrowPatch, FancyBboxPatch, Rectangle

from ovenet_core.data import SegmentationDataset
from ovenet_core.figures import images
from ovenet_core.figures.model_pair import Example
from ovenet_core.figures.qualitative import (
    GAP,
    LEGENDS,
    LINE,
    PAGE_STYLE,
    PAGE_WIDTH,
    Page,
    draw_legends,
    edge,
    panel_image,
)
from ovenet_core.figures.selection import Region, around, regions, within

BACKBONE, SEMANTIC, OFFSET, METHOD = "#dde1e8", "#cfe3f2", "#fbdcc4", "#d6ecdf"  # colours of the boxes
EDGE = {"edgecolor": "0.25", "zorder": 3}
IMAGE_TITLES = {
    "input": "input",
    "label": "label",
    "offsets": "offsets $o$",
    "confidence": "confidence $F$",
    "S_i": "$S_i$, initial",
    "S_s": "$S_s$, seed-based",
    "S_f": "$S_f$, fused",
}
ZOOMED_TITLES = {"seeds": "seeds $p + o(p)$", "S_i": "$S_i$", "S_s": "$S_s$", "S_f": "$S_f$", "label": "label"}
ZOOMED_TITLES |= {"fusion": "$S_i$ to $S_f$"}


# -- The diagram


class Box(NamedTuple):
    """A box of the diagram: x of its centre, width and height."""

    x: float
    width: float
    height: float

    @property
    def left(self) -> float:
        return self.x - self.width / 2

    @property
    def right(self) -> float:
        return self.x + self.width / 2


class Layout(NamedTuple):
    """Where the parts of the diagram are."""

    rows: tuple[float, float, float]  # y of S_i, S_s, S_f and of all that is in a row with them
    image: tuple[float, float]  # width and height
    columns: tuple[float, float, float]  # x of the input, of o and F, and of the predictions
    backbone: Box
    heads: Box
    resample: Box
    fuse: Box
    logits: tuple[float, float, float]  # x of C, C_s and C_f
    paths: tuple[float, float, float]  # x of the line from C to the fusion, and of the start and end of that from C_s
    texts: tuple[str, str]  # in the boxes of the backbone and of the resampling
    titles_above: bool  # whether names of images are above them

    def places(self) -> dict[str, tuple[float, float]]:
        """The centre of each image."""
        (top, middle, bottom), (left, inside, right) = self.rows, self.columns
        places = {"input": (left, (top + middle) / 2), "label": (left, bottom)}
        places |= {"offsets": (inside, middle), "confidence": (inside, bottom)}
        return places | {"S_i": (right, top), "S_s": (right, middle), "S_f": (right, bottom)}


def diagram(ax: Axes, layout: Layout, panels: Mapping[str, images.ImageArray]) -> None:
    """Draw the network and equations 2 and 4 with these images, named as `IMAGE_TITLES`."""
    (top, middle, bottom), (initial_path, seed_start, seed_end) = layout.rows, layout.paths
    backbone, heads, resample, fuse, (width, height) = *layout[3:7], layout.image
    image, tensors, predictions = (Box(x, width, height) for x in layout.columns)
    centre, low, roof, unit = (top + middle) / 2, (middle + bottom) / 2, bottom + fuse.height / 2, line_width()
    arrow(ax, (image.right, centre), (backbone.left, centre))
    fork(ax, backbone.right, centre, heads.left, (top, low))
    fork(ax, heads.right, low, tensors.left, (middle, bottom))
    arrow(ax, (tensors.right, middle), (resample.left, middle))
    arrow(ax, (tensors.right, bottom), (fuse.left, bottom))
    arrow(ax, (resample.x, top), (resample.x, middle + resample.height / 2))
    softmax = (layout.logits[2] + 0.46 + predictions.left) / 2  # a stack of logits is 0.92 wide
    for start, y in ((heads.right, top), (resample.right, middle), (fuse.right, bottom)):
        arrow(ax, (start, y), (predictions.left, y))
        ax.text(softmax, y + 0.05 * unit, "softmax", ha="center", fontsize=plt.rcParams["legend.fontsize"])
    ax.plot(initial_path, middle, "s", color="white", markersize=7 * unit, zorder=1)  # C passes over this row
    arrow(ax, (initial_path, top), (initial_path, roof))
    turn = [] if seed_start == seed_end else [(x, middle - height / 2 - 0.09) for x in (seed_start, seed_end)]
    arrow(ax, (seed_start, middle), *turn, (seed_end, roof))
    box(ax, backbone, centre, layout.texts[0], BACKBONE)
    box(ax, heads, top, "semantic\nhead", SEMANTIC)
    box(ax, heads, low, "offset\nhead", OFFSET)
    box(ax, resample, middle, layout.texts[1], METHOD)
    box(ax, fuse, bottom, "fuse\n$(1 - F)\\,C + F\\,C_s$", METHOD)
    for name, pixels in panels.items():
        image_box(ax, layout.places()[name], pixels, IMAGE_TITLES[name], width, layout.titles_above)


def line_width() -> float:
    """Return the width of lines, with which arrowheads and gaps grow."""
    return plt.rcParams["lines.linewidth"]


def box(ax: Axes, place: Box, y: float, text: str, colour: str) -> None:
    """Draw a rounded box with text."""
    shape = {"boxstyle": f"round,pad=0,rounding_size={0.06 * line_width()}", "facecolor": colour}
    ax.add_patch(FancyBboxPatch((place.left, y - place.height / 2), place.width, place.height, **shape, **EDGE))
    ax.text(place.x, y, text, ha="center", va="center", linespacing=1.4, zorder=4)


def arrow(ax: Axes, *points: tuple[float, float]) -> None:
    """Draw an arrow through the points."""
    (x, y), line = zip(*points, strict=True), {"color": "0.25", "linewidth": line_width()}
    ax.plot(x, y, solid_joinstyle="miter", zorder=1, **line)
    head = {"arrowstyle": "-|>", "mutation_scale": 11 * line["linewidth"], "shrinkA": 0, "shrinkB": 0}
    ax.add_patch(FancyArrowPatch(points[-2], points[-1], **head, **line, zorder=2))


def fork(ax: Axes, start: float, y: float, end: float, rows: Sequence[float]) -> None:
    """Draw arrows from (start, y) to x = end in several rows."""
    bend = start + 0.4 * (end - start)
    for row in rows:
        arrow(ax, (start, y), (bend, y), (bend, row), (end, row))


def image_box(
    ax: Axes, centre: tuple[float, float], pixels: images.ImageArray, title: str, width: float, above: bool
) -> None:
    """Draw a framed image with its title; a portrait is as high as others are wide."""
    (x, y), ratio = centre, pixels.shape[0] / pixels.shape[1]
    width /= max(ratio, 1)
    height = width * ratio
    ax.imshow(pixels, extent=(x - width / 2, x + width / 2, y - height / 2, y + height / 2), zorder=3)
    ax.add_patch(Rectangle((x - width / 2, y - height / 2), width, height, fill=False, **EDGE))
    pad = 0.04 * line_width()
    place = {"va": "baseline", "y": y + height / 2 + pad} if above else {"va": "top", "y": y - height / 2 - pad}
    ax.text(x, s=title, ha="center", fontsize=plt.rcParams["axes.titlesize"], **place)


# -- Figures 1 and 2


def page_layout(ratio: float) -> Layout:
    """Lay out the diagram on a printed page, for images of this height / width."""
    pitch, lowest = 0.92 * ratio + 0.36, 0.46 * ratio + 0.09
    return Layout(
        rows=(lowest + 2 * pitch, lowest + pitch, lowest),
        image=(0.92, 0.92 * ratio),
        columns=(0.51, 3.0, 6.49),
        backbone=Box(1.35, 0.5, 0.5),
        heads=Box(2.1, 0.62, 0.42),
        resample=Box(4.24, 0.64, 0.5),
        fuse=Box(4.09, 0.94, 0.42),
        logits=(3.0, 5.16, 5.16),
        paths=(3.72, 4.85, 4.35),
        texts=("HRNet", "resample\nat\n$p + o(p)$"),
        titles_above=True,
    )


def network_figure(example: Example, dataset: SegmentationDataset) -> Figure:
    """Draw Figures 1 and 2: the network, with the tensors that it computes for one image.

    The panels below zoom in on the largest region that fusion repaired (or changed, if it repaired thin lines alone),
    with arrows to the seeds of pixels that it changed. Of the logits, those of the classes that fusion changed most
    there are shown, the first one in front, on one scale for C, C_s and C_f.
    """
    height, width = example.label.shape
    ratio, zoom = min(height / width, 1), (PAGE_WIDTH - 7 * GAP) / 6
    longest, layout = images.reference_length(example.prediction.offsets), page_layout(ratio)
    tall = layout.rows[0] + layout.image[1] / 2 + LINE
    changed = example.changed_by_fusion
    repaired = changed & (example.maps["S_f"] == example.label)
    part = around((*regions(repaired, 1), *regions(changed, 1), (0, 0, width, height))[0], height, width)
    with plt.rc_context(PAGE_STYLE):
        page = Page(tall + 2 * LINE + zoom * ratio + 0.2 + LEGENDS)
        ax = page.axes(0, 0, PAGE_WIDTH, tall)
        diagram(ax, layout, {name: panel_image(name, example, dataset, longest) for name in IMAGE_TITLES})
        for name in ("input", "label", "S_i", "S_s", "S_f"):
            outline_part(ax, layout.places()[name], part, (height, width), layout.image[0])
        channels = changed_classes(example, part, min(3, dataset.num_classes))
        scale = draw_logits(ax, layout, example, channels)
        ax.set(xlim=(0, PAGE_WIDTH), ylim=(0, tall))
        ax.set_axis_off()
        words = "pixels that fusion changed, with arrows to their seeds; predictions; label; what fusion did."
        page.text(tall, f"The framed region, zoomed: {words}")
        left, upper, wide, high = part
        top = tall + 2 * LINE
        for position, (name, title) in enumerate(ZOOMED_TITLES.items()):
            place = GAP + position * (zoom + GAP), top, zoom, zoom * ratio
            if name == "seeds":
                ax, pixels = page.axes(*place), images.farthest_points(within(changed, part), 15)
                images.seed_arrows(ax, example.image, example.prediction.offsets[0], pixels, 2.5, example.label)
                edge(ax)
                ax.set_title(title)
            else:
                ax = page.panel(place, panel_image(name, example, dataset, longest), (height, width), title)
            ax.images[0].set_interpolation("nearest")
            ax.set(xlim=(left - 0.5, left + wide - 0.5), ylim=(upper + high - 0.5, upper - 0.5))
        top += zoom * ratio + 0.08
        draw_legends(page, top, [example], dataset, {"offsets", "confidence", *ZOOMED_TITLES}, longest)
        names = [dataset.class_names[c] for c in channels]
        logit_bar(page.axes(PAGE_WIDTH - 2.55, top + 0.53, 0.8, 0.1), scale, names)
    return page.figure


def changed_classes(example: Example, part: Region, count: int = 3) -> list[int]:
    """List the classes that fusion gave to, or took from, most pixels of a part of the image, the most first.

    Of two equal ones, the class that fusion gave comes first, then the class that covers more of the image.
    """
    initial, fused = example.maps["S_i"], example.maps["S_f"]
    here = within(example.changed_by_fusion, part)
    taken, given, covered = (np.bincount(ids, minlength=256) for ids in (initial[here], fused[here], fused.ravel()))
    return np.lexsort((-covered, -given, -taken - given))[:count].tolist()


def draw_logits(ax: Axes, layout: Layout, example: Example, channels: Sequence[int]) -> Normalize:
    """Draw these channels of C, C_s and C_f as stacks of images, the first in front; return their common scale."""
    titles = {"S_i": "logits $C$", "S_s": "$C_s$, at the seeds", "S_f": "$C_f$, fused"}
    outputs, width, step = example.prediction.outputs(), layout.image[0], 0.06
    logits = {name: images.array(outputs[name].main[0, channels].float()) for name in titles}
    scale = Normalize(min(map(np.min, logits.values())), max(map(np.max, logits.values())))
    for (name, planes), x, y in zip(logits.items(), layout.logits, layout.rows, strict=True):
        last, title = len(planes) - 1, titles[name]
        arrow(ax, (x - width / 2 - 0.13, y), (x - width / 2, y))
        for i in range(last, -1, -1):
            shift, pixels = step * (i - last / 2), plt.get_cmap("magma")(scale(planes[i]), bytes=True)[..., :3]
            centre = x + shift, y + shift
            image_box(ax, centre, pixels, title if i == last else "", width - step * last, layout.titles_above)
    return scale


def outline_part(ax: Axes, centre: tuple[float, float], part: Region, size: tuple[int, int], side: float) -> None:
    """Outline the part of an image of the diagram that is zoomed below."""
    height, width = size
    scale = side * min(width / height, 1) / width
    left, top, wide, high = (scale * n for n in part)
    corner = centre[0] - scale * width / 2 + left, centre[1] + scale * height / 2 - top - high
    for style in ({"edgecolor": "white", "linewidth": 1.8}, {"edgecolor": "black", "linewidth": 0.8}):
        ax.add_patch(Rectangle(corner, wide, high, fill=False, zorder=4, **style))


def logit_bar(ax: Axes, scale: Normalize, names: Sequence[str]) -> None:
    """Draw the legend of the logits of these classes."""
    bar = ax.figure.colorbar(ScalarMappable(scale, "magma"), cax=ax, orientation="horizontal")
    bar.set_ticks([np.ceil(scale.vmin), np.floor(scale.vmax)])
    bar.set_label(f"logits of {names[0]};\nbehind: " + ",\n".join(names[1:]), fontsize=7, labelpad=1)
