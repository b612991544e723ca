"""All tables, the claims and the costs from the runs in a folder, as files; and the README's section of results.

python -m ovenet_core report            from results/ to results/tables/ and README.md
"""

import argparse
import json
import re
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import pandas as pd

from ovenet_core import training
from ovenet_core.study.architecture_table import architecture
from ovenet_core.study.claims import NEXT, claims, gain_decomposition, widths
from ovenet_core.study.claims import table as claim_table
from ovenet_core.study.comparison import Study
from ovenet_core.study.efficiency import GPU_TITLES, costs, gpu_tables, step_times
from ovenet_core.study.results import Run, RunSelection, find_runs, select_runs
from ovenet_core.study.tables import Table, commit_note, escaped, paper_tables, scale_tables
from ovenet_core.training import VARIANTS
from ovenet_core.utils import write_atomically

SCALES = ("camvid", "camvid-half", "synthetic")
SIZES = {"camvid": "full", "camvid-half": "half"}  # the scales of the README's section, and their size in a word
BEGIN, END = "<!-- results: written by `make results` -->", "<!-- end of results -->"
EXPLAINED = (
    "*Seeds* are random seeds. An interval (95%) is over images and seeds, or over seeds; that of one seed "
    "is over images alone and says nothing of other seeds, however narrow it is. A verdict needs three "
    "seeds of each system and an interval on one side of the bound; *not testable here* is what no run was "
    "made for here. `make results` computes all of it from the runs that are named."
)

BY_WIDTH = (
    "Intervals (95%) are t intervals over random seeds, of the claims' runs. Pixels are those of the label; a "
    "cell of the network's grid is 4 of them wide where images are seen whole, 8 at half size."
)
LONG = ("measure", "runs", NEXT)  # columns of words, which no printed page has room for


