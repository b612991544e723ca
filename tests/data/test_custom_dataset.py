"""A dataset of one's own: the code of the page in the documentation, executed as it stands; names and files of it."""

import re
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from small_datasets import write

from ovenet_core.cross_entropy import IGNORE_INDEX
from ovenet_core.data import CAMVID, get_dataset, open_dataset, register, registry, validate
from ovenet_core.utils import DataError

PAGE = (Path(__file__).parents[2] / "docs" / "custom_dataset.md").read_text()
BLOCKS = re.findall(r"```python\n(.*?)```", PAGE, flags=re.DOTALL)


@pytest.fixture(autouse=True)
def _registry(monkeypatch):
    """What a test registers is forgotten after it."""
    monkeypatch.setattr(registry, "DATASETS", dict(registry.DATASETS))


@pytest.fixture
def own() -> dict:
    """The names that the code of the page defines."""
    names = {}
    for block in BLOCKS:
        exec(block, names)
    return names


@pytest.fixture
def alleys(own, tmp_path) -> Path:
    """The root of such a dataset, in two splits, without the class of value 7."""
    for index, (folder, name) in enumerate((("training", "day_1"), ("training", "night_1"), ("validation", "day_2"))):
        write(tmp_path / "images" / folder / f"{name}.jpg", np.full((8, 9, 3), 40 * index, np.uint8))
        label = np.zeros((8, 9), np.uint8)  # half ignored
        label[:2], label[2:4] = 1, 2 + index // 2
        write(tmp_path / "annotations" / folder / f"{name}_label.png", label)
    return tmp_path


@pytest.fixture
def courtyards(own, tmp_path) -> Path:
    for index, name in enumerate(("a", "b", "c")):
        write(tmp_path / "photos" / f"{name}.jpg", np.full((8, 9, 3), 50 * index, np.uint8))
        write(tmp_path / "masks" / f"{name}.png", np.tile(np.array([[0], [255]], np.uint8), (4, 9)))
    write_lists(tmp_path, train="a\nc\n", val="b.jpg\n")
    return tmp_path


def write_lists(root: Path, **lists: str) -> None:
    (root / "splits").mkdir(exist_ok=True)
    for split, text in lists.items():
        (root / "splits" / f"{split}.txt").write_text(text)


def errors(data, root) -> list[str]:
    return [finding.kind for finding in validate(data, root, progress=False).of("error")]


# -- The documentation


def test_a_dataset_of_ones_own_takes_under_forty_lines():
    assert len(BLOCKS) == 2
    assert all(len(block.splitlines()) < 40 for block in BLOCKS)


def test_the_object_in_the_documentation_reads_such_a_dataset(alleys):
    data = get_dataset("alleys")
    write(
        alleys / "annotations/training/day_1_label.png",
        np.tile(np.array([0, 1, 2, 3, 7, 7, 7, 7, 7], np.uint8), (8, 1)),
    )
    samples = data.samples(alleys, "trainval")
    assert [(s.name, s.condition) for s in samples] == [("day_1", "day"), ("day_2", "day"), ("night_1", "night")]
    label = data.read(samples[0])[1]
    assert label[0, :5].tolist() == [IGNORE_INDEX, 0, 1, 1, 2]
    assert data.encode(label)[0, :5].tolist() == [0, 1, 2, 2, 7]


def test_validation_finds_no_fault_in_it(alleys):
    assert not errors(get_dataset("alleys"), alleys)


# -- Names and files


def test_a_python_file_is_the_name_of_the_dataset_that_it_defines(alleys, tmp_path):
    file = tmp_path / "my_alleys.py"
    file.write_text(BLOCKS[0])
    data, root = open_dataset(str(file), alleys)
    assert (data.name, root) == ("alleys", alleys)
    assert get_dataset(str(file)) is data is get_dataset("alleys")
    (alleys.parent / "alleys").mkdir()
    assert open_dataset(str(file), places=[alleys.parent])[1] == alleys.parent / "alleys"


def test_a_file_need_not_register_what_it_defines(tmp_path):
    file = tmp_path / "unregistered_alleys.py"
    file.write_text(BLOCKS[0].replace("register(", "("))
    assert get_dataset(str(file)) is get_dataset("alleys")


def test_a_dataset_from_a_file_can_be_sent_to_a_spawned_process(alleys, tmp_path):
    (tmp_path / "sent_alleys.py").write_text(BLOCKS[0])
    script = tmp_path / "script.py"
    script.write_text(
        "from concurrent.futures import ProcessPoolExecutor\n"
        "from multiprocessing import get_context\n"
        "from ovenet_core.data import SegmentationDataset, get_dataset\n"
        "if __name__ == '__main__':\n"
        f"    data = get_dataset({str(tmp_path / 'sent_alleys.py')!r})\n"
        "    with ProcessPoolExecutor(1, get_context('spawn')) as pool:\n"
        f"        print(len(pool.submit(data.samples, {str(alleys)!r}, 'train').result()))\n"
    )
    folder = tmp_path / "elsewhere"
    folder.mkdir()
    done = subprocess.run([sys.executable, script], cwd=folder, capture_output=True, text=True, check=False)
    assert done.stdout == "2\n", done.stderr


