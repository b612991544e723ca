"""Experiments: frozen dataclasses, and the named presets, each with its source.

Section and table numbers are those of the paper. "Authors' code" marks what only their configuration says, "ours" what
neither says.
"""

import difflib
import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from ovenet_core.data import CITYSCAPES, DataError
from ovenet_core.training.config import Experiment


def median_frequency_weights(pixel_shares: Sequence[float]) -> tuple[float, ...]:
    """Class weights that balance the classes: the median of the classes' shares divided by the share of each.

    After Eigen and Fergus, ICCV 2015, who take the share in the images that have the class; here it is in all.
    """
    if not pixel_shares or min(pixel_shares) <= 0:
        raise DataError(
            f"pixel shares {tuple(pixel_shares)}: expected one above 0 for each class; "
            "leave out the ignored pixels, and classes that do not occur"
        )
    median = statistics.median(pixel_shares)
    return tuple(median / share for share in pixel_shares)


# Scales: the paper's runs on its three benchmarks, and ours. ImageNet weights: section 4.1; the file is HRNet's own.
CITYSCAPES_RUN = Experiment(
    class_weights=CITYSCAPES.class_weights,  # authors' code
    pretrained="hrnetv2_w48_imagenet_pretrained.pth",
)
ACDC_RUN = CITYSCAPES_RUN.override(benchmark="acdc", crop=(540, 960))  # section 4.1
ADE20K_RUN = CITYSCAPES_RUN.override(
    benchmark="ade20k",
    class_weights=None,
    crop=(520, 520),  # given with the task as HRNet's protocol, as the rest (docs/divergences.md, note 6)
    epochs=120,
    learning_rate=0.02,
    weight_decay=0.0001,
)
TOY = CITYSCAPES_RUN.override(  # ours: a very narrow HRNet on generated scenes, seconds to two minutes on 2 cores
    width=8,
    blocks=1,
    pretrained="",
    crop=(128, 256),
    scale_range=(0.75, 1.5),
    ohem_min_kept=16384,
    epochs=24,
    batch_size=4,
    learning_rate=0.03,
    weight_decay=0.0001,
    validate_every=12,
    channels_last=True,
)
# CamVid is ours, the paper has none of it. How the schedule and the weights were chosen: docs/camvid.md.
# Shares of the classes in all pixels of its train labels, as counted; unlabelled pixels make up .040.
CAMVID_TRAIN_SHARES = (0.169, 0.233, 0.010, 0.317, 0.045, 0.097, 0.012, 0.011, 0.059, 0.006, 0.003)
CAMVID_CLASS_WEIGHTS = tuple(round(w**0.5, 2) for w in median_frequency_weights(CAMVID_TRAIN_SHARES))
CAMVID = CITYSCAPES_RUN.override(
    benchmark="camvid",
    width=18,
    align_corners=True,  # as the initial weights were trained
    pretrained="hrnetv2_w18_cocolvis.safetensors",
    class_weights=CAMVID_CLASS_WEIGHTS,
    crop=(360, 480),
    epochs=100,
    batch_size=24,
    learning_rate=0.04,
    ohem_min_kept=393216,
    precision="bfloat16",
    channels_last=True,
    validate_every=25,
)
# For processors, of which many have no bfloat16 arithmetic and take twenty times as long to imitate it.
CAMVID_HALF = CAMVID.override(
    image_size=(180, 240),
    crop=(180, 240),
    ohem_min_kept=16384,
    epochs=15,
    batch_size=4,
    learning_rate=0.01,
    precision="float32",
    validate_every=5,
)
PROTOCOLS: dict[str, tuple[Experiment, str]] = {  # with what the paper says of them
    "cityscapes": (CITYSCAPES_RUN, "Tables 1, 2 and 5; batch size, class weights and OHEM's constants are not said"),
    "cityscapes-trainval": (CITYSCAPES_RUN.override(train_split="trainval"), "Table 1, train+val; epochs not said"),
    "acdc": (ACDC_RUN, "Tables 3 and 4; batch size, class weights and OHEM's constants are not said"),
    "ade20k": (ADE20K_RUN, "section 4.2, which says 484 epochs, 0.01 and 0.0005; the authors' code has other values"),
    "camvid": (CAMVID, "ours: HRNet-W18, whole images, 100 epochs"),
    "camvid-half": (CAMVID_HALF, "ours: HRNet-W18, images of 240x180, 15 epochs"),
    "synthetic": (TOY, "ours; generated, in the format of Cityscapes"),
    "synthetic-short": (TOY.override(epochs=4, validate_every=2), "ours; as scenes, for four epochs, to try things"),
    "synthetic-acdc": (TOY.override(benchmark="acdc"), "ours; generated, in the format of ACDC"),
    "synthetic-ade20k": (
        TOY.override(benchmark="ade20k", class_weights=None),
        "ours; generated, in the format of ADE20K",
    ),
}


