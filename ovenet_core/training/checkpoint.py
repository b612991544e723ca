"""The files of a run, and the refusal to go on from another run's.

A *snapshot* (`snapshot.pt`) is the whole state of a training that has not ended: weights, optimizer, history. Training
goes on from it. A *checkpoint* (`checkpoint.safetensors`, the best one `best.safetensors`) is weights alone.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch

from ovenet_core.data import Sample
from ovenet_core.training.config import Experiment
from ovenet_core.utils import RunError, SnapshotError, short_hash

SNAPSHOT, CHECKPOINT, BEST = "snapshot.pt", "checkpoint.safetensors", "best.safetensors"
RESULT, CONFIG, HISTORY = "result.json", "config.json", "history.csv"


def run_identity(experiment: Experiment, seed: int) -> dict[str, Any]:
    """Return what makes a run: its configuration and its seed."""
    fields = json.loads(json.dumps(asdict(experiment)))  # as they are read again: a tuple is a list there
    return {"config_hash": experiment.config_hash, "seed": seed, "experiment": fields}


def samples_identity(samples: Mapping[str, Sequence[Sample]]) -> dict[str, list]:
    """Return, for each split, the number of its images and a hash of their names in order."""
    return {split: [len(them), short_hash([sample.name for sample in them])] for split, them in samples.items()}


def refuse_another_run(file: Path, stored: Any, experiment: Experiment, seed: int) -> None:
    """Raise SnapshotError unless what a file holds is a run of this experiment and seed."""
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


def refuse_other_images(file: Path, stored: Mapping[str, list], samples: Mapping[str, list]) -> None:
    """Raise SnapshotError if a snapshot's run had other images than these; both are `samples_identity`."""
    for split, (count, names) in samples.items():
        if [count, names] != stored[split]:
            found = f"a run with {stored[split][0]} images of {split}"
            expected = f"the {count} images of {split} that are there now"
            raise SnapshotError(file, found, expected, "restore the images, or delete the file to start again")


def snapshot_mtime(file: Path) -> int:
    """Return when any process last wrote a snapshot, in nanoseconds; 0 if there is none."""
    return file.stat().st_mtime_ns if file.exists() else 0


def read_snapshot(file: Path) -> Any:
    """Read a snapshot, without running code from it."""
    try:
        return torch.load(file, map_location="cpu", weights_only=True)
    except Exception as error:
        raise SnapshotError(file, error, "a snapshot", "delete the file to start again") from error


def read_run_file(file: Path) -> Any:
    """Read the `result.json` or `config.json` of a run."""
    try:
        return json.loads(file.read_text())
    except ValueError as error:
        raise SnapshotError(file, f"no whole JSON ({error})", "a run", "move the file away to train again") from error


def read_result(file: Path, experiment: Experiment, seed: int) -> dict[str, Any]:
    """Read the `result.json` of this experiment and seed; SnapshotError if it is another run's."""
    result = read_run_file(file)
    refuse_another_run(file, result, experiment, seed)
    return result


def run_experiment(run_folder: str | Path) -> Experiment:
    """Read a run's experiment from the configuration in its folder.

    Raises:
        RunError: it is no run folder.
        SnapshotError: its configuration is damaged.
    """
    for file in (Path(run_folder, RESULT), Path(run_folder, CONFIG)):
        if file.exists():
            try:
                return Experiment.from_json(read_run_file(file)["experiment"])
            except (KeyError, TypeError) as error:
                fix = "restore the file, or give another run folder"
                raise SnapshotError(file, f"no experiment ({error!r})", "a run", fix) from error
    raise RunError(run_folder, "no run", f"a folder with {RESULT} or {CONFIG}", "give a run folder")