@pytest.mark.parametrize(
    "name, text, found",
    [
        ("absent", None, "no such file"),
        ("empty_dataset", "", "0 datasets"),
        ("benchmark_dataset", "from ovenet_core.data import CAMVID", "0 datasets"),
        ("two_datasets", "\n".join(BLOCKS), "2 datasets"),
        ("json", BLOCKS[0], "another module"),
    ],
)
def test_a_file_that_defines_no_dataset_is_named(tmp_path, name, text, found):
    file = tmp_path / f"{name}.py"
    if text is not None:
        file.write_text(text)
    with pytest.raises(DataError) as caught:
        get_dataset(str(file))
    assert caught.value.where == file and found in caught.value.found and caught.value.fix


def test_the_name_of_a_benchmark_is_not_taken():
    with pytest.raises(DataError) as caught:
        register(replace(CAMVID, palette=True))
    assert caught.value.found == "'camvid'" and get_dataset("camvid") is CAMVID


# -- Splits


def test_splits_by_lists_as_in_the_documentation(courtyards):
    write(courtyards / "photos" / "without a label.jpg", np.zeros((1, 2, 3), np.uint8))  # and in no list
    data = get_dataset("courtyards")
    samples = data.samples(courtyards, "train")
    assert [sample.name for sample in samples] == ["a", "c"]
    assert data.read(samples[0])[1][:2, 0].tolist() == [0, 1]
    validation = validate(data, courtyards, progress=False)
    assert validation.table.set_index("split").images.to_dict() == {"train": 2, "val": 1}
    assert not validation.of("error")


def test_an_image_in_two_lists_is_an_error(courtyards):
    write_lists(courtyards, val="b\nc\n")
    assert errors(get_dataset("courtyards"), courtyards) == ["the same image in two splits"]


@pytest.mark.parametrize(
    ("missing", "where", "found", "kind"),
    [
        ("masks/c.png", "photos/c.jpg", "", "image without label"),
        ("photos/c.jpg", "splits/train.txt", "c", "listed image"),
        ("splits/train.txt", "splits/train.txt", "", "list of a split"),
    ],
)
def test_a_missing_file_of_a_list_is_named(missing, where, found, kind, courtyards):
    (courtyards / missing).unlink()
    with pytest.raises(DataError) as caught:
        get_dataset("courtyards").samples(courtyards, "train")
    assert caught.value.where == courtyards / where
    assert found in ("", caught.value.found)
    assert errors(get_dataset("courtyards"), courtyards) == [kind]


def test_images_that_are_numbered_from_the_start_in_each_folder(own, tmp_path):
    folders = {"images": ("{split}/*/*.jpg",), "labels": ("masks/{split}/*/*.png",), "lists": ""}
    data = replace(own["COURTYARDS"], **folders, splits={"train": ("train",), "val": ("val",)})
    for split, street in (("train", "north"), ("train", "south"), ("val", "west")):
        write(tmp_path / split / street / "0001.jpg", np.zeros((1, 2, 3), np.uint8))
        write(tmp_path / "masks" / split / street / "0001.png", np.array([[0, 255]], np.uint8))
    with pytest.raises(DataError) as caught:
        data.samples(tmp_path, "train")
    assert "0001.jpg" in caught.value.found and "joined_names" in caught.value.fix
    samples = replace(data, joined_names=True).samples(tmp_path, "train")
    assert [sample.name for sample in samples] == ["north_0001", "south_0001"]
    assert [sample.label.parent.name for sample in samples] == ["north", "south"]


def test_splits_may_be_the_beginning_of_names_and_have_several(own, tmp_path):
    for index, name in enumerate(("seq01_1", "seq02_1", "seq03_1")):
        write(tmp_path / "images" / f"{name}.png", np.full((8, 9, 3), 40 * index, np.uint8))
        rows = np.where(np.arange(8) < 3 + index, 0, 255).astype(np.uint8)
        write(tmp_path / "masks" / f"{name}.png", np.tile(rows[:, None], 9))
    folders = {"images": ("images/{split}_*.png",), "labels": ("masks/{split}_*.png",), "lists": ""}
    data = replace(own["COURTYARDS"], **folders, splits={"train": ("seq01", "seq02"), "val": ("seq03",)})
    assert [sample.name for sample in data.samples(tmp_path, "train")] == ["seq01_1", "seq02_1"]
    validation = validate(data, tmp_path, progress=False)
    assert not validation.findings and validation.table.images.tolist() == [2, 1]
    for path in tmp_path.glob("*/seq0[12]_*"):
        path.unlink()
    assert "empty split" in errors(data, tmp_path)


@pytest.mark.parametrize("pattern", ["images/{split}/a.png", "images/**/*.png", "images/?/*.png"])
def test_patterns_that_cannot_pair_are_refused(pattern):
    with pytest.raises(DataError) as caught:
        replace(CAMVID, images=(pattern,))
    assert caught.value.found == repr(pattern)
