"""Grids: scales x variants x seeds. Each cell is one run of notebook 02 in a folder of its own.

A cell is done if its folder holds a valid `result.json`, and by nothing else. `workflow/Snakefile` runs the others.
"""

import difflib
import itertools
import json
import shutil
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pandas as pd
import yaml

from ovenet_core.evaluation import SERVER_SCORES
from ovenet_core.study.results import read_run
from ovenet_core.training import PROTOCOLS, SYSTEMS, TABLE_5, VARIANTS, Experiment, dataset_of, preset

GRIDS: dict[str, tuple[str, ...]] = {"table-5": TABLE_5, "systems": SYSTEMS, "study": tuple(VARIANTS)}
OPTIONS: dict[str, type] = dict.fromkeys(("data_root", "weights_root", "cache_folder", "device"), str)
OPTIONS |= {"workers": int, "show_images": bool}  # parameters of notebook 02 that do not change the outcome
EXPECTED: dict[str, tuple[str, Callable[[Any], bool]]] = {  # of a grid's keys: in words, and as a test
    "scale": (
        f"one of {', '.join(PROTOCOLS)}, or a list of some of them",
        lambda v: isinstance(v, list) and len(v) > 0 and all(n in list(PROTOCOLS) for n in v),
    ),
    "variants": (
        f"one of {', '.join(GRIDS)}, or a list of some of {', '.join(VARIANTS)}",
        lambda v: isinstance(v, list | tuple) and len(v) > 0 and all(n in list(VARIANTS) for n in v),
    ),
    "seeds": (
        "a list of whole numbers from 0 on",
        lambda v: isinstance(v, list) and len(v) > 0 and all(type(n) is int and n >= 0 for n in v),
    ),
    "overrides": (
        "a mapping of fields of an experiment; init_from is the variant's",
        lambda v: isinstance(v, dict) and "init_from" not in v,
    ),
    "root": ("a folder", lambda v: isinstance(v, str) and v != ""),
    "scores": ("true or false", lambda v: type(v) is bool),
} | {name: (f"of type {kind.__name__}", lambda v, kind=kind: type(v) is kind) for name, kind in OPTIONS.items()}
EXPECTED["data_root"] = (
    "a folder, or where there are several scales a mapping of each to its folder",
    lambda v: isinstance(v, str) or (isinstance(v, dict) and {*map(type, v.values())} == {str}),
)
PREDICTIONS = ("S_i", "S_s", "S_f")
ORIGINS = ("data_fingerprint", "commit")  # in which cells of one table may differ
SCORING = {"04_evaluation": "images.csv.gz", "08_offset_analysis": "offset_analysis.json"}  # what each leaves, last


class GridError(ValueError):
    """A grid that cannot be run; the message says where, what is wrong and what was expected."""


@dataclass(frozen=True)
class GridRun:
    """One variant with one seed, and what its folder says of it."""

    scale: str
    variant: str
    seed: int
    overrides: dict[str, Any]
    root: Path

    @property
    def spec(self) -> Experiment:
        return preset(f"{self.scale}/{self.variant}", **self.overrides)

    @property
    def key(self) -> str:
        """The folder below the root: another one whenever the configuration is another."""
        return f"{self.scale}/{self.variant}-{self.spec.config_hash}/seed{self.seed}"

    @property
    def folder(self) -> Path:
        return self.root / self.key

    @property
    def needs(self) -> "GridRun | None":
        """The cell whose trained network this one starts from: same seed, same overrides."""
        if not self.spec.init_from:
            return None
        scale, variant = self.spec.init_from.split("/")
        return GridRun(scale, variant, self.seed, self.overrides, self.root)

    def result(self) -> dict[str, Any] | None:
        """What result.json says, or None if it is not there, not whole, or of another experiment or seed."""
        try:
            run = read_run(self.folder / "result.json")
        except (OSError, ValueError, RecursionError):
            return None
        return run.result if run.experiment == self.spec and run.seed == self.seed else None

    def state(self) -> str:
        """`done` (a valid result), `failed` (an error in the executed notebook, or a log and nothing to go on from),
        `interrupted` (a snapshot, or a notebook that has not ended; a cell that is being trained reads the same) or
        `missing`."""
        if self.result():
            return "done"
        error, ended = _outcome(self.folder / "02_training.ipynb")
        if error:
            return "failed"
        if not ended or (self.folder / "snapshot.pt").exists():
            return "interrupted"
        return "failed" if (self.folder / "log.txt").exists() else "missing"

    def set_aside(self) -> Path | None:
        """Rename a result.json that is not valid, so that the cell can run; return its new path.

        What a server said of that network is renamed with it. Predictions of a network that is to be trained anew go:
        those of another would be refused beside them.
        """
        if self.result():
            return None
        shutil.rmtree(self.folder / "predictions", ignore_errors=True)
        renamed = {}
        for name in ("result.json", SERVER_SCORES):
            if (path := self.folder / name).exists():
                names = [f"{name}.invalid", *(f"{name}.invalid-{i}" for i in range(2, 1000))]
                aside = next(self.folder / new for new in names if not (self.folder / new).exists())
                renamed[name] = path.rename(aside)
        return renamed.get("result.json")

    @property
    def scored(self) -> dict[str, str]:
        """The notebooks that score this cell's network, and the file in its folder that each leaves."""
        return {name: file for name, file in SCORING.items() if name == "04_evaluation" or self.variant == "ovenet"}

    def scoring_parameters(self) -> dict[str, Any]:
        """What these notebooks are given."""
        folder = str(self.folder.absolute())
        dataset = dataset_of(f"{self.scale}/{self.variant}", self.spec)
        return {"run_folder": folder, "output_folder": folder, "dataset": dataset, "split": self.spec.val_split}

    def parameters(self) -> dict[str, Any]:
        """What notebook 02 is given."""
        values = {"experiment": f"{self.scale}/{self.variant}", "overrides": self.overrides, "seed": self.seed}
        values |= {"run_folder": str(self.folder.absolute())}
        return values | ({"init_from": str(self.needs.folder.absolute())} if self.needs else {})


