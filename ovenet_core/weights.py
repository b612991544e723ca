"""Import of the official checkpoints: HRNet (ImageNet, Cityscapes), HRNet+OCR, and the authors' OVeNet of both kinds.

`our_name` is a pure function from an official parameter name to ours. Loading is strict: a name that is not known, a
shape that differs, or a part that only some of its parameters reach is an error; what stays at its initial value is
reported with the reason.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

import torch
from safetensors.torch import load_file
from torch import Tensor, nn

# Official names that have no counterpart, and why.
UNUSED = {
    r"coords$": "a constant grid, which `resampling` makes for any size",
    r"(incre_modules|downsamp_modules|final_layer|classifier)\.": "the ImageNet classification head",
    r"loss\.|criterion\.": "the training loss",
}

_CONV_AND_NORM = {"0": "conv", "1": "norm"}
_RENAMES = [
    (r"(conv1|bn1|conv2|bn2)\.", r"backbone.stem.\1."),
    (r"layer1\.", r"backbone.stage1."),
    (r"transition(\d)_2\.", lambda m: f"offset_head.stages.{int(m[1]) + 1}.transition."),
    (r"transition(\d)\.", lambda m: f"backbone.stages.{int(m[1]) + 1}.transition."),
    (r"stage(\d)_2\.", r"offset_head.stages.\1.blocks."),
    (r"stage(\d)\.", r"backbone.stages.\1.blocks."),
    (r"last_layer\.([01])\.", lambda m: f"semantic_head.classifier.hidden.{_CONV_AND_NORM[m[1]]}."),
    (r"last_layer\.3\.", r"semantic_head.classifier.output."),
    (r"aux_head\.([01])\.", lambda m: f"semantic_head.auxiliary.hidden.{_CONV_AND_NORM[m[1]]}."),
    (r"aux_head\.3\.", r"semantic_head.auxiliary.output."),
    (r"(?:aux_head_offset|offset_layer)\.([01])\.", lambda m: f"offset_head.head.hidden.{_CONV_AND_NORM[m[1]]}."),
    (r"(?:aux_head_offset|offset_layer)\.3\.", r"offset_head.head.output."),
    (r"conv3x3_ocr\.([01])\.", lambda m: f"semantic_head.ocr.pixels.{_CONV_AND_NORM[m[1]]}."),
    (r"cls_head\.", r"semantic_head.classifier."),
    (r"ocr_distri_head\.conv_bn_dropout\.0\.", r"semantic_head.ocr.bottleneck.conv."),
    (r"ocr_distri_head\.conv_bn_dropout\.1\.0\.", r"semantic_head.ocr.bottleneck.norm."),
]
_ATTENTION = {"f_pixel": "query", "f_object": "key", "f_down": "value", "f_up": "out"}
_ATTENTION_LAYERS = {"0": "0", "1.0": "1", "2": "3", "3.0": "4"}  # theirs wrap batch-norm and ReLU, ours do not


def our_name(official: str) -> str | None:
    """Our name of an official parameter, with or without a leading `model.` or `module.`; None if it has no use.

    Raises:
        KeyError: the name belongs to no network that is known here.
    """
    name = re.sub(r"^((model|module)\.)+", "", official)
    if any(re.match(pattern, name) for pattern in UNUSED):
        return None
    block = re.match(r"ocr_distri_head\.object_context_block\.(\w+)\.(\d\.0|\d)\.(\w+)$", name)
    if block:
        return f"semantic_head.ocr.attention.{_ATTENTION[block[1]]}.{_ATTENTION_LAYERS[block[2]]}.{block[3]}"
    for pattern, ours in _RENAMES:
        if re.match(pattern, name):
            return re.sub("^" + pattern, ours, name)
    raise KeyError(f"{official!r} is not a parameter of HRNet, HRNet+OCR or OVeNet")


def is_ours(state: Mapping[str, Tensor]) -> bool:
    """Whether the names are those of our own checkpoints."""
    return any(name.startswith(("backbone.", "semantic_head.", "offset_head.")) for name in state)


def first_difference(state: Mapping[str, Tensor], own: Mapping[str, Tensor]) -> str:
    """In words, the first name or shape in which weights differ from a network's own; "" if they fit."""
    for name, tensor in own.items():
        if name not in state:
            return f"it has no {name}, which the network has"
        if state[name].shape != tensor.shape:
            return f"{name} has shape {list(state[name].shape)}, the network expects {list(tensor.shape)}"
    return next((f"it has {name}, which the network has not" for name in state if name not in own), "")


@dataclass
class LoadReport:
    """What a file gave to a network: names loaded, parts left at their initial value, names without use; by reason."""

    source: str
    loaded: list[str] = field(default_factory=list)
    copied: list[str] = field(default_factory=list)
    widened: list[str] = field(default_factory=list)
    initial: dict[str, str] = field(default_factory=dict)
    unused: dict[str, str] = field(default_factory=dict)

    def __str__(self) -> str:
        lines = [f"{self.source}: {len(self.loaded)} tensors loaded"]
        if self.copied:
            lines.append(f"  {len(self.copied)} tensors of the offset head copied from the backbone's stages")
        if self.widened:
            lines.append(f"  {len(self.widened)} of them fill the first channels of wider layers, which see no others")
        lines += [f"  {part} left at its initial value: {why}" for part, why in self.initial.items()]
        lines += [f"  {count} not used: {why}" for why, count in _counts(self.unused.values()).items()]
        return "\n".join(lines)


