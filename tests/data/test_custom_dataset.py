"""A dataset of one's own: the code of the page in the documentation, executed as it stands."""

import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from small_datasets import write

from ovenet_core.cross_entropy import IGNORE_INDEX
from ovenet_core.data import dataset
from ovenet_core.data.dataset import CAMVID
from ovenet_core.data.io import DataError
from ovenet_core.data.validation import examine

PAGE = (Path(__file__).parents[2] / "docs" / "custom_dataset.md").read_text()
BLOCKS = re.findall(r"```python\n(.*?)```", PAGE, flags=re.DOTALL)


@pytest.fixture
def own(monkeypatch) -> dict:
    """The names that the code of the page defines."""
    monkeypatch.setattr(dataset, "DATASETS", dict(dataset.DATASETS))
    names = {}
    for block in BLOCKS:
        exec(block, names)
    return names


def test_a_data_set_of_ones_own_takes_under_forty_lines():
    assert len(BLOCKS) == 2
    assert all(len(block.splitlines()) < 40 for block in BLOCKS)


def test_the_table_in_the_documentation_reads_such_a_dataset(own, tmp_path):
    values = np.array([[0, 1, 2, 3, 7]], np.uint8)
    for folder, name in (("training", "day_1"), ("training", "night_1"), ("validation", "day_2")):
        write(tmp_path / "images" / folder / f"{name}.jpg", np.zeros((1, 5, 3), np.uint8))
        write(tmp_path / "annotations" / folder / f"{name}_label.png", values)
    data = dataset.get_dataset("alleys")
    samples = data.samples(tmp_path, "trainval")
    assert [(s.name, s.condition) for s in samples] == [("day_1", "day"), ("day_2", "day"), ("night_1", "night")]
    label = data.read(samples[0])[1]
    assert label.tolist() == [[IGNORE_INDEX, 0, 1, 1, 2]]
    assert data.encode(label).tolist() == [[0, 1, 2, 2, 7]]


def test_splits_by_lists_as_in_the_documentation(own, tmp_path):
    for name in ("a", "b", "c"):
        write(tmp_path / "photos" / f"{name}.jpg", np.zeros((1, 2, 3), np.uint8))
        write(tmp_path / "masks" / f"{name}.png", np.array([[0, 255]], np.uint8))
    write(tmp_path / "photos" / "without a label.jpg", np.zeros((1, 2, 3), np.uint8))  # and in no list
    (tmp_path / "splits").mkdir()
    (tmp_path / "splits" / "train.txt").write_text("a\nc\n")
    data = dataset.get_dataset("courtyards")
    samples = data.samples(tmp_path, "train")
    assert [sample.name for sample in samples] == ["a", "c"]
    assert data.read(samples[0])[1].tolist() == [[0, 1]]
    (tmp_path / "splits" / "val.txt").write_text("b\n")
    kinds = {finding.kind for finding in examine(data, tmp_path, progress=False).of("error")}
    assert kinds == {"the same image in two splits"}  # they are all black here, and no label is missed
    (tmp_path / "masks" / "c.png").unlink()
    with pytest.raises(DataError, match=r"c\.jpg: no label"):
        data.samples(tmp_path, "train")
    assert "image without label" in {finding.kind for finding in examine(data, tmp_path, progress=False).of("error")}


def test_frames_that_are_numbered_anew_in_each_folder(own, tmp_path):
    data = replace(
        dataset.get_dataset("courtyards"),
        images=("{split}/*/*.jpg",),
        labels=("masks/{split}/*/*.png",),
        splits={"train": ("train",), "val": ("val",)},
        lists="",
    )
    for split, street in (("train", "north"), ("train", "south"), ("val", "west")):
        write(tmp_path / split / street / "0001.jpg", np.zeros((1, 2, 3), np.uint8))
        write(tmp_path / "masks" / split / street / "0001.png", np.array([[0, 255]], np.uint8))
    with pytest.raises(DataError, match=r"of the same name.*joined_names"):
        data.samples(tmp_path, "train")
    samples = replace(data, joined_names=True).samples(tmp_path, "train")
    assert [sample.name for sample in samples] == ["north_0001", "south_0001"]
    assert [sample.label.parent.name for sample in samples] == ["north", "south"]


