"""Cityscapes (Cordts et al., CVPR 2016): 19 classes of streets in 50 cities. Its test labels are dummies."""

from typing import NamedTuple

from ovenet_core.cross_entropy import IGNORE_INDEX
from ovenet_core.data.dataset import SPLITS, Colour, SegmentationDataset, SubmissionFormat


class Label(NamedTuple):
    """A row of the label table; `train_id` is `IGNORE_INDEX` where the class is not evaluated."""

    name: str
    id: int
    train_id: int
    category: str
    has_instances: bool
    colour: Colour


# The official label definition. Its license plate, id -1, is in no file.
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
_EVALUATED = tuple(label for label in CITYSCAPES_LABELS if label.train_id != IGNORE_INDEX)

CITYSCAPES = SegmentationDataset(
    name="cityscapes",
    class_names=tuple(label.name for label in _EVALUATED),
    colours=tuple(label.colour for label in _EVALUATED),
    train_ids={label.id: label.train_id for label in CITYSCAPES_LABELS},
    images=("leftImg8bit/{split}/*/*_leftImg8bit.png",),
    labels=("gtFine/{split}/*/*_gtFine_labelIds.png",),
    instances=("gtFine/{split}/*/*_gtFine_instanceIds.png",),
    exceptions={
        "train_extra": {
            "labels": ("gtCoarse/{split}/*/*_gtCoarse_labelIds.png",),
            "instances": ("gtCoarse/{split}/*/*_gtCoarse_instanceIds.png",),
        }
    },
    splits={**SPLITS, "train_extra": ("train_extra",)},
    unlabelled=("test",),
    # The weights of HRNet's and the authors' protocol, for Cityscapes and ACDC.
    class_weights=(
        *(0.8373, 0.918, 0.866, 1.0345, 1.0166, 0.9969, 0.9754, 1.0489, 0.8786, 1.0023),
        *(0.9539, 0.9843, 1.1116, 0.9037, 1.0865, 1.0955, 1.0865, 1.1529, 1.0507),
    ),
    categories=tuple(label.category for label in _EVALUATED),
    instance_classes=tuple(label.train_id for label in _EVALUATED if label.has_instances),
    instance_sizes={  # section 4.1, in the digits of its evaluation scripts
        "person": 3462.4756337644,
        "rider": 3930.4788056518,
        "car": 12794.0202738185,
        "truck": 27855.1264367816,
        "bus": 35732.1511111111,
        "train": 67583.7075812274,
        "motorcycle": 6298.7200839748,
        "bicycle": 4672.3249222261,
    },
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
    # Label ids; the name only has to begin with city, sequence and frame: cityscapesScripts, getPrediction in
    # evalPixelLevelSemanticLabeling.py, looks for CITY_SEQUENCE_FRAME*.png in all folders.
    server=SubmissionFormat(suffix="_pred_labelIds"),
    paper_figures=(3, 6, 9),
)
