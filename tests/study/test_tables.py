"""Tables: which runs count, what is averaged, what is bold, and what is said of all others."""

import json
import statistics
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from result_files import each, write_run

from ovenet_core.study.architecture_table import architecture
from ovenet_core.study.results import COUNTED, RunSelection, find_runs, select_runs
from ovenet_core.study.tables import Table, command_for, format_scores, paper_tables, protocol_tables
from ovenet_core.training import Experiment
from ovenet_core.utils import RunError


def collected(root: Path) -> RunSelection:
    return select_runs(*find_runs(root))


def row_of(table: Table, row: str, column: str) -> pd.Series:
    (index,) = table.data.index[(table.data["row"] == row) & (table.data["column"] == column)]
    return table.data.loc[index]


def tables(root: Path, protocol: str = "") -> dict[str, Table]:
    selection = collected(root)
    return {
        table.name: table for table in (protocol_tables(protocol, selection) if protocol else paper_tables(selection))
    }


# -- What counts


def test_mean_deviation_number_and_difference_are_those_of_the_runs(tmp_path):
    scores = [0.81, 0.83, 0.84]
    for seed, score in enumerate(scores):
        write_run(tmp_path / str(seed), "cityscapes/hrnet", seed, score)
    row = row_of(tables(tmp_path)["table5"], "HRNet", "IoU cla.")
    assert row["reproduced"] == pytest.approx(100 * statistics.mean(scores))
    assert row["sd"] == pytest.approx(100 * statistics.stdev(scores)) and row["seeds"] == 3
    assert row["difference"] == pytest.approx(100 * statistics.mean(scores) - 81.83)
    assert row["state"] == "reproduced" and row["command"] == ""
    assert row["folders"].split() == [str(tmp_path / str(seed)) for seed in range(3)]


def test_the_final_prediction_of_ovenet_is_the_fused_one(tmp_path):
    write_run(tmp_path / "a", "synthetic/ovenet", 0, 0.5)
    table = tables(tmp_path, "synthetic")["synthetic_table5"]
    values = [row_of(table, "OVeNet", column)["reproduced"] for column in ("S_i", "S_s", "S_f", "final")]
    assert values == pytest.approx([48, 49, 50, 50])


def test_a_class_that_does_not_occur_has_no_number(tmp_path):
    write_run(tmp_path / "a", "synthetic/hrnet", 0, 0.5)
    table = tables(tmp_path, "synthetic")["synthetic_table2"]
    assert row_of(table, "road", "HRNet")["reproduced"] == 50
    sky = row_of(table, "sky", "HRNet")
    assert np.isnan(sky["reproduced"]) and sky["seeds"] == 0


def test_scores_of_a_condition_are_those_of_its_images(tmp_path):
    write_run(tmp_path / "a", "synthetic-acdc/hrnet", 0, 0.5)
    table = tables(tmp_path, "synthetic-acdc")["synthetic-acdc_table4"]
    assert row_of(table, "HRNet", "fog")["reproduced"] == 25 and row_of(table, "HRNet", "all")["reproduced"] == 50
    assert row_of(table, "HRNet", "night")["seeds"] == 0


def test_a_gain_of_the_text_is_paired_by_seed(tmp_path):
    for seed, (hrnet, ovenet) in enumerate([(0.70, 0.72), (0.60, 0.65), (0.5, None)]):
        write_run(tmp_path / f"h{seed}", "acdc/hrnet", seed, hrnet, split="test")
        if ovenet:
            write_run(tmp_path / f"o{seed}", "acdc/ovenet", seed, ovenet, split="test")
    row = row_of(tables(tmp_path)["text"], "acdc, test, all, OVeNet, gain over HRNet", "IoU cla.")
    assert row["reproduced"] == pytest.approx((2 + 5) / 2) and row["seeds"] == 2 and row["reported"] == 2.5


def test_a_score_on_val_is_not_put_beside_one_on_test(tmp_path):
    write_run(tmp_path / "a", "cityscapes/hrnet", 0, 0.8)
    row = row_of(tables(tmp_path)["table1"], "HRNet, HRNetV2-W48, trained on train", "IoU cla.")
    assert row["state"] == "not run" and "05_test_inference" in row["command"]


