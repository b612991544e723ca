"""One table of faults of whole folders: reading raises each as an error, validation lists the same file."""

import re
import shutil
import struct
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import cv2
import numpy as np
import pytest
from small_datasets import WRITERS, move, write

from ovenet_core.data import CITYSCAPES, get_dataset, io, validate
from ovenet_core.utils import DataError


class Fault(NamedTuple):
    """A damage, the end of the path that is named, a pattern in what was found and expected, the validator's kind."""

    damage: Callable[[Path], object]
    where: str
    words: str
    kind: str


def _edit(pattern: str, change):
    """Damage that replaces the pixels of the first such file."""

    def edit(root: Path):
        path = sorted(root.glob(pattern))[0]
        write(path, change(cv2.imread(str(path), cv2.IMREAD_UNCHANGED)))

    return edit


def _cut(pattern: str):
    return _first(pattern, lambda path: path.write_bytes(path.read_bytes()[:60]))


def _first(pattern: str, action):
    return lambda root: action(sorted(root.glob(pattern))[0])


def _swap(one: str, other: str):
    return move((one, "aside"), (other, one), ("aside", other))


def _dangle(path: Path):
    path.unlink()
    path.symlink_to(path.parent / "nowhere.png")


def _two_copies(root: Path):
    for name in ("x", "y"):
        for kind in ("leftImg8bit", "gtFine"):
            shutil.copytree(root / kind, root / name / kind)
    for kind in ("leftImg8bit", "gtFine"):
        shutil.rmtree(root / kind)


def _same_name_in_two_towns(root: Path):
    for kind in ("leftImg8bit", "gtFine"):
        shutil.copytree(root / kind / "train" / "ulm", root / kind / "train" / "bonn")


def _dangling_folder(root: Path):
    shutil.rmtree(root / "gt")
    (root / "gt").symlink_to(root / "nowhere")


def _unknown_value(label: np.ndarray) -> np.ndarray:
    label[0, 0] = 77
    return label


IMAGE, LABEL, INSTANCES = (
    f"{kind}.png" for kind in ("leftImg8bit/train/*/*", "gtFine/train/*/*_labelIds", "gtFine/train/*/*_instanceIds")
)
PHOTO, ANNOTATION, ACDC_LABEL = "images/training/*", "annotations/training/*", "gt/*/*/*/*"
JENA, JENA_LABEL, JENA_INSTANCES = (
    f"jena_000001_000019_{kind}.png" for kind in ("leftImg8bit", "gtFine_labelIds", "gtFine_instanceIds")
)
FOG, FOG_LABEL = (f"GOPR0400_frame_000000_{kind}.png" for kind in ("rgb_anon", "gt_labelTrainIds"))

