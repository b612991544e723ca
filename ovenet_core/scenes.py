"""Generated street scenes: pictures with exact labels and instances, drawn from a seed.

`_Street` lays a scene out as coloured polygons in metres, `_Camera` paints them at any size, and
`write_scenes` writes a set in the layout of Cityscapes. World axes: x to the right, y up from the
ground, z ahead of the camera.
"""

import json
import os
import shutil
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache, partial
from pathlib import Path
from types import MappingProxyType
from typing import NamedTuple

import cv2
import numpy as np
from jaxtyping import UInt8, UInt16
from tqdm.auto import tqdm

from ovenet_core.benchmarks import CITYSCAPES_LABELS, DataError

LABEL_ID = {label.name: label.id for label in CITYSCAPES_LABELS}
SPLIT_SIZES = MappingProxyType({"train": 48, "val": 16})
_SPLITS = ("train", "val", "test")
_VERSION = 1  # of the drawing: raise it when a change gives other bytes, so that sets on disk are drawn again
_EYE, _FAR = 1.5, 150.0  # height of the camera and length of the street, metres

_YZX, _ZXY = [1, 2, 0], [2, 0, 1]

Number = float | int
Colour = tuple[Number, Number, Number]  # RGB in [0, 255]
Part = tuple[np.ndarray, Colour]  # a polygon (corners, axes) in metres, and its colour


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
    street = _Street(seed)
    camera = _Camera(street, seed, height, width)
    camera.paint_sky()
    camera.paint(street.ground, haze=False)
    camera.shade_ground()
    things = sorted(street.things, key=lambda thing: -thing[0])
    camera.paint([*street.backdrop, *(face for _, faces in things for face in faces)])
    if street.bonnet:
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


# -- Colours and shapes


class _Mood(NamedTuple):
    zenith: Colour
    horizon: Colour
    clouds: float
    sun: float
    tint: Colour


_MOODS = (
    _Mood((84, 138, 206), (198, 220, 238), 0.1, 0.50, (1.00, 1.00, 1.00)),
    _Mood((150, 164, 180), (216, 221, 225), 0.5, 0.16, (0.98, 1.00, 1.02)),
    _Mood((104, 136, 190), (250, 216, 176), 0.1, 0.55, (1.07, 1.00, 0.89)),
    _Mood((120, 168, 214), (226, 232, 230), 0.2, 0.34, (1.02, 1.01, 0.97)),
)
_FACADES = ((222, 190, 150), (196, 116, 88), (232, 220, 196), (164, 176, 188), (158, 98, 80), (218, 198, 128),
            (154, 174, 150), (208, 150, 130), (186, 180, 170))
_ROOFS = ((146, 74, 58), (88, 88, 98), (112, 80, 68), (126, 100, 92))
_PAINTS = ((226, 228, 230), (168, 174, 180), (40, 42, 48), (176, 34, 38), (34, 62, 118), (48, 92, 80),
           (224, 176, 46), (96, 110, 126), (148, 176, 200))
_CLOTHES = ((52, 58, 84), (168, 52, 56), (60, 92, 138), (214, 190, 96), (74, 104, 76), (208, 206, 200),
            (120, 78, 112), (36, 38, 42), (216, 120, 58))
_LEAVES = ((88, 128, 52), (70, 112, 58), (112, 140, 56), (128, 132, 48), (62, 100, 66))
_SKIN = ((232, 190, 160), (198, 148, 112), (120, 82, 60))
_GLASS, _TYRE, _STEEL, _SILVER = (62, 78, 94), (26, 26, 28), (112, 116, 120), (152, 154, 158)
_WHITE, _RED, _BLUE, _YELLOW = (232, 232, 226), (200, 34, 38), (36, 84, 170), (240, 200, 50)
_ROUGH = {"vegetation": 26, "terrain": 14, "wall": 12, "fence": 9, "building": 7, "sidewalk": 6, "road": 4,
          "sky": 0}  # how strong the texture of a class is, in grey levels


def _bar(x0: Number, y0: Number, x1: Number, y1: Number, thick: Number) -> np.ndarray:
    along = np.array((x1 - x0, y1 - y0)) / np.sqrt((x1 - x0) ** 2 + (y1 - y0) ** 2)
    side = np.array((-along[1], along[0])) * thick / 2
    return np.array(((x0, y0), (x0, y0), (x1, y1), (x1, y1))) + (-side, side, side, -side)


def _rectangle(x0: Number, y0: Number, x1: Number, y1: Number) -> np.ndarray:
    return np.array(((x0, y0), (x0, y1), (x1, y1), (x1, y0)))


@cache
def _circle(corners: int) -> np.ndarray:
    angle = (np.arange(corners) + 0.5) * (2 * np.pi / corners)
    return np.stack((np.cos(angle), np.sin(angle)), axis=1)


def _disc(x: Number, y: Number, rx: Number, ry: Number | None = None) -> np.ndarray:
    return _circle(18) * (rx, ry or rx) + (x, y)


def _shade(colour: Colour, factor: Number) -> Colour:
    return tuple(float(channel * factor) for channel in colour)


class _Shape(NamedTuple):
    """A vehicle, in metres."""

    width: float
    profile: tuple[tuple[Number, Number], ...]  # side view (along, up), from the rear to the front
    glass: tuple[int, ...]  # which edges of the profile are windows
    windows: tuple  # polygons in the side view
    wheels: tuple[float, ...]
    radius: float