def alleys(root, *, shares=(1, 2)):
    """Images of a dataset without the class of value 7, in two splits."""
    for index, (folder, name) in enumerate((("training", "day_1"), ("training", "night_1"), ("validation", "day_2"))):
        write(root / "images" / folder / f"{name}.jpg", np.full((8, 9, 3), 40 * index, np.uint8))
        label = np.zeros((8, 9), np.uint8)  # half ignored
        label[:2], label[2:4] = shares
        write(root / "annotations" / folder / f"{name}_label.png", label)


def test_the_doctor_finds_no_fault_in_a_whole_data_set_of_ones_own(own, tmp_path):
    alleys(tmp_path)
    assert not examine(dataset.get_dataset("alleys"), tmp_path, progress=False).of("error")


def test_the_doctor_takes_the_folders_of_a_split_together(own, tmp_path):
    for index, name in enumerate(("seq01_1", "seq02_1", "seq03_1")):
        write(tmp_path / "images" / f"{name}.png", np.full((8, 9, 3), 40 * index, np.uint8))
        rows = np.where(np.arange(8) < 3 + index, 0, 255).astype(np.uint8)
        write(tmp_path / "masks" / f"{name}.png", np.tile(rows[:, None], 9))
    data = replace(
        own["COURTYARDS"],
        images=("images/{split}_*.png",),
        labels=("masks/{split}_*.png",),
        splits={"train": ("seq01", "seq02"), "val": ("seq03",)},
        lists="",
    )
    examination = examine(data, tmp_path, progress=False)
    assert not examination.findings and examination.table.images.tolist() == [2, 1]
    for path in tmp_path.glob("*/seq0[12]_*"):
        path.unlink()
    kinds = [finding.kind for finding in examine(data, tmp_path, progress=False).of("error")]
    assert "empty split" in kinds


def test_a_name_on_a_list_without_its_image_is_an_error(own, tmp_path):
    write(tmp_path / "photos" / "a.jpg", np.zeros((1, 2, 3), np.uint8))
    write(tmp_path / "masks" / "a.png", np.array([[0, 255]], np.uint8))
    (tmp_path / "splits").mkdir()
    (tmp_path / "splits" / "train.txt").write_text("a.jpg\nb.jpg\n")
    with pytest.raises(DataError, match=r"train\.txt: b is listed"):
        dataset.get_dataset("courtyards").samples(tmp_path, "train")


def test_the_doctor_examines_the_images_of_each_list(own, tmp_path):
    for index, name in enumerate(("a", "b", "c")):
        write(tmp_path / "photos" / f"{name}.jpg", np.full((8, 9, 3), 50 * index, np.uint8))
        write(tmp_path / "masks" / f"{name}.png", np.tile(np.array([[0], [255]], np.uint8), (4, 9)))
    (tmp_path / "splits").mkdir()
    (tmp_path / "splits" / "train.txt").write_text("a\nc\n")
    (tmp_path / "splits" / "val.txt").write_text("b\nc\n")
    examination = examine(dataset.get_dataset("courtyards"), tmp_path, progress=False)
    assert examination.table.set_index("split").images.to_dict() == {"train": 2, "val": 2}
    assert [finding.kind for finding in examination.of("error")] == ["the same image in two splits"]


def test_splits_may_be_the_beginning_of_names(own, tmp_path):
    for name in ("seq01_1", "seq02_1", "seq03_1"):
        write(tmp_path / "images" / f"{name}.png", np.zeros((1, 2, 3), np.uint8))
        write(tmp_path / "masks" / f"{name}.png", np.array([[0, 255]], np.uint8))
    data = replace(
        own["COURTYARDS"],
        images=("images/{split}_*.png",),
        labels=("masks/{split}_*.png",),
        splits={"train": ("seq01", "seq02"), "val": ("seq03",)},
        lists="",
    )
    assert [sample.name for sample in data.samples(tmp_path, "train")] == ["seq01_1", "seq02_1"]


@pytest.mark.parametrize("pattern", ["images/{split}/a.png", "images/**/*.png", "images/?/*.png"])
def test_patterns_that_cannot_pair_are_refused(pattern):
    with pytest.raises(DataError, match="expected a \\* in the file name"):
        replace(CAMVID, images=(pattern,))
