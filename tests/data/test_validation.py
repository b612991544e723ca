"""Validation: whole datasets pass, each known mistake is named with its file, and none stops it."""

import os
import shutil
from pathlib import Path

import cv2
import numpy as np
import pytest

from ovenet_core.data import ACDC, ADE20K, CAMVID, CITYSCAPES
from ovenet_core.data import validate as validate_dataset
from ovenet_core.data.synthetic.writer import write_scenes
from ovenet_core.data.validation import main
from ovenet_core.utils import DataError

SIZE = (32, 64)


@pytest.fixture(scope="module")
def scenes(tmp_path_factory) -> Path:
    sizes = {"train": 5, "val": 3, "test": 1}
    return write_scenes(tmp_path_factory.mktemp("synthetic"), split_sizes=sizes, size=SIZE, progress=False)


@pytest.fixture
def copy(scenes, tmp_path) -> Path:
    return Path(shutil.copytree(scenes, tmp_path / "copy"))


def write(path: Path, pixels: np.ndarray) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    assert cv2.imwrite(str(path), pixels)


def stored(path: Path) -> np.ndarray:
    return cv2.imread(str(path), cv2.IMREAD_UNCHANGED)


def validate(data, root, splits=None):
    return validate_dataset(data, root, splits, workers=1, progress=False)


def noise(seed: int, *shape: int) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, shape, dtype=np.uint8)


def labels_of(root: Path, shift: int, other: int, count: int = 20, values=range(1, 150)) -> None:
    """An ADE20K set whose label values are shifted; the value 1 (wall) has most pixels, 0 (other) few."""
    for split, name in (("training", "train"), ("validation", "val")):
        for index in range(count):
            label = np.random.default_rng(index).choice(np.array(values), SIZE)
            label[:12] = 1
            label += shift
            label[-2:] = other
            write(root / f"images/{split}/ADE_{name}_{index:08d}.jpg", noise(index + 1000 * (name == "val"), *SIZE, 3))
            write(root / f"annotations/{split}/ADE_{name}_{index:08d}.png", label.astype(np.uint8))


# -- Whole datasets


def test_whole_scenes_have_no_error(scenes):
    validation = validate(CITYSCAPES, scenes)
    validation.raise_if_wrong()
    assert not validation.of("error")


def test_a_part_of_the_official_images_is_a_warning_with_both_numbers(scenes):
    (train, *_) = [f for f in validate(CITYSCAPES, scenes).findings if f.kind == "number of images"]
    assert train.severity == "warning" and "5 in train" in train.found and "2975" in train.expected


def test_table_counts_images_beside_the_official_number(scenes):
    table = validate(CITYSCAPES, scenes).table.set_index("split")
    assert table["images"].to_dict() == {"train": 5, "val": 3, "test": 1}
    assert table["official"].to_dict() == {"train": 2975, "val": 500, "test": 1525}
    assert set(table["size"]) == {"32x64"}


def test_frequencies_and_histogram_are_those_of_the_files(scenes):
    validation = validate(CITYSCAPES, scenes)
    raw = np.stack([stored(s.label) for s in CITYSCAPES.samples(scenes, "val")])
    np.testing.assert_array_equal(validation.histogram["val"], [np.sum(raw == value) for value in range(256)])
    evaluated = [value for value, train_id in CITYSCAPES.train_ids.items() if train_id != 255]
    share = np.sum(raw == 7) / np.isin(raw, evaluated).sum()  # 7 is road
    assert validation.frequencies.loc["road", "val"] == pytest.approx(share)


def test_counts_are_by_condition_and_a_missing_condition_is_an_error(tmp_path):
    for split in ("train", "val"):
        for condition in ("fog", "night", "rain"):
            name = f"{split}/GOPR0001/GOPR0001_frame_000001"
            seed = len(split) * len(condition) + len(condition)
            write(tmp_path / f"rgb_anon/{condition}/{name}_rgb_anon.png", noise(seed, *SIZE, 3))
            write(tmp_path / f"gt/{condition}/{name}_gt_labelTrainIds.png", noise(seed, *SIZE) % 19)
    validation = validate(ACDC, tmp_path)
    errors = [finding.found for finding in validation.of("error") if finding.kind == "empty condition"]
    assert errors == ["no images in train, snow", "no images in val, snow"]
    assert validation.table.set_index(["split", "condition"]).loc[("val", "night"), "official"] == 106


