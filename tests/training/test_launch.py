"""The command line, the usual places, and training in several processes from a notebook."""

import json
from pathlib import Path

import pytest

from ovenet_core.data.synthetic.writer import write_scenes
from ovenet_core.training.launch import (
    arguments,
    collect_overrides,
    create_preset_trainer,
    dataset_of,
    train_in_processes,
)
from ovenet_core.training.presets import preset
from ovenet_core.utils import ConfigError, DataError, RunError

SMALL = {
    "benchmark": "cityscapes",
    "crop": [64, 128],
    "epochs": 1,
    "batch_size": 2,
    "validate_every": 1,
    "width": 8,
    "blocks": 1,
    "pretrained": "",
    "ohem_min_kept_per_image": 1024,
    "precision": "float32",
}


@pytest.fixture(scope="module")
def scenes(tmp_path_factory):
    folder = tmp_path_factory.mktemp("synthetic")
    return write_scenes(folder, split_sizes={"train": 4, "val": 2}, size=(64, 128), progress=False)


def test_fields_are_set_by_name_as_text_or_as_yaml():
    given = ["--set", "epochs=2", "--set", "crop=[64, 128]", "--set", "{tau: 0.2}", "--set", "pretrained=''"]
    parsed = arguments(["synthetic/ovenet", *given])
    assert parsed.overrides == {"epochs": 2, "crop": [64, 128], "tau": 0.2, "pretrained": ""}


@pytest.mark.parametrize(
    ("line", "named"),
    [
        (["synthetic/ovnet"], "expected 'synthetic/ovenet'"),
        (["synthetic/ovenet", "--set", "epoch=2"], "expected 'epochs'"),
        (["synthetic/ovenet", "--set", "epochs=two"], "epochs: found 'two'"),
        (["synthetic/ovenet", "--set", "epochs"], "expected FIELD=VALUE"),
        (["synthetic/ovenet", "--set", "crop=[64"], "expected FIELD=VALUE"),
        (["synthetic/ovenet", "--sed", "2"], "--sed"),
    ],
)
def test_a_wrong_command_line_is_refused_before_anything_is_done(line, named, capsys):
    with pytest.raises(SystemExit) as error:
        arguments(line)
    assert error.value.code == 2
    assert named in capsys.readouterr().err


# -- What a notebook is given


PARAMETERS = """
from pathlib import Path
experiment: str = "synthetic/ovenet"
overrides: dict = {}
init_from: str = ""
seed: int = 0
processes: int = 1
data_root: str = ""
"""


def notebook(*cells: str) -> dict:
    """The namespace of a notebook after its parameters and these cells, as IPython has it."""
    namespace = {"In": [""], "Out": {}, "_dh": ["/"], "_": ""}
    for cell in (PARAMETERS, *cells):
        exec(cell, namespace)
    return namespace


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ("", {}),
        ("overrides = {'epochs': 2, 'tau': 0.2}", {"epochs": 2, "tau": 0.2}),
        ("overrides = '{epochs: 2, crop: [64, 128]}'", {"epochs": 2, "crop": [64, 128]}),
        ("overrides = ''", {}),
        ("epochs = 2", {"epochs": 2}),
        ("epochs: int = 2; learning_rate = '1e-3'", {"epochs": 2, "learning_rate": "1e-3"}),
        (
            "micro_batch_size = None; crop = [64, 128]; ohem = False",
            {"micro_batch_size": None, "crop": [64, 128], "ohem": False},
        ),
        ("crop = '[64, 128]'; pretrained = ''", {"crop": [64, 128], "pretrained": ""}),
        ("overrides = {'epochs': 2, 'tau': 0.2}; epochs = 3", {"epochs": 3, "tau": 0.2}),
        ("epochs = 2; init_from = 'runs/here'; experiment = 'synthetic/hrnet'", {"epochs": 2}),
    ],
)
def test_fields_are_given_to_a_notebook_together_or_by_name(given, expected):
    namespace = notebook(given)
    collected = collect_overrides(namespace["overrides"], namespace)
    assert collected == expected
    preset("synthetic/ovenet", **collected)