@dataclass(frozen=True)
class Report:
    """What can be said from the `result.json` files below some folders.

    Attributes:
        roots: folders of runs.
        scales: those of which tables and claims are made.
    """

    roots: Sequence[str | Path] = ("results",)
    scales: Sequence[str] = SCALES

    @cached_property
    def found(self) -> RunSelection:
        return select_runs(*find_runs(*self.roots))

    @cached_property
    def tables(self) -> list[Table]:
        return [*paper_tables(self.found), *(t for scale in self.scales for t in scale_tables(scale, self.found))]

    @cached_property
    def frames(self) -> dict[str, tuple[str, pd.DataFrame]]:
        """By name of file, the title and the rows of what has other columns: Table 6, claims, causes, costs, runs."""
        frames = {
            "table6": ("Table 6: the architecture, reported and as built", architecture().reset_index()),
            "runs": ("Every result.json: counted, or why it is not", self.found.status),
        }
        steps = {key: time for root in self.roots for key, time in step_times(root).items()}
        for scale in self.scales:
            study = Study(scale, self.found)
            frames[f"{scale}_claims"] = (f"The paper's claims, at the scale {scale}", claim_table(claims(study)))
            parts = claim_table(gain_decomposition(study)).drop(columns=["", "source", "confirmed if", "verdict"])
            parts = parts.rename(columns={"claim": "part"})
            frames[f"{scale}_causes"] = (f"What a gain is made of, at the scale {scale}", parts)
            frames[f"{scale}_widths"] = (f"Near boundaries, by how near that is, at the scale {scale}", widths(study))
            cost = costs(study, steps).round(3).reset_index(names="system")
            title = f"What it costs, at the scale {scale}; hours by the clock, whatever else the machine did"
            frames[f"{scale}_costs"] = (title, cost)
        for root in self.roots:
            tables = gpu_tables(Path(root) / "bench_gpu")
            frames |= {name: (GPU_TITLES[name], frame) for name, frame in tables.items()}
        return frames

    def note(self, name: str) -> str:
        """What has to be said below a frame: of intervals, and of its scale's runs if they are of several commits."""
        scale, _, kind = name.rpartition("_")
        commits = {p: self.found.commits(p) for p in self.found.by_preset if p.split("/")[0] == scale}
        words = {"claims": EXPLAINED, "causes": EXPLAINED, "widths": BY_WIDTH}.get(kind, "")
        return (words + commit_note(commits)).strip()

    def write(self, folder: str | Path) -> list[Path]:
        """Write all of it as .csv, .md and .tex. Returns the files."""
        folder = Path(folder)
        folder.mkdir(parents=True, exist_ok=True)
        for made in self.tables:
            made.write(folder)
        for name, (title, frame) in self.frames.items():
            write_atomically(folder / f"{name}.csv", lambda f, frame=frame: frame.to_csv(f, index=False))
            text = "\n\n".join(filter(None, (f"## {title}", markdown(frame), self.note(name)))) + "\n"
            write_atomically(folder / f"{name}.md", lambda f, text=text: f.write(text))
            tabular = latex(name, title, frame)
            write_atomically(folder / f"{name}.tex", lambda f, text=tabular: f.write(text))
        return sorted(folder.iterdir())

    def answer(self, scale: str) -> str:
        """What the runs of a scale say of the question whether offset vectors help."""
        claimed = self.frames[f"{scale}_claims"][1].set_index("claim")
        caused = self.frames[f"{scale}_causes"][1].set_index("part")

        def said(frame: pd.DataFrame, name: str) -> str:
            return f"{frame.loc[name, 'number [interval]']}, {frame.loc[name, 'seeds']} seeds"

        first, control, parts = "OVeNet beats HRNet", "over twice the loss", []
        verdict = {"confirmed": "Yes", "refuted": "No"}.get(claimed.loc[first, "verdict"], "Not shown")
        parts.append(f"**{verdict}.** OVeNet minus HRNet {said(claimed, first)}")
        if caused.loc[control, "seeds"]:
            parts.append(f"OVeNet minus an HRNet whose semantic loss weighs as much {said(caused, control)}")
        parts.append(f"fusion itself, *S_f* minus *S_i* of the same network, {said(caused, 'of fusion itself')}")
        parts.append(f"training with offsets, *S_i* minus HRNet, {said(caused, 'of joint training')}")
        return "; ".join(parts) + "."

    def readme(self) -> str:
        """The README's section: the answer, each run with its link, the claims and the causes, of both sizes."""
        parts = ["**Do offset vectors help?** Differences in points of mIoU, with intervals:", ""]
        parts += [f"- CamVid at {size} size: {self.answer(scale)}" for scale, size in SIZES.items()]
        parts += ["", "| run | size | seed | inference | *S_i* | *S_s* | *S_f* |", "|---|---|---|---|---|---|---|"]
        for scale, size in SIZES.items():
            study = Study(scale, self.found)
            runs = [(v, run) for v in VARIANTS for _, run in sorted(study.runs(v).items())]
            parts += [row for variant, run in runs for row in _rows(variant, size, run)]
        for kind, title in (("claims", "The paper's claims"), ("causes", "What a gain is made of")):
            links = ", ".join(f"[{size} size](results/tables/{scale}_{kind}.md)" for scale, size in SIZES.items())
            parts += [
                "",
                f"**{title}** (with measures, runs and commands: {links}).",
                "",
                markdown(self._beside_each_other(kind)),
            ]
        links = ", ".join(f"[{size} size](results/tables/{scale}_widths.md)" for scale, size in SIZES.items())
        parts += ["", f'How far from a boundary "near" is matters to claims 4 to 7: {links}.']
        notes = [
            f"Runs at {size} size are of several commits ([which](results/tables/runs.md))."
            for scale, size in SIZES.items()
            if "several commits" in self.note(f"{scale}_costs")
        ]
        return "\n".join([*parts, "", " ".join([EXPLAINED, *notes, "More: [`docs/study.md`](docs/study.md)."])])

    def _beside_each_other(self, kind: str) -> pd.DataFrame:
        """Claims or causes of the README's scales in one table."""
        shown = [c for c in ("verdict", "number [interval]", "seeds") if kind == "claims" or c != "verdict"]
        frames = {size: self.frames[f"{scale}_{kind}"][1] for scale, size in SIZES.items()}
        first = next(iter(frames.values()))
        names = first[["", "claim", "unit", "confirmed if"] if kind == "claims" else ["part", "unit"]]
        columns = [
            frame[shown].rename(columns=lambda c, size=size: f"{size} size: {c}") for size, frame in frames.items()
        ]
        return pd.concat([names, *columns], axis=1)

    def gpu(self) -> str:
        """The tables of docs/gpu.md."""
        parts = [
            text
            for name, title in GPU_TITLES.items()
            if name in self.frames
            for text in (f"**{title}**", markdown(self.frames[name][1]))
        ]
        return "\n\n".join(parts)


