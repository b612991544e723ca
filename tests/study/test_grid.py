"""Grids: what a folder says of its cell, what a grid's file may hold, Table 5, and a real grid of eight cells."""

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
from ovenet_core.study.grid import GRIDS, Grid, GridError, GridRun, scores, state_table, summarize
from ovenet_core.training.presets import TABLE_5, VARIANTS

ROOT = Path(__file__).parents[2]
TINY = {"width": 8, "blocks": 1, "pretrained": "", "crop": [64, 128], "batch_size": 2, "epochs": 1}


def cell_of(root: Path, variant: str = "ovenet", seed: int = 0, **overrides) -> GridRun:
    return GridRun("synthetic", variant, seed, overrides, root)


def write_result(cell: GridRun, *, whole: bool = True, **changes) -> Path:
    """The result that a cell would have: all its scores are half as good as 1 / (1 + seed), or those given."""
    outputs = ("S_i",) if cell.spec.branch_stage is None else ("S_i", "S_s", "S_f")
    value = {
        "experiment": asdict(cell.spec),
        "seed": cell.seed,
        "split": "val",
        "commit": "a" * 40,
        "metrics": {name: {"miou": 0.5 / (1 + cell.seed)} for name in outputs},
        "data_fingerprint": "f" * 64,
        "finished": "2026-01-01T00:00:00Z",
        "duration_seconds": 60.0,
    }
    text = json.dumps(value | changes)
    cell.folder.mkdir(parents=True, exist_ok=True)
    path = cell.folder / "result.json"
    path.write_text(text if whole else text[: len(text) // 2])
    return path


def write_notebook(cell: GridRun, *errors: str) -> None:
    outputs = [{"output_type": "error", "ename": name, "evalue": "", "traceback": []} for name in errors]
    cell.folder.mkdir(parents=True, exist_ok=True)
    (cell.folder / "02_training.ipynb").write_text(json.dumps({"cells": [{"outputs": outputs}, {"source": ""}]}))


# -- States


def test_a_cell_without_a_folder_is_missing(tmp_path):
    assert cell_of(tmp_path).state() == "missing"


def test_a_cell_with_a_valid_result_is_done_whatever_else_there_is(tmp_path):
    cell = cell_of(tmp_path)
    write_result(cell)
    write_notebook(cell, "ValueError")
    (cell.folder / "snapshot.pt").touch()
    assert cell.state() == "done"


def test_a_cell_with_a_snapshot_is_interrupted(tmp_path):
    cell = cell_of(tmp_path)
    write_notebook(cell, "KeyboardInterrupt")
    (cell.folder / "snapshot.pt").touch()
    assert cell.state() == "interrupted"


def test_a_cell_whose_notebook_has_an_error_failed(tmp_path):
    cell = cell_of(tmp_path)
    write_notebook(cell, "DivergedError")
    (cell.folder / "snapshot.pt").touch()
    assert cell.state() == "failed"


@pytest.mark.parametrize(("end", "state"), [(None, "interrupted"), ("2026-01-01T00:00:00Z", "failed")])
def test_a_cell_in_its_first_epoch_has_not_failed(tmp_path, end, state):
    """papermill writes when it has ended, also if the kernel was killed, which leaves no error in the notebook."""
    cell = cell_of(tmp_path)
    write_notebook(cell)
    (cell.folder / "log.txt").touch()
    notebook = cell.folder / "02_training.ipynb"
    executed = json.loads(notebook.read_text()) | {"metadata": {"papermill": {"start_time": "now", "end_time": end}}}
    notebook.write_text(json.dumps(executed))
    assert cell.state() == state


def test_a_cell_that_left_nothing_but_a_log_failed(tmp_path):
    cell = cell_of(tmp_path)
    cell.folder.mkdir(parents=True)
    (cell.folder / "log.txt").write_text("Killed")
    assert cell.state() == "failed"


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
    cell = cell_of(tmp_path)
    text = write_result(cell, **damage).read_text()
    assert cell.state() != "done"
    assert cell.set_aside() == cell.folder / "result.json.invalid"
    write_result(cell, **damage)
    assert cell.set_aside() == cell.folder / "result.json.invalid-2"
    assert (cell.folder / "result.json.invalid").read_text() == text and not (cell.folder / "result.json").exists()


@pytest.mark.parametrize("text", ["", "[]", "null", "3", "[" * 100_000])
def test_what_is_no_result_at_all_is_not_done(tmp_path, text):
    cell = cell_of(tmp_path)
    write_result(cell).write_text(text)
    (cell.folder / "02_training.ipynb").write_text(text)
    assert cell.state() != "done"


def test_a_valid_result_stays_where_it_is_with_its_predictions(tmp_path):
    path = write_result(cell_of(tmp_path))
    (path.parent / "predictions").mkdir()
    assert cell_of(tmp_path).set_aside() is None and path.exists() and (path.parent / "predictions").exists()


@pytest.mark.parametrize("there", [True, False])
def test_predictions_of_a_network_that_is_to_be_trained_anew_go(tmp_path, there):
    cell = cell_of(tmp_path)
    write_result(cell, whole=False)
    (cell.folder / "predictions").mkdir()
    if not there:
        (cell.folder / "result.json").unlink()
    cell.set_aside()
    assert not (cell.folder / "predictions").exists()


def test_a_fault_in_a_servers_scores_does_not_undo_a_cell(tmp_path):
    """A slip of the pen must not train a network again."""
    cell = cell_of(tmp_path)
    form = write_result(cell).with_name("server.csv")
    form.write_text("split,condition,class,metric,value\ntest,,,miou,8l.8\n")
    assert cell.state() == "done" and cell.set_aside() is None and form.exists()


def test_a_servers_scores_go_with_the_result_that_they_are_of(tmp_path):
    cell = cell_of(tmp_path)
    write_result(cell, whole=False).with_name("server.csv").write_text("of another network")
    cell.set_aside()
    assert {path.name for path in cell.folder.iterdir()} == {"result.json.invalid", "server.csv.invalid"}


# -- Folders and cells


def test_a_changed_configuration_is_another_folder(tmp_path):
    cells = [cell_of(tmp_path, epochs=e, tau=t) for e in (1, 2) for t in (0.2, 0.3)]
    cells += [cell_of(tmp_path), cell_of(tmp_path, seed=1), cell_of(tmp_path, "hrnet")]
    assert len({cell.folder for cell in cells}) == len(cells)


def test_folders_read_scale_variant_configuration_seed(tmp_path):
    cell = cell_of(tmp_path, seed=3, epochs=1)
    assert cell.folder == tmp_path / "synthetic" / f"ovenet-{cell.spec.config_hash}" / "seed3"


def test_a_frozen_cell_needs_the_baseline_of_its_seed_and_overrides(tmp_path):
    cell = cell_of(tmp_path, "ovenet-frozen", 1, epochs=2)
    assert cell.needs == cell_of(tmp_path, "hrnet", 1, epochs=2)
    assert cell.parameters()["init_from"] == str(cell.needs.folder)
    assert cell_of(tmp_path).needs is None and "init_from" not in cell_of(tmp_path).parameters()


def test_a_grid_gets_the_cells_that_its_own_need_once_and_before_them():
    grid = Grid(variants=("ovenet-frozen", "hrnet"), seeds=(0, 1))
    assert [(c.variant, c.seed) for c in grid.cells()] == [
        ("hrnet", 0), ("ovenet-frozen", 0), ("hrnet", 1), ("ovenet-frozen", 1)]  # fmt: skip
    assert [c.variant for c in Grid(variants=("ovenet-frozen",)).cells()] == ["hrnet", "ovenet-frozen"]


# -- What describes a grid


def test_named_grids_hold_the_variants_of_the_paper_and_of_the_study():
    assert GRIDS["table-5"] == TABLE_5 and GRIDS["study"] == tuple(VARIANTS)
    assert [c.variant for c in Grid.from_config({"grid": "systems"}).cells()] == [
        "hrnet", "ovenet", "hrnet-ocr", "ovenet-ocr"]  # fmt: skip


def test_a_file_holds_a_grid_and_the_configuration_goes_before_it(tmp_path):
    path = tmp_path / "grid.yaml"
    path.write_text("scale: acdc\nvariants: table-5\nseeds: [0, 1]\noverrides: {epochs: 3}\nworkers: 2\n")
    assert Grid.from_yaml(path) == Grid(("acdc",), TABLE_5, (0, 1), {"epochs": 3}, options={"workers": 2})
    words = {"seeds": ["4"], "overrides": {"kappa": "0.3", "crop": ["64", "128"], "pretrained": ""}, "workers": 0}
    grid = Grid.from_config({"grid": str(path), **words})  # as snakemake hands on what --config says
    assert (grid.scale, grid.seeds, grid.options) == (("acdc",), (4,), {"workers": 0})
    assert grid.overrides == {"kappa": 0.3, "crop": [64, 128], "pretrained": ""}


def test_a_grid_as_a_file_is_the_same_grid(tmp_path):
    grid = Grid(("acdc",), TABLE_5, (0, 1), {"epochs": 3, "crop": [64, 128]}, Path("x"), True, {"workers": 2})
    (tmp_path / "grid.yaml").write_text(grid.to_yaml())
    assert Grid.from_yaml(tmp_path / "grid.yaml") == grid


def test_one_grid_holds_several_scales_each_with_its_data(tmp_path):
    given = {"scale": ["cityscapes", "acdc"], "variants": ["hrnet", "ovenet-frozen"], "root": str(tmp_path)}
    grid = Grid.from_config(given | {"data_root": {"acdc": "/data/acdc"}, "workers": 2})
    assert [cell.folder.relative_to(tmp_path).parts[0] for cell in grid.cells()] == ["cityscapes"] * 2 + ["acdc"] * 2
    assert [cell.needs.scale for cell in grid.cells() if cell.needs] == ["cityscapes", "acdc"]
    given = [grid.options_of(cell) for cell in grid.cells()]
    assert given == [{"data_root": "", "workers": 2}] * 2 + [{"data_root": "/data/acdc", "workers": 2}] * 2
    for cell in grid.cells():
        write_result(cell)
    assert list(summarize(grid.cells()).index) == [(cell.scale, cell.variant) for cell in grid.cells()]


def test_the_example_is_a_grid():
    assert len(Grid.from_yaml(ROOT / "workflow/example.yaml").cells()) == 4


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("seed: [0]", "no key 'seed' (did you mean 'seeds'?)"),
        ("variants: [ovenet-tau1]", "variants is ['ovenet-tau1'] (did you mean 'ovenet-tau-1'?)"),
        ("variants: tabel-5", "(did you mean 'table-5'?)"),
        ("variants: []", "variants is []"),
        ("scale: scene", "scale is ['scene'] (did you mean 'scenes'?)"),
        ("seeds: [0, one]", "expected a list of whole numbers"),
        ("overrides: {epoch: 1}", "overrides: an experiment has no field 'epoch'; did you mean 'epochs'?"),
        ("overrides: {epochs: one}", "overrides: epochs is 'one'; expected int"),
        ("overrides: [1]", "overrides is [1]; expected a mapping"),
        ("overrides: {init_from: synthetic/hrnet}", "init_from is the variant's"),
        ("overrides: {tau: 0.2}", "ovenet and ovenet-tau-1 the same experiment"),
        ("scale: [scenes, scene]", "(did you mean 'scenes'?)"),
        ("scale: [acdc, scenes]\ndata_root: /data", "data_root is '/data' and scale is ['acdc', 'scenes']; expected"),
        ("scale: acdc\ndata_root: {adcd: /data}", "data_root is {'adcd': '/data'} and scale is ['acdc']"),
        ("scale: acdc\ndata_root: {acdc: 3}", "data_root is {'acdc': 3}; expected a folder"),
        ("workers: many", "workers is 'many'; expected of type int"),
        ("- 1", "expected `key: value` lines"),
        ("scale: [", "is not YAML"),
    ],
)
def test_errors_name_the_file_the_key_and_what_was_expected(tmp_path, text, expected):
    path = tmp_path / "grid.yaml"
    path.write_text(text)
    with pytest.raises(GridError) as error:
        Grid.from_yaml(path)
    assert str(path) in str(error.value) and expected in str(error.value)


