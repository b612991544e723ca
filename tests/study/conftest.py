"""A study of a few runs with scores of images and analyses of offsets."""

import json

import numpy as np
import pytest
from class_counts import write_scored

from ovenet_core.study import Study, find_runs, select_runs


@pytest.fixture
def study(tmp_path) -> Study:
    """Three seeds in which OVeNet is better by much, with nothing gained by fusion."""
    random = np.random.default_rng(0)
    for seed in range(3):
        write_scored(tmp_path / f"h{seed}", "synthetic/hrnet", seed, 0.7, random)
        ovenet = write_scored(tmp_path / f"o{seed}", "synthetic/ovenet", seed, 0.8, random)
        row = {
            "condition": "all",
            "by": "all",
            "group": "all",
            "length_median": 3 + seed / 10,
            "seed_deeper": 0.3 + seed / 100,
            "random_deeper": 0.1,
            "brier": 0.03,
            "brier_of_rate": 0.02 + seed / 1000,
            "f_right": [0.8, 0.8],
            "f_wrong": [0.75 + seed / 100] * 2,
        }
        lengths = {
            "below 1": (10, 1.0, 0.5, 0.6),
            "1 to 2": (0, None, None, None),
            "2 to 4": (30, 1.5 + seed / 10, 0.9, 0.8),
            "4 to 8": (90, 9.0, 1.0, 1.0),
        }
        bands = [
            row
            | {
                "by": "distance",
                "group": group,
                "pixels": pixels,
                "length_median": length,
                "brier": 0.01,
                "seed_has_label": rate,
                "confidence": f,
                "brier_of_rate": None,
            }
            for group, (pixels, length, rate, f) in lengths.items()
        ]
        analysis = {"split": "val", "offset_analysis": {"table": [row, *bands], "reliability": []}}
        (ovenet / "offset_analysis.json").write_text(json.dumps(analysis))
    return Study("synthetic", select_runs(*find_runs(tmp_path)))
