"""Datasets: where images and labels lie, what label values mean, and readers that check both.

A dataset is one `SegmentationDataset`: the facts about its classes and files. docs/custom_dataset.md adds one.
"""

import hashlib
import re
import statistics
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from itertools import pairwise
from pathlib import Path
from types import MappingProxyType
from typing import Literal, NamedTuple

import cv2
import numpy as np
from jaxtyping import Bool, UInt8, UInt16

from ovenet_core.cross_entropy import IGNORE_INDEX
from ovenet_core.data import io
from ovenet_core.utils import ConfigError, DataError

SEVERITIES = ("error", "warning", "note")
Severity = Literal[SEVERITIES]
Colour = tuple[int, int, int]  # RGB in [0, 255]
SPLITS = MappingProxyType({"train": ("train",), "val": ("val",), "trainval": ("train", "val"), "test": ("test",)})


class Finding(NamedTuple):
    """One fault of one file or folder, with the fields of a `DataError`; findings of one `kind` are listed together."""

    severity: Severity
    kind: str
    where: Path
    found: str
    expected: str
    fix: str

    @classmethod
    def of(cls, kind: str, error: DataError, severity: Severity = "error") -> "Finding":
        """Return the finding that an error tells."""
        return cls(severity, kind, Path(error.where), error.found, error.expected, error.fix)


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


@dataclass(frozen=True)
class SubmissionFormat:
    """What an evaluation server wants predictions to be called: `folder` + name of the image + `suffix` + ".png".

    It wants one channel of 8 bits with the label values of the dataset, at the size of the image.
    """

    folder: str = ""
    suffix: str = ""

    def file(self, sample: Sample) -> str:
        return f"{self.folder}{sample.name}{self.suffix}.png"


