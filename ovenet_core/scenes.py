"""Generated street scenes: pictures with exact labels and instances, drawn from a seed.

`street` lays a scene out as coloured polygons in metres, `_Camera` paints them at any size, and `write_scenes` writes a
set in the layout of Cityscapes.
"""

import json
import os
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import NamedTuple

import cv2
import numpy as np
from jaxtyping import UInt8, UInt16
from tqdm.auto import tqdm

from ovenet_core.benchmarks import DataError
from ovenet_core.street import EYE, LABEL_ID, Colour, Face, Street, circle

SPLIT_SIZES = MappingProxyType({"train": 48, "val": 16})
_SPLITS = ("train", "val", "test")
_VERSION = 2  # of the drawing: raise it when a change gives other bytes, so that sets on disk are drawn again


class _Mood(NamedTuple):
    """Weather and light; colours are RGB in [0, 255]."""

    zenith: Colour
    horizon: Colour
    clouds: float
    sunlight: float
    tint: Colour  # factors


_MOODS = (
    _Mood((84, 138, 206), (198, 220, 238), 0.1, 0.50, (1.00, 1.00, 1.00)),
    _Mood((150, 164, 180), (216, 221, 225), 0.5, 0.16, (0.98, 1.00, 1.02)),
    _Mood((104, 136, 190), (250, 216, 176), 0.1, 0.55, (1.07, 1.00, 0.89)),
    _Mood((120, 168, 214), (226, 232, 230), 0.2, 0.34, (1.02, 1.01, 0.97)),
)
_ROUGHNESS = {"vegetation": 26, "terrain": 14, "wall": 12, "fence": 9, "building": 7, "sidewalk": 6, "road": 4,
              "sky": 0}  # how strong the texture of a class is, in grey levels; 3 for the others


@dataclass(frozen=True)
class Scene:
    """A picture (RGB) with the label ids and the instance ids of Cityscapes.

    The instance id is label id * 1000 + k for the k-th thing of a class, and the bare label id where
    the class has no instances.
    """

    image: UInt8[np.ndarray, "height width 3"]
    label_ids: UInt8[np.ndarray, "height width"]
    instance_ids: UInt16[np.ndarray, "height width"]


def draw_scene(seed: int, height: int, width: int) -> Scene:
    """The street scene of a seed (0 or more) at a size in pixels; at another size it is the same street.

    The same seed gives the same bytes, as long as the version of OpenCV, which draws them, is the same.

    Raises:
        ValueError: a side is below 16 pixels, or the seed is negative.
    """
    if min(height, width) < 16:
        raise ValueError(f"size {height}x{width}: expected 16 pixels or more to a side; make it larger")
    if seed < 0:
        raise ValueError(f"seed {seed}: expected 0 or more; give another")
    camera = _Camera(seed, height, width)
    street = Street(seed, camera.mood.sunlight)
    camera.paint_sky()
    camera.paint(street.ground, haze=False)
    camera.shade_ground(street)
    camera.paint(street.upright)
    if street.bonnet is not None:
        camera.paint_bonnet(street.bonnet)
    return camera.develop()


