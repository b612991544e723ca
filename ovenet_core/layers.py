"""Layers."""

from collections.abc import Sequence

import torch
import torch.nn.functional as nnf
import torch.utils.checkpoint
from torch import Tensor, nn

from ovenet_core.memory import recompute, run_in_float32


def conv_bn(in_channels: int, out_channels: int, kernel: int = 3, stride: int = 1, relu: bool = True) -> nn.Sequential:
    """Convolution without bias, batch-norm and (optionally) ReLU; 'same' padding."""
    conv = nn.Conv2d(in_channels, out_channels, kernel, stride, padding=kernel // 2, bias=False)
    layers = [conv, nn.BatchNorm2d(out_channels)] + ([nn.ReLU(inplace=True)] if relu else [])
    return nn.Sequential(*layers)


def upsample(x: Tensor, size: Sequence[int], align_corners: bool) -> Tensor:
    """Bilinear resize to (height, width); the identity when the size is already right."""
    if x.shape[-2:] == torch.Size(size):
        return x
    return nnf.interpolate(x, size=tuple(size), mode="bilinear", align_corners=align_corners)


def concatenate(features: Sequence[Tensor], align_corners: bool) -> Tensor:
    """The HRNetV2 representation: every branch resized to the first one's resolution, side by side (15 * width)."""
    size = features[0].shape[-2:]
    return torch.cat([upsample(x, size, align_corners) for x in features], dim=1)


class ConcatConv(nn.Module):
    """Convolution, batch-norm and ReLU over the concatenated branches.

    The concatenation, the largest tensor of the network, is not kept for the backward pass but made again there;
    with `checkpointing` the layer's own activations are not kept either.
    """

    def __init__(self, in_channels: int, out_channels: int, align_corners: bool, kernel: int = 1, bias: bool = True):
        super().__init__()
        self.align_corners, self.checkpointing = align_corners, False
        self.conv = nn.Conv2d(in_channels, out_channels, kernel, padding=kernel // 2, bias=bias)
        self.norm = nn.BatchNorm2d(out_channels)

    def forward(self, *features: Tensor) -> Tensor:
        if self.checkpointing:
            return recompute(lambda *x: self.activate(self._convolve(*x)), *features, norms_of=self)
        return self.activate(self.convolve(*features))

    def convolve(self, *features: Tensor) -> Tensor:
        """The convolution alone."""
        return recompute(self._convolve, *features, norms_of=self.conv)

    def _convolve(self, *features: Tensor) -> Tensor:
        return self.conv(concatenate(features, self.align_corners))

    def activate(self, x: Tensor) -> Tensor:
        """Batch-norm and ReLU."""
        return nnf.relu(self.norm(x), inplace=True)


class SegmentationHead(nn.Module):
    """Over the concatenated branches: 1x1 convolution, batch-norm, ReLU and a 1x1 output layer.

    The output layer runs in float32 also under autocast: at 8 bits of mantissa an offset of 0.5 is off by up to a
    pixel of a 1024 pixel wide image.
    """

    def __init__(self, in_channels: int, out_channels: int, align_corners: bool):
        super().__init__()
        self.hidden = ConcatConv(in_channels, in_channels, align_corners)
        self.output = output_layer(in_channels, out_channels)

    def forward(self, features: Sequence[Tensor]) -> Tensor:
        if self.hidden.checkpointing:
            return run_in_float32(self.output, self.hidden(*features))
        # Only the convolution's result is kept for the backward pass; what follows it is cheap to make again.
        return recompute(self._classify, self.hidden.convolve(*features), norms_of=self.hidden.norm)

    def _classify(self, x: Tensor) -> Tensor:
        return run_in_float32(self.output, self.hidden.activate(x))


def output_layer(in_channels: int, out_channels: int) -> nn.Conv2d:
    """A 1x1 convolution that begins near zero: weights N(0, 0.001), biases 0, so offsets begin near 0, F near 0.5.

    All other convolutions keep PyTorch's initial values, whose scale follows the number of inputs. HRNet's protocol has
    0.001 for them too, but the batch-norm behind undoes the scale: small weights only make the first steps too long.
    """
    layer = nn.Conv2d(in_channels, out_channels, 1)
    nn.init.normal_(layer.weight, std=0.001)
    nn.init.zeros_(layer.bias)
    return layer
