"""Prepare, train, evaluate and pack a test archive with the notebooks, in the formats of the three benchmarks."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from ovenet_core.benchmarks import BENCHMARKS
from ovenet_core.scenes import write_scenes

ROOT = Path(__file__).parents[1]
SIZES = {"cityscapes": (4, 2, 2), "acdc": (2, 1, 1), "ade20k": (4, 2, 2)}  # of ACDC's, in each of four conditions
NARROW = {"width": 8, "blocks": 1, "initial_weights": "", "crop": [64, 96], "batch_size": 2, "epochs": 1}


def papermill(notebook: str, folder: Path, **parameters) -> subprocess.CompletedProcess:
    """Execute a notebook of this project with parameters, as a user does."""
    file = folder / f"{notebook}.yaml"
    file.write_text(yaml.safe_dump(parameters))
    command = [sys.executable, "-m", "papermill", "--no-progress-bar", "-f", str(file)]
    command += [str(ROOT / "notebooks" / f"{notebook}.ipynb"), str(folder / f"{notebook}.ipynb")]
    return subprocess.run(command, cwd=ROOT, env=os.environ | {"OMP_NUM_THREADS": "1"}, capture_output=True, text=True)


def done(process: subprocess.CompletedProcess) -> None:
    assert process.returncode == 0, process.stderr[-3000:]


@pytest.mark.parametrize("name", SIZES)
def test_prepare_train_evaluate_and_pack(name, tmp_path):
    train, val, test = SIZES[name]
    root = tmp_path / "data"
    write_scenes(root, name, split_sizes={"train": train, "val": val, "test": test}, size=(64, 96), progress=False)
    data = {"data_set": name, "data_root": str(root), "show_pictures": False}
    run = {"run_folder": str(tmp_path / "run")}
    done(papermill("01_data_preparation", tmp_path, **data, cache_folder=str(tmp_path / "cache")))
    training = {"experiment": f"{name}/ovenet", "overrides": NARROW, "cache_folder": str(tmp_path / "cache"), **run}
    done(papermill("02_training", tmp_path, **training, data_root=str(root), show_pictures=False))
    done(papermill("04_evaluation", tmp_path, **data, **run, output_folder=str(tmp_path / "evaluation")))
    output = {"output_folder": str(tmp_path / "predictions"), "scales": [0.5, 1.0, 1.25]}
    done(papermill("05_test_inference", tmp_path, **data, **run, **output))
    scores = json.loads((tmp_path / "evaluation/evaluation.json").read_text())["metrics"]
    assert list(scores) == ["S_i", "S_s", "S_f"]
    assert set(scores["S_f"].get("conditions", {})) == set(BENCHMARKS[name].conditions)
    assert (tmp_path / "predictions.zip").exists()


def test_preparation_fails_where_training_would_be_wrong(tmp_path):
    """One label is gone: papermill ends with an error that names the picture."""
    root = write_scenes(tmp_path / "data", split_sizes={"train": 3, "val": 2}, size=(64, 96), progress=False)
    gone = sorted((root / "gtFine/train/street").glob("*_labelIds.png"))[0]
    gone.unlink()
    process = papermill("01_data_preparation", tmp_path, data_set="cityscapes", data_root=str(root))
    assert process.returncode != 0
    assert gone.name.removesuffix("_gtFine_labelIds.png") in process.stderr
