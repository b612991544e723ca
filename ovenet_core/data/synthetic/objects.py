"""Draw rooms, streets and landscapes with objects of the 150 classes of ADE20K, laid out from a seed."""

from collections.abc import Iterable, Sequence
from itertools import count, pairwise
from typing import NamedTuple

import numpy as np

from ovenet_core.data.ade20k import ADE20K
from ovenet_core.data.synthetic.camera import Camera, Scene
from ovenet_core.data.synthetic.parts import WHITE, Face, circle

KINDS = "LBKWOHSPCM"  # living room, bedroom, kitchen, bathroom, office, hall, street, park, coast, mountains
INDOORS = "LBKWOH"
_NUMBER = 256  # instance id = label id + 256 * number of the object; the number of ground, walls and sky is 0

# By place, rows of name, kinds, shape, width, height (metres; of a flat object the depth), colour and accent (CSS).
# "fixed" is always there, "base" covers the ground, "patch" lies on it, "far" is at the horizon, "back" in front of the
# rear wall, "wall" on a wall, "stand" on the ground, "top" on a table, "hang" under the ceiling, "air" in the air.
# fmt: off
_CLASSES = {
    "fixed": "wall LBKWOH - 0 0 DCB 000; floor LBKWOH - 0 0 A75 000; ceiling LBKWOH - 0 0 EED 000;"
        "sky SPCM - 0 0 8BE 000",
    "far": "building SPC tower 16 14 B87 456; mountain MC mountain 90 38 779 EEF; skyscraper SC tower 14 42 79B CDE;"
        "house SPM house 13 9 DCA 943; grandstand P shelves 30 9 99A C44; waterfall M stripes 15 26 EEE 666;"
        "bridge CM bars 46 9 987 765; hill MP mountain 70 15 795 795; hovel PM house 9 6.5 875 A85;"
        "tower SCM house 7 30 CA8 576; ship C boat 42 15 345 EEE; tank SM slats 10 9 DDD 899",
    "stand": "tree SPCM tree 4 6.5 573 543; person LOHSPC person .6 1.72 36A DA7; pool table LH table 2.3 .85 642 284;"
        "bed B slab 1.7 .95 753 CCE; car S car 4.2 1.45 B23 223; sofa L sofa 2 .9 579 DA5; base H slab 1.1 .9 CBB A98;"
        "table LKH table 1.5 .78 A74 642; coffee table L table 1.1 .42 632 632; kitchen island K slab 1.9 .95 EED 853;"
        "plant LBOHP plant .7 1 484 A63; armchair LB sofa .95 .95 943 432; swivel chair O chair .62 1.05 223 566;"
        "chair LKO chair .5 .95 953 C96; rock CM mountain 2.6 1.6 887 887; streetlight SP lamp .8 6 555 EEC;"
        "seat HPS chair .55 .9 36B 8AB; boat C boat 5 4.2 B43 EED; bus S bus 9.5 3 D92 334; truck S bus 7 3.1 36A DDC;"
        "fence SPM bars 4 1.2 887 766; conveyer belt H slab 2.6 .75 677 222; plaything BLP animal .5 .6 B84 EDA;"
        "desk OB table 1.5 .76 B85 777; column H stripes .6 3.2 DCC BBA; tent PM mountain 3.2 2.1 D72 EC8;"
        "lamp LBO lamp .5 1.55 666 FEA; stairs HS slats 2.2 1.5 AA9 877; bannister HL bars 1.8 1 742 963;"
        "bathtub W bowl 1.6 .62 EEE 9AA; ottoman LB doors .7 .42 758 A8B; animal PM animal 1.8 1.4 864 432;"
        "railing HC bars 2.4 1 CCC DDE; sculpture HP animal .9 1.8 898 898; traffic light S slats .5 3.2 232 E43;"
        "box OKH doors .6 .5 B85 EC9; bicycle SP bike 1.7 1.05 27C CCC; ashcan OHSP bowl .5 .75 455 789;"
        "sink WK bowl .7 .9 EEE 89A; van S bus 4.8 2.1 DEE 345; bag HBS bowl .5 .5 344 CB7; pier C bars 9 1.8 875 654;"
        "case H window 1.4 1.3 9CB CED; flower PLM plant .4 .6 D48 483; bench PSC sofa 1.7 .85 853 444;"
        "toilet W bowl .45 .8 FFF BCC; awning SC lamp 2.6 2.6 EED C33; fountain PH bowl 3 2.2 AA9 CDE;"
        "palm CP tree 3.8 6.5 4A3 876; canopy BP lamp 2.4 2.6 DCD 869; barrel HP slats .7 .95 853 444;"
        "pole SC slats .22 4.6 99A B33; minibike S bike 2 1.15 295 ABB; flag SPC frame 1.8 3.8 C23 EEE;"
        "stool KH table .45 .7 CA6 B33; basket LKB bowl .5 .5 C95 963; cradle B bars 1.1 .95 EEC CA7;"
        "ball PLC ball .45 .45 E43 FED; step HSP slab 1.8 .4 BBA DCC; pot LPK bowl .5 .5 B64 D86",
    "base": "road S - 0 0 666 000; grass PM - 0 0 694 000; earth PM - 0 0 864 000; water PC - 0 0 489 000;"
        "sea C - 0 0 37A 000; field M - 0 0 BA5 000; land CM - 0 0 986 000; lake MP - 0 0 69B 000;"
        "sand C - 0 0 DC8 000",
    "wall": "windowpane LBKO window 1.3 1.3 BDE EEE; painting LBH frame 1.1 .8 79B A84; screen OH frame 2 1.3 EEE 334;"
        "shelf LKO shelves 1.2 .8 CA7 477; trade name SH frame 2.2 .5 EC2 B22; bulletin board OH frame 1.5 1 C95 753;"
        "mirror LBW frame .8 1.1 BCD A73; signboard SH frame 1.9 .6 26A EEE; apparel BH cushion .8 .95 748 ECE;"
        "blind BOK slats 1.2 1.3 EDC BB9; sconce LBWH lamp .32 .5 B84 FEB; clock LKOHS ball .45 .45 742 FEE;"
        "towel WK slats .5 .8 7CC EEE; poster OBH frame .75 1 D59 FEE; hood K lamp .9 .75 AAB 666",
    "back": "cabinet LBKO doors 1.3 1.5 964 DB6; door LBKOH doors 1 2.05 853 EDC; refrigerator K doors .8 1.8 DDD 777;"
        "curtain LB stripes 1 2.2 A34 643; wardrobe B doors 1.7 2.1 DDB 888; chest of drawers B doors 1.1 .95 742 DB8;"
        "counter HK slab 2.2 1 876 433; screen door LW window .95 2.05 8A9 BCC; radiator LBWO stripes 1.1 .65 EEE CCB;"
        "fireplace L oven 1.5 1.15 A65 E82; countertop KW slab 1.8 .92 DDC 455; arcade machine H oven .8 1.8 538 EC3;"
        "stairway LH slats 1.8 2.3 974 A33; bookcase LO shelves 1.2 2 642 B43; dishwasher K oven .62 .85 DDD AAA;"
        "stove K oven .8 .92 BBB 233; booth HS window 1.5 2.2 A22 ACD; escalator H slats 3 2.3 889 344;"
        "bar HL slab 2.1 1.15 531 C94; buffet LK doors 1.7 .9 532 B96; shower W window 1.1 2.1 ACD 899;"
        "stage H window 4.2 2.8 643 923; washer KW oven .72 .9 EEE 899; oven K oven .7 1.3 344 875",
    "patch": "sidewalk S - 4 4 AA9 000; rug LB - 2.2 1.6 A44 000; path PM - 2.5 40 CB8 000; runway P - 11 70 556 000;"
        "river M - 6 60 478 000; dirt track MP - 4.5 60 A64 000; swimming pool P - 7 8 3BD 000",
    "top": "cushion L cushion .45 .4 D83 EDA; television LB frame 1 .65 222 334; crt screen OH frame .55 .5 CCB 244;"
        "pillow B cushion .6 .36 EEE DDE; bottle KLH bottle .11 .34 364 EDB; blanket BL cushion .8 .42 465 CDB;"
        "book LOB shelves .26 .26 933 358; microwave K oven .55 .34 CCC 222; monitor O frame .62 .48 444 59D;"
        "computer O frame .8 .5 DCC 47B; vase LBH bottle .24 .4 45A EEE; glass KH bottle .16 .28 CDE A35;"
        "food K bowl .34 .2 D93 C32; tray KL bowl .5 .16 AA9 DC7; plate KL bowl .34 .12 EEE CCD",
    "hang": "light LBKWOH ball .5 .22 FFE DCB; chandelier LH lamp .95 .75 B93 FEB; fan LOB lamp 1.2 .6 CB9 864",
    "air": "airplane PC plane 15 4.5 EEE 25A",
}
# The parts of a shape from back to front, in a box from x = -0.5 to 0.5 and y = 0 to 1: box x0 y0 x1 y1, oval x y rx
# ry, poly x y x y …, or grid columns rows fill x0 y0 x1 y1, each after a factor of the colour (if < 0, of the accent).
_LEAVES = ("oval .7 0 .6 .5 .4; oval .8 -.28 .54 .22 .18; oval .86 .27 .56 .22 .18; oval .9 0 .64 .24 .18;"
           "oval 1 -.2 .76 .22 .16; oval 1.1 .14 .8 .24 .17")
