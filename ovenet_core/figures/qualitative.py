"""Predictions image by image: one network's, and Figures 3 to 11 with a baseline next to OVeNet and its failures.

Figures 1 to 11 are as wide as a printed page, with text of 7 points or more. Places and sizes on them are in inches,
from the top left.
"""

from collections.abc import Collection, Sequence
from functools import partial
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
import seaborn as sns
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Patch, Rectangle
from torch import nn

from ovenet_core.cross_entropy import IGNORE_INDEX
from ovenet_core.data import DATASETS, Sample, SegmentationDataset
from ovenet_core.figures import images
from ovenet_core.figures.images import CHANGE_COLOURS, ERROR_COLOURS, TITLES
from ovenet_core.figures.model_pair import Example, predict_example
from ovenet_core.figures.selection import Region, improves, regions
from ovenet_core.utils import DataError, write_atomically

PAGE_WIDTH, PAGE_HEIGHT = 7.0, 8.8  # inches: the text of a printed page
DPI = 300
PAGE_STYLE = {  # sizes in points; what the legends call "small", 1/1.2 of 8.5, is the smallest text
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
    "legend.handlelength": 1,
    "legend.columnspacing": 1,
    "pdf.fonttype": 42,
}
GAP, LINE, LEGENDS = 0.05, 0.17, 1.2  # inches: between images, a line of text above them, the legends below

# The panels of each example, row by row, as `panel_image` names them.
COMPARISON = (("input", "label", "baseline", "S_f"), ("S_i", "offsets", "confidence", "change"))
MORE = (("input", "label", "baseline", "S_f", "change"),)
FAILURES = (("input", "label", "baseline", "S_f", "wrong"),)
PANEL_TITLES = TITLES | {
    "overlay": "laid over it",
    "offsets": "offsets $o$",
    "confidence": "confidence $F$",
    "fusion": "what fusion did",
    "wrong": "errors",
}


def panel_image(panel: str, example: Example, dataset: SegmentationDataset, longest: float | None) -> images.ImageArray:
    """Draw one panel of an example: one of the names below, or the name of one of its maps.

    Args:
        longest: offsets of this length have full colour, as in `images.offset_image`.
    """
    label, maps, prediction = example.label, example.maps, example.prediction
    match panel:
        case "input":
            return example.image
        case "label":
            return images.label_image(label, dataset)
        case "overlay":  # of the final prediction, else of the label
            return images.overlay(example.image, list(maps.values())[-1] if maps else label, dataset)
        case "offsets":
            return images.offset_image(prediction.offsets[0], longest)
        case "confidence":
            return images.confidence_image(prediction.confidence[0])
        case "change":  # from the baseline to OVeNet
            return images.code_image(images.change_map(label, maps["baseline"], maps["S_f"]))
        case "fusion":  # from S_i to S_f
            return images.code_image(images.change_map(label, maps["S_i"], maps["S_f"]))
        case "wrong":
            return images.code_image(images.error_map(label, maps["baseline"], maps["S_f"]))
    return images.label_image(maps[panel], dataset)


def class_maps(examples: Sequence[Example], panels: Collection[str]) -> list[images.Label]:
    """List the labels and the predicted maps that these panels show."""
    maps = [{"label": example.label, **example.maps} for example in examples]
    return [named[panel] for named in maps for panel in panels if panel in named]


# -- One network