def _panes(start: float, end: float, count: int, low: float, high: float) -> tuple:
    return tuple(_rectangle(x, low, x + 0.86 * (end - start) / count, high)
                 for x in np.linspace(start, end, count, endpoint=False))


_SHAPES = {
    "car": _Shape(
        1.8, ((-2.1, .32), (-2.15, .92), (-1.7, 1.44), (.3, 1.47), (1.05, .97), (2, .82), (2.1, .32)), (1, 3),
        (((-1.6, .95), (-1.4, 1.35), (-.4, 1.38), (-.4, .95)),
         ((-.3, .95), (-.3, 1.38), (.2, 1.38), (.8, .95))), (-1.3, 1.3), .33),
    "van": _Shape(
        1.95, ((-2.4, .32), (-2.45, 1.15), (-2.3, 2), (1, 2.05), (1.7, 1.15), (2.3, 1), (2.4, .32)), (1, 3),
        (((-.3, 1.15), (-.3, 1.85), (.9, 1.85), (1.4, 1.15)),), (-1.5, 1.55), .35),
    "truck": _Shape(
        2.5, ((-4.5, .6), (-4.5, 3.5), (1.9, 3.5), (2.0, 3.0), (3.6, 2.9), (3.9, 1.7), (3.95, .4)), (4,),
        (((2.5, 1.7), (2.5, 2.6), (3.4, 2.6), (3.65, 1.7)),), (-3.4, -2.3, 2.9), .5),
    "bus": _Shape(
        2.5, ((-5.8, .4), (-5.8, 1.7), (-5.65, 3.1), (5.6, 3.1), (5.8, 1.4), (5.8, .4)), (1, 3),
        _panes(-5.4, 5.5, 7, 1.5, 2.6), (-3.4, 3.6), .48),
    "train": _Shape(
        2.5, ((-4.6, .3), (-4.6, 1.6), (-4.4, 3.4), (4.4, 3.4), (4.6, 1.6), (4.6, .3)), (1, 3),
        _panes(-4.2, 4.4, 5, 1.5, 2.8), (-3.0, 3.0), .35),
}


@cache
def _tyres(kind: str) -> list[np.ndarray]:
    """The wheels of a vehicle as its ends show them; axes: metres along, metres up, half widths across."""
    return [np.array([(wheel, y, s + ds) for y, ds in ((0, 0), (0.6, 0), (0.6, 0.36), (0, 0.36))])
            for wheel in _SHAPES[kind].wheels for s in (-0.98, 0.62)]


def _strip(foot: np.ndarray, head: np.ndarray, low: Number, high: Number, s0: Number, s1: Number):
    """A part of the face over an edge: from `low` to `high` in [0, 1] of it, and from s0 to s1 across."""
    corners = ((low, s0), (high, s0), (high, s1), (low, s1))
    return np.array([(*(foot + part * (head - foot)), s) for part, s in corners])


@cache
def _panels(kind: str) -> list[tuple[np.ndarray, list[Part]]]:
    """The outer faces of a vehicle, each with the details on it; axes as in `_tyres`."""
    shape, panels = _SHAPES[kind], []
    for edge, ends in enumerate(zip(shape.profile, shape.profile[1:], strict=False)):
        # Low to high, so that heights above the low end find their place on it.
        foot, head = sorted(ends, key=lambda point: point[1])
        strip = partial(_strip, np.array(foot), np.array(head))
        details: list[Part] = []
        if edge in shape.glass:
            details = [(strip(0.1, 0.9, -0.86, 0.86), _GLASS)]
        elif edge in (0, len(shape.profile) - 2):
            metre, lamp = 1 / (head[1] - foot[1]), (214, 30, 30) if edge == 0 else (246, 240, 214)
            details = [(strip(0, 0.12 * metre, -1, 1), (48, 50, 54)),
                       (strip(0.14 * metre, 0.27 * metre, -0.28, 0.28), _WHITE)]
            details += [(strip(0.26 * metre, 0.42 * metre, s, s + 0.3), lamp) for s in (-0.92, 0.62)]
        face = strip(0, 1, -1, 1)
        panels.append((face if ends[0] == foot else face[::-1], details))
    for s in (-1, 1):
        flat = [(window, _shade(_GLASS, 0.85)) for window in shape.windows]
        for wheel in shape.wheels:
            flat += [(_disc(wheel, shape.radius, radius), colour)
                     for radius, colour in ((shape.radius, _TYRE), (shape.radius / 2, _SILVER))]
        panels.append((np.array([(*point, s) for point in shape.profile[::s]]),
                       [(np.array([(*point, s) for point in part]), colour) for part, colour in flat]))
    return panels


class _Face(NamedTuple):
    points: np.ndarray  # (polygons, corners, 3): polygons of one colour that do not overlap
    colour: Colour | None  # None: only the ids change
    ident: int | None  # instance id, or label id where there are no instances; None: only the colours change
    casts: bool = False  # whether it throws a shadow on the ground


