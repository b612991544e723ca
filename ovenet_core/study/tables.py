"""The paper's tables and this study's: reported, reproduced, difference; from `result.json` files and server scores."""

import statistics
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from ovenet_core.data import get_dataset
from ovenet_core.evaluation import SERVER_SCORES, mean_metrics
from ovenet_core.study import paper
from ovenet_core.study.grid import GridRun
from ovenet_core.study.results import RunSelection
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
SYSTEM_NAMES = {"hrnet": "HRNet", "ovenet": "OVeNet", "hrnet-ocr": "HRNet + OCR", "ovenet-ocr": "OVeNet (HRNet + OCR)"}
CHANGE_WORDS = {  # of a variant's fields
    "freeze_backbone": "frozen backbone",
    "ohem": "without OHEM",
    "confidence_loss": "without confidence loss",
    "fuse_probabilities": "probabilities fused",
    "tau": "τ {:g}",
    "branch_stage": "branch from stage {}",
    "loss_weight": "loss x {:g}",
}
LATEX_SYMBOLS = {"τ": r"$\tau$", "±": r"$\pm$", "–": "--", "×": r"$\times$", "<": "$<$", ">": "$>$"}
NEXT_SEED_COMMAND = "command for the next seed"
LONG_COLUMNS = ("measure", "runs", NEXT_SEED_COMMAND)  # of texts for which a page of LaTeX has no room


@dataclass(frozen=True)
class Table:
    """A table, its files and what is said below it.

    Attributes:
        name: of its files.
        kind: "paper", "protocol" (the same of a protocol of ours), "architecture", "runs", "claims", "gain_parts",
            "widths", "costs" or "gpu".
        data: what the CSV holds.
        printed: rows and columns as printed, NaN for a dash; `data` if not given.
        bold: which of the printed texts are.
        commits: of each preset whose runs are in it.
        folders: of the runs, to be listed below it.
        commands: what would run what is missing.
        float_format: of the numbers in the CSV.
    """

    name: str
    kind: str
    title: str
    data: pd.DataFrame
    printed: pd.DataFrame | None = None
    bold: pd.DataFrame | None = None
    note: str = ""
    commits: Mapping[str, Sequence[str]] = field(default_factory=dict)
    folders: Sequence[str] = ()
    commands: Sequence[str] = ()
    float_format: str | None = None

    @property
    def several_commits(self) -> bool:
        """Whether its runs are of more than one commit."""
        return len({commit for commits in self.commits.values() for commit in commits}) > 1

    @property
    def changed_code(self) -> list[str]:
        """The presets with runs whose code was changed after its commit ("+")."""
        return [preset for preset, commits in self.commits.items() if any("+" in commit for commit in commits)]

    @property
    def formatted(self) -> pd.DataFrame:
        """The texts of the cells, a dash where there is none."""
        printed = self.data if self.printed is None else self.printed
        return printed.astype(object).where(printed.notna(), "–").map(str)

    def markdown_body(self) -> str:
        """Format rows and columns alone in Markdown."""
        texts = self.formatted if self.bold is None else self.formatted.where(~self.bold, "**" + self.formatted + "**")
        texts.columns = [", ".join(filter(None, c)) if isinstance(c, tuple) else c for c in texts.columns]
        return texts.to_markdown(index=False, disable_numparse=True)

    def markdown(self) -> str:
        """Format the table in Markdown: title, rows, note, the runs behind it and the commands of what was not run."""
        note = [self.note] if self.note else []
        if self.several_commits:
            named = "; ".join(f"{preset} {' '.join(commits)}" for preset, commits in self.commits.items())
            note.append(f"Runs are of several commits: {named}.")
        if self.changed_code:
            note.append(f"Run with code that was changed after its commit (+): {', '.join(self.changed_code)}.")
        parts = [f"## {self.title}", self.markdown_body(), " ".join(note)]
        if self.folders:
            parts.append("Runs: " + ", ".join(f"`{folder}`" for folder in self.folders))
        if self.commands:
            parts.append("\n".join(["Not run; the commands that would:", "", "```sh", *self.commands, "```"]))
        return "\n\n".join(filter(None, parts)) + "\n"

    def latex(self) -> str:
        """Format a tabular of the LaTeX package booktabs."""
        texts = self.formatted.drop(columns=[name for name in LONG_COLUMNS if name in self.data])
        style = texts.style.format(escape="latex").format_index(axis=1, escape="latex").hide()
        if self.bold is not None:
            style = style.apply(lambda _: np.where(self.bold, "textbf:--rwrap", ""), axis=None)
        layout = "l" + ("l" if self.bold is None else "r") * (texts.shape[1] - 1)
        options = {"hrules": True, "caption": self.title, "label": f"tab:{self.name}", "multicol_align": "c"}
        return style.to_latex(column_format=layout, **options).translate(str.maketrans(LATEX_SYMBOLS))

    def write(self, folder: str | Path) -> None:
        """Write `name`.csv, .md and .tex."""
        folder = Path(folder)
        folder.mkdir(parents=True, exist_ok=True)
        csv = self.data.to_csv(index=False, float_format=self.float_format)
        for suffix, text in (("csv", csv), ("md", self.markdown()), ("tex", self.latex())):
            write_atomically(folder / f"{self.name}.{suffix}", lambda f, text=text: f.write(text))


