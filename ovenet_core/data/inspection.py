"""Files looked at as they are stored: the faults that an image shows alone, and those that label values show."""

import hashlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Literal, NamedTuple

import cv2
import numpy as np
from jaxtyping import Int64, UInt8

from ovenet_core.cross_entropy import IGNORE_INDEX
from ovenet_core.data import io
from ovenet_core.data.dataset import Sample, SegmentationDataset
from ovenet_core.data.io import DataError

# (height, width) of all images, where a benchmark has one size and nothing but colour images of 8 bit.
CAMERA_SIZES = MappingProxyType({"cityscapes": (1024, 2048), "acdc": (1080, 1920), "camvid": (360, 480)})

_DIFFERING = 0.01  # share of the pixels in which a label and its instances may have other classes
_MANY = 1000  # images of which it is sure what their labels must have

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
class InspectedImage:
    """What was found out about one image; None where a file could not be read.

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
        return io.decode(path, cv2.IMREAD_UNCHANGED, palette)
    except DataError as error:
        kind = "dangling link" if path.is_symlink() and not path.exists() else "damaged file"
        findings.append(of_error("empty file" if path.exists() and not path.stat().st_size else kind, error))
        return None


def inspect(data: SegmentationDataset, split: str, sample: Sample) -> InspectedImage:
    """Reads the files of one image."""
    image = InspectedImage(split, sample, findings := [])
    pixels = _decode(sample.image, findings)
    label = None if sample.label is None else _decode(sample.label, findings, data.palette)
    camera = data.name in CAMERA_SIZES

    def found(severity: Severity, kind: str, file: Path, what: str, expected: str, remedy: str) -> None:
        findings.append(Finding(severity, kind, file, what, expected, remedy))

    if pixels is not None:
        image.digest, image.size = hashlib.sha256(io.load(sample.image)).digest(), pixels.shape[:2]
        channels = 1 if pixels.ndim == 2 else pixels.shape[2]
        if channels == 1 and label is not None and label.ndim == 3:
            found(
                "error",
                "pixels and label swapped",
                sample.image,
                f"grey, and {sample.label.name} in colour",
                "the pixels in colour, and label values in one channel",
                "exchange the two files",
            )
            return image
        if pixels.dtype != np.uint8:
            found("error", "16 bit pixels", sample.image, f"{pixels.dtype}", "8 bits to a channel", "restore the file")
        if channels != 3:
            found(
                "error" if camera else "note",
                f"pixels of {channels} channels",
                sample.image,
                "grey" if channels == 1 else f"{channels} channels",
                "red, green and blue",
                "restore the file" if camera else "it is read as red, green and blue",
            )
    if label is None:
        return image
    if label.ndim == 3:
        found(
            "error",
            "colour label",
            sample.label,
            f"{label.shape[2]} channels",
            "one channel of label values",
            "give the file of label values, not its image in colours",
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
        image.counts = np.bincount(label.ravel(), minlength=256)
        if np.count_nonzero(image.counts) > 1:
            image.label_digest = hashlib.blake2b(label.tobytes()).digest()
    if pixels is not None and label.shape[:2] != pixels.shape[:2]:
        rotated = label.shape[:2] == pixels.shape[1::-1]
        found(
            "error",
            "label rotated" if rotated else "sizes differ",
            sample.label,
            f"{by(label.shape)} pixels",
            f"{by(pixels.shape)} as {sample.image.name}",
            "restore them",
        )
    if sample.instances is not None and image.counts is not None:
        _inspect_instances(data, image, label, findings)
    return image


def _inspect_instances(
    data: SegmentationDataset, image: InspectedImage, label: np.ndarray, findings: list[Finding]
) -> None:
    sample = image.sample
    try:
        ids = data.read_instances(sample)
    except DataError as error:
        findings.append(of_error("damaged instances", error))
        return
    if ids.shape != label.shape:
        return
    values = np.where(ids >= 1000, ids // 1000, ids).astype(np.uint8)
    differing = np.mean(values != label), np.mean(data.lookup[values] != label)
    image.as_instances = differing[0] <= _DIFFERING
    # A label in train ids belongs to its image: `check_labels` tells what is wrong with it.
    if (share := min(differing)) > _DIFFERING:
        findings.append(
            Finding(
                "error",
                "label and instances differ",
                sample.label,
                f"{100 * share:.0f}% of the pixels have another class in {sample.instances.name}",
                "the same",
                "restore the one of the two that belongs to another image",
            )
        )


def by(shape: tuple[int, ...]) -> str:
    """A size as a person writes it: "1024x2048", height first."""
    return f"{shape[0]}x{shape[1]}"


def check_labels(
    data: SegmentationDataset, root: Path, images: Sequence[InspectedImage], findings: list[Finding]
) -> int:
    """Compares the label values of a split with those that exist; returns the number of its encoding."""
    images = [image for image in images if image.counts is not None]
    if not images:
        return 0
    present = np.stack([image.counts > 0 for image in images])
    fits = np.stack([~present[:, sorted(set(range(256)) - set(table))].any(axis=1) for table in data.encodings])
    named = [
        image.sample.label.match(f"*{pattern.rpartition('*')[2]}") for image in images[:1] for pattern in data.labels
    ]
    encoding = max(range(len(fits)), key=lambda index: (fits[index].sum(), named[index]))
    ignored = np.array([ignored_share(data, image.counts, encoding) for image in images])
    train_ids = np.arange(256) >= data.num_classes
    train_ids[IGNORE_INDEX] = False
    looks_like_train_ids = ~present[:, train_ids].any(axis=1) & _tells_train_ids(data, present, ignored, encoding)
    looks_like_train_ids &= ~np.array([image.as_instances for image in images])  # which hold label values
    for index, image in enumerate(images):
        unknown = set(np.flatnonzero(present[index]).tolist()) - data.encodings[encoding].keys()
        expected = f"label values {io.in_words(data.encodings[encoding])}"
        if looks_like_train_ids[index]:
            kind, remedy = "train ids as labels", "give the dataset in its original encoding"
            what = f"{io.in_words(np.flatnonzero(present[index]).tolist())} look like train ids, which start at 0"
        elif fits[:, index].any() and unknown:
            kind, remedy = "mixed encodings", "give all labels of a split in the same encoding"
            what = f"label values {io.in_words(unknown)}, of another encoding than its neighbours"
        elif unknown:
            kind, remedy = "unknown label values", "give the dataset in its original encoding"
            what = f"label values {io.in_words(unknown)} do not exist"
        elif ignored[index] == 1:
            findings.append(
                Finding(
                    "warning",
                    "label without a class",
                    image.sample.label,
                    "every pixel is ignored",
                    "some class",
                    "leave the image out, unless that is meant",
                )
            )
            continue
        else:
            continue
        findings.append(Finding("error", kind, image.sample.label, what, expected, remedy))
    if (ignored == 1).all():
        findings.append(
            Finding(
                "error",
                "dummy labels",
                root,
                f"all {len(ignored)} labels of {images[0].split} have no class",
                "labels with classes",
                "restore them, or leave this split out of training "
                "and scores; the labels of test splits are often such dummies",
            )
        )
    total = sum_counts(images)
    if data.name == "ade20k" and len(images) >= 20 and total[0] > total[1] and not total[150]:
        severity = "error" if len(images) >= _MANY else "warning"
        findings.append(
            Finding(
                severity,
                "labels shifted by one?",
                root,
                f"value 0 has more pixels than 1 (wall) in {images[0].split}, and no pixel has 150",
                "0 for others, 1 to 150 for classes",
                "look at the images: if the classes are shifted, restore the labels",
            )
        )
    return encoding


def _tells_train_ids(data: SegmentationDataset, present: np.ndarray, ignored: np.ndarray, encoding: int) -> np.ndarray:
    """Of labels with no values but those that train ids have: whether they are train ids, and not label values.

    It is certain where a value does not exist among the label values, as 255 in Cityscapes and ADE20K. Else it is in
    Cityscapes and ACDC, where train ids leave out the values of sky, vegetation and cars, if either a third of a
    image is ignored, as the road would be, or no label of the split has any of these values; a label in which
    everything is ignored tells nothing.
    """
    table = data.encodings[encoding]
    values = {value for value, train_id in table.items() if train_id != IGNORE_INDEX}
    certain = present[:, sorted(set(range(256)) - set(table))].any(axis=1)
    if data.name not in ("cityscapes", "acdc"):  # of others it is not known which classes an image must have
        return certain
    beyond = sorted(value for value in values if value >= data.num_classes)
    if len(beyond) < len(values) / 4:
        return certain
    return certain | (ignored < 1) & ((ignored > 1 / 3) | ~present[:, beyond].any())


def lookup(data: SegmentationDataset, encoding: int) -> UInt8[np.ndarray, "256"]:
    """The train id of each label value in one of the encodings."""
    return io.table(data.encodings[encoding].items(), IGNORE_INDEX)


def ignored_share(data: SegmentationDataset, counts: Int64[np.ndarray, "256"], encoding: int) -> float:
    """Share of the ignored pixels, in [0, 1]."""
    return float(counts[lookup(data, encoding) == IGNORE_INDEX].sum() / counts.sum())


def sum_counts(images: Iterable[InspectedImage]) -> Int64[np.ndarray, "256"]:
    """Pixels of each label value in all of the images."""
    counts = [image.counts for image in images if image.counts is not None]
    return np.sum(counts, axis=0, dtype=np.int64) if counts else np.zeros(256, np.int64)
