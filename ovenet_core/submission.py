"""Archives of predictions for the evaluation servers, written and then checked by reading them back."""

import io
import zipfile
import zlib
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType

import cv2
import numpy as np
from PIL import Image
from tqdm.auto import tqdm

from ovenet_core import files
from ovenet_core.benchmarks import Benchmark, DataError, Sample
from ovenet_core.predictions import SavedPredictions
from ovenet_core.runs import write_atomically

DATE = (1980, 1, 1, 0, 0, 0)  # of every file in an archive, so that the same predictions give the same bytes


@dataclass(frozen=True)
class Format:
    """What a server wants the files to be called: `folder` + name of the picture + `suffix` + ".png".

    In them it wants one channel of 8 bits with the label values of the data set, at the size of the picture.
    """

    folder: str = ""
    suffix: str = ""

    def file(self, sample: Sample) -> str:
        return f"{self.folder}{sample.name}{self.suffix}.png"


FORMATS: Mapping[str, Format] = MappingProxyType({
    # Label ids; the name only has to begin with city, sequence and frame: cityscapesScripts, getPrediction in
    # evalPixelLevelSemanticLabeling.py, looks for CITY_SEQUENCE_FRAME*.png in all folders.
    "cityscapes": Format(suffix="_pred_labelIds"),
    # Train ids, 1920x1080, below a folder of this name, in which the server looks for SEQUENCE_frame_NUMBER*.png: so
    # the rules of acdc.vision.ee.ethz.ch/submit as its users quote them. The suffix is that of the images.
    "acdc": Format(folder="labelTrainIds/", suffix="_rgb_anon"),
    # 1 to 150, the name of the image (development kit of the MIT Scene Parsing Benchmark, "Submission format").
    "ade20k": Format(),
})
PLAIN = Format()  # for a data set without a server


def write_archive(
    data: Benchmark,
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

    def write(file: io.BufferedWriter) -> None:
        with zipfile.ZipFile(file, "w", zipfile.ZIP_STORED) as archive:  # PNG is compressed already
            for sample in tqdm(sorted(samples, key=form.file), desc="archive", unit="picture", disable=not progress):
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
    path: str | Path, data: Benchmark, samples: Sequence[Sample], *, progress: bool = True
) -> list[str]:
    """What the server would refuse or score wrongly: each file, what was expected, and what to do.

    Compares number, names, sizes, mode and values with what the pictures of the samples and the benchmark ask for.
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
        yield f"{name}: of no picture of the split, expected names such as {next(iter(expected), 'none')}; remove it"
    for name, count in sorted(found.items()):
        if count > 1:
            yield f"{name}: {count} files of this name, expected one; write the archive again"


def _check_files(
    archive: zipfile.ZipFile, expected: Mapping[str, Sample], data: Benchmark, progress: bool
) -> Iterator[str]:
    values = files.values(data.encode(np.arange(data.num_classes, dtype=np.uint8)[None]))
    names = sorted(expected.keys() & set(archive.namelist()))
    for name in tqdm(names, desc="check", unit="picture", disable=not progress):
        try:
            picture = Image.open(io.BytesIO(archive.read(name)))
            picture.load()
        except (*files.NO_PICTURE, RuntimeError, EOFError, zlib.error, zipfile.BadZipFile) as error:
            yield f"{name}: damaged ({error}); write the archive again"
            continue
        if picture.format != "PNG" or picture.mode != "L":
            yield (f"{name}: {picture.format} of mode {picture.mode}, expected PNG of one channel of 8 bits (L) with "
                   "a class per pixel; write that, not colours")
            continue
        height, width = files.size(expected[name].image)
        if picture.size != (width, height):
            yield (f"{name}: {picture.width}x{picture.height} pixels, expected {width}x{height} as "
                   f"{expected[name].image}; predict at the size of the picture")
        if unknown := files.values(np.asarray(picture)) - values:
            yield (f"{name}: values {files.in_words(unknown)}, expected {files.in_words(values)}, the label values of "
                   f"the classes of {data.name}; encode train ids as write_archive does")
