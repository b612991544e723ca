"""Grids: protocols x variants x seeds. Each grid run is one run of notebook 02 in a folder of its own.

A grid run is done if its folder holds a valid `result.json`, and by nothing else. `workflow/Snakefile` runs the others.
"""

import itertools
import json
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field, fields, replace
from pathlib import Path
from typing import Annotated, Any

import pandas as pd
import yaml
from pydantic import BeforeValidator, Field

from ovenet_core.evaluation import SERVER_SCORES
from ovenet_core.study.results import IMAGE_COUNTS_FILE, OFFSET_ANALYSIS_FILE, read_run
from ovenet_core.training import PROTOCOLS, STUDY, SYSTEMS, TABLE_5, VARIANTS, Experiment, dataset_of, preset
from ovenet_core.utils import ConfigError, RunError, config_dataclass, right_name

PROJECT = Path(__file__).parents[2]
GRIDS: dict[str, tuple[str, ...]] = {"table-5": TABLE_5, "systems": SYSTEMS, "study": STUDY}
OUTPUTS = ("S_i", "S_s", "S_f")
MIOU = (*OUTPUTS, "final")  # columns of `scores`; final is S_f, of a baseline S_i
ORIGINS = ("data_fingerprint", "commit")  # of the runs in one table, worth a note where they differ
SCORING_NOTEBOOKS = {"04_evaluation": IMAGE_COUNTS_FILE, "08_offset_analysis": OFFSET_ANALYSIS_FILE}  # leave, last


@dataclass(frozen=True)
class GridRun:
    """One variant with one seed, and what its folder says about it."""

    protocol: str
    variant: str
    seed: int
    overrides: dict[str, Any]
    root: Path

    @property
    def experiment(self) -> Experiment:
        return preset(f"{self.protocol}/{self.variant}", **self.overrides)

    @property
    def key(self) -> str:
        """The folder below the root: another configuration has another one."""
        return f"{self.protocol}/{self.variant}-{self.experiment.config_hash}/seed{self.seed}"

    @property
    def folder(self) -> Path:
        return self.root / self.key

    @property
    def depends_on(self) -> "GridRun | None":
        """The grid run whose trained network this one starts from: same seed, same overrides."""
        protocol, _, variant = self.experiment.init_from.partition("/")
        if not variant:  # none, or a file of weights
            return None
        return GridRun(protocol, variant, self.seed, self.overrides, self.root)

    @property
    def scoring_notebooks(self) -> dict[str, str]:
        """The notebooks that score this network, and the file that each leaves in the folder."""
        return SCORING_NOTEBOOKS if self.variant == "ovenet" else {"04_evaluation": IMAGE_COUNTS_FILE}

    def result(self) -> dict[str, Any] | None:
        """Read result.json; None if it does not exist, is not whole, or is of another experiment or seed."""
        try:
            run = read_run(self.folder / "result.json")
        except RunError:
            return None
        return run.result if run.experiment == self.experiment and run.seed == self.seed else None

    def state(self) -> str:
        """Return `done`, `failed`, `interrupted` or `missing`.

        A run failed if its executed notebook has an error, or ended and left no snapshot. It is interrupted if there is
        a snapshot or a notebook that has not ended; a run in progress reads the same.
        """
        if self.result():
            return "done"
        error, ended = False, True
        try:
            executed = json.loads((self.folder / "02_training.ipynb").read_text())
            outputs = [output for cell in executed["cells"] for output in cell.get("outputs", [])]
            error = any(o["output_type"] == "error" and o["ename"] != "KeyboardInterrupt" for o in outputs)
            begun = executed.get("metadata", {}).get("papermill")
            ended = not begun or begun.get("end_time") is not None
        except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError):
            pass  # there is no such notebook
        if not error and (not ended or (self.folder / "snapshot.pt").exists()):
            return "interrupted"
        return "failed" if error or (self.folder / "log.txt").exists() else "missing"

    def quarantine_result(self) -> Path | None:
        """Rename an invalid result.json, so that the run can start, and return its new path.

        A server's scores of that network are renamed too. Its predictions are deleted, because those of a new network
        could not be written next to them.
        """
        if self.result():
            return None
        shutil.rmtree(self.folder / "predictions", ignore_errors=True)
        renamed = dict.fromkeys(("result.json", SERVER_SCORES))
        for path in filter(Path.exists, map(self.folder.joinpath, renamed)):
            asides = (path.with_name(f"{path.name}.invalid{end}") for end in ("", *(f"-{i}" for i in range(2, 1000))))
            renamed[path.name] = path.rename(next(aside for aside in asides if not aside.exists()))
        return renamed["result.json"]

    def parameters(self) -> dict[str, Any]:
        """Return the parameters of notebook 02."""
        values = {"experiment": f"{self.protocol}/{self.variant}", "overrides": self.overrides, "seed": self.seed}
        folders = {"run_folder": self, "init_from": self.depends_on}
        return values | {name: str(run.folder.absolute()) for name, run in folders.items() if run}

    def scoring_parameters(self) -> dict[str, Any]:
        """Return the parameters of the scoring notebooks."""
        folder, experiment = str(self.folder.absolute()), self.experiment
        dataset = dataset_of(f"{self.protocol}/{self.variant}", experiment)
        return {"run_folder": folder, "output_folder": folder, "dataset": dataset, "split": experiment.val_split}


