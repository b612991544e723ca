"""Generated scenes: images with exact labels and instances, drawn from a seed, in the layouts of the benchmarks.

`street` and `places` lay scenes out as coloured polygons in metres, from `parts` and `shapes`; `camera` and `weather`
paint them at any size, and `write_scenes` writes sets of them as Cityscapes, ACDC and ADE20K come.
"""

import difflib
import json
import shutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any

import cv2
import numpy as np
from filelock import FileLock
from tqdm.auto import tqdm

from ovenet_core.data import dataset
from ovenet_core.data.dataset import ACDC, CITYSCAPES, SegmentationDataset
from ovenet_core.data.io import DataError, find
from ovenet_core.data.synthetic.camera import MOODS, Camera, Scene
from ovenet_core.data.synthetic.parts import LABEL_ID
from ovenet_core.data.synthetic.places import draw_place
from ovenet_core.data.synthetic.street import Street
from ovenet_core.data.synthetic.weather import WeatherCamera
from ovenet_core.utils import write_atomically

SPLIT_SIZES = MappingProxyType({"train": 48, "val": 16, "test": 4})
_SPLITS = ("train", "val", "test")
_ROUGHNESS = np.full(256, 3, np.float32)  # how strong the texture of a class is, in grey levels
for _name, _strength in {
    "vegetation": 26,
    "terrain": 14,
    "wall": 12,
    "fence": 9,
    "building": 7,
    "sidewalk": 6,
    "road": 4,
    "sky": 0,
}.items():
    _ROUGHNESS[LABEL_ID[_name]] = _strength


def draw_scene(seed: int, height: int, width: int, condition: str = "") -> Scene:
    """The street scene of a seed (0 or more) at a size in pixels; at another size it is the same street.

    The same seed gives the same bytes, as long as the version of OpenCV, which draws them, is the same.

    Args:
        condition: fog, night, rain or snow; else the weather is fair, or depends on the seed.

    Raises:
        ValueError: a side is below 16 pixels, or the seed is negative.
    """
    if condition:
        camera = WeatherCamera(condition, seed, height, width, LABEL_ID["sky"], _ROUGHNESS)
    else:
        camera = Camera(seed, height, width, MOODS, LABEL_ID["sky"], _ROUGHNESS)
    street = Street(seed, camera.mood.sunlight)
    camera.paint_sky()
    camera.paint(street.ground, haze=False)
    camera.shade_ground(street.upright, street.to_sun)
    camera.paint(street.upright)
    if street.bonnet is not None:
        camera.paint_bonnet(street.bonnet, LABEL_ID["ego vehicle"])
    return camera.develop()


Plan = Mapping[tuple[str, str, int], tuple[str, ...]]  # (split, condition, index) to the files of that image


@dataclass(frozen=True)
class _Layout:
    """How a benchmark stores its images.

    Attributes:
        folders: what lies at its root.
        split_sizes: the default number of images, for each condition where there are conditions.
        files: the files of an image, from (split, condition, index).
        draw: what is in these files (RGB images and labels), from (seed, size, condition).
    """

    folders: tuple[str, ...]
    split_sizes: Mapping[str, int]
    files: Callable[[str, str, int], tuple[str, ...]]
    draw: Callable[[int, tuple[int, int], str], tuple[np.ndarray, ...]]
    conditions: tuple[str, ...] = ("",)
    marker: str = "scenes.json"  # the file that says which scenes are there
    version: int = 1  # of the drawing: raise it when a change gives other bytes, so that sets on disk are drawn again


def _cityscapes_files(split: str, condition: str, index: int) -> tuple[str, ...]:
    name = f"{split}/street/street_{_SPLITS.index(split):06d}_{index:06d}"
    return tuple(
        f"{kind}/{name}_{suffix}.png"
        for kind, suffix in (
            ("leftImg8bit", "leftImg8bit"),
            ("gtFine", "gtFine_labelIds"),
            ("gtFine", "gtFine_instanceIds"),
        )
    )


def _cityscapes_arrays(seed: int, size: tuple[int, int], condition: str) -> tuple[np.ndarray, ...]:
    scene = draw_scene(seed, *size)
    return scene.image, scene.label_ids, scene.instance_ids


