"""The command line, the usual places, and training in several processes from a notebook."""

import json
from pathlib import Path

import pytest

from ovenet_core.data.io import DataError
from ovenet_core.data.synthetic.writer import write_scenes
from ovenet_core.training.launch import arguments, collect_overrides, create_trainer, dataset_of, train_in_processes
from ovenet_core.training.presets import preset

SMALL = {
    "benchmark": "cityscapes",
    "crop": [64, 128],
    "epochs": 1,
    "batch_size": 2,
    "validate_every": 1,
    "width": 8,
    "blocks": 1,
    "pretrained": "",
    "ohem_min_kept": 2048,
    "precision": "float32",
}


@pytest.fixture(scope="module")
def scenes(tmp_path_factory):
    folder = tmp_path_factory.mktemp("synthetic")
    return write_scenes(folder, split_sizes={"train": 4, "val": 2}, size=(64, 128), progress=False)


def test_fields_are_set_by_name_as_text_or_as_yaml():
    found = arguments(["synthetic/ovenet", "--set", "epochs=2", "--set", "crop=[64, 128]", "--set", "{tau: 0.2}"])
    assert found.overrides == {"epochs": 2, "crop": [64, 128], "tau": 0.2}


@pytest.mark.parametrize(
    ("line", "named"),
    [
        (["synthetic/ovnet"], "did you mean 'synthetic/ovenet'"),
        (["synthetic/ovenet", "--set", "epoch=2"], "did you mean 'epochs'"),
        (["synthetic/ovenet", "--set", "epochs=two"], "epochs is 'two'"),
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
    found = collect_overrides(namespace["overrides"], namespace)
    assert found == expected
    preset("synthetic/ovenet", **found)


@pytest.mark.parametrize(
    ("given", "named"),
    [
        ("epoch = 2", "'epoch'; did you mean 'epochs'"),
        ("init_fro = 'runs/here'", "did you mean 'init_from'"),
        ("overides = {'epochs': 2}", "did you mean 'overrides'"),
        ("xyz = 1", "expected one of experiment, overrides"),
        ("overrides = 'epochs'", "expected fields of an experiment, such as {epochs: 2}"),
        ("overrides = '{epochs: ['", "expected YAML"),
        ("overrides = [1]", "expected fields of an experiment"),
        ("seed = 1.5", "seed is 1.5; expected int"),
        ("seed = True", "seed is True; expected int"),
        ("processes = 'two'", "processes is 'two'; expected int"),
        ("data_root = 5", "data_root is 5; expected str"),
    ],
)
def test_what_a_notebook_does_not_know_is_refused(given, named):
    namespace = notebook(given)
    with pytest.raises(ValueError, match=named):
        collect_overrides(namespace["overrides"], namespace)


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
    run = create_trainer(tmp_path, "acdc/hrnet", overrides=SMALL, seed=3, data_root=str(scenes), device="cpu")
    assert run.folder == tmp_path / "runs/acdc/hrnet/seed3"


def test_weights_that_are_nowhere_are_named(scenes, tmp_path):
    with pytest.raises(DataError, match="hrnetv2_w48_imagenet_pretrained"):
        create_trainer(tmp_path, "cityscapes/hrnet", data_root=str(scenes), weights_root=str(tmp_path))


def test_a_frozen_experiment_names_the_run_that_it_lacks(scenes, tmp_path):
    with pytest.raises(ValueError, match=r"starts from a finished run of synthetic/hrnet, seed 3: .*as init_from"):
        create_trainer(tmp_path, "synthetic/ovenet-frozen", seed=3, data_root=str(scenes))


def test_two_processes_are_started_and_their_log_is_shown(scenes, tmp_path, capsys):
    options = {"seed": 1, "data_root": str(scenes), "run_folder": str(tmp_path / "run"), "device": "cpu"}
    train_in_processes(2, Path(), "acdc/ovenet", SMALL, **options)
    result = json.loads((tmp_path / "run/result.json").read_text())
    assert (result["processes"], result["seed"]) == (2, 1)
    assert "training: 100%" in capsys.readouterr().out
    assert create_trainer(tmp_path, "acdc/ovenet", overrides=SMALL, **options).run() == result


def test_a_failure_in_the_processes_is_an_error_here(scenes, tmp_path, capsys):
    with pytest.raises(RuntimeError, match="2 processes ended with status"):
        train_in_processes(
            2,
            Path(),
            "acdc/ovenet",
            SMALL | {"batch_size": 1},
            data_root=str(scenes),
            device="cpu",
            run_folder=str(tmp_path / "run"),
        )
    assert "batch_size 1 gives some of 2 processes 0 images" in capsys.readouterr().out