def six_scales(folder: Path, miou: float, **changes) -> None:
    """An evaluation over six scales and flip beside a run, as 04_evaluation leaves it."""
    result = json.loads((folder / "result.json").read_text())
    stored = {
        "config_hash": Experiment.from_json(result["experiment"]).config_hash,
        "split": result["split"],
        "inference": {"scales": [0.5, 0.75, 1.0, 1.25, 1.5, 1.75], "flip": True},
        "metrics": {output: scores | {"miou": miou} for output, scores in result["metrics"].items()},
    }
    (folder / "evaluation_six_scales.json").write_text(json.dumps(stored | changes))


def test_scores_over_six_scales_stand_beside_those_reported_on_val(tmp_path):
    """Which they fit; where there are none, those of one scale, and every number says which it is."""
    write_run(tmp_path / "one", "cityscapes/ovenet", 0, 0.80)
    for seed, miou in enumerate((0.82, 0.83)):
        six_scales(write_run(tmp_path / f"six{seed}", "cityscapes/hrnet", seed, 0.80), miou)
    made = tables(tmp_path)["table5"]
    six, one = (row_of(made, row, "IoU cla.") for row in ("HRNet", "OVeNet"))
    assert (six["reproduced"], six["inference"], one["inference"]) == (
        pytest.approx(82.5),
        "six scales, flip",
        "one scale",
    )
    assert six["difference"] == pytest.approx(82.5 - 81.83)
    assert "82.50 ± 0.71 (2), six scales, flip" in made.markdown() and "80.00 (1)" in made.markdown()


def test_a_gain_is_that_of_one_inference(tmp_path):
    """Six scales only where both systems have them."""
    for name, one, six in (("hrnet", 0.80, 0.82), ("ovenet", 0.81, None)):
        folder = write_run(tmp_path / name, f"cityscapes/{name}", 0, one)
        if six:
            six_scales(folder, six)
    gains = [c for c in tables(tmp_path)["text"].data.itertuples() if "gain" in c.row and "cityscapes, val" in c.row]
    assert [(g.reproduced, g.inference) for g in gains] == [(pytest.approx(1), "one scale")] * len(gains)


def test_a_protocols_table_has_rows_of_their_own_for_six_scales(tmp_path):
    six_scales(write_run(tmp_path / "a", "synthetic/hrnet", 0, 0.5), 0.6)
    write_run(tmp_path / "b", "synthetic/ovenet", 0, 0.55)
    table = tables(tmp_path, "synthetic")["synthetic_table1"]
    assert row_of(table, "HRNet", "IoU cla.")["reproduced"] == pytest.approx(50)
    assert row_of(table, "HRNet, six scales, flip", "IoU cla.")["reproduced"] == pytest.approx(60)
    assert "OVeNet, six scales, flip" not in set(table.data["row"])


@pytest.mark.parametrize(
    "changes",
    [{"config_hash": "0" * 12}, {"split": "train"}, {"inference": {"scales": [1.0], "flip": True}}, {"metrics": 3}],
    ids=str,
)
def test_six_scales_of_another_network_or_inference_are_refused(tmp_path, changes):
    six_scales(write_run(tmp_path / "a", "cityscapes/hrnet", 0, 0.5), 0.6, **changes)
    with pytest.raises(RunError) as caught:
        tables(tmp_path)
    assert caught.value.where == tmp_path / "a" / "evaluation_six_scales.json"


def test_what_the_server_said_stands_beside_the_papers_test_scores(tmp_path):
    """And changes nothing of what was scored on val."""
    for seed, (miou, road) in enumerate([(80.0, 98.0), (81.0, 98.4)]):
        folder = write_run(tmp_path / str(seed), "cityscapes/hrnet", seed, 0.7)
        form = f"split,condition,class,metric,value\ntest,,,miou,{miou}\ntest,,road,iou,{road}\ntest,,sky,iou,\n"
        (folder / "server.csv").write_text(form)
    made = tables(tmp_path)
    row = row_of(made["table1"], "HRNet, HRNetV2-W48, trained on train", "IoU cla.")
    assert (row["reproduced"], row["seeds"], row["state"]) == (pytest.approx(80.5), 2, "reproduced")
    assert row_of(made["table2"], "road", "HRNet, trained on train")["reproduced"] == pytest.approx(98.2)
    assert row_of(made["table2"], "sky", "HRNet, trained on train")["state"] == "not run"
    assert row_of(made["table5"], "HRNet", "IoU cla.")["reproduced"] == pytest.approx(70)
    assert "server.csv" in made["table1"].note and "server.csv" not in made["table5"].note
    assert collected(tmp_path).status["split"].tolist() == ["val test"] * 2


