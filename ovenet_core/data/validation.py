"""The doctor: looks at every file of a dataset before anything is trained on it, and says what is wrong.

`examine` never stops at the first fault. It lists each with the file, what was expected and the remedy:

    error    training or a score would be wrong
    warning  may be meant, such as a part of the images only
    note     good to know

Some mistakes leave files that can be read, and are told by what the values look like; each such rule says so.
"""

import os
import time
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import combinations
from pathlib import Path
from types import MappingProxyType

import numpy as np
import pandas as pd
from jaxtyping import Int64
from tqdm.auto import tqdm

from ovenet_core.data import io
from ovenet_core.data.dataset import Sample, SegmentationDataset
from ovenet_core.data.inspection import (
    CAMERA_SIZES,
    SEVERITIES,
    Finding,
    InspectedImage,
    Severity,
    by,
    check_labels,
    ignored_share,
    inspect,
    lookup,
    of_error,
    sum_counts,
)
from ovenet_core.data.io import DataError

# What the names of images begin with in each split, where this tells the split: the cities, and ADE20K's own word.
NAMES = MappingProxyType(
    {
        "cityscapes": {
            "train": (
                "aachen",
                "bochum",
                "bremen",
                "cologne",
                "darmstadt",
                "dusseldorf",
                "erfurt",
                "hamburg",
                "hanover",
                "jena",
                "krefeld",
                "monchengladbach",
                "strasbourg",
                "stuttgart",
                "tubingen",
                "ulm",
                "weimar",
                "zurich",
            ),
            "val": ("frankfurt", "lindau", "munster"),
            "test": ("berlin", "bielefeld", "bonn", "leverkusen", "mainz", "munich"),
        },
        "ade20k": {"train": ("ADE_train",), "val": ("ADE_val",), "test": ("ADE_test",)},
    }
)
_REQUIRED = ("train", "val")  # the splits that have to be there, unless others are asked for
_MAX_SHARE = MappingProxyType({"ade20k": 0.01})  # of images in two splits that an official dataset has by oversight


@dataclass(frozen=True)
class Examination:
    """The findings about a dataset, and its statistics.

    Attributes:
        splits: the splits that are there, with the folder of each, or the first of several.
        encodings: number of the label encoding of each of these splits.
        table: one row for each split and condition: images, official (how many there should be), size, and share of
            ignored pixels.
        histogram: pixels of each label value (0 to 255) by split.
        frequencies: share of each class in the labelled pixels, one column for each split.
        seconds: that it took, on the clock.
    """

    data: SegmentationDataset
    root: Path
    splits: Mapping[str, str]
    encodings: Mapping[str, int]
    findings: Sequence[Finding]
    table: pd.DataFrame
    histogram: Mapping[str, Int64[np.ndarray, "256"]]
    frequencies: pd.DataFrame
    seconds: float

    def of(self, severity: Severity) -> list[Finding]:
        """The findings of a severity."""
        return [finding for finding in self.findings if finding.severity == severity]

    def __str__(self) -> str:
        counts = ", ".join(f"{len(self.of(s))} {s}{'s' * (len(self.of(s)) != 1)}" for s in SEVERITIES)
        head = f"{self.data.name}, {self.table['images'].sum()} images in {', '.join(self.splits)}: {counts}"
        return "\n".join([head, *_grouped(self.findings, self.root)])

    def raise_if_wrong(self) -> None:
        """Raises `DataError` with all errors if there are any: training or a score would be wrong."""
        if errors := self.of("error"):
            lines = "\n".join(_grouped(errors, self.root))
            raise DataError(f"{self.root}: {len(errors)} errors, expected none; mend them, then examine again\n{lines}")


