"""The paper's tables and this study's: reported, reproduced, difference; from `result.json` files and server scores."""

import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from ovenet_core.data import get_dataset
from ovenet_core.evaluation import SERVER_SCORES, mean_metrics
from ovenet_core.study import paper
from ovenet_core.study.grid import OUTPUTS, GridRun
from ovenet_core.study.results import ONE_SCALE, SIX_SCALES, RunSelection
from ovenet_core.training import PRESETS, PROTOCOLS, SYSTEMS, TABLE_5, VARIANTS
from ovenet_core.utils import write_atomically

# fmt: off
METRICS = {  # of result.json: as the paper's tables call them
    "miou": "IoU cla.", "mean_instance_iou": "iIoU cla.", "mean_category_iou": "IoU cat.",
    "mean_category_instance_iou": "iIoU cat.", "pixel_accuracy": "pixel acc.", "mean_accuracy": "mean acc.",
}
SYSTEM_NAMES = {
    "hrnet": "HRNet", "ovenet": "OVeNet", "hrnet-ocr": "HRNet + OCR", "ovenet-ocr": "OVeNet (HRNet + OCR)",
    "hrnet-fine-tuned": "HRNet, fine-tuned", "ovenet-ocr-frozen": "OVeNet (HRNet + OCR), frozen backbone",
}
CHANGE_WORDS = {  # of a variant's fields
    "freeze_backbone": "frozen backbone", "ohem": "without OHEM", "confidence_loss": "without confidence loss",
    "fuse_probabilities": "probabilities fused", "tau": "τ {:g}", "branch_stage": "branch from stage {}",
    "loss_weight": "loss x {:g}",
}
# fmt: on
LATEX_SYMBOLS = {"τ": r"$\tau$", "±": r"$\pm$", "–": "--", "×": r"$\times$", "<": "$<$", ">": "$>$"}
NEXT_SEED_COMMAND = "command for the next seed"
LONG_COLUMNS = ("measure", "runs", NEXT_SEED_COMMAND)  # of texts for which a page of LaTeX has no room
TRAINED = {"train": "trained on train", "trainval": "trained on train+val", "": ""}
_WHERE = "benchmark split condition class"
PAPER_TABLES = {  # by file: the title; the columns that name its rows, its columns and what is compared
    "table1": ("Table 1: Cityscapes test", "method backbone trained", "score", "trained metric"),
    "table2": ("Table 2: Cityscapes test, IoU by class", "scored", "method trained", "class trained"),
    "table3": ("Table 3: ACDC test, IoU by class", "condition scored", "method", "condition class"),
    "table4": ("Table 4: ACDC, mIoU by condition", "method", "condition", "condition"),
    "table5": ("Table 5: Cityscapes val, ablations, mIoU", "method", "score", "metric"),
    "text": ("Section 4.2: scores and gains in the text", f"{_WHERE} method gain", "score", f"{_WHERE} over metric"),
}


@dataclass(frozen=True)
class Table:
    """A table, its files and what is said below it."""

    name: str  # of its files
    kind: str  # paper, protocol (the same of one of ours), architecture, runs, claims, gain_parts, widths, costs or gpu
    title: str
    data: pd.DataFrame  # what the CSV holds
    printed: pd.DataFrame | None = None  # rows and columns as printed, NaN for a dash; `data` if not given
    bold: pd.DataFrame | None = None  # which of the printed texts are
    note: str = ""
    commits: Mapping[str, Sequence[str]] = field(default_factory=dict)  # of each preset whose runs are in it
    folders: Sequence[str] = ()  # of the runs, to be listed below it
    commands: Sequence[str] = ()  # what would run what is missing
    float_format: str | None = None  # of the numbers in the CSV

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
        """Format title, rows, note, the runs behind it and the commands of what was not run, in Markdown."""
        note = [self.note]
        if self.several_commits:
            named = "; ".join(f"{preset} {' '.join(commits)}" for preset, commits in self.commits.items())
            note.append(f"Runs are of several commits: {named}.")
        if self.changed_code:
            note.append(f"Run with code that was changed after its commit (+): {', '.join(self.changed_code)}.")
        parts = [f"## {self.title}", self.markdown_body(), " ".join(filter(None, note))]
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


