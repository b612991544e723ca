"""Experiments: frozen dataclasses, and the named presets, each with its source.

Section and table numbers are those of the paper. "Authors' code" marks what only their configuration says, "ours" what
neither says.
"""

import difflib
import json
import math
import re
import statistics
from collections.abc import Sequence
from dataclasses import asdict, dataclass, fields, replace
from types import UnionType
from typing import Any, get_args, get_type_hints

from ovenet_core.benchmarks import CITYSCAPES, DataError
from ovenet_core.runs import short_hash

Size = tuple[int, int]  # (height, width) in pixels

# What the values of a field may be. All numbers are finite, and 0 or more where nothing else is said.
_ONE_OF = {"body": ("hrnet", "hrnet_ocr"), "offset_branch": (None, 4, 3, 2), "precision": ("float32", "bfloat16")}
_ONE_OR_MORE = ("width", "blocks", "picture_size", "crop", "epochs", "batch_size", "micro_batch", "validate_every")
_ABOVE_0 = ("tau", "scale")
_AT_MOST = {"tau": 2, "ohem_threshold": 1, "momentum": 1}


@dataclass(frozen=True)
class Experiment:
    """All that decides the outcome of a run but the seed. The defaults are OVeNet (HRNet) on Cityscapes, Table 1.

    Raises:
        ValueError: a value that no run can have, naming the field and what is expected.
    """

    benchmark: str = "cityscapes"

    # Network
    body: str = "hrnet"  # or "hrnet_ocr"
    width: int = 48  # HRNetV2-W48, Table 1
    blocks: int = 4  # residual units per branch and module, Table 6
    offset_branch: int | None = 4  # None: the baseline; section 4.3
    tau: float = 0.5  # section 4.1
    align_corners: bool | None = None  # None: as the authors' code, True with OCR, else False
    fuse_probabilities: bool = False  # section 4.1 found it inferior
    refinement_steps: int = 0  # authors' code
    frozen: bool = False  # Table 5, "Fr"
    frozen_norm: bool = False  # batch-norm stands still at its running statistics, in training too; ours
    initial_weights: str = ""  # file name of official weights; "" starts from random
    widened: bool = False  # the initial weights are of a narrower network and fill the first channels; ours
    initial_run: str = ""  # preset whose trained network then gives trunk and semantic head; Table 5, "Fr"

    # Loss
    ohem: bool = True  # section 4.1
    ohem_threshold: float = 0.9  # given with the task, without a source; so min_kept
    ohem_min_kept: int = 131072  # pixels of the pictures that all processes see at a time
    kappa: float = 0.5  # section 4.1
    lambda_: float = 0.5  # section 4.1
    auxiliary_weight: float = 0.4  # authors' code
    confidence_loss: bool = True  # section 3.3
    class_weights: tuple[float, ...] | None = None
    loss_weight: float = 1.0  # of the total; ours, for a control: OVeNet's semantic losses together weigh 2

    # Data
    train_split: str = "train"
    val_split: str = "val"
    picture_size: Size | None = None  # pictures are resized to it on reading; scores are always at the label's size
    crop: Size = (512, 1024)  # section 4.1
    scale: tuple[float, float] = (0.5, 2.0)  # section 4.1
    flip: bool = True  # section 4.1

    # Schedule
    epochs: int = 484  # section 4.1
    batch_size: int = 12  # authors' code: 8 to 12; over all processes and accumulated gradients
    micro_batch: int | None = None  # at most so many pictures a process sees at a time; None: its share of a batch
    learning_rate: float = 0.01  # section 4.1
    momentum: float = 0.9  # section 4.1
    weight_decay: float = 0.0005  # section 4.1
    power: float = 0.9  # of the poly learning rate, section 4.1
    validate_every: int = 10  # epochs; the last one is always validated; ours

    # Computation
    precision: str = "float32"  # or "bfloat16": autocast; logits and losses stay float32
    channels_last: bool = False
    compile: bool = False
    checkpointing: bool = False

    def __post_init__(self):
        for f in fields(self):
            value, allowed = getattr(self, f.name), _ONE_OF.get(f.name)
            if allowed and value not in allowed:
                raise ValueError(f"{f.name} is {value!r}; expected one of {', '.join(map(repr, allowed))}")
            for number in value if isinstance(value, tuple) else (value,):
                if type(number) in (int, float) and not _is_in_range(f.name, number):
                    raise ValueError(f"{f.name} is {value!r}; expected {_range_of(f.name)}")
        if self.scale[0] > self.scale[1]:
            raise ValueError(f"scale is {self.scale!r}; expected the smaller factor first")

    @property
    def config_hash(self) -> str:
        """Twelve hexadecimal digits that differ whenever a field does.

        Fields with their default do not count, so that a new one leaves the hashes of older runs as they are. A default
        must therefore never change; presets may.
        """
        return short_hash({f.name: value for f in fields(self) if (value := getattr(self, f.name)) != f.default})

    def poly(self, iteration: int, total: int) -> float:
        """The poly learning rate of an iteration (section 4.1)."""
        return self.learning_rate * (1 - iteration / total) ** self.power

    @classmethod
    def from_json(cls, values: dict[str, Any]) -> "Experiment":
        """The experiment that was stored; fields that did not exist then have their default."""
        return cls().override(**values)

    def override(self, **changes: Any) -> "Experiment":
        """A copy with fields changed; lists, as papermill passes them, become tuples.

        Raises:
            ValueError: a field that does not exist (with the nearest right name), a value of the wrong type or out of
                range.
        """
        hints = get_type_hints(Experiment)
        for name, value in changes.items():
            if name not in hints:
                near = difflib.get_close_matches(name, hints, n=1)
                hint = f"did you mean {near[0]!r}?" if near else f"expected one of {', '.join(hints)}"
                raise ValueError(f"an experiment has no field {name!r}; {hint}")
            changes[name] = _checked(name, value, hints[name])
        return replace(self, **changes)

    def differences(self, other: dict[str, Any]) -> list[str]:
        """`field: this value, that value` for each field in which another configuration differs."""
        mine, other = json.loads(json.dumps(asdict(self))), json.loads(json.dumps(asdict(Experiment()))) | other
        names = [f.name for f in fields(self)] + [name for name in other if name not in mine]
        return [f"{n}: {mine.get(n)!r}, {other.get(n)!r}" for n in names if mine.get(n) != other.get(n)]


