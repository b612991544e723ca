"""Config."""

import difflib
import json
import math
import re
from dataclasses import asdict, dataclass, fields, replace
from types import UnionType
from typing import Any, get_args, get_type_hints

from ovenet_core.utils import short_hash

Size = tuple[int, int]  # (height, width) in pixels

# What the values of a field may be. All numbers are finite, and 0 or more where nothing else is said.
_ONE_OF = {"backbone": ("hrnet", "hrnet_ocr"), "branch_stage": (None, 4, 3, 2), "precision": ("float32", "bfloat16")}
_ONE_OR_MORE = ("width", "blocks", "image_size", "crop", "epochs", "batch_size", "micro_batch_size", "validate_every")
_ABOVE_0 = ("tau", "scale_range")
_AT_MOST = {"tau": 2, "ohem_threshold": 1, "momentum": 1}


@dataclass(frozen=True)
class Experiment:
    """All that decides the outcome of a run but the seed. The defaults are OVeNet (HRNet) on Cityscapes, Table 1.

    Raises:
        ValueError: a value that no run can have, naming the field and what is expected.
    """

    benchmark: str = "cityscapes"

    # Network
    backbone: str = "hrnet"  # or "hrnet_ocr"
    width: int = 48  # HRNetV2-W48, Table 1
    blocks: int = 4  # residual units per branch and module, Table 6
    branch_stage: int | None = 4  # None: the baseline; section 4.3
    tau: float = 0.5  # section 4.1
    align_corners: bool | None = None  # None: as the authors' code, True with OCR, else False
    fuse_probabilities: bool = False  # section 4.1 found it inferior
    refinement_steps: int = 0  # authors' code
    freeze_backbone: bool = False  # Table 5, "Fr"
    freeze_batchnorm: bool = False  # batch-norm stands still at its running statistics, in training too; ours
    pretrained: str = ""  # file name of official weights; "" starts from random
    widen_pretrained: bool = False  # the initial weights are of a narrower network and fill the first channels; ours
    init_from: str = ""  # preset whose trained network then gives backbone and semantic head; Table 5, "Fr"

    # Loss
    ohem: bool = True  # section 4.1
    ohem_threshold: float = 0.9  # given with the task, without a source; so min_kept
    ohem_min_kept: int = 131072  # pixels of the images that all processes see at a time
    kappa: float = 0.5  # section 4.1
    lambda_: float = 0.5  # section 4.1
    auxiliary_weight: float = 0.4  # authors' code
    confidence_loss: bool = True  # section 3.3
    class_weights: tuple[float, ...] | None = None
    loss_weight: float = 1.0  # of the total; ours, for a control: OVeNet's semantic losses together weigh 2

    # Data
    train_split: str = "train"
    val_split: str = "val"
    image_size: Size | None = None  # images are resized to it on reading; scores are always at the label's size
    crop: Size = (512, 1024)  # section 4.1
    scale_range: tuple[float, float] = (0.5, 2.0)  # section 4.1
    flip: bool = True  # section 4.1

    # Schedule
    epochs: int = 484  # section 4.1
    batch_size: int = 12  # authors' code: 8 to 12; over all processes and accumulated gradients
    micro_batch_size: int | None = None  # at most so many images a process sees at a time; None: its share of a batch
    learning_rate: float = 0.01  # section 4.1
    momentum: float = 0.9  # section 4.1
    weight_decay: float = 0.0005  # section 4.1
    poly_power: float = 0.9  # of the poly learning rate, section 4.1
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
        if self.scale_range[0] > self.scale_range[1]:
            raise ValueError(f"scale_range is {self.scale_range!r}; expected the smaller factor first")

    @property
    def config_hash(self) -> str:
        """Twelve hexadecimal digits that differ whenever a field does.

        Fields with their default do not count, so that a new one leaves the hashes of older runs as they are. A default
        must therefore never change; presets may.
        """
        return short_hash({f.name: value for f in fields(self) if (value := getattr(self, f.name)) != f.default})

    def poly(self, iteration: int, total: int) -> float:
        """The poly learning rate of an iteration (section 4.1)."""
        return self.learning_rate * (1 - iteration / total) ** self.poly_power

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
