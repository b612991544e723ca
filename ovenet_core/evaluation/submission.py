"""Archives of predictions for the evaluation servers, written and then checked by reading them back; their answers."""

import csv
import re
import zipfile
import zlib
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from io import BufferedWriter, BytesIO
from pathlib import Path
from types import MappingProxyType

import cv2
import numpy as np
from PIL import Image
from tqdm.auto import tqdm

from ovenet_core.data import DataError, Sample, SegmentationDataset, io
from ovenet_core.evaluation.predictions import SavedPredictions
from ovenet_core.utils import write_atomically

SERVER_SCORES = "server.csv"  # in the folder of a run: what a server said of its predictions
DATE = (1980, 1, 1, 0, 0, 0)  # of every file in an archive, so that the same predictions give the same bytes


@dataclass(frozen=True)
class SubmissionFormat:
    """What a server wants the files to be called: `folder` + name of the image + `suffix` + ".png".

    In them it wants one channel of 8 bits with the label values of the dataset, at the size of the image.
    """

    folder: str = ""
    suffix: str = ""

    def file(self, sample: Sample) -> str:
        return f"{self.folder}{sample.name}{self.suffix}.png"


FORMATS: Mapping[str, SubmissionFormat] = MappingProxyType(
    {
        # Label ids; the name only has to begin with city, sequence and frame: cityscapesScripts, getPrediction in
        # evalPixelLevelSemanticLabeling.py, looks for CITY_SEQUENCE_FRAME*.png in all folders.
        "cityscapes": SubmissionFormat(suffix="_pred_labelIds"),
        # Train ids, 1920x1080, below a folder of this name, in which the server looks for SEQUENCE_frame_NUMBER*.png:
        # so the rules of acdc.vision.ee.ethz.ch/submit as its users quote them. The suffix is that of the images.
        "acdc": SubmissionFormat(folder="labelTrainIds/", suffix="_rgb_anon"),
        # 1 to 150, the name of the image (development kit of the MIT Scene Parsing Benchmark, "Submission format").
        "ade20k": SubmissionFormat(),
    }
)
PLAIN = SubmissionFormat()  # for a dataset without a server


def write_archive(
    data: SegmentationDataset,
    samples: Sequence[Sample],
    predictions: SavedPredictions,
    path: str | Path,
    *,
    progress: bool = True,
) -> Path:
    """Write the final predictions (S_f; of a baseline S_i) as the archive that the server of the benchmark takes.

    It is read back before it is put in its place; the same predictions always give the same bytes.

    Raises:
        DataError: a prediction is missing, or the archive has findings of `check_archive`; no archive is left then.
    """
    form, path = FORMATS.get(data.name, PLAIN), Path(path)

    def write(file: BufferedWriter) -> None:
        with zipfile.ZipFile(file, "w", zipfile.ZIP_STORED) as archive:  # PNG is compressed already
            for sample in tqdm(sorted(samples, key=form.file), desc="archive", unit="image", disable=not progress):
                ids = predictions.read(sample)[predictions.outputs[-1]]
                _, png = cv2.imencode(".png", data.encode(ids))
                entry = zipfile.ZipInfo(form.file(sample), DATE)
                entry.external_attr = 0o644 << 16
                archive.writestr(entry, png.tobytes())
        file.flush()
        if findings := check_archive(file.name, data, samples, progress=progress):
            raise DataError(f"{path}: not written, for {len(findings)} reasons:\n" + "\n".join(findings))

    path.parent.mkdir(parents=True, exist_ok=True)
    write_atomically(path, write, mode="wb")
    return path


def check_archive(
    path: str | Path, data: SegmentationDataset, samples: Sequence[Sample], *, progress: bool = True
) -> list[str]:
    """What the server would refuse or score wrongly: each file, what was expected, and what to do.

    Compares number, names, sizes, mode and values with what the images of the samples and the benchmark ask for.
    An archive without findings is ready to be uploaded.
    """
    form = FORMATS.get(data.name, PLAIN)
    expected = {form.file(sample): sample for sample in samples}
    try:
        with zipfile.ZipFile(path) as archive:
            return [*_check_names(archive, expected), *_check_files(archive, expected, data, progress)]
    except (OSError, zipfile.BadZipFile) as error:
        return [f"{path}: no readable zip file ({error}); write it again"]


def _check_names(archive: zipfile.ZipFile, expected: Mapping[str, Sample]) -> Iterator[str]:
    found = Counter(name for name in archive.namelist() if not name.endswith("/"))
    for name in sorted(expected.keys() - found.keys()):
        yield f"{name}: missing; predict {expected[name].image}, and write the archive again"
    for name in sorted(found.keys() - expected.keys()):
        yield f"{name}: of no image of the split, expected names such as {next(iter(expected), 'none')}; remove it"
    for name, count in sorted(found.items()):
        if count > 1:
            yield f"{name}: {count} files of this name, expected one; write the archive again"


