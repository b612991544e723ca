"""Files of datasets: found by patterns, decoded whole or not at all, and named in every error."""

import re
from collections.abc import Iterable, Sequence
from contextlib import suppress
from glob import iglob
from io import BytesIO
from pathlib import Path

import cv2
import numpy as np
from jaxtyping import Shaped
from PIL import Image

from ovenet_core.utils import DataError

# Archives are unpacked into the root, or into folders there, and some have a top folder of their own.
_DEPTHS = ("", "*/", "*/*/")
# What Pillow raises of a damaged file, or of a header that tells of an image too large to be one.
NOT_AN_IMAGE = (OSError, SyntaxError, ValueError, Image.DecompressionBombError)

Key = tuple[str, ...]  # what the last stars of a pattern stand for


def find_files(
    root: Path, patterns: Sequence[str], stars: int, alternatives: bool
) -> tuple[dict[Key, Path], list[DataError]]:
    """Find the files of the patterns by what their last `stars` stars stand for, and what is wrong about them.

    They are looked for below the root, then one and two folders further down; the first depth that has any counts.
    Of several patterns, the first that has a file of a key counts. Wrong are files below two different folders, and two
    files of one key, unless they are `alternatives` that fit different patterns. Hidden files are left out.
    """
    for depth, above in enumerate(_DEPTHS):
        files, tops, faults = {}, set(), []
        for pattern in patterns:
            match = re.compile("([^/]*)".join(map(re.escape, pattern.split("*")))).fullmatch
            mine = {}
            for name in iglob(above + pattern, root_dir=root):
                *top, rest = name.split("/", depth)
                path, key = root / name, match(rest).groups()[-stars:]
                tops.add("/".join(top))
                if same := mine.get(key) or (not alternatives and files.get(key)):
                    faults.append(DataError(path, f"the same name as {same}", "one file for each name", "remove one"))
                mine.setdefault(key, path)
            files = mine | files
        if len(tops) > 1:
            found = f"{' or '.join(patterns)} in {' and in '.join(sorted(tops))}"
            return {}, [
                DataError(root, found, "one dataset", "give one of these folders as the root, or remove others")
            ]
        if files:
            return files, faults
    return {}, []


def load(path: Path) -> bytes:
    """Read the contents of a file; `DataError` if it cannot be read."""
    try:
        return path.read_bytes()
    except OSError as error:
        raise DataError(path, error.strerror, "a readable file", "restore it") from error


def decode(path: Path, flags: int, palette: bool = False) -> Shaped[np.ndarray, "height width *channels"]:
    """Decode an image with OpenCV's flags, or as the indices of its palette; `DataError` if missing, cut or damaged."""
    data, image = load(path), None
    # Before OpenCV 5, what is missing from a JPEG that was cut is filled up without a word.
    if _is_whole(data):
        with suppress(cv2.error, *NOT_AN_IMAGE):
            if palette:  # OpenCV turns the indices into colours
                image = np.array(Image.open(BytesIO(data)))
            else:
                image = cv2.imdecode(np.frombuffer(data, np.uint8), flags)
    if image is None:
        raise DataError(path, f"a damaged or cut file ({len(data)} bytes)", "a whole PNG or JPEG file", "restore it")
    return image


def _is_whole(data: bytes) -> bool:
    """Whether the marker that ends a PNG or JPEG file is there; some cameras add a few bytes after it."""
    markers = ((b"\x89PNG", b"IEND\xaeB`\x82"), (b"\xff\xd8", b"\xff\xd9"))
    return len(data) > 0 and all(end in data[-1024:] for start, end in markers if data.startswith(start))


def decode_ids(path: Path, dtype: type, palette: bool = False) -> Shaped[np.ndarray, "height width"]:
    """Decode the value of each pixel as `decode` does; `DataError` unless it is one channel of this type."""
    ids = decode(path, cv2.IMREAD_UNCHANGED, palette)
    if ids.ndim != 2 or ids.dtype != dtype:
        found, expected = f"{ids.dtype} of shape {ids.shape}", f"one channel of {np.dtype(dtype)}, a value per pixel"
        raise DataError(path, found, expected, "give that file, not a coloured one or one of another depth")
    return ids


def size(path: Path) -> tuple[int, int]:
    """Return (height, width) of an image, of which only the beginning is read; `DataError` if that is damaged."""
    try:
        with Image.open(path) as image:
            return image.height, image.width
    except NOT_AN_IMAGE as error:
        raise DataError(path, error, "a PNG or JPEG file", "fetch or unpack it again") from error


def values(ids: Shaped[np.ndarray, "height width"]) -> set[int]:
    """Return the values that occur, 0 or more."""
    return set(np.flatnonzero(np.bincount(ids.ravel())).tolist())


def in_words(numbers: Iterable[int]) -> str:
    """Write numbers as a person lists them: "0 to 18, 255"."""
    ordered = np.unique([*numbers])
    runs = np.split(ordered, np.flatnonzero(np.diff(ordered) > 1) + 1)
    return ", ".join(f"{run[0]} to {run[-1]}" if run.size > 1 else f"{run[0]}" for run in runs if run.size)


def by(shape: Sequence[int]) -> str:
    """Write a size as a person writes it: "1024x2048", height first."""
    return f"{shape[0]}x{shape[1]}"


def find(name: str, *places: str | Path, fix: str = "put it there, or give its path") -> Path:
    """Return the folder or file of that name in the first of `places` that has it; `DataError` if none has it."""
    for place in places:
        if (Path(place) / name).exists():
            return Path(place) / name
    raise DataError(name, "nothing", f"it in one of {', '.join(map(str, places)) or 'the places'}", fix)
