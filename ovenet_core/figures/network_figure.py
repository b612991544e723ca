"""The diagram of the method, and Figures 1 and 2: the network, drawn with the tensors that it computes for one image.

Places and sizes in the diagram are in inches, from its bottom left. Lines and text follow matplotlib's settings.
"""

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.patches import FancyArrowPatch, FancyBboxPatch

from ovenet_core.data import SegmentationDataset
from ovenet_core.figures import images
from ovenet_core.figures.model_pair import Example
from ovenet_core.figures.qualitative import GAP, LEGENDS, LINE, PAGE_STYLE, PAGE_WIDTH, Page, edge, outline, panel_image
from ovenet_core.figures.selection import Region, around, regions, within

BACKBONE, SEMANTIC, OFFSET, METHOD = "#dde1e8", "#cfe3f2", "#fbdcc4", "#d6ecdf"  # colours of the boxes
EDGE = {"edgecolor": "0.25", "zorder": 3}
IMAGE_TITLES = {"input": "input", "label": "label", "offsets": "offsets $o$", "confidence": "confidence $F$"}
IMAGE_TITLES |= {"S_i": "$S_i$, initial", "S_s": "$S_s$, seed-based", "S_f": "$S_f$, fused"}
ZOOMED_TITLES = {"seeds": "seeds $p + o(p)$", "S_i": "$S_i$", "S_s": "$S_s$", "S_f": "$S_f$", "label": "label"}
ZOOMED_TITLES |= {"fusion": "$S_i$ to $S_f$"}
TENSORS = ("offsets", "confidence")

Point = tuple[float, float]


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
    boxes: tuple[Box, Box, Box, Box]  # backbone, heads, resampling and fusion
    logits: tuple[float, float, float]  # x of C, C_s and C_f
    paths: tuple[float, float, float]  # x of the line from C to the fusion, and of the start and end of that from C_s
    texts: tuple[str, str]  # in the boxes of the backbone and of the resampling
    titles_above: bool  # whether names of images are above them


def diagram(ax: plt.Axes, layout: Layout, panels: Mapping[str, images.ImageArray]) -> None:
    """Draw the network and equations 2 and 4 with these images, named as `IMAGE_TITLES`."""
    (top, middle, bottom), (initial_path, seed_start, seed_end) = layout.rows, layout.paths
    (backbone, heads, resample, fuse), (width, height) = layout.boxes, layout.image
    image, tensors, predictions = (Box(x, width, height) for x in layout.columns)
    centre, low, roof = (top + middle) / 2, (middle + bottom) / 2, bottom + fuse.height / 2
    unit = plt.rcParams["lines.linewidth"]
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
    places = {"input": (image.x, centre), "label": (image.x, bottom), "offsets": (tensors.x, middle)}
    places |= {"confidence": (tensors.x, bottom), "S_i": (predictions.x, top)}
    places |= {"S_s": (predictions.x, middle), "S_f": (predictions.x, bottom)}
    for name, pixels in panels.items():
        image_box(ax, places[name], pixels, IMAGE_TITLES[name], width, layout.titles_above)


def box(ax: plt.Axes, place: Box, y: float, text: str, colour: str) -> None:
    """Draw a rounded box with text."""
    shape = f"round,pad=0,rounding_size={0.06 * plt.rcParams['lines.linewidth']}"
    corner, size = (place.left, y - place.height / 2), (place.width, place.height)
    ax.add_patch(FancyBboxPatch(corner, *size, boxstyle=shape, facecolor=colour, **EDGE))
    ax.text(place.x, y, text, ha="center", va="center", linespacing=1.4, zorder=4)


def arrow(ax: plt.Axes, *points: Point) -> None:
    """Draw an arrow through the points."""
    (x, y), line = zip(*points, strict=True), {"color": "0.25", "linewidth": plt.rcParams["lines.linewidth"]}
    ax.plot(x, y, solid_joinstyle="miter", zorder=1, **line)
    head = {"arrowstyle": "-|>", "mutation_scale": 11 * line["linewidth"], "shrinkA": 0, "shrinkB": 0}
    ax.add_patch(FancyArrowPatch(points[-2], points[-1], **head, **line, zorder=2))


def fork(ax: plt.Axes, start: float, y: float, end: float, rows: Sequence[float]) -> None:
    """Draw arrows from (start, y) to x = end in several rows."""
    bend = start + 0.4 * (end - start)
    for row in rows:
        arrow(ax, (start, y), (bend, y), (bend, row), (end, row))


def image_box(ax: plt.Axes, centre: Point, pixels: images.ImageArray, title: str, width: float, above: bool) -> None:
    """Draw a framed image with its title; a portrait is as high as others are wide."""
    (x, y), ratio = centre, pixels.shape[0] / pixels.shape[1]
    width /= max(ratio, 1)
    height = width * ratio
    ax.imshow(pixels, extent=(x - width / 2, x + width / 2, y - height / 2, y + height / 2), zorder=3)
    ax.add_patch(plt.Rectangle((x - width / 2, y - height / 2), width, height, fill=False, **EDGE))
    pad = 0.04 * plt.rcParams["lines.linewidth"]
    place = {"va": "baseline", "y": y + height / 2 + pad} if above else {"va": "top", "y": y - height / 2 - pad}
    ax.text(x, s=title, ha="center", fontsize=plt.rcParams["axes.titlesize"], **place)


