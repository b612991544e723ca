"""Prepare, train, evaluate and pack a test archive with the notebooks, in the formats of the three benchmarks."""

import json
from pathlib import Path

import pytest
from papermill import execute_notebook
from papermill.exceptions import PapermillExecutionError
from papermill.iorw import load_notebook_node, write_ipynb
from papermill.parameterize import parameterize_notebook

from ovenet_core.benchmarks import BENCHMARKS
from ovenet_core.scenes import write_scenes

ROOT = Path(__file__).parents[1]
SIZES = {"cityscapes": (4, 2, 2), "acdc": (2, 1, 1), "ade20k": (4, 2, 2)}  # of ACDC's, in each of four conditions
NARROW = {"width": 8, "blocks": 1, "initial_weights": "", "crop": [64, 96], "batch_size": 2, "epochs": 1}


def papermill(folder: Path, steps: dict[str, dict]) -> None:
    """Execute notebooks with parameters, one after another in one kernel, since a kernel takes ten seconds to start.

    That each runs in a kernel of its own is seen when pytest runs the notebooks themselves.
    """
    parts = [parameterize_notebook(load_notebook_node(str(ROOT / f"notebooks/{notebook}.ipynb")), parameters)
             for notebook, parameters in steps.items()]
    whole = parts[0]
    whole.cells = [cell for part in parts for cell in part.cells]
    executed = folder / "executed.ipynb"
    write_ipynb(whole, str(executed))
    execute_notebook(executed, executed, progress_bar=False, cwd=ROOT)


@pytest.mark.parametrize("name", SIZES)
def test_prepare_train_evaluate_and_pack(name, tmp_path):
    train, val, test = SIZES[name]
    root = tmp_path / "data"
    write_scenes(root, name, split_sizes={"train": train, "val": val, "test": test}, size=(64, 96), progress=False)
    data = {"data_set": name, "data_root": str(root), "show_pictures": False}
    run, cache = {"run_folder": str(tmp_path / "run")}, {"cache_folder": str(tmp_path / "cache")}
    papermill(tmp_path, {
        "01_data_preparation": data | cache,
        "02_training": run | cache | {"experiment": f"{name}/ovenet", "overrides": NARROW, "data_root": str(root),
                                      "show_pictures": False},
        "04_evaluation": data | run | {"output_folder": str(tmp_path / "evaluation")},
        "05_test_inference": data | run | {"output_folder": str(tmp_path / "predictions"), "scales": [0.5, 1.0, 1.25]},
    })
    scores = json.loads((tmp_path / "evaluation/evaluation.json").read_text())["metrics"]
    assert list(scores) == ["S_i", "S_s", "S_f"]
    assert set(scores["S_f"].get("conditions", {})) == set(BENCHMARKS[name].conditions)
    assert (tmp_path / "predictions.zip").exists()


def test_preparation_says_what_is_wrong_with_a_folder_without_pictures(tmp_path):
    with pytest.raises(PapermillExecutionError, match=r"errors, expected none(.|\n)*no pictures of train"):
        papermill(tmp_path, {"01_data_preparation": {"data_set": "cityscapes", "data_root": str(tmp_path)}})


def test_preparation_fails_where_training_would_be_wrong(tmp_path):
    """One label is gone: papermill ends with an error that names the picture."""
    root = write_scenes(tmp_path / "data", split_sizes={"train": 3, "val": 2}, size=(64, 96), progress=False)
    gone = sorted((root / "gtFine/train/street").glob("*_labelIds.png"))[0]
    gone.unlink()
    with pytest.raises(PapermillExecutionError, match=gone.name.removesuffix("_gtFine_labelIds.png")):
        papermill(tmp_path, {"01_data_preparation": {"data_set": "cityscapes", "data_root": str(root)}})
