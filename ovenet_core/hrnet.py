"""HRNetV2: a backbone that keeps a high resolution throughout (Wang et al. 2020; section 4.1 and Table 6 of OVeNet).

The backbone and the offset branch are built from the same three parts: a *transition* adds one branch of half the
resolution, a *module* runs residual blocks on every branch and fuses the branches, a *stage* is one transition and
some modules. Branch i has `width * 2**i` channels at 1 / (4 * 2**i) of the image's resolution.
"""

from collections.abc import Mapping, Sequence

import torch.nn.functional as nnf
from jaxtyping import Float
from torch import Tensor, nn

from ovenet_core.layers import conv_bn, upsample

STAGES = (2, 3, 4)
BACKBONE_MODULES = {2: 1, 3: 4, 4: 3}  # modules per stage, Table 6
STAGE1_CHANNELS = 256


class BasicBlock(nn.Module):
    """Two 3x3 convolutions and a shortcut."""

    def __init__(self, channels: int):
        super().__init__()
        self.conv1 = nn.Conv2d(channels, channels, 3, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(channels)
        self.conv2 = nn.Conv2d(channels, channels, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(channels)

    def forward(self, x: Tensor) -> Tensor:
        y = nnf.relu(self.bn1(self.conv1(x)), inplace=True)
        return nnf.relu(self.bn2(self.conv2(y)).add_(x), inplace=True)


class Bottleneck(nn.Module):
    """1x1, 3x3 and 1x1 convolution and a shortcut; four times as many channels out as planes."""

    def __init__(self, in_channels: int, planes: int):
        super().__init__()
        out_channels = 4 * planes
        self.conv1 = nn.Conv2d(in_channels, planes, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(planes)
        self.conv2 = nn.Conv2d(planes, planes, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(planes)
        self.conv3 = nn.Conv2d(planes, out_channels, 1, bias=False)
        self.bn3 = nn.BatchNorm2d(out_channels)
        same = in_channels == out_channels
        self.downsample = nn.Identity() if same else conv_bn(in_channels, out_channels, kernel=1, relu=False)

    def forward(self, x: Tensor) -> Tensor:
        y = nnf.relu(self.bn1(self.conv1(x)), inplace=True)
        y = nnf.relu(self.bn2(self.conv2(y)), inplace=True)
        return nnf.relu(self.bn3(self.conv3(y)).add_(self.shortcut(x)), inplace=True)

    def shortcut(self, x: Tensor) -> Tensor:
        """Return the input with as many channels as the output."""
        return self.downsample(x)


class Stem(nn.Module):
    """Two strided convolutions: 3 channels at full resolution to 64 at a quarter."""

    def __init__(self):
        super().__init__()
        self.conv1 = nn.Conv2d(3, 64, 3, stride=2, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(64)
        self.conv2 = nn.Conv2d(64, 64, 3, stride=2, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(64)

    def forward(self, x: Tensor) -> Tensor:
        x = nnf.relu(self.bn1(self.conv1(x)), inplace=True)
        return nnf.relu(self.bn2(self.conv2(x)), inplace=True)


class Stage1(nn.Sequential):
    """Bottlenecks on the one branch of stage 1: four of them (Table 6), or as many as `blocks` if that is less."""

    def __init__(self, blocks: int):
        inputs = [64, *[STAGE1_CHANNELS] * (min(4, blocks) - 1)]
        super().__init__(*(Bottleneck(channels, STAGE1_CHANNELS // 4) for channels in inputs))


def fusion_path(source: int, target: int, width: int) -> nn.Module:
    """From branch `source` to the channels of branch `target`: identity, 1x1 (to be resized), or a strided chain."""
    in_channels, out_channels = width * 2**source, width * 2**target
    if source == target:
        return nn.Identity()
    if source > target:
        return conv_bn(in_channels, out_channels, kernel=1, relu=False)
    steps = target - source
    return nn.Sequential(
        *(conv_bn(in_channels, in_channels, stride=2) for _ in range(steps - 1)),
        conv_bn(in_channels, out_channels, stride=2, relu=False),
    )


class HighResolutionModule(nn.Module):
    """Residual blocks on every branch, then multi-resolution fusion: every branch receives all the others."""

    def __init__(self, branches: int, width: int, blocks: int, align_corners: bool):
        super().__init__()
        self.align_corners = align_corners
        self.branches = nn.ModuleList(
            nn.Sequential(*(BasicBlock(width * 2**i) for _ in range(blocks))) for i in range(branches)
        )
        self.fuse_layers = nn.ModuleList(
            nn.ModuleList(fusion_path(source, target, width) for source in range(branches))
            for target in range(branches)
        )

    def forward(self, features: Sequence[Tensor]) -> tuple[Tensor, ...]:
        features = [branch(x) for branch, x in zip(self.branches, features, strict=True)]
        return tuple(self._fuse(features, target) for target in range(len(features)))

    def _fuse(self, features: Sequence[Tensor], target: int) -> Tensor:
        size = features[target].shape[-2:]
        total: Tensor | None = None
        for path, x in zip(self.fuse_layers[target], features, strict=True):
            x = upsample(path(x), size, self.align_corners)
            total = x if total is None else total + x
        return nnf.relu(total, inplace=True)  # never a branch itself: every module has two branches or more


class Stage(nn.Module):
    """A transition that adds one branch of half the resolution, then `modules` high-resolution modules."""

    def __init__(self, number: int, modules: int, width: int, blocks: int, align_corners: bool):
        super().__init__()
        if number == 2:  # stage 1 has one branch, of 256 channels: both branches of stage 2 are made from it
            paths = [conv_bn(STAGE1_CHANNELS, width), nn.Sequential(conv_bn(STAGE1_CHANNELS, 2 * width, stride=2))]
        else:
            new = conv_bn(width * 2 ** (number - 2), width * 2 ** (number - 1), stride=2)
            paths = [*(nn.Identity() for _ in range(number - 1)), nn.Sequential(new)]
        self.transition = nn.ModuleList(paths)
        self.blocks = nn.ModuleList(HighResolutionModule(number, width, blocks, align_corners) for _ in range(modules))

    def forward(self, features: Sequence[Tensor]) -> tuple[Tensor, ...]:
        # A path without a branch of its own (the new one; both in stage 2) starts from the lowest resolution.
        inputs = [*features, *[features[-1]] * (len(self.transition) - len(features))]
        features = [path(x) for path, x in zip(self.transition, inputs, strict=True)]
        for module in self.blocks:
            features = module(features)
        return tuple(features)


def make_stages(
    modules: Mapping[int, int], width: int, blocks: int, align_corners: bool, first: int = 2
) -> nn.ModuleDict:
    """Make stages `first` to 4 with `modules[stage]` modules each, keyed by the stage's number."""
    return nn.ModuleDict({str(n): Stage(n, modules[n], width, blocks, align_corners) for n in STAGES if n >= first})


class HRNet(nn.Module):
    """The HRNetV2 backbone, stem to stage 4.

    Args:
        width: channels of the first branch (the paper: 48; also 18, 32 and 40).
        blocks: residual units per branch and module (4), and at most four bottlenecks in stage 1.
        align_corners: of every bilinear resize. The references use False for HRNet and True for HRNet+OCR.
        modules: high-resolution modules per stage.
    """

    def __init__(
        self, width: int, blocks: int = 4, align_corners: bool = False, modules: Mapping[int, int] = BACKBONE_MODULES
    ):
        super().__init__()
        self.width, self.blocks, self.align_corners = width, blocks, align_corners
        self.stem = Stem()
        self.stage1 = Stage1(blocks)
        self.stages = make_stages(modules, width, blocks, align_corners)
        self.out_channels = 15 * width

    def forward(self, image: Float[Tensor, "batch 3 height width"]) -> dict[int, tuple[Tensor, ...]]:
        """Image (RGB, normalised) to the branches after each stage, keyed by the stage's number (1 to 4)."""
        features = {1: (self.stage1(self.stem(image)),)}
        for number in STAGES:
            features[number] = self.stages[str(number)](features[number - 1])
        return features
