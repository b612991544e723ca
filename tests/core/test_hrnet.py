"""The HRNetV2 backbone: parity with timm's, widths, resolutions, and images of any size from 32 pixels on."""

import pytest
import timm
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st
from torch import nn

from ovenet_core.hrnet import HRNet
from ovenet_core.layers import ConcatConv, upsample
from ovenet_core.ovenet import OVeNet, build
from ovenet_core.utils import ConfigError
from ovenet_core.weights import load_official


def randomise(network: nn.Module) -> None:
    """Random weights and batch-norm statistics of a size that keeps the activations near one."""
    torch.manual_seed(0)
    with torch.no_grad():
        for m in network.modules():
            if isinstance(m, nn.Conv2d):
                nn.init.kaiming_normal_(m.weight)
            elif isinstance(m, nn.BatchNorm2d):
                m.weight.uniform_(0.3, 0.7)
                m.bias.normal_(0, 0.2)
                m.running_mean.normal_(0, 0.2)
                m.running_var.uniform_(0.8, 1.2)


def timm_backbone(width: int, align_corners: bool) -> nn.Module:
    """timm's backbone with bilinear fusion; its own is by nearest neighbour, with the same parameters."""
    indices = (1, 2, 3, 4)
    backbone = timm.create_model(f"hrnet_w{width}", features_only=True, feature_location="", out_indices=indices)
    for module in backbone.modules():
        if isinstance(module, nn.Upsample):
            module.mode, module.align_corners = "bilinear", align_corners
    randomise(backbone)
    return backbone.double().eval()


@pytest.mark.parametrize(("width", "align_corners"), [(18, False), (18, True), (48, False)])
def test_same_branches_as_timm_with_the_same_weights(width, align_corners):
    """All four branches of stage 4 in float64."""
    theirs = timm_backbone(width, align_corners)
    with torch.device("meta"):
        ours = HRNet(width, align_corners=align_corners)
    ours = ours.to_empty(device="cpu").double().eval()
    load_official(nn.ModuleDict({"backbone": ours}), theirs.state_dict())
    image = torch.randn(1, 3, 64, 96, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        expected, got = theirs(image), ours(image)[4]
    for ours_of_branch, theirs_of_branch in zip(got, expected, strict=True):
        assert theirs_of_branch.std() > 0.1
        torch.testing.assert_close(ours_of_branch, theirs_of_branch, rtol=0, atol=1e-9)


def test_fusion_by_nearest_neighbour_would_be_seen():
    """The parity test can tell timm's own fusion from the bilinear one."""
    bilinear, nearest = timm_backbone(18, False), timm_backbone(18, False)
    for module in nearest.modules():
        if isinstance(module, nn.Upsample):
            module.mode, module.align_corners = "nearest", None
    image = torch.randn(1, 3, 64, 64, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        assert (bilinear(image)[0] - nearest(image)[0]).abs().max() > 0.01


@pytest.fixture(scope="module")
def narrow() -> OVeNet:
    torch.manual_seed(0)
    return build(5, width=8, blocks=1).eval()


def shapes(width: int, height: int, columns: int) -> dict[int, list[tuple[int, ...]]]:
    """Channels, height and width of the branches after each stage."""
    with torch.device("meta"), torch.no_grad():
        features = HRNet(width, blocks=1)(torch.empty(1, 3, height, columns))
    return {stage: [tuple(x.shape[1:]) for x in branches] for stage, branches in features.items()}


@pytest.mark.parametrize("width", [18, 32, 40, 48])  # the published ones
def test_branch_i_has_channels_and_resolution(width):
    """width * 2**i channels at 1 / (4 * 2**i); a stage adds a branch."""
    branches = [(width * 2**i, 64 // 2**i, 128 // 2**i) for i in range(4)]
    assert shapes(width, 256, 512) == {1: [(256, 64, 128)], 2: branches[:2], 3: branches[:3], 4: branches}


@settings(max_examples=20, deadline=None)
@given(height=st.integers(32, 150), width=st.integers(32, 150))
@example(height=33, width=47)
def test_any_size_from_32_pixels_on(narrow, height, width):
    """Each branch is half the one before, rounded up, the output as large as the first; all numbers are finite."""
    image = torch.randn(1, 3, height, width, generator=torch.Generator().manual_seed(height * width))
    with torch.no_grad():
        branches, output = narrow.backbone(image)[4], narrow(image).final.main
    for i, branch in enumerate(branches):
        assert branch.shape[2:] == (-(-height // 2 ** (i + 2)), -(-width // 2 ** (i + 2)))
    assert output.shape == (1, 5, *branches[0].shape[2:])
    assert output.isfinite().all()


@settings(max_examples=20, deadline=None)
@given(small=st.integers(1, 31), other=st.integers(1, 64), upright=st.booleans())
@example(small=31, other=64, upright=True)
@example(small=31, other=64, upright=False)
def test_image_under_32_pixels_is_refused(narrow, small, other, upright):
    """The error has the size and the least size."""
    height, width = (other, small) if upright else (small, other)
    with pytest.raises(ConfigError) as caught:
        narrow(torch.zeros(1, 3, height, width))
    assert caught.value.where == "image" and f"{height}x{width}" in caught.value.found and "32" in caught.value.expected


def test_resize_to_the_same_size_is_the_identity():
    x = torch.zeros(1, 2, 5, 7)
    assert upsample(x, (5, 7), align_corners=False) is x


@pytest.mark.parametrize(("align_corners", "expected"), [(True, [0, 1 / 3, 2 / 3, 1]), (False, [0, 0.25, 0.75, 1])])
def test_resize_by_hand(align_corners, expected):
    """Two pixels upsampled to four."""
    x = torch.tensor([[[[0.0, 1.0]]]])
    torch.testing.assert_close(upsample(x, (1, 4), align_corners), torch.tensor([[[expected]]]))


@pytest.mark.parametrize("align_corners", [True, False])
@pytest.mark.parametrize("kernel", [1, 3])
def test_branches_convolved_apart_are_the_convolved_concatenation(kernel, align_corners):
    """Values and all gradients, where sizes are odd, equal and one pixel as well; in channels-last on a CPU."""
    torch.manual_seed(0)
    layer = ConcatConv(20, 5, align_corners, kernel).double().to(memory_format=torch.channels_last)
    shapes = [(2, 2, 9, 14), (2, 3, 9, 14), (2, 4, 5, 7), (2, 5, 3, 4), (2, 6, 1, 2)]
    maps = [torch.randn(s).double().to(memory_format=torch.channels_last).requires_grad_() for s in shapes]
    results = {}
    for method in (layer.convolve, layer.convolve_concatenation):
        out = method(maps)
        gradient = torch.linspace(-1, 1, out.numel(), dtype=out.dtype).view_as(out)
        results[method] = out, *torch.autograd.grad(out, [*maps, *layer.conv.parameters()], gradient)
    for ours, theirs in zip(*results.values(), strict=True):
        torch.testing.assert_close(ours, theirs)
    assert not torch.equal(*(result[0] for result in results.values()))  # two ways, so their rounding differs