_SHAPES = {
    "animal": "oval 1 0 .55 .36 .25; grid .8 4 1 .3 -.33 0 .33 .45; oval 1.1 .36 .8 .14 .2; oval -1 .42 .84 .03 .04",
    "ball": "oval 1 0 .5 .5 .5; oval -1 0 .5 .36 .4; oval 1 0 .5 .2 .24",
    "bars": "grid 1 9 1 .35 -.5 0 .5 1; box -1 -.5 .88 .5 1; box -1 -.5 .12 .5 .2",
    "bike": "oval .4 -.28 .3 .22 .3; oval .4 .28 .3 .22 .3; poly 1 -.28 .24 -.2 .8 .22 .8 .3 .24; box -1 -.02 .9 .3 1",
    "boat": "poly 1 -.5 .36 .5 .4 .4 0 -.42 0; box .5 -.04 .3 0 1; poly -1 .02 .42 .02 1 .4 .42",
    "bottle": "poly 1 -.36 0 -.5 .4 -.4 .66 -.16 .76 -.2 1 .2 1 .16 .76 .4 .66 .5 .4 .36 0; box -1 -.46 .26 .46 .46",
    "bowl": "poly 1 -.5 .8 -.36 0 .36 0 .5 .8; oval .85 0 .8 .5 .2; oval -1 0 .82 .4 .14",
    "bus": "box 1 -.5 .1 .5 1; grid -1 6 1 .8 -.5 .5 .5 .84; oval -.25 -.3 .14 .1 .14; oval -.25 .3 .14 .1 .14",
    "car": "box 1 -.5 .14 .5 .6; poly 1 -.32 .6 -.18 1 .18 1 .34 .6; box -1 -.2 .6 .2 .9; grid .2 2 1 .4 -.5 0 .5 .2",
    "chair": "grid .9 2 1 .2 -.6 0 .6 1; box -1 -.4 .62 .4 .96; box 1.2 -.48 .4 .48 .52",
    "cushion": "oval 1 0 .5 .5 .5; poly 1.1 -.46 .1 -.38 .9 .38 .9 .46 .1; oval -1 0 .5 .2 .26",
    "doors": "box 1 -.5 0 .5 1; grid .82 2 1 .88 -.47 .05 .47 .95; grid -1 2 1 .5 -.11 .44 .11 .56",
    "frame": "box -1 -.5 0 .5 1; box 1 -.43 .07 .43 .93; poly 1.3 -.3 .2 .1 .8 .2 .75 -.2 .15",
    "house": "box 1 -.44 0 .44 .62; poly -1 -.5 .6 -.28 1 .28 1 .5 .6; grid .4 4 1 .5 -.42 .2 .42 .45",
    "lamp": "box .6 -.06 0 .06 .7; oval .6 0 .03 .3 .04; poly -1 -.5 .55 -.3 1 .3 1 .5 .55",
    "mountain": "poly 1 -.5 0 -.28 .56 -.16 .6 0 1 .22 .62 .5 0; poly .75 0 1 .22 .62 .5 0 .1 0; oval -1 0 .8 .06 .1",
    "oven": "box 1 -.5 0 .5 1; box -1 -.4 .1 .4 .68; oval -.5 0 .38 .28 .22; grid -1 5 1 .5 -.44 .8 .44 .92",
    "person": "grid .6 2 1 .75 -.22 0 .22 .48; box .8 -.48 .42 .48 .8; box 1 -.3 .44 .3 .84; oval -1 0 .92 .18 .08",
    "plane": "oval 1 0 .5 .5 .12; poly -1 -.46 .55 -.5 1 -.4 1 -.28 .6; poly -.8 .08 .48 -.2 0 -.1 0 .22 .46",
    "shelves": "box 1 -.5 0 .5 1; grid -1 4 3 .75 -.46 .05 .46 .95",
    "slab": "box 1 -.5 0 .5 1; box -1 -.5 .76 .5 1; grid .85 4 1 .85 -.5 .08 .5 .68",
    "slats": "box 1 -.5 0 .5 1; grid -1 1 5 .45 -.5 .02 .5 .98",
    "sofa": "box .85 -.44 .3 .44 1; box 1.1 -.42 .06 .42 .44; box -1 -.3 .46 -.1 .72; grid 1.2 2 1 .1 -.92 0 .92 .66",
    "stripes": "box 1 -.5 0 .5 1; grid .85 4 1 .4 -.5 0 .5 1; box -1 -.5 .92 .5 1",
    "table": "grid .75 2 1 .1 -.9 0 .9 .9; box -.9 -.44 .74 .44 .88; box 1.2 -.5 .86 .5 1",
    "tower": "box 1 -.5 0 .5 1; grid -1 4 9 .6 -.44 .06 .44 .94",
    "tree": f"poly -1 -.06 0 -.04 .5 .04 .5 .07 0; {_LEAVES}", "plant": f"{_LEAVES}; poly -1 -.24 0 -.3 .3 .3 .3 .24 0",
    "window": "box -1 -.5 0 .5 1; grid 1 2 2 .88 -.46 .04 .46 .96; poly 1.3 -.4 .1 -.2 .4 -.1 .4 -.3 .1",
}
# fmt: on
_SUPPORTS, _SOLID = ("table", "slab"), ("doors", "oven", "shelves", "slab")  # to put objects on; with top and side
_ROUGH = {"fixed": 1, "base": 12, "patch": 12, "tree": 26, "plant": 22, "mountain": 15, "animal": 10}  # grey levels