@dataclass(frozen=True)
class TableCell:
    """One place in a table of scores, and which score belongs there."""

    row: str
    column: str
    best_within: str  # names the cells among which the best is sought
    preset: str  # of the runs; "" for another method, which has only a reported score
    split: str
    metric: str
    class_name: str = ""
    condition: str = ""
    over: str = ""  # the preset whose score, of the same seed, is subtracted; "" for none
    reported: float = np.nan  # by the paper
    decimals: int = 2  # that the paper prints
    output: str = ""  # of the network; "" is the final prediction
    inference: str = ONE_SCALE  # of the runs' scores

    def scores(self, preset: str, selection: RunSelection) -> dict[int, float]:
        """Return by seed the scores of the runs of a preset on this split, NaN where a run has no such score."""
        runs = {seed: run.with_split(self.split) for seed, run in selection.by_preset.get(preset, {}).items()}
        if self.inference == SIX_SCALES:
            runs = {seed: run and run.at_six_scales() for seed, run in runs.items()}
        where = self.metric, self.class_name, self.condition, self.output
        return {seed: run.score(*where) for seed, run in runs.items() if run}

    def as_reported(self, selection: RunSelection) -> "TableCell":
        """Return the cell for the inference that the reported score fits: on val six scales and flip where they exist.

        Of a gain both systems need them. Upstream's HRNet has 81.2 at one scale where the paper's baseline has 81.8.
        """
        six = replace(self, inference=SIX_SCALES)
        presets = [name for name in (self.preset, self.over) if name]
        exists = bool(presets) and self.split == "val" and all(six.scores(name, selection) for name in presets)
        return six if exists else replace(self, inference="the server's" if self.split == "test" else ONE_SCALE)

    def reproduce(self, selection: RunSelection) -> dict[str, Any]:
        """Return a row of a table's `data`: what is reported, what runs say, and the command of what was not run."""
        ours, theirs = (self.scores(preset, selection) for preset in (self.preset, self.over))
        gains = {seed: ours[seed] - theirs[seed] for seed in ours if seed in theirs} if self.over else ours
        scores = {seed: score for seed, score in gains.items() if not np.isnan(score)}
        missing = bool(self.preset) and not scores and (not np.isnan(self.reported) or not ours)
        wanted = [p for p, scored in ((self.preset, ours), (self.over, theirs)) if p and not scored] or [self.preset]
        mean = statistics.fmean(scores.values()) if scores else np.nan
        sd = statistics.stdev(scores.values()) if len(scores) > 1 else np.nan
        state = "reproduced" if scores else "not run" if missing else "none" if self.preset else "reported"
        folders = " ".join(str(selection.by_preset[self.preset][seed].folder) for seed in scores)
        command = "\n".join(command_for(preset, self.split) for preset in wanted) if missing else ""
        kept = ("row", "column", "best_within", "reported", "decimals", "preset")
        found = {"reproduced": mean, "sd": sd, "seeds": len(scores), "difference": mean - self.reported}
        inference = self.inference if scores else ""
        origin = {"state": state, "inference": inference, "folders": folders, "command": command}
        return {name: getattr(self, name) for name in kept} | found | origin


def command_for(preset: str, split: str = "val", seed: int = 0, beside: str = "") -> str:
    """Return the command that runs and scores a preset, and variants `beside` it; for "test", also predicts."""
    protocol, variant = preset.split("/")
    variants = f"'variants=[{variant},{beside}]'" if beside else f"variants={variant}"
    command = f"snakemake --cores 1 --config protocol={protocol} {variants} 'seeds=[{seed}]' scores=True root=runs/grid"
    if split != "test":
        return command
    folder = GridRun(protocol, variant, seed, {}, Path("runs/grid")).folder
    predict = f"papermill notebooks/05_test_inference.ipynb {folder}/05_test_inference.ipynb -p run_folder {folder}"
    then = f"# its archive goes to the server, the server's scores into {folder}/{SERVER_SCORES}"
    return f"{command} && {predict} -p dataset {PRESETS[preset].benchmark}  {then}"


def score_table(name: str, kind: str, title: str, cells: Sequence[TableCell], selection: RunSelection) -> Table:
    """Make the table of these cells."""
    data = pd.DataFrame([cell.reproduce(selection) for cell in cells])
    note = "Scores in %. Reproduced: mean ± standard deviation (random seeds), at one scale without flip unless said"
    note += "; difference: reproduced minus reported. " if data["reported"].notna().any() else ". "
    note += "Bold: the best value; of what was reproduced, among the means of the most seeds."
    if any(cell.split == "val" and cell.reported > 0 for cell in cells):
        note += " Reported val scores fit six scales and flip (docs/divergences.md): where a run has such scores,"
        note += " these stand beside them."
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
    """Format rows and columns as printed (below each: reported, reproduced, difference); say which texts are bold."""
    reported = [f"{r.reported:.{r.decimals}f}" if r.reported > -np.inf else np.nan for r in data.itertuples()]
    texts = pd.DataFrame({"reported": reported, "reproduced": map(_format_mean, data.itertuples())})
    texts["difference"] = data["difference"].map("{:+.2f}".format, na_action="ignore")
    order = pd.MultiIndex.from_product([data["column"].unique(), texts.columns])
    places = pd.MultiIndex.from_frame(data[["row", "column"]], names=[None, None])
    printed, bold = (
        table.set_index(places).unstack().swaplevel(axis=1).reindex(index=data["row"].unique(), columns=order)
        for table in (texts, find_best(data))
    )
    shown = [column for column in order if column[1] == "reproduced" or printed[column].notna().any()]
    printed, bold = printed[shown], bold[shown].eq(True)
    printed.insert(0, ("", ""), printed.index)
    bold.insert(0, ("", ""), False)
    return printed.reset_index(drop=True), bold.reset_index(drop=True)


