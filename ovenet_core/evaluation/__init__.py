"""From a trained network to predictions, scores and archives for evaluation servers."""

from ovenet_core.evaluation.boundary_metrics import BANDS, distance_to, label_boundary
from ovenet_core.evaluation.evaluate import NEAR_PIXELS, Counts, Evaluation, count_image, evaluate, image_counts
from ovenet_core.evaluation.inference import (
    OUTPUT_STRIDE,
    InferenceConfig,
    available_outputs,
    classes,
    normalise,
    predict,
    predict_classes,
)
from ovenet_core.evaluation.metrics import mean, none_if_nan, ratio
from ovenet_core.evaluation.predictions import predict_split
from ovenet_core.evaluation.submission import (
    SERVER_SCORES,
    check_archive,
    mean_metrics,
    read_scores,
    server_score_template,
    write_archive,
)

__all__ = [
    "BANDS",
    "NEAR_PIXELS",
    "OUTPUT_STRIDE",
    "SERVER_SCORES",
    "Counts",
    "Evaluation",
    "InferenceConfig",
    "available_outputs",
    "check_archive",
    "classes",
    "count_image",
    "distance_to",
    "evaluate",
    "image_counts",
    "label_boundary",
    "mean",
    "mean_metrics",
    "none_if_nan",
    "normalise",
    "predict",
    "predict_classes",
    "predict_split",
    "ratio",
    "read_scores",
    "server_score_template",
    "write_archive",
]
