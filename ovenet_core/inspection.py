"""Files looked at as they are stored: the faults that a picture shows alone, and those that label values show."""

import hashlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Literal, NamedTuple

import cv2
import numpy as np
from jaxtyping import Int64, UInt8

from ovenet_core import files
from ovenet_core.benchmarks import IGNORE, Benchmark, DataError, Sample

# (height, width) of all pictures, where a benchmark has one size and nothing but colour pictures of 8 bit.
CAMERA_SIZES = MappingProxyType({"cityscapes": (1024, 2048), "acdc": (1080, 1920), "camvid": (360, 480)})

_DIFFERING = 0.01  # share of the pixels in which a label and its instances may have other classes
_MANY = 1000  # pictures of which it is sure what their labels must have

SEVERITIES = ("error", "warning", "note")
Severity = Literal[SEVERITIES]


class Finding(NamedTuple):
    """One fault of one file or folder; those of one `kind` are listed together."""

    severity: Severity
    kind: str
    file: Path
    what: str
    expected: str
    remedy: str


@dataclass
class Picture:
    """What was found out about one picture; None where a file could not be read.

    `label_digest` is of labels with more than one value; `as_instances` says that a label agrees with its instances.
    """

    split: str
    sample: Sample
    findings: list[Finding]
    digest: bytes | None = None
    label_digest: bytes | None = None
    as_instances: bool = False
    size: tuple[int, int] | None = None
    counts: Int64[np.ndarray, "256"] | None = None  # pixels of each label value


def of_error(kind: str, error: DataError) -> Finding:
    """The finding that a reader's `DataError` ("file: what, expected …; remedy") tells."""
    file, _, rest = str(error).partition(": ")
    what, _, rest = rest.partition(", expected ")
    expected, _, remedy = rest.partition("; ")
    return Finding("error", kind, Path(file), what, expected, remedy)


def _decode(path: Path, findings: list[Finding], palette: bool = False) -> np.ndarray | None:
    """The pixels as stored, or None and a finding."""
    try:
        return files.decode(path, cv2.IMREAD_UNCHANGED, palette)
    except DataError as error:
        kind = "dangling link" if path.is_symlink() and not path.exists() else "damaged file"
        findings.append(of_error("empty file" if path.exists() and not path.stat().st_size else kind, error))
        return None


def inspect(data: Benchmark, split: str, sample: Sample) -> Picture:
    """Reads the files of one picture."""
    picture = Picture(split, sample, findings := [])
    image = _decode(sample.image, findings)
    label = None if sample.label is None else _decode(sample.label, findings, data.palette)
    camera = data.name in CAMERA_SIZES

    def found(severity: Severity, kind: str, file: Path, what: str, expected: str, remedy: str) -> None:
        findings.append(Finding(severity, kind, file, what, expected, remedy))

    if image is not None:
        picture.digest, picture.size = hashlib.sha256(files.load(sample.image)).digest(), image.shape[:2]
        channels = 1 if image.ndim == 2 else image.shape[2]
        if channels == 1 and label is not None and label.ndim == 3:
            found(
                "error",
                "image and label swapped",
                sample.image,
                f"grey, and {sample.label.name} in colour",
                "the image in colour, and label values in one channel",
                "exchange the two files",
            )
            return picture
        if image.dtype != np.uint8:
            found("error", "16 bit image", sample.image, f"{image.dtype}", "8 bits to a channel", "restore the file")
        if channels != 3:
            found(
                "error" if camera else "note",
                f"image of {channels} channels",
                sample.image,
                "grey" if channels == 1 else f"{channels} channels",
                "red, green and blue",
                "restore the file" if camera else "it is read as red, green and blue",
            )
    if label is None:
        return picture
    if label.ndim == 3:
        found(
            "error",
            "colour label",
            sample.label,
            f"{label.shape[2]} channels",
            "one channel of label values",
            "give the file of label values, not its picture in colours",
        )
    elif label.dtype != np.uint8:
        kind = "16 bit label" if label.dtype == np.uint16 else "label of another depth"
        found(
            "error",
            kind,
            sample.label,
            f"{label.dtype}",
            "uint8 label values",
            "give the file of label values, not that of the instances",
        )
    else:
        picture.counts = np.bincount(label.ravel(), minlength=256)
        if np.count_nonzero(picture.counts) > 1:
            picture.label_digest = hashlib.blake2b(label.tobytes()).digest()
    if image is not None and label.shape[:2] != image.shape[:2]:
        rotated = label.shape[:2] == image.shape[1::-1]
        found(
            "error",
            "label rotated" if rotated else "sizes differ",
            sample.label,
            f"{by(label.shape)} pixels",
            f"{by(image.shape)} as {sample.image.name}",
            "restore them",
        )
    if sample.instances is not None and picture.counts is not None:
        _inspect_instances(data, picture, label, findings)
    return picture


