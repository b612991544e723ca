"""Images of labels, offsets, confidence, of what fusion changed, and of a run's history.

Images are RGB, uint8 [height, width, 3]; labels are train ids, integer [height, width]. Functions that take
`ax` draw into it, those that draw a whole figure return it.
"""

from collections.abc import Mapping, Sequence
from itertools import chain

import matplotlib.pyplot as plt
import numpy as np
import seaborn as sns
import torch
from jaxtyping import Bool, Float, Integer, UInt8
from matplotlib.axes import Axes
from matplotlib.colors import Normalize
from matplotlib.figure import Figure
from matplotlib.patches import Patch
from torch import Tensor
from torchvision.utils import draw_segmentation_masks, flow_to_image, make_grid

from ovenet_core.cross_entropy import IGNORE_INDEX
from ovenet_core.data import SegmentationDataset
from ovenet_core.evaluation import label_boundary
from ovenet_core.resampling import resample

ImageArray = UInt8[np.ndarray, "height width 3"]
Label = Integer[np.ndarray, "height width"] | Integer[Tensor, "height width"]
Offsets = Float[Tensor, "2 rows columns"]
Confidence = Float[Tensor, "1 rows columns"] | Float[Tensor, "rows columns"]
Pixels = Integer[np.ndarray, "n 2"]  # (u, v): column, row
Batch = Sequence | np.ndarray | Tensor  # one entry per image

TITLES = {"S_i": "initial $S_i$", "S_s": "seed-based $S_s$", "S_f": "fused $S_f$"}

BLUE, ORANGE, GREEN, _, PURPLE = sns.color_palette("colorblind", 5)

# What fusion did to a pixel; its place here is its code in `repair_map`. Told apart with any colour vision.
REPAIRS = {
    "unchanged": (242, 242, 242),
    "repaired": (0, 114, 178),
    "degraded": (213, 94, 0),
    "other error": (240, 200, 60),
    "ignored": (150, 150, 150),
}


def array(values: np.ndarray | Tensor) -> np.ndarray:
    """An array, from wherever a tensor lies."""
    return values.numpy(force=True) if isinstance(values, Tensor) else values


def label_image(label: Label, benchmark: SegmentationDataset) -> ImageArray:
    """Train ids in the benchmark's colours; ignored pixels are black."""
    colours = np.zeros((256, 3), np.uint8)
    colours[: len(benchmark.colours)] = benchmark.colours
    return colours[array(label)]


def overlay(image: ImageArray, label: Label, benchmark: SegmentationDataset, alpha: float = 0.5) -> ImageArray:
    """The blended with class colours laid over it; ignored pixels stay as they are.

    Args:
        alpha: share of the class colour, from 0 (the blended alone) to 1 (the colours alone).
    """
    label = torch.as_tensor(array(label))
    classes = [c for c in label.unique().tolist() if c != IGNORE_INDEX]
    if not classes:
        return image.copy()
    masks = torch.stack([label == c for c in classes])
    colours = [tuple(benchmark.colours[c]) for c in classes]
    blended = draw_segmentation_masks(torch.tensor(image).permute(2, 0, 1), masks, alpha, colours)
    return blended.permute(1, 2, 0).numpy()