class _Street:
    """The layout of one scene: `ground` is painted first, then `backdrop`, then `things` from far to near."""

    def __init__(self, seed: int):
        self.rng = np.random.default_rng([seed, 0])
        self.mood = self.pick(_MOODS)
        side, ahead = self.pick((-1, 1)) * self.rng.uniform(0.5, 0.8), self.rng.uniform(-0.6, 0.1)
        self.sun = np.array((side, 0.6, ahead))  # the direction to it
        self.bonnet = _shade(self.pick(_PAINTS), 0.7) if self.chance(0.35) else None
        self.asphalt = self.jitter(self.pick(((92, 92, 96), (108, 106, 104), (82, 84, 92))), 4)
        self.ground: list[_Face] = []
        self.backdrop: list[_Face] = []
        self.things: list[tuple[float, list[_Face]]] = []  # distance and faces
        self.count: Counter[str] = Counter()
        # Each of the rarer vehicles comes in every fourth seed, so that a small set has all classes.
        self.special = ("bus", "train", "motorcycle", "truck")[seed % 4]
        self.tracks = 3.4 if self.special == "train" else 0.0  # width taken by the tram at the left kerb
        self.parking = self.chance(0.5), self.chance(0.6)
        self.kerbs = -5.1 - 2.2 * self.parking[0] - self.tracks, 2.0 + 2.2 * self.parking[1]
        self.walks = self.rng.uniform(2.2, 4.5), self.rng.uniform(2.2, 4.5)
        self.crossing = self.rng.uniform(17, 38)
        self.lay_ground()
        self.close_the_view()
        for side in (-1, 1):
            self.line_with_lots(side)
            self.furnish(side)
        self.fill_lanes()
        self.let_people_cross()

    def pick(self, options: Sequence):
        return options[int(self.rng.integers(len(options)))]

    def chance(self, probability: float) -> bool:
        return bool(self.rng.random() < probability)

    def jitter(self, colour: Colour, spread: Number = 14) -> Colour:
        return tuple(min(250.0, max(8.0, c + d))
                     for c, d in zip(colour, self.rng.uniform(-spread, spread, 3).tolist(), strict=True))

    def light(self, *normal: Number) -> float:
        """Brightness of a surface: a share from the whole sky and one from the sun."""
        return 0.72 + self.mood.sun * max(0.0, float(np.dot(normal, self.sun)))

    def instance(self, name: str) -> int:
        self.count[name] += 1
        return LABEL_ID[name] * 1000 + self.count[name] - 1

    def stand(self, x: Number, z: Number, parts: Iterable[Part], ident: int, turn: Number = 0) -> list[_Face]:
        """Parts in a vertical plane through (x, z), turned by `turn` radians away from facing the camera."""
        axes = np.array(((np.cos(turn), 0, np.sin(turn)), (0, 1, 0)))
        return [_Face((polygon @ axes + (x, 0, z))[None], colour, ident, True) for polygon, colour in parts]

    def along(self, x: Number, spans: Iterable[tuple[Number, Number, Number, Number]]) -> np.ndarray:
        """Rectangles (z0, y0, z1, y1) in the plane along the street at x."""
        return np.array([((x, y0, z0), (x, y1, z0), (x, y1, z1), (x, y0, z1)) for z0, y0, z1, y1 in spans])

    def pave(self, x0: Number, x1: Number, z0: Number, z1: Number, colour: Colour, name: str):
        quad = np.array([((x0, 0, z0), (x0, 0, z1), (x1, 0, z1), (x1, 0, z0))])
        self.ground.append(_Face(quad, colour, LABEL_ID[name]))

    def darken(self, x: Number, z: Number, width: Number, length: Number, yaw: Number = 0):
        """The dark spot where something stands on the ground."""
        axes = np.array(((np.cos(yaw), 0, -np.sin(yaw)), (np.sin(yaw), 0, np.cos(yaw))))
        oval = (_circle(14) * (width / 2, length / 2)) @ axes + (x, 0, z)
        self.ground.append(_Face(oval[None], _shade(self.asphalt, 0.5), None))

    # -- The street and what lines it

    def lay_ground(self):
        (left, right), crossing = self.kerbs, self.crossing
        paving = self.jitter(self.pick(((172, 166, 160), (186, 174, 160), (158, 160, 164))), 8)
        self.pave(-400, 400, 1, 900, self.jitter((112, 142, 72)), "terrain")
        self.pave(left - self.walks[0], right + self.walks[1], 1, _FAR, paving, "sidewalk")
        self.pave(-60, 60, crossing - 2.5, crossing + 11.5, paving, "sidewalk")
        self.pave(left - 0.18, right + 0.18, 1, _FAR, _shade(paving, 1.15), "sidewalk")  # the kerb stones
        self.pave(left, right, 1, _FAR + 20, self.asphalt, "road")
        self.pave(-60, 60, crossing, crossing + 9, self.asphalt, "road")
        for x, z, size, tone in self.rng.uniform((left, 5, 0.4, 0.8), (right - 1.5, 40, 1.5, 1.12), (5, 4)):
            self.pave(x, x + size, z, z + 2.5 * size, _shade(self.asphalt, tone), "road")  # mended patches
        if self.tracks:
            self.pave(left, left + 3.2, 1, _FAR, _shade(paving, 0.75), "rail track")
            for x in (left + 0.85, left + 2.3):
                self.pave(x, x + 0.12, 1, _FAR, (70, 72, 78), "rail track")
        for z in np.arange(3.0, _FAR, 9.0):
            if not crossing - 6 < z < crossing + 9:
                self.pave(-1.72, -1.58, z, z + 4.5, _WHITE, "road")
        for x in np.arange(left + self.tracks + 0.3, right - 0.4, 0.9):
            self.pave(x, x + 0.5, crossing - 5, crossing - 2.2, _WHITE, "road")
        self.pave(-1.6, right - 0.2, crossing - 6.6, crossing - 6.2, _WHITE, "road")

    def close_the_view(self):
        """A skyline of houses and trees across the end of the street."""
        for x in self.rng.permutation(np.arange(-230.0, 231.0, 13.0)):
            z = _FAR + self.rng.uniform(20, 60)
            if self.chance(0.45):
                block = _rectangle(-9, 0, 9, self.rng.uniform(8, 24)), self.jitter(self.pick(_FACADES))
                self.backdrop += self.stand(x, z, [block], LABEL_ID["building"])
            else:
                self.backdrop += self.bush(x, z, 0, self.rng.uniform(7, 13), 9, 9)

    def line_with_lots(self, side: int):
        """Houses, fences, walls, hedges and lawns along one side (-1 left, 1 right), some behind a verge."""
        lots = (self.house, self.house, self.house, self.fence, self.wall, self.hedge, self.lawn)
        order = [lots[i] for _ in range(3) for i in self.rng.permutation(len(lots))]
        verge = self.pick((0.0, 0.0, self.rng.uniform(1, 3)))
        x, z = self.kerbs[side > 0] + side * (self.walks[side > 0] + verge), 3.0
        faces: list[list[_Face]] = []
        while z < _FAR:
            end = z + self.rng.uniform(9, 16)
            if z < self.crossing - 2.5 < end + 5:  # the last lot ends at the corner
                end = self.crossing - 2.5
            if z < self.crossing + 11.5 and end > self.crossing - 2.5:
                z = self.crossing + 11.5
            else:
                faces.append(order.pop()(side, x, z, end))
                z = end
        self.backdrop += [face for lot in reversed(faces) for face in lot]

    def house(self, side: int, x: Number, z0: Number, z1: Number) -> list[_Face]:
        ident, back, front = LABEL_ID["building"], x + side * 11, self.light(-side, 0, 0)
        colour, roof = self.jitter(self.pick(_FACADES)), self.jitter(self.pick(_ROOFS))
        trim = _shade(self.jitter((216, 208, 196), 10), front)
        floors, floor = int(self.rng.integers(1, 5)), self.rng.uniform(2.9, 3.4)
        eaves = 3.8 + floor * floors
        ridge = ((x + back) / 2, eaves + self.rng.uniform(1.5, 4))
        bays, bay = np.linspace(z0, z1, round((z1 - z0) / 2.8), endpoint=False, retstep=True)
        gable = ((x, 0, z0), (x, eaves, z0), (*ridge, z0), (back, eaves, z0), (back, 0, z0))
        slope = ((x, eaves, z0), (x, eaves, z1), (*ridge, z1), (*ridge, z0))
        sills = 4.6 + floor * np.arange(floors)
        panes = [(z + 0.28 * bay, sill, z + 0.72 * bay, sill + 1.7) for sill in sills for z in bays]
        frames = [(a - 0.14, b - 0.14, c + 0.14, d + 0.14) for a, b, c, d in panes]
        bright = [pane for pane in panes if self.chance(0.25)] or panes[:1]  # curtains, or a mirrored sky
        shop, door = self.chance(0.5), self.pick(list(bays)) + 0.3 * bay
        low = [(z + 0.12 * bay, 0.5 if shop else 1.3, z + 0.88 * bay, 2.7) for z in bays]
        faces = [
            _Face(np.array([gable]), _shade(colour, self.light(0, 0, -1)), ident, True),
            _Face(np.array([slope]), _shade(roof, self.light(-side * 0.6, 0.8, 0)), ident),
            _Face(self.along(x, [(z0, 0, z1, eaves)]), _shade(colour, front), ident, True),
            _Face(self.along(x, [(z0, 3.5, z1, 3.75), (z0, eaves - 0.3, z1, eaves), *frames]), trim, None),
            _Face(self.along(x, [*panes, *low]), _shade(_GLASS, front), None),
            _Face(self.along(x, bright), self.pick(((214, 204, 176), (150, 178, 204))), None),
            _Face(self.along(x, [(door, 0, door + 1.2, 2.4)]), _shade(self.pick(_ROOFS), 0.7), None),
        ]
        if shop:
            hem, a, b = x - side * 1.1, z0 + 0.4, z1 - 0.4
            awning = np.array([((x, 3.2, a), (x, 3.2, b), (hem, 2.6, b), (hem, 2.6, a))])
            faces.append(_Face(awning, self.jitter(self.pick(_CLOTHES)), ident))
        return faces

    def bush(self, x: Number, z: Number, low: Number, high: Number, radius: Number, blobs: int):
        """A ball of leaves between two heights: dark blobs below, and lighter ones upwards and to the sun."""
        leaf, level = self.jitter(self.pick(_LEAVES), 10), np.linspace(0, 1, blobs)
        reach = 0.25 + 0.75 * np.sqrt((1 - (1.7 * level - 0.75) ** 2).clip(0))
        across = self.rng.uniform(-1, 1, blobs) * reach
        centre = np.stack((across * radius, low + (high - low) * (0.15 + 0.75 * level)), axis=1)[:, None]
        leaves = centre + self.rng.uniform(0.22, 0.42, (blobs, 1, 1)) * radius * _circle(9)
        glow = self.rng.uniform(0.68, 0.83, blobs) + 0.32 * level
        glow += 0.35 * self.mood.sun * across * np.sign(self.sun[0])
        parts = [(_disc(0, (low + high) / 2, radius * 0.9, (high - low) * 0.46), _shade(leaf, 0.72))]
        parts += [(blob, _shade(leaf, tone)) for blob, tone in zip(leaves, glow, strict=True)]
        return self.stand(x, z, parts, LABEL_ID["vegetation"])

    def tree(self, x: Number, z: Number, scale: float = 1.0) -> list[_Face]:
        top, radius, lean = self.rng.uniform((5.5, 1.4, -0.2), (8.5, 2.3, 0.2)) * scale
        trunk = [(_bar(0, 0, lean, top * 0.6, 0.28 * scale), self.jitter((92, 74, 58), 8))]
        return self.stand(x, z, trunk, LABEL_ID["vegetation"]) + self.bush(x, z, top * 0.36, top, radius, 20)

    def lawn(self, side: int, x: Number, z0: Number, z1: Number) -> list[_Face]:
        backs = [face for z in np.arange(z1, z0, -3 - z0 / 40)
                 for face in self.bush(x + side * 13, z, 0, self.rng.uniform(2.5, 5), 3.0, 9)]
        return backs + self.tree(x + side * self.rng.uniform(3, 7), (z0 + z1) / 2)

    def hedge(self, side: int, x: Number, z0: Number, z1: Number) -> list[_Face]:
        height, faces = self.rng.uniform(1.2, 2.4), self.lawn(side, x, z0, z1)
        for z in np.arange(z1, z0, -1.3 - z0 / 80):
            faces += self.bush(x + side * 0.6, z, 0, height * self.rng.uniform(0.9, 1.15), 0.9, 7)
        return faces

    def wall(self, side: int, x: Number, z0: Number, z1: Number) -> list[_Face]:
        height, ident = self.rng.uniform(1.4, 2.6), LABEL_ID["wall"]
        colour = self.jitter(self.pick(((176, 162, 146), (158, 104, 86), (150, 150, 152))))
        front, back = _shade(colour, self.light(-side, 0, 0)), x + side * 0.4
        end = np.array([((x, 0, z0), (x, height, z0), (back, height, z0), (back, 0, z0))])
        courses = [(z0, y, z1, y + 0.05) for y in np.arange(0.35, height - 0.2, 0.35)]
        coping = self.along(x - side * 0.05, [(z0, height - 0.18, z1, height)])
        return [*self.lawn(side, x, z0, z1), _Face(end, _shade(front, 0.8), ident),
                _Face(self.along(x, [(z0, 0, z1, height)]), front, ident, True),
                _Face(self.along(x, courses), _shade(front, 0.86), None),
                _Face(coping, _shade(front, 1.2), ident)]

    def fence(self, side: int, x: Number, z0: Number, z1: Number) -> list[_Face]:
        height, ident = self.rng.uniform(1.1, 1.8), LABEL_ID["fence"]
        colour, thick = self.pick((((150, 116, 84), 0.2), ((70, 84, 78), 0.07), ((206, 206, 204), 0.09)))
        slats = [(z, 0, z + thick, height) for z in np.arange(z0, z1 - thick, 0.28)]
        rails = [(z0, y, z1, y + 0.09) for y in (0.25, height - 0.2)]
        # As in Cityscapes, the gaps of a fence belong to it.
        return [*self.lawn(side, x, z0, z1), _Face(self.along(x, [(z0, 0, z1, height)]), None, ident),
                _Face(self.along(x, rails), _shade(colour, 0.85), None),
                _Face(self.along(x, slats), _shade(colour, self.light(-side, 0, 0)), ident, True)]

    # -- What stands, walks and drives in it

    def furnish(self, side: int):
        """A sidewalk: poles, trees, bins and parked bicycles at the kerb, people towards the houses."""
        kerb, width, z = abs(self.kerbs[side > 0]), self.walks[side > 0], self.rng.uniform(5, 8)
        things = (self.lamp, self.tree, self.sign, self.litter_bin, self.lamp, self.sign, self.tree, None)
        while z < 80:
            if not self.crossing - 1 < z < self.crossing + 10:
                x = side * (kerb + 0.7)
                if thing := self.pick(things):
                    self.things.append((z, thing(x, z)))
                else:
                    self.cycle(self.pick(("bicycle", "motorcycle")), x, z, ridden=False)
                for _ in range(int(self.rng.integers(0, 3))):
                    inwards, onwards = self.rng.uniform((1.0, 0.5), (width - 0.4, 3.0))
                    self.person(side * (kerb + inwards), z + onwards)
            z += self.rng.uniform(3.5, 8)
        self.things.append((self.crossing - 1.5, self.signal(side * (kerb + 0.4), self.crossing - 1.5)))

    def lamp(self, x: Number, z: Number) -> list[_Face]:
        top, reach = self.rng.uniform(6, 8), -np.sign(x)
        parts = [(_bar(0, 0, 0, top, 0.16), _STEEL), (_bar(0, top, reach * 1.6, top + 0.3, 0.1), _STEEL),
                 (_bar(reach * 1.2, top + 0.22, reach * 1.9, top + 0.34, 0.22), _WHITE)]
        return self.stand(x, z, parts, LABEL_ID["pole"])

    def sign(self, x: Number, z: Number) -> list[_Face]:
        height, triangle = self.rng.uniform(2.2, 2.8), np.array(((-0.45, -0.3), (0, 0.5), (0.45, -0.3)))
        square, diamond = _rectangle(-0.35, -0.35, 0.35, 0.35), _circle(4) @ ((0.32, 0.32), (-0.32, 0.32))
        plate = self.pick((
            [(_disc(0, 0, 0.38), _RED), (_disc(0, 0, 0.27), _WHITE), (square * 0.35, _TYRE)],
            [(triangle, _RED), (triangle * 0.6, _WHITE)], [(diamond, _WHITE), (diamond * 0.75, _YELLOW)],
            [(_disc(0, 0, 0.38), _BLUE), (_bar(0, -0.22, 0, 0.22, 0.12), _WHITE)],
            [(square, _BLUE), (square * 0.5, _WHITE)],
            [(square * (2.2, 0.7), _YELLOW), (square * (1.7, 0.2), _TYRE)]))
        return (self.stand(x, z, [(_bar(0, 0, 0, height, 0.1), _STEEL)], LABEL_ID["pole"])
                + self.stand(x, z, [(part + (0, height), c) for part, c in plate], LABEL_ID["traffic sign"]))

    def signal(self, x: Number, z: Number) -> list[_Face]:
        stop, go = self.pick((((250, 60, 50), (28, 62, 44)), ((70, 30, 30), (60, 240, 140))))
        lights = [(_rectangle(-0.26, 2.3, 0.26, 3.6), (30, 34, 34)), (_disc(0, 3.36, 0.17), stop),
                  (_disc(0, 2.95, 0.17), (80, 66, 30)), (_disc(0, 2.54, 0.17), go)]
        return (self.stand(x, z, [(_bar(0, 0, 0, 2.6, 0.14), _STEEL)], LABEL_ID["pole"])
                + self.stand(x, z, lights, LABEL_ID["traffic light"]))

    def litter_bin(self, x: Number, z: Number) -> list[_Face]:
        colour = self.pick(((70, 90, 76), (90, 92, 98), (196, 120, 50)))
        self.darken(x, z, 0.9, 0.6)
        lid = _rectangle(-0.34, 0.85, 0.34, 1.02), _shade(colour, 0.7)
        return self.stand(x, z, [(_rectangle(-0.3, 0, 0.3, 0.95), colour), lid], LABEL_ID["static"])

    def person(self, x: Number, z: Number):
        size, stride, lean = self.rng.uniform((0.86, 0.05, -0.05), (1.06, 0.3, 0.05))
        legs, coat = self.jitter(self.pick(_CLOTHES)), self.jitter(self.pick(_CLOTHES))
        parts = [(_bar(-0.04, 0.86, -stride, 0, 0.15), _shade(legs, 0.8)),
                 (_bar(0.04, 0.86, stride, 0, 0.15), legs),
                 (_bar(lean - 0.2, 1.37, -0.26 - stride / 2, 0.85, 0.11), _shade(coat, 0.8)),
                 (np.array(((-0.19, 0.8), (lean - 0.23, 1.42), (lean + 0.23, 1.42), (0.19, 0.8))), coat),
                 (_bar(lean + 0.2, 1.37, 0.24 + stride / 2, 0.85, 0.11), _shade(coat, 0.9)),
                 (_disc(lean, 1.6, 0.12, 0.15), self.pick(_SKIN)),
                 (_disc(lean, 1.67, 0.125, 0.09), self.pick(_ROOFS))]
        self.darken(x, z, 0.7, 0.5)
        self.things.append((z, self.stand(x, z, [(part * size, colour) for part, colour in parts],
                                          self.instance("person"), self.rng.uniform(-0.5, 0.5))))

    def cycle(self, kind: str, x: Number, z: Number, ridden: bool):
        """A bicycle or motorcycle from the side, more or less turned, parked or with its rider."""
        turn, paint = self.rng.uniform(-1.0, 1.0), self.jitter(self.pick(_PAINTS[2:]))
        hub = 0.18 if kind == "motorcycle" else 0.26
        parts = [part for wheel in (-0.56, 0.56)
                 for part in ((_disc(wheel, 0.33, 0.33), _TYRE), (_disc(wheel, 0.33, hub), _SILVER))]
        if kind == "motorcycle":
            body = np.array(((-.75, .7), (-.6, .9), (.3, .98), (.5, .75), (.25, .35), (-.35, .35)))
            parts += [(_bar(0.56, 0.3, 0.35, 1.1, 0.1), _STEEL), (_bar(0.16, 1.14, 0.42, 1.06, 0.07), _TYRE),
                      (body, paint), (_bar(-0.66, 0.88, 0, 0.86, 0.12), _TYRE),
                      (_bar(-0.7, 0.3, 0.1, 0.3, 0.12), _SILVER)]
        else:
            tubes = ((-0.56, 0.34, -0.2, 0.85), (-0.2, 0.85, 0.02, 0.3), (0.02, 0.3, -0.56, 0.34),
                     (0.02, 0.3, 0.42, 0.85), (-0.15, 0.8, 0.42, 0.85), (0.56, 0.34, 0.38, 1.05))
            parts += [(_bar(*tube, 0.06), paint) for tube in tubes]
            parts += [(_bar(0.28, 1.06, 0.5, 1.02, 0.06), _TYRE), (_bar(-0.32, 0.9, -0.08, 0.9, 0.08), _TYRE)]
        way = np.array((self.pick((-1, 1)), 1))  # to the left or to the right
        self.darken(x, z, 1.3, 0.5, -turn)
        faces = self.stand(x, z, [(part * way, colour) for part, colour in parts], self.instance(kind), turn)
        if ridden:
            coat, legs = self.jitter(self.pick(_CLOTHES)), self.jitter(self.pick(_CLOTHES))
            rider = [(_bar(-0.18, 0.95, 0.16, 0.62, 0.17), legs), (_bar(0.16, 0.66, 0.02, 0.25, 0.14), legs),
                     (_bar(-0.2, 0.88, 0.08, 1.45, 0.34), coat),
                     (_bar(0.1, 1.38, 0.42, 1.05, 0.11), _shade(coat, 0.85)),
                     (_disc(0.15, 1.62, 0.13, 0.15), self.pick(_SKIN)),
                     (_disc(0.14, 1.68, 0.15, 0.12), self.jitter(self.pick(_PAINTS)))]
            rider = [(part * way, colour) for part, colour in rider]
            # A rider has more depth than the wheels, and so is less foreshortened.
            faces += self.stand(x, z, rider, self.instance("rider"), 0.8 * turn)
        self.things.append((z, faces))

    def vehicle(self, kind: str, x: Number, z: Number, yaw: Number, ident=0, paint: Colour | None = None):
        """The visible faces of a vehicle that heads `yaw` radians to the right of straight ahead."""
        shape, paint = _SHAPES[kind], paint or self.jitter(self.pick(_PAINTS), 10)
        ident = ident or self.instance("car" if kind == "van" else kind)
        sin, cos, half, place = np.sin(yaw), np.cos(yaw), shape.width / 2, np.array((x, 0, z))
        axes = np.array(((sin, 0, cos), (0, 1, 0), (half * cos, 0, -half * sin)))
        shown: list[tuple[float, list[_Face]]] = []
        for panel, details in _panels(kind):
            points = panel @ axes + place
            u, v = points[1] - points[0], points[2] - points[1]
            normal = u[_YZX] * v[_ZXY] - u[_ZXY] * v[_YZX]  # np.cross takes ten times as long
            if normal @ ((0, _EYE, 0) - points.mean(axis=0)) > 0:
                tone = _shade(paint, self.light(*(normal / np.sqrt(normal @ normal))))
                faces = [_Face((part @ axes + place)[None], colour, ident) for part, colour in details]
                shown.append((points[:, 2].mean(), [_Face(points[None], tone, ident, True), *faces]))
        shown.sort(key=lambda entry: -entry[0])
        tyres = [_Face((part @ axes + place)[None], _TYRE, ident) for part in _tyres(kind)]
        self.darken(x, z, shape.width * 1.15, (shape.profile[-1][0] - shape.profile[0][0]) * 1.08, yaw)
        self.things.append((z, tyres + [face for _, faces in shown for face in faces]))

    def fill_lanes(self):
        (left, right), crossing = self.kerbs, self.crossing
        first = self.special if self.special in ("bus", "truck") else "car"
        ahead = self.chance(0.5)  # whether the special one drives ahead or comes towards the camera
        for x, yaw, nearest in ((0.0, 0.0, 11), (-3.3, np.pi, 8)):
            kind, z = first if ahead == (yaw == 0) else "car", nearest + self.rng.uniform(0, 9)
            while z < 100:
                half = 6.0 if kind in ("bus", "truck") else 2.5
                if kind != "car" or not crossing - 6 < z + half < crossing + 4:
                    drift = self.rng.uniform((-0.3, -0.03), (0.3, 0.03))
                    self.vehicle(kind, x + drift[0], z + half, yaw + drift[1])
                z += 2 * half + self.rng.uniform(4, 25)
                kind = self.pick(("car", "car", "car", "van", "car", "truck", "bus"))
        if self.tracks:
            paint, ident = self.jitter(self.pick(_PAINTS[3:7])), self.instance("train")
            for z in self.rng.uniform(14, 24) + 9.4 * np.arange(3):  # wagons
                self.vehicle("train", left + 1.6, z, np.pi, ident, paint)
        sides = (left + self.tracks + 1.1, np.pi), (right - 1.1, 0.0)
        for parked, (x, yaw) in zip(self.parking, sides, strict=True):
            for z in np.arange(self.rng.uniform(6, 12), 80 * parked, 5.8):
                if self.chance(0.7) and not crossing - 10 < z < crossing + 12:
                    self.vehicle(self.pick(("car", "car", "van")), x, z, yaw)
        if self.chance(0.5):
            turning = self.pick((-1, 1)) * np.pi / 2
            self.vehicle(self.pick(("car", "van")), self.rng.uniform(-9, 9), crossing + 4.5, turning)

    def let_people_cross(self):
        (left, right), first = self.kerbs, "motorcycle" if self.special == "motorcycle" else "bicycle"
        self.cycle(first, self.rng.uniform(-0.5, 1.7), self.rng.uniform(7, 14), ridden=True)
        self.cycle("bicycle", self.rng.uniform(-2.2, -1.2), self.rng.uniform(10, 30), ridden=True)
        for _ in range(int(self.rng.integers(1, 5))):
            x, before = self.rng.uniform((left + self.tracks, 2.4), (right, 4.8))
            self.person(x, self.crossing - before)