@pytest.mark.parametrize(
    ("given", "where", "found", "expected"),
    [
        ("epoch = 2", "epoch", "no such", "'epochs'"),
        ("init_fro = 'runs/here'", "init_fro", "no such", "'init_from'"),
        ("overides = {'epochs': 2}", "overides", "no such", "'overrides'"),
        ("xyz = 1", "xyz", "no such", "one of experiment, overrides"),
        ("overrides = 'epochs'", "overrides", "'epochs'", "{epochs: 2}"),
        ("overrides = '{epochs: ['", "overrides", "'{epochs: ['", "{epochs: 2}"),
        ("overrides = [1]", "overrides", "[1]", "{epochs: 2}"),
        ("seed = 1.5", "seed", "1.5", "int"),
        ("seed = True", "seed", "True", "int"),
        ("processes = 'two'", "processes", "'two'", "int"),
        ("data_root = 5", "data_root", "5", "str"),
    ],
)
def test_what_a_notebook_does_not_know_is_refused(given, where, found, expected):
    namespace = notebook(given)
    with pytest.raises(ConfigError) as caught:
        collect_overrides(namespace["overrides"], namespace)
    assert caught.value.where == where and found in caught.value.found and expected in caught.value.expected


def test_a_field_that_is_written_later_is_given_too():
    """As where somebody goes back to the parameters after the notebook has run."""
    namespace = notebook("spec = Path()", "tau = 0.2")
    assert collect_overrides(namespace["overrides"], namespace) == {"tau": 0.2}


def test_a_cell_that_is_run_again_is_given_the_same():
    namespace = notebook("tau = 0.2", "spec = Path()", "options = {'seed': 0}; epoch = 1", "overrides = {'tau': 0.2}")
    assert collect_overrides(namespace["overrides"], namespace) == {"tau": 0.2}


def test_generated_images_are_drawn_only_for_their_presets():
    assert dataset_of("synthetic-acdc/ovenet", preset("synthetic-acdc/ovenet")) == "synthetic/acdc"
    assert dataset_of("acdc/ovenet", preset("acdc/ovenet")) == "acdc"
    assert dataset_of("synthetic/ovenet", preset("synthetic/ovenet", benchmark="camvid")) == "camvid"


def test_a_run_lies_in_the_usual_place(scenes, tmp_path):
    run = create_preset_trainer(tmp_path, "acdc/hrnet", overrides=SMALL, seed=3, data_root=str(scenes), device="cpu")
    assert run.folder == tmp_path / "runs/acdc/hrnet/seed3"


def test_weights_that_are_nowhere_are_named(scenes, tmp_path):
    with pytest.raises(DataError) as caught:
        create_preset_trainer(tmp_path, "cityscapes/hrnet", data_root=str(scenes), weights_root=str(tmp_path))
    assert "hrnetv2_w48_imagenet_pretrained" in str(caught.value.where)


def test_a_frozen_experiment_names_the_run_that_it_lacks(scenes, tmp_path):
    with pytest.raises(RunError) as caught:
        create_preset_trainer(tmp_path, "synthetic/ovenet-frozen", seed=3, data_root=str(scenes))
    assert caught.value.where == str(tmp_path / "runs/synthetic/hrnet/seed3")
    assert "synthetic/hrnet, seed 3" in caught.value.expected and "init_from" in caught.value.fix


def test_two_processes_are_started_and_their_log_is_shown(scenes, tmp_path, capsys):
    options = {"seed": 1, "data_root": str(scenes), "run_folder": str(tmp_path / "run"), "device": "cpu"}
    train_in_processes(2, Path(), "acdc/ovenet", SMALL, **options)
    result = json.loads((tmp_path / "run/result.json").read_text())
    assert (result["processes"], result["seed"]) == (2, 1)
    assert "training: 100%" in capsys.readouterr().out
    assert create_preset_trainer(tmp_path, "acdc/ovenet", overrides=SMALL, **options).run() == result


def test_a_failure_in_the_processes_is_an_error_here(scenes, tmp_path, capsys):
    with pytest.raises(RunError) as caught:
        train_in_processes(
            2,
            Path(),
            "acdc/ovenet",
            SMALL | {"batch_size": 1},
            data_root=str(scenes),
            device="cpu",
            run_folder=str(tmp_path / "run"),
        )
    assert "from 2 processes" in caught.value.found
    assert "ConfigError: batch_size" in capsys.readouterr().out
