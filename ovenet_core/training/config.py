"""An experiment: every choice that decides the outcome of a run, except the seed.

The fields form groups, but are flat: `experiment.tau`, `-p tau 0.2`. The allowed range stands beside each field.
Sections and tables are the paper's; "authors' code" marks what only the published configuration says, "ours" what
neither says.
"""

import json
import math
from dataclasses import asdict, fields, replace
from typing import Annotated, Any, Literal

import torch
from pydantic import Field, field_validator

from ovenet_core.losses import LossConfig
from ovenet_core.ovenet import NetworkConfig
from ovenet_core.utils import config_dataclass, short_hash

Count = Annotated[int, Field(ge=1)]
NotNegative = Annotated[float, Field(ge=0)]
Positive = Annotated[float, Field(gt=0)]
Share = Annotated[float, Field(ge=0, le=1)]
Size = tuple[Count, Count]  # (height, width) in pixels
FIRST_DEFAULTS = {"channels_last": False}  # of fields whose default has changed since


@config_dataclass
class InitialWeightsConfig:
    """Where the values come from that training starts with."""

    initial_values: Literal["small_outputs", "authors"] = "small_outputs"  # of what no file fills (`initial_values.py`)
    pretrained: str = ""  # file name of official weights; "" starts from random
    widen_pretrained: bool = False  # the file is of a narrower network and fills the first channels; ours
    init_from: str = ""  # preset or weights that then give backbone and semantic head; Table 5, "Fr"


@config_dataclass
class DataConfig:
    """The images, and how training images are augmented."""

    benchmark: str = "cityscapes"  # a dataset's name, or the path of a Python file that defines one
    train_split: str = "train"
    val_split: str = "val"
    image_size: Size | Count | None = None  # to which images are resized on reading; one number: the shorter side
    crop: Size = (512, 1024)  # section 4.1
    scale_range: tuple[Positive, Positive] = (0.5, 2.0)  # section 4.1
    scale_step: Positive | None = None  # scales are drawn in such steps; None: from the whole interval
    base_size: Count | None = None  # longer side, in pixels, of an image at scale 1; None: the image's own
    resize_first: bool = False  # resize the whole image, then crop; labels by plain nearest; authors' code
    padding: Literal["mean", "black"] = "mean"  # colour right of and below an image smaller than the crop
    flip: bool = True  # section 4.1
    test_size: Size | None = None  # windows above scale 1; None: the benchmark's

    @field_validator("scale_range")
    @classmethod
    def _ascending(cls, scale_range: tuple[float, float]) -> tuple[float, float]:
        if scale_range[0] > scale_range[1]:
            raise ValueError("the smaller factor first")
        return scale_range

    @field_validator("scale_step")
    @classmethod
    def _reaches_the_end(cls, step: float | None, others: Any) -> float | None:
        low, high = others.data.get("scale_range", (1, 1))
        if step and not math.isclose(low + step * round((high - low) / step), high):
            raise ValueError(f"the width of scale_range, {high - low:g}, divided by a whole number")
        return step


@config_dataclass
class ScheduleConfig:
    """How long and how fast the network learns."""

    epochs: Count = 484  # section 4.1
    batch_size: Count = 12  # over all processes and accumulated gradients; authors' code: 8 or 10 for OVeNet
    micro_batch_size: Count | None = None  # most images a process sees at a time; None: its share of a batch
    learning_rate: NotNegative = 0.01  # section 4.1
    momentum: Share = 0.9  # section 4.1
    weight_decay: NotNegative = 0.0005  # section 4.1
    poly_power: NotNegative = 0.9  # of the poly learning rate, section 4.1
    poly_delay: Literal[0, 1] = 0  # iterations that the rate comes late; authors' code: 1, it is set after the step
    validate_every: Count = 10  # epochs; the last one is always validated; ours


@config_dataclass
class ComputationConfig:
    """How it is computed; this changes rounding, speed and memory."""

    precision: Literal["float32", "bfloat16"] = "float32"  # bfloat16: autocast; logits and losses stay float32
    channels_last: bool = True
    compile: bool = False
    checkpointing: bool = False  # compute activations again in the backward pass instead of keeping them


@config_dataclass
class Experiment(ComputationConfig, ScheduleConfig, DataConfig, LossConfig, InitialWeightsConfig, NetworkConfig):
    """All groups together (fields of the last base come first). The defaults are OVeNet (HRNet) on Cityscapes, Table 1.

    Raises:
        ConfigError: no such field, or a value that no run can have; with the field and what is expected.
    """

    @property
    def config_hash(self) -> str:
        """Twelve hexadecimal digits that differ whenever a field does.

        Fields with their default do not count, so a new field leaves the hashes of older runs as they are. Where a
        default has changed, the first one still does not count.
        """
        first = {f.name: f.default for f in fields(self)} | FIRST_DEFAULTS
        return short_hash({name: value for name, default in first.items() if (value := getattr(self, name)) != default})

    @classmethod
    def from_json(cls, values: dict[str, Any]) -> "Experiment":
        """Return the experiment that was stored; a field that did not exist then has its default."""
        return cls(**values)

    def override(self, **changes: Any) -> "Experiment":
        """Return a copy with fields changed; lists, as papermill passes them, become tuples."""
        return replace(self, **changes)

    def differences(self, other: dict[str, Any]) -> list[str]:
        """Return `field: this value, that value` for each field in which a stored configuration differs."""
        mine, other = json.loads(json.dumps(asdict(self))), json.loads(json.dumps(asdict(Experiment()))) | other
        return [f"{n}: {mine.get(n)!r}, {other.get(n)!r}" for n in mine | other if mine.get(n) != other.get(n)]


def autocast(experiment: Experiment, device: torch.device) -> torch.autocast:
    """Enter bfloat16 autocast where the experiment asks for it."""
    return torch.autocast(device.type, torch.bfloat16, enabled=experiment.precision == "bfloat16")


def select_device(device: str | torch.device = "") -> torch.device:
    """Return the device of that name; without a name a GPU if there is one."""
    return torch.device(device or ("cuda" if torch.cuda.is_available() else "cpu"))
