"""Seed pixels: the one place that knows the coordinate convention (section 3.2, equation 2).

Positions are normalised image coordinates, (x, y) in [-1, 1], corner-aligned: -1 and 1 are the *centres* of the
corner pixels, x = 2u / (W - 1) - 1. Offsets are differences of such positions: an offset of 0.5 reaches a quarter of
the image, and the same field means the same vectors at any resolution.
"""

import torch
import torch.nn.functional as nnf
from jaxtyping import Float, Integer
from torch import Tensor


def pixel_positions(height: int, width: int, like: Tensor) -> Float[Tensor, "height width 2"]:
    """Normalised (x, y) of every pixel centre, with the dtype and device of `like`."""
    x, y = (2 * torch.arange(n, dtype=like.dtype, device=like.device) / max(n - 1, 1) - 1 for n in (width, height))
    return torch.stack(torch.meshgrid(x, y, indexing="xy"), dim=-1)


def seed_positions(
    offsets: Float[Tensor, "batch 2 height width"], *, align_corners: bool = True
) -> Float[Tensor, "batch height width 2"]:
    """p + o(p) for every pixel p, clamped to the image: (x, y) in [-1, 1]. Offsets have channels (dx, dy)."""
    # False is for parity with the authors' code on torch of today, whose pixel positions are float32 throughout.
    like = offsets if align_corners else offsets.float()
    positions = pixel_positions(*offsets.shape[-2:], like=like).to(offsets.dtype)
    return (positions + offsets.permute(0, 2, 3, 1)).clamp(-1, 1)


def resample(
    values: Float[Tensor, "batch channels height width"],
    seeds: Float[Tensor, "batch rows columns 2"],
    *,
    align_corners: bool = True,
    padding: str = "border",
) -> Float[Tensor, "batch channels rows columns"]:
    """Values at the seed positions, C_s(p) = C(p + o(p)), bilinear between pixels (equation 2).

    `align_corners=False` reads corner-aligned positions in the other convention, up to half a pixel off. It exists
    for parity with networks trained that way (torch from 1.3 on does it when the flag is not given).
    A seed of NaN is read as -1, without a word; `losses.OVeNetLoss` sees to it that training stops.
    """
    return nnf.grid_sample(values, seeds, mode="bilinear", padding_mode=padding, align_corners=align_corners)


def refine(
    offsets: Float[Tensor, "batch 2 height width"], steps: int, *, align_corners: bool = True
) -> Float[Tensor, "batch 2 height width"]:
    """Follow the offsets of the seed pixel `steps` times: o <- o + o(p + o). The sum is not limited to tau again.

    Offsets outside the image count as zero. The paper uses no refinement (steps = 0).
    """
    for _ in range(steps):
        seeds = seed_positions(offsets, align_corners=align_corners)
        offsets = offsets + resample(offsets, seeds, align_corners=align_corners, padding="zeros")
    return offsets


def labels_at_seeds(
    labels: Integer[Tensor, "batch height width"],
    offsets: Float[Tensor, "batch 2 height width"],
    *,
    align_corners: bool = True,
) -> Integer[Tensor, "batch height width"]:
    """H(p + o(p)): the label of the pixel nearest to each seed. No gradient reaches the offsets.

    NaN counts as -1, as in `resample`: here it has to give some label, and the losses to become NaN.
    """
    batch, height, width = labels.shape
    x, y = seed_positions(offsets.detach(), align_corners=align_corners).nan_to_num_(nan=-1).unbind(-1)
    if align_corners:
        u, v = (x + 1) * ((width - 1) / 2), (y + 1) * ((height - 1) / 2)
    else:
        u, v = ((x + 1) * width - 1) / 2, ((y + 1) * height - 1) / 2
    index = v.round().clamp_(0, height - 1).long() * width + u.round().clamp_(0, width - 1).long()
    return labels.flatten(1).gather(1, index.flatten(1)).view(batch, height, width)
