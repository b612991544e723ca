"""All tables, the claims and the costs from the runs in some folders, as files; and the README's section of results."""

import argparse
import itertools
import json
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import pandas as pd

from ovenet_core.study.architecture_table import architecture
from ovenet_core.study.claims import INTERVAL, Claim, band_width_table, claims, gain_decomposition, tested_table
from ovenet_core.study.comparison import Study
from ovenet_core.study.efficiency import cost_table, gpu_tables, step_times
from ovenet_core.study.grid import OUTPUTS
from ovenet_core.study.results import ONE_SCALE, SIX_SCALES, SIX_SCALES_FILE, RunSelection, find_runs, select_runs
from ovenet_core.study.tables import Table, paper_tables, protocol_tables
from ovenet_core.training import PROTOCOLS, VARIANTS
from ovenet_core.utils import ConfigError, write_atomically

REPORTED = ("camvid", "camvid-half", "synthetic")  # protocols
README_SIZES = {"camvid": "full", "camvid-half": "half"}  # the protocols of the README's section: their image size
FILES = {"result.json": ONE_SCALE, SIX_SCALES_FILE: SIX_SCALES}  # of scores: the inference
BEGIN, END = "<!-- results: written by `make results` -->", "<!-- end of results -->"
HOW_TO_READ = (
    "*Seeds* are random seeds. An interval (95%) is over images and seeds, or over seeds. With one seed it is over "
    "images alone: it says nothing of other seeds, however narrow it is. A verdict needs three seeds of each system "
    "and an interval on one side of the bound; *not testable here* means that no such run was made. `make results` "
    "computes all of it from the runs that are named."
)
HOW_TO_READ_WIDTHS = (
    "Intervals (95%) are t intervals over random seeds, of the claims' runs. Widths are in pixels of the label; an "
    "output pixel of the network is 4 of them wide where images are seen whole, and 8 at half size."
)