def test_real_data_set_passes(shared):
    validation = validate_dataset(CAMVID, shared / "datasets/camvid", ["val"], progress=False)
    assert not validation.findings
    images = validation.table.set_index("condition").images
    assert images.to_dict() == {"day": 101, "dusk": 0}


def test_real_ade20k_images_pass(shared):
    validation = validate(ADE20K, shared / "datasets/ade20k_samples", ["val"])
    assert not validation.of("error")
    assert [finding.kind for finding in validation.of("warning")] == ["number of images"]


def test_labels_of_the_test_split_are_no_error(scenes):
    (note,) = [f for f in validate(CITYSCAPES, scenes).findings if f.kind == "labels of the test split"]
    assert note.severity == "note" and "never read" in note.fix


# -- One damaged file


def cut(sample):
    sample.image.write_bytes(sample.image.read_bytes()[:300])


def cut_label(sample):
    sample.label.write_bytes(sample.label.read_bytes()[:60])


def no_label(sample):
    sample.label.unlink()


def renamed(sample):
    sample.image.rename(sample.image.with_name("frame.png"))


def foreign_instances(sample):
    write(sample.instances, np.full(SIZE, 7, np.uint16))


def foreign_label(sample):
    """The label of a neighbour."""
    other = next(path for path in sorted(sample.label.parent.glob("*labelIds.png")) if path != sample.label)
    write(sample.label, np.fliplr(stored(other)))


def colour_label(sample):
    write(sample.label, noise(0, *SIZE, 3))


def image_of_16_bits(sample):
    write(sample.image, stored(sample.image).astype(np.uint16) * 257)


def grey_image(sample):
    write(sample.image, cv2.cvtColor(stored(sample.image), cv2.COLOR_BGR2GRAY))


def transparent_image(sample):
    write(sample.image, cv2.cvtColor(stored(sample.image), cv2.COLOR_BGR2BGRA))


def pair_rotated(sample):
    for path in (sample.image, sample.label, sample.instances):
        write(path, np.rot90(stored(path)))


def other_size(sample):
    for path in (sample.image, sample.label, sample.instances):
        write(path, stored(path)[:-2])


def swapped(sample):
    image, label = sample.image.read_bytes(), sample.label.read_bytes()
    sample.image.write_bytes(label)
    sample.label.write_bytes(image)


def train_ids(sample):
    write(sample.label, CITYSCAPES.lookup[stored(sample.label)])


def train_ids_without_255(sample):
    ids = CITYSCAPES.lookup[stored(sample.label)]
    write(sample.label, np.where(ids == 255, 0, ids))


def without_a_class(sample):
    write(sample.label, np.zeros(SIZE, np.uint8))
    write(sample.instances, np.zeros(SIZE, np.uint16))


def doubled(sample):
    for kind in ("image", "label", "instances"):
        path = getattr(sample, kind)
        shutil.copy(path, path.with_name(path.name.replace(sample.name, "street_000000_000099")))


@pytest.mark.parametrize(
    "damage, severity, kind, file",
    [
        (renamed, "error", "label without image", "label"),
        (foreign_instances, "error", "label and instances differ", "label"),
        (foreign_label, "error", "label and instances differ", "label"),
        (image_of_16_bits, "error", "16 bit image", "image"),
        (grey_image, "error", "image of 1 channels", "image"),
        (transparent_image, "error", "image of 4 channels", "image"),
        (pair_rotated, "error", "image rotated", "image"),
        (other_size, "error", "image of another size", "image"),
        (swapped, "error", "image and label swapped", "image"),
        (train_ids_without_255, "error", "train ids as labels", "label"),
        (without_a_class, "warning", "label without a class", "label"),
    ],
)
def test_what_can_be_read_but_is_wrong_is_named(copy, damage, severity, kind, file):
    sample = CITYSCAPES.samples(copy, "train")[2]
    damage(sample)
    validation = validate(CITYSCAPES, copy)
    (finding,) = [finding for finding in validation.findings if finding.kind == kind]
    assert finding.severity == severity and finding.where == getattr(sample, file)
    assert finding.found and finding.expected and finding.fix
    assert str(finding.where.relative_to(copy)) in str(validation)
    if severity == "error":
        with pytest.raises(DataError) as caught:
            validation.raise_if_wrong()
        assert caught.value.where == copy and finding.where.name in caught.value.fix


