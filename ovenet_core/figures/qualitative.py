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
from matplotlib.patches import Patch
from torch import nn

from ovenet_core.cross_entropy import IGNORE_INDEX
from ovenet_core.data import DATASETS, Sample, SegmentationDataset
from ovenet_core.figures import images
from ovenet_core.figures.images import CHANGE_COLOURS, ERROR_COLOURS, TITLES
from ovenet_core.figures.model_pair import Example, predict_example
from ovenet_core.figures.selection import improves, regions
from ovenet_core.utils import DataError, write_atomically

PAGE_WIDTH, PAGE_HEIGHT = 7.0, 8.8  # inches: the text of a printed page
# Sizes in points; what the legends call "small", 1/1.2 of 8.5, is the smallest text.
PAGE_STYLE = {"font.size": 8.5, "axes.titlesize": 8, "axes.titlepad": 2.5, "axes.linewidth": 0.6, "pdf.fonttype": 42}
PAGE_STYLE |= {"lines.linewidth": 0.9, "lines.markersize": 3, "patch.linewidth": 0.6, "legend.fontsize": 7}
PAGE_STYLE |= {"xtick.labelsize": 7, "xtick.major.size": 2, "xtick.major.pad": 2, "legend.columnspacing": 1}
PAGE_STYLE |= {"legend.labelspacing": 0.25, "legend.handleheight": 0.9, "legend.handlelength": 1}
GAP, LINE, LEGENDS = 0.05, 0.17, 1.2  # inches: between images, a line of text above them, the legends below

PANELS = {  # of each example in a figure, row by row, as `panel_image` names them
    "comparison": (("input", "label", "baseline", "S_f"), ("S_i", "offsets", "confidence", "change")),
    "more": (("input", "label", "baseline", "S_f", "change"),),
    "failures": (("input", "label", "baseline", "S_f", "wrong"),),
}
PANEL_TITLES = TITLES | {"offsets": "offsets $o$", "confidence": "confidence $F$", "fusion": "what fusion did"}
PANEL_TITLES |= {"overlay": "laid over it", "wrong": "errors"}


def panel_image(panel: str, example: Example, dataset: SegmentationDataset, longest: float | None) -> images.ImageArray:
    """Draw one panel of an example: one of the names below, its label or one of its maps."""
    maps = {"label": example.label, **example.maps}
    match panel:
        case "input":
            return example.image
        case "overlay":  # of the final prediction, else of the label
            return images.overlay(example.image, list(maps.values())[-1], dataset)
        case "offsets":
            return images.offset_image(example.prediction.offsets[0], longest)
        case "confidence":
            return images.confidence_image(example.prediction.confidence[0])
        case "change" | "fusion" | "wrong":  # from the baseline or, by fusion, from S_i to S_f
            compare = images.error_map if panel == "wrong" else images.change_map
            before = maps["S_i" if panel == "fusion" else "baseline"]
            return images.code_image(compare(example.label, before, maps["S_f"]))
    return images.label_image(maps[panel], dataset)


def class_maps(examples: Sequence[Example], panels: Collection[str]) -> list[images.Label]:
    """List the labels and the predicted maps that these panels show."""
    maps = ({"label": example.label, **example.maps}.items() for example in examples)
    return [ids for named in maps for name, ids in named if name in panels]