class ObjectClass(NamedTuple):
    """A row of the table above."""

    label: int  # 1 to 150
    place: str
    kinds: str
    shape: str  # "-" if flat
    width: float
    height: float
    colour: np.ndarray  # RGB
    accent: np.ndarray


def _parse_part(text: str) -> list[tuple[np.ndarray, float]]:
    """The polygons of a part, each with its tone."""
    name, *words = text.split()
    tone, *numbers = map(float, words)
    if name == "poly":
        return [(np.array(numbers).reshape(-1, 2), tone)]
    if name == "oval":
        return [(circle(12) * numbers[2:] + numbers[:2], tone)]
    columns, rows, fill, x0, y0, x1, y1 = numbers if name == "grid" else (1, 1, 1, *numbers)
    step = np.array(((x1 - x0) / columns, (y1 - y0) / rows))
    box = np.array(((-0.5, -0.5), (-0.5, 0.5), (0.5, 0.5), (0.5, -0.5))) * step
    box *= fill if columns > 1 else 1, fill if rows > 1 else 1
    return [(box + (x0, y0) + step * (i + 0.5, j + 0.5), tone) for j in range(int(rows)) for i in range(int(columns))]


OBJECTS = {}
for _place, _rows in _CLASSES.items():
    for *_words, _kinds, _shape, _width, _height, _colour, _accent in map(str.split, _rows.split(";")):
        _name, _size = " ".join(_words), (float(_width), float(_height))
        _tones = [np.array([17.0 * int(digit, 16) for digit in digits]) for digits in (_colour, _accent)]
        OBJECTS[_name] = ObjectClass(ADE20K.class_names.index(_name) + 1, _place, _kinds, _shape, *_size, *_tones)