def test_a_grid_that_is_neither_a_name_nor_a_file_is_refused():
    with pytest.raises(GridError, match=r"grid 'tabel-5'.*did you mean 'table-5'"):
        Grid.from_config({"grid": "tabel-5"})


# -- Table 5


def test_table_has_mean_standard_deviation_and_number_of_seeds(tmp_path):
    grid = Grid(variants=("hrnet", "ovenet", "ovenet-tau-1"), seeds=(0, 1, 2), root=tmp_path)
    miou = {"S_i": (0.30, 0.40, 0.56), "S_s": (0.2, 0.4, 0.6), "S_f": (0.50, 0.60, 0.76)}
    for cell in grid.cells():
        names = ["S_i"] if cell.variant == "hrnet" else list(miou)
        metrics = {name: {"miou": miou[name][cell.seed]} for name in names}
        if cell.variant != "ovenet-tau-1" or cell.seed == 1:  # of which one seed alone is done
            write_result(cell, metrics=metrics)
    table = summarize(grid.cells()).loc["synthetic"]
    assert list(table.index) == ["hrnet", "ovenet", "ovenet-tau-1"] and list(table["seeds"]) == [3, 3, 1]
    # By hand: deviations -12, -2, 14 of 42 and 62; sqrt((144 + 4 + 196) / 2).
    assert table.loc["ovenet", ["S_i", "S_s", "S_f", "answer"]].tolist() == pytest.approx([42, 40, 62, 62])
    assert table.loc["ovenet", ["S_i sd", "S_s sd", "answer sd"]].tolist() == pytest.approx([172**0.5, 20, 172**0.5])
    assert table.loc["hrnet", "answer"] == pytest.approx(42) and table.loc["hrnet", ["S_s", "S_f"]].isna().all()
    assert table.loc["ovenet-tau-1", "answer"] == pytest.approx(60)
    assert table.loc["ovenet-tau-1", ["S_i sd", "answer sd"]].isna().all()
    assert len(scores(grid.cells())) == 7


