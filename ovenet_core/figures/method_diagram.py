"""The image of the method in the README, drawn anew after Figure 2 of the paper.

    python -m ovenet_core.figures.method_diagram results/figures/ovenet_overview.png

The maps in it are an illustration, not a network's output: the logits are the true classes of a generated
scene, blurred and displaced as a network may do it, and the offsets point away from the true boundaries.
Resampling and fusion are the real ones.
"""

import sys
from collections.abc import Mapping
from pathlib import Path

import cv2
import matplotlib.pyplot as plt
import numpy as np
import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import FancyArrowPatch, FancyBboxPatch, Rectangle

from ovenet_core.data import CITYSCAPES, draw_scene
from ovenet_core.figures import images
from ovenet_core.fusion import fuse
from ovenet_core.resampling import labels_at_seeds, resample, seed_positions

HEIGHT, WIDTH = 192, 320  # of the scene, in pixels
BACKBONE, SEMANTIC, OFFSET, METHOD = "#dde1e8", "#cfe3f2", "#fbdcc4", "#d6ecdf"  # of the boxes
EDGE = {"edgecolor": "0.25", "zorder": 3}
STYLE = {"font.size": 16.5, "lines.linewidth": 2, "patch.linewidth": 1.5}  # of an image of this size, in points


def noise(rng: np.random.Generator, sigma: float) -> np.ndarray:
    """A smooth random field of deviation 1, [HEIGHT, WIDTH]."""
    field = cv2.GaussianBlur(rng.normal(size=(HEIGHT, WIDTH)).astype(np.float32), (0, 0), sigma)
    return field / field.std()


def away_from_boundaries(label: np.ndarray, reach: float = 9.0) -> np.ndarray:
    """Vectors (du, dv) in pixels, [2, HEIGHT, WIDTH], from within `reach` of a boundary into the segment."""
    inside = [cv2.distanceTransform((label == c).astype(np.uint8), cv2.DIST_L2, 5) for c in np.unique(label)]
    distance = np.max(inside, axis=0)
    dv, du = np.gradient(cv2.GaussianBlur(distance, (0, 0), 1.5))
    length = np.maximum(reach - distance, 0) / np.maximum(np.hypot(du, dv), 0.3)
    return np.stack([cv2.GaussianBlur(d * length, (0, 0), 1.2) for d in (du, dv)])


def illustration(seed: int = 12) -> dict[str, images.ImageArray]:
    """Images of the input, o, F, S_i, S_s and S_f on a generated street scene."""
    rng, scene = np.random.default_rng(seed), draw_scene(seed, HEIGHT, WIDTH)
    label = CITYSCAPES.lookup[scene.label_ids]
    u, v = np.meshgrid(np.arange(WIDTH, dtype=np.float32), np.arange(HEIGHT, dtype=np.float32))
    astray = u + 2.2 * noise(rng, 6.0), v + 2.2 * noise(rng, 6.0)
    planes = [cv2.remap((label == c).astype(np.float32), *astray, cv2.INTER_LINEAR) for c in range(19)]
    initial = torch.from_numpy(np.stack([cv2.GaussianBlur(plane, (0, 0), 2) for plane in planes]))[None]
    scale = np.array([2 / (WIDTH - 1), 2 / (HEIGHT - 1)]).reshape(2, 1, 1)
    offsets = torch.from_numpy((away_from_boundaries(label) * scale).astype(np.float32))[None]
    truth = torch.from_numpy(label)[None]
    agree = (labels_at_seeds(truth, offsets) == truth).float()[0].numpy()
    confidence = torch.from_numpy(cv2.GaussianBlur(0.05 + 0.9 * agree, (0, 0), 2))[None, None]
    seed_based = resample(initial, seed_positions(offsets))
    scores = {"S_i": initial, "S_s": seed_based, "S_f": fuse(initial, seed_based, confidence)}
    drawn = {name: images.label_image(s[0].argmax(0), CITYSCAPES) for name, s in scores.items()}
    drawn["o"] = images.offset_image(offsets[0], images.reference_length(offsets))
    return drawn | {"input": scene.image, "F": images.confidence_image(confidence[0])}


def box(ax: Axes, centre: tuple, size: tuple, text: str, colour: str) -> None:
    """A rounded box with text; places and sizes in inches, as in all that follows, lines as matplotlib's settings."""
    (x, y), (width, height) = centre, size
    shape = {"boxstyle": f"round,pad=0,rounding_size={0.06 * plt.rcParams['lines.linewidth']}", "facecolor": colour}
    ax.add_patch(FancyBboxPatch((x - width / 2, y - height / 2), width, height, **shape, **EDGE))
    ax.text(x, y, text, ha="center", va="center", linespacing=1.4, zorder=4)


