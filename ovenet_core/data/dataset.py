"""Benchmarks: where the images of a dataset lie, what its label values mean, and readers that check both.

A dataset is one `Benchmark`: a table of its classes, label values and files. docs/custom_dataset.md adds one.
"""

import difflib
import hashlib
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from itertools import pairwise
from pathlib import Path
from typing import NamedTuple

import cv2
import numpy as np
from jaxtyping import UInt8, UInt16

from ovenet_core.cross_entropy import IGNORE_INDEX
from ovenet_core.data import io, label_tables
from ovenet_core.data.io import DataError
from ovenet_core.data.label_tables import CAMVID_CLASSES, CITYSCAPES_LABELS


class Encoding(NamedTuple):
    """How the label files of a split are encoded: the number of the encoding, and the file that shows it."""

    index: int
    shown_by: Path


@dataclass(frozen=True)
class Sample:
    """One image of a benchmark and its other files; `label` is None where labels are withheld."""

    name: str
    image: Path
    label: Path | None
    instances: Path | None = None
    condition: str | None = None
    encoding: Encoding | None = None  # where the benchmark has more than one


@dataclass(frozen=True, eq=False)
class SegmentationDataset:
    """A dataset for semantic segmentation.

    Patterns are those of glob, below the root or up to two folders further down, with `{split}` for the folder of the
    split. What their last stars stand for pairs the files; the last one is the name of the image.

    Attributes:
        class_names, colours: a name and an RGB colour in [0, 255] for each class, in the order of train ids.
        train_ids: train id, or `IGNORE`, of each value that a label file may hold; others are an error.
        images, labels, instances: patterns; of several for the labels, the first that has an image's label counts.
        splits: the folders that make up each split.
        lists: the text file that names the images of a split, `{split}` being its name, one on each line with or
            without the ending; where these, and not folders, tell splits apart.
        joined_names: the name of an image is what its stars stand for, joined as in `street3_000001`; for frames that
            are numbered anew in each folder.
        exceptions: patterns of folders whose files lie elsewhere: {folder: {"labels": patterns}}.
        unlabelled: folders whose labels are withheld, or dummies; their samples have no label.
        other_encodings: more tables like `train_ids`, if label files come in several encodings, each of them with the
            next pattern of `labels`. Which one a folder of a split has is told by the values: by the first file whose
            values fit only one; by the name of the files if all values fit several. A file that then does not fit is
            an error that names both files.
        palette: label files are PNGs with a palette, and the label values are the indices of its colours.
        class_weights: weight of each class in the cross-entropy, for presets (`experiments`) to take; None for equal.
        categories, instance_classes: the category of each class; the train ids that have instances.
        conditions, condition_of: the conditions (such as fog, dusk); which of them an image file shows.
        official_counts: the number of images of each split by condition ("" where there are none).
        frames_alike: how many neighbours, by name, are frames of one video; intervals draw them together (`study`).

    Raises:
        DataError: the tables do not fit together.
    """

    name: str
    class_names: tuple[str, ...]
    colours: tuple[tuple[int, int, int], ...]
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
    categories: tuple[str, ...] | None = None
    instance_classes: tuple[int, ...] = ()
    conditions: tuple[str, ...] = ()
    condition_of: Callable[[Path], str] | None = None
    official_counts: Mapping[str, Mapping[str, int]] = field(default_factory=dict)
    frames_alike: int = 1

    def __post_init__(self):
        for name in ("colours", "class_weights", "categories"):
            table = getattr(self, name)
            if table is not None and len(table) != self.num_classes:
                raise DataError(f"{self.name}: {len(table)} {name}, expected {self.num_classes}; give one per class")
        for table in self.encodings:
            if set(table.values()) - {IGNORE_INDEX} != set(range(self.num_classes)):
                raise DataError(
                    f"{self.name}: train_ids reach {io.in_words(table.values())}, expected each of 0 to "
                    f"{self.num_classes - 1}; give every class a label value"
                )
            if not all(0 <= value <= 255 for value in table):
                raise DataError(f"{self.name}: label values {io.in_words(table)}, expected 0 to 255; encode them so")
        if self.other_encodings and len(self.labels) != len(self.encodings):
            raise DataError(
                f"{self.name}: {len(self.labels)} patterns of labels, expected {len(self.encodings)}; give "
                "one for each encoding"
            )
        for pattern in (*self.images, *self.labels, *self.instances):
            if "*" not in pattern.rpartition("/")[2] or "**" in pattern or set("?[") & set(pattern):
                raise DataError(
                    f"{self.name}: pattern {pattern!r}, expected a * in the file name, no **, ?, [; "
                    "let the star stand for the name of the image"
                )

    @property
    def num_classes(self) -> int:
        return len(self.class_names)

    @property
    def encodings(self) -> tuple[Mapping[int, int], ...]:
        return self.train_ids, *self.other_encodings

    @cached_property
    def lookup(self) -> UInt8[np.ndarray, "256"]:
        """The train id of each label value; `IGNORE` also where the value does not exist."""
        return self._lookups[0][0]

    @cached_property
    def _lookups(self) -> list[tuple[np.ndarray, np.ndarray]]:
        """For each encoding the train id of each value, and 1 where the value does not exist."""
        return [
            (io.table(encoding.items(), IGNORE_INDEX), io.table(dict.fromkeys(encoding, 0).items(), 1))
            for encoding in self.encodings
        ]

    def encode(self, train_ids: UInt8[np.ndarray, "height width"]) -> UInt8[np.ndarray, "height width"]:
        """The label values of train ids, as a submission has them: of several, the first in `train_ids`.

        Raises:
            DataError: a train id that does not exist.
        """
        values = {train_id: value for value, train_id in reversed(self.train_ids.items())}
        if unknown := io.values(train_ids) - values.keys():
            raise DataError(
                f"{self.name}: train ids {io.in_words(unknown)}, expected {io.in_words(values)}; "
                "predict with a network of as many classes"
            )
        return cv2.LUT(train_ids, io.table(values.items(), 0))

    def samples(self, root: str | Path, split: str) -> list[Sample]:
        """The images of a split, sorted by name.

        Raises:
            DataError: no such split, no images, an image without a label or a label without an image, two files of
                one name, data in two places below the root, an unknown condition.
        """
        if split not in self.splits:
            raise DataError(f"{self.name}: no split {split!r}, expected one of {', '.join(self.splits)}; choose one")
        listed = self.listed(root, split) if self.lists else None
        found = [sample for folder in self.splits[split] for sample in self._pair(Path(root), folder, listed)]
        if listed is not None and (missing := sorted(listed - {sample.name for sample in found})):
            file = Path(root) / self.lists.format(split=split)
            raise DataError(
                f"{file}: {missing[0]} is listed, but there is no such image; restore it, or take it off the list"
            )
        found.sort(key=lambda sample: sample.name)
        for one, other in pairwise(found):
            if one.name == other.name:  # by which predictions are kept
                raise DataError(
                    f"{other.image}: {one.image} is of the same name, expected one for each image "
                    f"of {split}; rename one of them, with its label, or see joined_names"
                )
        return found

    def listed(self, root: str | Path, split: str) -> set[str]:
        """The names of the images in the list of a split, without their endings; `DataError` if there is no list."""
        text = io.load(Path(root) / self.lists.format(split=split)).decode(errors="replace")
        return {
            re.sub(r"\.(png|jpe?g)$", "", line.strip(), flags=re.IGNORECASE)
            for line in text.splitlines()
            if line.strip()
        }

    def _pair(self, root: Path, folder: str, listed: set[str] | None) -> list[Sample]:
        """The images of a folder; of a list, if there is one."""
        patterns = {
            kind: [
                pattern.format(split=folder)
                for pattern in self.exceptions.get(folder, {}).get(kind, getattr(self, kind))
            ]
            for kind in ("images", "labels", "instances")
        }
        expected = {kind: f"{' or '.join(patterns[kind])} in {root}" for kind in patterns}
        if folder in self.unlabelled:
            patterns["labels"] = patterns["instances"] = []
        stars = min(pattern.count("*") for several in patterns.values() for pattern in several)
        images = io.find_files(root, patterns["images"], stars)
        labels = io.find_files(root, patterns["labels"], stars, alternatives=True)
        instances = io.find_files(root, patterns["instances"], stars)
        if not images:
            raise DataError(
                f"{root}: no images of {self.name}, expected {expected['images']}; "
                "check the folder, or unpack the dataset into it"
            )
        names = {key: self.image_name(key, image, patterns["images"]) for key, image in images.items()}
        if listed is not None:  # of the other images there need not be a label
            names = {key: name for key, name in names.items() if name in listed}
            images, labels, instances = (
                {key: found[key] for key in names if key in found} for found in (images, labels, instances)
            )
        if patterns["labels"]:
            io.require_partners(images, labels, f"label, expected {expected['labels']}; unpack the labels")
            io.require_partners(labels, images, f"image, expected {expected['images']}; unpack the images")
        if instances:  # which only scores need, so that a dataset without any can be trained on
            io.require_partners(images, instances, f"instances, expected {expected['instances']}; unpack them")
        several = labels and self.other_encodings
        encoding = self._encoding(sorted(labels.values()), patterns["labels"]) if several else None
        return [
            Sample(names[key], image, labels.get(key), instances.get(key), self.condition(image), encoding)
            for key, image in images.items()
        ]

    def image_name(self, key: io.Key, image: Path, patterns: Sequence[str]) -> str:
        """The name of an image: that of its file without what follows the last star of its pattern, or joined."""
        if self.joined_names:
            return "_".join(key)
        endings = (io.suffix(pattern) for pattern in patterns)
        return next(image.name.removesuffix(ending) for ending in endings if image.name.endswith(ending))

    def condition(self, image: Path) -> str | None:
        """The condition that an image file shows; `DataError` if it is none of `conditions`."""
        condition = self.condition_of(image) if self.condition_of else None
        if condition is not None and condition not in self.conditions:
            raise DataError(
                f"{image}: condition {condition!r}, expected one of {', '.join(self.conditions)}; "
                "rename the folder or file as in the original dataset"
            )
        return condition

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
        """The image as RGB in [0, 255], and its label as train ids with `IGNORE`.

        Raises:
            DataError: as `read_image` and `read_label`, or the two differ in size.
        """
        image, label = self.read_image(sample), self.read_label(sample)
        if image.shape[:2] != label.shape:
            raise DataError(
                f"{sample.label}: {label.shape[0]}x{label.shape[1]} pixels, expected "
                f"{image.shape[0]}x{image.shape[1]} as {sample.image}; restore them"
            )
        return image, label

    def read_image(self, sample: Sample) -> UInt8[np.ndarray, "height width 3"]:
        """The image as RGB in [0, 255], also if its file is grey; `DataError` if that is missing or damaged."""
        # Labels carry no orientation, so that which a camera may have noted in the image is not applied.
        image = io.decode(sample.image, cv2.IMREAD_COLOR | cv2.IMREAD_IGNORE_ORIENTATION)
        return cv2.cvtColor(image, cv2.COLOR_BGR2RGB)

    def read_label(self, sample: Sample) -> UInt8[np.ndarray, "height width"]:
        """The label as train ids; `DataError` if the file is missing, damaged or not of this benchmark."""
        raw = self.raw_label(sample)
        index = sample.encoding.index if sample.encoding else 0
        lookup, unknown = self._lookups[index]
        if cv2.countNonZero(cv2.LUT(raw, unknown)):
            known = self.encodings[index]
            example = f" as in {sample.encoding.shown_by}" if sample.encoding else ""
            raise DataError(
                f"{sample.label}: label values {io.in_words(io.values(raw) - known.keys())} do not "
                f"exist in {self.name}, expected {io.in_words(known)}{example}; "
                "give the dataset in its original encoding, and all of a split in the same"
            )
        return cv2.LUT(raw, lookup)

    def raw_label(self, sample: Sample) -> UInt8[np.ndarray, "height width"]:
        """The label values as stored; `DataError` if the file is missing, damaged or no map of label values."""
        if sample.label is None:
            raise DataError(f"{sample.image}: expected a label, but it is withheld; use read_image for it")
        return self._stored(sample.label)

    def _stored(self, path: Path) -> UInt8[np.ndarray, "height width"]:
        return io.decode_ids(path, np.uint8, self.palette)

    def read_instances(self, sample: Sample) -> UInt16[np.ndarray, "height width"]:
        """The instance ids as stored: label value * 1000 + number, or the bare label value for what is not counted.

        Raises:
            DataError: there are none, the file is missing, damaged, of another kind or size than the label, or holds
                ids of label values that do not exist.
        """
        if sample.instances is None:
            raise DataError(f"{sample.image}: expected instances, but there are none; unpack them, or score without")
        ids = io.decode_ids(sample.instances, np.uint16)
        if sample.label is not None and ids.shape != (size := io.size(sample.label)):
            raise DataError(
                f"{sample.instances}: {ids.shape[0]}x{ids.shape[1]} pixels, expected "
                f"{size[0]}x{size[1]} as {sample.label}; restore them"
            )
        values = io.values(ids)
        if unknown := {i for i in values if (i // 1000 if i >= 1000 else i) not in self.train_ids}:
            raise DataError(
                f"{sample.instances}: instance ids {io.in_words(unknown)} do not exist in {self.name}, "
                f"expected {io.in_words(self.train_ids)}, or 1000 times these and a number; restore it"
            )
        return ids


def fingerprint(samples: Iterable[Sample]) -> str:
    """SHA-256, in hexadecimal, over names, sizes and contents of the samples' files, in the order given.

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


# Cityscapes (Cordts et al., CVPR 2016). Its test labels are dummies.
_EVALUATED = tuple(label for label in CITYSCAPES_LABELS if label.train_id != IGNORE_INDEX)
CITYSCAPES = SegmentationDataset(
    name="cityscapes",
    class_names=tuple(label.name for label in _EVALUATED),
    colours=tuple(label.colour for label in _EVALUATED),
    train_ids={label.id: label.train_id for label in CITYSCAPES_LABELS},
    images=("leftImg8bit/{split}/*/*_leftImg8bit.png",),
    labels=("gtFine/{split}/*/*_gtFine_labelIds.png",),
    instances=("gtFine/{split}/*/*_gtFine_instanceIds.png",),
    exceptions={
        "train_extra": {
            "labels": ("gtCoarse/{split}/*/*_gtCoarse_labelIds.png",),
            "instances": ("gtCoarse/{split}/*/*_gtCoarse_instanceIds.png",),
        }
    },
    splits={
        "train": ("train",),
        "val": ("val",),
        "trainval": ("train", "val"),
        "test": ("test",),
        "train_extra": ("train_extra",),
    },
    unlabelled=("test",),
    class_weights=label_tables.CITYSCAPES_WEIGHTS,
    categories=tuple(label.category for label in _EVALUATED),
    instance_classes=tuple(label.train_id for label in _EVALUATED if label.has_instances),
    # Of the 20,000 coarsely labelled images that the paper speaks of, the archives hold 19,998.
    official_counts={"train": {"": 2975}, "val": {"": 500}, "test": {"": 1525}, "train_extra": {"": 19998}},
)


def _acdc_condition(image: Path) -> str:
    return image.parents[2].name  # rgb_anon/fog/train/SEQUENCE/…


# ACDC (Sakaridis et al., ICCV 2021): the classes of Cityscapes. Its test labels are withheld.
ACDC_CONDITIONS = ("fog", "night", "rain", "snow")
ACDC = replace(
    CITYSCAPES,
    name="acdc",
    images=("rgb_anon/*/{split}/*/*_rgb_anon.png",),
    labels=("gt/*/{split}/*/*_gt_labelTrainIds.png", "gt/*/{split}/*/*_gt_labelIds.png"),
    train_ids={**{index: index for index in range(CITYSCAPES.num_classes)}, IGNORE_INDEX: IGNORE_INDEX},
    other_encodings=(CITYSCAPES.train_ids,),
    instances=(),
    exceptions={},
    splits={"train": ("train",), "val": ("val",), "trainval": ("train", "val"), "test": ("test",)},
    conditions=ACDC_CONDITIONS,
    condition_of=_acdc_condition,
    official_counts={
        "train": dict.fromkeys(ACDC_CONDITIONS, 400),
        "val": {"fog": 100, "night": 106, "rain": 100, "snow": 100},
        "test": dict.fromkeys(ACDC_CONDITIONS, 500),
    },
)

# ADE20K SceneParsing (Zhou et al., CVPR 2017). Label value 0 is "other"; the test images are an archive of their own.
ADE20K = SegmentationDataset(
    name="ade20k",
    class_names=label_tables.ADE20K_NAMES,
    colours=label_tables.ADE20K_COLOURS,
    train_ids={0: IGNORE_INDEX, **{index + 1: index for index in range(150)}},
    images=("images/{split}/*.jpg",),
    labels=("annotations/{split}/*.png",),
    exceptions={"testing": {"images": ("release_test/{split}/*.jpg", "images/{split}/*.jpg")}},
    splits={
        "train": ("training",),
        "val": ("validation",),
        "trainval": ("training", "validation"),
        "test": ("testing",),
    },
    unlabelled=("testing",),
    official_counts={"train": {"": 20210}, "val": {"": 2000}, "test": {"": 3352}},
)


def _camvid_condition(image: Path) -> str:
    return "dusk" if image.name.partition("_")[0] == "0001TP" else "day"


# CamVid (Brostow et al., 2009) in the layout, classes and colours of the SegNet distribution.
CAMVID = SegmentationDataset(
    name="camvid",
    class_names=tuple(CAMVID_CLASSES),
    colours=tuple(CAMVID_CLASSES.values()),
    train_ids={**{index: index for index in range(len(CAMVID_CLASSES))}, len(CAMVID_CLASSES): IGNORE_INDEX},
    images=("{split}/*.png", "{split}/*.jpg"),
    labels=("{split}annot/*.png",),
    splits={"train": ("train",), "val": ("val",), "trainval": ("train", "val"), "test": ("test",)},
    conditions=("day", "dusk"),
    condition_of=_camvid_condition,
    official_counts={
        "train": {"day": 305, "dusk": 62},
        "val": {"day": 101, "dusk": 0},
        "test": {"day": 171, "dusk": 62},
    },
    frames_alike=20,
)

DATASETS: dict[str, SegmentationDataset] = {data.name: data for data in (CITYSCAPES, ACDC, ADE20K, CAMVID)}


def get_dataset(name: str) -> SegmentationDataset:
    """The benchmark of that name; an unknown name is a `DataError` that suggests the nearest."""
    if name not in DATASETS:
        nearest = difflib.get_close_matches(name.lower(), DATASETS, n=1, cutoff=0)[0]
        raise DataError(f"benchmark {name!r}: expected one of {', '.join(sorted(DATASETS))}; did you mean {nearest!r}?")
    return DATASETS[name]
