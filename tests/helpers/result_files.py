"""Files of results as training leaves them, for tests of the study."""

import json
from dataclasses import asdict
from pathlib import Path

from ovenet_core.training import preset


def write_run(folder: Path, name: str, seed: int, miou: float, **changes) -> Path:
    """A result.json as training leaves it, with scores that follow from one number."""
    spec = preset(name, **changes.pop("overrides", {}))
    outputs = ["S_i"] if spec.branch_stage is None else ["S_i", "S_s", "S_f"]
    scores = {
        "miou": miou,
        "pixel_accuracy": 0.9,
        "mean_accuracy": 0.8,
        "iou": {"road": miou, "sky": None},
        "conditions": {"fog": {"miou": miou / 2, "iou": {"road": miou / 4}}},
    }
    metrics = {output: scores | {"miou": miou - 0.01 * (len(outputs) - 1 - i)} for i, output in enumerate(outputs)}
    result = {
        "seed": seed,
        "metrics": metrics,
        "split": spec.val_split,
        "commit": "a" * 40,
        "data_fingerprint": "f" * 64,
        "duration_seconds": 60.0,
        "finished": f"2026-01-01T00:00:{seed:02d}Z",
        "experiment": asdict(spec),
    } | changes
    folder.mkdir(parents=True)
    (folder / "result.json").write_text(json.dumps(result))
    return folder


def each(scores: dict) -> dict:
    """These scores for each output of an OVeNet."""
    return dict.fromkeys(("S_i", "S_s", "S_f"), scores)
