"""Cityscapes (Cordts et al., CVPR 2016): 19 classes of streets in 50 cities. Its test labels are dummies."""

from collections.abc import Iterator
from itertools import count
from typing import NamedTuple

from ovenet_core.cross_entropy import IGNORE_INDEX
from ovenet_core.data.dataset import SPLITS, Colour, SegmentationDataset


class Label(NamedTuple):
    """A row of the label table; `train_id` is `IGNORE_INDEX` where the class is not evaluated."""

    name: str
    id: int
    train_id: int
    category: str
    has_instances: bool
    colour: Colour


# The official label definition in the order of ids, with a * before evaluated classes; its license plate is in no file.
# fmt: off
_TABLE = {
    "void": {"unlabeled": (0, 0, 0), "ego vehicle": (0, 0, 0), "rectification border": (0, 0, 0),
        "out of roi": (0, 0, 0), "static": (0, 0, 0), "dynamic": (111, 74, 0), "ground": (81, 0, 81)},
    "flat": {"*road": (128, 64, 128), "*sidewalk": (244, 35, 232), "parking": (250, 170, 160),
        "rail track": (230, 150, 140)},
    "construction": {"*building": (70, 70, 70), "*wall": (102, 102, 156), "*fence": (190, 153, 153),
        "guard rail": (180, 165, 180), "bridge": (150, 100, 100), "tunnel": (150, 120, 90)},
    "object": {"*pole": (153, 153, 153), "polegroup": (153, 153, 153), "*traffic light": (250, 170, 30),
        "*traffic sign": (220, 220, 0)},
    "nature": {"*vegetation": (107, 142, 35), "*terrain": (152, 251, 152)},
    "sky": {"*sky": (70, 130, 180)},
    "human": {"*person": (220, 20, 60), "*rider": (255, 0, 0)},
    "vehicle": {"*car": (0, 0, 142), "*truck": (0, 0, 70), "*bus": (0, 60, 100), "caravan": (0, 0, 90),
        "trailer": (0, 0, 110), "*train": (0, 80, 100), "*motorcycle": (0, 0, 230), "*bicycle": (119, 11, 32)},
}
# fmt: on


def _labels() -> Iterator[Label]:
    ids, train_ids = count(), count()
    for category, colours in _TABLE.items():
        for name, colour in colours.items():
            train_id = next(train_ids) if name.startswith("*") else IGNORE_INDEX
            yield Label(name.strip("*"), next(ids), train_id, category, category in ("human", "vehicle"), colour)


CITYSCAPES_LABELS = tuple(_labels())
_EVALUATED = tuple(label for label in CITYSCAPES_LABELS if label.train_id != IGNORE_INDEX)
_THINGS = tuple(label for label in _EVALUATED if label.has_instances)
_COARSE = "gtCoarse/{split}/*/*_gtCoarse"
# Pixels of an average instance: section 4.1, in the digits of its evaluation scripts.
_SIZES = (
    *(3462.4756337644, 3930.4788056518, 12794.0202738185, 27855.1264367816),
    *(35732.1511111111, 67583.7075812274, 6298.7200839748, 4672.3249222261),
)

CITYSCAPES = SegmentationDataset(
    name="cityscapes",
    class_names=tuple(label.name for label in _EVALUATED),
    colours=tuple(label.colour for label in _EVALUATED),
    train_ids={label.id: label.train_id for label in CITYSCAPES_LABELS},
    images=("leftImg8bit/{split}/*/*_leftImg8bit.png",),
    labels=("gtFine/{split}/*/*_gtFine_labelIds.png",),
    instances=("gtFine/{split}/*/*_gtFine_instanceIds.png",),
    exceptions={"train_extra": {"labels": (f"{_COARSE}_labelIds.png",), "instances": (f"{_COARSE}_instanceIds.png",)}},
    splits={**SPLITS, "train_extra": ("train_extra",)},
    unlabelled=("test",),
    # The weights of HRNet's and the authors' protocol, for Cityscapes and ACDC.
    class_weights=(
        *(0.8373, 0.918, 0.866, 1.0345, 1.0166, 0.9969, 0.9754, 1.0489, 0.8786, 1.0023),
        *(0.9539, 0.9843, 1.1116, 0.9037, 1.0865, 1.0955, 1.0865, 1.1529, 1.0507),
    ),
    categories=tuple(label.category for label in _EVALUATED),
    instance_classes=tuple(label.train_id for label in _THINGS),
    instance_sizes={label.name: size for label, size in zip(_THINGS, _SIZES, strict=True)},
    # Of the 20,000 coarsely labelled images that the paper speaks of, the archives hold 19,998.
    official_counts={"train": {"": 2975}, "val": {"": 500}, "test": {"": 1525}, "train_extra": {"": 19998}},
    image_size=(1024, 2048),
    name_prefixes={
        "train": (
            *("aachen", "bochum", "bremen", "cologne", "darmstadt", "dusseldorf", "erfurt", "hamburg", "hanover"),
            *("jena", "krefeld", "monchengladbach", "strasbourg", "stuttgart", "tubingen", "ulm", "weimar", "zurich"),
        ),
        "val": ("frankfurt", "lindau", "munster"),
        "test": ("berlin", "bielefeld", "bonn", "leverkusen", "mainz", "munich"),
    },
    street_scenes=True,
    # Label ids; names only have to begin with city, sequence and frame: cityscapesScripts, getPrediction in
    # evalPixelLevelSemanticLabeling.py, looks for CITY_SEQUENCE_FRAME*.png in all folders.
    server="{name}_pred_labelIds.png",
    paper_figures=(3, 6, 9),
)
