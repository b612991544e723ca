"""Files of datasets: found by patterns, decoded whole or not at all, and named in every error."""

import re
from collections.abc import Iterable, Mapping, Sequence
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


def find_files(root: Path, patterns: Sequence[str], stars: int, alternatives: bool = False) -> dict[Key, Path]:
    """The files of the patterns by what their last `stars` stars stand for.

    They are looked for below the root, then one and two folders further down; the first depth that has any counts.

    Args:
        patterns: those of glob with stars only; hidden files, such as some systems put beside each copy, are left out.
        alternatives: of several patterns, the first that has a file of a key counts; else a second one is an error.

    Raises:
        DataError: two files of one key, or files below two different folders.
    """
    for depth, above in enumerate(_DEPTHS):
        found: dict[Key, Path] = {}
        tops: set[str] = set()
        for pattern in patterns:
            match = re.compile("([^/]*)".join(map(re.escape, pattern.split("*")))).fullmatch
            mine: dict[Key, Path] = {}
            for name in iglob(above + pattern, root_dir=root):
                *top, rest = name.split("/", depth)
                path, key = root / name, match(rest).groups()[-stars:]
                tops.add("/".join(top))
                if len(tops) > 1:
                    raise DataError(
                        f"{root}: {' or '.join(patterns)} is in {' and in '.join(sorted(tops))}, expected "
                        "one dataset; give one of these folders as the root, or remove the others"
                    )
                if same := mine.get(key) or (not alternatives and found.get(key)):
                    raise DataError(
                        f"{path}: {same} is of the same name, expected one file for each; remove one of them"
                    )
                mine[key] = path
            found = mine | found
        if found:
            return found
    return {}


def suffix(pattern: str) -> str:
    """What follows the last star."""
    return pattern.rpartition("*")[2]


def require_partners(ours: Mapping[Key, Path], theirs: Mapping[Key, Path], what: str) -> None:
    """A `DataError` that names a file of ours of whose key there is none of theirs, which is `what` it has not."""
    if alone := sorted(ours.keys() - theirs.keys()):
        more = f" (nor have {len(alone) - 1} others)" if len(alone) > 1 else ""
        near = [f"; is it {path}, in the wrong folder?" for key, path in theirs.items() if key[-1] == alone[0][-1]]
        raise DataError(f"{ours[alone[0]]}{more}: no {what}, or remove the file{''.join(near[:1])}")


def load(path: Path) -> bytes:
    """The contents of a file; `DataError` if it cannot be read."""
    try:
        return path.read_bytes()
    except OSError as error:
        raise DataError(f"{path}: {error.strerror}, expected a readable file; restore it") from error


def decode(path: Path, flags: int, palette: bool = False) -> Shaped[np.ndarray, "height width *channels"]:
    """The image in a file, read with OpenCV's flags, or as the indices of its palette.

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
        raise DataError(
            f"{path}: damaged or cut ({len(data)} bytes), expected a whole PNG or JPEG file; fetch or unpack it again"
        )
    return image


def _is_whole(data: bytes) -> bool:
    """Whether the marker that ends a PNG or JPEG file is there; some cameras add a few bytes after it."""
    for start, end in ((b"\x89PNG", b"IEND\xaeB`\x82"), (b"\xff\xd8", b"\xff\xd9")):
        if data.startswith(start):
            return end in data[-1024:]
    return len(data) > 0


def decode_ids(path: Path, dtype: type, palette: bool = False) -> Shaped[np.ndarray, "height width"]:
    """The value of each pixel in a file of one channel of this type.

    Raises:
        DataError: as `decode`, or the file has other channels, such as colours, or another type.
    """
    ids = decode(path, cv2.IMREAD_UNCHANGED, palette)
    if ids.ndim != 2 or ids.dtype != dtype:
        raise DataError(
            f"{path}: {ids.dtype} of shape {ids.shape}, expected one channel of {np.dtype(dtype)} with a "
            "value per pixel; give that file, not a coloured one or one of another depth"
        )
    return ids


def size(path: Path) -> tuple[int, int]:
    """(height, width) of an image, of which only the beginning is read; `DataError` if that is damaged."""
    try:
        with Image.open(path) as image:
            return image.height, image.width
    except NOT_AN_IMAGE as error:
        raise DataError(f"{path}: {error}, expected a PNG or JPEG file; fetch or unpack it again") from error


def table(pairs: Iterable[tuple[int, int]], default: int) -> UInt8[np.ndarray, "256"]:
    """A look-up table of bytes for `cv2.LUT`."""
    found = np.full(256, default, np.uint8)
    for key, value in pairs:
        found[key] = value
    return found


def values(ids: Shaped[np.ndarray, "height width"]) -> set[int]:
    """The values that occur, 0 or more."""
    return set(np.flatnonzero(np.bincount(ids.ravel())).tolist())


def in_words(numbers: Iterable[int]) -> str:
    """Numbers as a person lists them: "0 to 18, 255"."""
    runs: list[list[int]] = []
    for number in sorted(set(numbers)):
        if runs and number == runs[-1][-1] + 1:
            runs[-1][1:] = [number]
        else:
            runs.append([number])
    return ", ".join(" to ".join(map(str, run)) for run in runs)


def find(name: str, *places: str | Path, remedy: str = "put it there, or give its path") -> Path:
    """The folder or file of that name in the first of `places` that has it.

    Raises:
        DataError: none has it.
    """
    for place in places:
        if (Path(place) / name).exists():
            return Path(place) / name
    raise DataError(f"{name} is in none of {', '.join(str(place) for place in places)}; {remedy}")
