"""Images of labels, offsets, confidence and what fusion changed.

Images are RGB, uint8 [height, width, 3]; labels are train ids, integer [height, width]. A function with an argument
`ax` draws into it; the others return an image or a figure.
"""

from collections.abc import Mapping, Sequence
from itertools import zip_longest

import matplotlib.pyplot as plt
import numpy as np
import seaborn as sns
import torch
from jaxtyping import Bool, Float, Integer, UInt8
from matplotlib.patches import Patch
from torch import Tensor
from torchvision.utils import flow_to_image

from ovenet_core.cross_entropy import IGNORE_INDEX
from ovenet_core.data import SegmentationDataset
from ovenet_core.evaluation import label_boundary
from ovenet_core.resampling import resample
from ovenet_core.utils import ConfigError

ImageArray = UInt8[np.ndarray, "height width 3"]
Label = Integer[np.ndarray, "height width"] | Integer[Tensor, "height width"]
Codes = Integer[np.ndarray, "height width"]
Offsets = Float[Tensor, "2 rows columns"]
Confidence = Float[Tensor, "1 rows columns"] | Float[Tensor, "rows columns"]
Pixels = Integer[np.ndarray, "n 2"]  # (u, v): column, row
Colours = Mapping[str, Sequence[int]]  # RGB by name

TITLES = {"S_i": "initial $S_i$", "S_s": "seed-based $S_s$", "S_f": "fused $S_f$"}

BLUE, ORANGE, GREEN, _, PURPLE = sns.color_palette("colorblind", 5)

# What changed at a pixel, and which of two predictions is wrong. The position of a name is its code in `change_map`
# and `error_map`. The colours can be told apart with any colour vision.
CHANGE_COLOURS = {"unchanged": (242, 242, 242), "repaired": (0, 114, 178), "degraded": (213, 94, 0)}
CHANGE_COLOURS |= {"other error": (240, 200, 60), "ignored": (150, 150, 150)}
ERROR_NAMES = ("both right", "baseline alone wrong", "OVeNet alone wrong", "both wrong", "ignored")
ERROR_COLOURS = dict(zip(ERROR_NAMES, CHANGE_COLOURS.values(), strict=True))


def array(values: np.ndarray | Tensor) -> np.ndarray:
    """Return an array; a tensor may lie on any device."""
    return values.numpy(force=True) if isinstance(values, Tensor) else values


def label_image(label: Label, dataset: SegmentationDataset) -> ImageArray:
    """Colour train ids in the dataset's colours; ignored pixels are black."""
    colours = np.zeros((256, 3), np.uint8)
    colours[: len(dataset.colours)] = dataset.colours
    return colours[array(label)]


def overlay(image: ImageArray, label: Label, dataset: SegmentationDataset, alpha: float = 0.5) -> ImageArray:
    """Blend an image with `alpha` (0 to 1) of the class colours of its label; ignored pixels stay as they are."""
    blended = ((1 - alpha) * image + alpha * label_image(label, dataset)).astype(np.uint8)
    return np.where(array(label)[..., None] == IGNORE_INDEX, image, blended)


def error_map(label: Label, before: Label, after: Label) -> Codes:
    """Code which of two predictions is wrong at each pixel, as the position of a name in `ERROR_COLOURS`."""
    label, before, after = map(array, (label, before, after))
    return np.where(label == IGNORE_INDEX, 4, (before != label) + 2 * (after != label))


def change_map(label: Label, before: Label, after: Label) -> Codes:
    """Code what changed at each pixel from one prediction to the next, as the position in `CHANGE_COLOURS`."""
    errors = error_map(label, before, after)
    return np.where((errors == 3) & (array(before) == array(after)), 0, errors)


def code_image(codes: Codes) -> ImageArray:
    """Colour the codes of `change_map` or `error_map`."""
    return np.array(list(CHANGE_COLOURS.values()), np.uint8)[codes]


def isotropic(offsets: Offsets) -> Float[Tensor, "2 rows columns"]:
    """Convert offsets to one unit along both axes, half the image's width; angles are then as in the image."""
    height, width = offsets.shape[-2:]
    dx, dy = offsets.detach().float().cpu()
    return torch.stack([dx, dy * ((height - 1) / max(width - 1, 1))])


def reference_length(offsets: Sequence | Tensor) -> float:
    """Return a reference length for `offset_image`: 98% of all vectors of these fields are no longer."""
    lengths = torch.cat([isotropic(field).norm(dim=0).flatten() for field in offsets])
    return max(float(np.quantile(lengths.numpy(), 0.98)), 0.01)  # a field of nearly zero must look white


def offset_image(offsets: Offsets, longest: float = 0.5) -> ImageArray:
    """Draw an offset field in the flow colours of Baker et al.: hue is direction, white is zero, longer is stronger.

    Strength grows as the square root of the length, so that short offsets can be seen next to long ones on roads.
    Offsets are (dx, dy) in normalised image coordinates. Those of length `longest` or more, in halves of the image's
    width, have full colour; 0.5, the paper's tau, is a quarter of the width. A `longest` <= 0 is a `ConfigError`.
    """
    if longest <= 0:
        raise ConfigError("longest", longest, "more than 0", "give tau or reference_length(offsets)")
    vectors = isotropic(offsets)
    lengths = vectors.norm(dim=0)
    vectors = torch.where(lengths > 0, vectors / lengths * (longest * lengths).sqrt().clamp_max(longest), 0)
    # flow_to_image scales by the longest vector it finds: add one of the reference length, and cut that off.
    ruler = torch.tensor([longest, 0.0]).view(2, 1, 1).expand(2, vectors.shape[1], 1)
    return flow_to_image(torch.cat([vectors, ruler], dim=2))[..., :-1].permute(1, 2, 0).numpy()