FAULTS = {
    "cityscapes": {
        "image cut": Fault(_cut(IMAGE), JENA, "damaged", "damaged file"),
        "label cut": Fault(_cut(LABEL), JENA_LABEL, "damaged", "damaged file"),
        "instances cut": Fault(_cut(INSTANCES), JENA_INSTANCES, "damaged", "damaged instances"),
        "image empty": Fault(_first(IMAGE, lambda p: p.write_bytes(b"")), JENA, r"\(0 bytes", "empty file"),
        "image renamed": Fault(
            _first(IMAGE, lambda p: p.rename(p.with_name(f"x{p.name}"))), f"/x{JENA}", "no label", "image without label"
        ),
        "image gone": Fault(_first(IMAGE, Path.unlink), JENA_LABEL, "no image", "label without image"),
        "label gone": Fault(_first(LABEL, Path.unlink), JENA, "no label", "image without label"),
        "instances gone": Fault(_first(INSTANCES, Path.unlink), JENA, "no instances", "image without instances"),
        "all labels gone": Fault(
            lambda root: shutil.rmtree(root / "gtFine"), JENA, "no label of it, and 2 more", "image without label"
        ),
        "images and labels swapped": Fault(_swap("leftImg8bit", "gtFine"), "root", "no images of train", "empty split"),
        "splits swapped": Fault(_swap("gtFine/train", "gtFine/val"), JENA, "no label", "image without label"),
        "towns swapped": Fault(
            _swap("gtFine/train/ulm", "gtFine/train/jena"),
            JENA,
            "no label.*is .*ulm/jena_000001_000019",
            "image without label",
        ),
        "train ids": Fault(
            _edit(LABEL, lambda x: CITYSCAPES.lookup[x]), JENA_LABEL, "255.* 33$", "train ids as labels"
        ),
        "an unknown value": Fault(_edit(LABEL, _unknown_value), JENA_LABEL, "77.*0 to 33", "unknown label values"),
        "label of 16 bits": Fault(_edit(LABEL, np.uint16), JENA_LABEL, "uint16 .*one channel of uint8", "16 bit label"),
        "label in colours": Fault(
            _edit(LABEL, lambda x: cv2.merge([x, x, x])), JENA_LABEL, r"uint8 .* \(8, 12, 3\)", "colour label"
        ),
        "label and alpha": Fault(
            _edit(LABEL, lambda x: cv2.merge([x] * 4)), JENA_LABEL, r"uint8 of shape \(8, 12, 4\)", "colour label"
        ),
        "label a grey image": Fault(_edit(LABEL, lambda x: x * 7), JENA_LABEL, "label values", "unknown label values"),
        "label smaller": Fault(_edit(LABEL, lambda x: x[::2, ::2]), JENA_LABEL, "4x6 pixels.*8x12", "sizes differ"),
        "instances of 8 bits": Fault(
            _edit(INSTANCES, np.uint8), JENA_INSTANCES, "uint8 .*channel of uint16", "damaged instances"
        ),
        "instances turned": Fault(
            _edit(INSTANCES, lambda x: x.T.copy()), JENA_INSTANCES, "12x8 .*8x12 as .*labelIds", "damaged instances"
        ),
        "instances of no label": Fault(
            _edit(INSTANCES, lambda x: x + np.uint16(34000)), JENA_INSTANCES, "instance ids", "damaged instances"
        ),
        "split empty": Fault(
            lambda root: [p.unlink() for p in root.glob("leftImg8bit/val/*/*")],
            "root",
            r"no images of val.*leftImg8bit/val/\*",
            "empty split",
        ),
        "dangling link": Fault(_first(IMAGE, _dangle), JENA, "No such file", "dangling link"),
        "link in a circle": Fault(
            _first(LABEL, lambda p: (p.unlink(), p.symlink_to(p))), JENA_LABEL, "Too many", "dangling link"
        ),
        "image a folder": Fault(
            _first(IMAGE, lambda p: (p.unlink(), p.mkdir())), JENA, "Is a directory", "damaged file"
        ),
        "two copies": Fault(
            _two_copies, "root", r"leftImg8bit/train/\*/\*_leftImg8bit.png in x and in y.*one", "files of the same name"
        ),
        "same name in two towns": Fault(
            _same_name_in_two_towns, "leftImg8bit.png", "same name", "images of the same name"
        ),
    },
    "acdc": {
        "label gone": Fault(_first(ACDC_LABEL, Path.unlink), FOG, "no label", "image without label"),
        "conditions swapped": Fault(
            _swap("rgb_anon/fog", "rgb_anon/snow"), "png", "no label.*in the wrong folder", "image without label"
        ),
        "condition renamed": Fault(
            move(("rgb_anon/fog", "rgb_anon/mist"), ("gt/fog", "gt/mist")),
            FOG,
            "'mist'.*fog, night",
            "unknown condition",
        ),
        "label turned": Fault(_edit(ACDC_LABEL, lambda x: x.T.copy()), FOG_LABEL, "12x8 pixels.*8x12", "label rotated"),
        "dangling link": Fault(_first(ACDC_LABEL, _dangle), FOG_LABEL, "No such file", "dangling link"),
        "folder a dangling link": Fault(_dangling_folder, FOG, "no label", "image without label"),
    },
    "ade20k": {
        "JPEG cut": Fault(_cut(PHOTO), "ADE_train_00000001.jpg", "damaged", "damaged file"),
        "image a web page": Fault(
            _first(PHOTO, lambda p: p.write_text("<html>404")), "ADE_train_00000001.jpg", "damaged", "damaged file"
        ),
        "image turned": Fault(
            _edit(PHOTO, lambda x: x.swapaxes(0, 1).copy()), "00000001.png", "8x12 pixels.*12x8", "label rotated"
        ),
        "label renamed": Fault(
            _first(ANNOTATION, lambda p: p.rename(p.with_name("x.png"))),
            "00000001.jpg",
            "no label",
            "image without label",
        ),
        "folder renamed": Fault(
            move(("annotations", "labels")), "00000001.jpg", "no label.*annotations/training", "image without label"
        ),
        "values one too high": Fault(
            _edit(ANNOTATION, lambda x: x + 1), "00000001.png", "151.*0 to 150$", "unknown label values"
        ),
        "values one too low": Fault(_edit(ANNOTATION, lambda x: x - 1), "00000001.png", "255", "train ids as labels"),
        "split gone": Fault(
            lambda root: shutil.rmtree(root / "images/validation"), "root", "no images of val", "empty split"
        ),
    },
}
CASES = [
    pytest.param(name, fault, id=f"{name}, {what}") for name, faults in FAULTS.items() for what, fault in faults.items()
]


@pytest.mark.parametrize("name, fault", CASES)
def test_reader_and_validator_name_the_same_file(tmp_path, name, fault):
    data, root = get_dataset(name), tmp_path / "root"
    WRITERS[name](root)

    def read_all():
        for split in ("train",) if name == "acdc" else ("train", "val"):
            for sample in data.samples(root, split):
                data.read(sample)
                if sample.instances:
                    data.read_instances(sample)

    def found() -> set[str]:
        findings = validate(data, root, workers=1, progress=False).of("error")
        return {str(finding.where) for finding in findings if finding.kind == fault.kind}

    read_all()
    before = found()
    fault.damage(root)
    with pytest.raises(DataError) as caught:
        read_all()
    error = caught.value
    assert str(error.where).endswith(fault.where) and error.fix
    assert re.search(fault.words, f"{error.found}; {error.expected}") or re.search(
        fault.words, f"{error.found}; {error.fix}"
    )
    assert str(error.where) in found() - (before - {str(root)})


@pytest.mark.parametrize(
    "read", [io.size, lambda path: io.decode(path, cv2.IMREAD_UNCHANGED, palette=True)], ids=["size", "palette"]
)
@pytest.mark.parametrize("length, side", [(5, 8), (13, 60000)], ids=["cut header", "60000x60000"])
def test_a_damaged_header_is_named(tmp_path, read, length, side):
    """Pillow has errors of its own for a PNG header of another length, and for one of an image too large to be one."""
    path = write(tmp_path / "x.png", np.zeros((8, 8), np.uint8))
    header = b"IHDR" + struct.pack(">II", side, side) + bytes([8, 0, 0, 0, 0])
    crc = struct.pack(">I", zlib.crc32(header))
    data = path.read_bytes()
    path.write_bytes(data[:8] + struct.pack(">I", length) + header + crc + data[33:])
    with pytest.raises(DataError) as caught:
        read(path)
    assert caught.value.where == path and "PNG or JPEG file" in caught.value.expected
