"""The decoded cache: equal to the files, never stale, whole or not there, and read by pages."""

import errno
import os
import re
import shutil
import subprocess
import sys
from concurrent.futures import ProcessPoolExecutor
from dataclasses import replace
from multiprocessing import get_context
from pathlib import Path
from types import SimpleNamespace

import cv2
import numpy as np
import pytest

from ovenet_core.data import ADE20K, CITYSCAPES, SegmentationDataset, cache
from ovenet_core.data.cache import DecodedCache
from ovenet_core.data.transforms import augment, draw_augmentation, sample_rng
from ovenet_core.training.config import DataConfig
from ovenet_core.utils import DataError


def write(path: Path, pixels: np.ndarray) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    assert cv2.imwrite(str(path), pixels)


@pytest.fixture
def root(tmp_path) -> Path:
    """Six images of ADE20K, each of another size."""
    rng = np.random.default_rng(0)
    for index in range(6):
        size = (40 + index, 64 - 3 * index)
        write(tmp_path / f"data/images/training/ADE_train_{index:08d}.jpg", rng.integers(0, 256, (*size, 3)))
        write(tmp_path / f"data/annotations/training/ADE_train_{index:08d}.png", rng.integers(0, 151, size))
    return tmp_path / "data"


@pytest.fixture
def samples(root):
    return ADE20K.samples(root, "train")


def build(samples, folder, data=ADE20K, workers=1) -> DecodedCache:
    return DecodedCache.build(data, samples, folder, workers=workers, progress=False)


def assert_stale(decoded: DecodedCache, sample) -> None:
    with pytest.raises(DataError) as caught:
        decoded.read(sample)
    assert Path(caught.value.where).parent == decoded.folder and str(sample.image) in caught.value.expected


def what_is_missing(samples, tmp_path, data=ADE20K) -> list[str]:
    """The names of the images that the cache in the folder lacks."""
    names = []
    for sample in samples:
        try:
            DecodedCache(data, tmp_path / "cache").read(sample)
        except DataError as error:
            assert Path(error.where).parent == tmp_path / "cache"
            names.append(sample.name)
    return names


def count_reads(monkeypatch) -> list[str]:
    """The names of the images that are decoded from now on."""
    read, names = SegmentationDataset.read, []
    monkeypatch.setattr(
        SegmentationDataset, "read", lambda self, sample: names.append(sample.name) or read(self, sample)
    )
    return names


@pytest.mark.parametrize("workers", [1, 3])
def test_cache_reads_what_the_benchmark_reads(samples, tmp_path, workers):
    decoded = build(samples, tmp_path / "cache", workers=workers)
    for sample in samples:
        for got, expected in zip(decoded.read(sample), ADE20K.read(sample), strict=True):
            np.testing.assert_array_equal(got, expected)
            assert got.dtype == expected.dtype


def test_nothing_is_decoded_when_the_cache_is_read(samples, tmp_path, monkeypatch):
    decoded = build(samples, tmp_path / "cache")
    names = count_reads(monkeypatch)
    decoded.read(samples[0])
    DecodedCache(ADE20K, tmp_path / "cache").read(samples[1])
    assert not names


def test_crops_from_the_cache_are_those_from_the_files(samples, tmp_path):
    decoded, settings = build(samples, tmp_path / "cache"), DataConfig(crop=(24, 32))
    for index, sample in enumerate(samples):
        readers = (ADE20K.read, decoded.read)
        draws = draw_augmentation(settings, sample_rng(0, 0, index))
        pairs = [augment(*read(sample), settings, draws) for read in readers]
        for got, expected in zip(*pairs, strict=True):
            np.testing.assert_array_equal(got, expected)
            assert got.flags.writeable  # or torch.from_numpy would warn


def test_what_is_read_cannot_be_changed(samples, tmp_path):
    image, label = build(samples, tmp_path / "cache").read(samples[0])
    for pixels in (image, label):
        with pytest.raises(ValueError, match="read-only"):
            pixels[0, 0] = 0


@pytest.mark.skipif(not Path("/proc/self/smaps").exists(), reason="needs Linux, which tells the pages of a mapping")
def test_a_crop_touches_only_the_pages_of_its_window(tmp_path):
    write(tmp_path / "images/training/a.jpg", np.zeros((4096, 2048, 3), np.uint8))
    write(tmp_path / "annotations/training/a.png", np.zeros((4096, 2048), np.uint8))
    (sample,) = ADE20K.samples(tmp_path, "train")
    image, label = build([sample], tmp_path / "cache").read(sample)
    settings = DataConfig(crop=(64, 64), scale_range=(1.0, 1.0))
    augment(image, label, settings, draw_augmentation(settings, sample_rng(0, 0, 0)))
    mapping = re.split(r"(?m)^(?=[0-9a-f]+-[0-9a-f]+ )", Path("/proc/self/smaps").read_text())
    (mine,) = [text for text in mapping if str(tmp_path) in text]
    size, resident = (int(re.search(rf"{name}: +(\d+) kB", mine)[1]) for name in ("Size", "Rss"))
    assert size >= 32768 and 0 < resident < size / 3  # the system may map 2 MiB at a time