# -- Scores beside those of the paper


@dataclass(frozen=True)
class TableCell:
    """One place in a table of scores, and which score belongs there.

    Attributes:
        row, column: their labels.
        best_within: names the cells among which the best is sought.
        preset: of the runs; "" for another method, which has only a reported score.
        over: the preset whose score, of the same seed, is subtracted; "" for none.
        reported: by the paper; NaN if it has none.
        decimals: that the paper prints.
        output: of the network; "" is the final prediction.
    """

    row: str
    column: str
    best_within: str
    preset: str
    split: str
    metric: str
    class_name: str = ""
    condition: str = ""
    over: str = ""
    reported: float = np.nan
    decimals: int = 2
    output: str = ""

    def scores(self, preset: str, selection: RunSelection) -> dict[int, float]:
        """Return by seed the scores of the runs of a preset on this split, NaN where a run has no such score."""
        runs = {seed: run.with_split(self.split) for seed, run in selection.by_preset.get(preset, {}).items()}
        where = self.metric, self.class_name, self.condition, self.output
        return {seed: run.score(*where) for seed, run in runs.items() if run}

    def reproduce(self, selection: RunSelection) -> dict[str, Any]:
        """Return a row of a table's `data`: what is reported, what runs say, and the command of what was not run."""
        ours, theirs = (self.scores(preset, selection) for preset in (self.preset, self.over))
        gains = {seed: ours[seed] - theirs[seed] for seed in ours if seed in theirs} if self.over else ours
        scores = {seed: score for seed, score in gains.items() if not np.isnan(score)}
        missing = bool(self.preset) and not scores and (not np.isnan(self.reported) or not ours)
        wanted = [p for p, scored in ((self.preset, ours), (self.over, theirs)) if p and not scored] or [self.preset]
        mean = statistics.fmean(scores.values()) if scores else np.nan
        kept = ("row", "column", "best_within", "reported", "decimals", "preset")
        return {name: getattr(self, name) for name in kept} | {
            "reproduced": mean,
            "sd": statistics.stdev(scores.values()) if len(scores) > 1 else np.nan,
            "seeds": len(scores),
            "difference": mean - self.reported,
            "state": "reproduced" if scores else "not run" if missing else "none" if self.preset else "reported",
            "folders": " ".join(str(selection.by_preset[self.preset][seed].folder) for seed in scores),
            "command": "\n".join(command_for(preset, self.split) for preset in wanted) if missing else "",
        }


def command_for(preset: str, split: str = "val", seed: int = 0, beside: str = "") -> str:
    """Return the command that runs and scores a preset, and the variants `beside` it.

    Where labels are withheld, it predicts the test split for the server.
    """
    protocol, variant = preset.split("/")
    variants = f"'variants=[{variant},{beside}]'" if beside else f"variants={variant}"
    command = f"snakemake --cores 1 --config protocol={protocol} {variants} 'seeds=[{seed}]' scores=True root=runs/grid"
    if split != "test":
        return command
    folder = GridRun(protocol, variant, seed, {}, Path("runs/grid")).folder
    return (
        f"{command} && papermill notebooks/05_test_inference.ipynb {folder}/05_test_inference.ipynb "
        f"-p run_folder {folder} -p dataset {PRESETS[preset].benchmark}"
        f"  # its archive goes to the server, the server's scores into {folder}/{SERVER_SCORES}"
    )


