"""Class counts of imaginary images, and runs that have them, for tests of the study."""

from pathlib import Path

import numpy as np
import pandas as pd
from result_files import write_run


def matrices(random: np.random.Generator, right: float, count: int = 40) -> np.ndarray:
    """Confusion matrices of three classes, in which a share of the pixels is right."""
    wrong = (1 - right) / 2
    shares = np.where(np.eye(3) > 0, right, wrong)
    return np.stack([[random.multinomial(100, row) for row in shares] for _ in range(count)]).astype(float)


def counted(confusion: np.ndarray) -> np.ndarray:
    """Hits, pixels of the label and of the prediction of each class."""
    return np.stack([np.diagonal(confusion, axis1=1, axis2=2), confusion.sum(2), confusion.sum(1)], axis=1)


def images(random: np.random.Generator, right: float, count: int = 40) -> np.ndarray:
    return counted(matrices(random, right, count))


def mean_iou(confusion: np.ndarray) -> float:
    hits = np.diagonal(confusion)
    return float((hits / (confusion.sum(0) + confusion.sum(1) - hits)).mean())


def write_scored(folder: Path, name: str, seed: int, right: float, random: np.random.Generator) -> Path:
    """A run with images.csv.gz as 04_evaluation leaves it; half of the pixels are near a boundary."""
    rows, scores = [], {}
    for output in ("S_i",) if "hrnet" in name else ("S_i", "S_s", "S_f"):
        found = matrices(random, right, 10)
        scores[output] = {"miou": mean_iou(found.sum(0))}
        for place, matrix in enumerate(found):
            rows += [(output, f"p{place}", a, b, 2 * matrix[a, b], matrix[a, b]) for a, b in np.ndindex(3, 3)]
    write_run(folder, name, seed, 0.5, metrics=scores)
    columns = ["output", "image", "label", "prediction", "pixels", "near"]
    pd.DataFrame(rows, columns=columns).to_csv(folder / "images.csv.gz", index=False)
    return folder