def test_a_label_that_differs_from_its_instances_is_named_with_both_files(copy):
    sample = CITYSCAPES.samples(copy, "train")[2]
    foreign_label(sample)
    (finding,) = validate(CITYSCAPES, copy).of("error")
    assert finding.where == sample.label and sample.instances.name in finding.found and "restore" in finding.fix


def test_labels_in_train_ids_are_not_taken_for_those_of_another_image(copy):
    train_ids(CITYSCAPES.samples(copy, "train")[2])
    assert [finding.kind for finding in validate(CITYSCAPES, copy).of("error")] == ["train ids as labels"]


def test_a_split_without_any_instances_is_a_warning(copy):
    for path in copy.glob("gtFine/val/*/*_instanceIds.png"):
        path.unlink()
    validation = validate(CITYSCAPES, copy)
    validation.raise_if_wrong()
    (finding,) = [finding for finding in validation.findings if finding.kind == "no instances"]
    assert finding.severity == "warning" and "none in val" in finding.found


def test_a_renamed_image_is_named_too(copy):
    renamed(CITYSCAPES.samples(copy, "train")[2])
    (finding,) = [f for f in validate(CITYSCAPES, copy).findings if f.kind == "image of an unknown name"]
    assert finding.where.name == "frame.png"


def test_a_duplicate_within_a_split_is_a_warning(copy):
    doubled(CITYSCAPES.samples(copy, "train")[2])
    (finding,) = [f for f in validate(CITYSCAPES, copy).findings if f.kind == "duplicate within a split"]
    assert finding.severity == "warning" and "000099" in finding.where.name + finding.found


def test_a_label_that_was_copied_over_another_is_a_warning(tmp_path):
    for index, path in enumerate(("train/a.png", "train/b.png", "val/c.png", "val/d.png")):
        write(tmp_path / path, noise(index, *SIZE, 3))
        write(tmp_path / path.replace("/", "annot/"), noise(min(index, 2), *SIZE) % 12)  # d has the label of c
    (finding,) = [f for f in validate(CAMVID, tmp_path).findings if f.kind == "the same label for two images"]
    assert finding.severity == "warning" and finding.where.name == "d.png" and "c.png" in finding.found


def test_images_without_labels_of_a_split_that_need_not_be_there_are_a_note(copy):
    (copy / "leftImg8bit/train_extra/augsburg").mkdir(parents=True)
    shutil.copy(
        CITYSCAPES.samples(copy, "train")[0].image,
        copy / "leftImg8bit/train_extra/augsburg/augsburg_000000_000000_leftImg8bit.png",
    )
    validation = validate(CITYSCAPES, copy)
    validation.raise_if_wrong()
    (note,) = [f for f in validation.of("note") if f.kind == "images without labels"]
    assert "1 images of train_extra" in note.found
    assert validate(CITYSCAPES, copy, ["train_extra"]).of("error")


def test_all_faults_are_found_in_one_go(copy):
    samples = CITYSCAPES.samples(copy, "train")
    for sample, damage in zip(samples, (cut, cut_label, colour_label, train_ids, no_label), strict=True):
        damage(sample)
    found = {finding.where for finding in validate(CITYSCAPES, copy).of("error")}
    assert found == {samples[0].image, samples[1].label, samples[2].label, samples[3].label, samples[4].image}


def test_links_to_whole_files_and_folders_are_no_fault(scenes, tmp_path):
    for folder in ("leftImg8bit", "gtFine"):
        (tmp_path / folder).symlink_to(scenes / folder)
    assert not validate(CITYSCAPES, tmp_path).of("error")


