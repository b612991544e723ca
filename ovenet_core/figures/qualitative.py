"""Figures 3 to 11 of the paper: a baseline beside OVeNet, image by image, and where OVeNet fails.

Figures are as wide as a printed page, with text of 7 points or more. Places and sizes on them are in inches, from the
top left.
"""

from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Patch, Rectangle

from ovenet_core.cross_entropy import IGNORE_INDEX
from ovenet_core.data import DataError, SegmentationDataset
from ovenet_core.figures import images
from ovenet_core.figures.model_pair import ComparisonExample
from ovenet_core.figures.selection import Region, improves, regions
from ovenet_core.utils import write_atomically

PAGE, TALL = 7.0, 8.8  # inches: the text of a printed page
DPI = 300
STYLE = {  # sizes in points; what the legends call "small", 1/1.2 of 8.5, is the smallest text
    "font.size": 8.5,
    "axes.titlesize": 8,
    "axes.titlepad": 2.5,
    "legend.fontsize": 7,
    "xtick.labelsize": 7,
    "xtick.major.size": 2,
    "xtick.major.pad": 2,
    "axes.linewidth": 0.6,
    "lines.linewidth": 0.9,
    "patch.linewidth": 0.6,
    "lines.markersize": 3,
    "legend.labelspacing": 0.25,
    "legend.handleheight": 0.9,
    "pdf.fonttype": 42,
}
GAP, TITLE, LEGENDS = 0.05, 0.17, 1.2  # inches: between images, a line of text above them, the legends below
NUMBERS = {"cityscapes": (3, 6, 9), "acdc": (4, 7, 10), "ade20k": (5, 8, 11)}  # of the paper's figures

# What is shown of each frame, line by line; `image` has what the kinds mean.
COMPARISON = (("input", "label", "baseline", "S_f"), ("S_i", "offsets", "confidence", "change"))
MORE = (("input", "label", "baseline", "S_f", "change"),)
FAILURES = (("input", "label", "baseline", "S_f", "wrong"),)
REPAIRED, DEGRADED = (np.divide(images.REPAIRS[kind], 255) for kind in ("repaired", "degraded"))
ERRORS = {  # which of two predictions is wrong at a pixel, in the colours of plots.REPAIRS
    "both right": images.REPAIRS["unchanged"],
    "baseline alone wrong": images.REPAIRS["repaired"],
    "OVeNet alone wrong": images.REPAIRS["degraded"],
    "both wrong": images.REPAIRS["other error"],
    "ignored": images.REPAIRS["ignored"],
}


class Page:
    """A figure as wide as a printed page, on which axes are put in inches from the top left."""

    def __init__(self, height: float):
        self.figure, self.height = plt.figure(figsize=(PAGE, height)), height

    def axes(self, left: float, top: float, width: float, height: float) -> Axes:
        return self.figure.add_axes((left / PAGE, 1 - (top + height) / self.height, width / PAGE, height / self.height))

    def text(self, top: float, words: str) -> None:
        """A line of the smallest text."""
        ax = self.axes(GAP, top, 1, TITLE)
        ax.text(0, 0.3, words, fontsize=7)
        ax.set_axis_off()


# -- Images


def error_image(label: images.Label, baseline: images.Label, fused: images.Label) -> images.ImageArray:
    """Which of two predictions is wrong at each pixel, in the colours of `ERRORS`."""
    wrong, ours = baseline != label, fused != label
    return np.array(list(ERRORS.values()), np.uint8)[np.where(label == IGNORE_INDEX, 4, wrong + 2 * ours)]


def panel_image(kind: str, frame: ComparisonExample, data: SegmentationDataset, longest: float) -> images.ImageArray:
    """What there is to see of a frame: one of the kinds below, or the classes of one of its maps.

    Args:
        longest: offsets of this length have full colour, as in `plots.offset_image`.
    """
    label, maps, prediction = frame.label, frame.maps, frame.prediction
    match kind:
        case "input":
            return frame.image
        case "label":
            return images.label_image(label, data)
        case "offsets":
            return images.offset_image(prediction.offsets[0], longest)
        case "confidence":
            return images.confidence_image(prediction.confidence[0])
        case "change":  # from the baseline to OVeNet
            return images.change_image(label, maps["baseline"], maps["S_f"])
        case "fusion":  # from S_i to S_f
            return images.change_image(label, maps["S_i"], maps["S_f"])
        case "wrong":
            return error_image(label, maps["baseline"], maps["S_f"])
    return images.label_image(maps[kind], data)


