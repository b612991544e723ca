"""Named experiments, PROTOCOL/VARIANT: a protocol sets data and schedule, a variant the system or the ablation.

Every field has a source (`sources`). Sections and tables are the paper's. "Authors' code" stands for facts about it,
with P for its branch of plain HRNet, O for that of HRNet+OCR; "ours" for what neither says, or what we chose.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from ovenet_core.data import CITYSCAPES, get_dataset
from ovenet_core.training.config import Experiment
from ovenet_core.utils import ConfigError, nearest

Choices = Mapping[str, tuple[Any, str]]  # a field's value and where it comes from

# Where the defaults of an experiment come from, unless a protocol or a variant says otherwise.
# fmt: off
DEFAULT_SOURCES = {
    "backbone": "Table 1: OVeNet on HRNet", "width": "Table 1: HRNetV2-W48", "blocks": "Table 6",
    "branch_stage": "section 4.1", "tau": "section 4.1", "align_corners": "authors' code: False in P, True in O",
    "fuse_probabilities": "section 4.1", "refinement_steps": "section 3; authors' code: 0 in these configurations",
    "freeze_backbone": "Table 5", "frozen_in_training_mode": "ours", "freeze_batchnorm": "ours",
    "batchnorm_momentum": "authors' code: O", "seed_align_corners": "authors' code: README names torch 1.1",
    "initial_values": "ours", "pretrained": "ours", "widen_pretrained": "ours", "init_from": "section 4.3",
    "ohem": "section 4.1", "ohem_threshold": "authors' code", "ohem_min_kept": "authors' code: of one process",
    "ohem_min_kept_per_image": "ours", "images_counted_together": "ours", "kappa": "section 4.1, there called mu",
    "lambda_": "section 4.1", "auxiliary_weight": "authors' code", "confidence_loss": "section 3.3",
    "confidence_weight": "equation 7", "reference_loss": "ours: equations 5 to 7 over valid pixels",
    "class_weights": "ours", "loss_weight": "equation 7", "benchmark": "section 4.1", "train_split": "section 4.1",
    "val_split": "section 4.1", "image_size": "section 4.1", "crop": "section 4.1", "scale_range": "section 4.1",
    "scale_step": "ours",
    "base_size": "ours", "resize_first": "ours: the same crops in less time, and labels that fit the image",
    "padding": "ours", "flip": "section 4.1", "test_size": "authors' code", "epochs": "section 4.1",
    "batch_size": "ours", "micro_batch_size": "ours: a matter of memory", "learning_rate": "section 4.1",
    "momentum": "section 4.1", "weight_decay": "section 4.1", "poly_power": "section 4.1", "poly_delay": "ours",
    "validate_every": "ours",
    "precision": "authors' code", "channels_last": "ours: faster, the same numbers", "compile": "ours",
    "checkpointing": "ours",
}
# fmt: on


@dataclass(frozen=True)
class Variant:
    """A system or an ablation: how it differs from OVeNet (HRNet) under the same protocol."""

    source: str  # where it comes from, in words
    changes: dict[str, Any] = field(default_factory=dict)  # fields of the experiment
    init_from: str = ""  # the variant whose trained network it starts from, if any
    width_factor: float = 1.0  # the width as a multiple of the protocol's
    of_authors: bool = False  # only the authors' protocols have it

    @property
    def system(self) -> str:
        """The name of its system: hrnet, ovenet, hrnet-ocr or ovenet-ocr."""
        kind = "hrnet" if self.changes.get("branch_stage", 4) is None else "ovenet"
        return f"{kind}-ocr" if self.changes.get("backbone") == "hrnet_ocr" else kind


@dataclass(frozen=True)
class Protocol:
    """Data and schedule of its variants."""

    source: str  # where it comes from, in words
    choices: Choices  # of all its variants
    by_variant: Mapping[str, Choices] = field(default_factory=dict)  # more, by variant or by system
    only: tuple[str, ...] = ()  # its variants; by default all but those that only the authors have

    @property
    def variants(self) -> tuple[str, ...]:
        """The names of its variants."""
        return self.only or STUDY

    @property
    def benchmark(self) -> str:
        """The dataset that its variants are trained on."""
        return self.choices.get("benchmark", (Experiment.benchmark, ""))[0]

    def choices_of(self, name: str, protocol: str) -> Choices:
        """Collect what a variant sets under this protocol, whose name is `protocol`."""
        variant = VARIANTS[name]
        changes = {key: (value, variant.source) for key, value in variant.changes.items()}
        if variant.init_from:
            changes["init_from"] = f"{protocol}/{variant.init_from}", variant.source
        if variant.width_factor != 1:
            width = self.choices.get("width", (Experiment.width, ""))[0]
            changes["width"] = round(width * variant.width_factor), variant.source
        return {**self.choices, **self.by_variant.get(variant.system, {}), **changes, **self.by_variant.get(name, {})}


def _of(source: str, **values: Any) -> Choices:
    """Give several fields one source."""
    return {name: (value, source) for name, value in values.items()}


WIDER = 1.5**0.5  # OVeNet has half as many parameters again as HRNet, and they grow with the width's square
# fmt: off
VARIANTS: dict[str, Variant] = {
    "hrnet": Variant("Tables 1 to 4, the baseline; Table 5, row 1", {"branch_stage": None}),
    "ovenet": Variant("Tables 1 to 4; Table 5, row 2"),
    "hrnet-ocr": Variant("Table 1, the baseline with OCR", {"backbone": "hrnet_ocr", "branch_stage": None}),
    "ovenet-ocr": Variant("Table 1, OVeNet on HRNet + OCR", {"backbone": "hrnet_ocr"}),
    "ovenet-frozen": Variant("Table 5, row 3", {"freeze_backbone": True}, "hrnet"),
    "ovenet-tau-1": Variant("Table 5, row 4", {"tau": 1.0}),
    "ovenet-tau-0.2": Variant("Table 5, row 5", {"tau": 0.2}),
    "ovenet-tau-0.2-ce": Variant("Table 5, row 6: cross-entropy without OHEM", {"tau": 0.2, "ohem": False}),
    "ovenet-tau-0.2-branch-3": Variant("Table 5, row 7", {"tau": 0.2, "branch_stage": 3}),
    "ovenet-ce": Variant("ours: row 2 without OHEM, one change where row 6 has two", {"ohem": False}),
    "ovenet-branch-3": Variant("ours: row 2 from stage 3, one change where row 7 has two", {"branch_stage": 3}),
    "ovenet-probabilities": Variant("section 4.1, found inferior there", {"fuse_probabilities": True}),
    "ovenet-no-confidence-loss": Variant("ours: without equation 6", {"confidence_loss": False}),
    "hrnet-double-loss": Variant("ours, a control: HRNet with the loss weight of OVeNet's semantic losses",
                                 {"branch_stage": None, "loss_weight": 2.0}),
    "hrnet-wide": Variant("ours, a control: HRNet with about as many parameters as OVeNet",
                          {"branch_stage": None, "widen_pretrained": True}, width_factor=WIDER),
    "hrnet-fine-tuned": Variant("the baseline, from HRNet trained on Cityscapes", {"branch_stage": None},
                                of_authors=True),
    "ovenet-ocr-frozen": Variant("OVeNet on HRNet + OCR, whose weights stand still",
                                 {"backbone": "hrnet_ocr", "freeze_backbone": True}, of_authors=True),
}
STUDY = tuple(name for name, variant in VARIANTS.items() if not variant.of_authors)
TABLE_5 = (  # in the order of its rows
    "hrnet", "ovenet", "ovenet-frozen", "ovenet-tau-1", "ovenet-tau-0.2", "ovenet-tau-0.2-ce",
    "ovenet-tau-0.2-branch-3",
)
SYSTEMS = ("hrnet", "ovenet", "hrnet-ocr", "ovenet-ocr")

# The paper's protocols: what the paper says is the default of `Experiment`; where it is silent, the authors' code. Both
# systems of a comparison are trained alike.
PUBLISHED = {
    **_of("section 4.1: ImageNet; authors' code: which file", pretrained="hrnetv2_w48_imagenet_pretrained.pth"),
    **_of("authors' code: the nineteen of HRNet", class_weights=CITYSCAPES.class_weights),
    **_of("authors' code: P; O has 0.1", batchnorm_momentum=0.01),
    **_of("authors' code: P all convolutions, O backbone and offset branch", initial_values="authors"),
    **_of("authors' code: each process counts its own 2 images", images_counted_together=2),
    **_of("authors' code: 131072 of the 2 images of a process", ohem_min_kept_per_image=65536),
    **_of("authors' code: 2 images on each of 4 GPUs", batch_size=8),
    **_of("authors' code: set after the step", poly_delay=1),
    **_of("authors' code: steps of 0.1", scale_step=0.1),
    **_of("authors' code", padding="black"),
}
FROZEN = _of("authors' code: the whole network is in training mode", frozen_in_training_mode=True)
OCR = {**_of("authors' code: O", batchnorm_momentum=0.1),
       **_of("authors' code: O, 2 images on each of 5 GPUs", batch_size=10)}
WITH_OCR = {"ovenet-frozen": FROZEN, "hrnet-ocr": OCR, "ovenet-ocr": OCR}
CITYSCAPES_RUN = {**PUBLISHED, **_of("authors' code: the images' own", base_size=2048)}
ACDC_RUN = {**PUBLISHED, **_of("section 4.1", benchmark="acdc", crop=(540, 960)),
            **_of("authors' code: the images' own", base_size=1920)}
ADE20K_SIZES = _of("authors' code", crop=(520, 520), base_size=520, image_size=520, class_weights=None)
ADE20K_RUN = {**PUBLISHED, **_of("section 4.1", benchmark="ade20k"), **ADE20K_SIZES}
ADE20K_OCR = {**OCR, **_of("authors' code: O, 2 images on each of 4 GPUs", batch_size=8)}

# The configurations that the authors published, one for each row of the table in docs/divergences.md.
REFERENCE = _of("authors' code", scale_range=(0.5, 2.1), resize_first=True, reference_loss=True, validate_every=1)
REFERENCE |= _of("authors' code: a sum over the 2 images of a process", confidence_weight=2.0)
TRAINVAL = _of("authors' code: O", train_split="trainval")
THREE = {**_of("authors' code: 3 images on each of 4 GPUs", batch_size=12, images_counted_together=3),
         **_of("authors' code: 131072 of the 3 images of a process", ohem_min_kept_per_image=None)}
TAU_O = _of("authors' code: O", tau=0.2)
NO_OHEM = _of("authors' code: O", ohem=False)


def _start(init_from: str, pretrained: str) -> Choices:
    """Name the files that a frozen run of the authors starts from."""
    return {**_of("authors' code: backbone and semantic head", init_from=init_from),
            **_of("authors' code: offset branch", pretrained=pretrained), **FROZEN}


AUTHORS = {
    "cityscapes-authors": Protocol("as published for Cityscapes", CITYSCAPES_RUN | REFERENCE, {
        "hrnet": THREE, "hrnet-ocr": {**OCR, **THREE, **NO_OHEM, **TRAINVAL},
        "ovenet-ocr": {**OCR, **TAU_O, **NO_OHEM, **TRAINVAL},
    }, SYSTEMS),
    "acdc-authors": Protocol("as published for ACDC", ACDC_RUN | REFERENCE, {
        "hrnet": THREE, "hrnet-ocr": {**OCR, **NO_OHEM}, "ovenet-ocr": {**OCR, **TAU_O, **NO_OHEM},
        "hrnet-fine-tuned": {
            **_of("authors' code: 3 images on each of 2 GPUs", batch_size=6),
            **_of("authors' code", epochs=60, learning_rate=0.0001),
            **_of("authors' code: HRNet's official network of Cityscapes; which file is our guess",
                  pretrained="hrnet_cs_8090_torch11.pth"),
        },
        "ovenet-frozen": _start("acdc_final_state.pth", "initial_final_state.pth"),
        "ovenet-ocr-frozen": _start("acdc_hrnet_ocr.pth", "hrnetv2_w48_imagenet_pretrained.pth"),
    }, ("hrnet", "hrnet-fine-tuned", "ovenet-frozen", "hrnet-ocr", "ovenet-ocr", "ovenet-ocr-frozen")),
    "ade20k-authors": Protocol("as published for ADE20K", {
        **ADE20K_RUN, **REFERENCE, **_of("authors' code", epochs=120, learning_rate=0.02, weight_decay=0.0001),
    }, {
        "hrnet": {
            **_of("authors' code: 4 images on each of 4 GPUs", batch_size=16, images_counted_together=4),
            **_of("authors' code: 131072 of the 4 images of a process", ohem_min_kept_per_image=32768),
            **_of("authors' code: P", scale_range=(0.5, 1.6)),
        },
        "hrnet-ocr": ADE20K_OCR, "ovenet-ocr": {**ADE20K_OCR, **TAU_O},
        "ovenet-ocr-frozen": _start("original_paddle.pth", "HRNet_W48_C_ssld_pretrained.pth"),
    }, ("hrnet", "hrnet-ocr", "ovenet-ocr", "ovenet-ocr-frozen")),
}

# Ours. Generated scenes: a very narrow HRNet, seconds to two minutes on 2 cores.
SYNTHETIC = _of(
    "ours", class_weights=CITYSCAPES.class_weights, width=8, blocks=1, crop=(128, 256), scale_range=(0.75, 1.5),
    ohem_min_kept=16384, epochs=24, batch_size=4, learning_rate=0.03, weight_decay=0.0001, validate_every=12,
)
# CamVid: the paper has none of it. How the schedule and the weights were chosen: docs/camvid.md.
CAMVID = _of(
    "ours: docs/camvid.md", benchmark="camvid", class_weights=get_dataset("camvid").class_weights, crop=(360, 480),
    ohem_min_kept=393216, width=18, pretrained="hrnetv2_w18_cocolvis.safetensors", align_corners=True,
    epochs=100, batch_size=24, learning_rate=0.04, validate_every=25, precision="bfloat16",
)
# For CPUs: many have no bfloat16 arithmetic and take twenty times as long to imitate it.
CAMVID_HALF = CAMVID | _of(
    "ours: docs/camvid.md", image_size=(180, 240), crop=(180, 240), ohem_min_kept=16384, precision="float32",
    epochs=15, batch_size=4, learning_rate=0.01, validate_every=5,
)
SYNTHETIC_SHORT = SYNTHETIC | _of("ours", epochs=4, validate_every=2)
SYNTHETIC_ACDC = SYNTHETIC | _of("ours", benchmark="acdc")
SYNTHETIC_ADE20K = SYNTHETIC | _of("ours", benchmark="ade20k", class_weights=None)
PROTOCOLS: dict[str, Protocol] = {
    "cityscapes": Protocol("Tables 1, 2 and 5", CITYSCAPES_RUN, WITH_OCR),
    "cityscapes-trainval": Protocol(
        "Table 1, train+val", CITYSCAPES_RUN | _of("Table 1", train_split="trainval"), WITH_OCR
    ),
    "acdc": Protocol("Tables 3 and 4", ACDC_RUN, WITH_OCR),
    "ade20k": Protocol("section 4.2", ADE20K_RUN, WITH_OCR | {"hrnet-ocr": ADE20K_OCR, "ovenet-ocr": ADE20K_OCR}),
    **AUTHORS,
    "camvid": Protocol("ours: HRNet-W18, whole images, 100 epochs", CAMVID),
    "camvid-half": Protocol("ours: HRNet-W18, images of 240x180, 15 epochs", CAMVID_HALF),
    "synthetic": Protocol("ours; generated, in the format of Cityscapes", SYNTHETIC),
    "synthetic-short": Protocol("ours; as synthetic, for four epochs, to try things", SYNTHETIC_SHORT),
    "synthetic-acdc": Protocol("ours; generated, in the format of ACDC", SYNTHETIC_ACDC),
    "synthetic-ade20k": Protocol("ours; generated, in the format of ADE20K", SYNTHETIC_ADE20K),
}
# fmt: on
CHOICES: dict[str, Choices] = {
    f"{key}/{name}": protocol.choices_of(name, key) for key, protocol in PROTOCOLS.items() for name in protocol.variants
}
PRESETS = {name: Experiment(**{key: value for key, (value, _) in c.items()}) for name, c in CHOICES.items()}


def source(name: str) -> str:
    """Say in a few words where a preset comes from."""
    protocol, variant = name.split("/")
    return f"{PROTOCOLS[protocol].source}; {VARIANTS[variant].source}"


def sources(name: str) -> dict[str, str]:
    """Say where each field of a preset comes from: the paper (section, table), the authors' code, or us."""
    return DEFAULT_SOURCES | {key: source for key, (_, source) in CHOICES[name].items()}


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
