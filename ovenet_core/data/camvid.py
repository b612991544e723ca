"""CamVid (Brostow et al., 2009) in the layout, classes and colours of the SegNet distribution."""

from pathlib import Path

from ovenet_core.cross_entropy import IGNORE_INDEX
from ovenet_core.data.dataset import SPLITS, SegmentationDataset, median_frequency_weights

# fmt: off
_CLASSES = {  # in the order of their label values
    "sky": (128, 128, 128), "building": (128, 0, 0), "pole": (192, 192, 128), "road": (128, 64, 128),
    "pavement": (60, 40, 222), "tree": (128, 128, 0), "sign symbol": (192, 128, 128), "fence": (64, 64, 128),
    "car": (64, 0, 128), "pedestrian": (64, 64, 0), "bicyclist": (0, 128, 192),
}
# fmt: on
# Shares of the classes in all pixels of the train labels, as counted; unlabelled pixels make up .040.
_TRAIN_SHARES = (0.169, 0.233, 0.010, 0.317, 0.045, 0.097, 0.012, 0.011, 0.059, 0.006, 0.003)


def _condition(image: Path) -> str:
    return "dusk" if image.name.partition("_")[0] == "0001TP" else "day"


CAMVID = SegmentationDataset(
    name="camvid",
    class_names=tuple(_CLASSES),
    colours=tuple(_CLASSES.values()),
    train_ids=dict(enumerate((*range(len(_CLASSES)), IGNORE_INDEX))),
    images=("{split}/*.png", "{split}/*.jpg"),
    labels=("{split}annot/*.png",),
    splits=SPLITS,
    # Ours: the square root of the balancing weights. How they were chosen: docs/camvid.md.
    class_weights=tuple(round(weight**0.5, 2) for weight in median_frequency_weights(_TRAIN_SHARES)),
    pixel_shares=_TRAIN_SHARES,
    conditions=("day", "dusk"),
    condition_of=_condition,
    official_counts={
        "train": {"day": 305, "dusk": 62},
        "val": {"day": 101, "dusk": 0},
        "test": {"day": 171, "dusk": 62},
    },
    image_size=(360, 480),
    block_length=20,
)
