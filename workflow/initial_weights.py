"""Fetch the weights that the CamVid runs start from: the backbone of an HRNet-W18 that was trained on COCO + LVIS.

    python workflow/initial_weights.py           # into weights/hrnetv2_w18_cocolvis.safetensors; about 70 MB to fetch

They are part of the Apache-2.0 package paddlelabel-ml 1.0.0, in a network for interactive segmentation, in the format
of its framework: a file of tensors, in the order of their names, which are in another file. The names number the
layers of a kind in the order in which they were made. That is the order of ours, but that the shortcut of the first
unit comes before the rest of it.
"""

import argparse
import re
import struct
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import save
from torch import Tensor, nn

from ovenet_core.ovenet import build
from ovenet_core.utils import write_atomically

PACKAGE = "paddlelabel-ml==1.0.0 --hash=sha256:d3590ed527f3130536ec8cf2d1223f8cca18a320c9f98a109f2f93d9afd131bd"
MEMBER = "paddlelabel_ml/model/eiseg/ckpt/static_hrnet18_ocr64_cocolvis"
NAMES = rb"(?:batch_norm2d|conv2d|scale_layer)_\d+\.[bw]_\d"
FIRST = {nn.Conv2d: ("conv2d", 2), nn.BatchNorm2d: ("batch_norm2d", 0)}  # two convolutions are no part of the backbone
VALUES = {"weight": "w_0", "bias": "b_0", "running_mean": "w_1", "running_var": "w_2"}


def arrays(content: bytes) -> Iterator[np.ndarray]:
    """The arrays of a file of float32 tensors: of each versions, the length of a description, that, and the values."""
    at = 0

    def number() -> int:  # seven bits a byte, the lowest first
        nonlocal at
        value = shift = 0
        more = True
        while more:
            value |= (content[at] & 127) << shift
            more = content[at] > 127
            at, shift = at + 1, shift + 7
        return value

    while at < len(content):
        *versions, length = struct.unpack_from("<IQIi", content, at)
        at += 20
        end, fields = at + length, []
        while at < end:
            fields.append((number(), number()))
        if any(versions) or fields[0] != (8, 5) or any(key != 16 for key, _ in fields[1:]):  # float32, and the sizes
            raise ValueError(f"byte {at}: expected the description of a float32 tensor; the file has another format")
        shape = [size for _, size in fields[1:]]
        yield np.frombuffer(content, np.float32, int(np.prod(shape)), at).reshape(shape)
        at += 4 * int(np.prod(shape))


def sources(backbone: nn.Module) -> dict[str, str]:
    """By the official name of a backbone's parameter or statistic, its name in that package."""
    found = {}
    for kind, (theirs, first) in FIRST.items():
        names = [name for name, module in backbone.named_modules() if isinstance(module, kind)]
        shortcut = [name for name in names if "downsample" in name]
        rest = [name for name in names if name not in shortcut]
        start = next(place for place, name in enumerate(rest) if name.startswith("stage1."))
        for number, name in enumerate(rest[:start] + shortcut + rest[start:], first):
            values = VALUES if kind is nn.BatchNorm2d else ["weight"]
            found |= {f"{official(name)}.{value}": f"{theirs}_{number}.{VALUES[value]}" for value in values}
    return found


def official(name: str) -> str:
    """The official name of a module of the backbone."""
    name = name.removeprefix("stem.").replace("stage1.", "layer1.")
    name = re.sub(r"^stages\.(\d)\.transition", lambda found: f"transition{int(found[1]) - 1}", name)
    return re.sub(r"^stages\.(\d)\.blocks", r"stage\1", name)


def converted(description: bytes, content: bytes) -> dict[str, Tensor]:
    """The backbone under its official names; convolutions in half precision."""
    names = sorted({name.decode() for name in re.findall(NAMES, description)})
    stored = dict(zip(names, arrays(content), strict=True))
    with torch.device("meta"):
        backbone = build(width=18).backbone
    state = {ours: torch.tensor(stored[theirs]) for ours, theirs in sources(backbone).items()}
    return {name: tensor.half() if tensor.ndim == 4 else tensor for name, tensor in state.items()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    here = Path(__file__).parents[1] / "weights/hrnetv2_w18_cocolvis.safetensors"
    parser.add_argument("--to", type=Path, default=here, help=f"the file to write, if not {here}")
    to = parser.parse_args().to
    with tempfile.TemporaryDirectory() as folder:
        (Path(folder) / "package.txt").write_text(PACKAGE)
        command = [sys.executable, "-m", "pip", "download", "--disable-pip-version-check", "--no-deps"]
        subprocess.run([*command, "--require-hashes", "--dest", folder, "-r", f"{folder}/package.txt"], check=True)
        with zipfile.ZipFile(next(Path(folder).glob("*.whl"))) as package:
            state = converted(package.read(f"{MEMBER}.pdmodel"), package.read(f"{MEMBER}.pdiparams"))
    to.parent.mkdir(parents=True, exist_ok=True)
    write_atomically(to, lambda file: file.write(save(state)), mode="wb")
    print(f"{to}: {len(state)} tensors")


if __name__ == "__main__":
    main()
