"""Initial values: those of the authors, files to start from, a narrower backbone as the beginning of a wider one."""

import pytest
import timm
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from ovenet_core.ovenet import BACKBONES, OVeNet, build
from ovenet_core.training.config import Experiment
from ovenet_core.training.factory import build_network
from ovenet_core.training.initial_values import load_initial_weights, widen
from ovenet_core.training.presets import preset
from ovenet_core.utils import RunError, WeightsError
from ovenet_core.weights import load_official, under_our_names

CLASSES = 7


def network(width: int, branch: int | None = None) -> OVeNet:
    return build(CLASSES, width=width, branch_stage=branch)


@pytest.fixture(scope="module")
def w18() -> dict[str, Tensor]:
    """A backbone under the official names, which timm keeps, with batch-norms that are not the identity."""
    torch.manual_seed(0)
    heads = ("incre_modules", "downsamp_modules", "final_layer", "classifier")
    state = {n: t for n, t in timm.create_model("hrnet_w18").state_dict().items() if not n.startswith(heads)}
    rng, norms = torch.Generator().manual_seed(1), ("running_mean", "running_var", "bias")
    return {n: 0.5 + torch.rand(t.shape, generator=rng) if n.endswith(norms) else t for n, t in state.items()}


@pytest.mark.parametrize("branch", [None, 3])
def test_the_first_channels_compute_what_the_narrow_backbone_does(w18, branch):
    """And the others something else, which the first do not see."""
    narrow, wide = network(18, branch), network(22, branch)
    load_official(narrow, w18)
    state, count = widen(w18, wide)
    assert "backbone" not in load_official(wide, state).initial and count > 1000
    image = torch.rand(1, 3, 64, 96, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    with torch.no_grad():
        ours, theirs = (made.double().eval().backbone(image) for made in (wide, narrow))
    for stage in theirs:
        for a, b in zip(ours[stage], theirs[stage], strict=True):
            # Sums over more channels, of which the others are 0, may be rounded in another order.
            assert (a[:, : b.shape[1]] - b).abs().max() <= 1e-13 * b.abs().max()
            assert stage == 1 or a[:, b.shape[1] :].any()
    if branch:
        copies, stages = (
            wide.state_dict()[f"{part}.stages.4.blocks.0.branches.0.0.conv1.weight"]
            for part in ("offset_head", "backbone")
        )
        assert torch.equal(copies[:18], stages[:18]) and not copies[:18, 18:].any()


def test_a_backbone_of_the_same_width_is_left_as_it_is(w18):
    state, count = widen(w18, network(18))
    assert count == 0 and all(state[name] is tensor for name, tensor in w18.items())


@pytest.mark.parametrize(("width", "widened"), [(22, False), (8, True)])
def test_weights_of_another_width_do_not_fit_unless_widened_from_a_narrower_one(w18, width, widened):
    wide = network(width)
    with pytest.raises(WeightsError) as caught:
        load_official(wide, widen(w18, wide)[0] if widened else w18)
    assert "[" in caught.value.found and caught.value.found.split()[0] == caught.value.expected.split()[0]


def test_a_semantic_head_is_not_widened(w18):
    """It sees the branches one behind the other, so that its first channels are not those of the narrower one."""
    wide, head = network(22), {"last_layer.0.weight": torch.zeros(270, 270, 1, 1)}
    assert widen(w18 | head, wide)[0]["last_layer.0.weight"] is head["last_layer.0.weight"]


def deviations(network: OVeNet, part: str) -> list[float]:
    """Of the weights of each convolution of a part, but those too small to measure it."""
    convolutions = [m for n, m in network.named_modules() if isinstance(m, nn.Conv2d) and n.startswith(part)]
    return [float(m.weight.std()) for m in convolutions if m.weight.numel() > 1000]


@pytest.mark.parametrize("backbone", BACKBONES)
def test_initial_values_of_the_authors(backbone):
    """N(0, 0.001) for all convolutions; with OCR only for those of backbone and offset branch."""
    torch.manual_seed(0)
    network = build_network(Experiment(backbone=backbone, width=8, blocks=1, initial_values="authors"), 19)
    small = ["backbone.", "offset_head.stages."]
    heads = ["semantic_head.", "offset_head.head."]
    for part in small if backbone == "hrnet_ocr" else small + heads:
        assert deviations(network, part) == pytest.approx([0.001] * len(deviations(network, part)), rel=0.1)
    if backbone == "hrnet_ocr":  # PyTorch's: uniform within 1 / sqrt(inputs)
        assert min(deviations(network, "semantic_head.") + deviations(network, "offset_head.head.")) > 0.005
    assert network.offset_head.head.output.bias.any()


def test_offsets_begin_near_zero_by_default_and_not_with_the_authors_values():
    torch.manual_seed(0)
    experiment, image = Experiment(backbone="hrnet_ocr", width=8, blocks=1), torch.randn(1, 3, 64, 64)
    ours, theirs = (
        build_network(experiment.override(initial_values=values), 19).eval()(image).offsets
        for values in ("small_outputs", "authors")
    )
    assert ours.abs().max() < 0.01 < theirs.abs().max()


def test_a_frozen_run_starts_from_a_file_of_weights(tmp_path):
    """Backbone and semantic head alone."""
    experiment = Experiment(width=8, blocks=1, freeze_backbone=True, init_from="baseline.safetensors")
    baseline = build_network(experiment.override(branch_stage=None, freeze_backbone=False), 3).state_dict()
    network = build_network(experiment, 3)
    before = {name: value.clone() for name, value in network.state_dict().items()}
    save_file({name: value.contiguous() for name, value in baseline.items()}, tmp_path / "baseline.safetensors")
    assert "baseline.safetensors" in load_initial_weights(network, experiment, None, tmp_path / "baseline.safetensors")
    for name, value in network.state_dict().items():
        assert torch.equal(value, before[name] if name.startswith("offset_head.") else baseline[name]), name


def test_a_frozen_run_of_the_authors_takes_two_official_files(shared, tmp_path):
    """The offset branch is a copy of one file's last stage; backbone and semantic head are the other's."""
    golden = load_file(shared / "golden" / "hrnet_c7_w8.safetensors")
    official = {n.removeprefix("state/"): t for n, t in golden.items() if n.startswith("state/")}
    other = {n: t + 1 if t.is_floating_point() else t for n, t in official.items() if not n.startswith("last_layer")}
    torch.save({f"model.{n}": t for n, t in official.items()}, tmp_path / "acdc_final_state.pth")
    torch.save(other, tmp_path / "initial_final_state.pth")
    e = preset("acdc-authors/ovenet-frozen", width=8, blocks=2)
    network = build_network(e, 7)
    load_initial_weights(network, e, tmp_path / e.pretrained, tmp_path / e.init_from)
    state = network.state_dict()
    for name, value in under_our_names(official).items():
        assert torch.equal(state[name], value), name
        twin = name.replace("backbone.", "offset_head.")
        if twin in state and twin != name and value.is_floating_point():
            assert torch.equal(state[twin], value + 1) or "blocks.2" in name, twin


def test_a_file_of_another_network_is_refused_as_a_start(tmp_path):
    experiment = Experiment(width=8, blocks=1, freeze_backbone=True, init_from="other.safetensors")
    other = build_network(experiment.override(width=9, freeze_backbone=False), 3).state_dict()
    save_file({name: value.contiguous() for name, value in other.items()}, tmp_path / "other.safetensors")
    with pytest.raises(RunError) as caught:
        load_initial_weights(build_network(experiment, 3), experiment, None, tmp_path / "other.safetensors")
    assert caught.value.where == tmp_path / "other.safetensors"
