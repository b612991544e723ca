"""Label tables: the classes of Cityscapes, ADE20K and CamVid, with their label values and colours."""

from typing import NamedTuple

import numpy as np

from ovenet_core.cross_entropy import IGNORE_INDEX

Colour = tuple[int, int, int]  # RGB in [0, 255]


class Label(NamedTuple):
    """A row of the label table of Cityscapes; `train_id` is `IGNORE` where the class is not evaluated."""

    name: str
    id: int
    train_id: int
    category: str
    has_instances: bool
    colour: Colour


# The label definition of Cityscapes (Cordts et al., CVPR 2016). Its license plate, id -1, is in no file.
CITYSCAPES_LABELS = tuple(
    Label(*row)
    for row in (
        ("unlabeled", 0, IGNORE_INDEX, "void", False, (0, 0, 0)),
        ("ego vehicle", 1, IGNORE_INDEX, "void", False, (0, 0, 0)),
        ("rectification border", 2, IGNORE_INDEX, "void", False, (0, 0, 0)),
        ("out of roi", 3, IGNORE_INDEX, "void", False, (0, 0, 0)),
        ("static", 4, IGNORE_INDEX, "void", False, (0, 0, 0)),
        ("dynamic", 5, IGNORE_INDEX, "void", False, (111, 74, 0)),
        ("ground", 6, IGNORE_INDEX, "void", False, (81, 0, 81)),
        ("road", 7, 0, "flat", False, (128, 64, 128)),
        ("sidewalk", 8, 1, "flat", False, (244, 35, 232)),
        ("parking", 9, IGNORE_INDEX, "flat", False, (250, 170, 160)),
        ("rail track", 10, IGNORE_INDEX, "flat", False, (230, 150, 140)),
        ("building", 11, 2, "construction", False, (70, 70, 70)),
        ("wall", 12, 3, "construction", False, (102, 102, 156)),
        ("fence", 13, 4, "construction", False, (190, 153, 153)),
        ("guard rail", 14, IGNORE_INDEX, "construction", False, (180, 165, 180)),
        ("bridge", 15, IGNORE_INDEX, "construction", False, (150, 100, 100)),
        ("tunnel", 16, IGNORE_INDEX, "construction", False, (150, 120, 90)),
        ("pole", 17, 5, "object", False, (153, 153, 153)),
        ("polegroup", 18, IGNORE_INDEX, "object", False, (153, 153, 153)),
        ("traffic light", 19, 6, "object", False, (250, 170, 30)),
        ("traffic sign", 20, 7, "object", False, (220, 220, 0)),
        ("vegetation", 21, 8, "nature", False, (107, 142, 35)),
        ("terrain", 22, 9, "nature", False, (152, 251, 152)),
        ("sky", 23, 10, "sky", False, (70, 130, 180)),
        ("person", 24, 11, "human", True, (220, 20, 60)),
        ("rider", 25, 12, "human", True, (255, 0, 0)),
        ("car", 26, 13, "vehicle", True, (0, 0, 142)),
        ("truck", 27, 14, "vehicle", True, (0, 0, 70)),
        ("bus", 28, 15, "vehicle", True, (0, 60, 100)),
        ("caravan", 29, IGNORE_INDEX, "vehicle", True, (0, 0, 90)),
        ("trailer", 30, IGNORE_INDEX, "vehicle", True, (0, 0, 110)),
        ("train", 31, 16, "vehicle", True, (0, 80, 100)),
        ("motorcycle", 32, 17, "vehicle", True, (0, 0, 230)),
        ("bicycle", 33, 18, "vehicle", True, (119, 11, 32)),
    )
)

# The weights of HRNet's and the authors' protocol, for Cityscapes and ACDC, in the order of train ids.
CITYSCAPES_WEIGHTS = (
    0.8373,
    0.918,
    0.866,
    1.0345,
    1.0166,
    0.9969,
    0.9754,
    1.0489,
    0.8786,
    1.0023,
    0.9539,
    0.9843,
    1.1116,
    0.9037,
    1.0865,
    1.0955,
    1.0865,
    1.1529,
    1.0507,
)

# The classes of CamVid (Brostow et al., 2009) in the SegNet distribution, in the order of their label values.
CAMVID_CLASSES: dict[str, Colour] = {
    "sky": (128, 128, 128),
    "building": (128, 0, 0),
    "pole": (192, 192, 128),
    "road": (128, 64, 128),
    "pavement": (60, 40, 222),
    "tree": (128, 128, 0),
    "sign symbol": (192, 128, 128),
    "fence": (64, 64, 128),
    "car": (64, 0, 128),
    "pedestrian": (64, 64, 0),
    "bicyclist": (0, 128, 192),
}

# The classes of ADE20K SceneParsing (Zhou et al., CVPR 2017), label values 1 to 150: the first synonym of each.
ADE20K_NAMES = tuple(
    """
wall, building, sky, floor, tree, ceiling, road, bed, windowpane, grass, cabinet, sidewalk, person, earth, door,
table, mountain, plant, curtain, chair, car, water, painting, sofa, shelf, house, sea, mirror, rug, field, armchair,
seat, fence, desk, rock, wardrobe, lamp, bathtub, railing, cushion, base, box, column, signboard, chest of drawers,
counter, sand, sink, skyscraper, fireplace, refrigerator, grandstand, path, stairs, runway, case, pool table,
pillow, screen door, stairway, river, bridge, bookcase, blind, coffee table, toilet, flower, book, hill, bench,
countertop, stove, palm, kitchen island, computer, swivel chair, boat, bar, arcade machine, hovel, bus, towel,
light, truck, tower, chandelier, awning, streetlight, booth, television, airplane, dirt track, apparel, pole, land,
bannister, escalator, ottoman, bottle, buffet, poster, stage, van, ship, fountain, conveyer belt, canopy, washer,
plaything, swimming pool, stool, barrel, basket, waterfall, tent, bag, minibike, cradle, oven, ball, food, step,
tank, trade name, microwave, pot, animal, bicycle, lake, dishwasher, screen, blanket, sculpture, hood, sconce, vase,
traffic light, tray, ashcan, fan, pier, crt screen, plate, monitor, bulletin board, shower, radiator, glass, clock,
flag
""".strip()
    .replace("\n", " ")
    .split(", ")
)


def distinct_colours(count: int) -> tuple[Colour, ...]:
    """Colours that differ as much as can be: each next one is that of a grid which is farthest from all before.

    Distances are the "redmean" approximation of how different two colours look, in whole numbers, so that they are
    the same everywhere. Black, which shows ignored pixels, counts as taken, and dark colours are left out.

    Args:
        count: at most 1728, the colours of the grid.
    """
    levels = np.arange(24, 256, 21)
    grid = np.stack(np.meshgrid(levels, levels, levels, indexing="ij"), axis=-1).reshape(-1, 3)

    def distances(colour: np.ndarray) -> np.ndarray:
        red = (grid[:, 0] + colour[0]) // 2
        weights = np.stack((512 + red, np.full_like(red, 1024), 767 - red), axis=1)
        return (weights * (grid - colour) ** 2).sum(axis=1)

    nearest, chosen = distances(np.zeros(3, int)), []
    for _ in range(count):
        colour = grid[nearest.argmax()]
        chosen.append(tuple(colour.tolist()))
        nearest = np.minimum(nearest, distances(colour))
    return tuple(chosen)


ADE20K_COLOURS = distinct_colours(len(ADE20K_NAMES))