def _check(expected: Callable[[Any], str]) -> BeforeValidator:
    """Refuse a value for which `expected` says what there should be instead."""

    def check(value: Any) -> Any:
        if text := expected(value):
            raise ValueError(text)
        return value

    return BeforeValidator(check)


def _check_name(names: Iterable[str]) -> BeforeValidator:
    return _check(lambda name: "" if name in list(names) else right_name(name, names))


def _listed(value: Any) -> Any:
    """Return one value as a list of one, and the name of a grid as its variants."""
    value = GRIDS.get(value, value) if isinstance(value, str) else value
    return (value,) if isinstance(value, str) or type(value) is int else value


ONE_OR_MORE = (BeforeValidator(_listed), _check(lambda v: "one or more" if v == () else ""))
FOLDER = (BeforeValidator(lambda v: Path(v)), _check(lambda v: "" if v and isinstance(v, str | Path) else "a folder"))
FIELDS = _check(lambda v: "fields of an experiment, but init_from" if "init_from" in v else "")


@config_dataclass
class Grid:
    """Protocols x variants x seeds, with fields of all their experiments changed.

    Raises:
        ConfigError: a key or value that does not exist, with the nearest right name.
    """

    protocol: Annotated[tuple[Annotated[str, _check_name(PROTOCOLS)], ...], *ONE_OR_MORE] = ("synthetic",)
    variants: Annotated[tuple[Annotated[str, _check_name([*VARIANTS, *GRIDS])], ...], *ONE_OR_MORE] = TABLE_5
    seeds: Annotated[tuple[Annotated[int, Field(ge=0)], ...], *ONE_OR_MORE] = (0,)
    overrides: Annotated[dict[str, Any], FIELDS] = field(default_factory=dict)
    root: Annotated[Path, *FOLDER] = Path("runs/grid")
    scores: bool = False  # also run SCORING_NOTEBOOKS
    # Parameters of notebook 02 that do not change the outcome; None leaves the notebook's own.
    data_root: str | dict[str, str] | None = None  # of several protocols, the folder of each
    weights_root: str | None = None
    cache_folder: str | None = None
    device: str | None = None
    workers: int | None = None
    show_images: bool | None = None

    @classmethod
    def from_config(cls, config: Mapping[str, Any]) -> "Grid":
        """Make the grid that `grid` names (one of `GRIDS`, or a YAML file); other keys replace its own.

        Raises:
            ConfigError: `where` is the file or "grid NAME" or "configuration", then the key.
        """
        source = str(config.get("grid", "table-5"))
        if source in GRIDS:
            source, stored = f"grid {source}", {"variants": source}
        elif Path(source).is_file():
            try:
                stored = yaml.safe_load(Path(source).read_text())
            except yaml.YAMLError as error:
                raise ConfigError(source, getattr(error, "problem", error), "YAML", "correct the file") from error
            if not isinstance(stored, dict):
                expected = f"`key: value` lines with {', '.join(f.name for f in fields(cls))}"
                raise ConfigError(source, repr(stored), expected, "correct the file")
        else:
            raise ConfigError("grid", repr(source), f"{right_name(source, GRIDS)}, or a YAML file", "correct the name")
        given = {key: _retyped(value) for key, value in config.items() if key != "grid"}
        for place, values in ((source, stored), ("configuration", stored | given)):
            with _located(place):
                grid = cls(**values)
        with _located(source):
            grid._check_experiments()
        return grid

    def to_yaml(self) -> str:
        """Return the grid as a file that `from_config` reads."""
        values = {name: [*v] if isinstance(v, tuple) else v for name, v in asdict(self).items() if v is not None}
        return yaml.safe_dump(values | {"root": str(self.root)}, sort_keys=False)

    def runs(self) -> list[GridRun]:
        """Return the grid's runs in order, each after the run that it depends on, which is added where needed."""
        runs: dict[str, GridRun] = {}
        for protocol, seed, variant in itertools.product(self.protocol, self.seeds, self.variants):
            run = GridRun(protocol, variant, seed, self.overrides, self.root)
            runs |= {r.key: r for r in (run.depends_on, run) if r and r.key not in runs}
        return list(runs.values())

    def options_of(self, run: GridRun) -> dict[str, Any]:
        """Return the other parameters of notebook 02 for a run, with the data folder of its protocol."""
        names = ("data_root", "weights_root", "cache_folder", "device", "workers", "show_images")
        options = {name: value for name in names if (value := getattr(self, name)) is not None}
        if isinstance(self.data_root, dict):
            options["data_root"] = self.data_root.get(run.protocol, "")
        return options

    def run_missing(self, cores: int = 2, gpus: int = 0) -> None:
        """Run with snakemake what is not done, and print when a run starts, ends or fails.

        `cores` runs go at a time, each on one of this machine's `gpus`. The grid is left in `as_run.yaml` in its root.
        Print all that snakemake says if it did not come as far as a run.
        """
        root, lines, news = self.root.absolute(), [], 0
        root.mkdir(parents=True, exist_ok=True)
        (root / "as_run.yaml").write_text(replace(self, root=root).to_yaml())
        command = [sys.executable, "-m", "snakemake", "--cores", str(cores), "--config", f"grid={root}/as_run.yaml"]
        command += ["--resources", f"gpu={gpus}"] if gpus else []
        pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT}
        with subprocess.Popen(command, cwd=PROJECT, text=True, **pipes) as process:
            for line in process.stdout:
                lines.append(line)
                if line.startswith(("Error", "    log")) or "training " in line or " done" in line:
                    print(line.replace(str(root), root.name), end="")
                    news += 1
        if process.returncode and not news:
            print(*lines, sep="")

    def summary(self) -> pd.DataFrame:
        """Return Table 5 as text: mIoU in % as mean ± standard deviation, number of seeds, the variant's changes."""
        table = summarize(self.runs())
        texts = table.drop(columns="seeds").map("{:.2f}".format).astype(str)
        shown = pd.DataFrame({name: texts[name] + " ± " + texts[f"{name} sd"] for name in MIOU})
        shown = shown.replace({"nan ± nan": "–", " ± nan": ""}, regex=True)
        changes = (VARIANTS[variant].changes.items() for _, variant in table.index)
        changes = [", ".join(f"{name}: {value}" for name, value in change) for change in changes]
        return shown.assign(seeds=table["seeds"], changes=changes)

    def notes(self) -> list[str]:
        """Say what a reader of the summary has to know: runs with other data or code, or none at all."""
        table = scores(self.runs())
        origins = {name: ", ".join(value[:12] for value in table[name].unique()) for name in ORIGINS}
        notes = [f"runs differ in {name}: {values}" for name, values in origins.items() if ", " in values]
        return notes if len(table) else ["no run is done yet"]

    def _check_experiments(self) -> None:
        """Refuse overrides that no experiment takes, experiments that are the same, and unclear folders of data."""
        for protocol in self.protocol:
            with _located("overrides"):
                experiments = {name: preset(f"{protocol}/{name}", **self.overrides) for name in self.variants}
            for a, b in itertools.combinations(experiments, 2):
                if experiments[a] == experiments[b]:
                    raise ConfigError("overrides", f"{a} and {b} the same", "another experiment each", "leave one out")
        roots = self.data_root or ""
        if set(roots) - set(self.protocol) if isinstance(roots, dict) else roots and len(self.protocol) > 1:
            expected = f"a folder for each of {', '.join(self.protocol)}"
            raise ConfigError("data_root", repr(roots), expected, "map each protocol to its folder")


