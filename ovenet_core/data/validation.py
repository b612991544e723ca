"""Validation: look at every file of a dataset before anything is trained on it, and say what is wrong.

`validate` never stops at the first fault. It lists each with the file, what was expected and the fix:

    error    training or a score would be wrong
    warning  may be meant, such as a part of the images only
    note     good to know

Some mistakes leave files that can be read, and are told by what the values look like; each such rule says so.
"""

import argparse
import hashlib
import os
import time
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from fnmatch import fnmatch
from itertools import combinations
from pathlib import Path

import cv2
import numpy as np
import pandas as pd
from jaxtyping import Bool, Float, Int64
from tqdm.auto import tqdm

from ovenet_core.cross_entropy import IGNORE_INDEX
from ovenet_core.data import io
from ovenet_core.data.dataset import SEVERITIES, Finding, Sample, SegmentationDataset, Severity
from ovenet_core.data.io import by
from ovenet_core.data.registry import DATASETS, SYNTHETIC, open_dataset
from ovenet_core.utils import DataError

_REQUIRED = ("train", "val")  # the splits that have to be there, unless others are asked for
_DIFFERING = 0.01  # share of the pixels in which a label and its instances may have other classes
_MANY = 1000  # images of which it is sure what their labels must have


@dataclass(frozen=True)
class Validation:
    """The findings about a dataset, and its statistics.

    Attributes:
        encodings: the splits that are there, with the number of the label encoding of each.
        table: one row for each split and condition: images, official (how many there should be), size, and share of
            ignored pixels.
        histogram: pixels of each label value (0 to 255) by split.
        frequencies: share of each class in the labelled pixels, one column for each split.
        seconds: that it took, on the clock.
    """

    data: SegmentationDataset
    root: Path
    encodings: Mapping[str, int]
    findings: Sequence[Finding]
    table: pd.DataFrame
    histogram: Mapping[str, Int64[np.ndarray, "256"]]
    frequencies: pd.DataFrame
    seconds: float

    def of(self, severity: Severity) -> list[Finding]:
        """Return the findings of a severity."""
        return [finding for finding in self.findings if finding.severity == severity]

    def __str__(self) -> str:
        counts = ", ".join(f"{len(self.of(s))} {s}{'s' * (len(self.of(s)) != 1)}" for s in SEVERITIES)
        head = f"{self.data.name}, {self.table['images'].sum()} images in {', '.join(self.encodings)}: {counts}"
        return "\n".join([head, *_grouped(self.findings, self.root)])

    def raise_if_wrong(self) -> None:
        """Raise `DataError` with all errors if there are any: training or a score would be wrong."""
        if errors := self.of("error"):
            lines = "\n".join(["", *_grouped(errors, self.root)])
            raise DataError(self.root, f"{len(errors)} errors", "none", f"mend them, then validate again{lines}")


def _grouped(findings: Iterable[Finding], root: Path, shown: int = 3) -> list[str]:
    """Write one entry for all findings of a kind: how many, the first of them in full, and the next few."""
    groups: dict[tuple, list[Finding]] = defaultdict(list)
    for finding in findings:
        groups[SEVERITIES.index(finding.severity), finding.kind].append(finding)

    def below(path: Path) -> Path:
        return path.relative_to(root) if path.is_relative_to(root) else path

    lines = []
    for (severity, kind), group in sorted(groups.items()):
        first, times = group[0], f", {len(group)} times" if len(group) > 1 else ""
        lines.append(f"{SEVERITIES[severity]:8s}{kind}{times}")
        place = "the dataset" if first.where == root else below(first.where)
        lines.append(f"        {place}: found {first.found}, expected {first.expected}. Fix: {first.fix}.")
        if more := [f.found if f.where == root else str(below(f.where)) for f in group[1:shown]]:
            rest = f", and {len(group) - shown} more" if len(group) > shown else ""
            lines.append(f"        also {', '.join(more)}{rest}")
    return lines