def median_frequency_weights(pixel_shares: Sequence[float]) -> tuple[float, ...]:
    """Class weights that balance the classes: the median of the classes' shares divided by the share of each.

    After Eigen and Fergus, ICCV 2015, who take the share in the pictures that have the class; here it is in all.
    """
    if not pixel_shares or min(pixel_shares) <= 0:
        raise DataError(
            f"pixel shares {tuple(pixel_shares)}: expected one above 0 for each class; "
            "leave out the ignored pixels, and classes that do not occur"
        )
    median = statistics.median(pixel_shares)
    return tuple(median / share for share in pixel_shares)


def _is_in_range(name: str, number: float) -> bool:
    least, most = int(name in _ONE_OR_MORE), _AT_MOST.get(name, math.inf)
    return math.isfinite(number) and least <= number <= most and not (number == 0 and name in _ABOVE_0)


def _range_of(name: str) -> str:
    if name in _ONE_OR_MORE:  # all of them integers
        return "1 or more"
    least = "above 0" if name in _ABOVE_0 else "0 or more"
    return f"{least} and at most {_AT_MOST[name]}" if name in _AT_MOST else f"{least}, and finite"


def _checked(name: str, value: Any, hint: Any) -> Any:
    """The value as the field's type (an int may stand for a float, a list for a tuple), or ValueError."""
    options = get_args(hint) if isinstance(hint, UnionType) else (hint,)
    for option in options:
        if option is type(None) and value is None:
            return None
        if option is float and (type(value) in (int, float) or _is_power_of_ten(value)):
            return float(value)
        if option in (int, str, bool) and type(value) is option:
            return value
        if get_args(option) and isinstance(value, list | tuple):
            kinds = [a for a in get_args(option) if a is not Ellipsis]
            kinds = kinds * len(value) if ... in get_args(option) else kinds
            if len(kinds) == len(value):
                return tuple(_checked(f"{name}[{i}]", v, k) for i, (v, k) in enumerate(zip(value, kinds, strict=True)))
    raise ValueError(f"{name} is {value!r}; expected {hint.__name__ if type(hint) is type else hint}")


def _is_power_of_ten(value: Any) -> bool:
    """Whether it is a number such as 1e-3, which YAML takes for text."""
    return isinstance(value, str) and re.fullmatch(r"[-+]?\d+(\.\d*)?[eE][-+]?\d+", value) is not None


