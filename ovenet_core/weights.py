"""Import of the official checkpoints: HRNet (ImageNet, Cityscapes), HRNet+OCR, and the authors' OVeNet of both kinds.

`our_name` is a pure function from an official parameter name to ours. Loading is strict: a name that is not known, a
shape that differs, or a part that only some of its parameters reach is an error; what stays at its initial value is
reported with the reason.
"""

import re
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field

from torch import Tensor, nn

from ovenet_core.utils import WeightsError

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


def our_name(official: str, source: str = "state dict") -> str | None:
    """Return our name of an official parameter, with or without a leading `model.` or `module.`; None if it has no use.

    Raises:
        WeightsError: the name belongs to no network that is known here.
    """
    if _why_unused(official):
        return None
    name = _without_wrapper(official)
    block = re.match(r"ocr_distri_head\.object_context_block\.(\w+)\.(\d\.0|\d)\.(\w+)$", name)
    if block:
        return f"semantic_head.ocr.attention.{_ATTENTION[block[1]]}.{_ATTENTION_LAYERS[block[2]]}.{block[3]}"
    for pattern, ours in _RENAMES:
        if re.match(pattern, name):
            return re.sub("^" + pattern, ours, name)
    known = "parameters of HRNet, HRNet+OCR or OVeNet"
    raise WeightsError(source, f"the parameter {official!r}", known, "give an official file of one of these networks")


def _without_wrapper(official: str) -> str:
    return re.sub(r"^((model|module)\.)+", "", official)


def _why_unused(official: str) -> str:
    """Return why an official parameter has no counterpart here, or "" if it has one."""
    return next((why for pattern, why in UNUSED.items() if re.match(pattern, _without_wrapper(official))), "")


def is_ours(state: Mapping[str, Tensor]) -> bool:
    """Return whether the names are those of our own checkpoints."""
    return any(name.startswith(("backbone.", "semantic_head.", "offset_head.")) for name in state)


def under_our_names(state: Mapping[str, Tensor], source: str = "state dict") -> dict[str, Tensor]:
    """Return the tensors that have a use here, by our names; a WeightsError names one that is not known."""
    named = state if is_ours(state) else {our_name(name, source): tensor for name, tensor in state.items()}
    return {name: tensor for name, tensor in named.items() if name is not None}


@dataclass
class LoadReport:
    """What a file gave to a network."""

    source: str
    loaded: list[str] = field(default_factory=list)  # our names of the tensors of the file
    copied: list[str] = field(default_factory=list)  # names in the offset head that got the values of the backbone
    initial: list[str] = field(default_factory=list)  # parts at their initial value: the file has no weights for them
    unused: dict[str, str] = field(default_factory=dict)  # why a tensor of the file has no use, by its official name

    def __str__(self) -> str:
        lines = [f"{self.source}: {len(self.loaded)} tensors loaded"]
        if self.copied:
            lines.append(f"  {len(self.copied)} tensors of the offset head copied from the backbone's stages")
        lines += [f"  {part} left at its initial value: the file has no weights for it" for part in self.initial]
        lines += [f"  {count} not used: {why}" for why, count in Counter(self.unused.values()).items()]
        return "\n".join(lines)


def load_network(network: nn.Module, state: Mapping[str, Tensor], source: str = "state dict") -> None:
    """Load the weights of exactly this network, under our names or the official ones.

    Raises:
        WeightsError: they are of another network, with the first difference, or a part is missing.
    """
    if is_ours(state):
        own = network.state_dict()
        for name in [*own, *state]:
            _require_same_shape(name, state, own, source)
        network.load_state_dict(state)
    elif missing := load_official(network, state, source).initial:
        fix = "give a file of this network, or its experiment"
        raise WeightsError(source, f"no weights for {', '.join(missing)}", "the weights of a whole network", fix)


def load_official(network: nn.Module, state: Mapping[str, Tensor], source: str = "state dict") -> LoadReport:
    """Load official weights: a backbone alone (ImageNet), or a whole HRNet, HRNet+OCR or OVeNet.

    Where the weights have no offset head and the network does, the head's stages are copied from the backbone's (both
    heads start from the pre-trained weights, section 4.1). A semantic head is loaded whole or not at all.

    Raises:
        WeightsError: an unknown name, a part that is incomplete, another shape, or weights under our own names.
    """
    if is_ours(state):
        fix = "give an official file, or start from the run that trained these weights by init_from"
        raise WeightsError(source, "weights under this project's own names", "official weights", fix)
    report = LoadReport(source)
    own = network.state_dict()
    new: dict[str, Tensor] = {}
    for name, tensor in state.items():
        ours = our_name(name, source)
        if ours is None:
            report.unused[name] = _why_unused(name)
        elif ours not in own:
            part = ours.split(".")[0]
            if part != "semantic_head" and any(n.startswith(part + ".") for n in own):
                fix = "give a network with the same branch_stage and blocks, or another file"
                raise WeightsError(source, f"{name} ({ours})", "only tensors that the network has", fix)
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
    report.initial = _absent_parts(own, new, source)
    for name in new:
        _require_same_shape(name, new, own, source)
    network.load_state_dict({**own, **new})
    return report


def _require_same_shape(name: str, state: Mapping[str, Tensor], own: Mapping[str, Tensor], source: str) -> None:
    """Raise WeightsError unless a tensor is in both, with the same shape."""
    found, expected = (f"{name} {list(s[name].shape)}" if name in s else f"no {name}" for s in (state, own))
    if found != expected:
        fix = "give weights of this network, or a network of their width and number of classes"
        raise WeightsError(source, found, expected, fix)


def _absent_parts(own: Mapping[str, Tensor], new: Mapping[str, Tensor], source: str) -> list[str]:
    """Return the parts that no tensor came for; WeightsError if only some tensors of a part came."""
    absent = []
    for part in ("backbone", "semantic_head", "offset_head.stages", "offset_head.head"):
        # `num_batches_tracked` counts batches and is used nowhere; some files do not have it.
        names = [n for n in own if n.startswith(part + ".") and not n.endswith("num_batches_tracked")]
        missing = [n for n in names if n not in new]
        if missing and (part == "backbone" or len(missing) < len(names)):
            found = f"{len(names) - len(missing)} of the {len(names)} tensors of {part}"
            raise WeightsError(source, found, f"all of them, such as {missing[0]}", "give a file for this network")
        if missing:
            absent.append(part)
    return absent
