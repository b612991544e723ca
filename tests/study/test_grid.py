"""Grids: what a folder says about its run, what a grid's file may hold, Table 5, and a real grid of eight runs."""

import json
import os
import subprocess
import sys
from dataclasses import asdict
from pathlib import Path

import nbformat
import pytest
import yaml
from result_files import each

from ovenet_core.data.synthetic.writer import write_scenes
from ovenet_core.study.grid import GRIDS, Grid, GridRun, scores, state_table, summarize
from ovenet_core.training.presets import STUDY, TABLE_5
from ovenet_core.utils import ConfigError

ROOT = Path(__file__).parents[2]
TINY = {"width": 8, "blocks": 1, "pretrained": "", "crop": [64, 128], "batch_size": 2, "epochs": 1}


def grid_run(root: Path, variant: str = "ovenet", seed: int = 0, **overrides) -> GridRun:
    return GridRun("synthetic", variant, seed, overrides, root)


def write_result(run: GridRun, *, whole: bool = True, **changes) -> Path:
    """The result that a run would have: all its scores are half as good as 1 / (1 + seed), or those given."""
    outputs = ("S_i",) if run.experiment.branch_stage is None else ("S_i", "S_s", "S_f")
    value = {
        "experiment": asdict(run.experiment),
        "seed": run.seed,
        "split": "val",
        "commit": "a" * 40,
        "metrics": {name: {"miou": 0.5 / (1 + run.seed)} for name in outputs},
        "data_fingerprint": "f" * 64,
        "finished": "2026-01-01T00:00:00Z",
        "duration_seconds": 60.0,
    }
    text = json.dumps(value | changes)
    run.folder.mkdir(parents=True, exist_ok=True)
    path = run.folder / "result.json"
    path.write_text(text if whole else text[: len(text) // 2])
    return path


def write_notebook(run: GridRun, *errors: str) -> None:
    outputs = [{"output_type": "error", "ename": name, "evalue": "", "traceback": []} for name in errors]
    run.folder.mkdir(parents=True, exist_ok=True)
    (run.folder / "02_training.ipynb").write_text(json.dumps({"cells": [{"outputs": outputs}, {"source": ""}]}))


# -- States


def test_a_run_without_a_folder_is_missing(tmp_path):
    assert grid_run(tmp_path).state() == "missing"


def test_a_run_with_a_valid_result_is_done_whatever_else_there_is(tmp_path):
    run = grid_run(tmp_path)
    write_result(run)
    write_notebook(run, "ValueError")
    (run.folder / "snapshot.pt").touch()
    assert run.state() == "done"


def test_a_run_with_a_snapshot_is_interrupted(tmp_path):
    run = grid_run(tmp_path)
    write_notebook(run, "KeyboardInterrupt")
    (run.folder / "snapshot.pt").touch()
    assert run.state() == "interrupted"


def test_a_run_whose_notebook_has_an_error_failed(tmp_path):
    run = grid_run(tmp_path)
    write_notebook(run, "DivergedError")
    (run.folder / "snapshot.pt").touch()
    assert run.state() == "failed"


@pytest.mark.parametrize(("end", "state"), [(None, "interrupted"), ("2026-01-01T00:00:00Z", "failed")])
def test_a_run_in_its_first_epoch_has_not_failed(tmp_path, end, state):
    """papermill writes when it has ended, also if the kernel was killed, which leaves no error in the notebook."""
    run = grid_run(tmp_path)
    write_notebook(run)
    (run.folder / "log.txt").touch()
    notebook = run.folder / "02_training.ipynb"
    executed = json.loads(notebook.read_text()) | {"metadata": {"papermill": {"start_time": "now", "end_time": end}}}
    notebook.write_text(json.dumps(executed))
    assert run.state() == state


def test_a_run_that_left_nothing_but_a_log_failed(tmp_path):
    run = grid_run(tmp_path)
    run.folder.mkdir(parents=True)
    (run.folder / "log.txt").write_text("Killed")
    assert run.state() == "failed"


@pytest.mark.parametrize(
    "damage",
    [
        {"whole": False},
        {"seed": 1},
        {"experiment": {"tau": 0.3}},
        {"experiment": {"no_such_field": 1}},
        {"experiment": None},
        {"metrics": {}},
        {"metrics": {"S_i": {"miou": 0.5}}},
        {"metrics": each({"miou": None})},
        {"metrics": each({"miou": 1.5})},
        {"metrics": each({"miou": {"a": 0.5}})},
        {"metrics": each({"miou": 0.5, "conditions": 0.4})},
        {"commits": [None]},
    ],
    ids=str,
)
def test_a_damaged_result_is_not_done_and_is_moved_aside_never_over_another(tmp_path, damage):
    run = grid_run(tmp_path)
    text = write_result(run, **damage).read_text()
    assert run.state() != "done"
    assert run.quarantine_result() == run.folder / "result.json.invalid"
    write_result(run, **damage)
    assert run.quarantine_result() == run.folder / "result.json.invalid-2"
    assert (run.folder / "result.json.invalid").read_text() == text and not (run.folder / "result.json").exists()


@pytest.mark.parametrize("text", ["", "[]", "null", "3", "[" * 100_000])
def test_what_is_no_result_at_all_is_not_done(tmp_path, text):
    run = grid_run(tmp_path)
    write_result(run).write_text(text)
    (run.folder / "02_training.ipynb").write_text(text)
    assert run.state() != "done"


def test_a_valid_result_stays_where_it_is_with_its_predictions(tmp_path):
    path = write_result(grid_run(tmp_path))
    (path.parent / "predictions").mkdir()
    assert grid_run(tmp_path).quarantine_result() is None and path.exists() and (path.parent / "predictions").exists()


@pytest.mark.parametrize("there", [True, False])
def test_predictions_of_a_network_that_is_to_be_trained_anew_go(tmp_path, there):
    run = grid_run(tmp_path)
    write_result(run, whole=False)
    (run.folder / "predictions").mkdir()
    if not there:
        (run.folder / "result.json").unlink()
    run.quarantine_result()
    assert not (run.folder / "predictions").exists()


def test_a_fault_in_a_servers_scores_does_not_undo_a_run(tmp_path):
    """A slip of the pen must not train a network again."""
    run = grid_run(tmp_path)
    form = write_result(run).with_name("server.csv")
    form.write_text("split,condition,class,metric,value\ntest,,,miou,8l.8\n")
    assert run.state() == "done" and run.quarantine_result() is None and form.exists()


def test_a_servers_scores_go_with_the_result_that_they_are_of(tmp_path):
    run = grid_run(tmp_path)
    write_result(run, whole=False).with_name("server.csv").write_text("of another network")
    run.quarantine_result()
    assert {path.name for path in run.folder.iterdir()} == {"result.json.invalid", "server.csv.invalid"}


# -- Folders and runs


def test_a_changed_configuration_is_another_folder(tmp_path):
    runs = [grid_run(tmp_path, epochs=e, tau=t) for e in (1, 2) for t in (0.2, 0.3)]
    runs += [grid_run(tmp_path), grid_run(tmp_path, seed=1), grid_run(tmp_path, "hrnet")]
    assert len({run.folder for run in runs}) == len(runs)


def test_folders_read_protocol_variant_configuration_seed(tmp_path):
    run = grid_run(tmp_path, seed=3, epochs=1)
    assert run.folder == tmp_path / "synthetic" / f"ovenet-{run.experiment.config_hash}" / "seed3"


def test_a_frozen_run_needs_the_baseline_of_its_seed_and_overrides(tmp_path):
    run = grid_run(tmp_path, "ovenet-frozen", 1, epochs=2)
    assert run.depends_on == grid_run(tmp_path, "hrnet", 1, epochs=2)
    assert run.parameters()["init_from"] == str(run.depends_on.folder)
    assert grid_run(tmp_path).depends_on is None and "init_from" not in grid_run(tmp_path).parameters()


def test_a_grid_gets_the_runs_that_its_own_need_once_and_before_them():
    grid = Grid(variants=("ovenet-frozen", "hrnet"), seeds=(0, 1))
    assert [(c.variant, c.seed) for c in grid.runs()] == [
        ("hrnet", 0), ("ovenet-frozen", 0), ("hrnet", 1), ("ovenet-frozen", 1)]  # fmt: skip
    assert [c.variant for c in Grid(variants=("ovenet-frozen",)).runs()] == ["hrnet", "ovenet-frozen"]


# -- What describes a grid


def test_named_grids_hold_the_variants_of_the_paper_and_of_the_study():
    assert GRIDS["table-5"] == TABLE_5 and GRIDS["study"] == STUDY
    assert [c.variant for c in Grid.from_config({"grid": "systems"}).runs()] == [
        "hrnet", "ovenet", "hrnet-ocr", "ovenet-ocr"]  # fmt: skip


def test_a_file_holds_a_grid_and_the_configuration_goes_before_it(tmp_path):
    path = tmp_path / "grid.yaml"
    path.write_text("protocol: acdc\nvariants: table-5\nseeds: [0, 1]\noverrides: {epochs: 3}\nworkers: 2\n")
    assert Grid.from_config({"grid": str(path)}) == Grid(("acdc",), TABLE_5, (0, 1), {"epochs": 3}, workers=2)
    words = {"seeds": ["4"], "overrides": {"kappa": "0.3", "crop": ["64", "128"], "pretrained": ""}, "workers": 0}
    grid = Grid.from_config({"grid": str(path), **words})  # as snakemake hands on what --config says
    assert (grid.protocol, grid.seeds, grid.workers) == (("acdc",), (4,), 0)
    assert grid.overrides == {"kappa": 0.3, "crop": [64, 128], "pretrained": ""}


def test_a_grid_as_a_file_is_the_same_grid(tmp_path):
    grid = Grid(("acdc",), TABLE_5, (0, 1), {"epochs": 3, "crop": [64, 128]}, Path("x"), True, workers=2)
    (tmp_path / "grid.yaml").write_text(grid.to_yaml())
    assert Grid.from_config({"grid": str(tmp_path / "grid.yaml")}) == grid


def test_one_grid_holds_several_protocols_each_with_its_data(tmp_path):
    given = {"protocol": ["cityscapes", "acdc"], "variants": ["hrnet", "ovenet-frozen"], "root": str(tmp_path)}
    grid = Grid.from_config(given | {"data_root": {"acdc": "/data/acdc"}, "workers": 2})
    assert [run.folder.relative_to(tmp_path).parts[0] for run in grid.runs()] == ["cityscapes"] * 2 + ["acdc"] * 2
    assert [run.depends_on.protocol for run in grid.runs() if run.depends_on] == ["cityscapes", "acdc"]
    given = [grid.options_of(run) for run in grid.runs()]
    assert given == [{"data_root": "", "workers": 2}] * 2 + [{"data_root": "/data/acdc", "workers": 2}] * 2
    for run in grid.runs():
        write_result(run)
    assert list(summarize(grid.runs()).index) == [(run.protocol, run.variant) for run in grid.runs()]


def test_the_example_is_a_grid():
    assert len(Grid.from_config({"grid": str(ROOT / "workflow/example.yaml")}).runs()) == 4


@pytest.mark.parametrize(
    ("text", "where", "found", "expected"),
    [
        ("seed: [0]", ": seed", "no such field", "'seeds'"),
        ("variants: [ovenet-tau1]", ": variants[0]", "ovenet-tau1", "'ovenet-tau-1'"),
        ("variants: tabel-5", ": variants[0]", "tabel-5", "'table-5'"),
        ("variants: []", ": variants", "()", "one or more"),
        ("protocol: synthetik", ": protocol[0]", "synthetik", "'synthetic'"),
        ("protocol: [synthetic, synthetik]", ": protocol[1]", "synthetik", "'synthetic'"),
        ("protocol: 3", ": protocol[0]", "3", "synthetic"),
        ("seeds: [0, one]", ": seeds[1]", "one", "integer"),
        ("seeds: [0, -1]", ": seeds[1]", "-1", "0 or more"),
        ("seeds: true", ": seeds", "True", "int"),
        ("overrides: {epoch: 1}", ": overrides: epoch", "no such field", "'epochs'"),
        ("overrides: {epochs: one}", ": overrides: epochs", "one", "integer"),
        ("overrides: [1]", ": overrides", "(1,)", "dictionary"),
        ("overrides: {init_from: synthetic/hrnet}", ": overrides", "synthetic/hrnet", "init_from"),
        ("overrides: {tau: 0.2}", ": overrides", "ovenet and ovenet-tau-1", "another experiment"),
        ("protocol: [acdc, synthetic]\ndata_root: /data", ": data_root", "/data", "acdc, synthetic"),
        ("protocol: acdc\ndata_root: {adcd: /data}", ": data_root", "adcd", "acdc"),
        ("protocol: acdc\ndata_root: {acdc: 3}", ": data_root", "3", "string"),
        ("workers: many", ": workers", "many", "integer"),
        ("scores: 1", ": scores", "1", "boolean"),
        ("root: ''", ": root", "''", "a folder"),
        ("- 1", "", "[1]", "protocol, variants, seeds"),
        ("protocol: [", "", "node content", "YAML"),
    ],
)
def test_errors_name_the_file_the_key_and_what_was_expected(tmp_path, text, where, found, expected):
    path = tmp_path / "grid.yaml"
    path.write_text(text)
    with pytest.raises(ConfigError) as caught:
        Grid.from_config({"grid": str(path)})
    assert str(caught.value.where) == f"{path}{where}"
    assert found in caught.value.found and expected in caught.value.expected


def test_a_wrong_value_of_the_configuration_is_not_blamed_on_the_file():
    with pytest.raises(ConfigError) as caught:
        Grid.from_config({"grid": str(ROOT / "workflow/example.yaml"), "seeds": ["one"]})
    assert caught.value.where == "configuration: seeds[0]"


def test_a_grid_that_is_neither_a_name_nor_a_file_is_refused():
    with pytest.raises(ConfigError) as caught:
        Grid.from_config({"grid": "tabel-5"})
    assert caught.value.where == "grid" and "'table-5'" in caught.value.expected


# -- Table 5


def test_table_has_mean_standard_deviation_and_number_of_seeds(tmp_path):
    grid = Grid(variants=("hrnet", "ovenet", "ovenet-tau-1"), seeds=(0, 1, 2), root=tmp_path)
    miou = {"S_i": (0.30, 0.40, 0.56), "S_s": (0.2, 0.4, 0.6), "S_f": (0.50, 0.60, 0.76)}
    for run in grid.runs():
        names = ["S_i"] if run.variant == "hrnet" else list(miou)
        metrics = {name: {"miou": miou[name][run.seed]} for name in names}
        if run.variant != "ovenet-tau-1" or run.seed == 1:  # of which one seed alone is done
            write_result(run, metrics=metrics)
    table = summarize(grid.runs()).loc["synthetic"]
    assert list(table.index) == ["hrnet", "ovenet", "ovenet-tau-1"] and list(table["seeds"]) == [3, 3, 1]
    # By hand: deviations -12, -2, 14 of 42 and 62; sqrt((144 + 4 + 196) / 2).
    assert table.loc["ovenet", ["S_i", "S_s", "S_f", "final"]].tolist() == pytest.approx([42, 40, 62, 62])
    assert table.loc["ovenet", ["S_i sd", "S_s sd", "final sd"]].tolist() == pytest.approx([172**0.5, 20, 172**0.5])
    assert table.loc["hrnet", "final"] == pytest.approx(42) and table.loc["hrnet", ["S_s", "S_f"]].isna().all()
    assert table.loc["ovenet-tau-1", "final"] == pytest.approx(60)
    assert table.loc["ovenet-tau-1", ["S_i sd", "final sd"]].isna().all()
    assert len(scores(grid.runs())) == 7
    shown = grid.summary().loc["synthetic"]
    assert shown.loc["hrnet", ["S_i", "S_s", "final"]].tolist() == ["42.00 ± 13.11", "–", "42.00 ± 13.11"]
    assert shown.loc["ovenet-tau-1", ["final", "seeds", "changes"]].tolist() == ["60.00", 1, "tau: 1.0"]
    assert grid.notes() == []


def test_runs_with_other_data_or_code_are_named(tmp_path):
    grid = Grid(variants=("ovenet",), seeds=(0, 1), root=tmp_path)
    for run, commit in zip(grid.runs(), "ab", strict=True):
        write_result(run, commit=commit * 40)
    assert grid.notes() == [f"runs differ in commit: {'a' * 12}, {'b' * 12}"]


def test_the_table_of_a_grid_without_results_is_empty(tmp_path):
    grid = Grid(root=tmp_path)
    assert summarize(grid.runs()).empty and grid.summary().empty and grid.notes() == ["no run is done yet"]


def test_damaged_results_do_not_count(tmp_path):
    runs = Grid(variants=("ovenet",), seeds=(0, 1), root=tmp_path).runs()
    write_result(runs[0])
    write_result(runs[1], whole=False)
    assert summarize(runs).loc[("synthetic", "ovenet"), "seeds"] == 1


# -- Snakemake


def snakemake(tmp_path: Path, *options: str) -> subprocess.CompletedProcess:
    command = [sys.executable, "-m", "snakemake", "--snakefile", str(ROOT / "workflow/Snakefile")]
    command += ["--directory", str(tmp_path), *options]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True)


def write_grid(tmp_path: Path, seeds: int = 4) -> Grid:
    path = tmp_path / "grid.yaml"
    grid = {"protocol": "cityscapes", "variants": ["hrnet", "ovenet"], "seeds": list(range(seeds)), "overrides": TINY}
    path.write_text(yaml.safe_dump(grid | {"root": str(tmp_path / "grid"), "data_root": str(tmp_path / "data")}))
    return Grid.from_config({"grid": str(path)})


def trained(process: subprocess.CompletedProcess, runs: list[GridRun]) -> list[GridRun]:
    """The runs that snakemake says it trains."""
    return [run for run in runs if f"training {run.key}\n" in process.stdout + process.stderr]


def test_a_snakemake_that_does_not_come_as_far_as_a_run_is_heard(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr("ovenet_core.study.grid.PROJECT", tmp_path)  # where there is no Snakefile
    Grid(root=tmp_path / "grid").run_missing()
    assert "Snakefile" in capsys.readouterr().out


@pytest.mark.parametrize("profile", ["slurm", "kubernetes"])
def test_the_runs_of_a_grid_are_what_a_cluster_would_be_given(tmp_path, profile):
    runs = write_grid(tmp_path).runs()
    write_result(runs[0])
    config = ["--config", f"grid={tmp_path / 'grid.yaml'}"]
    process = snakemake(tmp_path, "--dry-run", "--profile", str(ROOT / "workflow/profiles" / profile), *config)
    assert process.returncode == 0, process.stdout + process.stderr
    assert trained(process, runs) == runs[1:]


def test_one_command_is_the_table_of_all_three_benchmarks(tmp_path):
    benchmarks = ["cityscapes", "acdc", "ade20k"]
    command = ["--dry-run", "--config", "grid=table-5", f"protocol={benchmarks}", "seeds=[0, 1]", f"root={tmp_path}"]
    process = snakemake(tmp_path, *command, "data_root={acdc: /data/acdc}")
    runs = Grid(tuple(benchmarks), TABLE_5, (0, 1), root=tmp_path).runs()
    assert process.returncode == 0, process.stdout + process.stderr
    assert trained(process, runs) == runs and len(runs) == 3 * 7 * 2


def test_scores_are_asked_for_of_runs_that_have_none(tmp_path):
    runs = write_grid(tmp_path, seeds=1).runs()
    for run in runs:
        write_result(run)
    (runs[0].folder / "images.csv.gz").write_bytes(b"")
    process = snakemake(tmp_path, "--dry-run", "--config", f"grid={tmp_path / 'grid.yaml'}", "scores=True")
    said = process.stdout + process.stderr
    assert process.returncode == 0 and "training " not in said, said
    jobs = [(notebook, run) for notebook in ("04_evaluation", "08_offset_analysis") for run in runs]
    named = {(notebook, run.variant) for notebook, run in jobs if f"running {notebook} of {run.key}\n" in said}
    assert named == {("04_evaluation", "ovenet"), ("08_offset_analysis", "ovenet")}


def test_a_kernel_of_a_grid_takes_no_port_that_another_could_take(tmp_path):
    """Kernels name their ports before they open them: of many that start at once, two could name the same."""
    code = "import json, ipykernel\nprint(json.load(open(ipykernel.get_connection_file())))"
    notebook = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(code)])
    notebook.metadata["kernelspec"] = {"name": "python3", "display_name": "Python 3", "language": "python"}
    nbformat.write(notebook, tmp_path / "given.ipynb")
    command = [sys.executable, "-m", "papermill", "--engine", "ipc", "--no-progress-bar", "given.ipynb", "-"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, env=os.environ | {"TMPDIR": "."})
    assert "'transport': 'ipc'" in done.stdout, done.stderr
    assert [path.name for path in tmp_path.iterdir()] == ["given.ipynb"]  # the kernel's sockets are gone


