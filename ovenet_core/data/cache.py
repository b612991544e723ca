"""Decoded images and labels on disk, memory-mapped: a random crop then costs no PNG decoding.

Each image is one `.npy` file of uint8 [4, height, width]: the RGB values of all pixels one after the other, then the
train ids. Its name carries a fingerprint of the two source files and of the encoding of the labels, so that an image
whose sources have changed is not found rather than wrongly read.
"""

import errno
import hashlib
import os
import shutil
import time
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from contextlib import suppress
from dataclasses import dataclass
from functools import cached_property
from io import BytesIO
from pathlib import Path

import numpy as np
from jaxtyping import UInt8
from tqdm.auto import tqdm

from ovenet_core.data import io
from ovenet_core.data.dataset import Sample, SegmentationDataset
from ovenet_core.data.io import DataError
from ovenet_core.utils import write_atomically

_VERSION = 1  # of the file format: raise it when a change makes other files
_GIB = 2**30
_LONG = 3600  # seconds in which an image is certainly written


@dataclass(frozen=True)
class DecodedCache:
    """The images of a benchmark as `Benchmark.read` returns them, from a folder that `build` filled.

    It holds paths and tables, no open files: it may be sent to worker processes, whether forked or spawned.

    The fingerprint is over path, size and date of last change (in nanoseconds) of image and label, which a look at the
    folder gives, and over the label encoding. It does not see a file that was replaced by one of the same size and
    date; the fingerprint in a run's result is over contents (`benchmarks.fingerprint`).
    """

    data: SegmentationDataset
    folder: Path

    @classmethod
    def build(
        cls,
        data: SegmentationDataset,
        samples: Sequence[Sample],
        folder: str | Path,
        *,
        workers: int | None = None,
        progress: bool = True,
    ) -> "DecodedCache":
        """Decodes what the folder does not hold yet, and returns the cache.

        A build that was interrupted goes on where it stopped; images whose sources changed are decoded anew, and
        their old files removed. Several sets of images may share a folder.

        Args:
            samples: images with labels.
            workers: threads, by default one for each core; OpenCV decodes without Python's lock.

        Raises:
            DataError: an image cannot be read, or has no label; the space on the disk does not suffice, at the start
                or on the way: then nothing of this build is left.
        """
        cache, folder = cls(data, Path(folder)), Path(folder)
        folder.mkdir(parents=True, exist_ok=True)
        paths = {cache._path(sample): sample for sample in samples}
        missing = {path: sample for path, sample in paths.items() if not _is_whole(path)}
        _remove_outdated(folder, paths)
        needed, free = sum(map(_decoded_size, missing.values())), shutil.disk_usage(folder).free
        if needed > free:
            raise DataError(
                f"{folder}: {free / _GIB:.2f} GiB free, expected {needed / _GIB:.2f} GiB for {len(missing)} decoded "
                "images; make space, or give a folder on another disk"
            )
        written: list[Path] = []

        def decode(path: Path, sample: Sample) -> None:
            image, label = data.read(sample)
            pixels = np.concatenate([image.reshape(3, *label.shape), label[None]])
            npy = BytesIO()  # straight into a file, NumPy would not say that the disk is full
            np.save(npy, pixels)
            write_atomically(path, lambda file: file.write(npy.getbuffer()), mode="wb")
            written.append(path)

        pool = ThreadPoolExecutor(workers or os.cpu_count())
        try:
            tasks = [pool.submit(decode, path, sample) for path, sample in missing.items()]
            for task in tqdm(as_completed(tasks), "decoded cache", len(tasks), disable=not progress, unit="image"):
                task.result()
        except OSError as error:
            pool.shutdown(cancel_futures=True)
            if error.errno not in (errno.ENOSPC, errno.EDQUOT):
                raise
            for path in written:
                path.unlink(missing_ok=True)
            raise DataError(
                f"{folder}: the disk is full, expected {needed / _GIB:.2f} GiB for {len(missing)} decoded images, "
                "which were removed; make space, or give a folder on another disk"
            ) from error
        finally:
            pool.shutdown(cancel_futures=True)
        return cache

    @classmethod
    def open(cls, data: SegmentationDataset, samples: Sequence[Sample], folder: str | Path) -> "DecodedCache":
        """The cache in a folder, which has to hold all of the samples as their files are now.

        Raises:
            DataError: it does not.
        """
        cache = cls(data, Path(folder))
        if missing := [sample for sample in samples if not _is_whole(cache._path(sample))]:
            raise DataError(
                f"{folder}: {len(missing)} of {len(samples)} images are not in this cache, or have changed since, "
                f"such as {missing[0].image}; expected all of them; build the cache again, which keeps the others"
            )
        return cache

    def read(self, sample: Sample) -> tuple[UInt8[np.ndarray, "height width 3"], UInt8[np.ndarray, "height width"]]:
        """The image as RGB in [0, 255] and its label as train ids, both read-only.

        They are views into the mapped file: only the pages of what is looked at, such as a crop, come from the disk.

        Raises:
            DataError: the image is not in the cache, or its files have changed since.
        """
        path = self._path(sample)
        try:
            pixels = np.load(path, mmap_mode="r").view(np.ndarray)
        except (OSError, ValueError, EOFError) as error:
            raise DataError(
                f"{path}: not there or damaged, expected the decoded {sample.image}, which may have changed since the "
                "cache was built; build the cache again"
            ) from error
        return pixels[:3].reshape(*pixels.shape[1:], 3), pixels[3]

    @cached_property
    def _encoding(self) -> str:
        tables = [sorted(table.items()) for table in self.data.encodings]
        return repr((_VERSION, self.data.name, self.data.palette, tables))

    def _path(self, sample: Sample) -> Path:
        """Where the image is: its name, a hash of where its files are, and the fingerprint."""
        if sample.label is None:
            raise DataError(f"{sample.image}: expected a label, but it is withheld; leave it out of the cache")
        place = f"{self.data.name}\n{sample.image.absolute()}\n{sample.label.absolute()}"
        stamp = f"{self._encoding} {sample.encoding and sample.encoding.index}"
        for file in (sample.image, sample.label):
            try:
                status = file.stat()
            except OSError as error:
                raise DataError(f"{file}: {error.strerror}, expected a readable file; restore it") from error
            stamp += f"\n{status.st_size} {status.st_mtime_ns}"
        return self.folder / f"{sample.name}.{_short_hash(place)}.{_short_hash(stamp)}.npy"


def _short_hash(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def _is_whole(path: Path) -> bool:
    try:
        return np.load(path, mmap_mode="r").ndim == 3  # mapping fails where the file is shorter than it says
    except (OSError, ValueError, EOFError):
        return False


def _remove_outdated(folder: Path, paths: Iterable[Path]) -> None:
    """Removes files of the same images in an earlier state, and what killed builds have left half written."""
    for file in folder.glob(".*.npy.*.tmp"):
        with suppress(FileNotFoundError):  # of another build, and whole by now
            if time.time() - file.stat().st_mtime > _LONG:
                file.unlink()
    images = {path.name.rsplit(".", 2)[0] for path in paths}
    for file in set(folder.glob("*.npy")) - set(paths):
        if file.name.rsplit(".", 2)[0] in images:
            file.unlink(missing_ok=True)


def _decoded_size(sample: Sample) -> int:
    """Bytes of the decoded image in the cache, from the header of the image."""
    height, width = io.size(sample.image)
    return 4 * height * width + 128