def draw(ax: Axes, kind: str, frame: ComparisonExample, data: SegmentationDataset, longest: float) -> None:
    """An image, stretched to the size of the frame's label, so that a region is in the same place in all of them."""
    height, width = frame.label.shape
    images.show(ax, panel_image(kind, frame, data, longest))
    ax.images[0].set_extent((-0.5, width - 0.5, height - 0.5, -0.5))
    ax.set(xlim=(-0.5, width - 0.5), ylim=(height - 0.5, -0.5))
    edge(ax)


def edge(ax: Axes) -> None:
    """A thin line around an image, so that what is white in it does not run into the page."""
    ax.set_axis_on()
    ax.set(xticks=[], yticks=[])
    ax.spines[:].set(color="0.5", linewidth=0.4)


def titles(names: tuple[str, str]) -> dict[str, str]:
    """What stands above the images of each kind."""
    baseline, ovenet = names
    return {
        "input": "input",
        "label": "label",
        "baseline": baseline,
        "S_f": f"{ovenet}, fused $S_f$",
        "S_i": f"{ovenet}, initial $S_i$",
        "offsets": "offsets $o$",
        "confidence": "confidence $F$",
        "change": f"from {baseline} to {ovenet}",
        "wrong": "errors",
    }


def outline_style(better: bool) -> dict:
    """How a region is framed: blue where OVeNet repairs more of it than it degrades, else orange and dashed."""
    return {
        "edgecolor": REPAIRED if better else DEGRADED,
        "linestyle": "-" if better else (0, (4, 1.5)),
        "linewidth": 1,
    }


def outline(ax: Axes, region: Region, better: bool) -> None:
    """The frame of a region, with a white rim so that it shows on any colour."""
    (left, top, width, height), rim = region, {"edgecolor": "white", "linewidth": 2}
    for style in (rim, outline_style(better)):
        ax.add_patch(Rectangle((left - 0.5, top - 0.5), width, height, fill=False, zorder=5, **style))


# -- Figures 3 to 11


def comparison(
    frames: Sequence[ComparisonExample],
    data: SegmentationDataset,
    names: tuple[str, str] = ("HRNet", "OVeNet"),
    columns: Sequence[Sequence[str]] = COMPARISON,
) -> Figure:
    """Frames below each other, each with its caption and the same regions framed in all of its images; legends.

    Framed are the largest regions that changed from the baseline to S_f or, with a column "wrong", the largest in which
    S_f is wrong: in blue where more pixels were repaired than degraded, else in orange.

    Args:
        names: of the baseline and of OVeNet.
        columns: what is shown of each frame, line by line: COMPARISON, MORE or FAILURES.

    Raises:
        DataError: no frames.
    """
    if not frames:
        raise DataError(f"{data.name}: no images for this figure, expected one or more; choose a split with more")
    kinds, across = {kind for line in columns for kind in line}, max(map(len, columns))
    ratios = [min(frame.label.shape[0] / frame.label.shape[1], 1) for frame in frames]
    lines = TITLE * (len(frames) + len(columns)) + GAP * len(columns) * len(frames)
    room = (TALL - LEGENDS - lines) / (len(columns) * sum(ratios))
    side = min((PAGE - GAP * (across + 1)) / across, max(room, 0.8))
    gap, top = (PAGE - across * side) / (across + 1), 0.0
    longest = images.reference_length([frame.prediction.offsets[0] for frame in frames])
    with plt.rc_context(STYLE):
        page = Page(lines + len(columns) * side * sum(ratios) + LEGENDS)
        for frame, ratio in zip(frames, ratios, strict=True):
            page.text(top, frame.caption)
            top += TITLE
            for line in columns:
                top += TITLE * (frame is frames[0])
                for place, kind in enumerate(line):
                    ax = page.axes(gap + place * (side + gap), top, side, side * ratio)
                    draw(ax, kind, frame, data, longest)
                    ax.set_title(titles(names)[kind] if frame is frames[0] else "")
                    for region in framed(frame, "wrong" in kinds):
                        outline(ax, region, improves(region, frame.label, frame.maps["baseline"], frame.maps["S_f"]))
                top += side * ratio + GAP
        legends(page, top + 0.03, frames, data, kinds, longest)
    return page.figure


