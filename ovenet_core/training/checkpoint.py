"""Snapshots of a run: what they say of the run that they are of, and the refusal of another's."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch

from ovenet_core.data import Sample
from ovenet_core.training.config import Experiment
from ovenet_core.utils import SnapshotError, short_hash


def run_identity(experiment: Experiment, seed: int) -> dict[str, Any]:
    """What a run is: its configuration and its seed."""
    fields = json.loads(json.dumps(asdict(experiment)))  # as they are read again: a tuple is a list there
    return {"config_hash": experiment.config_hash, "seed": seed, "experiment": fields}


def samples_identity(samples: Mapping[str, Sequence[Sample]]) -> dict[str, list]:
    """Of each split the number of its images and a hash of their names, in order."""
    return {split: [len(them), short_hash([sample.name for sample in them])] for split, them in samples.items()}


def refuse_another(file: Path, state: Any, experiment: Experiment, seed: int) -> None:
    """Raise SnapshotError if what is stored in a file is not of a run, or of another experiment or seed."""
    whole = isinstance(state, dict) and {"experiment", "seed", "config_hash"} <= state.keys()
    if not whole or not isinstance(state["experiment"], dict):
        raise SnapshotError(
            f"{file} holds something else than a run, expected its experiment and seed; move it away, "
            "or choose another run folder"
        )
    differences = experiment.differences(state["experiment"])
    if state["seed"] != seed:
        differences.append(f"seed: {seed}, {state['seed']}")
    if differences:
        raise SnapshotError(
            f"{file} is of another run. This one and that one differ in {'; '.join(differences)} (configuration "
            f"{experiment.config_hash}, {state['config_hash']}). Choose another run folder, or delete the file"
        )


def refuse_other_images(file: Path, stored: Mapping[str, list], samples: Mapping[str, list]) -> None:
    """Raise SnapshotError if the run that a snapshot is of had other images (see `of_samples`)."""
    for split, (number, names) in samples.items():
        if [number, names] != stored[split]:
            raise SnapshotError(
                f"{file} is of a run with {stored[split][0]} images of {split}; here are {number}, "
                "or others. Restore these images, or delete the file to start anew"
            )


def snapshot_mtime(file: Path) -> int:
    """When a snapshot was written, by whichever process, in nanoseconds; 0 if there is none."""
    return file.stat().st_mtime_ns if file.exists() else 0


def read_snapshot(file: Path) -> Any:
    """What a snapshot holds, read without running code from it."""
    try:
        return torch.load(file, map_location="cpu", weights_only=True)
    except Exception as error:
        raise SnapshotError(f"{file} cannot be read ({error}); delete it to start anew") from error


def read_result(file: Path) -> Any:
    """What the `result.json` or the `config.json` of a run holds."""
    try:
        return json.loads(file.read_text())
    except ValueError as error:
        raise SnapshotError(f"{file} is not whole ({error}); move it away to train again") from error