# Scales: the paper's runs on its three benchmarks, and ours. ImageNet weights: section 4.1; the file is HRNet's own.
CITYSCAPES_RUN = Experiment(
    class_weights=CITYSCAPES.class_weights,  # authors' code
    initial_weights="hrnetv2_w48_imagenet_pretrained.pth",
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
    initial_weights="",
    crop=(128, 256),
    scale=(0.75, 1.5),
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
    initial_weights="hrnetv2_w18_cocolvis.safetensors",
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
    picture_size=(180, 240),
    crop=(180, 240),
    ohem_min_kept=16384,
    epochs=15,
    batch_size=4,
    learning_rate=0.01,
    precision="float32",
    validate_every=5,
)
SCALES: dict[str, tuple[Experiment, str]] = {  # with what the paper says of them
    "cityscapes": (CITYSCAPES_RUN, "Tables 1, 2 and 5; batch size, class weights and OHEM's constants are not said"),
    "cityscapes-trainval": (CITYSCAPES_RUN.override(train_split="trainval"), "Table 1, train+val; epochs not said"),
    "acdc": (ACDC_RUN, "Tables 3 and 4; batch size, class weights and OHEM's constants are not said"),
    "ade20k": (ADE20K_RUN, "section 4.2, which says 484 epochs, 0.01 and 0.0005; the authors' code has other values"),
    "camvid": (CAMVID, "ours: HRNet-W18, whole pictures, 100 epochs"),
    "camvid-half": (CAMVID_HALF, "ours: HRNet-W18, pictures of 240x180, 15 epochs"),
    "scenes": (TOY, "ours; generated, in the format of Cityscapes"),
    "scenes-short": (TOY.override(epochs=4, validate_every=2), "ours; as scenes, for four epochs, to try things"),
    "scenes-acdc": (TOY.override(benchmark="acdc"), "ours; generated, in the format of ACDC"),
    "scenes-ade20k": (TOY.override(benchmark="ade20k", class_weights=None), "ours; generated, in the format of ADE20K"),
}


@dataclass(frozen=True)
class Variant:
    """A system or an ablation: its differences from OVeNet (HRNet) at the same scale, and where they come from."""

    source: str
    changes: dict[str, Any]


VARIANTS: dict[str, Variant] = {
    "hrnet": Variant("Tables 1 to 4, the baseline; Table 5, row 1", {"offset_branch": None}),
    "ovenet": Variant("Tables 1 to 4; Table 5, row 2", {}),
    "hrnet-ocr": Variant("Table 1, the baseline with OCR", {"body": "hrnet_ocr", "offset_branch": None}),
    "ovenet-ocr": Variant("Table 1, OVeNet on HRNet + OCR", {"body": "hrnet_ocr"}),
    "ovenet-frozen": Variant(
        "Table 5, row 3; what batch-norm does is not said", {"frozen": True, "initial_run": "{scale}/hrnet"}
    ),
    "ovenet-tau-1": Variant("Table 5, row 4", {"tau": 1.0}),
    "ovenet-tau-0.2": Variant("Table 5, row 5", {"tau": 0.2}),
    "ovenet-tau-0.2-ce": Variant("Table 5, row 6: cross-entropy without OHEM", {"tau": 0.2, "ohem": False}),
    "ovenet-tau-0.2-branch-3": Variant(
        "Table 5, row 7; the branch's modules are not said", {"tau": 0.2, "offset_branch": 3}
    ),
    "ovenet-ce": Variant("ours: row 2 without OHEM, one change where row 6 has two", {"ohem": False}),
    "ovenet-branch-3": Variant("ours: row 2 from stage 3, one change where row 7 has two", {"offset_branch": 3}),
    "ovenet-probabilities": Variant("section 4.1, found inferior there", {"fuse_probabilities": True}),
    "ovenet-no-confidence-loss": Variant("ours: without equation 6", {"confidence_loss": False}),
    "hrnet-loss-2": Variant(
        "ours, a control: HRNet with the loss weight of OVeNet's semantic losses",
        {"offset_branch": None, "loss_weight": 2.0},
    ),
    "hrnet-wide": Variant(
        "ours, a control: HRNet with about as many parameters as OVeNet",
        {"offset_branch": None, "width": "{wide}", "widened": True},
    ),
}
TABLE_5 = tuple(name for name, variant in VARIANTS.items() if "Table 5" in variant.source)  # in the order of its rows
SYSTEMS = ("hrnet", "ovenet", "hrnet-ocr", "ovenet-ocr")
WIDER = 1.5**0.5  # OVeNet has half as many parameters again as HRNet, and they grow with the width's square


def _variant(scale: str, variant: Variant) -> Experiment:
    base = SCALES[scale][0]
    values = {"{scale}/hrnet": f"{scale}/hrnet", "{wide}": round(base.width * WIDER)}
    return base.override(**{name: values.get(value, value) for name, value in variant.changes.items()})


PRESETS: dict[str, Experiment] = {
    f"{scale}/{name}": _variant(scale, variant) for scale in SCALES for name, variant in VARIANTS.items()
}


def source(name: str) -> str:
    """Where a preset comes from, and what the paper leaves open."""
    scale, variant = name.split("/")
    return f"{SCALES[scale][1]}; {VARIANTS[variant].source}"


def preset(name: str, **changes: Any) -> Experiment:
    """The experiment of that name, with fields changed.

    Raises:
        ValueError: no such preset (with the nearest name), or a change that `Experiment.override` refuses.
    """
    if name not in PRESETS:
        near = difflib.get_close_matches(name, PRESETS, n=1)
        hint = f"did you mean {near[0]!r}? " if near else ""
        raise ValueError(
            f"no experiment {name!r}; {hint}A name is SCALE/VARIANT; scales: {', '.join(SCALES)}; "
            f"variants: {', '.join(VARIANTS)}"
        )
    return PRESETS[name].override(**changes)