@dataclass(frozen=True, eq=False)
class SegmentationDataset:
    """A dataset for semantic segmentation.

    Patterns are those of glob, below the root or up to two folders further down, with `{split}` for the folder of the
    split. What their last stars stand for pairs the files; the last one is the name of the image.

    Attributes:
        class_names, colours: a name and an RGB colour in [0, 255] for each class, in the order of train ids.
        train_ids: train id, or `IGNORE_INDEX`, of each value that a label file may hold; others are an error.
        images, labels, instances: patterns; of several for the labels, the first that has an image's label counts.
        splits: the folders that make up each split.
        lists: the text file that names the images of a split, `{split}` being its name, one on each line with or
            without the ending; where these, and not folders, tell splits apart.
        joined_names: the name of an image is what its stars stand for, joined as in `street3_000001`; for images that
            are numbered from the start in each folder.
        exceptions: patterns of folders whose files lie elsewhere: {folder: {"labels": patterns}}.
        unlabelled: folders whose labels are withheld, or dummies; their samples have no label.
        other_encodings: more tables like `train_ids`, if label files come in several encodings, each of them with the
            next pattern of `labels`. Which one a folder of a split has is told by the values: by the first file whose
            values fit only one; by the name of the files if all values fit several. A file that then does not fit is
            an error that names both files.
        palette: label files are PNGs with a palette, and the label values are the indices of its colours.
        class_weights: weight of each class in the cross-entropy, for presets to take; None for equal.
        pixel_shares: share of each class in all pixels of the training labels, as counted; () where not counted.
        categories, instance_classes: the category of each class; the train ids that have instances.
        instance_sizes: pixels of an average instance, by class name, by which the instance IoU weighs instances.
        conditions, condition_of: the conditions (such as fog, dusk); which of them an image file shows.
        official_counts: the number of images of each split by condition ("" where there are none).
        image_size: (height, width) of all images, where one camera took them in colours of 8 bits; else None.
        name_prefixes: what names of images begin with in each split, before a "_", where this tells the split.
        duplicates: share of the images of a split that the official dataset has in another split too, by oversight.
        street_scenes: labels show streets: not even a third of an image is ignored, and some image of each split has
            one of the classes whose label values exceed every train id. It tells train ids from label values.
        frequent_class: a train id with more pixels than what is ignored, which tells label values that are shifted.
        block_length: how many neighbours, by name, are frames of one video; intervals draw them together.
        server: how the evaluation server wants the predictions.
        paper_figures: the numbers of the figures that the paper has of it: comparison, more, failures.

    Raises:
        DataError: the tables do not fit together.
    """

    name: str
    class_names: tuple[str, ...]
    colours: tuple[Colour, ...]
    train_ids: Mapping[int, int]
    images: tuple[str, ...]
    labels: tuple[str, ...]
    splits: Mapping[str, tuple[str, ...]]
    instances: tuple[str, ...] = ()
    lists: str = ""
    joined_names: bool = False
    exceptions: Mapping[str, Mapping[str, tuple[str, ...]]] = field(default_factory=dict)
    unlabelled: tuple[str, ...] = ()
    other_encodings: tuple[Mapping[int, int], ...] = ()
    palette: bool = False
    class_weights: tuple[float, ...] | None = None
    pixel_shares: tuple[float, ...] = ()
    categories: tuple[str, ...] | None = None
    instance_classes: tuple[int, ...] = ()
    instance_sizes: Mapping[str, float] = field(default_factory=dict)
    conditions: tuple[str, ...] = ()
    condition_of: Callable[[Path], str] | None = None
    official_counts: Mapping[str, Mapping[str, int]] = field(default_factory=dict)
    image_size: tuple[int, int] | None = None
    name_prefixes: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    duplicates: float = 0.0
    street_scenes: bool = False
    frequent_class: int | None = None
    block_length: int = 1
    server: SubmissionFormat = SubmissionFormat()
    paper_figures: tuple[int, ...] = ()

    def __post_init__(self):
        def refuse(name: str, found: str, expected: str, fix: str) -> None:
            raise DataError(f"{self.name}, {name}", found, expected, fix)

        for name in ("colours", "class_weights", "categories", "pixel_shares"):
            if (table := getattr(self, name)) and len(table) != self.num_classes:
                refuse(name, f"{len(table)} of them", f"{self.num_classes}", "give one for each class")
        for table in self.encodings:
            if set(table.values()) - {IGNORE_INDEX} != set(range(self.num_classes)):
                expected = f"each of 0 to {self.num_classes - 1}"
                refuse("train_ids", io.in_words(table.values()), expected, "give every class a label value")
            if not all(0 <= value <= 255 for value in table):
                refuse("train_ids", f"label values {io.in_words(table)}", "0 to 255", "encode the labels so")
        if self.other_encodings and len(self.labels) != len(self.encodings):
            expected = f"{len(self.encodings)}, one for each encoding"
            refuse("labels", f"{len(self.labels)} patterns", expected, "give the missing ones")
        for pattern in (*self.images, *self.labels, *self.instances):
            if "*" not in pattern.rpartition("/")[2] or "**" in pattern or set("?[") & set(pattern):
                expected, fix = "a * in the file name, no **, ?, [", "let the star stand for the name of the image"
                refuse("pattern", repr(pattern), expected, fix)

    @property
    def num_classes(self) -> int:
        return len(self.class_names)

    @property
    def encodings(self) -> tuple[Mapping[int, int], ...]:
        return self.train_ids, *self.other_encodings

    @cached_property
    def lookups(self) -> list[UInt8[np.ndarray, "256"]]:
        """For each encoding the train id of each label value; `IGNORE_INDEX` also where the value does not exist."""
        return [io.table(encoding.items(), IGNORE_INDEX) for encoding in self.encodings]

    @property
    def lookup(self) -> UInt8[np.ndarray, "256"]:
        """The train id of each label value in the first encoding."""
        return self.lookups[0]

    @cached_property
    def unknown(self) -> list[Bool[np.ndarray, "256"]]:
        """For each encoding whether a value is no label value."""
        return [io.table(dict.fromkeys(encoding, 0).items(), 1).astype(bool) for encoding in self.encodings]

    def encode(self, train_ids: UInt8[np.ndarray, "height width"]) -> UInt8[np.ndarray, "height width"]:
        """Return the label values of train ids, as a submission has them: of several, the first in `train_ids`.

        Raises:
            DataError: a train id that does not exist.
        """
        values = {train_id: value for value, train_id in reversed(self.train_ids.items())}
        if unknown := io.values(train_ids) - values.keys():
            fix = "predict with a network of as many classes"
            raise DataError(self.name, f"train ids {io.in_words(unknown)}", io.in_words(values), fix)
        return cv2.LUT(train_ids, io.table(values.items(), 0))

    def samples(self, root: str | Path, split: str) -> list[Sample]:
        """List the images of a split, sorted by name.

        Raises:
            DataError: no such split, or the first error that `discover` finds: no images, an image without a label or
                a label without an image, two files of one name, data in two places, an unknown condition.
        """
        items = list(self.discover(root, split))
        if errors := [item for item in items if isinstance(item, Finding) and item.severity == "error"]:
            first, more = errors[0], sum(error.kind == errors[0].kind for error in errors) - 1
            found = f"{first.found}, and {more} more like it" if more else first.found
            raise DataError(first.where, found, first.expected, first.fix)
        return sorted((item for item in items if isinstance(item, Sample)), key=lambda sample: sample.name)

    def discover(self, root: str | Path, split: str, required: bool = True) -> Iterator[Sample | Finding]:
        """Find the images of a split with the files that belong to them, and all that is wrong about names and places.

        Args:
            required: the split has to be there; else one without images or labels is no error.

        Raises:
            DataError: no such split.
        """
        if split not in self.splits:
            raise DataError(self.name, f"no split {split!r}", f"one of {', '.join(self.splits)}", "choose one of these")
        root, listed, samples = Path(root), None, []
        if self.lists:
            file = root / self.lists.format(split=split)
            if not required and not file.exists():
                return
            try:
                lines = map(str.strip, io.load(file).decode(errors="replace").splitlines())
            except DataError as error:
                yield Finding.of("list of a split", error)
                return
            listed = {re.sub(r"\.(png|jpe?g)$", "", line, flags=re.IGNORECASE) for line in lines if line}
        for folder in self.splits[split]:
            items = list(self._pair(root, split, folder, listed, required))
            samples += [item for item in items if isinstance(item, Sample)]
            yield from items
        for name in sorted((listed or set()) - {sample.name for sample in samples}):
            fix = "restore the image, or take it off the list"
            yield Finding("error", "listed image", file, f"{name}", "names of images that are there", fix)
        samples.sort(key=lambda sample: sample.name)
        for one, other in pairwise(samples):
            if one.name == other.name:  # by which predictions are kept
                found, fix = f"the same name as {one.image}", "rename one of them with its label, or set joined_names"
                yield Finding("error", "images of the same name", other.image, found, f"one in {split}", fix)

    def _pair(
        self, root: Path, split: str, folder: str, listed: set[str] | None, required: bool
    ) -> Iterator[Sample | Finding]:
        """Find the images of a folder; of a list, if there is one."""
        elsewhere, withheld = self.exceptions.get(folder, {}), folder in self.unlabelled
        patterns = {
            kind: [pattern.format(split=folder) for pattern in elsewhere.get(kind, getattr(self, kind))]
            for kind in ("images", "labels", "instances")
        }
        expected = {kind: f"{' or '.join(several)} in {root}" for kind, several in patterns.items()}
        needed = [patterns["images"]] if withheld else patterns.values()
        stars = min(pattern.count("*") for several in needed for pattern in several)
        files, faults = {}, []
        for kind, several in patterns.items():
            faults_of = [] if withheld and kind != "images" else faults
            files[kind] = io.find_files(root, several, stars, faults_of, alternatives=kind == "labels")
        yield from (Finding.of("files of the same name", fault) for fault in faults)
        images, labels, instances = files.values()
        if not images:
            if required and not faults:
                fix = "check the folder, or unpack the dataset into it"
                yield Finding("error", "empty split", root, f"no images of {split}", expected["images"], fix)
            elif labels:
                first, fix = next(iter(labels.values())), "unpack its images to have it examined"
                found = f"{len(labels)} labels of {split} and no image"
                yield Finding("note", "labels without images", first, found, "both, if it is to be used", fix)
            return
        names = {key: self.image_name(key, image, patterns["images"]) for key, image in images.items()}
        if listed is not None:  # of the other images there need not be a label
            names = {key: name for key, name in names.items() if name in listed}
            images, labels, instances = ({key: f[key] for key in names if key in f} for f in files.values())
        if withheld:
            if labels:
                first, found = next(iter(labels.values())), f"{len(labels)} labels of {split}"
                fix = "leave them: they are dummies or withheld, and never read"
                yield Finding("note", "labels of the test split", first, found, "none that count", fix)
            labels, instances = {}, {}
        elif images and not labels and not required:
            first, found = next(iter(images.values())), f"{len(images)} images of {split} and no label"
            fix = "unpack its labels to have it examined"
            yield Finding("note", "images without labels", first, found, "both, if it is to be used", fix)
            return
        else:
            yield from _check_partners("image", images, "label", labels, expected["labels"])
            yield from _check_partners("label", labels, "image", images, expected["images"])
            if instances:  # which only scores need, so that a dataset without any can be trained on
                yield from _check_partners("image", images, "instances", instances, expected["instances"])
            elif self.instances and labels:
                found, fix = f"none in {split}: no iIoU", "unpack them, unless iIoU is not wanted"
                yield Finding("warning", "no instances", root, found, expected["instances"], fix)
        several = labels and self.other_encodings
        encoding = self._encoding(sorted(labels.values()), patterns["labels"]) if several else None
        for key, image in sorted(images.items(), key=lambda item: item[1]):
            condition = self.condition_of(image) if self.condition_of else None
            if condition is not None and condition not in self.conditions:
                known, fix = f"one of {', '.join(self.conditions)}", "rename it as in the original dataset"
                yield Finding("error", "unknown condition", image, f"condition {condition!r}", known, fix)
                condition = None
            yield Sample(names[key], image, labels.get(key), instances.get(key), condition, encoding)

    def image_name(self, key: io.Key, image: Path, patterns: Sequence[str]) -> str:
        """Return the name of an image: its file's without what follows the last star of its pattern, or joined."""
        if self.joined_names:
            return "_".join(key)
        endings = (io.suffix(pattern) for pattern in patterns)
        return next(image.name.removesuffix(ending) for ending in endings if image.name.endswith(ending))

    def _encoding(self, labels: Sequence[Path], patterns: Sequence[str]) -> Encoding:
        for path in labels:
            try:
                values = io.values(self._stored(path))
            except DataError:  # a damaged file is named when it is read
                continue
            fits = [index for index, table in enumerate(self.encodings) if values <= table.keys()]
            if len(fits) == 1:
                return Encoding(fits[0], path)
        named = [index for index, pattern in enumerate(patterns) if labels[0].name.endswith(io.suffix(pattern))]
        return Encoding(named[0], labels[0])

    def read(self, sample: Sample) -> tuple[UInt8[np.ndarray, "height width 3"], UInt8[np.ndarray, "height width"]]:
        """Read the image as RGB in [0, 255], and its label as train ids with `IGNORE_INDEX`.

        Raises:
            DataError: as `read_image` and `read_label`, or the two differ in size.
        """
        image, label = self.read_image(sample), self.read_label(sample)
        if image.shape[:2] != label.shape:
            expected = f"{io.by(image.shape)} as {sample.image}"
            raise DataError(sample.label, f"{io.by(label.shape)} pixels", expected, "restore them")
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
            known = self.encodings[index]
            example = f" as in {sample.encoding.shown_by}" if sample.encoding else ""
            found = f"label values {io.in_words(io.values(raw) - known.keys())}, which {self.name} does not have"
            fix = "give the dataset in its original encoding, and all of a split in the same"
            raise DataError(sample.label, found, f"{io.in_words(known)}{example}", fix)
        return cv2.LUT(raw, self.lookups[index])

    def raw_label(self, sample: Sample) -> UInt8[np.ndarray, "height width"]:
        """Read the label values as stored; `DataError` if the file is missing, damaged or no map of label values."""
        if sample.label is None:
            raise DataError(sample.image, "no label, it is withheld", "a label", "use read_image for it")
        return self._stored(sample.label)

    def _stored(self, path: Path) -> UInt8[np.ndarray, "height width"]:
        return io.decode_ids(path, np.uint8, self.palette)

    def read_instances(self, sample: Sample) -> UInt16[np.ndarray, "height width"]:
        """Read instance ids as stored: label value * 1000 + number, or the bare label value for what is not counted.

        Raises:
            DataError: there are none, the file is missing, damaged, of another kind or size than the label, or holds
                ids of label values that do not exist.
        """
        if sample.instances is None:
            raise DataError(sample.image, "no instances", "a file of instances", "unpack them, or score without")
        ids = io.decode_ids(sample.instances, np.uint16)
        if sample.label is not None and ids.shape != (size := io.size(sample.label)):
            expected = f"{io.by(size)} as {sample.label}"
            raise DataError(sample.instances, f"{io.by(ids.shape)} pixels", expected, "restore them")
        if unknown := {i for i in io.values(ids) if (i // 1000 if i >= 1000 else i) not in self.train_ids}:
            found = f"instance ids {io.in_words(unknown)}, which {self.name} does not have"
            expected = f"{io.in_words(self.train_ids)}, or 1000 times these and a number"
            raise DataError(sample.instances, found, expected, "restore it")
        return ids


def _check_partners(
    kind: str, ours: Mapping[io.Key, Path], other: str, theirs: Mapping[io.Key, Path], expected: str
) -> Iterator[Finding]:
    """Find the files of a kind that lack what belongs to them."""
    same_name = {key[-1]: path for key, path in theirs.items()}
    for key in sorted(ours.keys() - theirs.keys()):
        fix = f"restore or rename the {other}, or remove this file"
        if near := same_name.get(key[-1]):
            fix = f"look whether it is {near}, in the wrong folder; else {fix}"
        yield Finding("error", f"{kind} without {other}", ours[key], f"no {other} of it", expected, fix)


def fingerprint(samples: Iterable[Sample]) -> str:
    """Return the SHA-256, in hexadecimal, of names, sizes and contents of the samples' files, in the order given.

    It does not depend on where the files lie or on their dates. Everything is read: one pass over the disk.
    """
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
