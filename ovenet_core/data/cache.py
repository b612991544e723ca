"""Decoded images and labels on disk, memory-mapped: a random crop then costs no PNG decoding.

Each image is one `.npy` file of uint8 [4, height, width]: the RGB values of all pixels one after the other, then the
train ids. Its name carries a fingerprint, so that an image whose sources have changed is not found.
"""

import errno
import hashlib
import math
import os
import shutil
import time
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path

import numpy as np
from jaxtyping import UInt8
from tqdm.auto import tqdm

from ovenet_core.data import io
from ovenet_core.data.dataset import Sample, SegmentationDataset
from ovenet_core.utils import DataError, write_atomically

_VERSION = 1  # of the file format: raise it when a change makes other files
_GIB = 2**30
_LONG = 3600  # seconds in which an image is certainly written


@dataclass(frozen=True)
class DecodedCache:
    """The images of a dataset as `SegmentationDataset.read` returns them, from a folder that `build` filled.

    It may be sent to worker processes. The fingerprint is over path, size and date of last change (in nanoseconds) of
    image and label, and over the label encoding; the one in a run's result is over contents (`fingerprint`).
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
        """Decode what the folder does not hold yet, in `workers` threads (default: one for each core).

        A build that was interrupted goes on where it stopped; images whose sources changed are decoded again, and
        their old files removed. Several sets of images may share a folder. `DataError` if an image cannot be read or
        has no label, or if the disk is too small or fills up, which removes what this build has decoded.
        """
        cache, folder = cls(data, Path(folder)), Path(folder)
        folder.mkdir(parents=True, exist_ok=True)
        paths = {cache._path(sample): sample for sample in samples}
        missing = {path: sample for path, sample in paths.items() if _mapped(path) is None}
        _remove_outdated(folder, paths)
        needed = sum(4 * math.prod(io.size(sample.image)) + 128 for sample in missing.values()) / _GIB
        free = shutil.disk_usage(folder).free / _GIB
        expected, fix = f"{needed:.2f} GiB for {len(missing)} decoded images", "make space, or give another disk"
        if needed > free:
            raise DataError(folder, f"{free:.2f} GiB free", expected, fix)

        def decode(path: Path) -> None:
            image, label = data.read(missing[path])
            npy = BytesIO()  # straight into a file, NumPy would not say that the disk is full
            np.save(npy, np.concatenate([image.reshape(3, *label.shape), label[None]]))
            write_atomically(path, lambda file: file.write(npy.getbuffer()), mode="wb")

        try:
            with ThreadPoolExecutor(workers or os.cpu_count()) as pool:  # a fault cancels what has not begun
                list(tqdm(pool.map(decode, missing), "decoded cache", len(missing), disable=not progress, unit="image"))
        except OSError as error:
            if error.errno not in (errno.ENOSPC, errno.EDQUOT):
                raise
            for path in missing:
                path.unlink(missing_ok=True)
            raise DataError(folder, "a full disk, and removed what was decoded", expected, fix) from error
        return cache

    def read(self, sample: Sample) -> tuple[UInt8[np.ndarray, "height width 3"], UInt8[np.ndarray, "height width"]]:
        """Read the image as RGB in [0, 255] and its label as train ids, both read-only.

        They are views into the mapped file: only the pages of what is looked at, such as a crop, come from the disk.
        `DataError` if the image is not in the cache, or its files have changed since.
        """
        path = self._path(sample)
        if (pixels := _mapped(path)) is None:
            expected = f"the decoded {sample.image}, which may have changed since the cache was built"
            raise DataError(path, "no file, or a damaged one", expected, "build the cache again")
        return pixels[:3].reshape(*pixels.shape[1:], 3), pixels[3]

    def _path(self, sample: Sample) -> Path:
        """Return where the image is: its name, a hash of where its files are, and the fingerprint."""
        if sample.label is None:
            raise DataError(sample.image, "no label, it is withheld", "a label", "leave it out of the cache")
        place = f"{self.data.name}\n{sample.image.absolute()}\n{sample.label.absolute()}"
        tables = [sorted(table.items()) for table in self.data.encodings]
        stamp = f"{(_VERSION, self.data.name, self.data.palette, tables)} {sample.encoding and sample.encoding.index}"
        for file in (sample.image, sample.label):
            try:
                status = file.stat()
            except OSError as error:
                raise DataError(file, error.strerror, "a readable file", "restore it") from error
            stamp += f"\n{status.st_size} {status.st_mtime_ns}"
        hashes = (hashlib.sha256(text.encode()).hexdigest()[:16] for text in (place, stamp))
        return self.folder / ".".join((sample.name, *hashes, "npy"))


def _mapped(path: Path) -> UInt8[np.ndarray, "4 height width"] | None:
    with suppress(OSError, ValueError, EOFError):  # mapping fails where the file is shorter than it says
        return np.load(path, mmap_mode="r").view(np.ndarray)
    return None


def _remove_outdated(folder: Path, paths: Iterable[Path]) -> None:
    """Remove files of the same images in an earlier state, and what killed builds have left half written."""
    for file in folder.glob(".*.npy.*.tmp"):
        with suppress(FileNotFoundError):  # of another build, and whole by now
            if time.time() - file.stat().st_mtime > _LONG:
                file.unlink()
    images = {path.name.rsplit(".", 2)[0] for path in paths}
    for file in set(folder.glob("*.npy")) - set(paths):
        if file.name.rsplit(".", 2)[0] in images:
            file.unlink(missing_ok=True)