SHAPES = {shape: [part for text in texts.split(";") for part in _parse_part(text)] for shape, texts in _SHAPES.items()}
_ROUGHNESS = np.zeros(256, np.float32)
for _row in OBJECTS.values():
    _ROUGHNESS[_row.label] = _ROUGH.get(_row.place, _ROUGH.get(_row.shape, 2 + 5 * _row.label % 7))


def draw_place(seed: int, height: int, width: int) -> Scene:
    """Draw the place of a seed (0 or more) at a size in pixels; label ids are 1 to 150, and 0 where there is no class.

    The kind of place is number `seed % 10` of `KINDS`. The next seed of a kind shows its next objects, so that all
    classes occur in any hundred consecutive seeds. Each object is an instance; ground, walls and sky are none.

    Raises:
        ConfigError: A side is below 16 pixels, or the seed is negative.
    """
    indoors = KINDS[seed % len(KINDS)] in INDOORS
    condition, background = ("lamplight", "wall") if indoors else ("", "sky")
    camera = Camera(condition, seed, height, width, OBJECTS[background].label, _ROUGHNESS)
    place = Place(seed, camera.focal / height, width / 2 / camera.focal)
    camera.shoot(place.ground, place.upright, place.to_sun)
    return camera.develop((camera.ids % _NUMBER).astype(np.uint8))


