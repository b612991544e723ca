"""Benchmarks: tables as published, files found and paired, and every damaged file named."""

import errno
import os
import pickle
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pytest
from cityscapesscripts.helpers.labels import labels as official_labels
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from PIL import Image
from small_datasets import SIZE, write, write_cityscapes

from ovenet_core.cross_entropy import IGNORE_INDEX
from ovenet_core.data import (
    ADE20K,
    CAMVID,
    CITYSCAPES,
    DATASETS,
    Sample,
    fingerprint,
    in_words,
    median_frequency_weights,
)
from ovenet_core.data.cityscapes import CITYSCAPES_LABELS
from ovenet_core.utils import ConfigError, DataError

EVALUATED = [label for label in official_labels if label.trainId not in (-1, 255)]
CAMVID_ROOT = Path(__file__).parents[2] / ".." / "shared" / "datasets" / "camvid"
needs_camvid = pytest.mark.skipif(not CAMVID_ROOT.is_dir(), reason=f"needs the folder {CAMVID_ROOT}")


@pytest.fixture(scope="module")
def scenes(tmp_path_factory) -> Path:
    return write_cityscapes(tmp_path_factory.mktemp("synthetic"))


@pytest.fixture
def copy(scenes, tmp_path) -> Path:
    return Path(shutil.copytree(scenes, tmp_path / "copy"))


@pytest.fixture
def pair(tmp_path) -> Sample:
    """A whole image with its label, to be damaged."""
    rng = np.random.default_rng(0)
    image, label = tmp_path / "image.png", tmp_path / "label.png"
    cv2.imwrite(str(image), rng.integers(0, 256, (24, 40, 3), dtype=np.uint8))
    cv2.imwrite(str(label), rng.integers(0, 34, (24, 40), dtype=np.uint8))
    return Sample("image", image, label)


# -- Tables


def test_cityscapes_label_table_is_the_official_one():
    ours = {
        (label.id, label.name, label.train_id, label.category, label.has_instances, label.colour)
        for label in CITYSCAPES_LABELS
    }
    official = {
        (label.id, label.name, label.trainId, label.category, label.hasInstances, label.color)
        for label in official_labels
        if label.id >= 0
    }
    assert ours == official


def test_cityscapes_classes_are_in_the_order_of_train_ids():
    assert CITYSCAPES.class_names == tuple(x.name for x in sorted(EVALUATED, key=lambda x: x.trainId))


def test_cityscapes_knows_which_classes_have_instances():
    assert CITYSCAPES.instance_classes == tuple(x.trainId for x in EVALUATED if x.hasInstances)


def test_cityscapes_weights_are_one_per_class_and_average_to_one():
    assert len(CITYSCAPES.class_weights) == 19
    assert np.mean(CITYSCAPES.class_weights) == pytest.approx(1, abs=0.005)


@pytest.mark.parametrize(
    "field, value, found",
    [
        ("colours", ((0, 0, 0),), "1 "),
        ("class_weights", (1.0,) * 10, "10 "),
        ("pixel_shares", (0.1,) * 12, "12 "),
        ("train_ids", {0: 0, 1: 1}, "0 to 1"),
        ("train_ids", {**CAMVID.train_ids, 256: 0}, "256"),
    ],
)
def test_tables_that_do_not_fit_together_are_refused(field, value, found):
    with pytest.raises(DataError) as caught:
        replace(CAMVID, **{field: value})
    assert caught.value.where == f"camvid, {field}" and found in caught.value.found


def test_benchmarks_can_be_sent_to_worker_processes():
    for benchmark in DATASETS.values():
        assert pickle.loads(pickle.dumps(benchmark)).class_names == benchmark.class_names


def test_median_frequency_weights_by_hand():
    assert median_frequency_weights((0.6, 0.3, 0.1)) == pytest.approx((0.5, 1, 3))


@pytest.mark.parametrize("shares", [(), (0.5, 0.0), (0.5, -0.1)])
def test_shares_without_a_weight_are_refused(shares):
    with pytest.raises(ConfigError) as caught:
        median_frequency_weights(shares)
    assert caught.value.where == "pixel_shares" and caught.value.found == str(shares)


# -- Finding files