@dataclass(frozen=True)
class Variant:
    """A system or an ablation: its differences from OVeNet (HRNet) at the same scale, and where they come from."""

    source: str
    changes: dict[str, Any]


VARIANTS: dict[str, Variant] = {
    "hrnet": Variant("Tables 1 to 4, the baseline; Table 5, row 1", {"branch_stage": None}),
    "ovenet": Variant("Tables 1 to 4; Table 5, row 2", {}),
    "hrnet-ocr": Variant("Table 1, the baseline with OCR", {"backbone": "hrnet_ocr", "branch_stage": None}),
    "ovenet-ocr": Variant("Table 1, OVeNet on HRNet + OCR", {"backbone": "hrnet_ocr"}),
    "ovenet-frozen": Variant(
        "Table 5, row 3; what batch-norm does is not said", {"freeze_backbone": True, "init_from": "{scale}/hrnet"}
    ),
    "ovenet-tau-1": Variant("Table 5, row 4", {"tau": 1.0}),
    "ovenet-tau-0.2": Variant("Table 5, row 5", {"tau": 0.2}),
    "ovenet-tau-0.2-ce": Variant("Table 5, row 6: cross-entropy without OHEM", {"tau": 0.2, "ohem": False}),
    "ovenet-tau-0.2-branch-3": Variant(
        "Table 5, row 7; the branch's modules are not said", {"tau": 0.2, "branch_stage": 3}
    ),
    "ovenet-ce": Variant("ours: row 2 without OHEM, one change where row 6 has two", {"ohem": False}),
    "ovenet-branch-3": Variant("ours: row 2 from stage 3, one change where row 7 has two", {"branch_stage": 3}),
    "ovenet-probabilities": Variant("section 4.1, found inferior there", {"fuse_probabilities": True}),
    "ovenet-no-confidence-loss": Variant("ours: without equation 6", {"confidence_loss": False}),
    "hrnet-double-loss": Variant(
        "ours, a control: HRNet with the loss weight of OVeNet's semantic losses",
        {"branch_stage": None, "loss_weight": 2.0},
    ),
    "hrnet-wide": Variant(
        "ours, a control: HRNet with about as many parameters as OVeNet",
        {"branch_stage": None, "width": "{wide}", "widen_pretrained": True},
    ),
}
TABLE_5 = tuple(name for name, variant in VARIANTS.items() if "Table 5" in variant.source)  # in the order of its rows
SYSTEMS = ("hrnet", "ovenet", "hrnet-ocr", "ovenet-ocr")
WIDER = 1.5**0.5  # OVeNet has half as many parameters again as HRNet, and they grow with the width's square


def _variant(scale: str, variant: Variant) -> Experiment:
    base = PROTOCOLS[scale][0]
    values = {"{scale}/hrnet": f"{scale}/hrnet", "{wide}": round(base.width * WIDER)}
    return base.override(**{name: values.get(value, value) for name, value in variant.changes.items()})


PRESETS: dict[str, Experiment] = {
    f"{scale}/{name}": _variant(scale, variant) for scale in PROTOCOLS for name, variant in VARIANTS.items()
}


def source(name: str) -> str:
    """Where a preset comes from, and what the paper leaves open."""
    scale, variant = name.split("/")
    return f"{PROTOCOLS[scale][1]}; {VARIANTS[variant].source}"


def preset(name: str, **changes: Any) -> Experiment:
    """The experiment of that name, with fields changed.

    Raises:
        ValueError: no such preset (with the nearest name), or a change that `Experiment.override` refuses.
    """
    if name not in PRESETS:
        near = difflib.get_close_matches(name, PRESETS, n=1)
        hint = f"did you mean {near[0]!r}? " if near else ""
        raise ValueError(
            f"no experiment {name!r}; {hint}A name is SCALE/VARIANT; scales: {', '.join(PROTOCOLS)}; "
            f"variants: {', '.join(VARIANTS)}"
        )
    return PRESETS[name].override(**changes)