def _acdc_files(split: str, condition: str, index: int) -> tuple[str, ...]:
    sequence = f"GP{ACDC.conditions.index(condition):02d}{_SPLITS.index(split):02d}"
    name = f"{condition}/{split}/{sequence}/{sequence}_frame_{index + 1:06d}"
    files = (f"rgb_anon/{name}_rgb_anon.png", f"gt/{name}_gt_labelTrainIds.png", f"gt/{name}_gt_instanceIds.png")
    return files[:1] if split == "test" else files


def _acdc_arrays(seed: int, size: tuple[int, int], condition: str) -> tuple[np.ndarray, ...]:
    scene = draw_scene(seed, *size, condition)
    return scene.image, CITYSCAPES.lookup[scene.label_ids], scene.instance_ids


def _ade20k_files(split: str, condition: str, index: int) -> tuple[str, ...]:
    if split == "test":
        return (f"release_test/testing/ADE_test_{index + 1:08d}.jpg",)
    folder, name = {"train": "training", "val": "validation"}[split], f"ADE_{split}_{index + 1:08d}"
    kinds = {"images": "jpg", "annotations": "png", "annotations_instance": "png"}
    return tuple(f"{kind}/{folder}/{name}.{ending}" for kind, ending in kinds.items())


def _ade20k_arrays(seed: int, size: tuple[int, int], condition: str) -> tuple[np.ndarray, ...]:
    # No two images of ADE20K need be of one size; these have three quarters to five quarters of the given sides.
    sides = np.random.default_rng([seed, 2]).uniform(0.75, 1.25, 2) * size
    scene = draw_place(seed, *(max(16, round(side)) for side in sides.tolist()))
    number, label_ids = np.divmod(scene.instance_ids, 256)
    return scene.image, scene.label_ids, np.stack([label_ids, number, np.zeros_like(number)], axis=2).astype(np.uint8)


_LAYOUTS = {
    "cityscapes": _Layout(("leftImg8bit", "gtFine"), SPLIT_SIZES, _cityscapes_files, _cityscapes_arrays, version=2),
    "acdc": _Layout(
        ("rgb_anon", "gt"),
        {"train": 12, "val": 4, "test": 1},
        _acdc_files,
        _acdc_arrays,
        ACDC.conditions,
        "scenes_acdc.json",
    ),
    "ade20k": _Layout(
        ("images", "annotations", "annotations_instance", "release_test"),
        SPLIT_SIZES,
        _ade20k_files,
        _ade20k_arrays,
        marker="scenes_ade20k.json",
    ),
}


def write_scenes(
    root: str | Path,
    benchmark: str = "cityscapes",
    *,
    split_sizes: Mapping[str, int] | None = None,
    size: tuple[int, int] = (128, 256),
    seed: int = 0,
    progress: bool = True,
) -> Path:
    """Writes a set of scenes in the folder layout of a benchmark, and returns its root.

    A scene depends on the seed, its split, its condition and its number there, and on nothing else. A set that is
    already there is kept; one that was interrupted, or written with other settings, is drawn anew.
    Of the test splits, only that of Cityscapes has labels; unlike there, they are real. Every label has a map of
    instances beside it: for Cityscapes and ACDC, where we name it so, as Cityscapes stores them; for ADE20K in
    annotations_instance, whose red is the label value, one of 150 here, and whose green is the number of the thing.

    Args:
        benchmark: cityscapes, acdc (street scenes in fog, at night, in rain and in snow), or ade20k (rooms, streets
            and landscapes with things of its 150 classes, as JPEG).
        split_sizes: number of scenes in each of train, val and test; for ACDC, of each condition. If None, 48
            for train, 16 for val and 4 for test, and for ACDC 12, 4 and 1 of each condition.
        size: (height, width) in pixels; the images of ADE20K vary around it.

    Raises:
        DataError: the root holds data that this function did not write, or the benchmark is another.
        ValueError: an unknown split.
    """
    if benchmark not in _LAYOUTS:
        raise DataError(f"scenes of {benchmark!r}: expected one of {', '.join(_LAYOUTS)}; choose one of these")
    root, layout = Path(root), _LAYOUTS[benchmark]
    split_sizes = layout.split_sizes if split_sizes is None else split_sizes
    if unknown := set(split_sizes) - set(_SPLITS):
        raise ValueError(f"splits {sorted(unknown)}: expected some of {', '.join(_SPLITS)}; rename them")
    settings = json.dumps({"version": layout.version, "seed": seed, "size": size, "split_sizes": dict(split_sizes)})
    plan = {
        (split, condition, index): layout.files(split, condition, index)
        for split, count in split_sizes.items()
        for condition in layout.conditions
        for index in range(count)
    }
    marker = root / layout.marker

    def is_whole() -> bool:
        return (
            marker.is_file()
            and marker.read_text() == settings
            and all((root / file).is_file() for files in plan.values() for file in files)
        )

    if is_whole():
        return root
    if not marker.is_file() and any((root / folder).exists() for folder in layout.folders):
        raise DataError(f"{root}: expected an empty folder or scenes, found other data; give another folder")
    root.mkdir(parents=True, exist_ok=True)
    with FileLock(root / f".{layout.marker}.lock"):  # several runs may want the same set at the same time
        if not is_whole():
            _draw(root, layout, plan, size, seed, progress)
            write_atomically(marker, lambda file: file.write(settings))  # last: where it stands, the set is whole
    return root