def write_scenes(
    root: str | Path,
    *,
    split_sizes: Mapping[str, int] = SPLIT_SIZES,
    size: tuple[int, int] = (128, 256),
    seed: int = 0,
    progress: bool = True,
) -> Path:
    """Writes a set of scenes in the folder layout of Cityscapes, and returns its root.

    A scene depends on the seed, its split and its number there, and on nothing else. A set that is
    already there is kept; one that was interrupted, or written with other settings, is drawn anew.
    Unlike in Cityscapes, the labels of the test split are real.

    Args:
        split_sizes: number of scenes in each of train, val and test.
        size: (height, width) in pixels.

    Raises:
        DataError: the root holds data that this function did not write.
        ValueError: an unknown split.
    """
    root, total = Path(root), sum(split_sizes.values())
    if unknown := set(split_sizes) - set(_SPLITS):
        raise ValueError(f"splits {sorted(unknown)}: expected some of {', '.join(_SPLITS)}; rename them")
    settings = json.dumps({"version": _VERSION, "seed": seed, "size": size, "split_sizes": dict(split_sizes)})
    marker, folders = root / "scenes.json", (root / "leftImg8bit", root / "gtFine")
    if marker.is_file():
        if marker.read_text() == settings and sum(1 for _ in root.glob("*/*/*/*.png")) == 3 * total:
            return root
    elif any(folder.exists() for folder in folders):
        raise DataError(f"{root}: expected an empty folder or scenes, found other data; give another folder")
    root.mkdir(parents=True, exist_ok=True)
    marker.write_text("unfinished")  # what is there from now on is ours, and not whole
    for folder in folders:
        shutil.rmtree(folder, ignore_errors=True)
    with tqdm(total=total, desc="scenes", disable=not progress) as bar:
        for split, count in split_sizes.items():
            for index in range(count):
                _write_scene(root, split, index, seed, size)
                bar.update()
    finished = root / "scenes.json.new"
    finished.write_text(settings)
    os.replace(finished, marker)  # last, and in one step: where it stands, the set is whole
    return root


def _write_scene(root: Path, split: str, index: int, seed: int, size: tuple[int, int]):
    code = _SPLITS.index(split)
    scene = draw_scene((seed * len(_SPLITS) + code) * 1_000_000 + index, *size)
    name = f"street_{code:06d}_{index:06d}"
    for kind, suffix, array in (("leftImg8bit", "leftImg8bit", cv2.cvtColor(scene.image, cv2.COLOR_RGB2BGR)),
                                ("gtFine", "gtFine_labelIds", scene.label_ids),
                                ("gtFine", "gtFine_instanceIds", scene.instance_ids)):
        path = root / kind / split / "street" / f"{name}_{suffix}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        if not cv2.imwrite(str(path), array):
            raise OSError(f"{path}: could not be written; check permissions and the space on the disk")


