"""Folders damaged in all sorts of ways: each damage is found when the folder is read, and the file is named."""

import shutil
import struct
import zlib
from pathlib import Path

import cv2
import numpy as np
import pytest
from small_datasets import WRITERS, move, write

from ovenet_core.data import dataset, io
from ovenet_core.data.dataset import CITYSCAPES
from ovenet_core.data.io import DataError


def _edit(pattern: str, change):
    """Damage that replaces the pixels of the first such file."""

    def edit(root: Path):
        path = sorted(root.glob(pattern))[0]
        write(path, change(cv2.imread(str(path), cv2.IMREAD_UNCHANGED)))

    return edit


def _cut(pattern: str):
    def cut(root: Path):
        path = sorted(root.glob(pattern))[0]
        path.write_bytes(path.read_bytes()[:60])

    return cut


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


IMAGE, LABEL, INSTANCES = (
    f"{kind}.png" for kind in ("leftImg8bit/train/*/*", "gtFine/train/*/*_labelIds", "gtFine/train/*/*_instanceIds")
)
PHOTO, ANNOTATION, ACDC_LABEL = "images/training/*", "annotations/training/*", "gt/*/*/*/*"

BROKEN = {
    "cityscapes": {
        "image cut": (_cut(IMAGE), r"jena_000001_000019_leftImg8bit\.png: damaged"),
        "label cut": (_cut(LABEL), r"jena_000001_000019_gtFine_labelIds\.png: damaged"),
        "instances cut": (_cut(INSTANCES), r"jena_000001_000019_gtFine_instanceIds\.png: damaged"),
        "image empty": (_first(IMAGE, lambda p: p.write_bytes(b"")), r"leftImg8bit\.png: damaged or cut \(0"),
        "image renamed": (_first(IMAGE, lambda p: p.rename(p.with_name(f"x{p.name}"))), r"xjena_\w+\.png: no label"),
        "image gone": (_first(IMAGE, Path.unlink), r"jena_000001_000019_gtFine_labelIds\.png: no image"),
        "label gone": (_first(LABEL, Path.unlink), r"jena_000001_000019_leftImg8bit\.png: no label"),
        "instances gone": (_first(INSTANCES, Path.unlink), r"jena_\w+_leftImg8bit\.png: no instances"),
        "all labels gone": (lambda root: shutil.rmtree(root / "gtFine"), r"\(nor have 2 others\): no label"),
        "images and labels swapped": (_swap("leftImg8bit", "gtFine"), "no images of cityscapes"),
        "splits swapped": (_swap("gtFine/train", "gtFine/val"), r"leftImg8bit\.png.*: no label"),
        "towns swapped": (
            _swap("gtFine/train/ulm", "gtFine/train/jena"),
            r"jena_000001_000019_leftImg8bit.png .*no label.*is it .*ulm.*jena_000001_000019",
        ),
        "train ids": (_edit(LABEL, lambda x: CITYSCAPES.lookup[x]), r"labelIds\.png: label values 255 .* 0 to 33;"),
        "label of 16 bits": (_edit(LABEL, np.uint16), r"labelIds\.png: uint16 .*expected one channel of uint8"),
        "label in colours": (_edit(LABEL, lambda x: cv2.merge([x, x, x])), r"labelIds\.png: uint8 .* \(8, 12, 3\)"),
        "label and alpha": (_edit(LABEL, lambda x: cv2.merge([x] * 4)), r"labelIds\.png: uint8 of shape \(8, 12, 4\)"),
        "label a grey image": (_edit(LABEL, lambda x: x * 7), r"labelIds\.png: label values .* do not exist"),
        "label smaller": (_edit(LABEL, lambda x: x[::2, ::2]), r"labelIds\.png: 4x6 pixels, expected 8x12"),
        "instances of 8 bits": (_edit(INSTANCES, np.uint8), r"instanceIds\.png: uint8 .*channel of uint16"),
        "instances turned": (_edit(INSTANCES, lambda x: x.T.copy()), r"instanceIds\.png: 12x8 .*8x12 as .*labelIds"),
        "instances of no label": (_edit(INSTANCES, lambda x: x + np.uint16(34000)), "instance ids .* do not exist"),
        "split empty": (lambda root: [p.unlink() for p in root.glob("leftImg8bit/val/*/*")], "root: no images of"),
        "dangling link": (_first(IMAGE, _dangle), r"jena_\w+_leftImg8bit\.png: No such file"),
        "link in a circle": (_first(LABEL, lambda p: (p.unlink(), p.symlink_to(p))), r"labelIds\.png: Too many"),
        "image a folder": (_first(IMAGE, lambda p: (p.unlink(), p.mkdir())), r"leftImg8bit\.png: Is a directory"),
        "two copies": (_two_copies, r"root: leftImg8bit/train/\*/\*_leftImg8bit.png is in x and in y, expected one"),
        "same name in two towns": (_same_name_in_two_towns, "is of the same name"),
    },
    "acdc": {
        "label gone": (_first(ACDC_LABEL, Path.unlink), r"GOPR0400_frame_000000_rgb_anon\.png: no label"),
        "conditions swapped": (_swap("rgb_anon/fog", "rgb_anon/snow"), "no label.*in the wrong folder"),
        "condition renamed": (move(("rgb_anon/fog", "rgb_anon/mist"), ("gt/fog", "gt/mist")), "'mist'.*fog, night"),
        "label turned": (_edit(ACDC_LABEL, lambda x: x.T.copy()), r"labelTrainIds\.png: 12x8 pixels, expected 8x12"),
        "dangling link": (_first(ACDC_LABEL, _dangle), r"GOPR0400\w+_gt_labelTrainIds\.png: No such file"),
        "folder a dangling link": (_dangling_folder, "no label"),
    },
    "ade20k": {
        "JPEG cut": (_cut(PHOTO), r"ADE_train_00000001\.jpg: damaged"),
        "image a web page": (_first(PHOTO, lambda p: p.write_text("<html>404")), r"00000001\.jpg: damaged"),
        "image turned": (_edit(PHOTO, lambda x: x.swapaxes(0, 1).copy()), r"1\.png: 8x12 pixels, expected 12x8"),
        "label renamed": (_first(ANNOTATION, lambda p: p.rename(p.with_name("x.png"))), r"00000001\.jpg: no label"),
        "folder renamed": (move(("annotations", "labels")), "no label, expected annotations/training"),
        "values one too high": (_edit(ANNOTATION, lambda x: x + 1), r"1\.png: label values 151 .*expected 0 to 150;"),
        "values one too low": (_edit(ANNOTATION, lambda x: x - 1), r"1\.png: label values 255 do not"),
        "split gone": (lambda root: shutil.rmtree(root / "images/validation"), "no images of ade20k"),
    },
}
CASES = [
    pytest.param(name, *case, id=f"{name}, {what}") for name, cases in BROKEN.items() for what, case in cases.items()
]