def validate(
    data: SegmentationDataset,
    root: str | Path,
    splits: Sequence[str] | None = None,
    *,
    workers: int | None = None,
    progress: bool = True,
) -> Validation:
    """Read every file of the splits, and compare them with each other and with what the dataset should be.

    Args:
        splits: those that have to be there; by default train and val, and any others that are there are validated too.
        workers: threads, by default one for each core; OpenCV decodes without Python's lock.

    Raises:
        DataError: an unknown split. Nothing else stops it.
    """
    start, root, findings = time.monotonic(), Path(root), []
    if unknown := sorted(set(splits or ()) - set(data.splits)):
        raise DataError(data.name, f"no split {unknown[0]!r}", f"some of {', '.join(data.splits)}", "choose some")
    samples: dict[str, list[Sample]] = {}
    for split in _parts(data, splits):
        items = list(data.discover(root, split, required=splits is not None or split in _REQUIRED))
        findings += [item for item in items if isinstance(item, Finding)]
        if mine := [item for item in items if isinstance(item, Sample)]:
            samples[split] = mine
    if not samples and not findings:
        found, expected = "no images of any split", " or ".join(data.images)
        findings.append(Finding("error", "empty split", root, found, expected, "check the folder"))
    every = [sample for mine in samples.values() for sample in mine]
    findings += [*_find_strays(data, every), *_find_dangling_links(root, every)]
    by_split = {split: [InspectedImage(sample) for sample in mine] for split, mine in samples.items()}
    images = [image for mine in by_split.values() for image in mine]
    with ThreadPoolExecutor(workers or os.cpu_count()) as pool:
        faults = pool.map(lambda image: list(_inspect(data, image)), images)
        for faults_of_image in tqdm(faults, "validated", len(images), disable=not progress, unit="image"):
            findings += faults_of_image
    encodings = {}
    for split, mine in by_split.items():
        encodings[split], faults = _check_labels(data, root, split, mine)
        findings += faults
    counts = {split: _sum_counts(mine) for split, mine in by_split.items()}
    table, frequencies = _table(data, by_split, encodings), _frequencies(data, counts, encodings)
    findings += [
        *_check_sizes(data, images),
        *_check_names(data, by_split),
        *_check_duplicates(by_split, data.duplicates),
        *_check_counts(root, table),
        *_check_classes(data, root, frequencies),
    ]
    return Validation(data, root, encodings, findings, table, counts, frequencies, time.monotonic() - start)


def main(argv: Sequence[str] | None = None) -> int:
    """Validate the dataset that the command line names, print the findings, and return 1 if there are errors, else 0.

    Raises:
        SystemExit: an argument is wrong; its text says which.
    """
    parser = argparse.ArgumentParser(
        prog="python -m ovenet_core validate",
        description="Read every file of a dataset, before training, and list what is wrong with it: damaged files, "
        "images without labels, unknown label values, mixed splits and more, each with the file and the fix.",
        epilog="The exit status is 1 if there are errors, which would make training or scores wrong, else 0. "
        "Example: python -m ovenet_core validate cityscapes --data-root /data/cityscapes --splits train val",
    )
    own = "the path of a Python file that defines a dataset (docs/custom_dataset.md)"
    parser.add_argument("dataset", help=f"{', '.join([*DATASETS, *SYNTHETIC])}, or {own}")
    parser.add_argument("--data-root", default="", metavar="FOLDER", help="where the dataset lies (default: data/NAME)")
    splits = "splits that must be there (default: train, val, any others found)"
    parser.add_argument("--splits", nargs="+", metavar="SPLIT", help=splits)
    parser.add_argument("--workers", type=int, metavar="N", help="number of threads (default: one for each core)")
    options = parser.parse_args(argv)
    try:
        data, root = open_dataset(options.dataset, options.data_root, ["data"])
        validation = validate(data, root, options.splits, workers=options.workers)
    except DataError as error:
        parser.error(str(error))
    print(validation)
    return int(bool(validation.of("error")))


