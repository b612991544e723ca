"""The paper's tables and this study's: reported, reproduced, difference; from `result.json` files and server scores."""

import statistics
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from ovenet_core.data import get_dataset
from ovenet_core.evaluation import SERVER_SCORES, mean_metrics
from ovenet_core.study import paper
from ovenet_core.study.grid import GridRun
from ovenet_core.study.results import Run, RunSelection
from ovenet_core.training import PRESETS, PROTOCOLS, SYSTEMS, TABLE_5, VARIANTS
from ovenet_core.utils import write_atomically

METRICS = {  # of result.json: as the paper's tables call them
    "miou": "IoU cla.",
    "mean_instance_iou": "iIoU cla.",
    "mean_category_iou": "IoU cat.",
    "mean_category_instance_iou": "iIoU cat.",
    "pixel_accuracy": "pixel acc.",
    "mean_accuracy": "mean acc.",
}
NAMES = {"hrnet": "HRNet", "ovenet": "OVeNet", "hrnet-ocr": "HRNet + OCR", "ovenet-ocr": "OVeNet (HRNet + OCR)"}
GAIN = " gain"


# -- Tables


@dataclass(frozen=True)
class Table:
    """Numbers of one table, long: what is printed in one cell is one row.

    Attributes:
        name: of its files.
        frame: `row` and `column` (texts), `among` (the cells of which the best is sought), `reported` (NaN where the
            paper has none), `reproduced`, `sd`, `seeds`, `difference`, `state`, `decimals`, `folders`, `command`.
        note: what has to be said below it.
    """

    name: str
    title: str
    frame: pd.DataFrame
    note: str = ""

    @cached_property
    def best(self) -> pd.DataFrame:
        """Whether a number is the highest of those it stands `among`, by value; equal ones all are. Alone, none is.

        Means are compared with means of as many seeds, of those with most; a 0 is never the best.
        """
        most = self.frame["seeds"] == self.frame.groupby("among", sort=False)["seeds"].transform("max")
        compared = self.frame.assign(reproduced=self.frame["reproduced"].where(most))
        groups = compared.groupby("among", sort=False)
        return pd.DataFrame(
            {
                name: (compared[name] == groups[name].transform("max"))
                & (compared[name] > 0)
                & (groups[name].transform("count") > 1)
                for name in ("reported", "reproduced")
            }
        )

    def texts(self, bold: str = "{}") -> pd.DataFrame:
        """Rows and columns as printed; under each column: reported, reproduced, difference. The best through `bold`."""
        parts = {}
        for name, text in (("reported", _reported), ("reproduced", _reproduced), ("difference", _difference)):
            best = self.best.get(name, pd.Series(False, self.frame.index))
            parts[name] = [
                bold.format(text(row)) if b else text(row)
                for (_, row), b in zip(self.frame.iterrows(), best, strict=True)
            ]
        long = self.frame[["row", "column"]].assign(**parts).set_index(["row", "column"])
        wide = long.unstack("column").swaplevel(axis=1)
        order = pd.MultiIndex.from_product([self.frame["column"].unique(), list(parts)])
        wide = wide.reindex(index=self.frame["row"].unique(), columns=order).fillna("–")
        wide = wide.loc[:, [any(t != "–" for t in wide[c]) or c[1] == "reproduced" for c in wide.columns]]
        return wide.rename_axis(index=None, columns=[None, None])

    def missing(self) -> list[str]:
        """The commands that would run what is not there, each once."""
        commands = [command for several in self.frame["command"] for command in several.split("\n")]
        return list(dict.fromkeys(filter(None, commands)))

    def write(self, folder: str | Path) -> None:
        """Write `name`.csv (long, with folders and commands), .md and .tex."""
        folder = Path(folder)
        folder.mkdir(parents=True, exist_ok=True)
        write_atomically(folder / f"{self.name}.csv", lambda f: self.frame.to_csv(f, index=False, float_format="%.4f"))
        write_atomically(folder / f"{self.name}.md", lambda f: f.write(self.markdown()))
        write_atomically(folder / f"{self.name}.tex", lambda f: f.write(self.latex()))

    def markdown(self) -> str:
        """The table with its note, the runs behind it and the commands of what was not run."""
        texts = self.texts("**{}**")
        texts.columns = [", ".join(column) for column in texts.columns]
        lines = [f"## {self.title}", "", texts.to_markdown(), "", self.note, ""]
        if folders := sorted({folder for text in self.frame["folders"] for folder in text.split()}):
            lines += ["Runs: " + ", ".join(f"`{folder}`" for folder in folders), ""]
        if commands := self.missing():
            lines += ["Not run; the commands that would:", "", "```sh", *commands, "```", ""]
        return "\n".join(lines)

    def latex(self) -> str:
        """A tabular in the manner of booktabs."""
        texts = self.texts("\\textbf{{{}}}").map(lambda t: t.replace("±", r"$\pm$").replace("–", "--"))
        texts.index = [escaped(text) for text in texts.index]
        texts.columns = pd.MultiIndex.from_tuples([tuple(map(escaped, c)) for c in texts.columns])
        options = {"hrules": True, "caption": escaped(self.title), "label": f"tab:{self.name}", "multicol_align": "c"}
        return texts.style.to_latex(column_format="l" + "r" * texts.shape[1], **options)