def test_the_table_of_a_grid_without_results_is_empty(tmp_path):
    assert summarize(Grid(root=tmp_path).cells()).empty


def test_damaged_results_do_not_count(tmp_path):
    cells = Grid(variants=("ovenet",), seeds=(0, 1), root=tmp_path).cells()
    write_result(cells[0])
    write_result(cells[1], whole=False)
    assert summarize(cells).loc[("synthetic", "ovenet"), "seeds"] == 1


# -- Snakemake


def snakemake(tmp_path: Path, *options: str) -> subprocess.CompletedProcess:
    command = [sys.executable, "-m", "snakemake", "--snakefile", str(ROOT / "workflow/Snakefile")]
    command += ["--directory", str(tmp_path), *options]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True)


def write_grid(tmp_path: Path, seeds: int = 4) -> Grid:
    path = tmp_path / "grid.yaml"
    grid = {"scale": "cityscapes", "variants": ["hrnet", "ovenet"], "seeds": list(range(seeds)), "overrides": TINY}
    path.write_text(yaml.safe_dump(grid | {"root": str(tmp_path / "grid"), "data_root": str(tmp_path / "data")}))
    return Grid.from_yaml(path)


def trained(process: subprocess.CompletedProcess, cells: list[GridRun]) -> list[GridRun]:
    """The cells that snakemake says it trains."""
    return [cell for cell in cells if f"training {cell.key}\n" in process.stdout + process.stderr]


