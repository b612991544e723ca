"""The files of a run, and the refusal to go on from another run's.

A *snapshot* (`snapshot.pt`) is the whole state of a training that has not ended: weights, optimizer, history. Training
goes on from it. A *checkpoint* (`checkpoint.safetensors`, the best one `best.safetensors`) is weights alone.
"""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch

from ovenet_core.training.config import Experiment
from ovenet_core.utils import RunError, SnapshotError

SNAPSHOT, CHECKPOINT, BEST = "snapshot.pt", "checkpoint.safetensors", "best.safetensors"
RESULT, CONFIG, HISTORY = "result.json", "config.json", "history.csv"


def run_identity(experiment: Experiment, seed: int) -> dict[str, Any]:
    """Return what makes a run: its configuration and its seed."""
    fields = json.loads(json.dumps(asdict(experiment)))  # as they are read again: a tuple is a list there
    return {"config_hash": experiment.config_hash, "seed": seed, "experiment": fields}


def refuse_other_images(file: Path, stored: Mapping[str, list], samples: Mapping[str, list]) -> None:
    """Raise SnapshotError if a snapshot's run had other images; both have their number and hash by split."""
    for split, (count, names) in samples.items():
        if [count, names] != stored[split]:
            found = f"a run with {stored[split][0]} images of {split}"
            expected = f"the {count} images of {split} that are there now"
            raise SnapshotError(file, found, expected, "restore the images, or delete the file to start again")


def has_begun(folder: Path) -> bool:
    """Return whether there is a snapshot or a result to go on from, so that initial values are not read."""
    return any((folder / name).exists() for name in (SNAPSHOT, RESULT))


def snapshot_mtime(file: Path) -> int:
    """Return when any process last wrote a snapshot, in nanoseconds; 0 if there is none."""
    return file.stat().st_mtime_ns if file.exists() else 0


def read_file(file: Path) -> Any:
    """Read a snapshot, without running code from it, or a JSON file of a run; SnapshotError if it is damaged."""
    try:
        if file.suffix == ".json":
            return json.loads(file.read_text())
        return torch.load(file, map_location="cpu", weights_only=True)
    except Exception as error:
        raise SnapshotError(file, error, "a whole file of a run", "move the file away to train again") from error


def read_run(file: Path, experiment: Experiment, seed: int) -> dict[str, Any]:
    """Read the snapshot or result of this experiment and seed; SnapshotError if it is damaged or another run's."""
    stored = read_file(file)
    whole = isinstance(stored, dict) and {"experiment", "seed", "config_hash"} <= stored.keys()
    if not whole or not isinstance(stored["experiment"], dict):
        fix = "move the file away, or choose another run folder"
        raise SnapshotError(file, "something else", "a run with its experiment and seed", fix)
    differences = experiment.differences(stored["experiment"])
    if stored["seed"] != seed:
        differences.append(f"seed: {seed}, {stored['seed']}")
    if differences:
        found = f"another run (configuration {stored['config_hash']}; it differs in {'; '.join(differences)})"
        expected = f"this run (configuration {experiment.config_hash})"
        raise SnapshotError(file, found, expected, "choose another run folder, or delete the file")
    return stored


def trained_run(run_folder: str | Path) -> tuple[Path, Experiment]:
    """Return the file of a run's trained weights, and its experiment.

    Raises:
        RunError: it is no run folder, or the run is not finished, or has lost its weights.
        SnapshotError: its configuration is damaged.
    """
    result, config, weights = (Path(run_folder, name) for name in (RESULT, CONFIG, CHECKPOINT))
    file = result if result.exists() else config
    if not file.exists():
        raise RunError(run_folder, "no run", f"a folder with {RESULT} or {CONFIG}", "give a run folder")
    try:
        experiment = Experiment.from_json(read_file(file)["experiment"])
    except (KeyError, TypeError) as error:
        fix = "restore the file, or give another run folder"
        raise SnapshotError(file, f"no experiment ({error!r})", "a run", fix) from error
    if not weights.exists():
        raise RunError(weights, "nothing", "the weights of a finished run", "finish that run, or give another folder")
    return weights, experiment


def weights_identity(source: str | Path, experiment: Experiment) -> dict[str, str]:
    """Return what predictions of a trained network depend on: hashes of its configuration and of its weights' file."""
    file = Path(source, CHECKPOINT) if Path(source).is_dir() else Path(source)
    return {"config_hash": experiment.config_hash, "weights": hashlib.sha256(file.read_bytes()).hexdigest()}