class _Camera:
    """Paints a street: colours with smooth edges, ids with hard ones."""

    def __init__(self, seed: int, height: int, width: int):
        self.rng = np.random.default_rng([seed, 1])
        self.mood = _MOODS[self.rng.integers(len(_MOODS))]
        self.focal = float(0.62 * np.sqrt(2.0 * height * width))
        self.centre = np.array((width, height)) * self.rng.uniform((0.45, 0.42), (0.55, 0.48))
        self.image = np.zeros((height, width, 3), np.uint8)
        self.ids = np.full((height, width), LABEL_ID["sky"], np.uint16)

    def project(self, faces: Sequence[Face], slant: np.ndarray | None = None) -> list[list[np.ndarray]]:
        """The polygons of each face as OpenCV takes them, in 1/16 pixel; `slant` first maps the points.

        In OpenCV's coordinates the centres of the pixels are whole.
        """
        points = np.concatenate([face.points.reshape(-1, 3) for face in faces])
        points = points if slant is None else points @ slant
        depth = np.maximum(points[:, 2:], 0.7)
        flat = np.stack((points[:, 0], EYE - points[:, 1]), axis=1) / depth * self.focal + self.centre - 0.5
        ends = np.cumsum([face.points.size // 3 for face in faces])
        parts = np.split(np.round(flat * 16).astype(np.int32), ends[:-1])
        return [list(part.reshape(-1, face.points.shape[-2], 2)) for part, face in zip(parts, faces, strict=True)]

    def paint(self, faces: Sequence[Face], haze: bool = True):
        depth = np.array([face.points.flat[2] for face in faces])[:, None]
        clear = 0.5 ** (np.maximum(depth, 1) / 130) if haze else np.ones_like(depth)
        colours = np.array([(0, 0, 0) if face.colour is None else face.colour for face in faces])
        colours = (colours * self.mood.tint).clip(0, 255) * clear + np.array(self.mood.horizon) * (1 - clear)
        for face, corners, colour in zip(faces, self.project(faces), colours.tolist(), strict=True):
            if face.colour is not None:
                cv2.fillPoly(self.image, corners, colour, cv2.LINE_AA, 4)
            if face.ident is not None:
                cv2.fillPoly(self.ids, corners, face.ident, cv2.LINE_8, 4)

    def noise(self, across: int, flatten: int = 1) -> np.ndarray:
        """Smooth noise in [-1, 1], (height, width): `across` cells in a row, each flattened by a factor."""
        height, width = self.ids.shape
        rows = max(2, min(height, round(flatten * across * height / width)))
        grid = self.rng.integers(0, 256, (rows, min(across, width)), dtype=np.uint8)
        # On bytes, this interpolation gives the same result on every processor.
        smooth = cv2.resize(grid, (width, height), interpolation=cv2.INTER_LINEAR_EXACT)
        return smooth.astype(np.float32) / 127.5 - 1

    def paint_sky(self):
        rows = np.arange(len(self.ids), dtype=np.float32)[:, None, None]
        low = (rows / max(1.0, float(self.centre[1]))).clip(0, 1)
        sky = np.float32(self.mood.zenith) * (1 - low) + np.float32(self.mood.horizon) * low
        cloud = self.noise(5, 3) + 0.6 * self.noise(12, 3) + 0.35 * self.noise(30, 2) + self.mood.clouds
        cloud = (cloud[..., None] * 0.8).clip(0, 0.85)
        self.image[:] = sky * (1 - cloud) + np.float32(246) * cloud

    def shade_ground(self, street: Street):
        """Texture, shadows and haze on what lies flat, before anything stands on it."""
        top, (height, width) = int(self.centre[1]) + 1, self.ids.shape
        rows, columns = np.arange(top, height, dtype=np.float32)[:, None], np.arange(width, dtype=np.float32)
        z = self.focal * EYE / (rows + 1 - float(self.centre[1]))
        x = (columns - float(self.centre[0])) * z / self.focal
        tile = self.rng.integers(-12, 13, (256, 256)).astype(np.float32)
        grain = tile[(z * 45).astype(int) & 255, (x * 45).astype(int) & 255] / (1 + z / 3)
        # Moves points along the sun's rays to the ground.
        slant = np.array(((1, 0, 0), -street.to_sun / street.to_sun[1], (0, 0, 1))) * (1, 0, 1)
        shadow = np.zeros((height, width), np.uint8)
        casting = [face for face in street.upright if face.casts and face.points.flat[2] < 70]
        for corners in self.project(casting, slant):
            cv2.fillPoly(shadow, corners, int(190 * self.mood.sunlight), cv2.LINE_AA, 4)
        lit = 1 - shadow[top:, :, None].astype(np.float32) / 255
        haze = np.minimum(z / 260, 0.6)[..., None]
        ground = (self.image[top:] + grain[..., None]) * lit
        self.image[top:] = (ground * (1 - haze) + np.float32(self.mood.horizon) * haze).clip(0, 255)

    def paint_bonnet(self, colour: np.ndarray):
        height, width = self.ids.shape
        for lift, tone in ((0.0, 0.8), (0.02, 1.0), (0.045, 1.12)):
            oval = (circle(60) * (0.62, 0.13) + (0.5, 1.06 + lift)) * (width, height)
            corners = [np.round(oval * 16).astype(np.int32)]
            cv2.fillPoly(self.image, corners, (colour * tone).tolist(), cv2.LINE_AA, 4)
            cv2.fillPoly(self.ids, corners, LABEL_ID["ego vehicle"], cv2.LINE_8, 4)

    def develop(self) -> Scene:
        """Texture by class, uneven light, and the noise of a sensor."""
        labels = np.where(self.ids >= 1000, self.ids // 1000, self.ids).astype(np.uint8)
        rough = np.full(256, 3, np.float32)
        rough[[LABEL_ID[name] for name in _ROUGHNESS]] = list(_ROUGHNESS.values())
        texture = 0.5 * self.noise(96) + 0.6 * self.noise(256) + 0.6 * self.noise(1024)
        sensor = self.rng.integers(-4, 5, self.image.shape, dtype=np.int8)
        texture, light = (texture * rough[labels])[..., None], (1 + 0.05 * self.noise(4))[..., None]
        image = self.image * light + texture + sensor
        return Scene(image.clip(0, 255).astype(np.uint8), labels, self.ids)