def _grouped(findings: Iterable[Finding], root: Path, shown: int = 3) -> list[str]:
    """One entry for all findings of a kind: how many, the first of them in full, and the next few."""
    groups: dict[tuple, list[Finding]] = defaultdict(list)
    for finding in findings:
        groups[SEVERITIES.index(finding.severity), finding.kind].append(finding)
    lines = []
    for (severity, kind), group in sorted(groups.items()):
        first, times = group[0], f", {len(group)} times" if len(group) > 1 else ""
        lines.append(f"{SEVERITIES[severity]:8s}{kind}{times}")
        place = "the dataset" if first.file == root else _below(first.file, root)
        lines.append(f"        {place}: {first.what}, expected {first.expected}; {first.remedy}")
        if more := [f.what if f.file == root else str(_below(f.file, root)) for f in group[1:shown]]:
            rest = f", and {len(group) - shown} more" if len(group) > shown else ""
            lines.append(f"        also {', '.join(more)}{rest}")
    return lines


def _below(file: Path, root: Path) -> Path:
    return file.relative_to(root) if file.is_relative_to(root) else file


def examine(
    data: SegmentationDataset,
    root: str | Path,
    splits: Sequence[str] | None = None,
    *,
    workers: int | None = None,
    progress: bool = True,
) -> Examination:
    """Reads every file of the splits, and compares them with each other and with what the benchmark should be.

    Args:
        splits: those that have to be there; by default train and val, and any others that are there are examined too.
        workers: threads, by default one for each core; OpenCV decodes without Python's lock.

    Raises:
        DataError: an unknown split. Nothing else stops it.
    """
    start, root, findings = time.monotonic(), Path(root), []
    if unknown := sorted(set(splits or ()) - set(data.splits)):
        raise DataError(f"{data.name}: no split {unknown[0]!r}, expected {', '.join(data.splits)}; choose some")
    listed, samples, known = {}, [], set()
    for split, folders in _parts(data, splits).items():
        required = splits is not None or split in _REQUIRED
        if found := [
            sample for folder in folders for sample in _list(data, root, split, folder, required, findings, known)
        ]:
            listed[split] = folders[0]
            samples += [(split, sample) for sample in found]
    _check_strays({sample.image.parent for _, sample in samples}, known, findings)
    if not listed and not findings:
        findings.append(
            Finding(
                "error",
                "empty split",
                root,
                "no images of any split",
                " or ".join(pattern for pattern in data.images),
                "check the folder",
            )
        )
    _check_links(root, {path for _, s in samples for path in (s.image, s.label, s.instances)}, findings)
    with ThreadPoolExecutor(workers or os.cpu_count()) as pool:
        inspected = pool.map(lambda pair: inspect(data, *pair), samples)
        images = list(tqdm(inspected, "examined", len(samples), disable=not progress, unit="image"))
    findings += [finding for image in images for finding in image.findings]
    by_split = {split: [image for image in images if image.split == split] for split in listed}
    encodings = {}
    for split, mine in by_split.items():
        encodings[split] = check_labels(data, root / listed[split], mine, findings)
    _check_sizes(data, images, findings)
    _check_names(data, images, findings)
    _check_duplicates(by_split, _MAX_SHARE.get(data.name, 0), findings)
    table = _table(data, by_split, encodings)
    _check_counts(data, root, table, findings)
    histogram = {split: sum_counts(mine) for split, mine in by_split.items()}
    frequencies = _frequencies(data, histogram, encodings)
    _check_classes(data, root, frequencies, findings)
    _check_reading(data, root, listed, findings)
    return Examination(data, root, listed, encodings, findings, table, histogram, frequencies, time.monotonic() - start)


# -- Files


def _parts(data: SegmentationDataset, splits: Sequence[str] | None) -> dict[str, tuple[str, ...]]:
    """The folders of each split; one that is made up of others, as trainval is, stands for these."""
    alone = {} if data.lists else {folders[0]: split for split, folders in data.splits.items() if len(folders) == 1}
    parts = {}
    for split in splits or data.splits:
        folders = data.splits[split]
        others = [alone.get(folder) for folder in folders]
        if len(folders) == 1 or None in others:
            parts[split] = folders
        else:
            parts |= {other: data.splits[other] for other in others}
    return parts