def test_a_dangling_link_to_a_folder_is_named(copy):
    (copy / "leftImg8bit/train/aachen").symlink_to("unplugged")
    (finding,) = validate(CITYSCAPES, copy).of("error")
    assert finding.kind == "dangling link" and finding.where.name == "aachen"


# -- A whole split or set that is wrong


def test_train_ids_all_over_a_split_are_an_error_of_every_file(copy):
    samples = CITYSCAPES.samples(copy, "val")
    for sample in samples:
        train_ids(sample)
    found = [
        finding.where for finding in validate(CITYSCAPES, copy).of("error") if finding.kind == "train ids as labels"
    ]
    assert found == [sample.label for sample in samples]


def test_real_label_ids_are_not_taken_for_train_ids(copy):
    # Of this image nothing but road, sidewalk and building is labelled: all values are below 19.
    sample = CITYSCAPES.samples(copy, "train")[0]
    # Nearly half of it is not labelled, as in coarse labels.
    label = np.repeat(np.array([0, 7, 8, 11], np.uint8), [14, 8, 5, 5])[:, None].repeat(SIZE[1], 1)
    write(sample.label, label)
    write(sample.instances, label.astype(np.uint16))
    assert not validate(CITYSCAPES, copy).of("error")


def test_dummy_labels_of_a_scored_split_are_an_error(copy):
    for sample in CITYSCAPES.samples(copy, "val"):
        without_a_class(sample)
    assert "dummy labels" in {finding.kind for finding in validate(CITYSCAPES, copy).of("error")}


def test_right_ade20k_labels_pass(tmp_path):
    labels_of(tmp_path, shift=0, other=0)
    assert not validate(ADE20K, tmp_path).of("error")
    assert "labels shifted by one?" not in {f.kind for f in validate(ADE20K, tmp_path).findings}


def test_ade20k_labels_shifted_by_one_with_255_are_an_error_of_every_file(tmp_path):
    labels_of(tmp_path, shift=-1, other=255)
    errors = validate(ADE20K, tmp_path).of("error")
    assert [finding.kind for finding in errors] == ["train ids as labels"] * 40


def test_ade20k_labels_shifted_by_one_without_255_are_a_warning(tmp_path):
    labels_of(tmp_path, shift=-1, other=0)
    found = [finding for finding in validate(ADE20K, tmp_path).findings if finding.kind == "labels shifted by one?"]
    assert [finding.severity for finding in found] == ["warning", "warning"]


def test_acdc_labels_in_two_encodings_are_an_error_that_names_the_odd_one(tmp_path):
    for split in ("train", "val"):
        for condition in ("fog", "night", "rain", "snow"):
            name = f"{condition}/{split}/GOPR0001/GOPR0001_frame_{condition}"
            label = noise(len(split), *SIZE) % 19
            label[0] = 255
            write(tmp_path / f"rgb_anon/{name}_rgb_anon.png", noise(len(split) * 1000 + ord(condition[0]), *SIZE, 3))
            write(tmp_path / f"gt/{name}_gt_labelTrainIds.png", label)
    odd = ACDC.samples(tmp_path, "val")[1].label
    write(odd, noise(0, *SIZE) % 34)
    (error,) = validate(ACDC, tmp_path).of("error")
    assert (error.kind, error.where) == ("mixed encodings", odd)


@pytest.mark.parametrize("split", ["train", "val"])
def test_an_empty_split_is_an_error(copy, split):
    for path in copy.glob(f"*/{split}/*/*"):
        path.unlink()
    (error,) = validate(CITYSCAPES, copy).of("error")
    assert error.kind == "empty split" and split in error.found


def test_an_absent_test_split_is_an_error_only_when_asked_for(copy):
    shutil.rmtree(copy / "leftImg8bit/test")
    shutil.rmtree(copy / "gtFine/test")
    assert not validate(CITYSCAPES, copy).of("error")
    assert validate(CITYSCAPES, copy, ["test"]).of("error")


def test_an_empty_folder_is_an_error(tmp_path):
    assert {finding.kind for finding in validate(CITYSCAPES, tmp_path).of("error")} == {"empty split"}


