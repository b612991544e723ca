"""The runs of a study: every `result.json` below some folders, and which of them may stand in one mean."""

import json
import statistics
from collections.abc import Iterable
from dataclasses import asdict, dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import pandas as pd
from pydantic import BaseModel, Field, ValidationError
from typing_extensions import TypeAliasType

from ovenet_core.data import get_dataset
from ovenet_core.evaluation import SERVER_SCORES, read_scores
from ovenet_core.training import PRESETS, Experiment
from ovenet_core.utils import ConfigError, DataError, RunError

IMAGE_COUNTS_FILE = "images.csv.gz"  # left by 04_evaluation: the counts of each image
OFFSET_ANALYSIS_FILE = "offset_analysis.json"  # left by 08_offset_analysis
SIX_SCALES_FILE = "evaluation_six_scales.json"  # left by 04_evaluation with six scales and flip
ONE_SCALE, SIX_SCALES = "one scale", "six scales, flip"  # the inference of a score, in words
COUNTED = "counted"
COMPUTATION = ("channels_last", "compile", "checkpointing")  # of an experiment: how it is computed, not what

Share = Annotated[float, Field(ge=0, le=1)] | None  # every score is one, or null where there is none
Scores = TypeAliasType("Scores", Share | dict[str, "Scores"])  # a mean, those of classes, or all of these at boundaries


class OutputScores(BaseModel, strict=True, extra="allow"):
    """The scores of one output of a network."""

    __pydantic_extra__: dict[str, Scores]
    miou: Annotated[float, Field(ge=0, le=1)]
    iou: dict[str, Share] = {}
    conditions: dict[str, dict[str, Scores]] = {}


class StoredResult(BaseModel, strict=True):
    """The fields of a result.json that are read here."""

    seed: int
    metrics: dict[str, OutputScores]
    experiment: dict[str, Any]
    split: Annotated[str, Field(min_length=1)]
    data_fingerprint: Annotated[str, Field(min_length=1)]
    commit: Annotated[str, Field(min_length=1)]
    commits: list[str] = []  # there if they are several
    finished: Annotated[str, Field(min_length=1)]
    duration_seconds: float


@dataclass(frozen=True)
class Run:
    """One experiment with one seed, as its `result.json` tells."""

    folder: Path
    result: dict[str, Any]
    server: dict[str, dict] = field(default_factory=dict)  # by split: the scores that a benchmark's server told

    @cached_property
    def experiment(self) -> Experiment:
        return Experiment.from_json(self.result["experiment"])

    @cached_property
    def presets(self) -> list[str]:
        """The presets with this configuration, `COMPUTATION` aside; most often one or none."""
        computation = {name: getattr(self.experiment, name) for name in COMPUTATION}
        return [name for name, preset in PRESETS.items() if replace(preset, **computation) == self.experiment]

    @property
    def seed(self) -> int:
        return self.result["seed"]

    @property
    def commits(self) -> list[str]:
        """The commits of the code that trained it, in eight digits; a run that was continued may have several."""
        return sorted(c[:8] + "+" * c.endswith("+") for c in self.result.get("commits", [self.result["commit"]]))

    @property
    def final_output(self) -> str:
        """The output with the final prediction: S_f, or S_i of a baseline."""
        return "S_f" if "S_f" in self.result["metrics"] else "S_i"

    def with_split(self, split: str) -> "Run | None":
        """Return the run with the scores of a split: its own, or the server's; None if there are none."""
        if split not in self.server:
            return self if split == self.result["split"] else None
        metrics = {self.final_output: self.server[split]}
        return replace(self, result=self.result | {"split": split, "metrics": metrics})

    def at_six_scales(self) -> "Run | None":
        """Return the run with the scores that 04_evaluation found over six scales and flip; None if it was not asked.

        Raises:
            RunError: the file is not whole, or of another network, split or inference.
        """
        path = self.folder / SIX_SCALES_FILE
        if not path.exists():
            return None
        try:
            stored = json.loads(path.read_text())
            seen = stored["inference"]
            found = stored["config_hash"], stored["split"], len(seen["scales"]), seen["flip"]
            metrics = stored["metrics"]
            for scores in metrics.values():
                OutputScores.model_validate(scores)
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise RunError(path, error, "a whole evaluation", "run 04_evaluation again") from error
        if found != (own := (self.experiment.config_hash, self.result["split"], 6, True)):
            raise RunError(path, found, f"configuration, split, scales and flip {own}", "run 04_evaluation again")
        return replace(self, result=self.result | {"metrics": metrics})

    def score(self, metric: str, of_class: str = "", condition: str = "", output: str = "") -> float:
        """Return a score in %, NaN if there is none: of `metric`, the name of a mean, or "iou" with a class."""
        scores = self.result["metrics"].get(output or self.final_output, {})
        if condition not in ("", "all"):
            scores = scores.get("conditions", {}).get(condition, {})
        value = scores.get(metric, {}).get(of_class) if of_class else scores.get(metric)
        return np.nan if value is None else 100 * value