def _check_files(
    archive: zipfile.ZipFile, expected: Mapping[str, Sample], data: SegmentationDataset, progress: bool
) -> Iterator[str]:
    values = io.values(data.encode(np.arange(data.num_classes, dtype=np.uint8)[None]))
    names = sorted(expected.keys() & set(archive.namelist()))
    for name in tqdm(names, desc="check", unit="image", disable=not progress):
        try:
            image = Image.open(BytesIO(archive.read(name)))
            image.load()
        except (*io.NOT_AN_IMAGE, RuntimeError, EOFError, zlib.error, zipfile.BadZipFile) as error:
            yield f"{name}: damaged ({error}); write the archive again"
            continue
        if image.format != "PNG" or image.mode != "L":
            yield (
                f"{name}: {image.format} of mode {image.mode}, expected PNG of one channel of 8 bits (L) with "
                "a class per pixel; write that, not colours"
            )
            continue
        height, width = io.size(expected[name].image)
        if image.size != (width, height):
            yield (
                f"{name}: {image.width}x{image.height} pixels, expected {width}x{height} as "
                f"{expected[name].image}; predict at the size of the image"
            )
        if unknown := io.values(np.asarray(image)) - values:
            yield (
                f"{name}: values {io.in_words(unknown)}, expected {io.in_words(values)}, the label values of "
                f"the classes of {data.name}; encode train ids as write_archive does"
            )


def mean_metrics(data: SegmentationDataset) -> list[str]:
    """The means that a benchmark is scored by, as result.json calls them: those of categories where it has them."""
    more = ["mean_instance_iou", "mean_category_iou", "mean_category_instance_iou"]
    return ["miou", *(more if data.categories and data.instance_classes else []), "pixel_accuracy", "mean_accuracy"]


def server_score_template(data: SegmentationDataset, split: str) -> list[dict[str, str]]:
    """What the server of a benchmark may tell of a split, each score with an empty `value`: the rows of a `SCORES`.

    The rows without a condition are of all images. The metrics are called as in result.json.
    """
    scores = [("", metric) for metric in mean_metrics(data)] + [(name, "iou") for name in data.class_names]
    return [
        {"split": split, "condition": condition, "class": name, "metric": metric, "value": ""}
        for condition in ("", *data.conditions)
        for name, metric in scores
    ]


def read_scores(path: str | Path, data: SegmentationDataset) -> dict[str, dict]:
    """By split, the scores of a form that was filled in (`score_form`), as result.json has them: shares, by name.

    Its values are in %, as servers tell them; those left empty are not there.

    Raises:
        DataError: naming the line: it has a score that is not in the form, twice, or not in %.
    """
    lines = csv.DictReader(io.load(Path(path)).decode(errors="replace").splitlines(), restval="", restkey="more")
    expected = {_score(row): list(row) for split in data.splits for row in server_score_template(data, split)}
    found: dict[tuple[str, ...], float] = {}
    for line, row in enumerate(lines, start=2):
        columns = next(iter(expected.values()))
        if list(row) != columns:
            raise DataError(f"{path}, line {line}: columns {', '.join(row)}; expected {', '.join(columns)}")
        if (score := _score(row)) not in expected or score in found:
            fault = "a second time" if score in found else f"no score that is known of {data.name}"
            named = ", ".join(filter(None, score))
            raise DataError(
                f"{path}, line {line}: {named}: {fault}; expected rows of the form that 05_test_inference writes"
            )
        if (value := row["value"].strip()) == "":
            continue
        if not re.fullmatch(r"\d+(\.\d+)?", value) or float(value) > 100:
            raise DataError(f"{path}, line {line}: value is {value!r}; expected a number in %, such as 81.8")
        found[score] = float(value) / 100
    if found and max(found.values()) <= 0.01:
        raise DataError(f"{path}: no value above 1; expected them in %, such as 81.8 in place of 0.818")
    made: dict[str, dict] = {}
    for (split, condition, name, metric), value in found.items():
        scores = made.setdefault(split, {})
        if condition:
            scores = scores.setdefault("conditions", {}).setdefault(condition, {})
        if name:
            scores = scores.setdefault(metric, {})
        scores[name or metric] = value
    return made


def _score(row: Mapping[str, str]) -> tuple[str, ...]:
    return tuple(row.get(column, "") for column in ("split", "condition", "class", "metric"))