def test_samples_are_sorted_and_paired(scenes):
    samples = CITYSCAPES.samples(scenes, "train")
    assert [sample.name for sample in samples] == ["jena_000001_000019", "ulm_000000_000019", "ulm_000002_000019"]
    for sample in samples:
        assert sample.image.name == f"{sample.name}_leftImg8bit.png"
        assert sample.label.name == f"{sample.name}_gtFine_labelIds.png"
        assert sample.instances.name == f"{sample.name}_gtFine_instanceIds.png"


def test_trainval_is_train_and_val(scenes):
    both = CITYSCAPES.samples(scenes, "train") + CITYSCAPES.samples(scenes, "val")
    assert CITYSCAPES.samples(scenes, "trainval") == sorted(both, key=lambda sample: sample.name)


def test_cityscapes_test_split_has_no_labels(scenes):
    (sample,) = CITYSCAPES.samples(scenes, "test")
    assert sample.label is None and sample.instances is None


def test_reading_a_withheld_label_says_so(scenes):
    (sample,) = CITYSCAPES.samples(scenes, "test")
    with pytest.raises(DataError) as caught:
        CITYSCAPES.read(sample)
    assert caught.value.where == sample.image and "withheld" in caught.value.found


def test_image_of_an_unlabelled_sample_can_be_read(scenes):
    (sample,) = CITYSCAPES.samples(scenes, "test")
    assert CITYSCAPES.read_image(sample).shape == (*SIZE, 3)


def test_unknown_split_names_the_splits(scenes):
    with pytest.raises(DataError) as caught:
        CITYSCAPES.samples(scenes, "training")
    assert "'training'" in caught.value.found
    assert "train, val, trainval, test, train_extra" in caught.value.expected


def test_missing_folder_is_named_with_what_was_expected(tmp_path):
    for root in (tmp_path / "nowhere", tmp_path):
        with pytest.raises(DataError) as caught:
            CITYSCAPES.samples(root, "train")
        assert caught.value.where == root and "leftImg8bit/train/*" in caught.value.expected
        (tmp_path / "leftImg8bit" / "train" / "aachen").mkdir(parents=True, exist_ok=True)  # empty


def test_two_images_for_one_label_are_named(tmp_path):
    for path in ("train/a.png", "train/a.jpg", "trainannot/a.png"):
        (tmp_path / path).parent.mkdir(exist_ok=True)
        (tmp_path / path).touch()
    with pytest.raises(DataError) as caught:
        CAMVID.samples(tmp_path, "train")
    assert caught.value.where == tmp_path / "train/a.jpg" and str(tmp_path / "train/a.png") in caught.value.found


def test_hidden_files_are_no_images(copy):
    first = CITYSCAPES.samples(copy, "train")[0].image
    (first.parent / f"._{first.name}").touch()
    assert len(CITYSCAPES.samples(copy, "train")) == 3


@pytest.mark.parametrize("suffix", [".png", ".jpg"])
def test_camvid_images_may_be_png_or_jpeg(tmp_path, suffix):
    for folder, name, array in (
        ("test", f"0006R0_f00930{suffix}", np.zeros((4, 6, 3), np.uint8)),
        ("testannot", "0006R0_f00930.png", np.full((4, 6), 11, np.uint8)),
    ):
        (tmp_path / folder).mkdir()
        cv2.imwrite(str(tmp_path / folder / name), array)
    (sample,) = CAMVID.samples(tmp_path, "test")
    assert (CAMVID.read(sample)[1] == IGNORE_INDEX).all()


# -- Reading files


def test_image_is_read_as_rgb(tmp_path):
    cv2.imwrite(str(tmp_path / "red.png"), np.full((2, 2, 3), (0, 0, 255), np.uint8))
    image = CITYSCAPES.read_image(Sample("red", tmp_path / "red.png", None))
    assert image[0, 0].tolist() == [255, 0, 0]


