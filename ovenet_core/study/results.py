"""The runs of a study: every `result.json` below some folders, and which of them may stand in one mean."""

import json
import statistics
from collections.abc import Iterable
from dataclasses import asdict, dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from ovenet_core.data import DataError, get_dataset
from ovenet_core.evaluation import SERVER_SCORES, read_scores
from ovenet_core.training import PRESETS, Experiment

COUNTED = "counted"
FIELDS = {
    "seed": int,
    "metrics": dict,
    "experiment": dict,
    "split": str,
    "data_fingerprint": str,
    "commit": str,
    "finished": str,
    "duration_seconds": (int, float),
}  # of result.json: those that are read here
COMPUTATION = ("channels_last", "compile", "checkpointing")  # of an experiment: how it is computed, not what


@dataclass(frozen=True)
class Run:
    """What a `result.json` says of one experiment with one seed.

    Attributes:
        server: by split whose labels are withheld, the scores that its server told (`SCORES` in the folder).
    """

    folder: Path
    result: dict[str, Any]
    server: dict[str, dict] = field(default_factory=dict)

    @cached_property
    def experiment(self) -> Experiment:
        return Experiment.from_json(self.result["experiment"])

    @cached_property
    def presets(self) -> list[str]:
        """The presets with this configuration on the run's images, generated or real; most often one or none.

        How it was computed (`COMPUTATION`) makes no other configuration.
        """
        return [
            name
            for name, spec in PRESETS.items()
            if replace(self.experiment, **{field: getattr(spec, field) for field in COMPUTATION}) == spec
        ]

    @property
    def seed(self) -> int:
        return self.result["seed"]

    @property
    def commits(self) -> list[str]:
        """The commits of the code that trained it, in eight digits; a run that was continued may have several."""
        return sorted(map(short_commit, self.result.get("commits") or [self.result["commit"]]))

    @property
    def answer(self) -> str:
        """The output that the network answers with: S_f, or S_i of a baseline."""
        return "S_f" if "S_f" in self.result["metrics"] else "S_i"

    def on(self, split: str) -> "Run | None":
        """The run with the scores of a split: its own, or those of the server; None if there are none."""
        if split == self.result["split"]:
            return self
        if split not in self.server:
            return None
        return replace(self, result=self.result | {"split": split, "metrics": {self.answer: self.server[split]}})

    def score(self, metric: str, of_class: str = "", condition: str = "", output: str = "") -> float:
        """A score in %, NaN if the result has none: a mean, or "iou" of a class; of a condition, "" or "all" of all."""
        found = self.result["metrics"].get(output or self.answer, {})
        if condition not in ("", "all"):
            found = found.get("conditions", {}).get(condition, {})
        value = found.get(metric, {}).get(of_class) if of_class else found.get(metric)
        return np.nan if value is None else 100 * value


def find_runs(*roots: str | Path) -> tuple[list[Run], dict[Path, str]]:
    """The runs in the `result.json` files below some folders, and why others of these files cannot be read.

    Raises:
        FileNotFoundError: one of the folders is not there.
    """
    runs, damaged = [], {}
    for root in map(Path, roots):
        if not root.is_dir():
            raise FileNotFoundError(f"{root.absolute()}: no such folder of runs; check the path")
    for path in sorted({path for root in roots for path in Path(root).rglob("result.json")}):
        try:
            runs.append(with_server(read_run(path)))
        except (OSError, ValueError, RecursionError) as error:
            damaged[path.parent] = f"damaged: {error}"
    return runs, damaged


