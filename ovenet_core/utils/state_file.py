"""Files of weights: the tensors of a state dict, read without running code."""

from collections.abc import Mapping
from pathlib import Path

import torch
from safetensors.torch import load_file
from torch import Tensor

from ovenet_core.utils.errors import WeightsError


def read_state(path: str | Path) -> dict[str, Tensor]:
    """Read the tensors of a .safetensors file or of a .pth checkpoint, without running code from it.

    Raises:
        WeightsError: there is no such file, or it holds something else than names and tensors.
    """
    path, expected = Path(path), "a state dict (names to tensors)"
    if not path.is_file():
        raise WeightsError(path, "no file", expected, "correct the path, or set pretrained to '' to start without")
    try:
        safe = path.suffix == ".safetensors"
        state = load_file(path) if safe else torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:
        fix = "save its state_dict alone, or as .safetensors: code in pickles is never run"
        raise WeightsError(path, f"what is no checkpoint of plain tensors ({error})", expected, fix) from error
    for key in ("state_dict", "model"):
        if isinstance(state, Mapping) and isinstance(state.get(key), Mapping):
            state = state[key]
    if not isinstance(state, Mapping) or not state or not all(isinstance(v, Tensor) for v in state.values()):
        raise WeightsError(
            path, f"{type(state).__name__} without tensors", expected, "give an official HRNet or OVeNet file"
        )
    return dict(state)
