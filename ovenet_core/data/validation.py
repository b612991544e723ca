"""Validation: look at every file of a dataset before anything is trained on it, and say what is wrong.

`validate` never stops at the first fault. An *error* makes training or a score wrong, a *warning* may be meant, such as
a part of the images only, and a *note* is good to know.
Some mistakes leave files that can be read, and are told by what the values look like; each such rule says so.
"""

import argparse
import hashlib
import os
import time
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
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
from ovenet_core.data.dataset import ORIGINAL, SEVERITIES, Finding, Sample, SegmentationDataset
from ovenet_core.data.io import by
from ovenet_core.data.registry import DATASETS, SYNTHETIC, open_dataset
from ovenet_core.utils import DataError

_REQUIRED = ("train", "val")  # the splits that have to be there, unless others are asked for
_DIFFERING = 0.01  # share of the pixels in which a label and its instances may have other classes
_MANY = 1000  # images of which it is sure what their labels must have


@dataclass
class InspectedImage:
    """What was found out about one image; a file that could not be read leaves the defaults."""

    sample: Sample
    digest: bytes | None = None
    label_digest: bytes | None = None  # of labels with more than one value
    as_instances: bool = False  # the label agrees with its instances
    size: tuple[int, int] | None = None
    counts: Int64[np.ndarray, "256"] = field(default_factory=lambda: np.zeros(256, np.int64))  # of each label value


BySplit = Mapping[str, Sequence[InspectedImage]]