def prediction_grid(
    examples: Sequence[Example],
    dataset: SegmentationDataset,
    panels: Sequence[str] = (),
    longest: float | None = None,
) -> Figure:
    """Draw one row per image and one column per panel, with legends.

    Args:
        panels: names as in `panel_image`; by default all that the first example has of input, label, predicted
            classes, offsets, confidence, and what fusion did.
        longest: the length with full colour (`offset_image`); by default the `reference_length` of these images.

    Raises:
        DataError: no examples.
    """
    require_examples(examples, dataset)
    panels = panels or available_panels(examples[0])
    if longest is None and "offsets" in panels:
        longest = images.reference_length([example.prediction.offsets[0] for example in examples])
    legends = {
        "offsets": lambda ax: images.offset_wheel(ax, longest),
        "confidence": images.confidence_bar,
        "fusion": lambda ax: images.legend(ax, CHANGE_COLOURS, handlelength=1),
    }
    across = sum(panel not in legends for panel in panels)
    colours = images.class_colours(class_maps(examples, panels), dataset)
    legends["input"] = lambda ax: images.legend(ax, colours, across)
    side, lines = max(2.6, 15 / len(panels)), max(-(-len(colours) // across), 5 if across < len(panels) else 1)
    heights = [*(side * example.image.shape[0] / example.image.shape[1] for example in examples), 0.4 * lines]
    with sns.plotting_context("talk"):
        figure = plt.figure(figsize=(side * len(panels), sum(heights) + 0.5), layout="constrained")
        axes = figure.subplots(len(heights), len(panels), squeeze=False, height_ratios=heights)
        for column, panel in enumerate(panels):
            for row, example in enumerate(examples):
                title = PANEL_TITLES.get(panel, panel) if row == 0 else ""
                images.show(axes[row, column], panel_image(panel, example, dataset, longest), title)
            legends.get(panel, Axes.set_axis_off)(axes[-1, column])
    return figure


def available_panels(example: Example) -> list[str]:
    """List what one network gives of an example."""
    panels = ["input", *["label"] * (example.label is not None), *(name for name in TITLES if name in example.maps)]
    if example.prediction and example.prediction.offsets is not None:
        panels += ["offsets", "confidence"]
    return panels + ["fusion"] * (example.label is not None and {"S_i", "S_f"} <= example.maps.keys())


def show_predictions(
    network: nn.Module,
    samples: Sequence[Sample],
    dataset: SegmentationDataset,
    longest: float | None = None,
    **predict_options,
) -> Figure:
    """Predict samples and draw their `prediction_grid`, without labels if the samples have none.

    Args:
        network: in evaluation mode.
        predict_options: `image_size` and `channels_last`, as `evaluation.predict` takes them.

    Raises:
        DataError: no samples, or as `dataset.read`.
    """
    pairs = (dataset.read(sample) if sample.label else (dataset.read_image(sample),) for sample in samples)
    examples = [predict_example(network, *pair, **predict_options) for pair in pairs]
    return prediction_grid(examples, dataset, longest=longest)


def require_examples(examples: Sequence[Example], dataset: SegmentationDataset) -> None:
    """Raise a `DataError` if there are no examples."""
    if not examples:
        raise DataError(dataset.name, "no images", "one or more for this figure", "choose a split with more")


# -- Figures 3 to 11


class Page:
    """A figure as wide as a printed page, on which axes are placed in inches from the top left."""

    def __init__(self, height: float):
        self.figure, self.height = plt.figure(figsize=(PAGE_WIDTH, height)), height

    def axes(self, left: float, top: float, width: float, height: float) -> Axes:
        """Add axes."""
        x, y = left / PAGE_WIDTH, 1 - (top + height) / self.height
        return self.figure.add_axes((x, y, width / PAGE_WIDTH, height / self.height))

    def text(self, top: float, words: str) -> None:
        """Add a line of the smallest text."""
        ax = self.axes(GAP, top, 1, LINE)
        ax.text(0, 0.3, words, fontsize=7)
        ax.set_axis_off()

    def panel(self, place: tuple[float, ...], image: images.ImageArray, size: tuple[int, int], title: str = "") -> Axes:
        """Add an image, stretched to the size (height, width) of the label, so that a region fits all panels."""
        ax, (height, width) = self.axes(*place), size
        images.show(ax, image, title)
        ax.images[0].set_extent((-0.5, width - 0.5, height - 0.5, -0.5))
        ax.set(xlim=(-0.5, width - 0.5), ylim=(height - 0.5, -0.5))
        edge(ax)
        return ax


def edge(ax: Axes) -> None:
    """Draw a thin line around an image, so that white in it does not run into the page."""
    ax.set_axis_on()
    ax.set(xticks=[], yticks=[])
    ax.spines[:].set(color="0.5", linewidth=0.4)


def outline_style(better: bool) -> dict:
    """Style the outline of a region: blue where OVeNet repairs more of it than it degrades, else orange and dashed."""
    colour = np.divide(CHANGE_COLOURS["repaired" if better else "degraded"], 255)
    return {"edgecolor": colour, "linestyle": "-" if better else (0, (4, 1.5)), "linewidth": 1}


def outline(ax: Axes, region: Region, better: bool) -> None:
    """Outline a region, with a white rim that shows on any colour."""
    (left, top, width, height), rim = region, {"edgecolor": "white", "linewidth": 2}
    for style in (rim, outline_style(better)):
        ax.add_patch(Rectangle((left - 0.5, top - 0.5), width, height, fill=False, zorder=5, **style))


def comparison(
    examples: Sequence[Example],
    dataset: SegmentationDataset,
    names: tuple[str, str] = ("HRNet", "OVeNet"),
    columns: Sequence[Sequence[str]] = COMPARISON,
) -> Figure:
    """Draw examples below each other, each with its caption and the same regions outlined in all panels; legends.

    Outlined are the largest regions that changed from the baseline to S_f or, with a panel "wrong", the largest where
    S_f is wrong: in blue where more pixels were repaired than degraded, else in orange.

    Args:
        names: of the baseline and of OVeNet.
        columns: the panels of each example, row by row: COMPARISON, MORE or FAILURES.

    Raises:
        DataError: no examples.
    """
    require_examples(examples, dataset)
    panels, across = {panel for row in columns for panel in row}, max(map(len, columns))
    titles = PANEL_TITLES | {"baseline": names[0], "change": f"from {names[0]} to {names[1]}"}
    titles |= {name: f"{names[1]}, {TITLES[name]}" for name in TITLES}
    ratios = [min(example.label.shape[0] / example.label.shape[1], 1) for example in examples]
    lines = LINE * (len(examples) + len(columns)) + GAP * len(columns) * len(examples)
    room = (PAGE_HEIGHT - LEGENDS - lines) / (len(columns) * sum(ratios))
    side = min((PAGE_WIDTH - GAP * (across + 1)) / across, max(room, 0.8))
    gap, top = (PAGE_WIDTH - across * side) / (across + 1), 0.0
    longest = images.reference_length([example.prediction.offsets[0] for example in examples])
    with plt.rc_context(PAGE_STYLE):
        page = Page(lines + len(columns) * side * sum(ratios) + LEGENDS)
        for example, ratio in zip(examples, ratios, strict=True):
            label, (before, after) = example.label, (example.maps[name] for name in ("baseline", "S_f"))
            outlined = regions((after != (label if "wrong" in panels else before)) & (label != IGNORE_INDEX))
            page.text(top, example.caption)
            top += LINE
            for row in columns:
                top += LINE * (example is examples[0])
                for position, panel in enumerate(row):
                    place = gap + position * (side + gap), top, side, side * ratio
                    title = titles.get(panel, panel) if example is examples[0] else ""
                    ax = page.panel(place, panel_image(panel, example, dataset, longest), label.shape, title)
                    for region in outlined:
                        outline(ax, region, improves(region, label, before, after))
                top += side * ratio + GAP
        draw_legends(page, top + 0.03, examples, dataset, panels, longest)
    return page.figure


def draw_legends(
    page: Page,
    top: float,
    examples: Sequence[Example],
    dataset: SegmentationDataset,
    panels: set[str],
    longest: float,
) -> None:
    """Draw, from the right, what happened to pixels and regions, the scale of F, the wheel of o; and the classes."""
    right, zoomed = PAGE_WIDTH - 1.4, "fusion" in panels
    images.legend(page.axes(right, top, 1.3, 0.7), ERROR_COLOURS if "wrong" in panels else CHANGE_COLOURS)
    if not zoomed:
        ax = page.axes(right, top + 0.75, 1.3, 0.3)
        handles = [Patch(fill=False, **outline_style(better)) for better in (True, False)]
        place = {"loc": "upper left", "borderaxespad": 0, "frameon": False, "handlelength": 1.2}
        ax.legend(handles, ["OVeNet is better", "not better"], **place)
        ax.set_axis_off()
    if "confidence" in panels:
        right -= 1.4 if zoomed else 1.05  # the scale of the logits, below it in the network's figure, is wider
        images.confidence_bar(page.axes(right + 0.2 * zoomed, top - 0.07, 0.9, 0.8))
    if "offsets" in panels:
        right -= 0.95
        images.offset_wheel(page.axes(right, top, 0.75, 0.75), longest)
    columns = int((right - GAP) / 1.05)
    colours = common_classes(class_maps(examples, panels), dataset, 7 * columns)
    images.legend(page.axes(GAP, top, right - GAP, 1), colours, columns)


def common_classes(maps: Sequence, dataset: SegmentationDataset, most: int) -> images.Colours:
    """Return names and colours of the classes in these maps; of too many, those that cover most."""
    choices = (images.class_colours(maps, dataset, 0.0005 * 2**step) for step in range(12))
    return next(colours for colours in choices if len(colours) <= most)


# -- Files


def save(figure: Figure, folder: str | Path, name: str) -> list[Path]:
    """Write a figure to `name.png`, at 300 dots per inch, and `name.pdf`, with text as text; return both paths.

    Raises:
        WriteError: a file could not be written.
    """
    folder, paths = Path(folder), []
    folder.mkdir(parents=True, exist_ok=True)
    for extension, metadata in {"png": {}, "pdf": {"CreationDate": None}}.items():
        paths.append(folder / f"{name}.{extension}")
        with plt.rc_context(PAGE_STYLE):
            write = partial(figure.savefig, format=extension, dpi=DPI, metadata=metadata)
            write_atomically(paths[-1], write, mode="wb")
    return paths


def file_names(dataset: str) -> dict[str, str]:
    """Name the file of each figure, with the paper's number if the paper has this figure of the dataset."""
    names = ("comparison", "more", "failures")
    numbers = DATASETS[dataset].paper_figures if dataset in DATASETS else ()
    numbered = {name: f"figure{number}_{name}" for name, number in zip(names, numbers, strict=False)}
    return {"network": "figure1_2", **{name: name for name in names}, **numbered}