def _format_mean(row: tuple) -> str | float:
    if row.seeds == 0:
        return "not run" if row.command else np.nan
    spread = "" if np.isnan(row.sd) else f" ± {row.sd:.2f}"
    six = (
        f", {SIX_SCALES}" if row.inference == SIX_SCALES and row.reported > 0 else ""
    )  # without a reported score the row says so
    return f"{row.reproduced:.2f}{spread} ({row.seeds}){six}"


def paper_tables(selection: RunSelection) -> list[Table]:
    """Make Tables 1 to 5 and the scores of the text, with what was reproduced of them on the paper's splits."""
    return [
        score_table(name, "paper", title, [c.as_reported(selection) for c in _paper_cells(name, *columns)], selection)
        for name, (title, *columns) in PAPER_TABLES.items()
    ]


def _paper_cells(name: str, *columns: str) -> list[TableCell]:
    """Make the cells of a table of the paper; the columns given name its rows, its columns and what is compared."""
    table = paper.read(name)
    table = table.assign(**{c: "" for c in ("class", "condition", "over", "split", "trained_on") if c not in table})
    table["metric"] = table["metric"].str.removesuffix(" gain")  # where `over` is not empty
    if name == "text":
        table = table[table["metric"].isin([*METRICS, "iou"]) & (table["preset"] != "")].copy()
    if name == "table2":
        table["trained_on"] = ["trainval" if "trainval" in preset else "train" for preset in table["preset"]]
    if name == "table5":
        table["method"] = [variant_label(preset.split("/")[1]) for preset in table["preset"]]
    table["trained"], table["scored"] = table["trained_on"].map(TRAINED), table["class"].replace("", "mIoU")
    table["score"] = table["metric"].map(METRICS).fillna(table["metric"])
    table["gain"] = [over and f"gain over {SYSTEM_NAMES[over.split('/')[1]]}" for over in table["over"]]
    labels = [table[names.split()].agg(lambda n: ", ".join(filter(None, n)), axis=1) for names in columns]
    again = np.where(pd.concat(labels[:2], axis=1).duplicated(), ", again", "")  # the text names one gain twice
    where = ["preset", "split", "metric", "class", "condition", "over", "value", "decimals"]
    fields = labels[0] + again, labels[1], labels[2] + again, *(table[name] for name in where)
    return [TableCell(*values) for values in zip(*fields, strict=True)]


def protocol_tables(protocol: str, selection: RunSelection) -> list[Table]:
    """Make the same tables of one of our protocols, scored on val: systems, classes, conditions, ablations."""
    words, dataset = PROTOCOLS[protocol].source, get_dataset(PROTOCOLS[protocol].benchmark)

    def cell(variant: str, column: str, metric: str = "miou", **where: str) -> TableCell:
        preset = f"{protocol}/{variant}"
        return TableCell(variant_label(variant), column, column, preset, PRESETS[preset].val_split, metric, **where)

    def at_six_scales(cells: list[TableCell]) -> list[TableCell]:
        """Return further rows for the scores over six scales and flip that exist."""
        six = [
            replace(c, row=f"{c.row}, {SIX_SCALES}", best_within=f"{c.column}, {SIX_SCALES}", inference=SIX_SCALES)
            for c in cells
        ]
        return [c for c in six if c.scores(c.preset, selection)]

    shown = [v for v in SYSTEMS if v in PROTOCOLS[protocol].variants]
    systems = [cell(v, METRICS[metric], metric) for v in shown for metric in mean_metrics(dataset)]

    ablations = [
        *(v for v in TABLE_5 if v in PROTOCOLS[protocol].variants),
        *(v for v in PROTOCOLS[protocol].variants if v not in (*TABLE_5, *SYSTEMS)),
    ]
    outputs = (*OUTPUTS, "")
    classes = dataset.class_names if dataset.num_classes <= 30 else ()
    conditions = (*dataset.conditions, "all") if dataset.conditions else ()
    by_class = [cell(v, name, "iou", class_name=name) for name in classes for v in shown]
    tables = {  # in Table 2 rows and columns change places, so that many classes fit on a page
        1: ("systems", systems + at_six_scales(systems)),
        2: ("IoU by class", [replace(c, row=c.column, column=c.row) for c in by_class]),
        4: ("mIoU by condition", [cell(v, name, condition=name) for v in shown for name in conditions]),
        5: ("ablations, mIoU of each output", [cell(v, o or "final", output=o) for v in ablations for o in outputs]),
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
    variant, changes = VARIANTS[name], VARIANTS[name].changes
    words = ["HRNet" if changes.get("branch_stage", 4) is None else "OVeNet"]
    words += [CHANGE_WORDS[k].format(v) for k, v in changes.items() if v is not None and k != "widen_pretrained"]
    return ", ".join([*words, *(["as many parameters as OVeNet"] if variant.width_factor != 1 else [])])