@dataclass(frozen=True)
class Grid:
    """Scales x variants x seeds, with fields of all their experiments changed."""

    scale: tuple[str, ...] = ("synthetic",)
    variants: tuple[str, ...] = TABLE_5
    seeds: tuple[int, ...] = (0,)
    overrides: dict[str, Any] = field(default_factory=dict)
    root: Path = Path("runs/grid")
    scores: bool = False  # also `04_evaluation` of each cell, and `08_offset_analysis` of those of the variant `ovenet`
    options: dict[str, Any] = field(default_factory=dict)  # other parameters of notebook 02

    @classmethod
    def from_config(cls, config: dict[str, Any]) -> "Grid":
        """The grid that `grid` names (one of `GRIDS`, or a YAML file), with the other keys in place of its own.

        Raises:
            GridError: a key or value that is not expected; the message names the file, the key and what was.
        """
        name = str(config.get("grid", "table-5"))
        if name in GRIDS:
            stored, where = {"variants": name}, f"grid {name}"
        elif Path(name).is_file():
            stored, where = _read_yaml(Path(name)), name
        else:
            raise GridError(f"grid {name!r}: no such file, and not one of {', '.join(GRIDS)}{_near(name, GRIDS)}")
        given = {key: _retyped(value) for key, value in config.items() if key != "grid"}
        values = _checked(stored, where) | _checked(given, "the configuration")
        options = {key: values.pop(key) for key in OPTIONS if key in values}
        grid = cls(**values, options=options)
        for scale in grid.scale:
            try:
                specs = {variant: preset(f"{scale}/{variant}", **grid.overrides) for variant in grid.variants}
            except ValueError as error:
                raise GridError(f"{where}: overrides: {error}") from error
            for a, b in itertools.combinations(specs, 2):
                if specs[a] == specs[b]:
                    raise GridError(f"{where}: overrides make {a} and {b} the same experiment; leave one of them out")
        roots = options.get("data_root", "")
        if set(roots) - set(grid.scale) if isinstance(roots, dict) else roots and len(grid.scale) > 1:
            raise GridError(
                f"{where}: data_root is {roots!r} and scale is {[*grid.scale]}; expected {EXPECTED['data_root'][0]}"
            )
        return grid

    @classmethod
    def from_yaml(cls, path: str | Path) -> "Grid":
        """The grid that a YAML file describes."""
        return cls.from_config({"grid": str(path)})

    def to_yaml(self) -> str:
        """The whole grid as a file that `from_yaml` reads."""
        values = {"scale": [*self.scale], "variants": [*self.variants], "seeds": [*self.seeds]}
        values |= {"overrides": self.overrides, "root": str(self.root), "scores": self.scores}
        return yaml.safe_dump(values | self.options, sort_keys=False)

    def cells(self) -> list[GridRun]:
        """The cells in the order of the grid, each after the one that it needs, which is added if need be."""
        cells: dict[str, GridRun] = {}
        for scale, seed, variant in itertools.product(self.scale, self.seeds, self.variants):
            cell = GridRun(scale, variant, seed, self.overrides, self.root)
            cells |= {c.key: c for c in (cell.needs, cell) if c and c.key not in cells}
        return list(cells.values())

    def options_of(self, cell: GridRun) -> dict[str, Any]:
        """The other parameters of notebook 02 for a cell: of several folders of data, that of its scale."""
        roots = self.options.get("data_root", "")
        return self.options | {"data_root": roots.get(cell.scale, "") if isinstance(roots, dict) else roots}


