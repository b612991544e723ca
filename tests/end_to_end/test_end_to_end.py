"""Prepare, train, evaluate and pack a test archive with the notebooks, in the formats of the three benchmarks."""

import json
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
import yaml
from papermill import execute_notebook
from papermill.exceptions import PapermillExecutionError
from papermill.iorw import load_notebook_node, write_ipynb
from papermill.parameterize import parameterize_notebook
from safetensors.torch import load_file

from ovenet_core.data import DATASETS
from ovenet_core.data.synthetic.writer import write_scenes
from ovenet_core.training import create_trainer, preset

ROOT = Path(__file__).parents[2]
SIZES = {"acdc": (2, 1, 1), "ade20k": (4, 2, 2)}  # of ACDC's, in each of four conditions; the notebooks have Cityscapes
NARROW = {"width": 8, "blocks": 1, "pretrained": "", "crop": [64, 96], "batch_size": 2, "epochs": 1}


def papermill(folder: Path, steps: dict[str, dict]) -> None:
    """Execute notebooks with parameters, one after another in one kernel, since a kernel takes ten seconds to start.

    That each runs in a kernel of its own is seen when pytest runs the notebooks themselves.
    """
    parts = [
        parameterize_notebook(load_notebook_node(str(ROOT / f"notebooks/{notebook}.ipynb")), parameters)
        for notebook, parameters in steps.items()
    ]
    whole = parts[0]
    whole.cells = [cell for part in parts for cell in part.cells]
    for number, cell in enumerate(whole.cells):
        cell.id = f"cell-{number}"
    executed = folder / "executed.ipynb"
    write_ipynb(whole, str(executed))
    execute_notebook(executed, executed, progress_bar=False, cwd=ROOT)


@pytest.mark.parametrize("name", SIZES)
def test_prepare_train_evaluate_and_pack(name, tmp_path):
    train, val, test = SIZES[name]
    root = tmp_path / "data"
    write_scenes(root, name, split_sizes={"train": train, "val": val, "test": test}, size=(64, 96), progress=False)
    data = {"dataset": name, "data_root": str(root), "show_images": False}
    run, cache = {"run_folder": str(tmp_path / "run")}, {"cache_folder": str(tmp_path / "cache")}
    papermill(
        tmp_path,
        {
            "01_data_preparation": data | cache,
            "02_training": run
            | cache
            | {"experiment": f"{name}/ovenet", "overrides": NARROW, "data_root": str(root), "show_images": False},
            "04_evaluation": data | run | {"output_folder": str(tmp_path / "evaluation")},
            "05_test_inference": data
            | run
            | {"output_folder": str(tmp_path / "predictions"), "scales": [0.5, 1.0, 1.25]},
        },
    )
    scores = json.loads((tmp_path / "evaluation/evaluation.json").read_text())["metrics"]
    assert list(scores) == ["S_i", "S_s", "S_f"]
    assert set(scores["S_f"].get("conditions", {})) == set(DATASETS[name].conditions)
    assert (tmp_path / "predictions.zip").exists()


def test_preparation_says_what_is_wrong_with_a_folder_without_images(tmp_path):
    with pytest.raises(PapermillExecutionError, match=r"errors, expected none(.|\n)*no images of train"):
        papermill(tmp_path, {"01_data_preparation": {"dataset": "cityscapes", "data_root": str(tmp_path)}})


def test_preparation_fails_where_training_would_be_wrong(tmp_path):
    """One label is gone: papermill ends with an error that names the image."""
    root = write_scenes(tmp_path / "data", split_sizes={"train": 3, "val": 2}, size=(64, 96), progress=False)
    gone = sorted((root / "gtFine/train/street").glob("*_labelIds.png"))[0]
    gone.unlink()
    with pytest.raises(PapermillExecutionError, match=gone.name.removesuffix("_gtFine_labelIds.png")):
        papermill(tmp_path, {"01_data_preparation": {"dataset": "cityscapes", "data_root": str(root)}})


def test_an_interrupted_papermill_goes_on_inside_the_training(tmp_path):
    """Started again with the same parameters, it has the weights of a run that was not interrupted."""
    root = write_scenes(tmp_path / "data", split_sizes={"train": 2, "val": 1}, size=(64, 96), progress=False)
    values = {"experiment": "cityscapes/ovenet", "data_root": str(root), "show_images": False, "device": "cpu"}
    values["overrides"] = NARROW | {"epochs": 12, "validate_every": 12}

    def start(folder: Path) -> subprocess.Popen:
        parameters = yaml.safe_dump(values | {"run_folder": str(folder)})
        command = [sys.executable, "-m", "papermill", "notebooks/02_training.ipynb", str(folder / "02_training.ipynb")]
        folder.mkdir(exist_ok=True)
        return subprocess.Popen(
            [*command, "-y", parameters],
            cwd=ROOT,
            stderr=subprocess.DEVNULL,
            preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
        )  # also under nohup

    process = start(tmp_path / "parts")
    while not (tmp_path / "parts/snapshot.pt").exists():
        assert process.poll() is None, "it ended without a snapshot"
        time.sleep(0.02)
    process.send_signal(signal.SIGINT)
    assert process.wait() != 0
    assert not (tmp_path / "parts/result.json").exists()
    reached = torch.load(tmp_path / "parts/snapshot.pt", weights_only=True)["iteration"]
    assert 0 < reached < 12

    assert start(tmp_path / "parts").wait() == 0
    experiment = preset("cityscapes/ovenet", **values["overrides"])
    create_trainer(experiment, root, tmp_path / "whole", device="cpu", progress=False).run()
    parts, whole = (load_file(tmp_path / name / "checkpoint.safetensors") for name in ("parts", "whole"))
    assert parts.keys() == whole.keys() and all(torch.equal(parts[name], whole[name]) for name in whole)
    shown = (tmp_path / "parts/02_training.ipynb").read_text()
    assert f"| {reached}/12 [" in shown and "| 0/12 [" not in shown
