"""The three benchmarks in their official layouts: what is found where, how labels are encoded, as archives unpack."""

import shutil
from pathlib import Path

import numpy as np
import pytest
from small_datasets import SIZE, WRITERS, move, write, write_acdc, write_ade20k, write_cityscapes

from ovenet_core.cross_entropy import IGNORE_INDEX
from ovenet_core.data import ACDC, ADE20K, CAMVID, CITYSCAPES, fingerprint, get_dataset
from ovenet_core.utils import DataError


@pytest.fixture
def copy(tmp_path) -> Path:
    return write_cityscapes(tmp_path)


def test_cityscapes_coarse_labels_are_of_train_extra_only(copy):
    (extra,) = CITYSCAPES.samples(copy, "train_extra")
    assert extra.label.name.endswith("_gtCoarse_labelIds.png")
    assert extra.instances.name.endswith("_gtCoarse_instanceIds.png")
    shutil.copytree(copy / "gtFine" / "train", copy / "gtCoarse" / "train")
    sample = CITYSCAPES.samples(copy, "train")[0]
    sample.label.unlink()
    with pytest.raises(DataError) as caught:
        CITYSCAPES.samples(copy, "train")
    assert caught.value.where == sample.image


def test_instances_are_read_as_stored(copy):
    for sample in CITYSCAPES.samples(copy, "train"):
        ids, label = CITYSCAPES.read_instances(sample), CITYSCAPES.raw_label(sample)
        np.testing.assert_array_equal(np.where(ids >= 1000, ids // 1000, ids), label)
        assert ids.max() > 1000


def test_instances_that_there_are_none_of_are_refused(copy):
    sample = CITYSCAPES.samples(copy, "test")[0]
    with pytest.raises(DataError) as caught:
        CITYSCAPES.read_instances(sample)
    assert caught.value.where == sample.image and "no instances" in caught.value.found


def test_acdc_has_the_classes_of_cityscapes():
    for attribute in ("class_names", "colours", "class_weights", "categories", "instance_classes"):
        assert getattr(ACDC, attribute) == getattr(CITYSCAPES, attribute)


def test_acdc_condition_travels_with_every_sample(tmp_path):
    samples = ACDC.samples(write_acdc(tmp_path), "train")
    assert len(samples) == 8
    assert all(sample.condition in sample.image.parts for sample in samples)


def test_acdc_test_labels_are_withheld(tmp_path):
    assert {sample.label for sample in ACDC.samples(write_acdc(tmp_path), "test")} == {None}


def test_acdc_reference_images_are_left_out(tmp_path):
    write_acdc(tmp_path)
    shutil.copytree(tmp_path / "rgb_anon" / "fog" / "train", tmp_path / "rgb_anon" / "fog" / "train_ref")
    assert len(ACDC.samples(tmp_path, "train")) == 8


@pytest.mark.parametrize("kind", ["labelTrainIds", "labelIds"])
@pytest.mark.parametrize("encoding", ["train ids", "label ids"])
def test_acdc_encoding_is_told_by_the_values(tmp_path, kind, encoding):
    plain = ACDC.samples(write_acdc(tmp_path / "plain"), "train")
    samples = ACDC.samples(write_acdc(tmp_path / "other", kind, encoding), "train")
    for sample, same in zip(samples, plain, strict=True):
        np.testing.assert_array_equal(ACDC.read(sample)[1], ACDC.read(same)[1])


@pytest.mark.parametrize("encoding, expected", [("train ids", 7), ("label ids", 0)])
def test_acdc_file_that_may_be_either_is_read_as_the_others(tmp_path, encoding, expected):
    write_acdc(tmp_path, "labelIds", encoding)
    sample = ACDC.samples(tmp_path, "train")[0]
    write(sample.label, np.full(SIZE, 7, np.uint8))
    (sample, *_) = ACDC.samples(tmp_path, "train")
    assert np.unique(ACDC.read_label(sample)) == expected


@pytest.mark.parametrize("kind, expected", [("labelTrainIds", 7), ("labelIds", 0)])
def test_acdc_encoding_is_told_by_the_name_if_all_files_may_be_either(tmp_path, kind, expected):
    write_acdc(tmp_path, kind)
    for path in tmp_path.glob("gt/*/*/*/*.png"):
        write(path, np.full(SIZE, 7, np.uint8))
    assert {np.unique(ACDC.read_label(sample)).item() for sample in ACDC.samples(tmp_path, "train")} == {expected}


@pytest.mark.parametrize("encoding", ["train ids", "label ids"])
def test_acdc_mixture_of_encodings_names_both_files(tmp_path, encoding):
    write_acdc(tmp_path, "labelIds", encoding)
    first, *_, last = sorted(tmp_path.glob("gt/*/*/*/*.png"))
    write(last, np.full(SIZE, IGNORE_INDEX if encoding == "label ids" else 33, np.uint8))
    with pytest.raises(DataError) as caught:
        for sample in ACDC.samples(tmp_path, "train"):
            ACDC.read(sample)
    assert caught.value.where == last and str(first) in caught.value.expected


def test_acdc_train_ids_are_preferred_where_both_are_there(tmp_path):
    write_acdc(tmp_path, "labelIds", "label ids")
    write_acdc(tmp_path, "labelTrainIds")
    for sample in ACDC.samples(tmp_path, "train"):
        assert sample.label.name.endswith("_gt_labelTrainIds.png")
        ACDC.read(sample)


def test_ade20k_classes_are_the_first_names_of_its_own_list(shared):
    lines = (shared / "datasets" / "ade20k_samples" / "objectInfo150.txt").read_text().splitlines()[1:]
    assert [line.split("\t")[4].split(",")[0].strip() for line in lines] == list(ADE20K.class_names)


def test_ade20k_colours_can_be_told_apart():
    colours = np.array([(0, 0, 0), *ADE20K.colours])
    apart = np.abs(colours[:, None] - colours).max(axis=-1)
    assert apart[~np.eye(len(colours), dtype=bool)].min() >= 20


def test_each_next_colour_of_ade20k_is_the_farthest_of_a_grid():
    """By the "redmean" approximation of how different two colours look, in whole numbers; black counts as taken."""
    levels = np.arange(24, 256, 21)
    grid = np.stack(np.meshgrid(levels, levels, levels, indexing="ij"), axis=-1).reshape(-1, 3)
    nearest = np.full(len(grid), np.iinfo(int).max)
    for colour, following in zip(((0, 0, 0), *ADE20K.colours), ADE20K.colours, strict=False):
        red = (grid[:, 0] + colour[0]) // 2
        weights = np.stack((512 + red, np.full_like(red, 1024), 767 - red), axis=1)
        nearest = np.minimum(nearest, (weights * (grid - colour) ** 2).sum(axis=1))
        assert tuple(grid[nearest.argmax()]) == following


def test_ade20k_label_zero_is_ignored_and_others_are_one_less(tmp_path):
    sample = ADE20K.samples(write_ade20k(tmp_path), "val")[0]
    raw = ADE20K.raw_label(sample).astype(int)
    np.testing.assert_array_equal(ADE20K.read_label(sample), np.where(raw == 0, IGNORE_INDEX, raw - 1))


def test_ade20k_test_images_are_in_an_archive_of_their_own(tmp_path):
    write_ade20k(tmp_path / "ADEChallengeData2016")
    write(tmp_path / "release_test" / "testing" / "ADE_test_00000001.jpg", np.zeros((*SIZE, 3), np.uint8))
    (sample,) = ADE20K.samples(tmp_path, "test")
    assert sample.name == "ADE_test_00000001" and sample.label is None
    assert len(ADE20K.samples(tmp_path, "trainval")) == 3


def test_real_ade20k_pairs_are_read(shared):
    root = shared / "datasets" / "ade20k_samples"
    samples = ADE20K.samples(root, "val")
    assert [sample.name for sample in samples] == [f"ADE_val_0000000{i}" for i in (1, 2, 3)]
    for sample in samples:
        image, label = ADE20K.read(sample)
        assert image.shape == (*label.shape, 3)
        assert (label < 150).mean() > 0.5


@pytest.mark.parametrize(
    "data, counts",
    [
        (CITYSCAPES, {"train": 2975, "val": 500, "test": 1525, "train_extra": 19998}),
        (ACDC, {"train": 1600, "val": 406, "test": 2000}),
        (ADE20K, {"train": 20210, "val": 2000, "test": 3352}),
        (CAMVID, {"train": 367, "val": 101, "test": 233}),
    ],
    ids=lambda value: getattr(value, "name", ""),
)
def test_official_counts(data, counts):
    assert {split: sum(by.values()) for split, by in data.official_counts.items()} == counts
    for by in data.official_counts.values():
        assert set(by) <= {"", *data.conditions}


# -- Folders as archives make them


def _leftovers(root: Path):
    for path in [path for path in root.rglob("*") if path.is_file()]:
        for other in (root / "__MACOSX" / path.relative_to(root), path):
            other = other.with_name(f"._{path.name}")
            other.parent.mkdir(parents=True, exist_ok=True)
            other.write_bytes(b"\0\5\26\7")


def _link_folders(root: Path):
    for folder in [path for path in root.iterdir() if path.is_dir()]:
        target = folder.rename(root.parent / f"{folder.name} elsewhere")
        folder.symlink_to(target)


def _link_files(root: Path):
    for path in [path for path in root.rglob("*.png") if path.is_file()]:
        target = path.rename(root.parent / path.name)
        path.symlink_to(target)


UNPACKED = {
    "Cityscapes, a folder for each archive": (
        "cityscapes",
        move(
            ("leftImg8bit", "leftImg8bit_trainvaltest/leftImg8bit"),
            ("gtFine", "gtFine_trainvaltest/gtFine"),
            ("gtCoarse", "aside"),
            ("aside", "gtCoarse/gtCoarse"),
        ),
    ),
    "Cityscapes, coarse images apart": (
        "cityscapes",
        move(("leftImg8bit/train_extra", "leftImg8bit_trainextra/leftImg8bit/train_extra")),
    ),
    "ACDC, a folder for each archive": (
        "acdc",
        move(("rgb_anon", "rgb_anon_trainvaltest/rgb_anon"), ("gt", "gt_trainval/gt")),
    ),
    "ADE20K, its top folder": (
        "ade20k",
        move(("images", "ADEChallengeData2016/images"), ("annotations", "ADEChallengeData2016/annotations")),
    ),
    "ADE20K, its top folder twice": (
        "ade20k",
        move(
            ("images", "ADEChallengeData2016/ADEChallengeData2016/images"),
            ("annotations", "ADEChallengeData2016/ADEChallengeData2016/annotations"),
        ),
    ),
    "what macOS leaves": ("cityscapes", _leftovers),
    "folders that are links": ("acdc", _link_folders),
    "files that are links": ("cityscapes", _link_files),
}


@pytest.mark.parametrize("name, unpack", UNPACKED.values(), ids=UNPACKED)
def test_folder_is_found_as_archives_make_it(tmp_path, name, unpack):
    data, root, plain = get_dataset(name), tmp_path / "root", tmp_path / "plain"
    WRITERS[name](root)
    WRITERS[name](plain)
    unpack(root)
    for split in data.official_counts.keys() - ({"val"} if name == "acdc" else {"test"} if name == "ade20k" else set()):
        here, there = data.samples(root, split), data.samples(plain, split)
        assert [(s.name, s.condition) for s in here] == [(s.name, s.condition) for s in there]
        assert fingerprint(here) == fingerprint(there)


def test_root_may_have_characters_that_mean_something_in_patterns(tmp_path):
    assert len(CITYSCAPES.samples(write_cityscapes(tmp_path / "data [1]*"), "train")) == 3