def _parts(data: SegmentationDataset, splits: Sequence[str] | None) -> list[str]:
    """Return the splits to look at; one that is made up of others, as trainval is, stands for these."""
    alone = {} if data.lists else {folders[0]: split for split, folders in data.splits.items() if len(folders) == 1}
    parts: dict[str, None] = {}
    for split in splits or data.splits:
        others = [alone.get(folder) for folder in data.splits[split]]
        parts |= dict.fromkeys([split] if len(others) == 1 or None in others else others)
    return list(parts)


# -- Files


def _find_strays(data: SegmentationDataset, samples: Iterable[Sample]) -> Iterator[Finding]:
    """Find images beside those of the dataset whose names fit no pattern."""
    kinds = [data.images, data.labels, data.instances]
    kinds += [patterns for folder in data.exceptions.values() for patterns in folder.values()]
    names = {pattern.replace("{split}", "*").rpartition("/")[2] for patterns in kinds for pattern in patterns}
    for folder in sorted({sample.image.parent for sample in samples}):
        for path in sorted(folder.iterdir()):
            is_image = path.suffix.lower() in (".png", ".jpg", ".jpeg") and path.name[0] != "."
            if is_image and not any(fnmatch(path.name, name) for name in names):
                found, fix = "an image that is not read", "rename it, or remove it"
                yield Finding("warning", "image of an unknown name", path, found, "a name as its neighbours have", fix)


def _find_dangling_links(root: Path, samples: Iterable[Sample]) -> Iterator[Finding]:
    known = {path for sample in samples for path in (sample.image, sample.label, sample.instances)}
    for folder, subfolders, names in os.walk(root):
        for path in (Path(folder, name) for name in sorted(subfolders + names)):
            if path.is_symlink() and not path.exists() and path not in known:
                found = f"a link to {os.readlink(path)}"
                yield Finding("error", "dangling link", path, found, "something there", "mend or remove the link")


# -- One image


@dataclass
class InspectedImage:
    """What was found out about one image; None where a file could not be read.

    `label_digest` is of labels with more than one value; `as_instances` says that a label agrees with its instances.
    """

    sample: Sample
    digest: bytes | None = None
    label_digest: bytes | None = None
    as_instances: bool = False
    size: tuple[int, int] | None = None
    counts: Int64[np.ndarray, "256"] | None = None  # pixels of each label value