def confidence_image(confidence: Confidence) -> ImageArray:
    """Draw the confidence F in [0, 1], from dark (S_i decides) to bright (S_s decides)."""
    values = array(confidence.float()).reshape(confidence.shape[-2:])
    return plt.get_cmap("viridis")(values, bytes=True)[..., :3]


def farthest_points(mask: Bool[np.ndarray, "height width"], count: int, seed: int = 0) -> Pixels:
    """Choose at most `count` pixels of the mask, evenly spread: each is the farthest from those before it."""
    pixels, chosen = np.argwhere(mask)[:, ::-1], []
    distances = np.full(len(pixels), np.inf)
    while len(chosen) < min(count, len(pixels)):
        chosen.append(distances.argmax() if chosen else np.random.default_rng(seed).integers(len(pixels)))
        distances = np.minimum(distances, ((pixels - pixels[chosen[-1]]) ** 2).sum(axis=1))
    return pixels[chosen]


def seed_pixels(offsets: Offsets, pixels: Pixels, height: int, width: int) -> Float[np.ndarray, "n 2"]:
    """Return the seed p + o(p) of each pixel (u, v) of a height x width image, inside it; o is read bilinearly."""
    half = torch.tensor([width - 1, height - 1]) / 2
    positions = torch.from_numpy(np.ascontiguousarray(pixels)) / half - 1
    vectors = resample(offsets.detach().float().cpu()[None], positions.view(1, 1, -1, 2)).view(2, -1).T
    return (((positions + vectors).clamp(-1, 1) + 1) * half).numpy()


def seed_arrows(
    ax: plt.Axes, image: ImageArray, offsets: Offsets, pixels: Pixels, size: float = 5, label: Label | None = None
) -> None:
    """Draw the image, a dot of `size` points on each of the pixels and an arrow from the pixel to its seed.

    With a label of the image's size, class boundaries are pale lines.
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


def legend(ax: plt.Axes, handles: Sequence[Patch], columns: int = 1, **options) -> None:
    """Draw a legend at the top left of `ax`, which shows nothing else."""
    ax.set_axis_off()
    box = ax.legend(handles=handles, ncols=columns, loc="upper left", borderaxespad=0, frameon=False, **options)
    box.set_in_layout(False)  # a long legend may reach beyond its axes without squeezing the images


def patches(colours: Colours) -> list[Patch]:
    """Make the handles of a legend of named colours."""
    return [Patch(facecolor=np.divide(c, 255), edgecolor="0.4", label=name) for name, c in colours.items()]


def offset_wheel(ax: plt.Axes, longest: float = 0.5) -> None:
    """Draw the legend of `offset_image`: each place has the colour of an offset that points there from the centre."""
    y, x = torch.meshgrid(*[torch.linspace(-1, 1, 201)] * 2, indexing="ij")
    wheel = offset_image(torch.stack([x, y]) * longest, longest)
    inside = (x**2 + y**2 <= 1).numpy()
    ax.imshow(np.dstack([wheel, 255 * inside.astype(np.uint8)]), extent=(-1, 1, 1, -1))
    ax.plot(0, 0, marker="+", color="black")
    ax.set_axis_off()
    text = f"towards the seed;\nrim: {50 * longest:.2g}% of width,\nhalf as strong: {12.5 * longest:.2g}%"
    ax.set_title(text, y=-0.05, va="top", size="small")


def confidence_bar(ax: plt.Axes) -> None:
    """Draw the legend of `confidence_image` inside `ax`."""
    ax.set_axis_off()
    colours = plt.cm.ScalarMappable(plt.Normalize(0, 1), "viridis")
    bar = ax.figure.colorbar(colours, cax=ax.inset_axes((0.05, 0.75, 0.9, 0.14)), orientation="horizontal")
    bar.set_ticks([0, 0.5, 1], labels=["0\n$S_i$", "0.5", "1\n$S_s$"])


def class_colours(labels: Sequence, dataset: SegmentationDataset, most: int = 256) -> Colours:
    """Return colours of the classes with 1/2000 of the pixels, a bound that doubles until at most `most` are left."""
    counts = np.sum([np.bincount(array(label).ravel(), minlength=256) for label in labels], axis=0)
    ignored = {"ignored": (0, 0, 0)} if counts[IGNORE_INDEX] else {}
    total, counts[IGNORE_INDEX] = counts.sum(), 0
    choices = (np.flatnonzero(counts >= 5e-4 * 2**step * total) for step in range(12))
    present = next(ids for ids in choices if len(ids) + len(ignored) <= most)
    return {dataset.class_names[c]: dataset.colours[c] for c in present} | ignored


def show(ax: plt.Axes, image: ImageArray, title: str = "") -> None:
    """Show an image without ticks or frame."""
    ax.imshow(image)
    ax.set_title(title)
    ax.set_axis_off()


def gallery(images: Sequence, columns: int = 4, colours: Colours | None = None) -> plt.Figure:
    """Draw images of any sizes in rows of `columns`; with named colours, their legend below."""
    columns = min(columns, len(images))
    ratios = [image.shape[0] / image.shape[1] for image in images]
    heights = [max(ratios[start : start + columns]) for start in range(0, len(images), columns)]
    figure = plt.figure(figsize=(15, 15 / columns * sum(heights) + 0.4 * bool(colours)), layout="constrained")
    axes = figure.subplots(len(heights), columns, squeeze=False, height_ratios=heights).ravel()
    for ax, image in zip_longest(axes, images):
        ax.set_axis_off() if image is None else show(ax, array(image))
    if colours:
        figure.legend(handles=patches(colours), loc="outside lower center", ncols=8, frameon=False)
    return figure