def test_a_gain_on_test_is_that_of_the_servers_scores(tmp_path):
    for name, miou in (("hrnet", 70.5), ("ovenet", 72.0)):
        folder = write_run(tmp_path / name, f"acdc/{name}", 0, 0.5)
        (folder / "server.csv").write_text(f"split,condition,class,metric,value\ntest,,,miou,{miou}\n")
    row = row_of(tables(tmp_path)["text"], "acdc, test, all, OVeNet, gain over HRNet", "IoU cla.")
    assert row["reproduced"] == pytest.approx(1.5)


@pytest.mark.parametrize(("line", "why"), [("test,,,miou,0,8", "columns"), ("val,,,miou,81", "which result.json has")])
def test_scores_of_a_server_with_a_fault_are_named_beside_the_run(tmp_path, line, why):
    folder = write_run(tmp_path / "a", "cityscapes/hrnet", 0, 0.7)
    (folder / "server.csv").write_text(f"split,condition,class,metric,value\n{line}\n")
    (status,) = collected(tmp_path).status["status"]
    assert status.startswith(f"damaged: {folder / 'server.csv'}") and why in status


def test_another_configuration_is_named_and_not_averaged(tmp_path):
    write_run(tmp_path / "a", "synthetic/hrnet", 0, 0.5)
    write_run(tmp_path / "b", "synthetic/hrnet", 1, 0.9, overrides={"epochs": 25})
    status = collected(tmp_path).status.set_index("folder")["status"]
    assert status[str(tmp_path / "b")] == "another configuration: synthetic/hrnet but for epochs: 25, 24"
    assert row_of(tables(tmp_path, "synthetic")["synthetic_table1"], "HRNet", "IoU cla.")["reproduced"] == 50


def test_of_two_runs_of_a_seed_the_first_counts_and_the_other_is_named(tmp_path):
    write_run(tmp_path / "late", "synthetic/hrnet", 0, 0.9, finished="2026-02-02T00:00:00Z")
    write_run(tmp_path / "soon", "synthetic/hrnet", 0, 0.5, finished="2026-01-01T00:00:00Z")
    status = collected(tmp_path).status.set_index("folder")["status"]
    assert status[str(tmp_path / "soon")] == COUNTED
    assert status[str(tmp_path / "late")] == f"seed 0 is there already: {tmp_path / 'soon'}"
    row = row_of(tables(tmp_path, "synthetic")["synthetic_table1"], "HRNet", "IoU cla.")
    assert (row["reproduced"], row["seeds"]) == (50, 1)


def test_a_run_on_other_data_is_named_and_not_averaged(tmp_path):
    for seed, data in enumerate("ffg"):
        write_run(tmp_path / str(seed), "synthetic/hrnet", seed, 0.5 + seed / 10, data_fingerprint=data * 64)
    found = collected(tmp_path)
    assert list(found.status["status"]) == [COUNTED, COUNTED, "other data than most runs of this protocol"]
    assert list(found.by_preset["synthetic/hrnet"]) == [0, 1]


def test_runs_of_several_commits_and_of_changed_code_are_named_below_the_table(tmp_path):
    for seed, commit in enumerate(("a" * 40, "b" * 40 + "+")):
        write_run(tmp_path / str(seed), "synthetic/hrnet", seed, 0.5, commit=commit)
    table = tables(tmp_path, "synthetic")["synthetic_table1"]
    assert table.several_commits and table.commits == {"synthetic/hrnet": ["aaaaaaaa", "bbbbbbbb+"]}
    assert table.changed_code == ["synthetic/hrnet"] and "synthetic/hrnet aaaaaaaa bbbbbbbb+" in table.markdown()