@settings(max_examples=20, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(raw=arrays(np.uint8, (3, 5), elements=st.integers(0, 33)))
def test_label_values_become_train_ids(tmp_path, raw):
    cv2.imwrite(str(tmp_path / "label.png"), raw)
    label = CITYSCAPES.read_label(Sample("x", tmp_path / "x.png", tmp_path / "label.png"))
    assert label.tolist() == [[CITYSCAPES.train_ids[value] for value in row] for row in raw.tolist()]


@settings(max_examples=20, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(value=st.integers(12, 255), place=st.integers(0, 14))
def test_label_value_that_does_not_exist_is_named(tmp_path, value, place):
    raw = np.full(15, 11, np.uint8)
    raw[place] = value
    cv2.imwrite(str(tmp_path / "label.png"), raw.reshape(3, 5))
    with pytest.raises(DataError) as caught:
        CAMVID.read_label(Sample("x", tmp_path / "x.png", tmp_path / "label.png"))
    assert caught.value.where == tmp_path / "label.png" and f"label values {value}," in caught.value.found


def _flip_bit(data: bytes) -> bytes:
    middle = len(data) // 2
    return data[:middle] + bytes([data[middle] ^ 1]) + data[middle + 1 :]


def assert_damaged(path: Path, read: Callable[[], object]) -> None:
    with pytest.raises(DataError) as caught:
        read()
    assert caught.value.where == path and "damaged" in caught.value.found


DAMAGE = {
    "empty": lambda data: b"",
    "text": lambda data: b"<html>404 Not Found</html>",
    "cut in the header": lambda data: data[:20],
    "cut in the middle": lambda data: data[: len(data) // 2],
    "cut before the last byte": lambda data: data[:-1],
    "without the last chunk": lambda data: data[:-12],
    "a flipped bit": _flip_bit,
    "zeros at the end": lambda data: data[: len(data) // 2] + bytes(len(data) - len(data) // 2),
}


@pytest.mark.parametrize("damage", DAMAGE.values(), ids=DAMAGE)
@pytest.mark.parametrize("which", ["image", "label"])
def test_damaged_png_is_named(pair, which, damage):
    path = getattr(pair, which)
    path.write_bytes(damage(path.read_bytes()))
    assert_damaged(path, lambda: CITYSCAPES.read(pair))


@pytest.mark.parametrize("keep", [0, 10, 200, 600, -2])
def test_cut_jpeg_is_named(pair, tmp_path, keep):
    path = tmp_path / "image.jpg"
    cv2.imwrite(str(path), cv2.imread(str(pair.image)))
    path.write_bytes(path.read_bytes()[:keep])
    assert_damaged(path, lambda: CITYSCAPES.read(replace(pair, image=path)))


@pytest.mark.parametrize("keep", [0.5, 0.9, 0.99])
def test_cut_file_is_found_whatever_the_decoder_makes_of_it(pair, monkeypatch, keep):
    data = pair.image.read_bytes()
    pair.image.write_bytes(data[: int(len(data) * keep)])
    monkeypatch.setattr(cv2, "imdecode", lambda *_: np.zeros((24, 40, 3), np.uint8))
    assert_damaged(pair.image, lambda: CITYSCAPES.read_image(pair))


def test_bytes_after_the_end_of_a_jpeg_do_no_harm(pair, tmp_path):
    path = tmp_path / "image.jpg"
    cv2.imwrite(str(path), cv2.imread(str(pair.image)))
    path.write_bytes(path.read_bytes() + bytes(16))
    assert CITYSCAPES.read(replace(pair, image=path))[0].shape == (24, 40, 3)


@pytest.mark.parametrize("which", ["image", "label"])
def test_missing_file_is_named(pair, which):
    getattr(pair, which).unlink()
    with pytest.raises(DataError) as caught:
        CITYSCAPES.read(pair)
    assert caught.value.where == getattr(pair, which) and caught.value.found == os.strerror(errno.ENOENT)


def test_sixteen_bit_and_grey_images_are_read_as_rgb(pair):
    grey = np.arange(960, dtype=np.uint16).reshape(24, 40) % 256
    write(pair.image, grey * 256)
    image = CITYSCAPES.read_image(pair)
    np.testing.assert_array_equal(image, np.repeat(grey[..., None], 3, axis=2))


def test_raw_label_is_what_is_stored(pair):
    np.testing.assert_array_equal(CITYSCAPES.raw_label(pair), cv2.imread(str(pair.label), cv2.IMREAD_UNCHANGED))


def _palette_png(path: Path, indices: np.ndarray) -> Path:
    image = Image.fromarray(indices)
    image.putpalette(np.random.default_rng(0).integers(0, 256, 768).tolist())
    image.save(path)
    return path


def test_indices_of_a_palette_are_label_values_where_the_table_says_so(pair):
    indices = np.random.default_rng(0).integers(0, 34, (24, 40), np.uint8)
    _palette_png(pair.label, indices)
    np.testing.assert_array_equal(replace(CITYSCAPES, palette=True).raw_label(pair), indices)
    with pytest.raises(DataError) as caught:
        CITYSCAPES.raw_label(pair)
    assert caught.value.where == pair.label and "(24, 40, 3)" in caught.value.found


@pytest.mark.parametrize("damage", DAMAGE.values(), ids=DAMAGE)
def test_damaged_palette_png_is_named(pair, damage):
    _palette_png(pair.label, np.random.default_rng(0).integers(0, 34, (24, 40), np.uint8))
    pair.label.write_bytes(damage(pair.label.read_bytes()))
    assert_damaged(pair.label, lambda: replace(CITYSCAPES, palette=True).read(pair))


# -- Label values of train ids


@pytest.mark.parametrize("data", DATASETS.values(), ids=DATASETS)
def test_encoded_train_ids_are_read_as_the_same(data, pair):
    train_ids = np.array([*range(data.num_classes), IGNORE_INDEX] * 2, np.uint8).reshape(2, -1)
    write(pair.label, data.encode(train_ids))
    np.testing.assert_array_equal(data.read_label(pair), train_ids)


def test_encoded_values_of_cityscapes_are_those_of_its_scripts():
    official = {label.trainId: label.id for label in EVALUATED}
    train_ids = np.arange(19, dtype=np.uint8)[None]
    assert CITYSCAPES.encode(train_ids).tolist() == [[official[i] for i in range(19)]]


def test_encoded_values_of_ade20k_are_one_more():
    train_ids = np.arange(150, dtype=np.uint8)[None]
    np.testing.assert_array_equal(ADE20K.encode(train_ids), train_ids + 1)


def test_train_id_that_does_not_exist_is_not_encoded():
    with pytest.raises(DataError) as caught:
        CITYSCAPES.encode(np.array([[0, 19, 200]], np.uint8))
    assert (caught.value.found, caught.value.expected) == ("train ids 19, 200", "0 to 18, 255")


@pytest.mark.parametrize(
    "numbers, words",
    [
        ([], ""),
        ([3], "3"),
        ([1, 0], "0 to 1"),
        ([0, 1, 2, 5, 7, 8, 255], "0 to 2, 5, 7 to 8, 255"),
    ],
)
def test_numbers_in_words(numbers, words):
    assert in_words(numbers) == words


# -- Fingerprint


def test_fingerprint_does_not_depend_on_the_place(scenes, copy):
    here, there = (fingerprint(CITYSCAPES.samples(root, "train")) for root in (scenes, copy))
    assert here == there


@pytest.mark.parametrize("which", ["image", "label", "instances"])
def test_fingerprint_sees_one_changed_byte(scenes, copy, which):
    path = getattr(CITYSCAPES.samples(copy, "train")[0], which)
    path.write_bytes(_flip_bit(path.read_bytes()))
    here, there = (fingerprint(CITYSCAPES.samples(root, "train")) for root in (scenes, copy))
    assert here != there


def test_fingerprint_sees_a_missing_image(scenes):
    samples = CITYSCAPES.samples(scenes, "train")
    assert fingerprint(samples) != fingerprint(samples[1:])


def test_fingerprint_names_a_missing_file(pair):
    pair.label.unlink()
    with pytest.raises(DataError) as caught:
        fingerprint([pair])
    assert caught.value.where == pair.label


# -- The real CamVid


@needs_camvid
@pytest.mark.parametrize("split, count", [("train", 367), ("val", 101), ("trainval", 468)])
def test_camvid_has_its_number_of_images(split, count):
    assert len(CAMVID.samples(CAMVID_ROOT, split)) == count


@needs_camvid
def test_camvid_videos_have_their_conditions():
    conditions = {(s.name.split("_")[0], s.condition) for s in CAMVID.samples(CAMVID_ROOT, "trainval")}
    assert conditions == {("0001TP", "dusk"), ("0006R0", "day"), ("0016E5", "day")}


@needs_camvid
def test_camvid_images_are_read_whole():
    for sample in CAMVID.samples(CAMVID_ROOT, "val")[::20]:
        image, label = CAMVID.read(sample)
        assert image.shape == (360, 480, 3) and label.shape == (360, 480)


@needs_camvid
def test_camvid_pixel_shares_are_as_noted():
    counts = np.zeros(256, int)
    for sample in CAMVID.samples(CAMVID_ROOT, "train"):
        counts += np.bincount(CAMVID.read_label(sample).ravel(), minlength=256)
    # The note has three places.
    np.testing.assert_allclose(counts[:11] / counts.sum(), CAMVID.pixel_shares, atol=0.001)