class _Camera:
    """Paints a layout: colours with smooth edges, ids with hard ones."""

    def __init__(self, street: _Street, seed: int, height: int, width: int):
        self.rng = np.random.default_rng([seed, 1])
        self.street, self.mood = street, street.mood
        self.focal = float(0.62 * np.sqrt(2.0 * height * width))
        self.centre = np.array((width, height)) * self.rng.uniform((0.45, 0.42), (0.55, 0.48))
        self.image = np.zeros((height, width, 3), np.uint8)
        self.ids = np.full((height, width), LABEL_ID["sky"], np.uint16)

    def project(self, faces: Sequence[_Face], slant: np.ndarray | None = None) -> list[list[np.ndarray]]:
        """The polygons of each face in 1/16 pixel, as OpenCV takes them; `slant` first maps the points.

        In OpenCV's coordinates the centres of the pixels are whole.
        """
        points = np.concatenate([face.points.reshape(-1, 3) for face in faces])
        points = points if slant is None else points @ slant
        depth = np.maximum(points[:, 2:], 0.7)
        flat = np.stack((points[:, 0], _EYE - points[:, 1]), axis=1) / depth * self.focal + self.centre - 0.5
        flat = np.round(flat * 16).astype(np.int32)
        ends = np.cumsum([face.points.size // 3 for face in faces]).tolist()
        return [list(flat[start:end].reshape(*face.points.shape[:2], 2))
                for start, end, face in zip([0, *ends], ends, faces, strict=False)]

    def paint(self, faces: Sequence[_Face], haze: bool = True):
        for face, corners in zip(faces, self.project(faces), strict=True):
            if face.colour is not None:
                clear = 0.5 ** (max(1.0, float(face.points[0, 0, 2])) / 130) if haze else 1.0
                colour = [min(255.0, c * t) * clear + h * (1 - clear)
                          for c, t, h in zip(face.colour, self.mood.tint, self.mood.horizon, strict=True)]
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

    def shade_ground(self):
        """Texture, shadows and haze on what lies flat, before anything stands on it."""
        top, (height, width), street = int(self.centre[1]) + 1, self.ids.shape, self.street
        rows, columns = np.arange(top, height, dtype=np.float32)[:, None], np.arange(width, dtype=np.float32)
        z = self.focal * _EYE / (rows + 1 - float(self.centre[1]))
        x = (columns - float(self.centre[0])) * z / self.focal
        tile = self.rng.integers(-12, 13, (256, 256)).astype(np.float32)
        grain = tile[(z * 45).astype(int) & 255, (x * 45).astype(int) & 255] / (1 + z / 3)
        faces = [*street.backdrop, *(face for _, thing in street.things for face in thing)]
        faces = [face for face in faces if face.casts and face.points[0, 0, 2] < 70]
        # Moves points along the sun's rays to the ground.
        slant = np.array(((1, 0, 0), -street.sun / street.sun[1], (0, 0, 1))) * (1, 0, 1)
        shadow = np.zeros((height, width), np.uint8)
        for corners in self.project(faces, slant):
            cv2.fillPoly(shadow, corners, int(190 * self.mood.sun), cv2.LINE_AA, 4)
        lit = 1 - shadow[top:, :, None].astype(np.float32) / 255
        haze = np.minimum(z / 260, 0.6)[..., None]
        ground = (self.image[top:] + grain[..., None]) * lit
        self.image[top:] = (ground * (1 - haze) + np.float32(self.mood.horizon) * haze).clip(0, 255)

    def paint_bonnet(self, colour: Colour):
        height, width = self.ids.shape
        for lift, tone in ((0.0, 0.8), (0.02, 1.0), (0.045, 1.12)):
            oval = (_circle(60) * (0.62, 0.13) + (0.5, 1.06 + lift)) * (width, height)
            corners = [np.round(oval * 16).astype(np.int32)]
            cv2.fillPoly(self.image, corners, _shade(colour, tone), cv2.LINE_AA, 4)
            cv2.fillPoly(self.ids, corners, LABEL_ID["ego vehicle"], cv2.LINE_8, 4)

    def develop(self) -> Scene:
        """Texture by class, uneven light, and the noise of a sensor."""
        labels = np.where(self.ids >= 1000, self.ids // 1000, self.ids).astype(np.uint8)
        rough = np.full(256, 3, np.float32)
        for name, amplitude in _ROUGH.items():
            rough[LABEL_ID[name]] = amplitude
        texture = 0.5 * self.noise(96) + 0.6 * self.noise(256) + 0.6 * self.noise(1024)
        sensor = self.rng.integers(-4, 5, self.image.shape, dtype=np.int8)
        texture, light = (texture * rough[labels])[..., None], (1 + 0.05 * self.noise(4))[..., None]
        image = self.image * light + texture + sensor
        return Scene(image.clip(0, 255).astype(np.uint8), labels, self.ids)