def test_an_unknown_split_is_refused(scenes):
    with pytest.raises(DataError) as caught:
        validate(CITYSCAPES, scenes, ["training"])
    assert "'training'" in caught.value.found and "train" in caught.value.expected


def test_the_same_image_in_two_splits_is_an_error(copy):
    val, train = CITYSCAPES.samples(copy, "val")[0], CITYSCAPES.samples(copy, "train")[0]
    shutil.copy(val.image, train.image)
    (error,) = validate(CITYSCAPES, copy).of("error")
    assert error.kind == "the same image in two splits" and error.where == val.image


def test_an_image_of_another_split_is_told_by_its_city(copy):
    sample = CITYSCAPES.samples(copy, "train")[0]
    for kind in ("image", "label", "instances"):
        path = getattr(sample, kind)
        path.rename(path.with_name(path.name.replace(sample.name, "frankfurt_000000_000294")))
    (error,) = validate(CITYSCAPES, copy).of("error")
    assert error.kind == "image of another split" and "frankfurt" in error.where.name


def test_two_images_of_one_name_do_not_stop_it(tmp_path):
    for path in ("train/a.png", "train/a.jpg", "val/b.png"):
        write(tmp_path / path, noise(len(path), *SIZE, 3))
    for path in ("trainannot/a.png", "valannot/b.png"):
        write(tmp_path / path, noise(1, *SIZE) % 12)
    validation = validate(CAMVID, tmp_path)
    assert "files of the same name" in {finding.kind for finding in validation.of("error")}
    assert validation.table["images"].sum() == 2


# -- What it prints


def test_equal_findings_are_one_entry(copy):
    for path in copy.glob("gtFine/train/*/*labelIds.png"):
        path.write_bytes(b"")
    text = str(validate(CITYSCAPES, copy))
    assert "empty file, 5 times" in text and "and 2 more" in text
    assert text.count("labelIds.png") <= 4  # three of these and one of the test split


def test_report_does_not_depend_on_where_the_data_lies(scenes, copy):
    assert str(validate(CITYSCAPES, scenes)) == str(validate(CITYSCAPES, copy))


def test_number_of_workers_changes_nothing(copy):
    cut(CITYSCAPES.samples(copy, "train")[2])
    one, four = (validate_dataset(CITYSCAPES, copy, workers=workers, progress=False) for workers in (1, 4))
    assert str(one) == str(four)


def test_the_command_prints_the_findings_and_tells_errors_by_its_status(copy, capsys):
    assert main(["cityscapes", "--data-root", str(copy), "--workers", "1"]) == 0
    text = capsys.readouterr().out
    assert "0 errors" in text and "9 images in train, val, test:" in text
    cut(CITYSCAPES.samples(copy, "train")[2])
    assert main(["cityscapes", "--data-root", str(copy), "--splits", "train", "val"]) == 1
    text = capsys.readouterr().out
    assert "1 error" in text and "8 images in train, val:" in text and "damaged file" in text


@pytest.mark.parametrize("arguments", [["citiscapes"], ["cityscapes", "--data-root", "nowhere"], []])
def test_a_wrong_command_is_refused_with_another_status(arguments, capsys):
    with pytest.raises(SystemExit) as caught:
        main(arguments)
    assert caught.value.code == 2 and "usage" in capsys.readouterr().err


def test_plot_has_a_point_for_each_class_that_occurs_and_split(scenes):
    from ovenet_core.figures import class_shares

    validation = validate(CITYSCAPES, scenes)
    (ax,) = class_shares(validation.frequencies).axes
    heights = sorted(y for points in ax.collections for _, y in points.get_offsets())
    shares = 100 * validation.frequencies.to_numpy().ravel()
    assert heights == pytest.approx(sorted(shares[shares > 0]))


def test_unreadable_file_is_named(copy):
    if os.geteuid() == 0:
        pytest.skip("root may read every file")
    sample = CITYSCAPES.samples(copy, "train")[1]
    sample.image.chmod(0)
    assert [finding.where for finding in validate(CITYSCAPES, copy).of("error")] == [sample.image]
