"""Table 6: the architecture as reported, and as built."""

import pandas as pd
import torch
from torch import nn

from ovenet_core.ovenet import build
from ovenet_core.study import paper

KEYS = ["head", "resolution", "stage", "unit"]
CHANNELS = {48: "C", 96: "2C", 192: "4C", 384: "8C"}  # as the table calls those of W48


def architecture() -> pd.DataFrame:
    """Read Table 6 off the built network: modules, and units in each, reported and built, by head and branch."""
    with torch.device("meta"):
        network = build()
    parts = {("Semantic", 1): [[network.backbone.stage1]]}
    for head, stages in (("Semantic", network.backbone.stages), ("Offset Vector", network.offset_head.stages)):
        parts |= {(head, n): [[*module.branches] for module in stage.blocks] for n, stage in stages.items()}
    rows = {}
    for (head, stage), modules in parts.items():
        for place, branch in enumerate(modules[0]):
            unit = head, f"{4 * 2**place}×", str(stage), _unit(branch[-1])
            rows[unit] = {"modules": len(modules), "units": len(branch)}
    built = pd.DataFrame.from_dict(rows, orient="index").rename_axis(index=KEYS)
    printed = paper.read("table6").query("source == 'Table 6'")
    printed = printed.pivot(index=KEYS, columns="metric", values="value").astype("Int64")
    joined = printed.add_suffix(" reported").join(built.add_suffix(" built"), how="outer")
    order = [f"{name} {kind}" for name in ("modules", "units") for kind in ("reported", "built")]
    return joined[order].sort_index(key=lambda index: index.map(_sort_key))


def _sort_key(text: str) -> tuple:
    """Order as the paper does: the semantic head first, numbers by size."""
    return (text != "Semantic" and not text[0].isdigit(), len(text), text)


def _unit(block: nn.Module) -> str:
    """Describe a residual unit in the table's words: kernel and channels of each convolution."""
    shapes = [(c.kernel_size, c.out_channels) for c in block.children() if isinstance(c, nn.Conv2d)]
    return "; ".join(f"{height}×{width}, {CHANNELS.get(count, count)}" for (height, width), count in shapes)
