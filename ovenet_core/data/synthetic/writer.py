"""Write sets of generated scenes, drawn from a seed with exact labels and instances, in the layouts of benchmarks.

`street` and `objects` lay scenes out as coloured polygons in metres; `camera` and `weather` paint them at any size.
"""

import json
import shutil
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType

import cv2
import numpy as np
from filelock import FileLock
from tqdm.auto import tqdm

from ovenet_core.data.acdc import ACDC
from ovenet_core.data.cityscapes import CITYSCAPES
from ovenet_core.data.synthetic.camera import Camera, Scene
from ovenet_core.data.synthetic.objects import draw_place
from ovenet_core.data.synthetic.parts import LABEL_ID
from ovenet_core.data.synthetic.street import Street
from ovenet_core.data.synthetic.weather import WeatherCamera
from ovenet_core.utils import ConfigError, DataError, WriteError, write_atomically

_SPLITS = ("train", "val", "test")
_TEXTURED = {"vegetation": 26, "terrain": 14, "wall": 12, "fence": 9, "building": 7, "sidewalk": 6, "road": 4, "sky": 0}
_ROUGHNESS = np.full(256, 3, np.float32)  # strength of the texture of a class, in grey levels
_ROUGHNESS[[LABEL_ID[name] for name in _TEXTURED]] = list(_TEXTURED.values())


