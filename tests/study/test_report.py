"""Costs, the report, and that what is committed is of the committed runs."""

import json
import re
from io import StringIO
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from ovenet_core.study.efficiency import cost_table, gpu_tables, step_times
from ovenet_core.study.report import BEGIN, END, Report, main, with_section
from ovenet_core.study.tables import NEXT_SEED_COMMAND, variant_label
from ovenet_core.training import VARIANTS, preset
from ovenet_core.utils import ConfigError

ROOT = Path(__file__).parents[2]


def test_costs_are_those_of_the_networks(study):
    width = preset("synthetic/hrnet").width
    table = cost_table(study, {("ovenet", width, 128, 256): 1.3, ("hrnet-wide", width, 64, 64): 9.0})
    assert table["training step, of HRNet's"].tolist() == pytest.approx([1, 1.3, np.nan], nan_ok=True)
    assert table["runs"].str.split().map(len).tolist() == [3, 3, 0]
    assert table.loc["HRNet", "parameters, of HRNet's"] == 1
    assert table["hours by the clock"].notna().tolist() == [True, True, False]  # there is no run of the third
    assert table.loc["OVeNet", "parameters, million"] == pytest.approx(1.127286)
    assert 1 < table.loc["OVeNet", "GFLOP, of HRNet's"] < 2


def test_costs_on_a_gpu_are_shares_of_what_was_measured(tmp_path):
    row = {"experiment": "cityscapes/ovenet", "batch_size": 12, "crop": [512, 1024], "channels_last": False}
    rows = [
        row | {"precision": "float32", "images_per_second": 10.0, "peak_gib": 30.0},
        row | {"precision": "bfloat16", "channels_last": True, "images_per_second": 25.0, "peak_gib": 15.0},
    ]
    (tmp_path / "switches.json").write_text(json.dumps({"rows": rows[:1]}))
    (tmp_path / "compiled.json").write_text(json.dumps({"rows": [rows[1] | {"compile": True}]}))
    (tmp_path / "compiled-study.json").write_text(json.dumps({"rows": [rows[1] | {"experiment": "camvid/ovenet"}]}))
    too_large = row | {"precision": "bfloat16", "images_per_second": None, "peak_gib": None}
    (tmp_path / "compiled-ocr.json").write_text(json.dumps({"rows": [too_large]}))
    (tmp_path / "benchmarks.json").write_text(json.dumps({"rows": rows[1:]}))
    tables = {table.name: table.data for table in gpu_tables(tmp_path)}
    assert tables["gpu_switches"]["switches"].tolist() == ["float32", "bfloat16, channels_last, compile", "bfloat16"]
    assert tables["gpu_switches"]["of float32's"].tolist() == pytest.approx([1, 2.5, np.nan], nan_ok=True)
    assert tables["gpu_switches"]["of its memory"].tolist() == pytest.approx([1, 0.5, np.nan], nan_ok=True)
    assert tables["gpu_recipe"]["hours"].tolist() == [16.0]  # 2975 images x 484 epochs / 25 a second
    assert gpu_tables(tmp_path / "nothing") == []


@pytest.fixture(scope="module")
def report() -> Report:
    return Report()


@pytest.mark.parametrize(("page", "section"), [("README.md", "readme"), ("docs/gpu.md", "gpu")])
def test_pages_have_the_results_that_there_are(page, section, report, monkeypatch):
    monkeypatch.chdir(ROOT)
    text = Path(page).read_text()
    assert BEGIN in text and END in text
    assert with_section(text, getattr(report, section)()) == text, f"{page} is stale: run make results"


def test_the_committed_tables_are_those_of_the_committed_runs(report, monkeypatch):
    """The values of the CSV files; what is printed is rendered from the same objects."""
    monkeypatch.chdir(ROOT)
    stored = {path.stem for path in Path("results/tables").glob("*.csv")}
    assert report.tables.keys() == stored, "run make results"
    for name, table in report.tables.items():
        made = pd.read_csv(StringIO(table.data.to_csv(index=False, float_format=table.float_format)))
        pd.testing.assert_frame_equal(made, pd.read_csv(f"results/tables/{name}.csv"), obj=f"{name}.csv")


def test_what_is_printed_is_what_the_table_holds(report):
    """Of each text: in Markdown, and in LaTeX but for columns of long texts."""
    for name in ("camvid-half_claims", "camvid-half_table5", "table6", "gpu_recipe"):
        table = report.tables[name]
        rows = table.markdown_body().splitlines()[2:]
        assert len(rows) == len(table.formatted)
        for row, (_, texts) in zip(rows, table.formatted.iterrows(), strict=True):
            assert [cell.strip().strip("*") for cell in row.strip("|").split("|")] == [t.strip() for t in texts]
        latex = table.latex()
        shown = table.formatted.drop(columns=[c for c in ("measure", "runs", NEXT_SEED_COMMAND) if c in table.data])
        for text in shown.to_numpy().ravel():
            assert all(word in latex for word in re.findall(r"[A-Za-z]+|\d+\.\d+", text)), text


def test_every_variant_of_the_study_has_words(report):
    assert len({variant_label(name) for name in VARIANTS}) == len(VARIANTS)


def test_step_times_are_found_by_identifier(tmp_path):
    step = {"id": "training_step", "what": "?", "width": 18, "crop": [180, 240], "system": "ovenet", "measured": 1.31}
    rows = [{"id": "peak_memory", "what": "training step", "measured": 3.0}, step]
    (tmp_path / "bench.json").write_text(json.dumps({"measurements": rows}))
    assert step_times(tmp_path) == {("ovenet", 18, 180, 240): 1.31}
    assert step_times(tmp_path / "nothing") == {}
    assert ("hrnet-wide", 18, 180, 240) in step_times(ROOT / "results")


def test_the_headline_states_the_first_claim_and_the_parts_of_the_gain(report):
    claim = report.claims["camvid-half"]["1"]
    headline = report.headline("camvid-half")
    assert str(claim.estimate) in headline and str(report.claims["camvid-half"]["over_loss"].estimate) in headline
    assert headline.startswith("**Yes.**") == (claim.verdict == "confirmed")


def test_a_page_without_its_marks_is_refused():
    with pytest.raises(ConfigError) as caught:
        with_section(f"text {BEGIN} text", "section", "README.md")
    assert caught.value.where == "README.md" and END in caught.value.expected


def test_a_section_without_its_protocols_is_refused():
    with pytest.raises(ConfigError) as caught:
        Report(protocols=("camvid",)).readme()
    assert caught.value.where == "protocols" and "camvid-half" in caught.value.found


def test_the_command_writes_the_tables(tmp_path, monkeypatch, capsys):
    (tmp_path / "runs").mkdir()
    main(["--roots", f"{tmp_path}/runs", "--protocols", "synthetic", "--tables", f"{tmp_path}/tables", "--readme", ""])
    assert {path.suffix for path in (tmp_path / "tables").iterdir()} == {".csv", ".md", ".tex"}
    assert (tmp_path / "tables/synthetic_claims.csv").exists() and "tables" in capsys.readouterr().out
