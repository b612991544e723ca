"""ACDC (Sakaridis et al., ICCV 2021): the classes of Cityscapes in four conditions. Test labels are withheld."""

from dataclasses import replace
from pathlib import Path

from ovenet_core.cross_entropy import IGNORE_INDEX
from ovenet_core.data.cityscapes import CITYSCAPES
from ovenet_core.data.dataset import SPLITS

_CONDITIONS = ("fog", "night", "rain", "snow")


def _condition(image: Path) -> str:
    return image.parents[2].name  # rgb_anon/fog/train/SEQUENCE/…


ACDC = replace(
    CITYSCAPES,
    name="acdc",
    images=("rgb_anon/*/{split}/*/*_rgb_anon.png",),
    labels=("gt/*/{split}/*/*_gt_labelTrainIds.png", "gt/*/{split}/*/*_gt_labelIds.png"),
    train_ids={**{index: index for index in range(CITYSCAPES.num_classes)}, IGNORE_INDEX: IGNORE_INDEX},
    other_encodings=(CITYSCAPES.train_ids,),
    instances=(),
    exceptions={},
    splits=SPLITS,
    conditions=_CONDITIONS,
    condition_of=_condition,
    official_counts={
        "train": dict.fromkeys(_CONDITIONS, 400),
        "val": {"fog": 100, "night": 106, "rain": 100, "snow": 100},
        "test": dict.fromkeys(_CONDITIONS, 500),
    },
    image_size=(1080, 1920),
    name_prefixes={},
    # Train ids, 1920x1080, below a folder of this name, in which the server looks for SEQUENCE_frame_NUMBER*.png:
    # so the rules of acdc.vision.ee.ethz.ch/submit as its users quote them. The suffix is that of the images.
    server="labelTrainIds/{name}_rgb_anon.png",
    paper_figures=(4, 7, 10),
)