# -- Staleness


def test_an_unchanged_set_is_not_decoded_again(samples, tmp_path, monkeypatch):
    build(samples, tmp_path / "cache")
    names = count_reads(monkeypatch)
    build(samples, tmp_path / "cache")
    assert not names


@pytest.mark.parametrize("kind", ["image", "label"])
def test_a_changed_file_is_refused_until_it_is_decoded_anew(samples, tmp_path, monkeypatch, kind):
    decoded = build(samples, tmp_path / "cache")
    path = getattr(samples[2], kind)
    pixels = cv2.imread(str(path), cv2.IMREAD_UNCHANGED)
    write(path, np.flipud(pixels))
    assert_stale(decoded, samples[2])
    assert what_is_missing(samples, tmp_path) == [samples[2].name]
    names = count_reads(monkeypatch)
    again = build(samples, tmp_path / "cache")
    assert names == [samples[2].name] and len(list((tmp_path / "cache").iterdir())) == 6
    np.testing.assert_array_equal(again.read(samples[2])[kind == "label"], ADE20K.read(samples[2])[kind == "label"])


def test_a_change_of_the_date_alone_is_seen(samples, tmp_path):
    decoded = build(samples, tmp_path / "cache")
    status = samples[0].label.stat()
    os.utime(samples[0].label, ns=(status.st_atime_ns, status.st_mtime_ns + 1))
    assert_stale(decoded, samples[0])


def test_another_label_encoding_is_another_cache(samples, tmp_path):
    build(samples, tmp_path / "cache")
    ids = ADE20K.train_ids
    other = replace(ADE20K, train_ids={**ids, 1: ids[2], 2: ids[1]})
    assert len(what_is_missing(samples, tmp_path, other)) == 6


def test_a_missing_source_is_named(samples, tmp_path):
    decoded = build(samples, tmp_path / "cache")
    samples[0].label.unlink()
    with pytest.raises(DataError) as caught:
        decoded.read(samples[0])
    assert caught.value.where == samples[0].label


def test_a_cut_cache_file_is_refused_and_made_again(samples, tmp_path):
    decoded = build(samples, tmp_path / "cache")
    (path,) = (tmp_path / "cache").glob(f"{samples[3].name}*")
    os.truncate(path, path.stat().st_size - 100)
    with pytest.raises(DataError) as caught:
        decoded.read(samples[3])
    assert caught.value.where == path
    np.testing.assert_array_equal(build(samples, tmp_path / "cache").read(samples[3])[1], ADE20K.read(samples[3])[1])


def test_an_empty_cache_file_is_refused_and_made_again(samples, tmp_path):
    decoded = build(samples, tmp_path / "cache")
    path = next((tmp_path / "cache").glob("*.npy"))
    path.write_bytes(b"")
    assert len(what_is_missing(samples, tmp_path)) == 1
    with pytest.raises(DataError) as caught:
        [decoded.read(sample) for sample in samples]
    assert caught.value.where == path
    build(samples, tmp_path / "cache")
    assert [decoded.read(sample)[1].shape for sample in samples]


def test_sets_that_share_a_folder_leave_each_other_alone(root, samples, tmp_path):
    # The same names and contents, in another place.
    moved = ADE20K.samples(shutil.copytree(root, tmp_path / "moved"), "train")
    first, second = build(samples, tmp_path / "cache"), build(moved, tmp_path / "cache")
    for decoded, sample in ((first, samples[0]), (second, moved[0])):
        np.testing.assert_array_equal(decoded.read(sample)[1], ADE20K.read(sample)[1])


# -- Builds that fail


def test_an_interrupted_build_goes_on_where_it_stopped(samples, tmp_path, monkeypatch):
    read, names = SegmentationDataset.read, []

    def interrupted(self, sample):
        if len(names) == 3:
            raise KeyboardInterrupt
        names.append(sample.name)
        return read(self, sample)

    with monkeypatch.context() as patch:
        patch.setattr(SegmentationDataset, "read", interrupted)
        with pytest.raises(KeyboardInterrupt):
            build(samples, tmp_path / "cache")
    assert len(what_is_missing(samples, tmp_path)) == 3
    rest = count_reads(monkeypatch)
    build(samples, tmp_path / "cache")
    assert sorted(names + rest) == [sample.name for sample in samples]


