"""What a street is put together from: colours, and the parts of signs, cycles and vehicles, in metres.

Colours are RGB in [0, 255]; a part is a flat polygon (corners, 2) with its colour, a face one in the world (corners, 3)
with axes x to the right, y up from the ground and z ahead of the camera.
"""

from collections.abc import Iterable, Sequence
from functools import cache
from itertools import pairwise
from typing import NamedTuple

import numpy as np

from ovenet_core.data.cityscapes import CITYSCAPES_LABELS

LABEL_ID = {label.name: label.id for label in CITYSCAPES_LABELS}
EYE = 1.5  # height of the camera, metres

Number = float | int
Colour = np.ndarray | tuple[Number, Number, Number]
Part = tuple[np.ndarray, Colour]
Line = Sequence[Number] | np.ndarray  # x0, y0, x1, y1


@cache
def circle(corners: int) -> np.ndarray:
    """A regular polygon of radius 1."""
    angle = (np.arange(corners) + 0.5) * (2 * np.pi / corners)
    return np.stack((np.cos(angle), np.sin(angle)), axis=1)


class Light(tuple):
    """A colour (RGB) of what shines at night."""


class Face(NamedTuple):
    """Polygons of one colour that do not overlap."""

    points: np.ndarray  # (corners, 3), or (polygons, corners, 3)
    colour: Colour | None  # None: only the ids change
    ident: int | None = None  # instance id, or label id where there are no instances; None: only the colours change
    casts: bool = False  # whether it throws a shadow on the ground


def disc(x: Number, y: Number, rx: Number, ry: Number | None = None) -> np.ndarray:
    return circle(18) * (rx, ry or rx) + (x, y)


def bars(colour: Colour, thick: Number, *lines: Line) -> list[Part]:
    """Lines drawn with a thickness."""
    ends = np.array(lines, float).reshape(-1, 2, 2)
    along = ends[:, 1] - ends[:, 0]
    side = along[:, ::-1] * (-1, 1) / np.hypot(*along.T)[:, None] * thick / 2
    return [(np.stack((a - s, a + s, b + s, b - s)), colour) for (a, b), s in zip(ends, side, strict=True)]


def facade(x: Number, spans: Iterable[Line], colour: Colour | None, ident: int | None = None, casts=False) -> Face:
    """Rectangles (z0, y0, z1, y1) in the plane along the street at x."""
    quads = [((x, y0, z0), (x, y1, z0), (x, y1, z1), (x, y0, z1)) for z0, y0, z1, y1 in spans]
    return Face(np.array(quads), colour, ident, casts)