def arrow(ax: Axes, *points: tuple) -> None:
    """An arrow through the points."""
    (x, y), line = zip(*points, strict=True), {"color": "0.25", "linewidth": plt.rcParams["lines.linewidth"]}
    ax.plot(x, y, solid_joinstyle="miter", zorder=1, **line)
    head = {"arrowstyle": "-|>", "mutation_scale": 11 * line["linewidth"], "shrinkA": 0, "shrinkB": 0}
    ax.add_patch(FancyArrowPatch(points[-2], points[-1], **head, **line, zorder=2))


def image_box(ax: Axes, centre: tuple, pixels: images.ImageArray, title: str, width: float = 2.3) -> None:
    """A framed image with its name below."""
    (x, y), height = centre, width * pixels.shape[0] / pixels.shape[1]
    ax.imshow(pixels, extent=(x - width / 2, x + width / 2, y - height / 2, y + height / 2), zorder=3)
    ax.add_patch(Rectangle((x - width / 2, y - height / 2), width, height, fill=False, **EDGE))
    ax.text(x, y - height / 2 - 0.09, title, ha="center", va="top")


def logits(ax: Axes, centre: tuple, text: str) -> None:
    """A stack of planes, one per class."""
    for shift in (0.16, 0.08, 0):
        corner = centre[0] - 0.46 + shift, centre[1] - 0.36 + shift
        ax.add_patch(Rectangle(corner, 0.76, 0.56, facecolor="white", **EDGE))
    ax.text(centre[0] - 0.08, centre[1] - 0.08, text, ha="center", va="center", fontsize=20, zorder=4)


def overview(panels: Mapping[str, images.ImageArray]) -> Figure:
    """The method with the images "input", "o", "F", "S_i", "S_s", "S_f" in it."""
    with plt.rc_context(STYLE):
        figure = plt.figure(figsize=(17.55, 6.75))
        ax = figure.add_axes((0, 0, 1, 1))
        rows = {"S_i": 5.75, "S_s": 3.6, "S_f": 1.35}
        heads(ax, panels, *rows.values())
        method(ax, *rows.values())
        for (name, y), what in zip(rows.items(), ("initial", "seed-based", "fused"), strict=True):
            image_box(ax, (16.3, y), panels[name], f"${name}$, {what}")
            ax.text(14.66, y + 0.1, "softmax", ha="center", va="bottom", fontsize=13)
        ax.set(xlim=(0, 17.55), ylim=(0, 6.75))
        ax.set_axis_off()
    return figure


def heads(ax: Axes, panels: Mapping[str, images.ImageArray], top: float, middle: float, bottom: float) -> None:
    """From the image to the offsets and the confidence."""
    centre, low = (top + middle) / 2 - 0.1, (middle + bottom) / 2
    arrow(ax, (2.3, centre), (2.8, centre))
    arrow(ax, (4.2, centre), (4.55, centre), (4.55, top), (4.95, top))
    arrow(ax, (4.55, centre), (4.55, low), (4.95, low))
    arrow(ax, (6.4, low), (6.75, low), (6.75, middle), (7.15, middle))
    arrow(ax, (6.75, low), (6.75, bottom), (7.15, bottom))
    image_box(ax, (1.25, centre), panels["input"], "input")
    box(ax, (3.5, centre), (1.4, 1.4), "shared\ntrunk\n(HRNet)", BACKBONE)
    box(ax, (5.7, top), (1.5, 1), "semantic\nhead", SEMANTIC)
    box(ax, (5.7, low), (1.5, 1), "offset\nhead", OFFSET)
    image_box(ax, (8.3, middle), panels["o"], "offsets $o$")
    image_box(ax, (8.3, bottom), panels["F"], "confidence $F$")


def method(ax: Axes, top: float, middle: float, bottom: float) -> None:
    """Equations 2 and 4: from the logits, the offsets and the confidence to the three predictions."""
    arrow(ax, (6.45, top), (15.15, top))
    arrow(ax, (9.45, middle), (9.85, middle))
    arrow(ax, (11, middle), (15.15, middle))
    arrow(ax, (9.45, bottom), (10.65, bottom))
    arrow(ax, (13, bottom), (15.15, bottom))
    arrow(ax, (10.8, top), (10.8, middle + 0.5))
    arrow(ax, (12.25, middle), (12.25, bottom + 0.5))
    ax.plot(12.85, middle, "s", color="white", markersize=14, zorder=1)  # C passes over C_s
    arrow(ax, (12.85, top), (12.85, bottom + 0.5))
    logits(ax, (8.3, top), "$C$")
    logits(ax, (12.32, middle), "$C_s$")
    logits(ax, (13.6, bottom), "$C_f$")
    box(ax, (10.8, middle), (1.9, 1), "resample\n$C(p + o(p))$", METHOD)
    box(ax, (11.85, bottom), (2.4, 1), "fuse\n$(1 - F)\\,C + F\\,C_s$", METHOD)


if __name__ == "__main__":
    path = Path(sys.argv[1])
    path.parent.mkdir(parents=True, exist_ok=True)
    overview(illustration()).savefig(path, dpi=110)