def score_table(name: str, kind: str, title: str, cells: Sequence[TableCell], selection: RunSelection) -> Table:
    """Make the table of these cells."""
    data = pd.DataFrame([cell.reproduce(selection) for cell in cells])
    note = "Scores in %. Reproduced: mean ± standard deviation (random seeds), at one scale without flip"
    note += "; difference: reproduced minus reported. " if data["reported"].notna().any() else ". "
    note += "Bold: the best value; of what was reproduced, among the means of the most seeds."
    if any(cell.split == "test" for cell in cells):
        note += " Of test splits: what the servers said of predictions over six scales and flip "
        note += f"({SERVER_SCORES} of a run)."
    printed, bold = format_scores(data)
    commits = {preset: commits for preset in data["preset"].unique() if (commits := selection.commits(preset))}
    folders = sorted({folder for text in data["folders"] for folder in text.split()})
    commands = list(dict.fromkeys(filter(None, "\n".join(data["command"]).split("\n"))))
    return Table(name, kind, title, data, printed, bold, note, commits, folders, commands, float_format="%.4f")


def find_best(data: pd.DataFrame) -> pd.DataFrame:
    """Find the highest number `best_within` its cells, by value; equal ones all are, and a number alone is not.

    Means are compared with means of as many seeds, of the most seeds; a 0 is never the best.
    """
    most = data["seeds"] == data.groupby("best_within", sort=False)["seeds"].transform("max")
    numbers = data[["reported"]].assign(reproduced=data["reproduced"].where(most))
    groups = numbers.groupby(data["best_within"], sort=False)
    return (numbers == groups.transform("max")) & (numbers > 0) & (groups.transform("count") > 1)