def test_rows_of_different_commits_are_named_below_the_table(tmp_path):
    write_run(tmp_path / "a", "synthetic/hrnet", 0, 0.5)
    write_run(tmp_path / "b", "synthetic/ovenet", 0, 0.5)
    assert not tables(tmp_path, "synthetic")["synthetic_table1"].several_commits
    write_run(tmp_path / "c", "synthetic/hrnet-ocr", 0, 0.5, commit="c" * 40)
    table = tables(tmp_path, "synthetic")["synthetic_table1"]
    commits = {"hrnet": "aaaaaaaa", "ovenet": "aaaaaaaa", "hrnet-ocr": "cccccccc"}
    assert table.several_commits and table.commits == {f"synthetic/{name}": [c] for name, c in commits.items()}
    assert not table.changed_code


@pytest.mark.parametrize("text", ["", "{}", "[]", '{"seed": 0', '{"metrics": {"S_i": {"miou": 3}}}', "\x00"])
def test_a_damaged_result_is_named_and_not_averaged(tmp_path, text):
    write_run(tmp_path / "a", "synthetic/hrnet", 0, 0.5)
    (tmp_path / "b").mkdir()
    (tmp_path / "b/result.json").write_text(text)
    status = collected(tmp_path).status.set_index("folder")["status"]
    assert status[str(tmp_path / "b")].startswith("damaged: ") and status[str(tmp_path / "a")] == COUNTED


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"commit": None}, "commit"),
        ({"data_fingerprint": 3}, "data_fingerprint"),
        ({"finished": None}, "finished"),
        ({"duration_seconds": None}, "duration_seconds"),
        ({"seed": True}, "seed"),
        ({"metrics": {"S_i": {"miou": 0.5}}}, "metrics"),
        ({"metrics": each({"miou": 0.5, "iou": []})}, "metrics.S_i.iou"),
        ({"metrics": each({"miou": 0.5, "pixel_accuracy": "x"})}, "metrics.S_i.pixel_accuracy"),
        ({"metrics": each({})}, "metrics.S_i.miou"),
        ({"experiment": []}, "experiment"),
        ({"experiment": {"epochs": "x"}}, "experiment.epochs"),
    ],
    ids=str,
)
def test_a_result_that_is_not_whole_is_named_and_not_averaged(tmp_path, change, named):
    write_run(tmp_path / "a", "synthetic/ovenet", 0, 0.5)
    write_run(tmp_path / "b", "synthetic/ovenet", **{"seed": 1, "miou": 0.9} | change)
    status = collected(tmp_path).status.set_index("folder")["status"][str(tmp_path / "b")]
    assert status.startswith("damaged: ") and f"result.json.{named}" in status
    assert row_of(tables(tmp_path, "synthetic")["synthetic_table1"], "OVeNet", "IoU cla.")["reproduced"] == 50


def test_how_it_was_computed_makes_no_other_configuration(tmp_path):
    write_run(tmp_path / "a", "synthetic/hrnet", 0, 0.5, overrides={"checkpointing": True, "compile": True})
    assert list(collected(tmp_path).by_preset) == ["synthetic/hrnet"]


def test_all_commits_of_a_run_that_was_continued_are_named(tmp_path):
    write_run(tmp_path / "a", "synthetic/hrnet", 0, 0.5, commits=["b" * 40, "a" * 40])
    assert collected(tmp_path).commits("synthetic/hrnet") == ["aaaaaaaa", "bbbbbbbb"]


def test_a_folder_that_is_not_there_is_an_error(tmp_path):
    with pytest.raises(RunError) as caught:
        find_runs(tmp_path, tmp_path / "nowhere")
    assert caught.value.where == tmp_path / "nowhere"


# -- What is printed