def page_layout(ratio: float) -> Layout:
    """Lay out the diagram on a printed page, for images of this height / width."""
    pitch, lowest = 0.92 * ratio + 0.36, 0.46 * ratio + 0.09
    rows, columns = (lowest + 2 * pitch, lowest + pitch, lowest), (0.51, 3.0, 6.49)
    boxes = Box(1.35, 0.5, 0.5), Box(2.1, 0.62, 0.42), Box(4.24, 0.64, 0.5), Box(4.09, 0.94, 0.42)
    logits, paths, texts = (3.0, 5.16, 5.16), (3.72, 4.85, 4.35), ("HRNet", "resample\nat\n$p + o(p)$")
    return Layout(rows, (0.92, 0.92 * ratio), columns, boxes, logits, paths, texts, titles_above=True)


def network_figure(example: Example, dataset: SegmentationDataset) -> plt.Figure:
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
    left, upper, wide, high = part
    with plt.rc_context(PAGE_STYLE):
        page = Page(tall + 2 * LINE + zoom * ratio + 0.2 + LEGENDS)
        ax = page.axes(0, 0, PAGE_WIDTH, tall)
        diagram(ax, layout, {name: panel_image(name, example, dataset, longest) for name in IMAGE_TITLES})
        for image in (drawn for name, drawn in zip(IMAGE_TITLES, ax.images, strict=True) if name not in TENSORS):
            x, right, _, y = image.get_extent()
            scale = (right - x) / width
            corner = x + scale * left, y - scale * (upper + high)
            outline(ax, corner, scale * wide, scale * high, edgecolor="black", linewidth=0.8)
        channels = changed_classes(example, part, min(3, dataset.num_classes))
        scale = draw_logits(ax, layout, example, channels)
        ax.set(xlim=(0, PAGE_WIDTH), ylim=(0, tall))
        ax.set_axis_off()
        words = "pixels that fusion changed, with arrows to their seeds; predictions; label; what fusion did."
        page.text(tall, f"The framed region, zoomed: {words}")
        top = tall + 2 * LINE
        for position, (name, title) in enumerate(ZOOMED_TITLES.items()):
            ax = page.axes(GAP + position * (zoom + GAP), top, zoom, zoom * ratio)
            if name == "seeds":
                pixels = images.farthest_points(within(changed, part), 15)
                images.seed_arrows(ax, example.image, example.prediction.offsets[0], pixels, 2.5, example.label)
            else:
                images.show(ax, panel_image(name, example, dataset, longest))
            edge(ax)
            ax.images[0].set_interpolation("nearest")
            ax.set(title=title, xlim=(left - 0.5, left + wide - 0.5), ylim=(upper + high - 0.5, upper - 0.5))
        top += zoom * ratio + 0.08
        page.legends(top, [example], dataset, {*TENSORS, *ZOOMED_TITLES}, longest)
        mappable, cax = plt.cm.ScalarMappable(scale, "magma"), page.axes(PAGE_WIDTH - 2.55, top + 0.53, 0.8, 0.1)
        bar = page.figure.colorbar(mappable, cax=cax, orientation="horizontal")
        bar.set_ticks([np.ceil(scale.vmin), np.floor(scale.vmax)])
        first, *others = (dataset.class_names[c] for c in channels)
        bar.set_label(f"logits of {first};\nbehind: " + ",\n".join(others), fontsize=7, labelpad=1)
    return page.figure


def changed_classes(example: Example, part: Region, count: int = 3) -> list[int]:
    """List the classes that fusion gave to, or took from, most pixels of a part of the image, the most first.

    Of two equal ones, the class that fusion gave comes first, then the class that covers more of the image.
    """
    initial, fused = example.maps["S_i"], example.maps["S_f"]
    here = within(example.changed_by_fusion, part)
    taken, given, covered = (np.bincount(ids, minlength=256) for ids in (initial[here], fused[here], fused.ravel()))
    return np.lexsort((-covered, -given, -taken - given))[:count].tolist()


def draw_logits(ax: plt.Axes, layout: Layout, example: Example, channels: Sequence[int]) -> plt.Normalize:
    """Draw these channels of C, C_s and C_f as stacks of images, the first in front; return their common scale."""
    titles = {"S_i": "logits $C$", "S_s": "$C_s$, at the seeds", "S_f": "$C_f$, fused"}
    outputs, width, step = example.prediction.outputs(), layout.image[0], 0.06
    logits = {name: images.array(outputs[name].main[0, channels].float()) for name in titles}
    scale = plt.Normalize(min(map(np.min, logits.values())), max(map(np.max, logits.values())))
    for (name, planes), x, y in zip(logits.items(), layout.logits, layout.rows, strict=True):
        last, title = len(planes) - 1, titles[name]
        arrow(ax, (x - width / 2 - 0.13, y), (x - width / 2, y))
        for i in range(last, -1, -1):
            shift, pixels = step * (i - last / 2), plt.get_cmap("magma")(scale(planes[i]), bytes=True)[..., :3]
            centre = x + shift, y + shift
            image_box(ax, centre, pixels, title if i == last else "", width - step * last, layout.titles_above)
    return scale