def _list(
    data: SegmentationDataset,
    root: Path,
    split: str,
    folder: str,
    required: bool,
    findings: list[Finding],
    known: set[Path],
) -> list[Sample]:
    """The images of a folder with what belongs to them, as far as it is there; `known` gathers their files."""
    patterns = {
        kind: [
            pattern.format(split=folder) for pattern in data.exceptions.get(folder, {}).get(kind, getattr(data, kind))
        ]
        for kind in ("images", "labels", "instances")
    }
    stars = min(pattern.count("*") for several in patterns.values() for pattern in several)
    found = {}
    for kind in patterns:
        try:
            found[kind] = io.find_files(root, patterns[kind], stars, alternatives=kind == "labels")
        except DataError as error:
            findings.append(of_error("files of the same name", error))
            try:
                found[kind] = io.find_files(root, patterns[kind], stars, alternatives=True)
            except DataError:
                return []
    known |= {*found["images"].values(), *found["labels"].values()}
    names = {key: data.image_name(key, image, patterns["images"]) for key, image in found["images"].items()}
    if data.lists:
        names = _of_list(data, root, split, names, required, findings)
        found = {kind: {key: path for key, path in paths.items() if key in names} for kind, paths in found.items()}
    images, labels, instances = found.values()
    if labels and not images and not required:
        findings.append(
            Finding(
                "note",
                "labels without images",
                next(iter(labels.values())),
                f"{len(labels)} labels of {split} and no image",
                "both, if it is to be used",
                "unpack its images to have it examined",
            )
        )
        return []
    if not images and required:
        findings.append(
            Finding(
                "error",
                "empty split",
                root,
                f"no images of {split}",
                " or ".join(patterns["images"]),
                "check the folder, or unpack the dataset into it",
            )
        )
    if folder in data.unlabelled:
        if labels and images:
            findings.append(
                Finding(
                    "note",
                    "labels of the test split",
                    next(iter(labels.values())),
                    f"{len(labels)} labels of {split}",
                    "none that count",
                    "they are dummies or withheld, and never read",
                )
            )
        labels, instances = {}, {}
    elif images and not labels and not required:
        findings.append(
            Finding(
                "note",
                "images without labels",
                next(iter(images.values())),
                f"{len(images)} images of {split} and no label",
                "both, if it is to be used",
                "unpack its labels to have it examined",
            )
        )
        return []
    else:
        if patterns["instances"] and images and labels and not instances:
            findings.append(
                Finding(
                    "warning",
                    "no instances",
                    root,
                    f"none in {split}: iIoU cannot be scored",
                    " or ".join(patterns["instances"]),
                    "unpack them, unless iIoU is not wanted",
                )
            )
        for alone, ours, theirs in (
            ("image without label", images, labels),
            ("label without image", labels, images),
            *([("image without instances", images, instances)] if instances else []),
        ):
            kind = {"image without label": "labels", "label without image": "images"}.get(alone, "instances")
            findings += [
                Finding(
                    "error",
                    alone,
                    ours[key],
                    f"nothing belongs to it in {split}",
                    " or ".join(patterns[kind]),
                    "restore or rename that file, or remove this one",
                )
                for key in sorted(ours.keys() - theirs.keys())
            ]
    return [
        Sample(name, images[key], labels.get(key), instances.get(key), _condition(data, images[key], findings))
        for key, name in sorted(names.items(), key=lambda item: images[item[0]])
    ]


def _condition(data: SegmentationDataset, image: Path, findings: list[Finding]) -> str | None:
    try:
        return data.condition(image)
    except DataError as error:
        findings.append(of_error("unknown condition", error))
        return None