def escaped(text: str) -> str:
    for old, new in (
        ("_", r"\_"),
        ("%", r"\%"),
        ("τ", r"$\tau$"),
        ("±", r"$\pm$"),
        ("–", "--"),
        ("×", r"$\times$"),
        ("<", "$<$"),
        (">", "$>$"),
    ):
        text = text.replace(old, new)
    return text


def _reported(row: pd.Series) -> str:
    return "–" if np.isnan(row["reported"]) else f"{row['reported']:.{row['decimals']}f}"


def _reproduced(row: pd.Series) -> str:
    if row["seeds"] == 0:
        return "not run" if row["command"] else "–"
    spread = "" if np.isnan(row["sd"]) else f" ± {row['sd']:.2f}"
    return f"{row['reproduced']:.2f}{spread} ({row['seeds']})"


def _difference(row: pd.Series) -> str:
    return "–" if np.isnan(row["difference"]) else f"{row['difference']:+.2f}"


def command_for(preset: str, split: str = "val", seed: int = 0, beside: str = "") -> str:
    """What would run and score a preset, and the variant `beside` it; where labels are withheld, predict its test split
    for the server."""
    scale, variant = preset.split("/")
    variants = f"'variants=[{variant},{beside}]'" if beside else f"variants={variant}"
    command = f"snakemake --cores 1 --config scale={scale} {variants} 'seeds=[{seed}]' scores=True root=runs/grid"
    if split != "test":
        return command
    folder = GridRun(scale, variant, seed, {}, Path("runs/grid")).folder
    return (
        f"{command} && papermill notebooks/05_test_inference.ipynb {folder}/05_test_inference.ipynb "
        f"-p run_folder {folder} -p dataset {PRESETS[preset].benchmark}"
        f"  # its archive goes to the server, the server's scores into {folder}/{SERVER_SCORES}"
    )


def _reproduce(cells: Iterable[dict[str, Any]], found: RunSelection) -> pd.DataFrame:
    """Fill in what runs say of each cell: row, column, among, reported, decimals, preset, split, metric, class, …"""
    rows = []
    for cell in cells:
        runs = _runs_of(found, cell["preset"], cell["split"])
        values = {seed: _value(run, found, cell) for seed, run in runs.items()}
        values = {seed: value for seed, value in values.items() if not np.isnan(value)}
        mean = statistics.fmean(values.values()) if values else np.nan
        asked = cell["preset"] and not values and (cell["reported"] == cell["reported"] or not runs)
        pair = [cell["preset"], cell["over"]] if cell["metric"].endswith(GAIN) else [cell["preset"]]
        wanted = [preset for preset in pair if not _runs_of(found, preset, cell["split"])] or [cell["preset"]]
        rows.append(
            {name: cell[name] for name in ("row", "column", "among", "reported", "decimals", "preset")}
            | {
                "reproduced": mean,
                "sd": statistics.stdev(values.values()) if len(values) > 1 else np.nan,
                "seeds": len(values),
                "difference": mean - cell["reported"],
                "state": "reproduced"
                if values
                else "not run"
                if asked
                else "reported"
                if not cell["preset"]
                else "none",
                "folders": " ".join(str(runs[seed].folder) for seed in values),
                "command": "\n".join(command_for(preset, cell["split"]) for preset in wanted) if asked else "",
            }
        )
    return pd.DataFrame(rows)


