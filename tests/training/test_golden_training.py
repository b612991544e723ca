"""Parity of training with the authors' code: iterations in ../shared/golden_protocol, by our factory and trainer.

The settings are those of the `-authors` presets, but for the sizes of the network and the images, and what the README
of the data says of the run: a total of ten iterations, OHEM of 1000 pixels, no class weights, no dropout.
"""

import json
import re
from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file
from torch import Tensor
from torch.utils.data import DataLoader

from ovenet_core.data import DistributedBatchSampler
from ovenet_core.layers import IMAGENET_MEAN, IMAGENET_STD
from ovenet_core.losses import OVeNetLoss
from ovenet_core.training import Trainer, build_network, preset
from ovenet_core.training.factory import build_optimizer
from ovenet_core.weights import load_network, under_our_names

SHARED = Path(__file__).parents[2] / ".." / "shared"
NAME = re.compile(r"training_ovenet_(hrnet|ocr)_ob(\d)_c(\d+)_w(\d+)")
FILES = sorted(p.stem for p in (SHARED / "golden_protocol").glob("training_*.safetensors"))
ABSENT = pytest.mark.skip(reason=f"needs the golden data in {SHARED}")
# The same numbers as in the published configurations; the frozen ones are of ACDC.
PRESETS = {"hrnet": "cityscapes-authors/ovenet", "ocr": "cityscapes-authors/ovenet-ocr"}
FROZEN = {"hrnet": "acdc-authors/ovenet-frozen", "ocr": "acdc-authors/ovenet-ocr-frozen"}


class Batches(DataLoader):
    """The batches of the file, in order, as float64 images that `normalise` gives back."""

    def __init__(self, golden: dict[str, Tensor], total: int):
        images = len(golden["input/labels0"])
        super().__init__([], batch_sampler=DistributedBatchSampler(images * total, images, 1, seed=0))
        std, mean = (torch.tensor(v, dtype=torch.float64).view(3, 1, 1) for v in (IMAGENET_STD, IMAGENET_MEAN))
        count = sum(name.startswith("input/image") for name in golden)
        pairs = [(golden[f"input/image{i}"].double(), golden[f"input/labels{i}"]) for i in range(count)]
        self.batches = [(255 * (image * std + mean), labels, ["golden"]) for image, labels in pairs]

    def __iter__(self):
        return iter(self.batches[self.batch_sampler.start :])


def load(folder: str, name: str) -> tuple[dict[str, Tensor], dict]:
    """The tensors of a file, and its settings."""
    path = SHARED / folder / f"{name}.safetensors"
    with safe_open(path, "pt") as tensors:
        return load_file(path), json.loads(tensors.metadata()["config"])


def trainer(file: str, kind: str, folder: Path) -> tuple[Trainer, dict[str, Tensor]]:
    """The trainer of one run of the file, in float64, and the tensors of the file."""
    golden, config = load("golden_protocol", file)
    initial, network_config = load("golden", file.removeprefix("training_"))
    body, branch, classes, width = NAME.match(file).groups()
    state = {name.removeprefix("state/"): value for name, value in initial.items() if name.startswith("state/")}
    frozen, ohem = kind.startswith("frozen"), kind.endswith("ohem")
    threshold, kept = config["ohem"]
    experiment = preset(
        (FROZEN if frozen else PRESETS)[body],
        width=int(width),
        blocks=network_config["num_blocks"],
        branch_stage=int(branch),
        ohem=ohem,
        ohem_threshold=threshold,
        ohem_min_kept_per_image=kept // 2,
        class_weights=None,
        batch_size=2,
        epochs=1,
        learning_rate=config["learning_rate"],
        seed_align_corners=False,  # torch's default today, under which they were computed
    )
    sizes = {}
    if body == "ocr":
        sizes["ocr_channels"] = len(state["cls_head.weight"][0])
        sizes["ocr_key_channels"] = len(state["ocr_distri_head.object_context_block.f_pixel.0.weight"])
    network = build_network(experiment, int(classes), **sizes)
    load_network(network, state, file)
    network.double()
    if body == "ocr":
        network.semantic_head.ocr.dropout = 0.0
    loader = Batches(golden, config["of_total"])
    parts = network, OVeNetLoss(experiment), *build_optimizer(experiment, network, config["of_total"]), loader
    return Trainer(experiment, 0, folder, *parts, validate=dict, samples={}, progress=False), golden


def cases() -> list:
    found = []
    for file in FILES:
        tensors, _ = load("golden_protocol", file)
        found += [(file, name.removesuffix("/loss")) for name in tensors if name.endswith("/loss")]
    return found or [pytest.param("", "", marks=ABSENT)]


@pytest.mark.parametrize(("file", "kind"), cases())
def test_losses_rates_weights_and_statistics_of_the_authors_iterations(file, kind, tmp_path, monkeypatch):
    run, golden = trainer(file, kind, tmp_path)
    expected, rates = golden[f"{kind}/loss"].tolist(), []
    losses, compute = [], run.loss.forward

    def record(*inputs):
        terms = compute(*inputs)
        losses.append(float(terms.total.detach()))
        rates.append(run.scheduler.get_last_lr()[0])
        return terms

    monkeypatch.setattr(run.loss, "forward", record)
    run.run(stop_after=len(expected))
    assert losses == pytest.approx(expected, rel=1e-4)
    assert rates == pytest.approx(golden[f"{kind}/rate"].tolist(), rel=1e-6)
    state = {n.removeprefix(f"{kind}/state/"): t for n, t in golden.items() if n.startswith(f"{kind}/state/")}
    own, named = run.network.state_dict(), under_our_names(state, file)
    for name, value in named.items():
        difference = (own[name] - value).abs().max()
        assert difference <= 1e-4, name
    if state:  # nothing of the network is left out
        assert {n for n in own if not n.endswith("num_batches_tracked")} <= named.keys()