def _of_list(
    data: SegmentationDataset, root: Path, split: str, names: Mapping, required: bool, findings: list[Finding]
) -> dict:
    """Those of the images that the list of a split names."""
    file = root / data.lists.format(split=split)
    if not file.exists() and not required:
        return {}
    try:
        listed = data.listed(root, split)
    except DataError as error:
        findings.append(of_error("list of a split", error))
        return {}
    findings += [
        Finding(
            "error",
            "listed image",
            file,
            f"{name} is listed",
            "an image of that name",
            "restore it, or take it off the list",
        )
        for name in sorted(listed - set(names.values()))
    ]
    return {key: name for key, name in names.items() if name in listed}


def _check_strays(folders: Iterable[Path], known: set[Path], findings: list[Finding]) -> None:
    for folder in sorted(folders):
        for path in sorted(folder.iterdir()):
            if path not in known and path.suffix.lower() in (".png", ".jpg", ".jpeg") and path.name[0] != ".":
                findings.append(
                    Finding(
                        "warning",
                        "image of an unknown name",
                        path,
                        "is not read",
                        "a name as its neighbours have",
                        "rename it, or remove it",
                    )
                )


def _check_links(root: Path, known: set[Path | None], findings: list[Finding]) -> None:
    for folder, subfolders, names in os.walk(root):
        for path in (Path(folder, name) for name in sorted(subfolders + names)):
            if path.is_symlink() and not path.exists() and path not in known:
                findings.append(
                    Finding(
                        "error",
                        "dangling link",
                        path,
                        f"points to {os.readlink(path)}",
                        "something there",
                        "mend or remove the link",
                    )
                )


# -- Images compared with each other, and with the official dataset


def _check_sizes(data: SegmentationDataset, images: Sequence[InspectedImage], findings: list[Finding]) -> None:
    if data.name not in CAMERA_SIZES or not (sizes := Counter(p.size for p in images if p.size)):
        return
    usual, official = sizes.most_common(1)[0][0], CAMERA_SIZES[data.name]
    for image in images:
        if image.size and image.size != usual:
            rotated = image.size == usual[::-1]
            findings.append(
                Finding(
                    "error",
                    "image rotated" if rotated else "image of another size",
                    image.sample.image,
                    f"{by(image.size)} pixels",
                    f"{by(usual)} as the others",
                    "restore it, with its label",
                )
            )
    if usual != official:
        findings.append(
            Finding(
                "note",
                "size",
                images[0].sample.image,
                f"{by(usual)} pixels, as most images",
                f"{by(official)}",
                "scores are not comparable with published ones",
            )
        )


def _check_names(data: SegmentationDataset, images: Sequence[InspectedImage], findings: list[Finding]) -> None:
    prefixes = {prefix: split for split, names in NAMES.get(data.name, {}).items() for prefix in names}
    for image in images:
        name = image.sample.image.name
        belongs = next((split for prefix, split in prefixes.items() if name.startswith(f"{prefix}_")), None)
        if belongs and image.split in NAMES[data.name] and belongs != image.split:
            findings.append(
                Finding(
                    "error",
                    "image of another split",
                    image.sample.image,
                    f"an image of {belongs} in {image.split}",
                    f"images of {image.split}",
                    "put it back, with its label",
                )
            )


def _check_duplicates(
    by_split: Mapping[str, Sequence[InspectedImage]], tolerated: float, findings: list[Finding]
) -> None:
    labels: dict[bytes, InspectedImage] = {}
    for image in (image for mine in by_split.values() for image in mine if image.label_digest):
        first = labels.setdefault(image.label_digest, image)
        if first is not image and first.digest != image.digest:
            findings.append(
                Finding(
                    "warning",
                    "the same label for two images",
                    image.sample.label,
                    f"the same as {first.sample.label.name}",
                    "a label of its own",
                    "look at both, and restore the one that belongs to another image",
                )
            )
    digests = {split: {p.digest: p for p in mine if p.digest} for split, mine in by_split.items()}
    for split, mine in by_split.items():
        for image in mine:
            if image.digest and (first := digests[split][image.digest]) is not image:
                findings.append(
                    Finding(
                        "warning",
                        "duplicate within a split",
                        image.sample.image,
                        f"the same as {first.sample.image.name}",
                        "different images",
                        "remove one",
                    )
                )
    for one, other in combinations(digests, 2):
        if same := digests[one].keys() & digests[other].keys():
            many = len(same) > tolerated * min(len(digests[one]), len(digests[other]))
            findings += [
                Finding(
                    "error" if many else "warning",
                    "the same image in two splits",
                    digests[other][digest].sample.image,
                    f"in {other}, and as {digests[one][digest].sample.image.name} in {one}",
                    "different images",
                    "remove it, with its label, from the split that it does not belong to",
                )
                for digest in same
            ]