def _runs_of(found: RunSelection, preset: str, split: str) -> dict[int, Run]:
    return {seed: scored for seed, run in found.by_preset.get(preset, {}).items() if (scored := run.on(split))}


def _value(run: Run, found: RunSelection, cell: dict[str, Any]) -> float:
    """The score of a run; of a gain, the difference to the run of the same seed that it is over."""
    where = cell["metric"].removesuffix(GAIN), cell["class"], cell["condition"]
    if not cell["metric"].endswith(GAIN):
        return run.score(*where, cell.get("output", ""))
    other = _runs_of(found, cell["over"], cell["split"]).get(run.seed)
    return run.score(*where) - other.score(*where) if other else np.nan


def _cells(frame: pd.DataFrame, row: Sequence[str], column: Sequence[str], among: Sequence[str]) -> list[dict]:
    """The cells of a table of the paper: the columns that name its rows, its columns and what is compared."""
    frame = frame.assign(**{name: "" for name in ("class", "condition", "over", "split") if name not in frame})
    frame = frame.assign(reported=frame["value"], metric_name=frame["metric"].map(_metric_name))
    cells = frame.to_dict("records")
    for cell in cells:
        for name, parts in (("row", row), ("column", column), ("among", among)):
            cell[name] = ", ".join(str(cell[part]) for part in parts if str(cell[part]) not in ("", "nan"))
    seen = set()
    for cell in cells:  # the text names one gain twice
        if (cell["row"], cell["column"]) in seen:
            cell |= {"row": f"{cell['row']}, again", "among": f"{cell['among']}, again"}
        seen.add((cell["row"], cell["column"]))
    return cells


def _metric_name(metric: str) -> str:
    return METRICS.get(metric.removesuffix(GAIN), metric.removesuffix(GAIN))


def paper_tables(found: RunSelection) -> list[Table]:
    """Tables 1 to 5 and the scores of the text, with what was reproduced of them.

    A run is compared where it was scored on the split that the paper names: most of its numbers are of test splits,
    whose labels are withheld, so that they come from the benchmarks' servers alone (`submission.read_scores`).
    """
    tables = {n: paper.read(n) for n in ("table1", "table2", "table3", "table4", "table5", "text")}
    text = tables["text"]
    text = text[text["metric"].str.removesuffix(GAIN).isin([*METRICS, "iou"]) & (text["preset"] != "")].copy()
    trained = {"train": "trained on train", "trainval": "trained on train+val", "": ""}
    for name in ("table1", "table2"):
        frame = tables[name]
        part = frame.get("trained_on", frame["preset"].map(lambda p: "trainval" if "trainval" in p else "train"))
        tables[name] = frame.assign(trained=part.map(trained))
    for name in ("table2", "table3"):
        tables[name] = tables[name].assign(scored=tables[name]["class"].replace("", "mIoU"))
    five = tables["table5"]
    tables["table5"] = five.assign(method=five["preset"].map(lambda p: variant_label(p.split("/")[1])))
    text["over_name"] = text["over"].map(lambda over: f"gain over {NAMES[over.split('/')[1]]}" if over else "")
    shapes = {  # its title; what names rows and columns, and what is the same for all of which the best is sought
        "table1": (
            "Table 1: Cityscapes test",
            ("method", "backbone", "trained"),
            ("metric_name",),
            ("trained", "metric"),
        ),
        "table2": ("Table 2: Cityscapes test, IoU by class", ("scored",), ("method", "trained"), ("class", "trained")),
        "table3": ("Table 3: ACDC test, IoU by class", ("condition", "scored"), ("method",), ("condition", "class")),
        "table4": ("Table 4: ACDC, mIoU by condition", ("method",), ("condition",), ("condition",)),
        "table5": ("Table 5: Cityscapes val, ablations, mIoU", ("method",), ("metric_name",), ("metric",)),
        "text": (
            "Section 4.2: scores and gains in the text",
            ("benchmark", "split", "condition", "class", "method", "over_name"),
            ("metric_name",),
            ("benchmark", "split", "condition", "class", "over", "metric"),
        ),
    }
    return [
        _table(name, title, _cells(text if name == "text" else tables[name], *keys), found)
        for name, (title, *keys) in shapes.items()
    ]


