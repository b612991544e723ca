"""Archives of predictions for evaluation servers, checked by reading them back; the scores that servers return."""

import csv
import re
import zipfile
import zlib
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from io import BufferedWriter, BytesIO
from pathlib import Path

import cv2
import numpy as np
from PIL import Image
from tqdm.auto import tqdm

from ovenet_core.data import NOT_AN_IMAGE, Sample, SegmentationDataset, in_words, load, size, values
from ovenet_core.evaluation.predictions import SavedPredictions
from ovenet_core.utils import DataError, write_atomically

SERVER_SCORES = "server.csv"  # in the folder of a run: the scores of its predictions that a server returned
DATE = (1980, 1, 1, 0, 0, 0)  # of every file in an archive, so that the same predictions give the same bytes
Samples = Sequence[Sample]
COLUMNS = ("split", "condition", "class", "metric", "value")


def write_archive(
    dataset: SegmentationDataset, samples: Samples, saved: SavedPredictions, path: str | Path, *, progress: bool = True
) -> Path:
    """Write the final predictions (S_f; of a baseline S_i) as the archive that the dataset's server takes.

    The same predictions always give the same bytes. A missing prediction, or a fault that `check_archive` finds, is a
    `DataError`, and leaves no archive.
    """
    name_of, path = dataset.server_file, Path(path)

    def write(file: BufferedWriter) -> None:
        with zipfile.ZipFile(file, "w", zipfile.ZIP_STORED) as archive:  # PNG is compressed already
            for sample in tqdm(sorted(samples, key=name_of), desc="archive", unit="image", disable=not progress):
                _, png = cv2.imencode(".png", dataset.encode(saved.read(sample)[saved.outputs[-1]]))
                entry = zipfile.ZipInfo(name_of(sample), DATE)
                entry.external_attr = 0o644 << 16
                archive.writestr(entry, png.tobytes())
        file.flush()
        if faults := check_archive(file.name, dataset, samples, progress=progress):
            found = f"{len(faults)} faults:\n" + "\n".join(map(str, faults)) + "\n"
            raise DataError(path, found, "an archive without faults", "mend these; the archive is not written")

    path.parent.mkdir(parents=True, exist_ok=True)
    write_atomically(path, write, mode="wb")
    return path


def check_archive(
    path: str | Path, dataset: SegmentationDataset, samples: Samples, *, progress: bool = True
) -> list[DataError]:
    """List what the server would refuse or score wrongly; an archive without faults is ready to be uploaded.

    Compares number, names, sizes, mode and values with what the images of the samples and the dataset ask for.
    """
    images = {dataset.server_file(sample): sample.image for sample in samples}
    try:
        with zipfile.ZipFile(path) as archive:
            return list(_faults(archive, images, dataset, progress))
    except (OSError, zipfile.BadZipFile) as error:
        return [DataError(path, error, "a readable zip file", "write it again")]


def _faults(
    archive: zipfile.ZipFile, images: Mapping[str, Path], dataset: SegmentationDataset, progress: bool
) -> Iterator[DataError]:
    counts = Counter(name for name in archive.namelist() if not name.endswith("/"))
    known = values(dataset.encode(np.arange(dataset.num_classes, dtype=np.uint8)[None]))
    again = "write the archive again"
    for name in tqdm(sorted(images.keys() | counts.keys()), "check", unit="image", disable=not progress):
        if counts[name] > 1:
            yield DataError(name, f"{counts[name]} files", "one", again)
        if name not in images:
            example = f"names such as {next(iter(images), 'none')}"
            yield DataError(name, "a file of no image of the split", example, "remove it")
            continue
        if name not in counts:
            yield DataError(name, "no file", "one", f"predict {images[name]}, and {again}")
            continue
        try:
            image = Image.open(BytesIO(archive.read(name)))
            image.load()
        except (*NOT_AN_IMAGE, RuntimeError, EOFError, zlib.error, zipfile.BadZipFile) as error:
            yield DataError(name, f"a damaged file ({error})", "a PNG", again)
            continue
        if (image.format, image.mode) != ("PNG", "L"):
            found = f"{image.format} of mode {image.mode}"
            yield DataError(name, found, "PNG of mode L", "write one channel of 8 bits with a class per pixel")
            continue
        height, width = size(images[name])
        if image.size != (width, height):
            found, should = f"{image.width}x{image.height} pixels", f"{width}x{height} as {images[name]}"
            yield DataError(name, found, should, "predict at the size of the image")
        if unknown := values(np.asarray(image)) - known:
            should = f"{in_words(known)}, the label values of the classes of {dataset.name}"
            yield DataError(name, f"values {in_words(unknown)}", should, "encode train ids as write_archive does")


def mean_metrics(dataset: SegmentationDataset) -> list[str]:
    """Name the means of a dataset as in result.json; with the means over categories where it has them."""
    more = ["mean_instance_iou", "mean_category_iou", "mean_category_instance_iou"]
    has_more = dataset.categories and dataset.instance_classes
    return ["miou", *(more if has_more else []), "pixel_accuracy", "mean_accuracy"]


def server_score_template(dataset: SegmentationDataset, split: str) -> list[dict[str, str]]:
    """List the scores that a server may return for a split, with an empty `value`: the rows of `SERVER_SCORES`.

    Rows without a condition are about all images. Metrics are named as in result.json.
    """
    scores = [("", metric) for metric in mean_metrics(dataset)] + [(name, "iou") for name in dataset.class_names]
    rows = [(split, condition, *score, "") for condition in ("", *dataset.conditions) for score in scores]
    return [dict(zip(COLUMNS, row, strict=True)) for row in rows]


def read_scores(path: str | Path, dataset: SegmentationDataset) -> dict[str, dict]:
    """Read a filled-in `server_score_template`: by split, the scores as in result.json.

    Values in the file are in %, as servers show them; rows with an empty value are left out. A `DataError` names the
    line whose score is unknown, there twice, or not in %.
    """
    lines = csv.DictReader(load(Path(path)).decode(errors="replace").splitlines(), restval="", restkey="more")
    template = {tuple(r.values())[:-1] for split in dataset.splits for r in server_score_template(dataset, split)}
    shares: dict[tuple[str, ...], float] = {}
    for number, row in enumerate(lines, start=2):
        where = f"{path}, line {number}"
        if tuple(row) != COLUMNS:
            raise DataError(where, f"columns {', '.join(row)}", ", ".join(COLUMNS), "restore the columns")
        score, value = tuple(row.values())[:-1], row["value"].strip()
        if score not in template or score in shares:
            fault = "a second time" if score in shares else f"no score of {dataset.name}"
            expected = "each row of the template of 05_test_inference once"
            raise DataError(where, f"{', '.join(filter(None, score))}: {fault}", expected, "correct or remove the row")
        if value and not (re.fullmatch(r"\d+(\.\d+)?", value) and float(value) <= 100):
            raise DataError(where, f"value {value!r}", "a number in %, such as 81.8", "correct it")
        if value:
            shares[score] = float(value) / 100
    if shares and max(shares.values()) <= 0.01:
        raise DataError(path, "no value above 1", "values in %, such as 81.8", "multiply them by 100")
    result: dict[str, dict] = {}
    for (split, condition, name, metric), share in shares.items():
        scores = result.setdefault(split, {})
        if condition:
            scores = scores.setdefault("conditions", {}).setdefault(condition, {})
        if name:
            scores = scores.setdefault(metric, {})
        scores[name or metric] = share
    return result
