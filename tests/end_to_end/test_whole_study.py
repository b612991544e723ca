"""The whole study in small: trained, scored, and made into tables, figures and claims by one command."""

import json
import runpy
import subprocess
import sys
from pathlib import Path

import pandas as pd
import pytest

from ovenet_core.data.synthetic.writer import write_scenes
from ovenet_core.study.grid import GridRun

ROOT = Path(__file__).parents[2]


def test_from_nothing_to_tables_figures_and_claims(tmp_path):
    sizes = {"train": 4, "val": 2}
    data = write_scenes(tmp_path / "data", "cityscapes", split_sizes=sizes, size=(128, 256), progress=False)
    command = [sys.executable, str(ROOT / "workflow/study.py"), "synthetic-short", "--cores", "1", "--seeds", "1"]
    command += ["--variants", "hrnet", "ovenet", "--root", str(tmp_path), "--data-root", str(data)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    scores = {}
    for variant, output in (("hrnet", "S_i"), ("ovenet", "S_f")):
        folder = GridRun("synthetic-short", variant, 0, {}, tmp_path).folder
        scores[variant] = 100 * json.loads((folder / "result.json").read_text())["metrics"][output]["miou"]
    report = tmp_path / "synthetic-short/report"
    table = pd.read_csv(report / "tables/synthetic-short_table1.csv").query("column == 'IoU cla.'").set_index("row")
    assert abs(table.loc["HRNet", "reproduced"] - scores["hrnet"]) < 1e-4
    assert abs(table.loc["OVeNet", "reproduced"] - scores["ovenet"]) < 1e-4
    claims = pd.read_csv(report / "tables/synthetic-short_claims.csv").set_index("claim")
    gain = f"{scores['ovenet'] - scores['hrnet']:.2f} ["
    assert claims.loc["OVeNet beats HRNet", "number [interval]"].startswith(gain)
    assert claims.loc["OVeNet beats HRNet", "verdict"] == "undecided"  # one seed
    assert list((report / "figures").glob("*.png")) and list((report / "figures").glob("*.pdf"))


@pytest.mark.parametrize(
    ("variants", "overrides"), [([], {"epochs": 1}), (["--variants", "hrnet", "ovenet"], {"tau": 0.3})]
)
def test_what_fails_does_not_stop_the_rest_and_is_told_at_the_end(tmp_path, monkeypatch, variants, overrides):
    called = []

    def run(command, **options):
        called.append(command)
        return subprocess.CompletedProcess(command, 1 if "snakemake" in command else 0)

    monkeypatch.setattr(subprocess, "run", run)
    settings = ["--root", str(tmp_path), "--set", f"overrides={json.dumps(overrides)}", "--gpus", "3"]
    settings += ["--weights-root", "/weights"]
    monkeypatch.setattr(sys, "argv", ["study.py", "synthetic-short", *settings, *variants])
    with pytest.raises(SystemExit) as error:
        runpy.run_path(str(ROOT / "workflow/study.py"), run_name="__main__")
    assert "not all of it succeeded" in str(error.value)
    assert [command[2] for command in called] == ["snakemake", "snakemake", "papermill", "papermill", "papermill"]
    seeds = [next(part for part in command if part.startswith("seeds=")) for command in called[:2]]
    assert seeds == ["seeds=[0]", "seeds=[1,2]"]  # the first of all variants, also where these are the two systems
    assert all({"--resources", "gpu=3", "weights_root=/weights"} <= set(command) for command in called[:2])
    (figures,) = (command for command in called if any("07_figures" in part for part in command))
    folders = [GridRun("synthetic-short", variant, 0, overrides, tmp_path).folder for variant in ("hrnet", "ovenet")]
    assert all(str(folder) in figures[-1] for folder in folders)


def test_other_variants_are_run_without_the_two_systems(tmp_path, monkeypatch):
    called = []

    def run(command, **options):
        called.append(command)
        return subprocess.CompletedProcess(command, 0)

    monkeypatch.setattr(subprocess, "run", run)
    monkeypatch.setattr(
        sys, "argv", ["study.py", "synthetic-short", "--root", str(tmp_path), "--variants", "ovenet-ce"]
    )
    runpy.run_path(str(ROOT / "workflow/study.py"), run_name="__main__")
    assert [part for command in called for part in command if part.startswith("variants=")] == ["variants=[ovenet-ce]"]
    assert not any("07_figures" in part for command in called for part in command)  # which show both of them
