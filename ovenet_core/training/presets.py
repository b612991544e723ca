"""Named experiments, PROTOCOL/VARIANT: a protocol sets data and schedule, a variant the system or the ablation.

Sections and tables are the paper's. "Authors' code" marks what only the published configuration says, "ours" what
neither says.
"""

from dataclasses import dataclass, field
from typing import Any

from ovenet_core.data import CITYSCAPES, get_dataset
from ovenet_core.training.config import Experiment
from ovenet_core.utils import ConfigError, nearest

# Protocols: the paper's runs on its three benchmarks, and ours. ImageNet weights: section 4.1; the file is HRNet's own.
# Class weights: authors' code.
CITYSCAPES_RUN = Experiment(class_weights=CITYSCAPES.class_weights, pretrained="hrnetv2_w48_imagenet_pretrained.pth")
ACDC_RUN = CITYSCAPES_RUN.override(benchmark="acdc", crop=(540, 960))  # section 4.1
# fmt: off
ADE20K_RUN = CITYSCAPES_RUN.override(  # given with the task as HRNet's protocol (docs/divergences.md, note 6)
    benchmark="ade20k", class_weights=None, crop=(520, 520), epochs=120, learning_rate=0.02, weight_decay=0.0001,
)
SYNTHETIC = CITYSCAPES_RUN.override(  # ours: a very narrow HRNet on generated scenes, seconds to two minutes on 2 cores
    width=8, blocks=1, pretrained="", crop=(128, 256), scale_range=(0.75, 1.5), ohem_min_kept=16384, channels_last=True,
    epochs=24, batch_size=4, learning_rate=0.03, weight_decay=0.0001, validate_every=12,
)
# CamVid is ours, the paper has none of it. How the schedule and the weights were chosen: docs/camvid.md.
CAMVID = CITYSCAPES_RUN.override(
    benchmark="camvid", class_weights=get_dataset("camvid").class_weights, crop=(360, 480), ohem_min_kept=393216,
    width=18, pretrained="hrnetv2_w18_cocolvis.safetensors", align_corners=True,  # as these weights were trained
    epochs=100, batch_size=24, learning_rate=0.04, validate_every=25, precision="bfloat16", channels_last=True,
)
# For CPUs: many have no bfloat16 arithmetic and take twenty times as long to imitate it.
CAMVID_HALF = CAMVID.override(
    image_size=(180, 240), crop=(180, 240), ohem_min_kept=16384, precision="float32",
    epochs=15, batch_size=4, learning_rate=0.01, validate_every=5,
)
SYNTHETIC_SHORT = SYNTHETIC.override(epochs=4, validate_every=2)
SYNTHETIC_ADE20K = SYNTHETIC.override(benchmark="ade20k", class_weights=None)
# fmt: on
PROTOCOLS: dict[str, tuple[Experiment, str]] = {  # OVeNet (HRNet) in each, and where it comes from
    "cityscapes": (CITYSCAPES_RUN, "Tables 1, 2 and 5; batch size, class weights and OHEM's constants are not said"),
    "cityscapes-trainval": (CITYSCAPES_RUN.override(train_split="trainval"), "Table 1, train+val; epochs not said"),
    "acdc": (ACDC_RUN, "Tables 3 and 4; batch size, class weights and OHEM's constants are not said"),
    "ade20k": (ADE20K_RUN, "section 4.2, which says 484 epochs, 0.01 and 0.0005; the authors' code has other values"),
    "camvid": (CAMVID, "ours: HRNet-W18, whole images, 100 epochs"),
    "camvid-half": (CAMVID_HALF, "ours: HRNet-W18, images of 240x180, 15 epochs"),
    "synthetic": (SYNTHETIC, "ours; generated, in the format of Cityscapes"),
    "synthetic-short": (SYNTHETIC_SHORT, "ours; as synthetic, for four epochs, to try things"),
    "synthetic-acdc": (SYNTHETIC.override(benchmark="acdc"), "ours; generated, in the format of ACDC"),
    "synthetic-ade20k": (SYNTHETIC_ADE20K, "ours; generated, in the format of ADE20K"),
}