def read_run(file: Path) -> Run:
    """The run of a `result.json`.

    Raises:
        OSError, ValueError: it cannot be read, or is not the whole result of a run; the message says what is wrong.
    """
    result = json.loads(file.read_text())
    if not isinstance(result, dict):
        raise ValueError("not the result of a run")
    wrong = [
        name
        for name, kind in FIELDS.items()
        if isinstance(result.get(name), bool) or result.get(name) == "" or not isinstance(result.get(name), kind)
    ]
    if wrong:
        raise ValueError(f"{', '.join(wrong)}: missing, or of another type")
    run = Run(file.parent, result)
    expected = ["S_i"] if run.experiment.branch_stage is None else ["S_i", "S_s", "S_f"]
    if sorted(result["metrics"]) != sorted(expected):
        raise ValueError(f"scores of {', '.join(sorted(result['metrics']))}; expected {', '.join(expected)}")
    for output, scores in result["metrics"].items():
        _check_scores(output, scores)
        if not isinstance(scores, dict) or not isinstance(scores.get("miou"), int | float):
            raise ValueError(f"{output} has no mIoU")
        if wrong := [name for name in ("iou", "conditions") if not isinstance(scores.get(name, {}), dict)]:
            raise ValueError(f"{output} {wrong[0]}: of another type")
    if not all(isinstance(commit, str) for commit in result.get("commits", [])):
        raise ValueError("commits: of another type")
    return run


def with_server(run: Run) -> Run:
    """The run with what a server said of it, if there is a `SCORES` in its folder.

    Raises:
        DataError: it cannot be read, or has scores of the run's own split.
    """
    if not (form := run.folder / SERVER_SCORES).exists():
        return run
    server = read_scores(form, get_dataset(run.experiment.benchmark))
    if run.result["split"] in server:
        raise DataError(f"{form}: scores of the split {run.result['split']!r}, which result.json has; remove them")
    return replace(run, server=server)


def _check_scores(name: str, value: Any) -> None:
    """Every score is a share, or null where there is none."""
    if isinstance(value, dict):
        for part, score in value.items():
            _check_scores(f"{name} {part}", score)
    elif value is not None and not (type(value) in (int, float) and 0 <= value <= 1):
        raise ValueError(f"{name} is {value!r}; expected a share from 0 to 1")


@dataclass(frozen=True)
class RunSelection:
    """The runs that tables may average, and all others with the reason.

    Attributes:
        by_preset: of each preset its runs, by seed.
        status: a row for each result.json: folder, preset, seed, split (and those of a server), commit, data
            (fingerprint), and `status`: "counted", or why it is not.
    """

    by_preset: dict[str, dict[int, Run]]
    status: pd.DataFrame

    def commits(self, preset: str) -> list[str]:
        """The commits of a preset's counted runs, in eight digits; "+" marks code that was changed."""
        return sorted({commit for run in self.by_preset.get(preset, {}).values() for commit in run.commits})


def select_runs(runs: Iterable[Run], damaged: dict[Path, str] | None = None) -> RunSelection:
    """Sort runs by preset and seed: never two of one seed, another configuration, or other data in one mean.

    Of two runs with the same preset and seed the one that finished first counts; of the runs of one scale, those on the
    data that most of them have.
    """
    runs = sorted(runs, key=lambda run: (run.result["finished"], str(run.folder)))
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
        splits = " ".join([run.result["split"], *run.server])
        rows.append(
            (
                str(run.folder),
                preset,
                run.seed,
                splits,
                " ".join(run.commits),
                run.result["data_fingerprint"][:8],
                status,
            )
        )
    rows += [(str(folder), "", None, "", "", "", why) for folder, why in (damaged or {}).items()]
    columns = ["folder", "preset", "seed", "split", "commit", "data", "status"]
    return RunSelection(by_preset, pd.DataFrame(rows, columns=columns).astype({"seed": "Int64"}))


def short_commit(commit: str) -> str:
    return commit[:8] + ("+" if commit.endswith("+") else "")


def _nearest(experiment: Experiment) -> str:
    """The preset with fewest other fields, and these."""
    same = {name: spec for name, spec in PRESETS.items() if spec.benchmark == experiment.benchmark} or PRESETS
    found = {name: experiment.differences(json.loads(json.dumps(asdict(spec)))) for name, spec in same.items()}
    name = min(found, key=lambda n: len(found[n]))
    return f"{name} but for {'; '.join(d if len(d) < 60 else d.split(':')[0] for d in found[name])}"