def test_what_a_killed_build_left_half_written_is_removed_and_what_another_is_writing_is_kept(samples, tmp_path):
    build(samples[:1], tmp_path / "cache")
    (whole,) = (tmp_path / "cache").glob("*.npy")
    left, new = (whole.with_name(f".{whole.name}.{name}.tmp") for name in ("left", "new"))
    for path in (left, new):
        path.write_bytes(b"half")
    os.utime(left, (0, 0))
    build(samples[:1], tmp_path / "cache")
    assert set((tmp_path / "cache").iterdir()) == {whole, new}


def test_a_damaged_image_stops_the_build_and_is_named(samples, tmp_path):
    samples[4].label.write_bytes(samples[4].label.read_bytes()[:50])
    with pytest.raises(DataError) as caught:
        build(samples, tmp_path / "cache")
    assert caught.value.where == samples[4].label


def test_a_disk_that_is_too_small_is_refused_before_anything_is_decoded(samples, tmp_path, monkeypatch):
    monkeypatch.setattr(cache.shutil, "disk_usage", lambda folder: SimpleNamespace(free=20_000))
    names = count_reads(monkeypatch)
    with pytest.raises(DataError) as caught:
        build(samples, tmp_path / "cache")
    assert caught.value.found == "0.00 GiB free" and "0.00 GiB for 6" in caught.value.expected
    assert not names


def test_a_disk_that_fills_up_leaves_nothing_and_says_so(samples, tmp_path):
    # A limit on the size of files is met in the middle of a write, as a full disk is; the larger images exceed it.
    script = (
        "import errno, resource, signal, sys\n"
        "from ovenet_core.data import cache\n"
        "from ovenet_core.data import ADE20K\n"
        "signal.signal(signal.SIGXFSZ, signal.SIG_IGN)\n"
        "errno.ENOSPC = errno.EFBIG\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (9500, resource.RLIM_INFINITY))\n"
        "samples = ADE20K.samples(sys.argv[1], 'train')[::-1]\n"
        "cache.DecodedCache.build(ADE20K, samples, sys.argv[2], workers=1, progress=False)\n"
    )
    command = [sys.executable, "-c", script, str(samples[0].image.parents[2]), str(tmp_path / "cache")]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert "DataError" in done.stderr and f"{tmp_path / 'cache'}: found a full disk" in done.stderr, done.stderr
    assert not list((tmp_path / "cache").iterdir())


def test_another_fault_of_the_disk_is_not_called_full(samples, tmp_path, monkeypatch):
    def fails(*_, **__):
        raise OSError(errno.EIO, "input/output error")

    monkeypatch.setattr(cache, "write_atomically", fails)
    with pytest.raises(OSError) as caught:
        build(samples, tmp_path / "cache")
    assert caught.value.errno == errno.EIO


def test_an_image_without_a_label_is_refused(samples, tmp_path):
    with pytest.raises(DataError) as caught:
        build([replace(samples[0], label=None)], tmp_path / "cache")
    assert caught.value.where == samples[0].image and "withheld" in caught.value.found


# -- Worker processes


def checksum(decoded: DecodedCache, sample) -> int:
    image, label = decoded.read(sample)
    return int(image.sum()) + 1000 * int(label.sum())


@pytest.mark.parametrize("method", ["fork", "spawn"])
def test_worker_processes_read_the_same(samples, tmp_path, method):
    decoded = build(samples, tmp_path / "cache")
    expected = [checksum(ADE20K, sample) for sample in samples]
    with ProcessPoolExecutor(2, get_context(method)) as pool:
        assert list(pool.map(checksum, [decoded] * len(samples), samples)) == expected


def test_no_files_stay_open(samples, tmp_path):
    decoded = build(samples, tmp_path / "cache")
    decoded.read(samples[0])
    before = len(os.listdir("/proc/self/fd")) if os.path.isdir("/proc/self/fd") else pytest.skip("needs Linux")
    kept = [decoded.read(sample) for sample in samples]
    assert len(os.listdir("/proc/self/fd")) <= before + len(kept)


def test_cityscapes_is_cached_as_train_ids(tmp_path):
    write(tmp_path / "leftImg8bit/train/ulm/ulm_1_leftImg8bit.png", np.zeros((4, 6, 3), np.uint8))
    write(tmp_path / "gtFine/train/ulm/ulm_1_gtFine_labelIds.png", np.full((4, 6), 26, np.uint8))
    samples = CITYSCAPES.samples(tmp_path, "train")
    assert (build(samples, tmp_path / "cache", CITYSCAPES).read(samples[0])[1] == 13).all()
