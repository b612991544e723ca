"""The offset head: for every pixel the offset vector to its seed pixel and the confidence in it (section 3.2)."""

from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor, nn

from ovenet_core.hrnet import make_stages
from ovenet_core.layers import SegmentationHead

OFFSET_MODULES = {2: 1, 3: 3, 4: 2}  # modules per stage; Table 6 has stage 4, the others as in the authors' networks


class OffsetHead(nn.Module):
    """A second tower of the backbone's own parts, from stage `branch` on, and one layer of three channels.

    Args:
        width, blocks, align_corners: as in the backbone that it leaves.
        branch: the first stage that is its own: 4 (the paper's default), 3 or 2.
        tau: largest offset along each axis, in normalised image coordinates (0.5 in the paper).
    """

    def __init__(self, width: int, blocks: int, align_corners: bool, branch: int = 4, tau: float = 0.5):
        super().__init__()
        self.branch, self.tau = branch, tau
        self.stages = make_stages(OFFSET_MODULES, width, blocks, align_corners, first=branch)
        self.head = SegmentationHead(15 * width, 3, align_corners)

    def forward(
        self, features: Sequence[Tensor]
    ) -> tuple[Float[Tensor, "batch 2 height width"], Float[Tensor, "batch 1 height width"]]:
        """Map the branches after stage `branch - 1` to offsets in [-tau, tau] and the logits of the confidence."""
        for stage in self.stages.values():
            features = stage(features)
        out = self.head(features)
        return self.tau * torch.tanh(out[:, :2]), out[:, 2:]