def _table(
    data: SegmentationDataset, by_split: Mapping[str, Sequence[InspectedImage]], encodings: Mapping[str, int]
) -> pd.DataFrame:
    rows = []
    for split, images in by_split.items():
        official = data.official_counts.get(split, {})
        for condition in data.conditions or ("",):
            mine = [p for p in images if (p.sample.condition or "") == condition]
            sizes, counts = sorted({p.size for p in mine if p.size}), sum_counts(mine)
            rows.append(
                {
                    "split": split,
                    "condition": condition,
                    "images": len(mine),
                    "official": official.get(condition, pd.NA),
                    "size": " to ".join(dict.fromkeys(by(size) for size in (*sizes[:1], *sizes[-1:]))),
                    "ignored, %": 100 * ignored_share(data, counts, encodings[split]) if counts.any() else np.nan,
                }
            )
    columns = ("split", "condition", "images", "official", "size", "ignored, %")
    return pd.DataFrame(rows, columns=columns).astype({"images": int, "official": "Int64"})


def _check_counts(data: SegmentationDataset, root: Path, table: pd.DataFrame, findings: list[Finding]) -> None:
    for row in table.dropna(subset="official").itertuples():
        where = f"{row.split}{f', {row.condition}' if row.condition else ''}"
        if row.images == 0 < row.official:
            findings.append(
                Finding(
                    "error",
                    "empty condition",
                    root,
                    f"no images in {where}",
                    f"{row.official}",
                    "unpack the whole dataset",
                )
            )
        elif row.images != row.official:
            findings.append(
                Finding(
                    "warning",
                    "number of images",
                    root,
                    f"{row.images} in {where}",
                    f"{row.official} as in the official dataset",
                    "unpack it whole, unless a part or generated scenes are meant",
                )
            )


def _frequencies(data: SegmentationDataset, histogram: Mapping, encodings: Mapping[str, int]) -> pd.DataFrame:
    shares = {}
    for split, counts in histogram.items():
        if counts.any():
            classes = np.bincount(lookup(data, encodings[split]), counts, minlength=256)[: data.num_classes]
            shares[split] = classes / max(classes.sum(), 1)
    return pd.DataFrame(shares, index=pd.Index(data.class_names, name="class"))


def _check_classes(data: SegmentationDataset, root: Path, frequencies: pd.DataFrame, findings: list[Finding]) -> None:
    for split, shares in frequencies.items():
        if absent := list(shares.index[shares == 0]):
            names = ", ".join(absent[:10]) + (f" and {len(absent) - 10} others" if len(absent) > 10 else "")
            findings.append(
                Finding(
                    "note",
                    "absent classes",
                    root,
                    f"no pixel of {names} in {split}",
                    f"each of {data.num_classes} classes",
                    "they get no score",
                )
            )


def _check_reading(data: SegmentationDataset, root: Path, splits: Iterable[str], findings: list[Finding]) -> None:
    """Training lists the images by `Benchmark.samples`; what that refuses is an error here, whatever the reason."""
    for split in splits:
        try:
            data.samples(root, split)
        except DataError as error:
            if not any(finding.severity == "error" for finding in findings):
                findings.append(of_error("cannot be listed", error))
