"""The diagram of the method in the README, after Figure 2 of the paper.

    python -m ovenet_core.figures.method_diagram results/figures/ovenet_overview.png

Its images illustrate, they are no network's output. The logits are the true classes of a generated scene, blurred and
displaced, and the offsets point away from the true boundaries. Resampling and fusion are the real ones.
"""

import sys
from collections.abc import Mapping
from pathlib import Path

import cv2
import matplotlib.pyplot as plt
import numpy as np
import torch

from ovenet_core.data import CITYSCAPES, draw_scene
from ovenet_core.evaluation import distance_to
from ovenet_core.figures import images
from ovenet_core.figures.network_figure import EDGE, Box, Layout, diagram
from ovenet_core.fusion import fuse
from ovenet_core.resampling import labels_at_seeds, resample, seed_positions

HEIGHT, WIDTH = 192, 320  # of the scene, in pixels
OVERVIEW_STYLE = {"font.size": 16.5, "axes.titlesize": 16.5, "legend.fontsize": 13}  # sizes in points
OVERVIEW_STYLE |= {"lines.linewidth": 2, "patch.linewidth": 1.5}
ROWS, COLUMNS, LOGITS, PATHS = (5.75, 3.6, 1.35), (1.25, 8.3, 16.3), (8.3, 12.32, 13.6), (12.85, 12.25, 12.25)
BOXES = Box(3.5, 1.4, 1.4), Box(5.7, 1.5, 1), Box(10.8, 1.9, 1), Box(11.85, 2.4, 1)
TEXTS = "shared\nbackbone\n(HRNet)", "resample\n$C(p + o(p))$"
OVERVIEW = Layout(ROWS, (2.3, 1.38), COLUMNS, BOXES, LOGITS, PATHS, TEXTS, titles_above=False)


def overview(panels: Mapping[str, images.ImageArray]) -> plt.Figure:
    """Draw the method with the images of `illustration` in it."""
    with plt.rc_context(OVERVIEW_STYLE):
        figure = plt.figure(figsize=(17.55, 6.75))
        ax = figure.add_axes((0, 0, 1, 1))
        diagram(ax, OVERVIEW, panels)
        for x, y, text in zip(LOGITS, ROWS, ("$C$", "$C_s$", "$C_f$"), strict=True):
            for shift in (-0.3, -0.38, -0.46):  # a stack of planes, one per class
                ax.add_patch(plt.Rectangle((x + shift, y + shift + 0.1), 0.76, 0.56, facecolor="white", **EDGE))
            ax.text(x - 0.08, y - 0.08, text, ha="center", va="center", fontsize=20, zorder=4)
        ax.set(xlim=(0, 17.55), ylim=(0, 6.75))
        ax.set_axis_off()
    return figure


def illustration(seed: int = 12) -> dict[str, images.ImageArray]:
    """Draw the input, o, F, S_i, S_s and S_f of a generated street scene."""
    rng, scene = np.random.default_rng(seed), draw_scene(seed, HEIGHT, WIDTH)
    label = CITYSCAPES.lookup[scene.label_ids]
    u, v = np.meshgrid(np.arange(WIDTH, dtype=np.float32), np.arange(HEIGHT, dtype=np.float32))
    displaced = u + 2.2 * noise(rng, 6.0), v + 2.2 * noise(rng, 6.0)
    planes = [cv2.remap((label == c).astype(np.float32), *displaced, cv2.INTER_LINEAR) for c in range(19)]
    initial = torch.from_numpy(np.stack([cv2.GaussianBlur(plane, (0, 0), 2) for plane in planes]))[None]
    scale = np.array([2 / (WIDTH - 1), 2 / (HEIGHT - 1)]).reshape(2, 1, 1)
    offsets = torch.from_numpy((away_from_boundaries(label) * scale).astype(np.float32))[None]
    truth = torch.from_numpy(label)[None]
    agree = (labels_at_seeds(truth, offsets) == truth).float()[0].numpy()
    confidence = torch.from_numpy(cv2.GaussianBlur(0.05 + 0.9 * agree, (0, 0), 2))[None, None]
    seed_based = resample(initial, seed_positions(offsets))
    scores = {"S_i": initial, "S_s": seed_based, "S_f": fuse(initial, seed_based, confidence)}
    panels = {name: images.label_image(score[0].argmax(0), CITYSCAPES) for name, score in scores.items()}
    panels["offsets"] = images.offset_image(offsets[0], images.reference_length(offsets))
    return panels | {"input": scene.image, "confidence": images.confidence_image(confidence[0])}


def away_from_boundaries(label: np.ndarray, reach: float = 9.0) -> np.ndarray:
    """Return vectors (du, dv) in pixels, [2, HEIGHT, WIDTH], from within `reach` of a boundary into the segment."""
    distance = np.max([distance_to(label != c) for c in np.unique(label)], axis=0)
    dv, du = np.gradient(cv2.GaussianBlur(distance, (0, 0), 1.5))
    length = np.maximum(reach - distance, 0) / np.maximum(np.hypot(du, dv), 0.3)
    return np.stack([cv2.GaussianBlur(d * length, (0, 0), 1.2) for d in (du, dv)])


def noise(rng: np.random.Generator, sigma: float) -> np.ndarray:
    """Return a smooth random field of deviation 1, [HEIGHT, WIDTH]."""
    field = cv2.GaussianBlur(rng.normal(size=(HEIGHT, WIDTH)).astype(np.float32), (0, 0), sigma)
    return field / field.std()


if __name__ == "__main__":
    path = Path(sys.argv[1])
    path.parent.mkdir(parents=True, exist_ok=True)
    overview(illustration()).savefig(path, dpi=110)
