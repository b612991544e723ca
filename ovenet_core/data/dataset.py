"""Datasets: where images and labels lie, what label values mean, and readers that check both.

A dataset is one `SegmentationDataset`: the facts about its classes and files. docs/custom_dataset.md adds one.
"""

import hashlib
import re
import statistics
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from functools import cached_property
from itertools import pairwise
from pathlib import Path
from typing import NamedTuple

import cv2
import numpy as np
from jaxtyping import Bool, UInt8, UInt16

from ovenet_core.cross_entropy import IGNORE_INDEX
from ovenet_core.data import io
from ovenet_core.utils import ConfigError, DataError

SEVERITIES = ("error", "warning", "note")
Colour = tuple[int, int, int]  # RGB in [0, 255]
ORIGINAL = "give the dataset in its original encoding, and all of a split in the same"  # a fix
SPLITS = {"train": ("train",), "val": ("val",), "trainval": ("train", "val"), "test": ("test",)}


class Finding(NamedTuple):
    """One fault of one file or folder, with the fields of a `DataError`; findings of one `kind` are listed together."""

    kind: str
    where: Path
    found: str
    expected: str
    fix: str
    severity: str = "error"  # one of SEVERITIES

    @classmethod
    def of(cls, kind: str, error: DataError) -> "Finding":
        return cls(kind, Path(error.where), error.found, error.expected, error.fix)


class Encoding(NamedTuple):
    """How the label files of a split are encoded: the number of the encoding, and the file that shows it."""

    index: int
    shown_by: Path


@dataclass(frozen=True)
class Sample:
    """One image of a dataset and its other files; `label` is None where labels are withheld."""

    name: str
    image: Path
    label: Path | None
    instances: Path | None = None
    condition: str | None = None
    encoding: Encoding | None = None  # where the dataset has more than one


