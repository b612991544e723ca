"""Names of datasets: benchmarks, generated scenes and wrong names, and where their images are looked for."""

from pathlib import Path

import pytest

from ovenet_core.data import ACDC, DATASETS, get_dataset, open_dataset
from ovenet_core.data.synthetic import writer
from ovenet_core.utils import DataError


@pytest.mark.parametrize("name", ["cityscapes", "acdc", "ade20k"])
def test_scenes_are_drawn_into_the_first_place(name, tmp_path, monkeypatch):
    monkeypatch.setattr(writer, "write_scenes", lambda root, benchmark: Path(root) / benchmark)
    places = [tmp_path / "data", tmp_path / "shared"]
    drawn = tmp_path / "data" / "synthetic" / name / name
    assert open_dataset(f"synthetic/{name}", "", places) == (DATASETS[name], drawn)
    assert open_dataset(f"synthetic/{name}", tmp_path / "own", places)[1] == tmp_path / "own" / name


def test_scenes_need_a_folder():
    with pytest.raises(DataError) as caught:
        open_dataset("synthetic/acdc")
    assert caught.value.where == "data_root"


def test_images_are_found_in_the_first_place_that_has_them(tmp_path):
    (tmp_path / "shared" / "acdc").mkdir(parents=True)
    assert open_dataset("acdc", "", [tmp_path / "data", tmp_path / "shared"]) == (ACDC, tmp_path / "shared" / "acdc")


def test_a_given_folder_goes_before_the_places(tmp_path):
    (tmp_path / "acdc").mkdir()
    assert open_dataset("acdc", str(tmp_path), [tmp_path]) == (ACDC, tmp_path)


@pytest.mark.parametrize(("root", "where"), [("", "acdc"), ("nowhere", "nowhere")])
def test_images_that_are_not_there_are_an_error(root, where, tmp_path):
    with pytest.raises(DataError) as caught:
        open_dataset("acdc", root, [tmp_path])
    assert caught.value.where == where


@pytest.mark.parametrize(
    ("name", "expected"),
    [("Cityscape", "'cityscapes'"), ("synthetic/acd", "'synthetic/acdc'"), ("xyz", "synthetic/ade20k")],
)
def test_an_unknown_name_is_answered_by_the_nearest_or_by_all(name, expected, tmp_path):
    for resolve in (get_dataset, lambda name: open_dataset(name, "", [tmp_path])):
        with pytest.raises(DataError) as caught:
            resolve(name)
        assert caught.value.found == repr(name) and expected in caught.value.expected


def test_known_dataset_is_found_by_name():
    assert all(get_dataset(name) is dataset and dataset.name == name for name, dataset in DATASETS.items())
