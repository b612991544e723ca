"""The initial weights of the CamVid runs, out of the package that has them."""

import runpy
import struct
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors import safe_open

from ovenet_core.ovenet import build
from ovenet_core.weights import our_name

SCRIPT = runpy.run_path(str(Path(__file__).parents[2] / "workflow/initial_weights.py"))


def written(array: np.ndarray) -> bytes:
    """A tensor as the package has it: sizes above 127 take two bytes, seven bits in each."""
    sizes = b"".join(b"\x10" + (bytes([n]) if n < 128 else bytes([n % 128 + 128, n // 128])) for n in array.shape)
    description = b"\x08\x05" + sizes
    return struct.pack("<IQIi", 0, 0, 0, len(description)) + description + array.astype(np.float32).tobytes()


@pytest.fixture(scope="module")
def backbone() -> torch.nn.Module:
    with torch.device("meta"):
        return build(width=18).backbone


def test_layers_have_the_numbers_of_the_package(backbone):
    """Found by comparing values with those of the backbone that the committed runs started from."""
    sources = SCRIPT["sources"](backbone)
    known = {
        "conv1": 2,
        "conv2": 3,
        "layer1.0.downsample.0": 4,
        "layer1.0.conv1": 5,
        "layer1.1.conv1": 8,
        "transition1.0.0": 17,
        "transition1.1.0.0": 18,
        "stage2.0.fuse_layers.1.0.0.0": 36,
        "stage3.0.branches.1.0.conv1": 46,
        "transition3.3.0.0": 162,
        "stage4.2.fuse_layers.3.2.0.0": 306,
    }
    assert {name: sources[f"{name}.weight"] for name in known} == {k: f"conv2d_{n}.w_0" for k, n in known.items()}
    assert sources["layer1.0.downsample.1.bias"] == "batch_norm2d_2.b_0"
    assert sources["layer1.0.bn1.running_mean"] == "batch_norm2d_3.w_1"
    assert sources["layer1.0.bn1.running_var"] == "batch_norm2d_3.w_2"
    assert len(set(sources.values())) == len(sources) == 1525


def test_every_part_of_the_backbone_has_its_official_name(backbone):
    sources = SCRIPT["sources"](backbone)
    expected = {f"backbone.{name}" for name in backbone.state_dict() if not name.endswith("num_batches_tracked")}
    assert {our_name(name) for name in sources} == expected


def test_the_names_are_those_of_the_file_that_the_runs_had(backbone, shared):
    sources = SCRIPT["sources"](backbone)
    with safe_open(shared / "weights/hrnetv2_w18_cocolvis.safetensors", "pt") as file:
        assert sources.keys() == set(file.keys())


def test_a_network_that_was_written_in_that_format_is_read_back(backbone):
    random, sources = np.random.default_rng(0), SCRIPT["sources"](backbone)
    own = backbone.state_dict()
    state = {name: random.normal(size=own[our_name(name).removeprefix("backbone.")].shape) for name in sources}
    stored = {theirs: state[name] for name, theirs in sources.items()} | {"conv2d_0.b_0": np.ones(1)}
    content = b"".join(written(stored[name]) for name in sorted(stored))
    found = SCRIPT["converted"](" ".join(stored).encode(), content)
    assert found.keys() == state.keys()
    for name, values in state.items():
        kind = torch.float16 if values.ndim == 4 else torch.float32
        assert torch.equal(found[name], torch.tensor(values, dtype=torch.float32).to(kind))


def test_another_format_is_refused():
    content = bytearray(written(np.ones((2, 300))))
    content[21] = 6  # another type of numbers
    with pytest.raises(ValueError, match="expected the description of a float32 tensor"):
        list(SCRIPT["arrays"](bytes(content)))
