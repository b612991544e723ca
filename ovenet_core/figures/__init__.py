"""Figures: images of predictions, offsets and confidence, curves, and the figures of the paper.

This room draws what the others compute; only notebooks and the command line use it.
"""

from .curves import LINES, class_shares, forest_plot, training_curves
from .images import TITLES, class_colours, farthest_points, gallery, label_image, overlay, seed_arrows
from .model_pair import Example, open_pair, predict_example
from .network_figure import network_figure
from .offset_plots import bounds, calibration, directions, lengths, repairs
from .qualitative import PANELS, comparison, file_names, prediction_grid, save, show_predictions
from .selection import around, captions, failures, regions, spread, within

# fmt: off
__all__ = [
    "LINES", "PANELS", "TITLES", "Example", "around", "bounds", "calibration", "captions", "class_colours",
    "class_shares", "comparison", "directions", "failures", "farthest_points", "file_names", "forest_plot", "gallery",
    "label_image", "lengths", "network_figure", "open_pair", "overlay", "predict_example", "prediction_grid", "regions",
    "repairs", "save", "seed_arrows", "show_predictions", "spread", "training_curves", "within",
]
# fmt: on