def prediction_grid(
    examples: Sequence[Example], dataset: SegmentationDataset, panels: Sequence[str] = (), longest: float | None = None
) -> plt.Figure:
    """Draw one row per image and one column per panel, with legends; a `DataError` without examples.

    Args:
        panels: names as in `panel_image`; by default all that one network gives of the first example.
        longest: the length with full colour (`offset_image`); by default the `reference_length` of these images.
    """
    require_examples(examples, dataset)
    panels = panels or available_panels(examples[0])
    if longest is None and "offsets" in panels:
        longest = images.reference_length([example.prediction.offsets[0] for example in examples])
    legends = {
        "offsets": lambda ax: images.offset_wheel(ax, longest),
        "confidence": images.confidence_bar,
        "fusion": lambda ax: images.legend(ax, images.patches(CHANGE_COLOURS), handlelength=1),
    }
    across = sum(panel not in legends for panel in panels)
    colours = images.class_colours(class_maps(examples, panels), dataset)
    legends["input"] = lambda ax: images.legend(ax, images.patches(colours), across)
    side, lines = max(2.6, 15 / len(panels)), max(-(-len(colours) // across), 5 if across < len(panels) else 1)
    heights = [*(side * example.image.shape[0] / example.image.shape[1] for example in examples), 0.4 * lines]
    with sns.plotting_context("talk"):
        figure = plt.figure(figsize=(side * len(panels), sum(heights) + 0.5), layout="constrained")
        axes = figure.subplots(len(heights), len(panels), squeeze=False, height_ratios=heights)
        for column, panel in enumerate(panels):
            for row, example in enumerate(examples):
                title = PANEL_TITLES.get(panel, panel) if row == 0 else ""
                images.show(axes[row, column], panel_image(panel, example, dataset, longest), title)
            legends.get(panel, plt.Axes.set_axis_off)(axes[-1, column])
    return figure


def available_panels(example: Example) -> list[str]:
    """List what one network gives of an example."""
    panels = ["input", *["label"] * (example.label is not None), *(name for name in TITLES if name in example.maps)]
    if example.prediction and example.prediction.offsets is not None:
        panels += ["offsets", "confidence"]
    return panels + ["fusion"] * (example.label is not None and {"S_i", "S_f"} <= example.maps.keys())


def show_predictions(
    network: nn.Module, samples: Sequence[Sample], dataset: SegmentationDataset, **predict_options
) -> plt.Figure:
    """Predict samples (`predict_example`) and draw their `prediction_grid`, without labels if the samples have none."""
    pairs = (dataset.read(sample) if sample.label else (dataset.read_image(sample),) for sample in samples)
    examples = [predict_example(network, *pair, **predict_options) for pair in pairs]
    return prediction_grid(examples, dataset)


def require_examples(examples: Sequence[Example], dataset: SegmentationDataset) -> None:
    """Raise a `DataError` if there are no examples."""
    if not examples:
        raise DataError(dataset.name, "no images", "one or more for this figure", "choose a split with more")


class Page:
    """A figure as wide as a printed page, on which axes are placed in inches from the top left."""

    def __init__(self, height: float):
        self.figure, self.height = plt.figure(figsize=(PAGE_WIDTH, height)), height

    def axes(self, left: float, top: float, width: float, height: float) -> plt.Axes:
        """Add axes."""
        x, y = left / PAGE_WIDTH, 1 - (top + height) / self.height
        return self.figure.add_axes((x, y, width / PAGE_WIDTH, height / self.height))

    def text(self, top: float, words: str) -> None:
        """Add a line of the smallest text."""
        self.figure.text(GAP / PAGE_WIDTH, 1 - (top + 0.7 * LINE) / self.height, words, fontsize=7)

    def legends(
        self, top: float, examples: Sequence[Example], dataset: SegmentationDataset, panels: set[str], longest: float
    ) -> None:
        """Add, from the right, what happened to pixels and regions, the scale of F, the wheel of o; and the classes."""
        right, zoomed = PAGE_WIDTH - 1.4, "fusion" in panels
        happened = images.patches(ERROR_COLOURS if "wrong" in panels else CHANGE_COLOURS)
        images.legend(self.axes(right, top, 1.3, 0.7), happened)
        if not zoomed:
            words = {True: "OVeNet is better", False: "not better"}
            outlines = [Patch(fill=False, label=text, **outline_style(better)) for better, text in words.items()]
            images.legend(self.axes(right, top + 0.75, 1.3, 0.3), outlines, handlelength=1.2)
        if "confidence" in panels:
            right -= 1.4 if zoomed else 1.05  # the scale of the logits, below it in the network's figure, is wider
            images.confidence_bar(self.axes(right + 0.2 * zoomed, top - 0.07, 0.9, 0.8))
        if "offsets" in panels:
            right -= 0.95
            images.offset_wheel(self.axes(right, top, 0.75, 0.75), longest)
        columns = int((right - GAP) / 1.05)
        colours = images.class_colours(class_maps(examples, panels), dataset, 7 * columns)
        images.legend(self.axes(GAP, top, right - GAP, 1), images.patches(colours), columns)


def edge(ax: plt.Axes) -> None:
    """Draw a thin line around an image, so that white in it does not run into the page."""
    ax.set_axis_on()
    ax.set(xticks=[], yticks=[])
    ax.spines[:].set(color="0.5", linewidth=0.4)


def outline_style(better: bool) -> dict:
    """Style the outline of a region: blue where OVeNet repairs more of it than it degrades, else orange and dashed."""
    colour = np.divide(CHANGE_COLOURS["repaired" if better else "degraded"], 255)
    return {"edgecolor": colour, "linestyle": "-" if better else (0, (4, 1.5)), "linewidth": 1}


def outline(ax: plt.Axes, corner: tuple[float, float], width: float, height: float, **style) -> None:
    """Outline a rectangle, with a white rim that shows on any colour."""
    for line in ({"edgecolor": "white", "linewidth": style["linewidth"] + 1}, style):
        ax.add_patch(plt.Rectangle(corner, width, height, fill=False, zorder=5, **line))


def comparison(
    examples: Sequence[Example],
    dataset: SegmentationDataset,
    names: tuple[str, str] = ("HRNet", "OVeNet"),
    columns: Sequence[Sequence[str]] = PANELS["comparison"],
) -> plt.Figure:
    """Draw examples below each other, each with its caption and the same regions outlined in all panels; legends.

    Outlined are the largest regions that changed from the baseline to S_f or, with a panel "wrong", the largest where
    S_f is wrong: in blue where more pixels were repaired than degraded, else in orange. A `DataError` without examples.
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
            stretched = (-0.5, label.shape[1] - 0.5, label.shape[0] - 0.5, -0.5)  # so that regions fit all panels
            page.text(top, example.caption)
            top += LINE
            for row in columns:
                top += LINE * (example is examples[0])
                for position, panel in enumerate(row):
                    ax = page.axes(gap + position * (side + gap), top, side, side * ratio)
                    ax.imshow(panel_image(panel, example, dataset, longest), extent=stretched)
                    ax.set_title(titles.get(panel, panel) if example is examples[0] else "")
                    edge(ax)
                    for left, upper, *size in outlined:
                        style = outline_style(improves((left, upper, *size), label, before, after))
                        outline(ax, (left - 0.5, upper - 0.5), *size, **style)
                top += side * ratio + GAP
        page.legends(top + 0.03, examples, dataset, panels, longest)
    return page.figure


def save(figure: plt.Figure, folder: str | Path, name: str) -> list[Path]:
    """Write a figure to `name.png`, at 300 dots per inch, and `name.pdf`, with text as text; return both paths."""
    Path(folder).mkdir(parents=True, exist_ok=True)
    paths = {Path(folder, f"{name}.png"): {}, Path(folder, f"{name}.pdf"): {"CreationDate": None}}
    with plt.rc_context(PAGE_STYLE):
        for path, metadata in paths.items():
            write = partial(figure.savefig, format=path.suffix[1:], dpi=300, metadata=metadata)
            write_atomically(path, write, mode="wb")
    return list(paths)


def file_names(dataset: str) -> dict[str, str]:
    """Name the file of each figure, with the paper's number if the paper has this figure of the dataset."""
    numbers = DATASETS[dataset].paper_figures if dataset in DATASETS else ()
    numbered = {name: f"figure{number}_{name}" for name, number in zip(PANELS, numbers, strict=False)}
    return {"network": "figure1_2", **{name: name for name in PANELS}, **numbered}
