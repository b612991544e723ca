"""The runs of a study: every `result.json` below some folders, and which of them may stand in one mean."""

import json
import statistics
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from ovenet_core.experiments import PRESETS, Experiment

COUNTED = "counted"


@dataclass(frozen=True)
class Run:
    """What a `result.json` says of one experiment with one seed."""

    folder: Path
    result: dict[str, Any]

    @cached_property
    def experiment(self) -> Experiment:
        return Experiment.from_json(self.result["experiment"])

    @cached_property
    def presets(self) -> list[str]:
        """The presets with this configuration on the run's pictures, generated or real; most often one or none."""
        return [name for name, spec in PRESETS.items() if spec == self.experiment]

    @property
    def seed(self) -> int:
        return self.result["seed"]

    @property
    def answer(self) -> str:
        """The output that the network answers with: S_f, or S_i of a baseline."""
        return "S_f" if "S_f" in self.result["metrics"] else "S_i"

    def score(self, metric: str, of_class: str = "", condition: str = "", output: str = "") -> float:
        """A score in %, NaN if the result has none: a mean, or "iou" of a class; of a condition, "" or "all" of all."""
        found = self.result["metrics"].get(output or self.answer, {})
        if condition not in ("", "all"):
            found = found.get("conditions", {}).get(condition, {})
        value = found.get(metric, {}).get(of_class) if of_class else found.get(metric)
        return np.nan if value is None else 100 * value


def find_runs(*roots: str | Path) -> tuple[list[Run], dict[Path, str]]:
    """The runs in the `result.json` files below some folders, and why others of these files cannot be read."""
    runs, damaged = [], {}
    for path in sorted(path for root in roots for path in Path(root).rglob("result.json")):
        try:
            run = Run(path.parent, json.loads(path.read_text()))
            scores = [run.result["metrics"][name]["miou"] for name in {"S_i", *run.result["metrics"]}]
            texts = [run.result[name] for name in ("commit", "data_fingerprint", "split")]
            if not all(0 <= s <= 1 for s in scores) or type(run.seed) is not int or not all(map(str, texts)):
                raise ValueError("a score that is not in [0, 1], or a seed that is not a whole number")
            run.experiment  # noqa: B018 - read here, so that one that cannot be is damaged
            runs.append(run)
        except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
            damaged[path.parent] = f"damaged: {type(error).__name__}: {error}"
    return runs, damaged


@dataclass(frozen=True)
class Collection:
    """The runs that tables may average, and all others with the reason.

    Attributes:
        by_preset: of each preset its runs, by seed.
        status: a row for each result.json: folder, preset, seed, split, commit, data (fingerprint), and `status`:
            "counted", or why it is not.
    """

    by_preset: dict[str, dict[int, Run]]
    status: pd.DataFrame

    def commits(self, preset: str) -> list[str]:
        """The commits of a preset's counted runs, in eight digits; "+" marks code that was changed."""
        return sorted({short_commit(run.result["commit"]) for run in self.by_preset.get(preset, {}).values()})


def collect(runs: Iterable[Run], damaged: dict[Path, str] | None = None) -> Collection:
    """Sort runs by preset and seed: never two of one seed, another configuration, or other data in one mean.

    Of two runs with the same preset and seed the one that finished first counts; of the runs of one scale, those on the
    data that most of them have.
    """
    runs = sorted(runs, key=lambda run: (run.result.get("finished", ""), str(run.folder)))
    data: dict[str, list[str]] = {}
    for run in runs:
        for scale in {name.split("/")[0] for name in run.presets}:
            data.setdefault(scale, []).append(run.result["data_fingerprint"])
    usual = {scale: statistics.mode(prints) for scale, prints in data.items()}
    by_preset: dict[str, dict[int, Run]] = {}
    rows = []
    for run in runs:
        preset = run.presets[0] if run.presets else ""
        seeds = by_preset.setdefault(preset, {}) if preset else {}
        if not preset:
            status = f"another configuration: {_nearest(run.experiment)}"
        elif run.result["data_fingerprint"] != usual[preset.split("/")[0]]:
            status = "other data than most runs of this scale"
        elif run.seed in seeds:
            status = f"seed {run.seed} is there already: {seeds[run.seed].folder}"
        else:
            seeds[run.seed], status = run, COUNTED
        rows.append((str(run.folder), preset, run.seed, run.result["split"], short_commit(run.result["commit"]),
                     run.result["data_fingerprint"][:8], status))
    rows += [(str(folder), "", None, "", "", "", why) for folder, why in (damaged or {}).items()]
    columns = ["folder", "preset", "seed", "split", "commit", "data", "status"]
    return Collection(by_preset, pd.DataFrame(rows, columns=columns).astype({"seed": "Int64"}))


def short_commit(commit: str) -> str:
    return commit[:8] + ("+" if commit.endswith("+") else "")


def _nearest(experiment: Experiment) -> str:
    """The preset with fewest other fields, and these."""
    same = {name: spec for name, spec in PRESETS.items() if spec.benchmark == experiment.benchmark} or PRESETS
    found = {name: experiment.differences(json.loads(json.dumps(asdict(spec)))) for name, spec in same.items()}
    name = min(found, key=lambda n: len(found[n]))
    return f"{name} but for {'; '.join(d if len(d) < 60 else d.split(':')[0] for d in found[name])}"