def _inspect_instances(data: Benchmark, picture: Picture, label: np.ndarray, findings: list[Finding]) -> None:
    sample = picture.sample
    try:
        ids = data.read_instances(sample)
    except DataError as error:
        findings.append(of_error("damaged instances", error))
        return
    if ids.shape != label.shape:
        return
    values = np.where(ids >= 1000, ids // 1000, ids).astype(np.uint8)
    differing = np.mean(values != label), np.mean(data.lookup[values] != label)
    picture.as_instances = differing[0] <= _DIFFERING
    # A label in train ids belongs to its picture: `check_labels` tells what is wrong with it.
    if (share := min(differing)) > _DIFFERING:
        findings.append(
            Finding(
                "error",
                "label and instances differ",
                sample.label,
                f"{100 * share:.0f}% of the pixels have another class in {sample.instances.name}",
                "the same",
                "restore the one of the two that belongs to another picture",
            )
        )


def by(shape: tuple[int, ...]) -> str:
    """A size as a person writes it: "1024x2048", height first."""
    return f"{shape[0]}x{shape[1]}"


def check_labels(data: Benchmark, root: Path, pictures: Sequence[Picture], findings: list[Finding]) -> int:
    """Compares the label values of a split with those that exist; returns the number of its encoding."""
    pictures = [picture for picture in pictures if picture.counts is not None]
    if not pictures:
        return 0
    present = np.stack([picture.counts > 0 for picture in pictures])
    fits = np.stack([~present[:, sorted(set(range(256)) - set(table))].any(axis=1) for table in data.encodings])
    named = [
        picture.sample.label.match(f"*{pattern.rpartition('*')[2]}")
        for picture in pictures[:1]
        for pattern in data.labels
    ]
    encoding = max(range(len(fits)), key=lambda index: (fits[index].sum(), named[index]))
    ignored = np.array([ignored_share(data, picture.counts, encoding) for picture in pictures])
    train_ids = np.arange(256) >= data.num_classes
    train_ids[IGNORE] = False
    looks_like_train_ids = ~present[:, train_ids].any(axis=1) & _tells_train_ids(data, present, ignored, encoding)
    looks_like_train_ids &= ~np.array([picture.as_instances for picture in pictures])  # which hold label values
    for index, picture in enumerate(pictures):
        unknown = set(np.flatnonzero(present[index]).tolist()) - data.encodings[encoding].keys()
        expected = f"label values {files.in_words(data.encodings[encoding])}"
        if looks_like_train_ids[index]:
            kind, remedy = "train ids as labels", "give the data set in its original encoding"
            what = f"{files.in_words(np.flatnonzero(present[index]).tolist())} look like train ids, which start at 0"
        elif fits[:, index].any() and unknown:
            kind, remedy = "mixed encodings", "give all labels of a split in the same encoding"
            what = f"label values {files.in_words(unknown)}, of another encoding than its neighbours"
        elif unknown:
            kind, remedy = "unknown label values", "give the data set in its original encoding"
            what = f"label values {files.in_words(unknown)} do not exist"
        elif ignored[index] == 1:
            findings.append(
                Finding(
                    "warning",
                    "label without a class",
                    picture.sample.label,
                    "every pixel is ignored",
                    "some class",
                    "leave the picture out, unless that is meant",
                )
            )
            continue
        else:
            continue
        findings.append(Finding("error", kind, picture.sample.label, what, expected, remedy))
    if (ignored == 1).all():
        findings.append(
            Finding(
                "error",
                "dummy labels",
                root,
                f"all {len(ignored)} labels of {pictures[0].split} have no class",
                "labels with classes",
                "restore them, or leave this split out of training "
                "and scores; the labels of test splits are often such dummies",
            )
        )
    total = sum_counts(pictures)
    if data.name == "ade20k" and len(pictures) >= 20 and total[0] > total[1] and not total[150]:
        severity = "error" if len(pictures) >= _MANY else "warning"
        findings.append(
            Finding(
                severity,
                "labels shifted by one?",
                root,
                f"value 0 has more pixels than 1 (wall) in {pictures[0].split}, and no pixel has 150",
                "0 for others, 1 to 150 for classes",
                "look at the pictures: if the classes are shifted, restore the labels",
            )
        )
    return encoding


def _tells_train_ids(data: Benchmark, present: np.ndarray, ignored: np.ndarray, encoding: int) -> np.ndarray:
    """Of labels with no values but those that train ids have: whether they are train ids, and not label values.

    It is certain where a value does not exist among the label values, as 255 in Cityscapes and ADE20K. Else it is in
    Cityscapes and ACDC, where train ids leave out the values of sky, vegetation and cars, if either a third of a
    picture is ignored, as the road would be, or no label of the split has any of these values; a label in which
    everything is ignored tells nothing.
    """
    table = data.encodings[encoding]
    values = {value for value, train_id in table.items() if train_id != IGNORE}
    certain = present[:, sorted(set(range(256)) - set(table))].any(axis=1)
    if data.name not in ("cityscapes", "acdc"):  # of others it is not known which classes a picture must have
        return certain
    beyond = sorted(value for value in values if value >= data.num_classes)
    if len(beyond) < len(values) / 4:
        return certain
    return certain | (ignored < 1) & ((ignored > 1 / 3) | ~present[:, beyond].any())


def lookup(data: Benchmark, encoding: int) -> UInt8[np.ndarray, "256"]:
    """The train id of each label value in one of the encodings."""
    return files.table(data.encodings[encoding].items(), IGNORE)


def ignored_share(data: Benchmark, counts: Int64[np.ndarray, "256"], encoding: int) -> float:
    """Share of the ignored pixels, in [0, 1]."""
    return float(counts[lookup(data, encoding) == IGNORE].sum() / counts.sum())


def sum_counts(pictures: Iterable[Picture]) -> Int64[np.ndarray, "256"]:
    """Pixels of each label value in all of the pictures."""
    counts = [picture.counts for picture in pictures if picture.counts is not None]
    return np.sum(counts, axis=0, dtype=np.int64) if counts else np.zeros(256, np.int64)