@dataclass(frozen=True)
class Report:
    """What can be said from the `result.json` files below some folders; claims are of each of some protocols."""

    roots: Sequence[str | Path] = ("results",)
    protocols: Sequence[str] = REPORTED

    @cached_property
    def selection(self) -> RunSelection:
        return select_runs(*find_runs(*self.roots))

    @cached_property
    def studies(self) -> dict[str, Study]:
        return {protocol: Study(protocol, self.selection) for protocol in self.protocols}

    @cached_property
    def claims(self) -> dict[str, dict[str, Claim]]:
        """The claims and the parts of a gain, by protocol and id."""
        tested = {protocol: (*claims(study), *gain_decomposition(study)) for protocol, study in self.studies.items()}
        return {protocol: {claim.id: claim for claim in of_it} for protocol, of_it in tested.items()}

    @cached_property
    def tables(self) -> dict[str, Table]:
        """All tables, by name."""
        title = "Table 6: the architecture, reported and as built"
        tables = [*paper_tables(self.selection), Table("table6", "architecture", title, architecture().reset_index())]
        for protocol in self.protocols:
            tables += [*protocol_tables(protocol, self.selection), *self._study_tables(protocol)]
        tables += [table for root in self.roots for table in gpu_tables(Path(root) / "bench_gpu")]
        tables.append(Table("runs", "runs", "Every result.json: counted, or why it is not", self.selection.status))
        return {table.name: table for table in tables}

    def of_kind(self, *kinds: str) -> list[Table]:
        """Return the tables of some kinds (`Table.kind`)."""
        return [table for table in self.tables.values() if table.kind in kinds]

    def _study_tables(self, protocol: str) -> list[Table]:
        """Make the tables of claims, parts of a gain, widths and costs."""
        study, tested = self.studies[protocol], [*self.claims[protocol].values()]
        commits = {p: self.selection.commits(p) for p in self.selection.by_preset if p.split("/")[0] == protocol}
        steps = {key: time for root in self.roots for key, time in step_times(root).items()}
        costs = cost_table(study, steps).round(3).reset_index(names="system")
        tables = {
            "claims": ("claims", "The paper's claims", tested_table(tested, "claim"), HOW_TO_READ),
            "causes": ("gain_parts", "Parts of a gain", tested_table(tested, "gain_part"), HOW_TO_READ),
            "widths": ("widths", "Near boundaries, by how near that is", band_width_table(study), HOW_TO_READ_WIDTHS),
            "costs": ("costs", "Costs (hours by the clock, whatever else the machine did)", costs, ""),
        }
        return [
            Table(f"{protocol}_{name}", kind, f"{title}, protocol {protocol}", data, note=note, commits=commits)
            for name, (kind, title, data, note) in tables.items()
        ]

    def write(self, folder: str | Path) -> list[Path]:
        """Write all tables as .csv, .md and .tex. Returns the files in the folder."""
        for table in self.tables.values():
            table.write(folder)
        return sorted(Path(folder).iterdir())

    def headline(self, protocol: str) -> str:
        """Say in a sentence what the runs of a protocol say about whether offset vectors help."""
        tested = self.claims[protocol]
        parts = {
            "1": "OVeNet minus HRNet",
            "over_loss": "OVeNet minus an HRNet whose semantic loss weighs as much",
            "fusion": "fusion itself, *S_f* minus *S_i* of the same network,",
            "joint_training": "training with offsets, *S_i* minus HRNet,",
        }
        if not tested["over_loss"].estimate.seeds:
            del parts["over_loss"]
        said = [f"{words} {tested[id_].interval}, {tested[id_].estimate.seeds} seeds" for id_, words in parts.items()]
        verdict = {"confirmed": "Yes", "refuted": "No"}.get(tested["1"].verdict, "Not shown")
        return f"**{verdict}.** {'; '.join(said)}."

    def readme(self) -> str:
        """Write the README's section: the headline, each run with its link, the claims and the parts of a gain."""
        if missing := [protocol for protocol in README_SIZES if protocol not in self.protocols]:
            fix = "add them, or leave the README alone (--readme '')"
            raise ConfigError("protocols", f"no {', '.join(missing)}", "the README's protocols among them", fix)
        links = {
            name: ", ".join(f"[{size} size](results/tables/{p}_{name}.md)" for p, size in README_SIZES.items())
            for name in ("claims", "causes", "widths")
        }
        several = [size for p, size in README_SIZES.items() if self.tables[f"{p}_costs"].several_commits]
        notes = [f"Runs at {size} size are of several commits ([which](results/tables/runs.md))." for size in several]
        runs = [row for protocol, size in README_SIZES.items() for row in self._run_rows(protocol, size)]
        parts = [
            "**Do offset vectors help?** Differences in points of mIoU, with intervals:",
            "\n".join(f"- CamVid at {size} size: {self.headline(p)}" for p, size in README_SIZES.items()),
            pd.DataFrame(runs).to_markdown(index=False, disable_numparse=True),
            f"**The paper's claims** (with measures, runs and commands: {links['claims']}).",
            self._side_by_side("claims"),
            f"**Parts of a gain** (with measures, runs and commands: {links['causes']}).",
            self._side_by_side("causes"),
            f'How far from a boundary "near" is matters to claims 4 to 7: {links["widths"]}.',
            " ".join([HOW_TO_READ, *notes, "More: [`docs/study.md`](docs/study.md)."]),
        ]
        return "\n\n".join(parts)

    def _run_rows(self, protocol: str, size: str) -> Iterator[dict[str, str | int]]:
        """Yield the README's row for each file of scores in the folder of each run of a protocol."""
        runs = [(v, run) for v in VARIANTS for _, run in sorted(self.studies[protocol].runs(v).items())]
        for (variant, run), (file, inference) in itertools.product(runs, FILES.items()):
            if (path := run.folder / file).exists():
                metrics = json.loads(path.read_text())["metrics"]
                row = {"run": f"[{variant}]({path.as_posix()})", "size": size, "seed": run.seed, "inference": inference}
                yield row | {f"*{o}*": f"{100 * metrics[o]['miou']:.2f}" if o in metrics else "–" for o in OUTPUTS}

    def _side_by_side(self, name: str) -> str:
        """Format a table of claims or parts of a gain, with what each of the README's protocols says."""
        tables = {size: self.tables[f"{protocol}_{name}"].data for protocol, size in README_SIZES.items()}
        shared, own = ("", "claim", "part", "unit", "confirmed if"), ("verdict", INTERVAL, "seeds")
        parts = [next(iter(tables.values())).filter(shared)]
        parts += [table.filter(own).add_prefix(f"{size} size: ") for size, table in tables.items()]
        return pd.concat(parts, axis=1).to_markdown(index=False, disable_numparse=True)

    def gpu(self) -> str:
        """Write the tables of docs/gpu.md."""
        return "\n\n".join(f"**{table.title}**\n\n{table.markdown_body()}" for table in self.of_kind("gpu"))


def with_section(page: str, section: str, name: str | Path = "page") -> str:
    """Replace what stands between the two marks of a page; without both of them it is a ConfigError."""
    pattern = f"{re.escape(BEGIN)}.*{re.escape(END)}"
    if not re.search(pattern, page, re.DOTALL):
        raise ConfigError(name, "no place for the results", f"the lines {BEGIN} and {END}", "add both lines")
    return re.sub(pattern, lambda _: f"{BEGIN}\n\n{section}\n\n{END}", page, count=1, flags=re.DOTALL)


def main(argv: Sequence[str] | None = None) -> None:
    """Run `python -m ovenet_core report`."""
    parser = argparse.ArgumentParser("python -m ovenet_core report", description=__doc__)
    parser.add_argument("--roots", nargs="+", default=["results"], help="folders with runs, such as results runs/grid")
    names = {"nargs": "+", "choices": list(PROTOCOLS), "metavar": "PROTOCOL", "default": REPORTED}
    made = (
        "for which tables and claims are made, such as cityscapes acdc; the README's section needs camvid camvid-half"
    )
    parser.add_argument("--protocols", **names, help=made)
    parser.add_argument("--tables", default="results/tables", help="folder for the tables (default: %(default)s)")
    page = "page whose section of results is written again, with docs/gpu.md next to it; '' for none"
    parser.add_argument("--readme", default="README.md", help=page)
    options = parser.parse_args(argv)
    report = Report(options.roots, options.protocols)
    print(f"{len(report.write(options.tables))} files in {options.tables}")
    if options.readme:
        path = Path(options.readme)
        for file, section in ((path, report.readme()), (path.parent / "docs/gpu.md", report.gpu())):
            text = with_section(file.read_text(), section, file)
            write_atomically(file, lambda f, text=text: f.write(text))
            print(f"{file}: section of results written")