# fmt: off
PALETTES = {name: np.array(colours) for name, colours in {
    "asphalt": ((92, 92, 96), (108, 106, 104), (82, 84, 92)), "grass": ((112, 142, 72),),
    "paving": ((172, 166, 160), (186, 174, 160), (158, 160, 164)), "trim": ((216, 208, 196),),
    "facade": ((222, 190, 150), (196, 116, 88), (232, 220, 196), (164, 176, 188), (158, 98, 80), (214, 196, 130)),
    "roof": ((146, 74, 58), (88, 88, 98), (112, 80, 68), (126, 100, 92)),
    "stone": ((176, 162, 146), (158, 104, 86), (150, 150, 152)), "bark": ((92, 74, 58),),
    "leaf": ((88, 128, 52), (70, 112, 58), (112, 140, 56), (128, 132, 48), (62, 100, 66)),
    "paint": ((226, 228, 230), (168, 174, 180), (40, 42, 48), (176, 34, 38), (34, 62, 118), (48, 92, 80),
              (224, 176, 46), (96, 110, 126), (148, 176, 200)),
    "tram": ((176, 34, 38), (34, 62, 118), (48, 92, 80), (224, 176, 46)),
    "clothes": ((52, 58, 84), (168, 52, 56), (60, 92, 138), (214, 190, 96), (74, 104, 76), (208, 206, 200)),
    "skin": ((232, 190, 160), (198, 148, 112), (120, 82, 60)),
}.items()}
GLASS, TYRE, STEEL, SILVER = np.array(((62, 78, 94), (26, 26, 28), (112, 116, 120), (152, 154, 158)))
WHITE, _RED, _BLUE, _YELLOW = np.array(((232, 232, 226), (200, 34, 38), (36, 84, 170), (240, 200, 50)))
LAMP = Light((232, 232, 226))
_TRIANGLE = np.array(((-0.45, -0.3), (0, 0.5), (0.45, -0.3), (0, -0.3)))  # these three are as wide as high
_DIAMOND = np.array(((0, 0.46), (0.46, 0), (0, -0.46), (-0.46, 0)))
_BOARD = np.array(((-0.35, -0.35), (-0.35, 0.35), (0.35, 0.35), (0.35, -0.35)))
PLATES = (  # of traffic signs
    [(disc(0, 0, 0.38), _RED), (disc(0, 0, 0.27), WHITE), (_BOARD * 0.35, TYRE)],
    [(disc(0, 0, 0.38), _BLUE), (_BOARD * (0.2, 0.6), WHITE)],
    [(_TRIANGLE, _RED), (_TRIANGLE * 0.6, WHITE)],
    [(_DIAMOND, WHITE), (_DIAMOND * 0.75, _YELLOW)],
    [(_BOARD * (2.2, 0.7), _YELLOW), (_BOARD * (1.7, 0.2), TYRE)],
)
CYCLES = {  # radius of the hub, thickness of the tubes, tubes
    "bicycle": (0.26, 0.06, ((-0.56, 0.34, -0.2, 0.85), (-0.2, 0.85, 0.02, 0.3), (0.02, 0.3, -0.56, 0.34),
                             (0.02, 0.3, 0.42, 0.85), (-0.15, 0.8, 0.42, 0.85))),
    "motorcycle": (0.18, 0.24, ((-0.7, 0.84, -0.1, 0.76), (-0.15, 0.82, 0.4, 0.88), (-0.3, 0.6, 0.25, 0.6),
                                (-0.35, 0.4, 0.25, 0.4))),
}
FITTINGS = (0.56, 0.34, 0.38, 1.05), (0.28, 1.06, 0.5, 1.02), (-0.32, 0.92, -0.08, 0.92)  # fork, handlebar and saddle
# Width; profile from the rear to the front (along, up), whose edge 3 is the windscreen; number of windows between its
# edges 1 and 3; places and radius of the wheels; all in metres.
VEHICLES = {
    "car": (1.8, ((-2.1, 0.32), (-2.15, 0.92), (-1.7, 1.44), (0.3, 1.47), (1.05, 0.97), (2, 0.82), (2.1, 0.32)),
            2, (-1.3, 1.3), 0.33),
    "van": (1.95, ((-2.4, 0.32), (-2.45, 1.15), (-2.3, 2), (1, 2.05), (1.7, 1.15), (2.3, 1), (2.4, 0.32)),
            3, (-1.5, 1.55), 0.35),
    "truck": (2.5, ((-4.5, 0.6), (-4.5, 3.5), (2.2, 3.5), (3.6, 2.9), (3.9, 1.7), (3.95, 0.4)),
              0, (-3.4, -2.3, 2.9), 0.5),
    "bus": (2.5, ((-5.8, 0.4), (-5.8, 1.6), (-5.65, 3.1), (5.6, 3.1), (5.8, 1.4), (5.8, 0.4)), 7, (-3.4, 3.6), 0.48),
    "train": (2.5, ((-4.6, 0.3), (-4.6, 1.6), (-4.4, 3.4), (4.4, 3.4), (4.6, 1.6), (4.6, 0.3)), 5, (-3, 3), 0.35),
}
# fmt: on


def _patch(corners: Sequence, u0: Number, u1: Number, v0: Number, v1: Number) -> np.ndarray:
    """The part of a quadrilateral from u0 to u1 along its first and v0 to v1 along its second edge, all in [0, 1]."""
    (a, b, c, d), corners = np.array(corners), ((u0, v0), (u1, v0), (u1, v1), (u0, v1))
    return np.array([(1 - v) * ((1 - u) * a + u * b) + v * ((1 - u) * d + u * c) for u, v in corners])


@cache
def panels(kind: str) -> list[tuple[np.ndarray, np.ndarray, list[Part]]]:
    """The faces of a vehicle (outline, normal, what is on it); axes: metres along, metres up, half widths across."""
    (_, profile, panes, wheels, radius), panels = VEHICLES[kind], []
    for edge, ((x0, y0), (x1, y1)) in enumerate(pairwise(profile)):
        face, details = ((x0, y0, -1), (x1, y1, -1), (x1, y1, 1), (x0, y0, 1)), []
        if edge == 3 or (edge == 1 and panes):
            details = [(_patch(face, 0.1, 0.9, 0.07, 0.93), GLASS)]
        elif edge in (0, len(profile) - 2):  # the rear and the front, with number plate and lamps
            low, high = np.array((0.2, 0.38)) / (y1 - y0) + (edge > 0)
            lamp = Light((246, 240, 214) if edge else (214, 30, 30))
            spans = (0.04, 0.2, lamp), (0.37, 0.63, WHITE), (0.8, 0.96, lamp)
            details = [(_patch(face, low, high, v0, v1), colour) for v0, v1, colour in spans]
        panels.append((np.array(face), np.array((y0 - y1, x1 - x0, 0)) / np.hypot(x1 - x0, y1 - y0), details))
    spans = pairwise(np.linspace(0.04, 0.99, panes + 1))
    flat = [(_patch(profile[1:5], 0.1, 0.85, v0, v1 - 0.03), GLASS * 0.85) for v0, v1 in spans]
    for wheel in wheels:
        flat += [(disc(wheel, radius, radius), TYRE), (disc(wheel, radius, radius / 2), SILVER)]
    for s in (-1, 1):
        details = [(np.insert(polygon, 2, s, axis=1), colour) for polygon, colour in flat]
        panels.append((np.insert(profile, 2, s, axis=1), np.array((0, 0, s)), details))
    return panels
