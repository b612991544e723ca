"""Prepare, train, evaluate and pack a test archive with the notebooks, in the formats of the three benchmarks."""

import json
from pathlib import Path

import pytest
from papermill import execute_notebook
from papermill.exceptions import PapermillExecutionError

from ovenet_core.benchmarks import BENCHMARKS
from ovenet_core.scenes import write_scenes

ROOT = Path(__file__).parents[1]
SIZES = {"cityscapes": (4, 2, 2), "acdc": (2, 1, 1), "ade20k": (4, 2, 2)}  # of ACDC's, in each of four conditions
NARROW = {"width": 8, "blocks": 1, "initial_weights": "", "crop": [64, 96], "batch_size": 2, "epochs": 1}


def papermill(notebook: str, folder: Path, **parameters) -> None:
    """Execute a notebook of this project with parameters."""
    executed = folder / f"{notebook}.ipynb"
    execute_notebook(ROOT / "notebooks" / executed.name, executed, parameters, progress_bar=False, cwd=ROOT)


@pytest.mark.parametrize("name", SIZES)
def test_prepare_train_evaluate_and_pack(name, tmp_path):
    train, val, test = SIZES[name]
    root = tmp_path / "data"
    write_scenes(root, name, split_sizes={"train": train, "val": val, "test": test}, size=(64, 96), progress=False)
    data = {"data_set": name, "data_root": str(root), "show_pictures": False}
    run = {"run_folder": str(tmp_path / "run")}
    papermill("01_data_preparation", tmp_path, **data, cache_folder=str(tmp_path / "cache"))
    training = {"experiment": f"{name}/ovenet", "overrides": NARROW, "cache_folder": str(tmp_path / "cache"), **run}
    papermill("02_training", tmp_path, **training, data_root=str(root), show_pictures=False)
    papermill("04_evaluation", tmp_path, **data, **run, output_folder=str(tmp_path / "evaluation"))
    output = {"output_folder": str(tmp_path / "predictions"), "scales": [0.5, 1.0, 1.25]}
    papermill("05_test_inference", tmp_path, **data, **run, **output)
    scores = json.loads((tmp_path / "evaluation/evaluation.json").read_text())["metrics"]
    assert list(scores) == ["S_i", "S_s", "S_f"]
    assert set(scores["S_f"].get("conditions", {})) == set(BENCHMARKS[name].conditions)
    assert (tmp_path / "predictions.zip").exists()


def test_preparation_fails_where_training_would_be_wrong(tmp_path):
    """One label is gone: papermill ends with an error that names the picture."""
    root = write_scenes(tmp_path / "data", split_sizes={"train": 3, "val": 2}, size=(64, 96), progress=False)
    gone = sorted((root / "gtFine/train/street").glob("*_labelIds.png"))[0]
    gone.unlink()
    with pytest.raises(PapermillExecutionError, match=gone.name.removesuffix("_gtFine_labelIds.png")):
        papermill("01_data_preparation", tmp_path, data_set="cityscapes", data_root=str(root))
