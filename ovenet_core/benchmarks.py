"""Benchmarks: where the pictures of a data set lie, what its label values mean, and readers that check both.

A data set is one `Benchmark`: tables of its classes, label values and files. One's own is added like this:

    ALLEYS = Benchmark(
        name="alleys",
        class_names=("road", "house"),
        colours=((128, 64, 128), (70, 70, 70)),
        train_ids={1: 0, 2: 1, 0: IGNORE},     # value in the label file -> index of the class
        images=("images/{split}/*.jpg",),      # the star is the name that pairs image and label
        labels=("annotations/{split}/*.png",),
        splits={"train": ("training",), "val": ("validation",)},
    )
    BENCHMARKS[ALLEYS.name] = ALLEYS
"""

import difflib
import hashlib
import statistics
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import NamedTuple

import cv2
import numpy as np
from jaxtyping import UInt8

IGNORE = 255  # train id of the pixels that neither the losses nor the scores count


class DataError(ValueError):
    """Something is wrong with the data; the message names the file, what was expected, and what to do."""


@dataclass(frozen=True)
class Sample:
    """One picture of a benchmark and its other files; `label` is None where labels are withheld."""

    name: str
    image: Path
    label: Path | None
    instances: Path | None = None
    condition: str | None = None


@dataclass(frozen=True, eq=False)
class Benchmark:
    """A data set for semantic segmentation.

    Attributes:
        class_names, colours: a name and an RGB colour in [0, 255] for each class, in the order of train ids.
        train_ids: train id, or `IGNORE`, of each value that a label file may hold; others are an error.
        images, labels, instances: glob patterns below the root, with `{split}` for the folder of the split
            and a last `*` for the name of the picture.
        splits: the folders that make up each split.
        unlabelled: folders whose labels are withheld, or dummies; their samples have no label.
        class_weights: weight of each class in the cross-entropy, or None for equal weights.
        categories, instance_classes: the category of each class; the train ids that have instances.
        conditions, condition_of: the conditions (such as fog, dusk); which of them an image file shows.

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
    unlabelled: tuple[str, ...] = ()
    class_weights: tuple[float, ...] | None = None
    categories: tuple[str, ...] | None = None
    instance_classes: tuple[int, ...] = ()
    conditions: tuple[str, ...] = ()
    condition_of: Callable[[Path], str] | None = None
    ignore_label: int = IGNORE

    def __post_init__(self):
        for field in ("colours", "class_weights", "categories"):
            table = getattr(self, field)
            if table is not None and len(table) != self.num_classes:
                raise DataError(f"{self.name}: {len(table)} {field}, expected {self.num_classes}; "
                                "give one for each class name")
        if set(self.train_ids.values()) - {self.ignore_label} != set(range(self.num_classes)):
            raise DataError(f"{self.name}: train_ids reach {sorted(set(self.train_ids.values()))}, expected "
                            f"each of 0 to {self.num_classes - 1}; give every class a label value")
        if not all(0 <= value <= 255 for value in self.train_ids):
            raise DataError(f"{self.name}: label values {sorted(self.train_ids)}, expected 0 to 255; "
                            "encode the label files so")

    @property
    def num_classes(self) -> int:
        return len(self.class_names)

    @cached_property
    def lookup(self) -> UInt8[np.ndarray, "256"]:
        """The train id of each label value; `ignore_label` also where the value does not exist."""
        table = np.full(256, self.ignore_label, np.uint8)
        table[list(self.train_ids)] = list(self.train_ids.values())
        return table

    @cached_property
    def _unknown(self) -> UInt8[np.ndarray, "256"]:
        table = np.ones(256, np.uint8)
        table[list(self.train_ids)] = 0
        return table

    def samples(self, root: str | Path, split: str) -> list[Sample]:
        """The pictures of a split, sorted by name.

        Raises:
            DataError: no such split, no pictures, an image without a label or a label without an image.
        """
        if split not in self.splits:
            raise DataError(f"{self.name}: no split {split!r}, expected one of {', '.join(self.splits)}; "
                            "choose one of these")
        found = [sample for folder in self.splits[split] for sample in self._pair(Path(root), folder)]
        return sorted(found, key=lambda sample: sample.name)

    def _pair(self, root: Path, folder: str) -> list[Sample]:
        images = self._find(root, folder, self.images)
        if not images:
            expected = " or ".join(pattern.format(split=folder) for pattern in self.images)
            raise DataError(f"{root}: no pictures of {self.name}, expected {expected} in it; "
                            "check the folder, or unpack the data set into it")
        labels, instances = {}, {}
        if folder not in self.unlabelled:
            labels = self._find(root, folder, self.labels)
            instances = self._find(root, folder, self.instances)
            expected = " or ".join(str(root / pattern.format(split=folder)) for pattern in self.labels)
            _require_partners(images, labels, f"label, expected {expected}; unpack the labels")
            _require_partners(labels, images, "image; unpack the images")
        return [Sample(name, image, labels.get(name), instances.get(name),
                       self.condition_of(image) if self.condition_of else None)
                for name, image in images.items()]

    def _find(self, root: Path, folder: str, patterns: Sequence[str]) -> dict[str, Path]:
        found: dict[str, Path] = {}
        for pattern in (pattern.format(split=folder) for pattern in patterns):
            for path in root.glob(pattern):
                name = path.name.removesuffix(pattern.rpartition("*")[2])
                if name.startswith("."):  # what some systems leave beside a copied file is no picture
                    continue
                if name in found:
                    raise DataError(f"{path}: {found[name]} is of the same name, expected one file for each; "
                                    "remove one of them")
                found[name] = path
        return found

    def read(
        self, sample: Sample
    ) -> tuple[UInt8[np.ndarray, "height width 3"], UInt8[np.ndarray, "height width"]]:
        """The picture as RGB in [0, 255], and its label as train ids with `ignore_label`.

        Raises:
            DataError: as `read_image` and `read_label`, or the two differ in size.
        """
        image, label = self.read_image(sample), self.read_label(sample)
        if image.shape[:2] != label.shape:
            raise DataError(f"{sample.label}: {label.shape[0]}x{label.shape[1]} pixels, expected "
                            f"{image.shape[0]}x{image.shape[1]} as {sample.image}; restore them")
        return image, label

    def read_image(self, sample: Sample) -> UInt8[np.ndarray, "height width 3"]:
        """The picture as RGB in [0, 255]; `DataError` if the file is missing or damaged."""
        # Labels carry no orientation, so that which a camera may have noted in the image is not applied.
        image = _decode(sample.image, cv2.IMREAD_COLOR | cv2.IMREAD_IGNORE_ORIENTATION)
        return cv2.cvtColor(image, cv2.COLOR_BGR2RGB)

    def read_label(self, sample: Sample) -> UInt8[np.ndarray, "height width"]:
        """The label as train ids; `DataError` if the file is missing, damaged or not of this benchmark."""
        if sample.label is None:
            raise DataError(f"{sample.image}: expected a label, but it is withheld; use read_image for it")
        raw = _decode(sample.label, cv2.IMREAD_UNCHANGED)
        if raw.ndim != 2 or raw.dtype != np.uint8:
            raise DataError(f"{sample.label}: {raw.dtype} of shape {raw.shape}, expected one channel of "
                            "uint8 with a label value per pixel; give that file, not a coloured one")
        if cv2.countNonZero(cv2.LUT(raw, self._unknown)):
            unknown = sorted(set(np.unique(raw).tolist()) - set(self.train_ids))
            raise DataError(f"{sample.label}: label values {unknown} do not exist in {self.name}, expected "
                            f"{sorted(self.train_ids)}; give the data set in its original encoding")
        return cv2.LUT(raw, self.lookup)


def _require_partners(files: Mapping[str, Path], partners: Mapping[str, Path], what: str):
    if alone := sorted(files.keys() - partners.keys()):
        more = f" (nor have {len(alone) - 1} others)" if len(alone) > 1 else ""
        raise DataError(f"{files[alone[0]]}{more}: no {what}, or remove the file")


def _load(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise DataError(f"{path}: {error.strerror}, expected a readable file; restore it") from error


def _decode(path: Path, flags: int) -> np.ndarray:
    data = _load(path)
    try:
        # Before OpenCV 5, what is missing from a JPEG that was cut is filled up without a word.
        image = cv2.imdecode(np.frombuffer(data, np.uint8), flags) if _is_whole(data) else None
    except cv2.error:
        image = None
    if image is None:
        raise DataError(f"{path}: damaged or cut ({len(data)} bytes), expected a whole PNG or JPEG file; "
                        "fetch or unpack it again")
    return image


def _is_whole(data: bytes) -> bool:
    """Whether the marker that ends a PNG or JPEG file is there; some cameras add a few bytes after it."""
    for start, end in ((b"\x89PNG", b"IEND\xaeB`\x82"), (b"\xff\xd8", b"\xff\xd9")):
        if data.startswith(start):
            return end in data[-1024:]
    return len(data) > 0


def fingerprint(samples: Iterable[Sample]) -> str:
    """SHA-256, in hexadecimal, over names, sizes and contents of the samples' files, in the order given.

    It does not depend on where the files lie or on their dates. Everything is read, so that nothing can
    change unseen: a fraction of a second for CamVid, and one pass over the disk for Cityscapes.
    """
    digest = hashlib.sha256()
    for sample in samples:
        for kind in ("image", "label", "instances"):
            if path := getattr(sample, kind):
                data = _load(path)
                digest.update(f"{sample.name}\n{kind}\n{len(data)}\n".encode())
                digest.update(data)
    return digest.hexdigest()


def median_frequency_weights(pixel_shares: Sequence[float]) -> tuple[float, ...]:
    """Class weights that balance the classes: the median of the classes' shares divided by the share of each.

    After Eigen and Fergus, ICCV 2015, who take the share of a class in the pictures that have it; here it is
    the share in all pictures.
    """
    if not pixel_shares or min(pixel_shares) <= 0:
        raise DataError(f"pixel shares {tuple(pixel_shares)}: expected one above 0 for each class; "
                        "leave out the ignored pixels, and classes that do not occur")
    median = statistics.median(pixel_shares)
    return tuple(median / share for share in pixel_shares)


class Label(NamedTuple):
    """A row of the label table of Cityscapes; `train_id` is `IGNORE` where the class is not evaluated."""

    name: str
    id: int
    train_id: int
    category: str
    has_instances: bool
    colour: tuple[int, int, int]


# The label definition of Cityscapes (Cordts et al., CVPR 2016). Its license plate, id -1, is in no file.
CITYSCAPES_LABELS = tuple(Label(*row) for row in (
    ("unlabeled", 0, IGNORE, "void", False, (0, 0, 0)),
    ("ego vehicle", 1, IGNORE, "void", False, (0, 0, 0)),
    ("rectification border", 2, IGNORE, "void", False, (0, 0, 0)),
    ("out of roi", 3, IGNORE, "void", False, (0, 0, 0)),
    ("static", 4, IGNORE, "void", False, (0, 0, 0)),
    ("dynamic", 5, IGNORE, "void", False, (111, 74, 0)),
    ("ground", 6, IGNORE, "void", False, (81, 0, 81)),
    ("road", 7, 0, "flat", False, (128, 64, 128)),
    ("sidewalk", 8, 1, "flat", False, (244, 35, 232)),
    ("parking", 9, IGNORE, "flat", False, (250, 170, 160)),
    ("rail track", 10, IGNORE, "flat", False, (230, 150, 140)),
    ("building", 11, 2, "construction", False, (70, 70, 70)),
    ("wall", 12, 3, "construction", False, (102, 102, 156)),
    ("fence", 13, 4, "construction", False, (190, 153, 153)),
    ("guard rail", 14, IGNORE, "construction", False, (180, 165, 180)),
    ("bridge", 15, IGNORE, "construction", False, (150, 100, 100)),
    ("tunnel", 16, IGNORE, "construction", False, (150, 120, 90)),
    ("pole", 17, 5, "object", False, (153, 153, 153)),
    ("polegroup", 18, IGNORE, "object", False, (153, 153, 153)),
    ("traffic light", 19, 6, "object", False, (250, 170, 30)),
    ("traffic sign", 20, 7, "object", False, (220, 220, 0)),
    ("vegetation", 21, 8, "nature", False, (107, 142, 35)),
    ("terrain", 22, 9, "nature", False, (152, 251, 152)),
    ("sky", 23, 10, "sky", False, (70, 130, 180)),
    ("person", 24, 11, "human", True, (220, 20, 60)),
    ("rider", 25, 12, "human", True, (255, 0, 0)),
    ("car", 26, 13, "vehicle", True, (0, 0, 142)),
    ("truck", 27, 14, "vehicle", True, (0, 0, 70)),
    ("bus", 28, 15, "vehicle", True, (0, 60, 100)),
    ("caravan", 29, IGNORE, "vehicle", True, (0, 0, 90)),
    ("trailer", 30, IGNORE, "vehicle", True, (0, 0, 110)),
    ("train", 31, 16, "vehicle", True, (0, 80, 100)),
    ("motorcycle", 32, 17, "vehicle", True, (0, 0, 230)),
    ("bicycle", 33, 18, "vehicle", True, (119, 11, 32)),
))
_EVALUATED = tuple(label for label in CITYSCAPES_LABELS if label.train_id != IGNORE)

CITYSCAPES = Benchmark(
    name="cityscapes",
    class_names=tuple(label.name for label in _EVALUATED),
    colours=tuple(label.colour for label in _EVALUATED),
    train_ids={label.id: label.train_id for label in CITYSCAPES_LABELS},
    images=("leftImg8bit/{split}/*/*_leftImg8bit.png",),
    labels=("gtFine/{split}/*/*_gtFine_labelIds.png",),
    instances=("gtFine/{split}/*/*_gtFine_instanceIds.png",),
    splits={"train": ("train",), "val": ("val",), "trainval": ("train", "val"), "test": ("test",)},
    unlabelled=("test",),
    # The weights of HRNet's and the authors' protocol, for Cityscapes and ACDC.
    class_weights=(0.8373, 0.918, 0.866, 1.0345, 1.0166, 0.9969, 0.9754, 1.0489, 0.8786, 1.0023,
                   0.9539, 0.9843, 1.1116, 0.9037, 1.0865, 1.0955, 1.0865, 1.1529, 1.0507),
    categories=tuple(label.category for label in _EVALUATED),
    instance_classes=tuple(label.train_id for label in _EVALUATED if label.has_instances),
)


def _camvid_condition(image: Path) -> str:
    return "dusk" if image.name.partition("_")[0] == "0001TP" else "day"


# Shares of the classes in all pixels of CamVid's train labels, as counted; unlabelled pixels make up .040.
CAMVID_TRAIN_SHARES = (.169, .233, .010, .317, .045, .097, .012, .011, .059, .006, .003)

# CamVid (Brostow et al., 2009) in the layout, classes and colours of the SegNet distribution.
CAMVID = Benchmark(
    name="camvid",
    class_names=("sky", "building", "pole", "road", "pavement", "tree", "sign symbol", "fence", "car",
                 "pedestrian", "bicyclist"),
    colours=((128, 128, 128), (128, 0, 0), (192, 192, 128), (128, 64, 128), (60, 40, 222), (128, 128, 0),
             (192, 128, 128), (64, 64, 128), (64, 0, 128), (64, 64, 0), (0, 128, 192)),
    train_ids={**{index: index for index in range(11)}, 11: IGNORE},
    images=("{split}/*.png", "{split}/*.jpg"),
    labels=("{split}annot/*.png",),
    splits={"train": ("train",), "val": ("val",), "trainval": ("train", "val"), "test": ("test",)},
    conditions=("day", "dusk"),
    condition_of=_camvid_condition,
)

BENCHMARKS: dict[str, Benchmark] = {"cityscapes": CITYSCAPES, "camvid": CAMVID}


def benchmark(name: str) -> Benchmark:
    """The benchmark of that name; an unknown name is a `DataError` that suggests the nearest."""
    if name not in BENCHMARKS:
        nearest = difflib.get_close_matches(name.lower(), BENCHMARKS, n=1, cutoff=0)[0]
        raise DataError(f"benchmark {name!r}: expected one of {', '.join(sorted(BENCHMARKS))}; "
                        f"did you mean {nearest!r}?")
    return BENCHMARKS[name]


def find(name: str, *places: str | Path) -> Path:
    """The folder or file of that name in the first of `places` that has it.

    Raises:
        DataError: none has it.
    """
    for place in places:
        if (Path(place) / name).exists():
            return Path(place) / name
    raise DataError(f"{name} is in none of {', '.join(str(place) for place in places)}; put it there, or give its path")
