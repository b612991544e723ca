"""Figures of images, offsets, curves and the method."""

from ovenet_core.figures.curves import LINES, class_shares, training_curves
from ovenet_core.figures.images import (
    TITLES,
    boundary_pixels,
    class_colours,
    farthest_points,
    gallery,
    image_table,
    label_image,
    legend,
    overlay,
    prediction_grid,
    seed_arrows,
)
from ovenet_core.figures.model_pair import open_pair
from ovenet_core.figures.network_figure import around, network_figure, within
from ovenet_core.figures.offset_plots import bounds, calibration, directions, lengths, repairs
from ovenet_core.figures.qualitative import COMPARISON, FAILURES, MORE, comparison, file_names, save
from ovenet_core.figures.selection import captions, failures, regions, spread

__all__ = [
    "COMPARISON",
    "FAILURES",
    "LINES",
    "MORE",
    "TITLES",
    "around",
    "boundary_pixels",
    "bounds",
    "calibration",
    "captions",
    "class_colours",
    "class_shares",
    "comparison",
    "directions",
    "failures",
    "farthest_points",
    "file_names",
    "gallery",
    "image_table",
    "label_image",
    "legend",
    "lengths",
    "network_figure",
    "open_pair",
    "overlay",
    "prediction_grid",
    "regions",
    "repairs",
    "save",
    "seed_arrows",
    "spread",
    "training_curves",
    "within",
]