@pytest.mark.parametrize("profile", ["slurm", "kubernetes"])
def test_the_cells_of_a_grid_are_what_a_cluster_would_be_given(tmp_path, profile):
    cells = write_grid(tmp_path).cells()
    write_result(cells[0])
    config = ["--config", f"grid={tmp_path / 'grid.yaml'}"]
    process = snakemake(tmp_path, "--dry-run", "--profile", str(ROOT / "workflow/profiles" / profile), *config)
    assert process.returncode == 0, process.stdout + process.stderr
    assert trained(process, cells) == cells[1:]


def test_one_command_is_the_table_of_all_three_benchmarks(tmp_path):
    benchmarks = ["cityscapes", "acdc", "ade20k"]
    command = ["--dry-run", "--config", "grid=table-5", f"scale={benchmarks}", "seeds=[0, 1]", f"root={tmp_path}"]
    process = snakemake(tmp_path, *command, "data_root={acdc: /data/acdc}")
    cells = Grid(tuple(benchmarks), TABLE_5, (0, 1), root=tmp_path).cells()
    assert process.returncode == 0, process.stdout + process.stderr
    assert trained(process, cells) == cells and len(cells) == 3 * 7 * 2


def test_scores_are_asked_for_of_cells_that_have_none(tmp_path):
    cells = write_grid(tmp_path, seeds=1).cells()
    for cell in cells:
        write_result(cell)
    (cells[0].folder / "images.csv.gz").write_bytes(b"")
    process = snakemake(tmp_path, "--dry-run", "--config", f"grid={tmp_path / 'grid.yaml'}", "scores=True")
    said = process.stdout + process.stderr
    assert process.returncode == 0 and "training " not in said, said
    jobs = [(notebook, cell) for notebook in ("04_evaluation", "08_offset_analysis") for cell in cells]
    named = {(notebook, cell.variant) for notebook, cell in jobs if f"running {notebook} of {cell.key}\n" in said}
    assert named == {("04_evaluation", "ovenet"), ("08_offset_analysis", "ovenet")}