def test_eight_runs_at_once_of_which_two_fail_and_are_repeated_and_a_seed_is_added(tmp_path):
    sizes = {"train": 2, "val": 1}
    write_scenes(tmp_path / "data", "cityscapes", split_sizes=sizes, size=(64, 128), progress=False)
    runs = write_grid(tmp_path).runs()
    broken = [runs[2], runs[5]]
    for run in broken:
        (run.folder / "config.json").mkdir(parents=True)  # where the run wants to write a file
    write_result(runs[3], whole=False)
    options = ["--cores", "8", "--config", f"grid={tmp_path / 'grid.yaml'}"]

    first = snakemake(tmp_path, *options)
    assert first.returncode != 0 and trained(first, runs) == runs
    states = ["failed" if run in broken else "done" for run in runs]
    assert list(state_table(runs)["state"]) == states, first.stdout + first.stderr
    for run in broken:
        assert "config.json" in (run.folder / "log.txt").read_text()
        assert "config.json" in (run.folder / "02_training.ipynb").read_text()
    assert (runs[3].folder / "result.json.invalid").exists()

    again = snakemake(tmp_path, "--dry-run", *options)
    assert trained(again, runs) == broken, again.stdout + again.stderr
    for run in broken:
        (run.folder / "config.json").rmdir()
    finished = {run.key: os.stat(run.folder / "result.json").st_mtime_ns for run in runs if run not in broken}
    more = write_grid(tmp_path, seeds=5).runs()
    second = snakemake(tmp_path, *options)
    assert second.returncode == 0, second.stdout + second.stderr
    assert trained(second, more) == broken + more[8:]
    assert set(state_table(more)["state"]) == {"done"}
    assert finished == {key: os.stat(tmp_path / "grid" / key / "result.json").st_mtime_ns for key in finished}
    assert list(summarize(more)["seeds"]) == [5, 5]