def _counts(values) -> dict[str, int]:
    values = list(values)
    return {value: values.count(value) for value in dict.fromkeys(values)}


def read_state(path: str | Path) -> dict[str, Tensor]:
    """The tensors of a .safetensors file or of a .pth checkpoint, read without running code from it.

    Raises:
        FileNotFoundError, ValueError: naming the file and what to do.
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"no weights at {path}: check the path, or set pretrained to '' to start without")
    try:
        safe = path.suffix == ".safetensors"
        state = load_file(path) if safe else torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:
        raise ValueError(
            f"{path} is not a checkpoint of plain tensors ({error}); code in pickles is never run: "
            f"save its state_dict alone, or as .safetensors"
        ) from error
    for key in ("state_dict", "model"):
        if isinstance(state, Mapping) and isinstance(state.get(key), Mapping):
            state = state[key]
    if not isinstance(state, Mapping) or not state or not all(isinstance(v, Tensor) for v in state.values()):
        raise ValueError(f"{path} holds no state dict (names to tensors): expected an official HRNet or OVeNet file")
    return dict(state)


def load_official(
    network: nn.Module, state: Mapping[str, Tensor], source: str = "state dict", widen: bool = False
) -> LoadReport:
    """Load official weights: a backbone alone (ImageNet), or a whole HRNet, HRNet+OCR or OVeNet.

    Where the weights have no offset head and the network does, the head's stages are copied from the backbone's (both
    heads start from the pre-trained weights, section 4.1). A semantic head is loaded whole or not at all.

    Args:
        widen: take a narrower backbone for the first channels of each layer. These see no other channels, so that they
            compute what the narrower network does; the other channels keep their initial values.

    Raises:
        KeyError: an unknown name, or a part that is incomplete.
        ValueError: a shape that differs, naming the parameter and both shapes; weights under our own names.
    """
    if is_ours(state):
        raise ValueError(
            f"{source} has weights under this project's own names, expected an official file: give one, "
            "or start from the run that trained it by init_from"
        )
    report = LoadReport(source)
    own = network.state_dict()
    new: dict[str, Tensor] = {}
    for name, tensor in state.items():
        ours = our_name(name)
        if ours is None:
            clean = re.sub(r"^((model|module)\.)+", "", name)
            report.unused[name] = next(why for pattern, why in UNUSED.items() if re.match(pattern, clean))
        elif ours not in own:
            part = ours.split(".")[0]
            if part != "semantic_head" and any(n.startswith(part + ".") for n in own):
                raise KeyError(f"{source} has {name} ({ours}), the network has not: another branch or another depth")
            report.unused[name] = f"the network has no {part} of this kind"
        else:
            new[ours] = tensor
    report.loaded = sorted(new)
    if not any(name.startswith("offset_head.") for name in new):
        for name in own:
            twin = name.replace("offset_head.", "backbone.", 1)
            if name.startswith("offset_head.stages.") and twin in new:
                new[name] = new[twin]
                report.copied.append(name)
    _explain_missing(own, new, report)
    for name, tensor in new.items():
        # A head sees the branches one behind the other: its first channels are not those of a narrower one.
        if widen and name.startswith(("backbone.", "offset_head.stages.")) and _is_narrower(tensor, own[name]):
            new[name] = _widened(tensor, own[name])
            report.widened.append(name)
        elif own[name].shape != tensor.shape:
            raise ValueError(
                f"{source}: {name} has shape {list(tensor.shape)}, the network expects {list(own[name].shape)}: "
                f"width or number of classes differ"
            )
    network.load_state_dict({**own, **new})
    return report


def _is_narrower(tensor: Tensor, own: Tensor) -> bool:
    """Whether it has fewer output or input channels, and not more, and is else the same."""
    fewer = [a <= b for a, b in zip(tensor.shape[:2], own.shape[:2], strict=False)]
    return tensor.dim() == own.dim() and tensor.shape != own.shape and all(fewer) and tensor.shape[2:] == own.shape[2:]


def _widened(tensor: Tensor, own: Tensor) -> Tensor:
    wide = own.clone()
    wide[: len(tensor)] = 0
    wide[tuple(slice(size) for size in tensor.shape)] = tensor
    return wide


def _explain_missing(own: Mapping[str, Tensor], new: Mapping[str, Tensor], report: LoadReport) -> None:
    """Say why a part stays at its initial value; a part of which only some parameters came is an error."""
    for part in ("backbone", "semantic_head", "offset_head.stages", "offset_head.head"):
        # `num_batches_tracked` counts batches and is used nowhere; some files do not have it.
        names = [n for n in own if n.startswith(part + ".") and not n.endswith("num_batches_tracked")]
        missing = [n for n in names if n not in new]
        if not missing:
            continue
        if part == "backbone" or len(missing) < len(names):
            raise KeyError(
                f"{report.source} has {len(names) - len(missing)} of the {len(names)} tensors of {part}; "
                f"missing for example {missing[0]}: it is not a file for this network"
            )
        report.initial[part] = "the file has no weights for it"