def framed(frame: ComparisonExample, failing: bool) -> list[Region]:
    """The regions of a frame to look at: where S_f differs from the baseline or, if `failing`, from the label."""
    other = frame.label if failing else frame.maps["baseline"]
    return regions((frame.maps["S_f"] != other) & (frame.label != IGNORE_INDEX))


def legends(
    page: Page,
    top: float,
    frames: Sequence[ComparisonExample],
    data: SegmentationDataset,
    kinds: set[str],
    longest: float,
) -> None:
    """From the right: what happened to pixels and to regions, the scale of F, the wheel of o; and the classes."""
    right = PAGE - 1.4
    patches(page.axes(right, top, 1.3, 0.7), ERRORS if "wrong" in kinds else images.REPAIRS, 1)
    if "fusion" not in kinds:
        ax = page.axes(right, top + 0.75, 1.3, 0.3)
        handles = [Patch(fill=False, **outline_style(better)) for better in (True, False)]
        names = ["OVeNet is better", "not better"]
        ax.legend(handles, names, loc="upper left", borderaxespad=0, frameon=False, handlelength=1.2)
        ax.set_axis_off()
    if "confidence" in kinds:
        right -= 1.4 if "fusion" in kinds else 1.05  # there, below it, is the scale of the logits
        images.confidence_bar(page.axes(PAGE - 2.6 if "fusion" in kinds else right, top - 0.07, 0.9, 0.8))
    if "offsets" in kinds:
        right -= 0.95
        images.offset_wheel(page.axes(right, top, 0.75, 0.75), longest)
    maps = [m for frame in frames for m in (frame.label, *(frame.maps[kind] for kind in kinds & frame.maps.keys()))]
    columns = int((right - GAP) / 1.05)
    patches(page.axes(GAP, top, right - GAP, 1), common_classes(maps, data, 7 * columns), columns)


def patches(ax: Axes, colours: Mapping[str, Sequence[int]], columns: int) -> None:
    images.legend(ax, colours, columns, handlelength=1, columnspacing=1)


def common_classes(maps: Sequence, data: SegmentationDataset, most: int) -> dict[str, Sequence[int]]:
    """Names and colours of the classes in these maps; of too many those that cover most."""
    shares = (0.0005 * 2**step for step in range(12))
    return next(found for share in shares if len(found := images.class_colours(maps, data, share)) <= most)


# -- Files


def save(figure: Figure, folder: str | Path, name: str) -> list[Path]:
    """The figure as `name.png`, at 300 dots per inch, and `name.pdf`, with its text as text; returns both paths.

    Raises:
        WriteError: a file could not be written.
    """
    folder, paths = Path(folder), []
    folder.mkdir(parents=True, exist_ok=True)
    for kind, metadata in {"png": {}, "pdf": {"CreationDate": None}}.items():
        paths.append(folder / f"{name}.{kind}")
        with plt.rc_context(STYLE):
            write = partial(figure.savefig, format=kind, dpi=DPI, metadata=metadata)
            write_atomically(paths[-1], write, mode="wb")
    return paths


def file_names(dataset: str) -> dict[str, str]:
    """The names of the files of each figure: with the paper's number where the dataset is one of the paper's."""
    names = ("comparison", "more", "failures")
    numbers = NUMBERS.get(dataset, (None,) * 3)
    numbered = {name: f"figure{n}_{name}" if n else name for name, n in zip(names, numbers, strict=True)}
    return {"network": "figure1_2"} | numbered