def state_table(cells: Iterable[GridRun]) -> pd.DataFrame:
    """One row per cell: scale, variant, seed, state."""
    columns = ["scale", "variant", "seed", "state"]
    return pd.DataFrame([(c.scale, c.variant, c.seed, c.state()) for c in cells], columns=columns)


def scores(cells: Iterable[GridRun]) -> pd.DataFrame:
    """One row per cell with a valid result: scale, variant, seed, and mIoU in % of S_i, S_s, S_f and of the answer.

    The network's answer is S_f, of a baseline S_i. Beside them the fingerprint of the data and the commit.
    """
    rows = []
    for cell in cells:
        if result := cell.result():
            miou = {name: 100 * score["miou"] for name, score in result["metrics"].items()}
            rows.append(
                {"scale": cell.scale, "variant": cell.variant, "seed": cell.seed}
                | miou
                | {"answer": miou.get("S_f", miou["S_i"])}
                | {origin: result[origin] for origin in ORIGINS}
            )
    return pd.DataFrame(rows, columns=["scale", "variant", "seed", *PREDICTIONS, "answer", *ORIGINS])


def summarize(cells: Iterable[GridRun]) -> pd.DataFrame:
    """One row per scale and variant: mean and standard deviation (`sd`, n - 1) of `scores`, and the number of seeds."""
    found = scores(cells)
    groups = found.astype(dict.fromkeys([*PREDICTIONS, "answer"], float)).groupby(["scale", "variant"], sort=False)
    columns = {}
    for name in (*PREDICTIONS, "answer"):
        columns |= {name: groups[name].mean(), f"{name} sd": groups[name].std()}  # std divides by n - 1
    return pd.DataFrame(columns | {"seeds": groups["seed"].nunique()})


def _outcome(notebook: Path) -> tuple[bool, bool]:
    """Whether a cell of an executed notebook has an error other than an interruption, and whether papermill has ended.

    (False, True) if there is no such notebook.
    """
    try:
        executed = json.loads(notebook.read_text())
        outputs = [o for cell in executed["cells"] for o in cell.get("outputs", [])]
        begun = executed.get("metadata", {}).get("papermill", {})
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError):
        return False, True
    error = any(o["output_type"] == "error" and o["ename"] != "KeyboardInterrupt" for o in outputs)
    return error, not begun or begun.get("end_time") is not None


def _read_yaml(path: Path) -> dict[str, Any]:
    try:
        values = yaml.safe_load(path.read_text())
    except yaml.YAMLError as error:
        raise GridError(f"{path} is not YAML: {error}") from error
    if not isinstance(values, dict):
        raise GridError(f"{path}: expected `key: value` lines with {', '.join(EXPECTED)}")
    return values


def _retyped(value: Any, inside: bool = False) -> Any:
    """`snakemake --config 'seeds=[0, 1]'` hands on the strings "0" and "1": what YAML takes them for."""
    if isinstance(value, dict):
        return {key: _retyped(v, True) for key, v in value.items()}
    if isinstance(value, list):
        return [_retyped(v, True) for v in value]
    return yaml.safe_load(value) if inside and isinstance(value, str) and value else value


def _checked(values: dict[str, Any], where: str) -> dict[str, Any]:
    """The values as `Grid` takes them."""
    checked = {}
    for key, value in values.items():
        if key not in EXPECTED:
            raise GridError(f"{where}: no key {key!r}{_near(key, EXPECTED)}; expected {', '.join(EXPECTED)}")
        if key == "variants" and isinstance(value, str):
            value = GRIDS.get(value, [value])
        if key == "scale" and isinstance(value, str):
            value = [value]
        if key == "seeds" and type(value) is int:
            value = [value]
        expected, right = EXPECTED[key]
        if not right(value):
            names = {"scale": list(PROTOCOLS), "variants": list(VARIANTS) + list(GRIDS)}.get(key, [])
            hints = [_near(v, names) for v in (value if isinstance(value, list) else [value]) if v not in names]
            raise GridError(f"{where}: {key} is {value!r}{''.join(hints)}; expected {expected}")
        checked[key] = {"scale": tuple, "variants": tuple, "seeds": tuple, "root": Path}.get(key, type(value))(value)
    return checked


def _near(word: Any, names: Iterable[str]) -> str:
    near = difflib.get_close_matches(str(word), list(names), n=1)
    return f" (did you mean {near[0]!r}?)" if near else ""
