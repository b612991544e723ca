"""Rooms, streets and landscapes with things of the 150 classes of ADE20K, laid out and drawn from a seed."""

from collections.abc import Sequence
from itertools import count

import numpy as np
from jaxtyping import UInt8

from ovenet_core.data.synthetic.camera import MOODS, Camera, Mood, Scene
from ovenet_core.data.synthetic.parts import Face
from ovenet_core.data.synthetic.shapes import SHAPES, SOLID, circle
from ovenet_core.data.synthetic.things import THINGS, Thing

KINDS = "LBKWOHSPCM"  # living room, bedroom, kitchen, bathroom, office, hall, street, park, coast, mountains
INDOORS = "LBKWOH"
_NUMBER = 256  # the instance id is label id + 256 * number of the thing, which is 0 for what is no thing
_ID = {thing.name: index for index, thing in enumerate(THINGS, 1)}
_THING = {thing.name: thing for thing in THINGS}
_LAMPLIGHT = tuple(
    Mood((0, 0, 0), (0, 0, 0), 0.0, 0.0, tint)
    for tint in ((1.0, 1.0, 1.0), (1.07, 0.99, 0.86), (0.92, 0.97, 1.03), (0.8, 0.78, 0.76))
)
_SUPPORTS = {
    "bed": 0.55,
    "sofa": 0.48,
    "table": 1.0,
    "desk": 1.0,
    "coffee table": 1.0,
    "kitchen island": 1.0,
    "counter": 1.0,
    "countertop": 1.0,
    "bar": 1.0,
}  # what things are put on, and how far up
_ROUGH_SHAPES = {"tree": 26, "plant": 22, "hill": 18, "mountain": 14, "rock": 16, "waterfall": 16, "animal": 10}
# Strength of the texture, in grey levels: strong on what grows and on the ground, and different for the other classes.
_ROUGHNESS = np.float32(
    [
        6,
        *(
            _ROUGH_SHAPES.get(thing.shape, 14 if thing.place == "base" else 2 + 5 * index % 7)
            for index, thing in enumerate(THINGS)
        ),
        *[0] * 105,
    ]
)
_ROUGHNESS[[_ID["sky"], _ID["ceiling"], _ID["sea"], _ID["lake"], _ID["water"]]] = 0, 2, 7, 4, 5


def _rgb(colour: int) -> np.ndarray:
    return np.array((colour >> 16, colour >> 8 & 255, colour & 255), float)


def draw_place(seed: int, height: int, width: int) -> Scene:
    """The place of a seed (0 or more) at a size in pixels; its label ids are 1 to 150, and 0 for what has no class.

    The kind of place is that of seed % 10, and the next seed of the same kind has the next things of this kind, so that
    all classes come up in any hundred seeds in a row. What is put there is an instance each; ground, walls and sky are
    not.

    Raises:
        ValueError: a side is below 16 pixels, or the seed is negative.
    """
    kind = KINDS[seed % len(KINDS)]
    indoors = kind in INDOORS
    moods, background = (_LAMPLIGHT, _ID["wall"]) if indoors else (MOODS, _ID["sky"])
    camera = _PlaceCamera(seed, height, width, moods, background, _ROUGHNESS)
    place = Place(seed, camera.focal / height, width / 2 / camera.focal)
    if not indoors:
        camera.paint_sky()
    camera.paint(place.ground, haze=False)
    if not indoors:
        camera.shade_ground(place.upright, place.to_sun)
    camera.paint(place.upright, haze=not indoors)
    return camera.develop()


class _PlaceCamera(Camera):
    def labels(self) -> UInt8[np.ndarray, "height width"]:
        return (self.ids % _NUMBER).astype(np.uint8)