def state_table(runs: Iterable[GridRun]) -> pd.DataFrame:
    """Return a row for each run: protocol, variant, seed, state."""
    columns = ["protocol", "variant", "seed", "state"]
    return pd.DataFrame([(r.protocol, r.variant, r.seed, r.state()) for r in runs], columns=columns)


def scores(runs: Iterable[GridRun]) -> pd.DataFrame:
    """Return a row for each run with a valid result: protocol, variant, seed, `MIOU` in %, `ORIGINS`."""
    rows = []
    for run in runs:
        if result := run.result():
            row = {"protocol": run.protocol, "variant": run.variant, "seed": run.seed}
            row |= {output: 100 * score["miou"] for output, score in result["metrics"].items()}
            rows.append(row | {"final": row.get("S_f", row["S_i"])} | {origin: result[origin] for origin in ORIGINS})
    return pd.DataFrame(rows, columns=["protocol", "variant", "seed", *MIOU, *ORIGINS])


def summarize(runs: Iterable[GridRun]) -> pd.DataFrame:
    """Return, by protocol and variant, mean and standard deviation (`sd`) of `scores`, and the number of seeds."""
    groups = scores(runs).astype(dict.fromkeys(MIOU, float)).groupby(["protocol", "variant"], sort=False)
    table = groups[[*MIOU]].agg(["mean", "std"])  # std divides by n - 1
    table.columns = [name + sd for name in MIOU for sd in ("", " sd")]
    return table.assign(seeds=groups["seed"].nunique())


@contextmanager
def _located(place: str) -> Iterator[None]:
    """Put a place before the field that an error names."""
    try:
        yield
    except ConfigError as error:
        raise ConfigError(f"{place}: {error.where}", error.found, error.expected, error.fix) from None


def _retyped(value: Any, inside: bool = False) -> Any:
    """Return what YAML takes a value for: `snakemake --config 'seeds=[0, 1]'` hands on the strings "0" and "1"."""
    if isinstance(value, dict):
        return {key: _retyped(v, True) for key, v in value.items()}
    if isinstance(value, list):
        return [_retyped(v, True) for v in value]
    return yaml.safe_load(value) if inside and isinstance(value, str) and value else value