def printed(reported: list[float], reproduced: list[float], seeds: Sequence[int] = (1, 1, 1)) -> dict[str, list[str]]:
    """The texts of a column "c", with ** around those that are bold."""
    same = {"column": "c", "best_within": "c", "sd": np.nan, "decimals": 1, "command": "", "inference": "one scale"}
    rows = [
        {"row": f"r{i}", "reported": a, "reproduced": b, "difference": b - a, "seeds": n} | same
        for i, (a, b, n) in enumerate(zip(reported, reproduced, seeds, strict=False))
    ]
    texts, bold = format_scores(pd.DataFrame(rows))
    assert list(texts["", ""]) == [row["row"] for row in rows] and not bold["", ""].any()
    return {
        name: list(texts["c", name].where(~bold["c", name], "**" + texts["c", name] + "**"))
        for _, name in texts
        if name
    }


def test_the_best_is_bold_by_value_and_equal_ones_all_are():
    texts = printed([80.0, 81.0, 81.0], [70.0, 69.0, 68.0])
    assert texts["reported"] == ["80.0", "**81.0**", "**81.0**"]
    assert texts["reproduced"] == ["**70.00 (1)**", "69.00 (1)", "68.00 (1)"]
    assert texts["difference"] == ["-10.00", "-12.00", "-13.00"]


def test_a_mean_of_fewer_seeds_is_not_the_best_and_neither_is_a_zero():
    texts = printed([0.0] * 3, [70.0, 65.0, 64.0], seeds=[1, 3, 3])
    assert texts["reproduced"] == ["70.00 (1)", "**65.00 (3)**", "64.00 (3)"]
    texts = printed([0.0, 0.0], [0.0, 0.0])
    assert texts["reproduced"] == ["0.00 (1)"] * 2 and texts["reported"] == ["0.0"] * 2


def test_the_command_beside_a_gain_runs_what_is_missing(tmp_path):
    write_run(tmp_path / "o", "acdc/ovenet", 0, 0.7, split="test")
    row = row_of(tables(tmp_path)["text"], "acdc, test, all, OVeNet, gain over HRNet", "IoU cla.")
    assert row["state"] == "not run" and row["command"] == command_for("acdc/hrnet", "test")


def test_what_was_not_run_says_so_and_has_its_command(tmp_path):
    table = tables(tmp_path)["table5"]
    assert (table.data["state"] == "not run").all() and len(table.commands) == 7
    assert set(table.formatted["IoU cla.", "reproduced"]) == {"not run"}
    assert command_for("cityscapes/ovenet-tau-1") in table.markdown()


def test_methods_of_others_are_reported_and_never_asked_for(tmp_path):
    row = row_of(tables(tmp_path)["table4"], "RefineNet", "fog")
    assert (row["reported"], row["state"], row["command"]) == (65.7, "reported", "")


def test_bold_numbers_of_the_paper_are_its_best_but_for_the_documented(tmp_path):
    # docs/paper_inconsistencies.md lists where its own bold is not the best; ours follows the values.
    best = tables(tmp_path)["table1"]
    marked = best.printed["", ""][best.bold["IoU cat.", "reported"]]
    assert "HRNet, HRNetV2-W48, trained on train+val" in set(marked)


def test_files_have_the_numbers_the_folders_and_the_commands(tmp_path):
    write_run(tmp_path / "runs", "cityscapes/hrnet", 0, 0.8)
    for table in tables(tmp_path / "runs").values():
        table.write(tmp_path / "tables")
    stored = pd.read_csv(tmp_path / "tables/table5.csv").set_index("row")
    assert stored.loc["HRNet", "reproduced"] == 80 and stored.loc["HRNet", "folders"] == str(tmp_path / "runs")
    assert "snakemake" in stored.loc["OVeNet", "command"]
    assert "| HRNet " in (tmp_path / "tables/table5.md").read_text()
    latex = (tmp_path / "tables/table5.tex").read_text()
    assert r"\toprule" in latex and r"$\tau$" in latex and "τ" not in latex and r"\textbf{82.40}" in latex
    assert len(list((tmp_path / "tables").iterdir())) == 3 * 6


# -- Table 6


def test_the_built_network_is_that_of_table_6():
    built = architecture()
    assert (built["modules reported"] == built["modules built"]).all()
    assert (built["units reported"] == built["units built"]).all()
    assert len(built) == 14