class Place:
    """The layout of a place: `ground` (and the walls of a room) is painted first, then `upright`, from far to near.

    Args:
        zoom: size of a thing in shares of the image's height, if it is as tall as it is far.
        reach: half of the width that the image shows, in shares of the distance.
    """

    def __init__(self, seed: int, zoom: float, reach: float):
        self.rng, self.zoom, self.reach = np.random.default_rng([seed, 3]), zoom, reach
        self.numbers = count(1)  # of the things, whatever their classes
        self.kind, self.turn = KINDS[seed % len(KINDS)], seed // len(KINDS)
        self.to_sun = np.array((self.rng.choice((-0.65, 0.65)), 0.6, self.rng.uniform(-0.6, 0.1)))
        self.ground: list[Face] = []
        self.things: list[tuple[float, list[Face]]] = []  # distance and faces
        if self.kind in INDOORS:
            self.furnish()
        else:
            self.landscape()
        self.things.sort(key=lambda thing: -thing[0])
        self.upright = [face for _, faces in self.things for face in faces]

    def next(self, places: str, count: int, names: Sequence[str] = ()) -> list[Thing]:
        """The next things of this kind of place that go to one of `places`, in the order of the table, and mixed."""
        fit = [
            thing
            for thing in THINGS
            if self.kind in thing.kinds and thing.place in places.split() and (not names or thing.name in names)
        ]
        chosen = [fit[(self.turn * count + i) % len(fit)] for i in range(min(count, len(fit)))]
        return [chosen[i] for i in self.rng.permutation(len(chosen))]

    def colour(self, colour: int, spread: float = 16) -> np.ndarray:
        """Brighter or darker, and a little of another hue."""
        return (_rgb(colour) * self.rng.uniform(0.82, 1.15) + self.rng.uniform(-spread, spread, 3)).clip(8, 250)

    def slots(self, count: int) -> np.ndarray:
        """Places next to each other from -1 to 1, in no order."""
        cells = (np.arange(count) + self.rng.uniform(0.3, 0.7, count)) / max(1, count) * 2 - 1
        return self.rng.permutation(cells)

    def distance(self, thing: Thing, low: float = 0.24, high: float = 0.6) -> float:
        """At which a thing takes a share between these of the height of the image, and no more of its width."""
        share = self.rng.uniform(low, high)
        return max(thing.height * self.zoom / share, thing.width / (2 * self.reach * high))

    def put(self, thing: Thing, x: float, z: float, y: float | None = None, turn: float = 0.0):
        """Stand a thing at (x, z), its lower edge at y, turned by `turn` radians away from facing the camera."""
        ident, lift = _ID[thing.name] + _NUMBER * next(self.numbers), thing.lift if y is None else y
        width, height = np.array((thing.width, thing.height)) * self.rng.uniform(0.88, 1.12, 2)
        tones = self.colour(thing.colour), self.colour(thing.accent)
        axes = np.array(((np.cos(turn), 0, np.sin(turn)), (0, 1, 0), (-np.sin(turn), 0, np.cos(turn))))
        origin = np.array((x, lift, z))
        faces = []
        if thing.shape in SOLID and not turn:
            deep, side = min(0.7, 0.6 * thing.width), -width / 2 if x > 0 else width / 2
            for corners, tone in (
                (((side, 0, 0), (side, height, 0), (side, height, deep), (side, 0, deep)), 0.68),
                (
                    (
                        (-width / 2, height, 0),
                        (width / 2, height, 0),
                        (width / 2, height, deep),
                        (-width / 2, height, deep),
                    ),
                    1.18,
                ),
            ):
                if tone > 1 or thing.shape not in ("table", "desk"):  # between their legs one sees through
                    faces.append(Face(np.array(corners) + origin, tones[0] * tone, ident))
        flip = self.rng.choice((-1, 1))
        for polygon, tone in SHAPES[thing.shape]:
            points = np.insert(polygon * (width * flip, height), 2, 0, axis=1) @ axes + origin
            faces.append(Face(points, tones[int(tone < 0)] * abs(tone), ident, lift == 0))
        if lift == 0 and not turn and self.kind in INDOORS:  # outdoors, the sun throws the shadow
            shadow = np.insert(circle(16) * (0.56 * width, 0.1 + 0.1 * width), 1, 0, axis=1) + (x, 0, z + 0.1)
            self.ground.append(Face(shadow, self.floor * 0.72))
        self.things.append((z, faces))

    def clutter(self, x: float, z: float):
        """Something of no class."""
        corners = circle(int(self.rng.integers(3, 7))) * self.rng.uniform(0.12, 0.3, 2) + (x, 0.2)
        points = np.insert(corners, 2, z, axis=1)
        self.things.append((z, [Face(points, self.rng.uniform(20, 240, 3), 0, True)]))

    def lay(self, name: str, corners: Sequence, spread: float = 16):
        self.ground.append(Face(np.array(corners, float), self.colour(_THING[name].colour, spread), _ID[name]))

    # -- Rooms

    def furnish(self):
        hall = self.kind == "H"
        end, top = self.rng.uniform((7, 3.6) if hall else (4.2, 2.5), (10, 4.6) if hall else (6, 3.0))
        half = self.reach * end * self.rng.uniform(0.72, 0.98)
        self.build(half, top, end)
        back, wall = self.next("back", 3), self.next("wall", 5)
        slots = self.slots(len(back) + len(wall[:3]))
        low, middle = int(np.argmin([thing.height for thing in back])), int(np.argmin(np.abs(slots)))
        slots[[low, middle]] = slots[[middle, low]]  # seen between the tables in front
        for thing, slot in zip([*back, *wall[:3]], slots, strict=True):
            at = slot * (half - 0.35 * thing.width)
            self.put(thing, at, end - (0.03 if thing.place == "wall" else 0.75))
        for thing, side in zip(wall[3:], (-1, 1), strict=False):
            self.put(thing, side * (half - 0.03), end * self.rng.uniform(0.55, 0.8), turn=np.pi / 2)
        for thing in self.next("hang", 1):
            self.put(thing, half * self.rng.uniform(-0.5, 0.5), end * self.rng.uniform(0.6, 0.85), top - thing.height)
        for thing in self.next("patch", 1):
            x, z = half * self.rng.uniform(-0.4, 0.4), end * self.rng.uniform(0.45, 0.6)
            self.flat(thing, x, z)
        standing = self.next("stand", 5)
        for thing, slot in zip(standing, self.slots(len(standing)), strict=True):
            z = min(max(2.4, self.distance(thing)), end - 1.0)
            self.put(thing, slot * min(self.reach * z * 0.85, half - 0.3), z)
        self.serve(half, end)
        for _ in range(self.rng.integers(1, 3)):
            self.clutter(half * self.rng.uniform(-0.8, 0.8), end * self.rng.uniform(0.5, 0.9))

    def build(self, half: float, top: float, end: float):
        """The four sides that are seen: floor with boards or tiles, ceiling, and walls, each in its own light."""
        self.floor = self.colour(_THING["floor"].colour, 26)
        paint, white = self.colour(_THING["wall"].colour, 26), self.colour(_THING["ceiling"].colour, 6)
        for (x0, y0), (x1, y1), tone, colour, name in (
            ((-half, 0), (half, 0), 1, self.floor, "floor"),
            ((-half, top), (half, top), 0.95, white, "ceiling"),
            ((-half, 0), (-half, top), 0.82, paint, "wall"),
            ((half, 0), (half, top), 0.9, paint, "wall"),
        ):
            quad = np.array(((x0, y0, 0.7), (x0, y0, end), (x1, y1, end), (x1, y1, 0.7)))
            self.ground.append(Face(quad, colour * tone, _ID[name]))
        quad = np.array(((-half, 0, end), (-half, top, end), (half, top, end), (half, 0, end)))
        self.ground.append(Face(quad, paint, _ID["wall"]))
        gap = self.rng.uniform(0.25, 0.7)
        boards = [
            ((x, 0, 0.7), (x, 0, end), (x + 0.02, 0, end), (x + 0.02, 0, 0.7)) for x in np.arange(-half, half, gap)
        ]
        self.ground.append(Face(np.array(boards), self.floor * 0.8))
        if self.rng.random() < 0.5:
            tiles = [
                ((-half, 0, z), (-half, 0, z + 0.02), (half, 0, z + 0.02), (half, 0, z)) for z in np.arange(1, end, gap)
            ]
            self.ground.append(Face(np.array(tiles), self.floor * 0.8))

    def serve(self, half: float, end: float):
        """Tables and the like in front, with things on them."""
        tops = self.next("top", 4)
        if not tops:
            return
        supports = self.next("back stand", 2, tuple(_SUPPORTS))
        sides = (-1, 1) if len(supports) > 1 else (self.rng.choice((-1, 1)),)
        for index, (support, side) in enumerate(zip(supports, sides, strict=True)):
            z = self.rng.uniform(2.6, 3.3)
            x = side * min(0.45 * self.reach * z, half - 0.6 * support.width)
            self.put(support, x, z)
            share = tops[index :: len(supports)]
            for thing, slot in zip(share, self.slots(len(share)), strict=True):
                level = 0.96 * _SUPPORTS[support.name] * support.height
                self.put(thing, x + 0.42 * slot * support.width, z - 0.01, level)

    # -- Outdoors

    def flat(self, thing: Thing, x: float, z: float):
        """A patch on the ground, from the distance z on."""
        width, depth = thing.width / 2 * self.rng.uniform(0.85, 1.2), thing.height
        drift = self.rng.uniform(-0.25, 0.25) * depth
        self.lay(
            thing.name,
            (
                (x - width, 0, z),
                (x - width + drift, 0, z + depth),
                (x + width + drift, 0, z + depth),
                (x + width, 0, z),
            ),
        )

    def landscape(self):
        bases = self.next("base", 2)
        start = self.rng.uniform(9, 16)
        for thing, z0, z1 in zip(bases, (1.0, start), (900.0, start * self.rng.uniform(2.5, 5)), strict=False):
            self.lay(thing.name, ((-900, 0, z0), (-900, 0, z1), (900, 0, z1), (900, 0, z0)))
        if self.kind == "S":
            for side in (-1, 1):
                near, far = side * self.rng.uniform((2.6, 7), (4.5, 9))
                self.lay("sidewalk", ((near, 0, 1), (near, 0, 150), (far * 9, 0, 150), (far * 9, 0, 1)))
            marks = [((-0.1, 0, z), (-0.1, 0, z + 3), (0.1, 0, z + 3), (0.1, 0, z)) for z in range(3, 120, 7)]
            self.ground.append(Face(np.array(marks), (232, 232, 226)))
        for thing in self.next("patch", 1):
            if thing.name != "sidewalk":
                self.flat(thing, self.rng.uniform(-0.5, 0.5) * 4, self.rng.uniform(3.2, 5))
        far = [*self.next("far", 4), *self.next("far", 2)]
        for thing, slot in zip(far, self.slots(len(far)), strict=True):
            z = max(14.0, self.distance(thing, 0.16, 0.42))
            self.put(thing, slot * self.reach * z, z)
        standing = [*self.next("stand wall back", 8), *([_THING["tree"]] if self.rng.random() < 0.7 else [])]
        for thing, slot in zip(standing, self.slots(len(standing)), strict=True):
            z = max(3.5, self.distance(thing, 0.14, 0.42))
            x = slot * self.reach * z
            if thing.lift:
                self.put(_THING["pole"]._replace(height=thing.lift), x, z + 0.05)
            self.put(thing, x, z)
        for thing in self.next("air", 1):
            z = thing.width * self.zoom / self.rng.uniform(0.25, 0.5)
            self.put(thing, self.rng.uniform(-0.5, 0.5) * self.reach * z, z, 1.5 + 0.3 / self.zoom * z)
        z = self.rng.uniform(4, 8)
        self.clutter(self.rng.uniform(-0.8, 0.8) * self.reach * z, z)