def format_scores(data: pd.DataFrame) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Format rows and columns as printed, and say which texts are bold.

    The first column names the rows; below each other one: reported, reproduced and difference, if it has any.
    """
    texts = {
        "reported": [f"{r.reported:.{r.decimals}f}" if r.reported > -np.inf else np.nan for r in data.itertuples()],
        "reproduced": [_format_mean(row) for row in data.itertuples()],
        "difference": [f"{number:+.2f}" if number > -np.inf else np.nan for number in data["difference"]],
    }
    order = pd.MultiIndex.from_product([data["column"].unique(), list(texts)])

    def widen(columns: Mapping[str, Iterable]) -> pd.DataFrame:
        wide = data[["row", "column"]].assign(**columns).set_index(["row", "column"]).unstack("column")
        return wide.swaplevel(axis=1).reindex(index=data["row"].unique(), columns=order)

    printed, bold = widen(texts), widen({**find_best(data), "difference": False}).eq(True)
    shown = [column for column in order if column[1] == "reproduced" or printed[column].notna().any()]
    printed, bold = (wide[shown].rename_axis(index=None, columns=[None, None]) for wide in (printed, bold))
    printed.insert(0, ("", ""), printed.index)
    bold.insert(0, ("", ""), False)
    return printed.reset_index(drop=True), bold.reset_index(drop=True)


def _format_mean(row: tuple) -> str | float:
    if row.seeds == 0:
        return "not run" if row.command else np.nan
    spread = "" if np.isnan(row.sd) else f" ± {row.sd:.2f}"
    return f"{row.reproduced:.2f}{spread} ({row.seeds})"


# -- Which tables there are


def paper_tables(selection: RunSelection) -> list[Table]:
    """Make Tables 1 to 5 and the scores of the text, with what was reproduced of them.

    A run is compared where it was scored on the split that the paper names. Most of its numbers are of test splits,
    whose labels are withheld: those scores come from the benchmarks' servers alone (`SERVER_SCORES`).
    """
    names = ("table1", "table2", "table3", "table4", "table5", "text")
    one, two, three, four, five, text = map(paper.read, names)
    trained = {"train": "trained on train", "trainval": "trained on train+val", "": ""}
    one["trained"] = one["trained_on"].map(trained)
    two["trained"] = [trained["trainval" if "trainval" in preset else "train"] for preset in two["preset"]]
    two["scored"], three["scored"] = (table["class"].replace("", "mIoU") for table in (two, three))
    five["method"] = [variant_label(preset.split("/")[1]) for preset in five["preset"]]
    text = text[text["metric"].str.removesuffix(" gain").isin([*METRICS, "iou"]) & (text["preset"] != "")].copy()
    text["over_name"] = [f"gain over {SYSTEM_NAMES[over.split('/')[1]]}" if over else "" for over in text["over"]]
    # Of each table, the columns of the CSV that name its rows, its columns and what is compared.
    gain = "benchmark split condition class"
    cells = {
        "Table 1: Cityscapes test": _paper_cells(one, "method backbone trained", "metric_name", "trained metric"),
        "Table 2: Cityscapes test, IoU by class": _paper_cells(two, "scored", "method trained", "class trained"),
        "Table 3: ACDC test, IoU by class": _paper_cells(three, "condition scored", "method", "condition class"),
        "Table 4: ACDC, mIoU by condition": _paper_cells(four, "method", "condition", "condition"),
        "Table 5: Cityscapes val, ablations, mIoU": _paper_cells(five, "method", "metric_name", "metric"),
        "Section 4.2: scores and gains in the text": _paper_cells(
            text, f"{gain} method over_name", "metric_name", f"{gain} over metric"
        ),
    }
    return [score_table(n, "paper", title, c, selection) for n, (title, c) in zip(names, cells.items(), strict=True)]


def _paper_cells(table: pd.DataFrame, row: str, column: str, best_within: str) -> list[TableCell]:
    """Make the cells of a table of the paper; the columns given name its rows, its columns and what is compared."""
    table = table.assign(**{name: "" for name in ("class", "condition", "over", "split") if name not in table})
    table["metric"] = table["metric"].str.removesuffix(" gain")  # where `over` is not empty
    table["metric_name"] = table["metric"].map(METRICS).fillna(table["metric"])
    labels = [
        table[names.split()].agg(lambda n: ", ".join(filter(None, n)), axis=1) for names in (row, column, best_within)
    ]
    again = np.where(pd.concat(labels[:2], axis=1).duplicated(), ", again", "")  # the text names one gain twice
    table = table.assign(
        row=labels[0] + again, column=labels[1], best_within=labels[2] + again, reported=table["value"]
    )
    where = ["row", "column", "best_within", "preset", "split", "metric", "class", "condition", "over"]
    return [TableCell(*values) for values in table[[*where, "reported", "decimals"]].itertuples(index=False)]


def protocol_tables(protocol: str, selection: RunSelection) -> list[Table]:
    """Make the same tables of one of our protocols, scored on val: systems, classes, conditions, ablations.

    The paper has no numbers for them; it has some for the first and the last on its own benchmarks (`paper_tables`).
    """
    experiment, words = PROTOCOLS[protocol]
    dataset = get_dataset(experiment.benchmark)

    def cell(variant: str, column: str, metric: str = "miou", **where: str) -> TableCell:
        preset = f"{protocol}/{variant}"
        return TableCell(variant_label(variant), column, column, preset, experiment.val_split, metric, **where)

    ablations = [*TABLE_5, *(v for v in VARIANTS if v not in (*TABLE_5, *SYSTEMS))]
    outputs = {"S_i": "S_i", "S_s": "S_s", "S_f": "S_f", "final": ""}
    classes = dataset.class_names if dataset.num_classes <= 30 else ()
    conditions = (*dataset.conditions, "all") if dataset.conditions else ()
    # In Table 2 rows and columns change places, so that many classes fit on a page: the best is sought along a row.
    by_class = [
        replace(cell(v, n, "iou", class_name=n), row=n, column=variant_label(v)) for n in classes for v in SYSTEMS
    ]
    tables = {
        1: ("systems", [cell(v, METRICS[metric], metric) for v in SYSTEMS for metric in mean_metrics(dataset)]),
        2: ("IoU by class", by_class),
        4: ("mIoU by condition", [cell(v, name, condition=name) for v in SYSTEMS for name in conditions]),
        5: ("ablations, mIoU of each output", [cell(v, n, output=o) for v in ablations for n, o in outputs.items()]),
    }
    title = f"of the protocol {protocol} ({words}), val"
    return [
        score_table(f"{protocol}_table{n}", "protocol", f"Table {n}, {title}: {what}", cells, selection)
        for n, (what, cells) in tables.items()
        if cells
    ]


def variant_label(name: str) -> str:
    """Name a variant in words: its system, and what it changes in it."""
    if name in SYSTEM_NAMES:
        return SYSTEM_NAMES[name]
    variant = VARIANTS[name]
    system = "HRNet" if variant.changes.get("branch_stage", 4) is None else "OVeNet"
    changed = [(k, v) for k, v in variant.changes.items() if v is not None and k != "widen_pretrained"]
    words = [CHANGE_WORDS[field_].format(value) for field_, value in changed]
    return ", ".join([system, *words, *(["as many parameters as OVeNet"] if variant.width_factor != 1 else [])])
