"""Table 6: the architecture as reported, and as built."""

import pandas as pd
import torch

from ovenet_core.hrnet import BasicBlock, Bottleneck, Stage
from ovenet_core.ovenet import build
from ovenet_core.study import paper

KEYS = ["head", "resolution", "stage", "unit"]


def architecture(width: int = 48) -> pd.DataFrame:
    """Read Table 6 off the built network: modules, and units in each, reported and built, by head and branch."""
    with torch.device("meta"):
        network = build(width=width)
    parts = {("Semantic", 1): [[network.backbone.stage1]]}
    for head, stages in (("Semantic", network.backbone.stages), ("Offset Vector", network.offset_head.stages)):
        parts |= {(head, int(number)): _modules(stage) for number, stage in stages.items()}
    rows = {}
    for (head, stage), modules in parts.items():
        for place, branch in enumerate(modules[0]):
            unit = _unit(branch[-1], width)
            rows[head, f"{4 * 2**place}×", str(stage), unit] = {"modules": len(modules), "units": len(branch)}
    built = pd.DataFrame.from_dict(rows, orient="index").rename_axis(index=KEYS)
    printed = paper.read("table6").query("source == 'Table 6'")
    printed = printed.pivot(index=KEYS, columns="metric", values="value").astype("Int64")
    joined = printed.add_suffix(" reported").join(built.add_suffix(" built"), how="outer")
    order = [f"{name} {kind}" for name in ("modules", "units") for kind in ("reported", "built")]
    return joined[order].sort_index(key=lambda index: index.map(_sort_key))


def _sort_key(text: str) -> tuple:
    """Order as the paper does: the semantic head first, numbers by size."""
    return (text != "Semantic" and not text[0].isdigit(), len(text), text)


def _modules(stage: Stage) -> list[list]:
    """Return the branches of each module of a stage, finest first."""
    return [list(module.branches) for module in stage.blocks]


def _unit(block: BasicBlock | Bottleneck, width: int) -> str:
    """Describe a residual unit in the table's words: kernel and channels of each convolution."""
    convolutions = [block.conv1, block.conv2, *([block.conv3] if isinstance(block, Bottleneck) else [])]

    def channels(count: int) -> str:
        if isinstance(block, Bottleneck):
            return str(count)
        return f"{count // width if count > width else ''}C"

    return "; ".join(f"{c.kernel_size[0]}×{c.kernel_size[1]}, {channels(c.out_channels)}" for c in convolutions)