def _table(name: str, title: str, cells: list[dict], found: RunSelection) -> Table:
    """The table of these cells; says where runs of several commits stand in one mean."""
    frame = _reproduce(cells, found)
    commits = {p: c for p in dict.fromkeys(frame["preset"]) if (c := found.commits(p))}
    note = "Scores in %. Reproduced: mean ± standard deviation (random seeds), at one scale without flip"
    note += "; difference: reproduced minus reported. " if frame["reported"].notna().any() else ". "
    note += "Bold: the best value; of what was reproduced, among the means of the most seeds."
    if any(cell["split"] == "test" for cell in cells):
        servers = f"what the servers said of predictions over six scales and flip ({SERVER_SCORES} of a run)"
        note += f" Of test splits: {servers}."
    return Table(name, title, frame, note + commit_note(commits))


def commit_note(commits: Mapping[str, Sequence[str]]) -> str:
    """What has to be said of the commits of each preset's runs: where there are several, and code that was changed."""
    note = ""
    if len({one for several in commits.values() for one in several}) > 1:
        named = "; ".join(f"{preset} {' '.join(several)}" for preset, several in commits.items())
        note += f" Runs are of several commits: {named}."
    changed = [preset for preset, several in commits.items() if any("+" in one for one in several)]
    return note + (f" Run with code that was changed after its commit (+): {', '.join(changed)}." if changed else "")


def variant_label(name: str) -> str:
    """A variant in words: its system, and what it changes in it."""
    if name in NAMES:
        return NAMES[name]
    changes = {k: v for k, v in VARIANTS[name].changes.items() if k not in ("init_from", "widen_pretrained")}
    system = "HRNet" if changes.get("branch_stage", 4) is None else "OVeNet"
    words = {
        "freeze_backbone": "frozen backbone",
        "ohem": "without OHEM",
        "confidence_loss": "without confidence loss",
        "fuse_probabilities": "probabilities fused",
        "tau": "τ {:g}",
        "branch_stage": "branch from stage {}",
        "loss_weight": "loss x {:g}",
        "width": "as many parameters as OVeNet",
    }
    parts = [words[key].format(value) for key, value in changes.items() if value is not None]
    return f"{system}, {', '.join(parts)}"


def scale_tables(scale: str, found: RunSelection) -> list[Table]:
    """The same tables of one of our scales, scored on val: systems, classes, conditions, ablations.

    The paper has no numbers for them; it has for the first and the last on its own benchmarks (`paper_tables`).
    """
    data = get_dataset(PROTOCOLS[scale][0].benchmark)
    common = {"reported": np.nan, "decimals": 2, "split": PROTOCOLS[scale][0].val_split, "class": "", "condition": ""}

    def cells(variants: Iterable[str], columns: Sequence[dict[str, str]]) -> list[dict]:
        return [
            common | {"row": variant_label(v), "preset": f"{scale}/{v}", "among": column["column"]} | column
            for v in variants
            for column in columns
        ]

    by_metric = [{"column": METRICS[m], "metric": m} for m in mean_metrics(data)]
    by_output = [{"column": o, "metric": "miou", "output": o} for o in ("S_i", "S_s", "S_f")]
    by_output.append({"column": "answer", "metric": "miou", "output": ""})
    # Rows and columns change places, so that many classes fit on a page: the best is sought along a row.
    names = data.class_names if data.num_classes <= 30 else ()
    by_class = [
        common
        | {
            "row": name,
            "column": variant_label(v),
            "among": name,
            "preset": f"{scale}/{v}",
            "metric": "iou",
            "class": name,
        }
        for name in names
        for v in SYSTEMS
    ]
    by_condition = [{"column": c, "metric": "miou", "condition": c} for c in (*data.conditions, "all")]
    ablations = [*TABLE_5, *(v for v in VARIANTS if v not in (*TABLE_5, *SYSTEMS))]
    made = [(1, "systems", cells(SYSTEMS, by_metric)), (2, "IoU by class", by_class)]
    made += [(4, "mIoU by condition", cells(SYSTEMS, by_condition))] if data.conditions else []
    made += [(5, "ablations, mIoU of each output", cells(ablations, by_output))]
    title = "Table {}, at the scale " + f"{scale} ({PROTOCOLS[scale][1]}), val: " + "{}"
    return [_table(f"{scale}_table{n}", title.format(n, what), c, found) for n, what, c in made if c]


def _order(text: str) -> tuple:
    return (text != "Semantic" and not text[0].isdigit(), len(text), text)