def test_a_kernel_of_a_grid_takes_no_port_that_another_could_take(tmp_path):
    """Kernels name their ports before they open them: of many that start at once, two could name the same."""
    code = "import json, ipykernel\nprint(json.load(open(ipykernel.get_connection_file())))"
    notebook = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(code)])
    notebook.metadata["kernelspec"] = {"name": "python3", "display_name": "Python 3", "language": "python"}
    nbformat.write(notebook, tmp_path / "given.ipynb")
    command = [sys.executable, str(ROOT / "workflow/run_notebook.py"), "given.ipynb", "-", "--no-progress-bar"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, env=os.environ | {"TMPDIR": "."})
    assert "'transport': 'ipc'" in done.stdout, done.stderr
    assert [path.name for path in tmp_path.iterdir()] == ["given.ipynb"]  # the kernel's sockets are gone


def test_eight_cells_at_once_of_which_two_fail_and_are_repeated_and_a_seed_is_added(tmp_path):
    sizes = {"train": 2, "val": 1}
    write_scenes(tmp_path / "data", "cityscapes", split_sizes=sizes, size=(64, 128), progress=False)
    cells = write_grid(tmp_path).cells()
    broken = [cells[2], cells[5]]
    for cell in broken:
        (cell.folder / "config.json").mkdir(parents=True)  # where the run wants to write a file
    write_result(cells[3], whole=False)
    options = ["--cores", "8", "--config", f"grid={tmp_path / 'grid.yaml'}"]

    first = snakemake(tmp_path, *options)
    assert first.returncode != 0 and trained(first, cells) == cells
    states = ["failed" if cell in broken else "done" for cell in cells]
    assert list(state_table(cells)["state"]) == states, first.stdout + first.stderr
    for cell in broken:
        assert "config.json" in (cell.folder / "log.txt").read_text()
        assert "config.json" in (cell.folder / "02_training.ipynb").read_text()
    assert (cells[3].folder / "result.json.invalid").exists()

    again = snakemake(tmp_path, "--dry-run", *options)
    assert trained(again, cells) == broken, again.stdout + again.stderr
    for cell in broken:
        (cell.folder / "config.json").rmdir()
    finished = {cell.key: os.stat(cell.folder / "result.json").st_mtime_ns for cell in cells if cell not in broken}
    more = write_grid(tmp_path, seeds=5).cells()
    second = snakemake(tmp_path, *options)
    assert second.returncode == 0, second.stdout + second.stderr
    assert trained(second, more) == broken + more[8:]
    assert set(state_table(more)["state"]) == {"done"}
    assert finished == {key: os.stat(tmp_path / "grid" / key / "result.json").st_mtime_ns for key in finished}
    assert list(summarize(more)["seeds"]) == [5, 5]
