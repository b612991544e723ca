"""Object-contextual representations (Yuan et al. 2019): the semantic head of HRNet+OCR."""

from collections.abc import Sequence

import torch
import torch.nn.functional as nnf
from jaxtyping import Float
from torch import Tensor, nn

from ovenet_core.layers import ConcatConv, conv_bn


def gather_objects(
    features: Float[Tensor, "batch channels height width"], scores: Float[Tensor, "batch classes height width"]
) -> Float[Tensor, "batch channels classes 1"]:
    """One vector per class: the mean of the features, weighted by the softmax of the class's scores over the image."""
    weights = scores.flatten(2).softmax(dim=2)
    objects = torch.matmul(weights, features.flatten(2).transpose(1, 2))
    return objects.transpose(1, 2).unsqueeze(3)


class ObjectAttention(nn.Module):
    """Each pixel attends to the object vectors: its object-contextual representation."""

    def __init__(self, channels: int, key_channels: int):
        super().__init__()
        self.key_channels = key_channels
        self.query, self.key = (
            nn.Sequential(*conv_bn(channels, key_channels, kernel=1), *conv_bn(key_channels, key_channels, kernel=1))
            for _ in range(2)
        )
        self.value = conv_bn(channels, key_channels, kernel=1)
        self.out = conv_bn(key_channels, channels, kernel=1)

    def forward(self, features: Tensor, objects: Tensor) -> Tensor:
        batch, _, height, width = features.shape
        query = self.query(features).flatten(2).transpose(1, 2)
        key = self.key(objects).flatten(2)
        value = self.value(objects).flatten(2).transpose(1, 2)
        attention = (torch.matmul(query, key) * self.key_channels**-0.5).softmax(dim=-1)
        context = torch.matmul(attention, value).transpose(1, 2)
        return self.out(context.reshape(batch, self.key_channels, height, width))


class OCR(nn.Module):
    """From the backbone's branches and coarse class scores to context-enhanced pixel features.

    Args:
        in_channels: channels of the backbone's branches together.
        channels, key_channels: width of the pixel features (512) and of the attention (256).
        dropout: rate after the last layer (0.05 in the reference code; not specified in the paper).
    """

    def __init__(self, in_channels: int, channels: int, key_channels: int, align_corners: bool, dropout: float = 0.05):
        super().__init__()
        self.pixels = ConcatConv(in_channels, channels, align_corners, kernel=3)
        self.attention = ObjectAttention(channels, key_channels)
        self.bottleneck = ConcatConv(2 * channels, channels, align_corners, bias=False)
        self.dropout = dropout

    def forward(
        self, branches: Sequence[Tensor], scores: Float[Tensor, "batch classes height width"]
    ) -> Float[Tensor, "batch channels height width"]:
        pixels = self.pixels(branches)
        context = self.attend(pixels, scores)
        return nnf.dropout2d(self.bottleneck((context, pixels)), self.dropout, self.training)

    def attend(self, pixels: Tensor, scores: Tensor) -> Tensor:
        """Let each pixel attend to the object vectors that the scores gather."""
        return self.attention(pixels, gather_objects(pixels, scores))