def find_runs(*roots: str | Path) -> tuple[list[Run], dict[Path, str]]:
    """Read every `result.json` below some folders, with a server's scores where its folder has `SERVER_SCORES`.

    Return the runs, and by folder why others cannot be read; a RunError if one of the folders does not exist.
    """
    runs, damaged = [], {}
    for root in map(Path, roots):
        if not root.is_dir():
            raise RunError(root.absolute(), "no such folder", "a folder of runs", "correct the path")
    for path in sorted({path for root in roots for path in Path(root).rglob("result.json")}):
        try:
            run, form = read_run(path), path.with_name(SERVER_SCORES)
            server = read_scores(form, get_dataset(run.experiment.benchmark)) if form.exists() else {}
            if (split := run.result["split"]) in server:
                found = f"scores of the split {split!r}, which result.json has"
                raise DataError(form, found, "other splits", "remove them")
            runs.append(replace(run, server=server))
        except (RunError, DataError) as error:
            damaged[path.parent] = f"damaged: {error}"
    return runs, damaged


def read_run(file: Path) -> Run:
    """Read the run of a `result.json`, without a server's scores.

    Raises:
        RunError: it cannot be read, or is not the whole result of a run; `where` is the file, with the field.
    """
    try:
        result = json.loads(file.read_text())
        StoredResult.model_validate(result)
        run, outputs = Run(file.parent, result), sorted(result["metrics"])
        expected = "S_i" if run.experiment.branch_stage is None else "S_f, S_i, S_s"
        if ", ".join(outputs) == expected:
            return run
        where, found = f"{file}.metrics", f"the outputs {', '.join(outputs)}"
    except ValidationError as error:
        first = error.errors()[0]
        where, found = ".".join(map(str, (file, *first["loc"]))), repr(first["input"])[:60]
        expected = first["msg"].removeprefix("Input should be ")
    except ConfigError as error:
        where, found, expected = f"{file}.experiment.{error.where}", error.found, error.expected
    except (OSError, ValueError, RecursionError) as error:
        where, found, expected = file, error, "the whole result of a run"
    raise RunError(where, found, expected, "restore the file, or train again")


@dataclass(frozen=True)
class RunSelection:
    """The runs that tables may average, and all others with the reason."""

    by_preset: dict[str, dict[int, Run]]  # then by seed
    status: pd.DataFrame  # of each result.json: folder, preset, …, and `status`: `COUNTED`, or why it is not

    def commits(self, preset: str) -> list[str]:
        """The commits of a preset's counted runs, in eight digits; "+" marks code that was changed."""
        return sorted({commit for run in self.by_preset.get(preset, {}).values() for commit in run.commits})


def select_runs(runs: Iterable[Run], damaged: dict[Path, str] | None = None) -> RunSelection:
    """Sort runs by preset and seed: never two of one seed, another configuration, or other data in one mean.

    Of two runs with the same preset and seed the one that finished first counts; of the runs of one protocol, those on
    the data that most of them have.
    """
    runs = sorted(runs, key=lambda run: (run.result["finished"], str(run.folder)))
    fingerprints: dict[str, list[str]] = {}
    for run in runs:
        for protocol in {name.split("/")[0] for name in run.presets}:
            fingerprints.setdefault(protocol, []).append(run.result["data_fingerprint"])
    most_common = {protocol: statistics.mode(values) for protocol, values in fingerprints.items()}
    by_preset: dict[str, dict[int, Run]] = {}
    rows = []
    for run in runs:
        preset, data = run.presets[0] if run.presets else "", run.result["data_fingerprint"]
        seeds = by_preset.setdefault(preset, {}) if preset else {}
        if not preset:
            status = f"another configuration: {_nearest(run.experiment)}"
        elif data != most_common[preset.split("/")[0]]:
            status = "other data than most runs of this protocol"
        elif run.seed in seeds:
            status = f"seed {run.seed} is there already: {seeds[run.seed].folder}"
        else:
            seeds[run.seed], status = run, COUNTED
        splits = " ".join([run.result["split"], *run.server])
        rows.append((str(run.folder), preset, run.seed, splits, " ".join(run.commits), data[:8], status))
    rows += [(str(folder), "", None, "", "", "", why) for folder, why in (damaged or {}).items()]
    columns = ["folder", "preset", "seed", "split", "commit", "data", "status"]
    return RunSelection(by_preset, pd.DataFrame(rows, columns=columns).astype({"seed": "Int64"}))


def _nearest(experiment: Experiment) -> str:
    """Name the preset with the fewest other fields, and these."""
    same = {name: other for name, other in PRESETS.items() if other.benchmark == experiment.benchmark} or PRESETS
    differences = {name: experiment.differences(json.loads(json.dumps(asdict(e)))) for name, e in same.items()}
    name = min(differences, key=lambda n: len(differences[n]))
    return f"{name} but for {'; '.join(d if len(d) < 60 else d.split(':')[0] for d in differences[name])}"
