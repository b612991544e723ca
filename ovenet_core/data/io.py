"""Files of datasets: found by patterns, decoded whole or not at all, and named in every error."""

import re
from collections.abc import Iterable, Sequence
from contextlib import suppress
from glob import iglob
from io import BytesIO
from pathlib import Path

import cv2
import numpy as np
from jaxtyping import Shaped, UInt8
from PIL import Image

from ovenet_core.utils import DataError

# Archives are unpacked into the root, or into folders there, and some have a top folder of their own.
_DEPTHS = ("", "*/", "*/*/")
# What Pillow raises of a damaged file, or of a header that tells of an image too large to be one.
NOT_AN_IMAGE = (OSError, SyntaxError, ValueError, Image.DecompressionBombError)

Key = tuple[str, ...]  # what the last stars of a pattern stand for


def find_files(
    root: Path, patterns: Sequence[str], stars: int, faults: list[DataError], *, alternatives: bool = False
) -> dict[Key, Path]:
    """Find the files of the patterns by what their last `stars` stars stand for.

    They are looked for below the root, then one and two folders further down; the first depth that has any counts.
    Of several patterns, the first that has a file of a key counts.

    Args:
        patterns: those of glob with stars only; hidden files, such as some systems put beside each copy, are left out.
        faults: to which errors are added: two files of one key, or files below two different folders.
        alternatives: files of one key that fit different patterns are no error.
    """
    for depth, above in enumerate(_DEPTHS):
        files: dict[Key, Path] = {}
        tops: set[str] = set()
        same_key: list[DataError] = []
        for pattern in patterns:
            match = re.compile("([^/]*)".join(map(re.escape, pattern.split("*")))).fullmatch
            mine: dict[Key, Path] = {}
            for name in iglob(above + pattern, root_dir=root):
                *top, rest = name.split("/", depth)
                path, key = root / name, match(rest).groups()[-stars:]
                tops.add("/".join(top))
                if same := mine.get(key) or (not alternatives and files.get(key)):
                    expected, fix = "one file for each name", "remove one of them"
                    same_key.append(DataError(path, f"the same name as {same}", expected, fix))
                mine.setdefault(key, path)
            files = mine | files
        if len(tops) > 1:
            found = f"{' or '.join(patterns)} in {' and in '.join(sorted(tops))}"
            fix = "give one of these folders as the root, or remove the others"
            faults.append(DataError(root, found, "one dataset", fix))
            return {}
        if files:
            faults += same_key
            return files
    return {}


def suffix(pattern: str) -> str:
    """Return what follows the last star."""
    return pattern.rpartition("*")[2]


def load(path: Path) -> bytes:
    """Read the contents of a file; `DataError` if it cannot be read."""
    try:
        return path.read_bytes()
    except OSError as error:
        raise DataError(path, error.strerror, "a readable file", "restore it") from error


def decode(path: Path, flags: int, palette: bool = False) -> Shaped[np.ndarray, "height width *channels"]:
    """Decode the image in a file, read with OpenCV's flags, or as the indices of its palette.

    Raises:
        DataError: it is missing, cut or damaged, or no image.
    """
    data = load(path)
    image = None
    # Before OpenCV 5, what is missing from a JPEG that was cut is filled up without a word.
    if _is_whole(data):
        with suppress(cv2.error, *NOT_AN_IMAGE):
            if palette:  # OpenCV turns the indices into colours
                image = np.array(Image.open(BytesIO(data)))
            else:
                image = cv2.imdecode(np.frombuffer(data, np.uint8), flags)
    if image is None:
        found = f"a damaged or cut file ({len(data)} bytes)"
        raise DataError(path, found, "a whole PNG or JPEG file", "fetch or unpack it again")
    return image


def _is_whole(data: bytes) -> bool:
    """Whether the marker that ends a PNG or JPEG file is there; some cameras add a few bytes after it."""
    for start, end in ((b"\x89PNG", b"IEND\xaeB`\x82"), (b"\xff\xd8", b"\xff\xd9")):
        if data.startswith(start):
            return end in data[-1024:]
    return len(data) > 0


def decode_ids(path: Path, dtype: type, palette: bool = False) -> Shaped[np.ndarray, "height width"]:
    """Decode the value of each pixel in a file of one channel of this type.

    Raises:
        DataError: as `decode`, or the file has other channels, such as colours, or another type.
    """
    ids = decode(path, cv2.IMREAD_UNCHANGED, palette)
    if ids.ndim != 2 or ids.dtype != dtype:
        expected = f"one channel of {np.dtype(dtype)} with a value per pixel"
        fix = "give that file, not a coloured one or one of another depth"
        raise DataError(path, f"{ids.dtype} of shape {ids.shape}", expected, fix)
    return ids


def size(path: Path) -> tuple[int, int]:
    """Return (height, width) of an image, of which only the beginning is read; `DataError` if that is damaged."""
    try:
        with Image.open(path) as image:
            return image.height, image.width
    except NOT_AN_IMAGE as error:
        raise DataError(path, error, "a PNG or JPEG file", "fetch or unpack it again") from error


def table(pairs: Iterable[tuple[int, int]], default: int) -> UInt8[np.ndarray, "256"]:
    """Make a look-up table of bytes for `cv2.LUT`."""
    lookup = np.full(256, default, np.uint8)
    for key, value in pairs:
        lookup[key] = value
    return lookup


def values(ids: Shaped[np.ndarray, "height width"]) -> set[int]:
    """Return the values that occur, 0 or more."""
    return set(np.flatnonzero(np.bincount(ids.ravel())).tolist())


def in_words(numbers: Iterable[int]) -> str:
    """Write numbers as a person lists them: "0 to 18, 255"."""
    runs: list[list[int]] = []
    for number in sorted(set(numbers)):
        if runs and number == runs[-1][-1] + 1:
            runs[-1][1:] = [number]
        else:
            runs.append([number])
    return ", ".join(" to ".join(map(str, run)) for run in runs)


def by(shape: Sequence[int]) -> str:
    """Write a size as a person writes it: "1024x2048", height first."""
    return f"{shape[0]}x{shape[1]}"


def find(name: str, *places: str | Path, fix: str = "put it there, or give its path") -> Path:
    """Return the folder or file of that name in the first of `places` that has it.

    Raises:
        DataError: none has it.
    """
    for place in places:
        if (Path(place) / name).exists():
            return Path(place) / name
    raise DataError(name, "nothing", f"it in one of {', '.join(map(str, places)) or 'the places'}", fix)
