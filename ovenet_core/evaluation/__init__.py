"""From a trained network to predictions, scores and archives for evaluation servers.

This room owns inference over scales, flips and windows, every score, and the files that servers take and return.
"""

from .boundary_metrics import BANDS, distance_to, label_boundary
from .evaluate import NEAR_PIXELS, Evaluation, count_image, evaluate, image_counts, score_table
from .inference import MIN_WINDOW, InferenceConfig, available_outputs, classes, predict, predict_classes, predict_scores
from .metrics import class_iou, ratio
from .predictions import predict_split
from .submission import SERVER_SCORES, check_archive, mean_metrics, read_scores, server_score_template, write_archive

# fmt: off
__all__ = [
    "BANDS", "MIN_WINDOW", "NEAR_PIXELS", "SERVER_SCORES", "Evaluation", "InferenceConfig", "available_outputs",
    "check_archive", "class_iou", "classes", "count_image", "distance_to", "evaluate", "image_counts", "label_boundary",
    "mean_metrics", "predict", "predict_classes", "predict_scores", "predict_split", "ratio", "read_scores",
    "score_table", "server_score_template", "write_archive",
]
# fmt: on