@dataclass(frozen=True, eq=False)
class SegmentationDataset:
    """A dataset for semantic segmentation.

    Patterns are those of glob, below the root or up to two folders further down, with `{split}` for the folder of the
    split. What their last stars stand for pairs the files; the last one is the name of the image. `DataError` if the
    tables do not fit together.
    """

    name: str
    class_names: tuple[str, ...]  # in the order of train ids, as everything that is given by class
    colours: tuple[Colour, ...]
    train_ids: Mapping[int, int]  # train id or IGNORE_INDEX of each value in label files; other values are an error
    images: tuple[str, ...]  # patterns
    labels: tuple[str, ...]  # patterns; the first that has an image's label counts
    splits: Mapping[str, tuple[str, ...]]  # the folders that make up each split
    instances: tuple[str, ...] = ()  # patterns
    lists: str = ""  # text file of a split's image names, as splits/{split}.txt, where no folders tell splits apart
    joined_names: bool = False  # images are named by all that the stars stand for, as street3_000001
    exceptions: Mapping[str, Mapping[str, tuple[str, ...]]] = field(default_factory=dict)  # {folder: {kind: patterns}}
    unlabelled: tuple[str, ...] = ()  # folders whose labels are withheld, or dummies; their samples have no label
    # More tables like train_ids, each with the next pattern of labels. The first file of a folder whose values fit only
    # one table tells which it is, or else the name; a file that then does not fit is an error that names both files.
    other_encodings: tuple[Mapping[int, int], ...] = ()
    palette: bool = False  # label values are the indices of the palette of PNGs
    class_weights: tuple[float, ...] | None = None  # in the cross-entropy, for presets to take; None for equal
    pixel_shares: tuple[float, ...] = ()  # of all pixels of the training labels, as counted
    categories: tuple[str, ...] | None = None  # of each class
    instance_classes: tuple[int, ...] = ()  # train ids
    instance_sizes: Mapping[str, float] = field(default_factory=dict)  # pixels of an average instance, for the iIoU
    conditions: tuple[str, ...] = ()  # such as fog, dusk
    condition_of: Callable[[Path], str] | None = None  # which of the conditions an image file shows
    official_counts: Mapping[str, Mapping[str, int]] = field(default_factory=dict)  # {split: {condition or "": images}}
    image_size: tuple[int, int] | None = None  # (height, width), where one camera took all images in colours of 8 bits
    test_size: tuple[int, int] | None = None  # (height, width) that networks are tested at, where not the image_size
    name_prefixes: Mapping[str, tuple[str, ...]] = field(default_factory=dict)  # {split: what names have before "_"}
    duplicates: float = 0.0  # share of a split's images that the official dataset, by oversight, has in another too
    # Tells train ids from label values: no third of an image is ignored, and each split has classes of higher values.
    street_scenes: bool = False
    frequent_class: int | None = None  # tells label values that are shifted: it has more pixels than what is ignored
    block_length: int = 1  # how many neighbours, by name, are frames of one video; intervals draw them together
    server: str = "{name}.png"  # names of the predictions that an evaluation server takes, 8-bit label values
    paper_figures: tuple[int, ...] = ()  # numbers of the paper's figures of it: comparison, more, failures

    def __post_init__(self):
        def refuse(name: str, found: str, expected: str, fix: str) -> None:
            raise DataError(f"{self.name}, {name}", found, expected, fix)

        for name in ("colours", "class_weights", "categories", "pixel_shares"):
            if (table := getattr(self, name)) and len(table) != self.num_classes:
                refuse(name, f"{len(table)} of them", f"{self.num_classes}", "give one for each class")
        for table in self.encodings:
            if set(table.values()) - {IGNORE_INDEX} != set(range(self.num_classes)):
                refuse("train_ids", io.in_words(table.values()), f"0 to {self.num_classes - 1}", "give each a value")
            if not all(0 <= value <= 255 for value in table):
                refuse("train_ids", f"label values {io.in_words(table)}", "0 to 255", "encode the labels so")
        if self.other_encodings and len(self.labels) != len(self.encodings):
            refuse("labels", f"{len(self.labels)} patterns", f"{len(self.encodings)}, one per encoding", "give as many")
        for pattern in (*self.images, *self.labels, *self.instances):
            if "*" not in pattern.rpartition("/")[2] or "**" in pattern or set("?[") & set(pattern):
                refuse("pattern", repr(pattern), "a * in the file name, no **, ?, [", "let the star stand for the name")

    @property
    def num_classes(self) -> int:
        return len(self.class_names)

    @property
    def test_window(self) -> tuple[int, int] | None:
        """(height, width) that networks see in a test: up to scale 1 the whole image, above it windows of that size."""
        return self.test_size or self.image_size

    @property
    def encodings(self) -> tuple[Mapping[int, int], ...]:
        return self.train_ids, *self.other_encodings

    @cached_property
    def lookups(self) -> list[UInt8[np.ndarray, "256"]]:
        """For each encoding the train id of each label value; `IGNORE_INDEX` also where the value does not exist."""
        return [np.array([ids.get(i, IGNORE_INDEX) for i in range(256)], np.uint8) for ids in self.encodings]

    @property
    def lookup(self) -> UInt8[np.ndarray, "256"]:
        """The train id of each label value in the first encoding."""
        return self.lookups[0]

    @cached_property
    def unknown(self) -> list[Bool[np.ndarray, "256"]]:
        """For each encoding whether a value is no label value."""
        return [np.array([value not in ids for value in range(256)]) for ids in self.encodings]

    def encode(self, train_ids: UInt8[np.ndarray, "height width"]) -> UInt8[np.ndarray, "height width"]:
        """Return the label values of train ids: of several, the first in `train_ids`; `DataError` if there is none."""
        values = {train_id: value for value, train_id in reversed(self.train_ids.items())}
        if unknown := io.values(train_ids) - values.keys():
            raise DataError(self.name, f"train ids {io.in_words(unknown)}", io.in_words(values), "predict only these")
        return cv2.LUT(train_ids, np.array([values.get(i, 0) for i in range(256)], np.uint8))

    def server_file(self, sample: Sample) -> str:
        return self.server.format(name=sample.name)

    def samples(self, root: str | Path, split: str) -> list[Sample]:
        """List the images of a split, sorted by name; `DataError` for the first error that `discover` finds."""
        samples, findings = self.discover(root, split)
        if errors := [finding for finding in findings if finding.severity == "error"]:
            first, more = errors[0], sum(error.kind == errors[0].kind for error in errors) - 1
            found = f"{first.found}, and {more} more like it" if more else first.found
            raise DataError(first.where, found, first.expected, first.fix)
        return sorted(samples, key=lambda sample: sample.name)

    def discover(self, root: str | Path, split: str, required: bool = True) -> tuple[list[Sample], list[Finding]]:
        """Find the images of a split with their other files, and all that is wrong about names and places.

        A split that is not `required` may lack images or labels. `DataError` if the dataset has no such split.
        """
        if split not in self.splits:
            raise DataError(self.name, f"no split {split!r}", f"one of {', '.join(self.splits)}", "choose one of these")
        root, listed, samples, findings = Path(root), None, [], []
        if self.lists:
            file = root / self.lists.format(split=split)
            if not required and not file.exists():
                return [], []
            try:
                lines = map(str.strip, io.load(file).decode(errors="replace").splitlines())
            except DataError as error:
                return [], [Finding.of("list of a split", error)]
            listed = {re.sub(r"\.(png|jpe?g)$", "", line, flags=re.IGNORECASE) for line in lines if line}
        for folder in self.splits[split]:
            for item in self._pair(root, split, folder, listed, required):
                (samples if isinstance(item, Sample) else findings).append(item)
        for name in sorted((listed or set()) - {sample.name for sample in samples}):
            findings.append(Finding("listed image", file, name, "names of images", "restore it, or unlist it"))
        for one, other in pairwise(sorted(samples, key=lambda sample: sample.name)):
            if one.name == other.name:  # by which predictions are kept
                found, fix = f"the same name as {one.image}", "rename one of them with its label, or set joined_names"
                findings.append(Finding("images of the same name", other.image, found, f"one in {split}", fix))
        return samples, findings

    def _pair(self, root: Path, split: str, part: str, only: set | None, required: bool) -> Iterator[Sample | Finding]:
        """Find the images of a folder, or `only` those of such names."""
        elsewhere, withheld = self.exceptions.get(part, {}), part in self.unlabelled
        own = {"images": self.images, "labels": self.labels, "instances": self.instances} | elsewhere
        patterns = {kind: [pattern.format(split=part) for pattern in several] for kind, several in own.items()}
        expected = {kind: f"{' or '.join(several)} in {root}" for kind, several in patterns.items()}
        needed = [patterns["images"]] if withheld else patterns.values()
        stars = min(pattern.count("*") for several in needed for pattern in several)
        files, faults = {}, []
        for kind, several in patterns.items():
            files[kind], wrong = io.find_files(root, several, stars, alternatives=kind == "labels")
            faults += [] if withheld and kind != "images" else wrong
        yield from (Finding.of("files of the same name", fault) for fault in faults)
        images, labels, instances = files.values()
        if not images:
            if required and not faults:
                yield Finding("empty split", root, f"no images of {split}", expected["images"], "check or unpack it")
            elif labels:
                found = next(iter(labels.values())), f"{len(labels)} labels of {split} and no image"
                yield Finding("labels without images", *found, "both, if used", "unpack its images", "note")
            return
        end = re.compile("|".join(f"{re.escape(pattern.rpartition('*')[2])}$" for pattern in patterns["images"]))
        names = {key: "_".join(key) if self.joined_names else end.sub("", file.name) for key, file in images.items()}
        if only is not None:  # of the other images there need not be a label
            names = {key: name for key, name in names.items() if name in only}
            files = {kind: {key: f[key] for key in names if key in f} for kind, f in files.items()}
            images, labels, instances = files.values()
        if withheld:
            if first := next(iter(labels.values()), None):
                found, fix = f"{len(labels)} labels of {split}", "leave them: they are dummies, and never read"
                yield Finding("labels of the test split", first, found, "none that count", fix, "note")
            labels, instances = {}, {}
        elif images and not labels and not required:
            first, found = next(iter(images.values())), f"{len(images)} images of {split} and no label"
            yield Finding("images without labels", first, found, "both, if used", "unpack its labels", "note")
            return
        else:
            yield from _check_partners(files, "images", "labels", expected)
            yield from _check_partners(files, "labels", "images", expected)
            if instances:  # which only scores need, so that a dataset without any can be trained on
                yield from _check_partners(files, "images", "instances", expected)
            elif self.instances and labels:
                found, fix = f"none in {split}: no iIoU", "unpack them, unless iIoU is not wanted"
                yield Finding("no instances", root, found, expected["instances"], fix, "warning")
        several = labels and self.other_encodings
        encoding = self._encoding(sorted(labels.values()), patterns["labels"]) if several else None
        for key, image in sorted(images.items(), key=lambda item: item[1]):
            condition = self.condition_of(image) if self.condition_of else None
            if condition is not None and condition not in self.conditions:
                known, fix = f"one of {', '.join(self.conditions)}", "rename it as in the original dataset"
                yield Finding("unknown condition", image, f"condition {condition!r}", known, fix)
                condition = None
            yield Sample(names[key], image, labels.get(key), instances.get(key), condition, encoding)

    def _encoding(self, labels: Sequence[Path], patterns: Sequence[str]) -> Encoding:
        for path in labels:
            with suppress(DataError):  # a damaged file is named when it is read
                values = io.values(io.decode_ids(path, np.uint8, self.palette))
                fits = [index for index, table in enumerate(self.encodings) if values <= table.keys()]
                if len(fits) == 1:
                    return Encoding(fits[0], path)
        named = [index for index, pattern in enumerate(patterns) if labels[0].name.endswith(pattern.rpartition("*")[2])]
        return Encoding(named[0], labels[0])

    def read(self, sample: Sample) -> tuple[UInt8[np.ndarray, "height width 3"], UInt8[np.ndarray, "height width"]]:
        """Read the image and its label as `read_image` and `read_label` do; `DataError` if they differ in size."""
        image, label = self.read_image(sample), self.read_label(sample)
        if image.shape[:2] != label.shape:
            found, expected = f"{io.by(label.shape)} pixels", f"{io.by(image.shape)} as {sample.image}"
            raise DataError(sample.label, found, expected, "restore them")
        return image, label

    def read_image(self, sample: Sample) -> UInt8[np.ndarray, "height width 3"]:
        """Read the image as RGB in [0, 255], also if its file is grey; `DataError` if that is missing or damaged."""
        # Labels carry no orientation, so that which a camera may have noted in the image is not applied.
        image = io.decode(sample.image, cv2.IMREAD_COLOR | cv2.IMREAD_IGNORE_ORIENTATION)
        return cv2.cvtColor(image, cv2.COLOR_BGR2RGB)

    def read_label(self, sample: Sample) -> UInt8[np.ndarray, "height width"]:
        """Read the label as train ids; `DataError` if the file is missing, damaged or not of this dataset."""
        raw = self.raw_label(sample)
        index = sample.encoding.index if sample.encoding else 0
        if cv2.countNonZero(cv2.LUT(raw, self.unknown[index].view(np.uint8))):
            known, example = self.encodings[index], f" as in {sample.encoding.shown_by}" if sample.encoding else ""
            found = f"label values {io.in_words(io.values(raw) - known.keys())}, which {self.name} does not have"
            raise DataError(sample.label, found, f"{io.in_words(known)}{example}", ORIGINAL)
        return cv2.LUT(raw, self.lookups[index])

    def raw_label(self, sample: Sample) -> UInt8[np.ndarray, "height width"]:
        """Read the label values as stored; `DataError` if the file is missing, damaged or no map of label values."""
        if sample.label is None:
            raise DataError(sample.image, "no label, it is withheld", "a label", "use read_image for it")
        return io.decode_ids(sample.label, np.uint8, self.palette)

    def read_instances(self, sample: Sample) -> UInt16[np.ndarray, "height width"]:
        """Read instance ids as stored: label value * 1000 + number, or the bare label value for what is not counted.

        `DataError` if there are none, or the file is missing, damaged, of another size or with unknown label values.
        """
        if sample.instances is None:
            raise DataError(sample.image, "no instances", "a file of instances", "unpack them, or score without")
        ids = io.decode_ids(sample.instances, np.uint16)
        if sample.label is not None and ids.shape != (size := io.size(sample.label)):
            found, expected = f"{io.by(ids.shape)} pixels", f"{io.by(size)} as {sample.label}"
            raise DataError(sample.instances, found, expected, "restore them")
        if unknown := {i for i in io.values(ids) if (i // 1000 if i >= 1000 else i) not in self.train_ids}:
            expected = f"{io.in_words(self.train_ids)}, or 1000 times these and a number"
            raise DataError(sample.instances, f"instance ids {io.in_words(unknown)}", expected, "restore it")
        return ids


def _check_partners(files: Mapping, ours: str, theirs: str, expected: Mapping[str, str]) -> Iterator[Finding]:
    """Find the files of a kind that lack what belongs to them."""
    kind, other = ours.removesuffix("s"), "instances" if theirs == "instances" else theirs.removesuffix("s")
    same_name = {key[-1]: path for key, path in files[theirs].items()}
    for key in sorted(files[ours].keys() - files[theirs].keys()):
        fix = f"restore or rename the {other}, or remove this file"
        if near := same_name.get(key[-1]):
            fix = f"look whether it is {near}, in the wrong folder; else {fix}"
        yield Finding(f"{kind} without {other}", files[ours][key], f"no {other} of it", expected[theirs], fix)


def fingerprint(samples: Iterable[Sample]) -> str:
    """Return the SHA-256, in hexadecimal, of names, sizes and contents of the samples' files, in the order given."""
    digest = hashlib.sha256()
    for sample in samples:
        for kind in ("image", "label", "instances"):
            if path := getattr(sample, kind):
                data = io.load(path)
                digest.update(f"{sample.name}\n{kind}\n{len(data)}\n".encode())
                digest.update(data)
    return digest.hexdigest()


def median_frequency_weights(pixel_shares: Sequence[float]) -> tuple[float, ...]:
    """Return class weights that balance the classes: the median of the classes' shares divided by the share of each.

    After Eigen and Fergus, ICCV 2015, who take the share in the images that have the class; here it is in all.
    """
    if not pixel_shares or min(pixel_shares) <= 0:
        fix = "leave out the ignored pixels, and classes that do not occur"
        raise ConfigError("pixel_shares", tuple(pixel_shares), "one above 0 for each class", fix)
    median = statistics.median(pixel_shares)
    return tuple(median / share for share in pixel_shares)