class Place:
    """Lay out a place: `ground` (with the walls of a room) is painted first, then `upright`, from far to near.

    Args:
        zoom: Height in the image (1 is all of it) of an object that is as tall as it is far.
        reach: Half the width that the image shows, relative to the distance.
    """

    def __init__(self, seed: int, zoom: float, reach: float):
        self.rng, self.zoom, self.reach = np.random.default_rng([seed, 5]), zoom, reach
        self.kind, self.turn, self.numbers = KINDS[seed % len(KINDS)], seed // len(KINDS), count(1)
        self.to_sun = np.array((self.rng.choice((-0.65, 0.65)), 0.6, self.rng.uniform(-0.6, 0.1)))
        self.ground: list[Face] = []
        self.objects: list[tuple[float, list[Face]]] = []  # distance and faces
        if self.kind in INDOORS:
            self.lay_room()
        else:
            self.lay_landscape()
        x, z, radius = self.rng.uniform((-1.5, 3.2, 0.15), (1.5, 4.5, 0.3))  # something of no class
        blob = np.insert(circle(int(self.rng.integers(3, 7))) * radius + (x, 0.2), 2, z, axis=1)
        self.objects.append((z, [Face(blob, self.rng.uniform(20, 240, 3), 0, True)]))
        self.objects.sort(key=lambda item: -item[0])
        self.upright = [face for _, faces in self.objects for face in faces]

    def choose(self, places: str, count: int, shapes: Iterable[str] = ()) -> list[ObjectClass]:
        """The next classes of this kind of place that belong in one of `places`."""
        fit = [row for row in OBJECTS.values() if self.kind in row.kinds and row.place in places.split()]
        fit = [row for row in fit if not shapes or row.shape in shapes]
        return [fit[(self.turn * count + i) % len(fit)] for i in range(min(count, len(fit)))]

    def spread(self, rows: Sequence[ObjectClass]) -> Iterable[tuple[ObjectClass, float]]:
        """Give classes positions from -1 to 1 next to each other, in random order."""
        slots = (np.arange(len(rows)) + self.rng.uniform(0.3, 0.7, len(rows))) / max(1, len(rows)) * 2 - 1
        return zip(rows, self.rng.permutation(slots).tolist(), strict=True)

    def scatter(self, rows: Sequence[ObjectClass], low: float, high: float, near: float, far: float = 1e9):
        """Stand objects where each fills `low` to `high` of the image's height, from `near` to `far` metres away."""
        for row, slot in self.spread(rows):
            fitting = max(row.height * self.zoom / self.rng.uniform(low, high), row.width / (2 * self.reach * high))
            z = min(max(near, fitting), far)
            self.put(row, 0.9 * slot * self.reach * z, z)

    def vary(self, colour: np.ndarray) -> np.ndarray:
        """A brighter or darker colour of nearly the same hue."""
        return (colour * self.rng.uniform(0.82, 1.15) + self.rng.uniform(-16, 16, 3)).clip(8, 250)

    def put(self, row: ObjectClass, x: float, z: float, y: float = 0.0):
        """Stand an object at (x, z), its lower edge at y."""
        ident, origin = row.label + _NUMBER * next(self.numbers), np.array((x, y, z))
        width, height = np.array((row.width, row.height)) * self.rng.uniform(0.88, 1.12, 2)
        colour, accent, faces = self.vary(row.colour), self.vary(row.accent), []
        if row.shape in _SOLID:
            inner, half, deep = -np.sign(x or 1) * width / 2, width / 2, min(0.7, 0.6 * width)
            side = ((inner, 0, 0), (inner, height, 0), (inner, height, deep), (inner, 0, deep))
            top = ((-half, height, 0), (half, height, 0), (half, height, deep), (-half, height, deep))
            faces = [Face(np.array(quad) + origin, colour * tone, ident) for quad, tone in ((side, 0.68), (top, 1.18))]
        for polygon, tone in SHAPES[row.shape]:
            points = np.insert(polygon * (width, height), 2, 0, axis=1) + origin
            faces.append(Face(points, (accent if tone < 0 else colour) * abs(tone), ident, not y))
        self.objects.append((z, faces))

    def lay(self, row: ObjectClass, x: float, z: float, width: float, depth: float):
        """Cover the ground on both sides of x, from the distance z on."""
        corners = (x - width / 2, z), (x - width / 2, z + depth), (x + width / 2, z + depth), (x + width / 2, z)
        self.ground.append(Face(np.insert(corners, 1, 0, axis=1), self.vary(row.colour), row.label))

    def lay_room(self):
        """Floor, ceiling and walls; objects at the rear wall and in the room; tables with objects on them."""
        end, top = self.rng.uniform(*(((7, 3.6), (10, 4.6)) if self.kind == "H" else ((4.2, 2.5), (6, 3))))
        half = self.reach * end * self.rng.uniform(0.72, 0.98)
        corners = (-half, 0), (-half, top), (half, top), (half, 0), (-half, 0)
        colours = {name: self.vary(OBJECTS[name].colour) for name in ("floor", "wall", "ceiling")}
        sides = zip(pairwise(corners), ("wall", "ceiling", "wall", "floor"), (0.82, 1, 0.9, 1), strict=True)
        for ((x0, y0), (x1, y1)), name, tone in sides:
            quad = np.array(((x0, y0, 0.7), (x0, y0, end), (x1, y1, end), (x1, y1, 0.7)))
            self.ground.append(Face(quad, colours[name] * tone, OBJECTS[name].label))
        self.ground.append(Face(np.insert(corners[:4], 2, end, axis=1), colours["wall"], OBJECTS["wall"].label))
        gap = self.rng.uniform(0.25, 0.7)
        gaps = [((x, 0, 0.7), (x, 0, end), (x + 0.02, 0, end), (x + 0.02, 0, 0.7)) for x in np.arange(-half, half, gap)]
        self.ground.append(Face(np.array(gaps), colours["floor"] * 0.8))
        for row in self.choose("patch", 1):
            self.lay(row, self.rng.uniform(-1, 1), end / 2, row.width, row.height)
        for row, slot in self.spread([*self.choose("back", 3), *self.choose("wall", 4)]):
            z, y = (end - 0.03, 1.55 - row.height / 2) if row.place == "wall" else (end - 0.75, 0.0)
            self.put(row, slot * (half - 0.35 * row.width), z, y)
        for row in self.choose("hang", 1):
            self.put(row, half * self.rng.uniform(-0.5, 0.5), end * self.rng.uniform(0.6, 0.85), top - row.height)
        self.scatter(self.choose("stand", 5), 0.24, 0.6, 2.4, end - 1)
        tops, side = self.choose("top", 4), self.rng.choice((-1, 1))
        supports = self.choose("back stand", 2, _SUPPORTS) if tops else []
        for index, support in enumerate(supports):
            z = self.rng.uniform(2.6, 3.3)
            x = side * (-1) ** index * min(0.45 * self.reach * z, half - 0.6 * support.width)
            self.put(support, x, z)
            for row, slot in self.spread(tops[index :: len(supports)]):
                self.put(row, x + 0.42 * slot * support.width, z - 0.01, 0.95 * support.height)

    def lay_landscape(self):
        """Ground, perhaps with a street; objects at the horizon and nearer ones; perhaps an aeroplane."""
        start = self.rng.uniform(9, 16)
        for row, z, depth in zip(self.choose("base", 2), (1, start), (900, start * 2.5), strict=False):
            self.lay(row, 0, z, 1800, depth)
        if self.kind == "S":
            for side in (-1, 1):
                self.lay(OBJECTS["sidewalk"], side * self.rng.uniform(32.6, 34.5), 1, 60, 150)
            marks = [((-0.1, 0, z), (-0.1, 0, z + 3), (0.1, 0, z + 3), (0.1, 0, z)) for z in range(3, 120, 7)]
            self.ground.append(Face(np.array(marks), WHITE))
        for row in self.choose("patch", 1) if self.kind != "S" else ():
            self.lay(row, self.rng.uniform(-1.5, 1.5), 3.5, row.width, row.height)
        self.scatter([*self.choose("far", 4), *self.choose("far", 2)], 0.16, 0.42, 14)
        self.scatter(self.choose("stand wall back", 9), 0.14, 0.42, 3.5)
        for row in self.choose("air", 1):
            z = row.width * self.zoom / self.rng.uniform(0.25, 0.5)
            self.put(row, self.rng.uniform(-0.5, 0.5) * self.reach * z, z, 1.5 + 0.3 / self.zoom * z)
