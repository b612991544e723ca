"""The offset head: for every pixel the offset vector to its seed pixel and the confidence in it (section 3.2)."""

from collections.abc import Mapping, Sequence

import torch
from jaxtyping import Float
from torch import Tensor, nn

from ovenet_core.hrnet import HRNet, make_stages
from ovenet_core.layers import SegmentationHead

OFFSET_MODULES = {2: 1, 3: 3, 4: 2}  # modules per stage; Table 6 has stage 4, the others as in the authors' networks


class OffsetHead(nn.Module):
    """A second tower of the backbone's own parts, from `branch_stage` on, and one layer of three channels.

    Args:
        backbone: the network that the head branches off; gives width, blocks and resize convention.
        branch_stage: the first stage that is the head's own: 4 (the paper's default), 3 or 2.
        tau: largest offset along each axis, in normalised image coordinates (0.5 in the paper).
        modules: high-resolution modules per stage.
    """

    def __init__(
        self, backbone: HRNet, branch_stage: int = 4, tau: float = 0.5, modules: Mapping[int, int] = OFFSET_MODULES
    ):
        super().__init__()
        self.branch_stage, self.tau = branch_stage, tau
        self.stages = make_stages(modules, backbone.width, backbone.blocks, backbone.align_corners, first=branch_stage)
        self.head = SegmentationHead(backbone.out_channels, 3, backbone.align_corners)

    def forward(
        self, features: Sequence[Tensor]
    ) -> tuple[Float[Tensor, "batch 2 height width"], Float[Tensor, "batch 1 height width"]]:
        """Map the branches before `branch_stage` to offsets in [-tau, tau] and the logits of the confidence."""
        for stage in self.stages.values():
            features = stage(features)
        out = self.head(features)
        return self.tau * torch.tanh(out[:, :2]), out[:, 2:]