@dataclass(frozen=True)
class Variant:
    """A system or an ablation: how it differs from OVeNet (HRNet) under the same protocol."""

    source: str  # where it comes from, in words
    changes: dict[str, Any] = field(default_factory=dict)  # fields of the experiment
    init_from: str = ""  # the variant whose trained network it starts from, if any
    width_factor: float = 1.0  # the width as a multiple of the protocol's

    def experiment(self, protocol: str) -> Experiment:
        """Build the variant under a protocol."""
        base = PROTOCOLS[protocol][0]
        init_from = f"{protocol}/{self.init_from}" if self.init_from else ""
        return base.override(**self.changes, init_from=init_from, width=round(base.width * self.width_factor))


WIDER = 1.5**0.5  # OVeNet has half as many parameters again as HRNet, and they grow with the width's square
# fmt: off
VARIANTS: dict[str, Variant] = {
    "hrnet": Variant("Tables 1 to 4, the baseline; Table 5, row 1", {"branch_stage": None}),
    "ovenet": Variant("Tables 1 to 4; Table 5, row 2"),
    "hrnet-ocr": Variant("Table 1, the baseline with OCR", {"backbone": "hrnet_ocr", "branch_stage": None}),
    "ovenet-ocr": Variant("Table 1, OVeNet on HRNet + OCR", {"backbone": "hrnet_ocr"}),
    "ovenet-frozen": Variant("Table 5, row 3; what batch-norm does is not said", {"freeze_backbone": True}, "hrnet"),
    "ovenet-tau-1": Variant("Table 5, row 4", {"tau": 1.0}),
    "ovenet-tau-0.2": Variant("Table 5, row 5", {"tau": 0.2}),
    "ovenet-tau-0.2-ce": Variant("Table 5, row 6: cross-entropy without OHEM", {"tau": 0.2, "ohem": False}),
    "ovenet-tau-0.2-branch-3": Variant("Table 5, row 7; the branch's modules are not said",
                                       {"tau": 0.2, "branch_stage": 3}),
    "ovenet-ce": Variant("ours: row 2 without OHEM, one change where row 6 has two", {"ohem": False}),
    "ovenet-branch-3": Variant("ours: row 2 from stage 3, one change where row 7 has two", {"branch_stage": 3}),
    "ovenet-probabilities": Variant("section 4.1, found inferior there", {"fuse_probabilities": True}),
    "ovenet-no-confidence-loss": Variant("ours: without equation 6", {"confidence_loss": False}),
    "hrnet-double-loss": Variant("ours, a control: HRNet with the loss weight of OVeNet's semantic losses",
                                 {"branch_stage": None, "loss_weight": 2.0}),
    "hrnet-wide": Variant("ours, a control: HRNet with about as many parameters as OVeNet",
                          {"branch_stage": None, "widen_pretrained": True}, width_factor=WIDER),
}
TABLE_5 = (  # in the order of its rows
    "hrnet", "ovenet", "ovenet-frozen", "ovenet-tau-1", "ovenet-tau-0.2", "ovenet-tau-0.2-ce",
    "ovenet-tau-0.2-branch-3",
)
# fmt: on
SYSTEMS = ("hrnet", "ovenet", "hrnet-ocr", "ovenet-ocr")
PRESETS: dict[str, Experiment] = {
    f"{protocol}/{name}": variant.experiment(protocol) for protocol in PROTOCOLS for name, variant in VARIANTS.items()
}


def source(name: str) -> str:
    """Say where a preset comes from, and what the paper leaves open."""
    protocol, variant = name.split("/")
    return f"{PROTOCOLS[protocol][1]}; {VARIANTS[variant].source}"


def preset(name: str, **changes: Any) -> Experiment:
    """Return the experiment of that name, with fields changed.

    Raises:
        ConfigError: no such preset (with the nearest name), or a change that `Experiment.override` refuses.
    """
    if name not in PRESETS:
        near = nearest(name, PRESETS)
        names = f"one of the protocols {', '.join(PROTOCOLS)} and one of the variants {', '.join(VARIANTS)}"
        raise ConfigError("experiment", repr(name), repr(near) if near else "PROTOCOL/VARIANT", f"choose {names}")
    return PRESETS[name].override(**changes)
