"""Very small datasets in the layouts of the benchmarks, with every label value, for tests."""

from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np

from ovenet_core.cross_entropy import IGNORE_INDEX
from ovenet_core.data import CITYSCAPES

SIZE = (8, 12)
FRAMES = {"train": "000019", "val": "000020", "test": "000021", "train_extra": "000022"}
ACDC_CONDITIONS = ("fog", "night", "rain", "snow")


def write(path: Path, array: np.ndarray) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    assert cv2.imwrite(str(path), array)
    return path


def write_cityscapes(root: Path) -> Path:
    """Three images to train, one to validate, one to test, one with a coarse label, in two towns."""
    rng = np.random.default_rng(0)
    for split, count in {"train": 3, "val": 1, "test": 1, "train_extra": 1}.items():
        kind = "gtCoarse" if split == "train_extra" else "gtFine"
        for index in range(count):
            town = ("ulm", "jena")[index % 2]
            name = f"{town}_00000{index}_{FRAMES[split]}"
            label = rng.integers(0, 34, SIZE, np.uint8)
            label[0, :3] = 0, 21, 33
            ids = np.where(label >= 24, label * np.uint16(1000) + index, label)
            image = rng.integers(0, 256, (*SIZE, 3), np.uint8)
            write(root / "leftImg8bit" / split / town / f"{name}_leftImg8bit.png", image)
            write(root / kind / split / town / f"{name}_{kind}_labelIds.png", label)
            write(root / kind / split / town / f"{name}_{kind}_instanceIds.png", ids)
    return root


def write_acdc(root: Path, kind: str = "labelTrainIds", encoding: str = "train ids") -> Path:
    """Two images to train and one to test of each condition; `kind` is in the names, `encoding` in the values."""
    rng = np.random.default_rng(1)
    for number, condition in enumerate(ACDC_CONDITIONS):
        for split, count in {"train": 2, "test": 1}.items():
            for index in range(count):
                name = f"GOPR040{number}_frame_00000{index}"
                path = Path(condition, split, f"GOPR040{number}")
                write(root / "rgb_anon" / path / f"{name}_rgb_anon.png", rng.integers(0, 256, (*SIZE, 3), np.uint8))
                if split == "train":
                    label = rng.integers(0, 19, SIZE, np.uint8)
                    label[0, :2] = IGNORE_INDEX, 10
                    if encoding == "label ids":
                        label = CITYSCAPES.encode(label)
                    write(root / "gt" / path / f"{name}_gt_{kind}.png", label)
    return root


def write_ade20k(root: Path) -> Path:
    rng = np.random.default_rng(2)
    for split, short, count in (("training", "train", 2), ("validation", "val", 1)):
        for index in range(count):
            name = f"ADE_{short}_0000000{index + 1}"
            label = rng.integers(0, 151, SIZE, np.uint8)
            label[0, :2] = 0, 150
            write(root / "images" / split / f"{name}.jpg", rng.integers(0, 256, (*SIZE, 3), np.uint8))
            write(root / "annotations" / split / f"{name}.png", label)
    return root


WRITERS = {"cityscapes": write_cityscapes, "acdc": write_acdc, "ade20k": write_ade20k}


def move(*moves: tuple[str, str]) -> Callable[[Path], None]:
    """A change of a folder: each first path in it becomes the second."""

    def change(root: Path):
        for source, target in moves:
            (root / target).parent.mkdir(parents=True, exist_ok=True)
            (root / source).rename(root / target)

    return change