def _inspect(data: SegmentationDataset, image: InspectedImage) -> Iterator[Finding]:
    """Read the files of one image, fill in what they show, and yield what is wrong with them."""
    sample, arrays = image.sample, {}
    for path, palette in ((sample.image, False), (sample.label, data.palette)):
        try:
            arrays[path] = path and io.decode(path, cv2.IMREAD_UNCHANGED, palette)
        except DataError as error:
            kind = "empty file" if path.exists() and not path.stat().st_size else "damaged file"
            yield Finding.of("dangling link" if path.is_symlink() and not path.exists() else kind, error)
    pixels, label = arrays.get(sample.image), arrays.get(sample.label)
    if pixels is not None:
        image.digest, image.size = hashlib.sha256(io.load(sample.image)).digest(), pixels.shape[:2]
        channels = 1 if pixels.ndim == 2 else pixels.shape[2]
        if channels == 1 and label is not None and label.ndim == 3:
            found, expected = (
                f"grey, and {sample.label.name} in colour",
                "the image in colour, the label in one channel",
            )
            yield Finding("error", "image and label swapped", sample.image, found, expected, "exchange the two files")
            return
        if pixels.dtype != np.uint8:
            found, expected = f"{pixels.dtype}", "8 bits to a channel"
            yield Finding("error", "16 bit image", sample.image, found, expected, "restore the file")
        if channels != 3:
            fix = "restore the file" if data.image_size else "leave it: it is read as red, green and blue"
            kind, found = f"image of {channels} channels", "grey" if channels == 1 else f"{channels} channels"
            severity = "error" if data.image_size else "note"
            yield Finding(severity, kind, sample.image, found, "red, green and blue", fix)
    if label is None:
        return
    if label.ndim == 3:
        found, fix = f"{label.shape[2]} channels", "give the file of label values, not its image in colours"
        yield Finding("error", "colour label", sample.label, found, "one channel of label values", fix)
    elif label.dtype != np.uint8:
        kind = "16 bit label" if label.dtype == np.uint16 else "label of another depth"
        fix = "give the file of label values, not that of the instances"
        yield Finding("error", kind, sample.label, f"{label.dtype}", "uint8 label values", fix)
    else:
        image.counts = np.bincount(label.ravel(), minlength=256)
        if np.count_nonzero(image.counts) > 1:
            image.label_digest = hashlib.blake2b(label.tobytes()).digest()
    if pixels is not None and label.shape[:2] != pixels.shape[:2]:
        kind = "label rotated" if label.shape[:2] == pixels.shape[1::-1] else "sizes differ"
        expected = f"{by(pixels.shape)} as {sample.image.name}"
        yield Finding("error", kind, sample.label, f"{by(label.shape)} pixels", expected, "restore them")
    if sample.instances is not None and image.counts is not None:
        try:
            ids = data.read_instances(sample)
        except DataError as error:
            yield Finding.of("damaged instances", error)
            return
        values = np.where(ids >= 1000, ids // 1000, ids).astype(np.uint8)
        as_values, as_train_ids = np.mean(values != label), np.mean(data.lookup[values] != label)
        image.as_instances = as_values <= _DIFFERING
        # A label in train ids belongs to its image: `_check_labels` tells what is wrong with it.
        if (share := min(as_values, as_train_ids)) > _DIFFERING:
            found = f"another class than {sample.instances.name} in {100 * share:.0f}% of the pixels"
            fix = "restore the one of the two that belongs to another image"
            yield Finding("error", "label and instances differ", sample.label, found, "the same", fix)


# -- Label values of a split


def _check_labels(
    data: SegmentationDataset, root: Path, split: str, images: Sequence[InspectedImage]
) -> tuple[int, list[Finding]]:
    """Compare the label values of a split with those that exist; return the number of its encoding and the findings."""
    images, findings = [image for image in images if image.counts is not None], []
    if not images:
        return 0, findings
    present = np.stack([image.counts > 0 for image in images])
    fits = np.stack([~present[:, unknown].any(axis=1) for unknown in data.unknown])
    named = [fnmatch(images[0].sample.label.name, f"*{io.suffix(pattern)}") for pattern in data.labels]
    encoding = max(range(len(fits)), key=lambda index: (fits[index].sum(), named[index]))
    table = data.encodings[encoding]
    ignored = np.array([_ignored_share(data, image.counts, encoding) for image in images])
    as_instances = np.array([image.as_instances for image in images])  # which hold label values
    look_like_train_ids = _look_like_train_ids(data, present, ignored, encoding) & ~as_instances
    fix = "give the dataset in its original encoding, and all of a split in the same"
    for index, image in enumerate(images):
        values = set(np.flatnonzero(present[index]).tolist())
        unknown = values - table.keys()
        if look_like_train_ids[index]:
            kind, found = "train ids as labels", f"{io.in_words(values)}, which look like train ids that start at 0"
        elif unknown and fits[:, index].any():
            kind, found = "mixed encodings", f"label values {io.in_words(unknown)}, of another encoding than others"
        elif unknown:
            kind, found = "unknown label values", f"label values {io.in_words(unknown)}, which do not exist"
        else:
            if ignored[index] == 1:
                found, leave = "nothing but ignored pixels", "leave the image out, unless that is meant"
                where = image.sample.label
                findings.append(Finding("warning", "label without a class", where, found, "some class", leave))
            continue
        findings.append(Finding("error", kind, image.sample.label, found, f"label values {io.in_words(table)}", fix))
    if (ignored == 1).all():
        found = f"no class in any of the {len(ignored)} labels of {split}"
        fix = "restore them, or leave this split out of training and scores: labels of test splits are often dummies"
        findings.append(Finding("error", "dummy labels", root, found, "labels with classes", fix))
    total, first, last = _sum_counts(images), data.frequent_class, max(table)
    if first is not None and len(images) >= 20 and total[first] > total[first + 1] and not total[last]:
        severity = "error" if len(images) >= _MANY else "warning"
        name = data.class_names[first]
        found = f"more pixels of {first} than of {first + 1} ({name}), and none of {last} in {split}"
        expected, fix = f"{first + 1} for {name}", "look at the images: if the classes are shifted, restore the labels"
        findings.append(Finding(severity, "labels shifted by one?", root, found, expected, fix))
    return encoding, findings


def _look_like_train_ids(
    data: SegmentationDataset,
    present: Bool[np.ndarray, "images 256"],
    ignored: Float[np.ndarray, " images"],
    encoding: int,
) -> Bool[np.ndarray, " images"]:
    """Tell of labels with no values but those of train ids whether they are train ids, and not label values.

    It is certain where a value does not exist among the label values, as 255 in Cityscapes and ADE20K. Else it is in
    street scenes, where train ids leave out the values of sky, vegetation and cars, if either a third of an
    image is ignored, as the road would be, or no label of the split has any of these values; a label in which
    everything is ignored tells nothing.
    """
    others = [value for value in range(data.num_classes, 256) if value != IGNORE_INDEX]
    possible, certain = ~present[:, others].any(axis=1), present[:, data.unknown[encoding]].any(axis=1)
    values = np.flatnonzero(data.lookups[encoding] != IGNORE_INDEX)
    beyond = values[values >= data.num_classes]
    if data.street_scenes and len(beyond) >= len(values) / 4:  # of others it is not known which classes there must be
        certain |= (ignored < 1) & ((ignored > 1 / 3) | ~present[:, beyond].any())
    return possible & certain


def _ignored_share(data: SegmentationDataset, counts: Int64[np.ndarray, "256"], encoding: int) -> float:
    """Return the share of the ignored pixels, in [0, 1]."""
    return float(counts[data.lookups[encoding] == IGNORE_INDEX].sum() / counts.sum())


def _sum_counts(images: Iterable[InspectedImage]) -> Int64[np.ndarray, "256"]:
    """Return the pixels of each label value in all of the images."""
    counts = [image.counts for image in images if image.counts is not None]
    return np.sum(counts, axis=0, dtype=np.int64) if counts else np.zeros(256, np.int64)


# -- Images compared with each other, and with the official dataset


def _check_sizes(data: SegmentationDataset, images: Sequence[InspectedImage]) -> Iterator[Finding]:
    if data.image_size is None or not (sizes := Counter(image.size for image in images if image.size)):
        return
    usual = sizes.most_common(1)[0][0]
    for path, size in ((image.sample.image, image.size) for image in images if image.size):
        if size != usual:
            kind = "image rotated" if size == usual[::-1] else "image of another size"
            expected = f"{by(usual)} as the others"
            yield Finding("error", kind, path, f"{by(size)} pixels", expected, "restore it, with its label")
    if usual != data.image_size:
        found, fix = f"{by(usual)} pixels, as most images", "do not compare scores with published ones"
        yield Finding("note", "size", images[0].sample.image, found, by(data.image_size), fix)


def _check_names(data: SegmentationDataset, by_split: Mapping[str, Sequence[InspectedImage]]) -> Iterator[Finding]:
    prefixes = {f"{prefix}_": split for split, names in data.name_prefixes.items() for prefix in names}
    for split in data.name_prefixes:
        for path in (image.sample.image for image in by_split.get(split, ())):
            belongs = next((other for prefix, other in prefixes.items() if path.name.startswith(prefix)), split)
            if belongs != split:
                found, fix = f"an image of {belongs} in {split}", "put it back, with its label"
                yield Finding("error", "image of another split", path, found, f"images of {split}", fix)


def _check_duplicates(by_split: Mapping[str, Sequence[InspectedImage]], tolerated: float) -> Iterator[Finding]:
    labels: dict[bytes, InspectedImage] = {}
    for image in (image for mine in by_split.values() for image in mine if image.label_digest):
        first = labels.setdefault(image.label_digest, image)
        if first is not image and first.digest != image.digest:
            found, fix = f"the same as {first.sample.label.name}", "look at both, and restore the one of another image"
            yield Finding("warning", "the same label for two images", image.sample.label, found, "another label", fix)
    digests = {split: {image.digest: image for image in mine if image.digest} for split, mine in by_split.items()}
    for split, mine in by_split.items():
        for image in mine:
            if image.digest and (last := digests[split][image.digest]) is not image:
                where, found = image.sample.image, f"the same as {last.sample.image.name}"
                yield Finding("warning", "duplicate within a split", where, found, "different images", "remove one")
    for one, other in combinations(digests, 2):
        same = digests[one].keys() & digests[other].keys()
        many = len(same) > tolerated * min(len(digests[one]), len(digests[other]))
        for digest in sorted(same):
            first, second = digests[one][digest].sample.image, digests[other][digest].sample.image
            found = f"an image of {other} that is {first.name} in {one}"
            fix = "remove it, with its label, from the split that it does not belong to"
            severity = "error" if many else "warning"
            yield Finding(severity, "the same image in two splits", second, found, "different images", fix)


def _table(
    data: SegmentationDataset, by_split: Mapping[str, Sequence[InspectedImage]], encodings: Mapping[str, int]
) -> pd.DataFrame:
    rows = []
    for split, images in by_split.items():
        official = data.official_counts.get(split, {})
        for condition in data.conditions or ("",):
            mine = [image for image in images if (image.sample.condition or "") == condition]
            sizes, counts = sorted({image.size for image in mine if image.size}), _sum_counts(mine)
            size = " to ".join(dict.fromkeys(by(size) for size in (*sizes[:1], *sizes[-1:])))
            ignored = 100 * _ignored_share(data, counts, encodings[split]) if counts.any() else np.nan
            rows.append((split, condition, len(mine), official.get(condition, pd.NA), size, ignored))
    columns = ("split", "condition", "images", "official", "size", "ignored, %")
    return pd.DataFrame(rows, columns=columns).astype({"images": int, "official": "Int64"})


def _check_counts(root: Path, table: pd.DataFrame) -> Iterator[Finding]:
    for row in table.dropna(subset="official").itertuples():
        where = f"{row.split}{f', {row.condition}' if row.condition else ''}"
        if row.images == 0 < row.official:
            found, fix = f"no images in {where}", "unpack the whole dataset"
            yield Finding("error", "empty condition", root, found, f"{row.official}", fix)
        elif row.images != row.official:
            expected = f"{row.official} as in the official dataset"
            fix = "unpack it whole, unless a part or generated scenes are meant"
            yield Finding("warning", "number of images", root, f"{row.images} in {where}", expected, fix)


def _frequencies(data: SegmentationDataset, histogram: Mapping, encodings: Mapping[str, int]) -> pd.DataFrame:
    shares = {}
    for split, counts in histogram.items():
        if counts.any():
            classes = np.bincount(data.lookups[encodings[split]], counts, minlength=256)[: data.num_classes]
            shares[split] = classes / max(classes.sum(), 1)
    return pd.DataFrame(shares, index=pd.Index(data.class_names, name="class"))


def _check_classes(data: SegmentationDataset, root: Path, frequencies: pd.DataFrame) -> Iterator[Finding]:
    for split, shares in frequencies.items():
        if absent := list(shares.index[shares == 0]):
            names = ", ".join(absent[:10]) + (f" and {len(absent) - 10} others" if len(absent) > 10 else "")
            found, expected = f"no pixel of {names} in {split}", f"each of {data.num_classes} classes"
            yield Finding("note", "absent classes", root, found, expected, "do not expect scores of them")