def _draw(root: Path, layout: _Layout, plan: Plan, size: tuple[int, int], seed: int, progress: bool) -> None:
    """Draws the planned files in place of what is there."""
    (root / layout.marker).write_text("unfinished")  # what is there from now on is ours, and not whole
    for folder in layout.folders:
        shutil.rmtree(root / folder, ignore_errors=True)
    for (split, condition, index), files in tqdm(plan.items(), desc="synthetic", disable=not progress):
        # Splits and conditions are far apart, so that no two images are of the same scene.
        code = (seed * len(_SPLITS) + _SPLITS.index(split)) * 1_000_000 + layout.conditions.index(condition) * 200_000
        for file, array in zip(files, layout.draw(code + index, size, condition), strict=False):
            _write_image(root / file, array)


def _settings_of(marker: Path, version: int) -> dict[str, Any]:
    """What a whole set was drawn with, as write_scenes takes it; nothing if there is none of this version."""
    try:
        settings = json.loads(marker.read_text())
    except (OSError, json.JSONDecodeError):
        return {}
    return settings | {"size": tuple(settings["size"])} if settings.pop("version") == version else {}


def _write_image(path: Path, array: np.ndarray):
    path.parent.mkdir(parents=True, exist_ok=True)
    if not cv2.imwrite(str(path), cv2.cvtColor(array, cv2.COLOR_RGB2BGR) if array.ndim == 3 else array):
        raise OSError(f"{path}: could not be written; check permissions and the space on the disk")


def open_dataset(
    name: str, data_root: str | Path = "", places: Sequence[str | Path] = ()
) -> tuple[SegmentationDataset, Path]:
    """The benchmark of a name, and the folder with its images.

    Args:
        name: of a benchmark; or synthetic/cityscapes, synthetic/acdc or synthetic/ade20k, to draw scenes in its format.
        data_root: the folder with the images, or for the scenes, where a set of any size that was drawn before is
            taken as it is. If empty, it is looked for in `places` under the benchmark's name, and scenes go to
            synthetic/cityscapes (or acdc, ade20k) in the first of the places.

    Raises:
        DataError: no such benchmark, or no such folder.
    """
    drawn = {f"synthetic/{key}": key for key in _LAYOUTS}
    if name in drawn:
        if not data_root and not places:
            raise DataError(f"{name}: no folder to draw them into; give data_root")
        root = Path(data_root) if data_root else Path(places[0]) / name
        settings = _settings_of(root / _LAYOUTS[drawn[name]].marker, _LAYOUTS[drawn[name]].version)
        return dataset.DATASETS[drawn[name]], write_scenes(root, drawn[name], **settings)
    if name not in dataset.DATASETS:
        names = [*drawn, *dataset.DATASETS]
        nearest = difflib.get_close_matches(name.lower(), names, n=1, cutoff=0)[0]
        raise DataError(f"dataset {name!r}: expected one of {', '.join(names)}; did you mean {nearest!r}?")
    if data_root and not Path(data_root).is_dir():
        raise DataError(f"{data_root}: no such folder, expected the images of {name}; correct data_root")
    return dataset.DATASETS[name], Path(data_root) if data_root else find(name, *places)