def gallery(images: Batch, columns: int = 4, colours: Mapping[str, Sequence[int]] | None = None) -> Figure:
    """Images of one size, side by side in rows of `columns`; with named colours, their legend below."""
    batch = torch.stack([torch.as_tensor(array(p)).permute(2, 0, 1) for p in images])
    grid = make_grid(batch, nrow=columns, padding=max(batch.shape[-1] // 50, 1), pad_value=255)
    figure, ax = plt.subplots(figsize=(15, 15 * grid.shape[1] / grid.shape[2]), layout="constrained")
    show(ax, grid.permute(1, 2, 0).numpy())
    if colours:
        figure.legend(handles=patches(colours), loc="outside lower center", ncols=8, frameon=False)
    return figure


def show(ax: Axes, image: ImageArray, title: str = "") -> None:
    """An image without ticks or frame."""
    ax.imshow(image)
    ax.set_title(title)
    ax.set_axis_off()


def isotropic(offsets: Offsets) -> Float[Tensor, "2 rows columns"]:
    """Offsets in one unit along both axes, half the image's width: angles are those that one sees."""
    height, width = offsets.shape[-2:]
    dx, dy = offsets.detach().float().cpu()
    return torch.stack([dx, dy * ((height - 1) / max(width - 1, 1))])


def reference_length(offsets: Batch, share: float = 0.98) -> float:
    """A reference length for `offset_image`: `share` of all vectors of these fields are no longer."""
    lengths = torch.cat([isotropic(field).norm(dim=0).flatten() for field in offsets])
    return max(float(np.quantile(lengths.numpy(), share)), 0.01)  # an all but zero field shall look white


def offset_image(offsets: Offsets, longest: float = 0.5) -> ImageArray:
    """An offset field in the flow colours of Baker et al.: hue is direction, white zero, longer is stronger.

    Strength grows as the square root of the length, so that short offsets are seen beside those of roads.

    Args:
        offsets: (dx, dy) in normalised image coordinates.
        longest: vectors of this length or more have full colour. In halves of the image's width: 0.5, the
            paper's tau, is a quarter of the width. Images with the same `longest` are comparable.
    """
    if longest <= 0:
        raise ValueError(f"longest is {longest}; expected more than 0, such as tau or usual_length(offsets)")
    vectors = isotropic(offsets)
    lengths = vectors.norm(dim=0)
    vectors = torch.where(lengths > 0, vectors / lengths * (longest * lengths).sqrt().clamp_max(longest), 0)
    # flow_to_image scales by the longest vector it finds: add one of the reference length, and cut that off.
    ruler = torch.tensor([longest, 0.0]).view(2, 1, 1).expand(2, vectors.shape[1], 1)
    return flow_to_image(torch.cat([vectors, ruler], dim=2))[..., :-1].permute(1, 2, 0).numpy()


def offset_wheel(ax: Axes, longest: float = 0.5) -> None:
    """The legend of `offset_image`: the colour of an offset that points from the centre to that place."""
    y, x = torch.meshgrid(*[torch.linspace(-1, 1, 201)] * 2, indexing="ij")
    wheel = offset_image(torch.stack([x, y]) * longest, longest)
    inside = (x**2 + y**2 <= 1).numpy()
    ax.imshow(np.dstack([wheel, 255 * inside.astype(np.uint8)]), extent=(-1, 1, 1, -1))
    ax.plot(0, 0, marker="+", color="black")
    ax.set_axis_off()
    text = f"towards the seed;\nrim: {50 * longest:.2g}% of width,\nhalf as strong: {12.5 * longest:.2g}%"
    ax.set_title(text, y=-0.05, va="top", size="small")


def confidence_image(confidence: Confidence) -> ImageArray:
    """Confidence F in [0, 1], from dark (S_i decides) to bright (S_s decides)."""
    values = array(confidence.float()).reshape(confidence.shape[-2:])
    return plt.get_cmap("viridis")(values, bytes=True)[..., :3]


def confidence_bar(ax: Axes) -> None:
    """The legend of `confidence_image`, inside `ax`."""
    ax.set_axis_off()
    colours = plt.cm.ScalarMappable(Normalize(0, 1), "viridis")
    bar = ax.figure.colorbar(colours, cax=ax.inset_axes((0.05, 0.75, 0.9, 0.14)), orientation="horizontal")
    bar.set_ticks([0, 0.5, 1], labels=["0\n$S_i$", "0.5", "1\n$S_s$"])


def change_map(label: Label, initial: Label, fused: Label) -> Integer[np.ndarray, "height width"]:
    """What fusion did to each pixel, as the place of its name in `REPAIRS`."""
    label, initial, fused = map(array, (label, initial, fused))
    was, now, kinds = initial == label, fused == label, list(REPAIRS)
    cases = {
        "ignored": label == IGNORE_INDEX,
        "repaired": ~was & now,
        "degraded": was & ~now,
        "other error": ~was & ~now & (initial != fused),
    }
    return np.select(list(cases.values()), [kinds.index(kind) for kind in cases], kinds.index("unchanged"))


def change_image(label: Label, initial: Label, fused: Label) -> ImageArray:
    """What fusion did to each pixel, in the colours of `REPAIRS`."""
    return np.array(list(REPAIRS.values()), np.uint8)[change_map(label, initial, fused)]


def patches(colours: Mapping[str, Sequence[int]]) -> list[Patch]:
    """What a legend shows of named RGB colours."""
    return [Patch(facecolor=np.divide(c, 255), edgecolor="0.4", label=name) for name, c in colours.items()]


def legend(ax: Axes, colours: Mapping[str, Sequence[int]], columns: int = 1, **options) -> None:
    """A legend of named RGB colours at the top left of `ax`, which shows nothing else."""
    ax.set_axis_off()
    place = {"loc": "upper left", "borderaxespad": 0, "frameon": False}
    box = ax.legend(handles=patches(colours), ncols=columns, **place, **options)
    box.set_in_layout(False)  # a long legend may reach beyond its axes without squeezing the images


def change_legend(ax: Axes) -> None:
    """The legend of `repair_image`."""
    legend(ax, REPAIRS, handlelength=1)


def class_colours(labels: Sequence, benchmark: SegmentationDataset, share: float = 5e-4) -> dict[str, Sequence[int]]:
    """Names and colours of the classes that cover at least `share` of the labels, in order of train id."""
    counts = np.sum([np.bincount(array(label).ravel(), minlength=256) for label in labels], axis=0)
    present = [c for c in np.flatnonzero(counts >= share * counts.sum()) if c != IGNORE_INDEX]
    named = {benchmark.class_names[c]: benchmark.colours[c] for c in present}
    return named | ({"ignored": (0, 0, 0)} if counts[IGNORE_INDEX] else {})


def farthest_points(mask: Bool[np.ndarray, "height width"], count: int, seed: int = 0) -> Pixels:
    """At most `count` pixels of the mask, evenly spread: each the farthest from those before it."""
    pixels = np.argwhere(mask)[:, ::-1]
    if len(pixels) == 0 or count <= 0:
        return np.zeros((0, 2), int)
    chosen = [np.random.default_rng(seed).integers(len(pixels))]
    distances = np.full(len(pixels), np.inf)
    while len(chosen) < min(count, len(pixels)):
        distances = np.minimum(distances, ((pixels - pixels[chosen[-1]]) ** 2).sum(axis=1))
        chosen.append(distances.argmax())
    return pixels[chosen]


def boundary_pixels(label: Label, count: int, seed: int = 0) -> Pixels:
    """At most `count` pixels at class boundaries, evenly spread over the image."""
    return farthest_points(label_boundary(array(label)), count, seed)


def seed_pixels(offsets: Offsets, pixels: Pixels, height: int, width: int) -> Float[np.ndarray, "n 2"]:
    """The seed p + o(p), a place (u, v) inside the image, of each pixel of a height x width image.

    The field may be smaller than the image; it is read between its vectors, bilinearly.
    """
    half = torch.tensor([width - 1, height - 1]) / 2
    positions = torch.from_numpy(np.ascontiguousarray(pixels)) / half - 1
    field = offsets.detach().float().cpu()[None]
    vectors = resample(field, positions.view(1, 1, -1, 2)).view(2, -1).T
    return (((positions + vectors).clamp(-1, 1) + 1) * half).numpy()


def seed_arrows(
    ax: Axes, image: ImageArray, offsets: Offsets, pixels: Pixels, size: float = 5, label: Label | None = None
) -> None:
    """The image, with a dot (of that size in points) on each of the pixels and an arrow from it to its seed pixel.

    With a label, of the image's size, its boundaries are lines.
    """
    show(ax, image)
    if label is not None:
        edges = np.zeros((*image.shape[:2], 4), np.uint8)
        edges[label_boundary(array(label))] = (255, 255, 255, 150)
        ax.imshow(edges)
    dot = {"markersize": size, "markerfacecolor": "#f0c83c", "markeredgecolor": "black", "markeredgewidth": size / 5}
    ax.plot(*pixels.T, "o", **dot)
    steps = seed_pixels(offsets, pixels, *image.shape[:2]) - pixels
    thick = {"width": 0.004, "headwidth": 4, "headlength": 4, "headaxislength": 4}
    rim = {"facecolor": "white", "edgecolor": "black", "linewidth": 0.16 * size, "zorder": 3}
    ax.quiver(*pixels.T, *steps.T, angles="xy", scale_units="xy", scale=1, **thick, **rim)


def prediction_grid(
    images: Batch,
    labels: Batch,
    maps: Mapping[str, Batch],
    benchmark: SegmentationDataset,
    offsets: Batch | None = None,
    confidence: Batch | None = None,
    longest: float | None = None,
) -> Figure:
    """One row per image: input, label, predicted classes, offsets, confidence, what fusion did; legends.

    Args:
        images, labels: the images and their true train ids, at any size.
        maps: predicted train ids per image, by the paper's names "S_i", "S_s", "S_f", or some of these.
        offsets: [batch, 2, h, w] as the network returns them; None for a network without.
        confidence: [batch, 1, h, w].
        longest: the length with full colour (`offset_image`); by default the usual one in these images.
    """
    columns = {"input": [array(image) for image in images]}
    columns["label"] = [label_image(label, benchmark) for label in labels]
    for name in (name for name in TITLES if name in maps):
        columns[TITLES[name]] = [label_image(classes, benchmark) for classes in maps[name]]
    classes, wide = class_colours([*labels, *chain(*maps.values())], benchmark), len(columns)
    legends = {"input": lambda ax: legend(ax, classes, wide)}
    if offsets is not None:
        longest = longest or reference_length(offsets)
        columns["offsets $o$"] = [offset_image(field, longest) for field in offsets]
        legends["offsets $o$"] = lambda ax: offset_wheel(ax, longest)
    if confidence is not None:
        columns["confidence $F$"] = [confidence_image(f) for f in confidence]
        legends["confidence $F$"] = confidence_bar
    if {"S_i", "S_f"} <= maps.keys():
        triples = zip(labels, maps["S_i"], maps["S_f"], strict=True)
        columns["what fusion did"] = [change_image(*t) for t in triples]
        legends["what fusion did"] = change_legend
    return image_table(columns, legends, 0.4 * max(-(-len(classes) // wide), 5))


def image_table(columns: Mapping[str, Sequence], legends: Mapping, legend_height: float) -> Figure:
    """Named columns of images, one row for each image, with a legend (inches high) below some columns."""
    shapes, side = [image.shape for image in columns["input"]], max(2.6, 15 / len(columns))
    heights = [side * height / width for height, width, _ in shapes] + [legend_height]
    with sns.plotting_context("talk"):
        figure = plt.figure(figsize=(side * len(columns), sum(heights) + 0.5), layout="constrained")
        axes = figure.subplots(len(heights), len(columns), squeeze=False, height_ratios=heights)
        for place, (title, images) in enumerate(columns.items()):
            for row, image in enumerate(images):
                show(axes[row, place], image, title if row == 0 else "")
            legends.get(title, Axes.set_axis_off)(axes[-1, place])
    return figure