def markdown(frame: pd.DataFrame) -> str:
    """A table in Markdown; a dash for what is not there."""
    return frame.astype(object).where(frame.notna(), "–").to_markdown(index=False, disable_numparse=True)


def latex(name: str, title: str, frame: pd.DataFrame) -> str:
    """A tabular of the LaTeX package booktabs, without the columns that are long."""
    frame = frame.drop(columns=[name for name in LONG if name in frame])
    texts = frame.astype(object).where(frame.notna(), "–").map(lambda value: escaped(str(value)))
    texts.columns = [escaped(column) for column in texts.columns]
    options = {"hrules": True, "caption": escaped(title), "label": f"tab:{name}"}
    return texts.style.hide().to_latex(column_format="l" * texts.shape[1], **options)


def _rows(variant: str, size: str, run: Run) -> list[str]:
    """A row of the README for each file of scores in a run's folder."""
    rows = []
    for name, inference in (("result.json", "one scale"), ("evaluation_six_scales.json", "six scales, flip")):
        if (path := run.folder / name).exists():
            metrics = json.loads(path.read_text())["metrics"]
            scores = [f"{100 * metrics[o]['miou']:.2f}" if o in metrics else "–" for o in ("S_i", "S_s", "S_f")]
            cells = [f"[{variant}]({path.as_posix()})", size, str(run.seed), inference, *scores]
            rows.append(f"| {' | '.join(cells)} |")
    return rows


def with_section(text: str, section: str) -> str:
    """A page with another section of results between its two marks; ValueError if it has not both."""
    if not re.search(f"{re.escape(BEGIN)}.*{re.escape(END)}", text, re.DOTALL):
        raise ValueError(f"expected a page with the lines {BEGIN} and {END}, between which the results go")
    whole = f"{BEGIN}\n\n{section}\n\n{END}"
    return re.sub(f"{re.escape(BEGIN)}.*{re.escape(END)}", lambda _: whole, text, count=1, flags=re.DOTALL)


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--roots", nargs="+", default=["results"], help="folders with runs, such as results runs/grid")
    parser.add_argument(
        "--scales",
        nargs="+",
        default=SCALES,
        choices=list(training.PROTOCOLS),
        metavar="SCALE",
        help="of which tables and claims are made beside the paper's, such as cityscapes acdc ade20k; "
        "the README's section needs camvid and camvid-half among them",
    )
    parser.add_argument("--tables", default="results/tables", help="where the tables go")
    parser.add_argument(
        "--readme",
        default="README.md",
        help="whose section of results is written anew, and docs/gpu.md beside it; '' for none",
    )
    options = parser.parse_args(argv)
    report = Report(options.roots, options.scales)
    print(f"{len(report.write(options.tables))} files in {options.tables}")
    if options.readme:
        path = Path(options.readme)
        for file, section in ((path, report.readme()), (path.parent / "docs/gpu.md", report.gpu())):
            text = with_section(file.read_text(), section)
            write_atomically(file, lambda f, text=text: f.write(text))
            print(f"{file}: section of results written")


if __name__ == "__main__":
    main()