@pytest.mark.parametrize("name, damage, message", CASES)
def test_damaged_folder_is_named(tmp_path, name, damage, message):
    data, root = dataset.get_dataset(name), tmp_path / "root"
    WRITERS[name](root)

    def read_all():
        for split in ("train",) if name == "acdc" else ("train", "val"):
            for sample in data.samples(root, split):
                data.read(sample)
                if sample.instances:
                    data.read_instances(sample)

    read_all()
    damage(root)
    with pytest.raises(DataError, match=message):
        read_all()


@pytest.mark.parametrize(
    "read", [io.size, lambda path: io.decode(path, cv2.IMREAD_UNCHANGED, palette=True)], ids=["size", "palette"]
)
@pytest.mark.parametrize("length, side", [(5, 8), (13, 60000)], ids=["cut header", "60000x60000"])
def test_a_damaged_header_is_named(tmp_path, read, length, side):
    """Pillow has errors of its own for a PNG header of another length, and for one of an image too large to be one."""
    path = write(tmp_path / "x.png", np.zeros((8, 8), np.uint8))
    header = b"IHDR" + struct.pack(">II", side, side) + bytes([8, 0, 0, 0, 0])
    path.write_bytes(
        path.read_bytes()[:8]
        + struct.pack(">I", length)
        + header
        + struct.pack(">I", zlib.crc32(header))
        + path.read_bytes()[33:]
    )
    with pytest.raises(DataError, match=r"x\.png: .*expected .*PNG or JPEG file; fetch"):
        read(path)