def draw_scene(seed: int, height: int, width: int, condition: str = "") -> Scene:
    """Draw the street scene of a seed (0 or more) at a size in pixels; at another size it is the same street.

    The same seed gives the same bytes with the same version of OpenCV, which draws them. The condition is fog, night,
    rain or snow; if empty, fair or cloudy. A ConfigError if a side is below 16 pixels, or the seed is negative.
    """
    camera_type = WeatherCamera if condition else Camera
    camera = camera_type(condition, seed, height, width, LABEL_ID["sky"], _ROUGHNESS)
    street = Street(seed, camera.mood.sunlight)
    camera.shoot(street.ground, street.upright, street.to_sun)
    if street.bonnet is not None:
        camera.paint_bonnet(street.bonnet, LABEL_ID["ego vehicle"])
    return camera.develop(np.where(camera.ids >= 1000, camera.ids // 1000, camera.ids).astype(np.uint8))


@dataclass(frozen=True)
class _Layout:
    """How a benchmark stores its images."""

    folders: tuple[str, ...]  # at its root
    files: Callable[[str, str, int], tuple[str, ...]]  # of an image, from (split, condition, index)
    draw: Callable[[int, tuple[int, int], str], tuple[np.ndarray, ...]]  # their contents, from (seed, size, condition)
    marker: str  # the file that says which scenes are there
    version: int  # of the drawing; when a change gives other bytes, raise it so that sets on disk are drawn again
    split_sizes: tuple[int, int, int] = (48, 16, 4)  # default numbers of images in `_SPLITS`, for each condition
    conditions: tuple[str, ...] = ("",)


def _cityscapes_files(split: str, condition: str, index: int) -> tuple[str, ...]:
    name = f"{split}/street/street_{_SPLITS.index(split):06d}_{index:06d}"
    labels = (f"gtFine/{name}_gtFine_{kind}.png" for kind in ("labelIds", "instanceIds"))
    return f"leftImg8bit/{name}_leftImg8bit.png", *labels


def _acdc_files(split: str, condition: str, index: int) -> tuple[str, ...]:
    sequence = f"GP{ACDC.conditions.index(condition):02d}{_SPLITS.index(split):02d}"
    name = f"{condition}/{split}/{sequence}/{sequence}_frame_{index + 1:06d}"
    files = (f"rgb_anon/{name}_rgb_anon.png", f"gt/{name}_gt_labelTrainIds.png", f"gt/{name}_gt_instanceIds.png")
    return files[:1] if split == "test" else files


def _street(seed: int, size: tuple[int, int], condition: str) -> tuple[np.ndarray, ...]:
    scene = draw_scene(seed, *size, condition)
    return scene.image, CITYSCAPES.lookup[scene.label_ids] if condition else scene.label_ids, scene.instance_ids


def _ade20k_files(split: str, condition: str, index: int) -> tuple[str, ...]:
    if split == "test":
        return (f"release_test/testing/ADE_test_{index + 1:08d}.jpg",)
    name = f"{'training' if split == 'train' else 'validation'}/ADE_{split}_{index + 1:08d}"
    return f"images/{name}.jpg", f"annotations/{name}.png", f"annotations_instance/{name}.png"


def _place(seed: int, size: tuple[int, int], condition: str) -> tuple[np.ndarray, ...]:
    # Images of ADE20K have various sizes; sides of these are 0.75 to 1.25 of the given ones.
    sides = np.random.default_rng([seed, 2]).uniform(0.75, 1.25, 2) * size
    scene = draw_place(seed, *(max(16, round(side)) for side in sides.tolist()))
    number, label_ids = np.divmod(scene.instance_ids, 256)
    return scene.image, scene.label_ids, np.stack([label_ids, number, np.zeros_like(number)], axis=2).astype(np.uint8)


_ADE20K_FOLDERS = ("images", "annotations", "annotations_instance", "release_test")
_LAYOUTS = {
    "cityscapes": _Layout(("leftImg8bit", "gtFine"), _cityscapes_files, _street, "scenes.json", 2),
    "acdc": _Layout(("rgb_anon", "gt"), _acdc_files, _street, "scenes_acdc.json", 1, (12, 4, 1), ACDC.conditions),
    "ade20k": _Layout(_ADE20K_FOLDERS, _ade20k_files, _place, "scenes_ade20k.json", 2),
}
SYNTHETIC = MappingProxyType({f"synthetic/{name}": name for name in _LAYOUTS})  # names of generated sets


def write_scenes(
    root: str | Path,
    benchmark: str = "cityscapes",
    *,
    split_sizes: Mapping[str, int] | None = None,
    size: tuple[int, int] = (128, 256),
    seed: int = 0,
    progress: bool = True,
) -> Path:
    """Write a set of scenes in the folder layout of a benchmark, and return its root.

    A scene depends only on the seed and its split, condition and number there. A set that is already there is kept;
    one that was interrupted, or written with other settings, is drawn again. Of the test splits, only Cityscapes' has
    labels; they are real here. Every label has an instance map next to it: for Cityscapes and ACDC as Cityscapes stores
    them; for ADE20K in annotations_instance, with the label value (1 to 150) in red and the object's number in green.

    Args:
        benchmark: cityscapes, acdc (street scenes in fog, at night, in rain and in snow), or ade20k (rooms, streets
            and landscapes with objects of its 150 classes, as JPEG).
        split_sizes: scenes in train, val and test, for ACDC of each condition; by default 48, 16, 4; ACDC 12, 4, 1.
        size: (height, width) in pixels; the images of ADE20K vary around it.

    Raises:
        ConfigError, DataError, WriteError: no such benchmark or split; data of others in the root; a full disk.
    """
    if benchmark not in _LAYOUTS:
        raise ConfigError("benchmark", repr(benchmark), f"one of {', '.join(_LAYOUTS)}", "choose one of these")
    root, layout = Path(root), _LAYOUTS[benchmark]
    split_sizes = dict(zip(_SPLITS, layout.split_sizes, strict=True) if split_sizes is None else split_sizes)
    if unknown := set(split_sizes) - set(_SPLITS):
        raise ConfigError("split_sizes", sorted(unknown), f"some of {', '.join(_SPLITS)}", "rename these splits")
    settings = json.dumps({"version": layout.version, "seed": seed, "size": size, "split_sizes": split_sizes})
    images = [(split, c, i) for split, count in split_sizes.items() for c in layout.conditions for i in range(count)]
    plan, marker = {image: layout.files(*image) for image in images}, root / layout.marker

    def is_whole() -> bool:
        if not marker.is_file() or marker.read_text() != settings:
            return False
        return all((root / file).is_file() for files in plan.values() for file in files)

    if is_whole():
        return root
    if not marker.is_file() and any((root / folder).exists() for folder in layout.folders):
        raise DataError(root, "other data", "an empty folder or scenes", "give another folder")
    root.mkdir(parents=True, exist_ok=True)
    with FileLock(root / f".{layout.marker}.lock"):  # several runs may need the same set at the same time
        if is_whole():
            return root
        marker.write_text("unfinished")  # what is there from now on is ours, and not whole
        for folder in layout.folders:
            shutil.rmtree(root / folder, ignore_errors=True)
        for (split, condition, index), files in tqdm(plan.items(), desc="synthetic", disable=not progress):
            # Splits and conditions are far apart, so that no two images are of the same scene.
            code = (seed * 3 + _SPLITS.index(split)) * 1_000_000 + layout.conditions.index(condition) * 200_000 + index
            for path, array in zip(map(root.joinpath, files), layout.draw(code, size, condition), strict=False):
                path.parent.mkdir(parents=True, exist_ok=True)
                if not cv2.imwrite(str(path), cv2.cvtColor(array, cv2.COLOR_RGB2BGR) if array.ndim == 3 else array):
                    raise WriteError(path, "a failed write", "a writable file", "check permissions and disk space")
        write_atomically(marker, lambda file: file.write(settings))  # last: where it stands, the set is whole
    return root


def open_scenes(root: str | Path, benchmark: str) -> Path:
    """Return the root of a set of scenes that was drawn before, whatever its size; else draw one of default size."""
    layout, settings = _LAYOUTS[benchmark], {}
    try:
        settings = json.loads(Path(root, layout.marker).read_text())
        settings["size"] = tuple(settings["size"])
    except (OSError, json.JSONDecodeError):
        pass
    return write_scenes(root, benchmark, **settings if settings.pop("version", None) == layout.version else {})