@dataclass(frozen=True)
class Validation:
    """The findings about a dataset, and its statistics."""

    data: SegmentationDataset
    root: Path
    encodings: Mapping[str, int]  # by split that is there: the number of its label encoding
    findings: Sequence[Finding]
    table: pd.DataFrame  # by split and condition: images, official number of them, size, and share of ignored pixels
    histogram: Mapping[str, Int64[np.ndarray, "256"]]  # by split: pixels of each label value
    frequencies: pd.DataFrame  # by class and split: share in the labelled pixels
    seconds: float  # that it took, on the clock

    def of(self, severity: str) -> list[Finding]:
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
    lines = []
    for (severity, kind), (first, *others) in sorted(groups.items()):
        lines.append(f"{SEVERITIES[severity]:8s}{kind}{f', {len(others) + 1} times' if others else ''}")
        place = "the dataset" if first.where == root else first.where.relative_to(root)
        lines.append(f"        {place}: found {first.found}, expected {first.expected}. Fix: {first.fix}.")
        if more := [f.found if f.where == root else str(f.where.relative_to(root)) for f in others[: shown - 1]]:
            rest = f", and {len(others) + 1 - shown} more" if len(others) >= shown else ""
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

    `splits` have to be there; by default train and val, and any others that are there are validated too. `workers` are
    threads, by default one for each core. Only an unknown split stops it, with a `DataError`.
    """
    start, root, findings, by_split = time.monotonic(), Path(root), [], {}
    if unknown := sorted(set(splits or ()) - set(data.splits)):
        raise DataError(data.name, f"no split {unknown[0]!r}", f"some of {', '.join(data.splits)}", "choose some")
    for split in _parts(data, splits):
        samples, faults = data.discover(root, split, required=splits is not None or split in _REQUIRED)
        findings += faults
        if samples:
            by_split[split] = [InspectedImage(sample) for sample in samples]
    images = [image for mine in by_split.values() for image in mine]
    if not images and not findings:
        findings.append(Finding("empty split", root, "no images", " or ".join(data.images), "check the folder"))
    findings += _check_folders(data, root, images)
    with ThreadPoolExecutor(workers or os.cpu_count()) as pool:
        faults = pool.map(lambda image: list(_inspect(data, image)), images)
        for faults_of_image in tqdm(faults, "validated", len(images), disable=not progress, unit="image"):
            findings += faults_of_image
    encodings = {split: _encoding(data, mine) for split, mine in by_split.items()}
    counts = {split: _sum_counts(mine) for split, mine in by_split.items()}
    table, frequencies = _table(data, by_split, encodings), _frequencies(data, counts, encodings)
    for split, encoding in encodings.items():
        findings += _check_labels(data, root, split, by_split[split], encoding)
    findings += [*_check_sizes(data, images), *_check_names(data, by_split)]
    findings += [*_check_duplicates(by_split, data.duplicates), *_check_numbers(root, table, frequencies)]
    return Validation(data, root, encodings, findings, table, counts, frequencies, time.monotonic() - start)


def main(argv: Sequence[str] | None = None) -> int:
    """Validate the dataset that the command line names, print the findings, and return 1 for errors, else 0."""
    parser = argparse.ArgumentParser(
        "python -m ovenet_core validate",
        description="Read every file of a dataset before training, and list what is wrong with it, with file and fix.",
        epilog="Exit status: 1 for errors, else 0. Example: python -m ovenet_core validate camvid --splits train val",
    )
    names = ", ".join([*DATASETS, *SYNTHETIC])
    parser.add_argument("dataset", help=f"{names}, or the path of a Python file (docs/custom_dataset.md)")
    parser.add_argument("--data-root", default="", metavar="FOLDER", help="where the dataset lies (default: data/NAME)")
    parser.add_argument("--splits", nargs="+", metavar="SPLIT", help="must be there (default: train, val; others may)")
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


def _check_folders(data: SegmentationDataset, root: Path, images: Sequence[InspectedImage]) -> Iterator[Finding]:
    """Find images beside those of the dataset whose names fit no pattern, and links to nothing."""
    kinds = [data.images, data.labels, data.instances]
    kinds += [patterns for folder in data.exceptions.values() for patterns in folder.values()]
    names = {pattern.replace("{split}", "*").rpartition("/")[2] for patterns in kinds for pattern in patterns}
    for folder in sorted({image.sample.image.parent for image in images}):
        for path in sorted(folder.iterdir()):
            is_image = path.suffix.lower() in (".png", ".jpg", ".jpeg") and path.name[0] != "."
            if is_image and not any(fnmatch(path.name, name) for name in names):
                found, expected = "an image that is not read", "a name as its neighbours have"
                yield Finding("image of an unknown name", path, found, expected, "rename or remove it", "warning")
    known = {path for image in images for path in (image.sample.image, image.sample.label, image.sample.instances)}
    for folder, subfolders, names in os.walk(root):
        for path in (Path(folder, name) for name in sorted(subfolders + names)):
            if path.is_symlink() and not path.exists() and path not in known:
                yield Finding("dangling link", path, f"a link to {os.readlink(path)}", "a file", "mend or remove it")


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
            found = f"grey, and {sample.label.name} in colour"
            yield Finding("image and label swapped", sample.image, found, "the reverse", "exchange the two files")
            return
        if pixels.dtype != np.uint8:
            yield Finding("16 bit image", sample.image, f"{pixels.dtype}", "8 bits to a channel", "restore the file")
        if channels != 3:
            fix = ("restore the file", "error") if data.image_size else ("leave it: it is read as RGB", "note")
            found = "grey" if channels == 1 else f"{channels} channels"
            yield Finding(f"image of {channels} channels", sample.image, found, "red, green and blue", *fix)
    if label is None:
        return
    if label.ndim == 3:
        found, fix = f"{label.shape[2]} channels", "give the file of label values, not its image in colours"
        yield Finding("colour label", sample.label, found, "one channel of label values", fix)
    elif label.dtype != np.uint8:
        kind = "16 bit label" if label.dtype == np.uint16 else "label of another depth"
        yield Finding(kind, sample.label, f"{label.dtype}", "uint8 label values", "give label values, not instances")
    else:
        image.counts = np.bincount(label.ravel(), minlength=256)
        if np.count_nonzero(image.counts) > 1:
            image.label_digest = hashlib.blake2b(label.tobytes()).digest()
    if pixels is not None and label.shape[:2] != pixels.shape[:2]:
        kind = "label rotated" if label.shape[:2] == pixels.shape[1::-1] else "sizes differ"
        found, expected = f"{by(label.shape)} pixels", f"{by(pixels.shape)} as {sample.image.name}"
        yield Finding(kind, sample.label, found, expected, "restore them")
    if sample.instances is not None and image.counts.any():
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
            yield Finding("label and instances differ", sample.label, found, "the same", "restore the foreign one")


def _encoding(data: SegmentationDataset, images: Iterable[InspectedImage]) -> int:
    """Return the number of the encoding that most labels fit; of several, the one whose files have such names."""
    labelled = [image for image in images if image.counts.any()]
    fits = [sum(not image.counts[unknown].any() for image in labelled) for unknown in data.unknown]
    first = labelled[0].sample.label.name if labelled else ""
    named = [first.endswith(pattern.rpartition("*")[2]) for pattern in data.labels]
    return max(range(len(fits)), key=lambda index: (fits[index], named[index]))


def _check_labels(
    data: SegmentationDataset, root: Path, split: str, images: Iterable[InspectedImage], encoding: int
) -> Iterator[Finding]:
    """Compare the label values of a split with those that exist."""
    if not (images := [image for image in images if image.counts.any()]):
        return
    table, ignored = data.encodings[encoding], [_ignored_share(data, image.counts, encoding) for image in images]
    look_like_train_ids = _look_like_train_ids(data, images, np.array(ignored), encoding)
    for image, share, train_ids in zip(images, ignored, look_like_train_ids, strict=True):
        values = set(np.flatnonzero(image.counts).tolist())
        unknown = values - table.keys()
        if train_ids and not image.as_instances:  # which hold label values
            kind, found = "train ids as labels", f"{io.in_words(values)}, which look like train ids that start at 0"
        elif unknown and any(values <= known.keys() for known in data.encodings):
            kind, found = "mixed encodings", f"label values {io.in_words(unknown)}, of another encoding than others"
        elif unknown:
            kind, found = "unknown label values", f"label values {io.in_words(unknown)}, which do not exist"
        else:
            if share == 1:
                where, fix = image.sample.label, "leave the image out, unless that is meant"
                yield Finding("label without a class", where, "only ignored pixels", "some class", fix, "warning")
            continue
        yield Finding(kind, image.sample.label, found, f"label values {io.in_words(table)}", ORIGINAL)
    if min(ignored) == 1:
        found = f"no class in any of the {len(ignored)} labels of {split}"
        fix = "restore them, or leave this split out of training and scores: labels of test splits are often dummies"
        yield Finding("dummy labels", root, found, "labels with classes", fix)
    total, first, last = _sum_counts(images), data.frequent_class, max(table)
    if first is not None and len(images) >= 20 and total[first] > total[first + 1] and not total[last]:
        severity, name = "error" if len(images) >= _MANY else "warning", data.class_names[first]
        found = f"more pixels of {first} than of {first + 1} ({name}), and none of {last} in {split}"
        expected, fix = f"{first + 1} for {name}", "look at the images: if the classes are shifted, restore the labels"
        yield Finding("labels shifted by one?", root, found, expected, fix, severity)


def _look_like_train_ids(
    data: SegmentationDataset, images: Iterable[InspectedImage], ignored: Float[np.ndarray, " images"], encoding: int
) -> Bool[np.ndarray, " images"]:
    """Tell of labels with no values but those of train ids whether they are train ids, and not label values.

    It is certain where a value does not exist among the label values, as 255 in Cityscapes and ADE20K. Else it is in
    street scenes, where train ids leave out the values of sky, vegetation and cars, if either a third of an image, but
    not all, is ignored, as the road would be, or no label of the split has any of these values.
    """
    present = np.stack([image.counts > 0 for image in images])
    others = np.setdiff1d(np.arange(data.num_classes, 256), IGNORE_INDEX)
    possible, certain = ~present[:, others].any(axis=1), present[:, data.unknown[encoding]].any(axis=1)
    values = np.flatnonzero(data.lookups[encoding] != IGNORE_INDEX)
    beyond = values[values >= data.num_classes]
    if data.street_scenes and len(beyond) >= len(values) / 4:  # of others it is not known which classes there must be
        certain |= (ignored < 1) & ((ignored > 1 / 3) | ~present[:, beyond].any())
    return possible & certain


def _ignored_share(data: SegmentationDataset, counts: Int64[np.ndarray, "256"], encoding: int) -> float:
    return float(counts[data.lookups[encoding] == IGNORE_INDEX].sum() / counts.sum())


def _sum_counts(images: Iterable[InspectedImage]) -> Int64[np.ndarray, "256"]:
    return sum((image.counts for image in images), np.zeros(256, np.int64))


def _check_sizes(data: SegmentationDataset, images: Iterable[InspectedImage]) -> Iterator[Finding]:
    sizes = {image.sample.image: image.size for image in images if image.size}
    if data.image_size is None or not sizes:
        return
    usual = Counter(sizes.values()).most_common(1)[0][0]
    for path, size in sizes.items():
        if size != usual:
            kind = "image rotated" if size == usual[::-1] else "image of another size"
            yield Finding(kind, path, f"{by(size)} pixels", f"{by(usual)} as the others", "restore it, with its label")
    if usual != data.image_size:
        first, fix = next(iter(sizes)), "do not compare scores with published ones"
        yield Finding("size", first, f"{by(usual)} pixels, as most images", by(data.image_size), fix, "note")


def _check_names(data: SegmentationDataset, by_split: BySplit) -> Iterator[Finding]:
    prefixes = {f"{prefix}_": split for split, names in data.name_prefixes.items() for prefix in names}
    for split in data.name_prefixes:
        for path in (image.sample.image for image in by_split.get(split, ())):
            belongs = next((other for prefix, other in prefixes.items() if path.name.startswith(prefix)), split)
            if belongs != split:
                found = f"an image of {belongs} in {split}"
                yield Finding("image of another split", path, found, f"images of {split}", "put it and its label back")


def _check_duplicates(by_split: BySplit, tolerated: float) -> Iterator[Finding]:
    labels, digests = {}, {split: {} for split in by_split}
    for split, image in ((split, image) for split, mine in by_split.items() for image in mine):
        first = labels.setdefault(image.label_digest, image) if image.label_digest else image
        if first.digest != image.digest:
            found, fix = f"the same as {first.sample.label.name}", "look at both, and restore the foreign one"
            yield Finding("the same label for two images", image.sample.label, found, "another label", fix, "warning")
        if image.digest and (first := digests[split].setdefault(image.digest, image)) is not image:
            where, found = image.sample.image, f"the same as {first.sample.image.name}"
            yield Finding("duplicate within a split", where, found, "different images", "remove one", "warning")
    for one, other in combinations(digests, 2):
        same = digests[one].keys() & digests[other].keys()
        many = len(same) > tolerated * min(len(digests[one]), len(digests[other]))
        for digest in sorted(same):
            first, second = digests[one][digest].sample.image, digests[other][digest].sample.image
            found, severity = f"an image of {other} that is {first.name} in {one}", "error" if many else "warning"
            fix = "remove it, with its label, from the split that it does not belong to"
            yield Finding("the same image in two splits", second, found, "different images", fix, severity)


def _table(data: SegmentationDataset, by_split: BySplit, encodings: Mapping[str, int]) -> pd.DataFrame:
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


def _frequencies(data: SegmentationDataset, histogram: Mapping, encodings: Mapping[str, int]) -> pd.DataFrame:
    labelled = {split: counts for split, counts in histogram.items() if counts.any()}
    classes = {s: np.bincount(data.lookups[encodings[s]], n, 256)[: data.num_classes] for s, n in labelled.items()}
    frame = pd.DataFrame(classes, index=pd.Index(data.class_names, name="class"))
    return frame / frame.sum().clip(lower=1)


def _check_numbers(root: Path, table: pd.DataFrame, frequencies: pd.DataFrame) -> Iterator[Finding]:
    for row in table.dropna(subset="official").itertuples():
        where = f"{row.split}{f', {row.condition}' if row.condition else ''}"
        if row.images == 0 < row.official:
            yield Finding("empty condition", root, f"no images in {where}", f"{row.official}", "unpack all of it")
        elif row.images != row.official:
            found, fix = f"{row.images} in {where}", "unpack it whole, unless a part or generated scenes are meant"
            yield Finding("number of images", root, found, f"{row.official} as officially", fix, "warning")
    for split, shares in frequencies.items():
        if absent := list(shares.index[shares == 0]):
            names = ", ".join(absent[:10]) + (f" and {len(absent) - 10} others" if len(absent) > 10 else "")
            found, fix = f"no pixel of {names} in {split}", "do not expect scores of them"
            yield Finding("absent classes", root, found, f"each of {len(shares)} classes", fix, "note")
