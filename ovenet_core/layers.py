"""Layers that several parts of the network share, and the input that the network expects."""

from collections.abc import Sequence

import torch
import torch.nn.functional as nnf
from jaxtyping import Float, UInt8
from torch import Tensor, nn

from ovenet_core.memory import float32_region

IMAGENET_MEAN, IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)  # RGB in [0, 1]
OUTPUT_STRIDE = 4  # the network predicts at 1/4 of the image's resolution
MIN_SIDE = 32  # pixels of an image's shorter side: the lowest resolution is 1/32


def normalise(
    images: UInt8[Tensor, "batch 3 height width"], channels_last: bool = False
) -> Float[Tensor, "batch 3 height width"]:
    """Scale RGB in [0, 255] to [0, 1], subtract the ImageNet mean and divide by the ImageNet deviation."""
    mean, std = (torch.tensor(v, device=images.device).view(3, 1, 1) for v in (IMAGENET_MEAN, IMAGENET_STD))
    images = (images.float() / 255 - mean) / std
    return images.contiguous(memory_format=torch.channels_last) if channels_last else images


def conv_bn(in_channels: int, out_channels: int, kernel: int = 3, stride: int = 1, relu: bool = True) -> nn.Sequential:
    """Make a convolution without bias, batch-norm and (optionally) ReLU; 'same' padding."""
    conv = nn.Conv2d(in_channels, out_channels, kernel, stride, padding=kernel // 2, bias=False)
    layers = [conv, nn.BatchNorm2d(out_channels)] + ([nn.ReLU(inplace=True)] if relu else [])
    return nn.Sequential(*layers)


def upsample(x: Tensor, size: Sequence[int], align_corners: bool) -> Tensor:
    """Resize bilinearly to (height, width); the identity when the size is already right."""
    if x.shape[-2:] == torch.Size(size):
        return x
    return nnf.interpolate(x, size=tuple(size), mode="bilinear", align_corners=align_corners)


def concatenate(features: Sequence[Tensor], align_corners: bool) -> Tensor:
    """Make the HRNetV2 representation: every branch at the first one's resolution, side by side (15 * width)."""
    size = features[0].shape[-2:]
    return torch.cat([upsample(x, size, align_corners) for x in features], dim=1)


class ConcatConv(nn.Module):
    """Convolution, batch-norm and ReLU over the concatenated branches."""

    def __init__(self, in_channels: int, out_channels: int, align_corners: bool, kernel: int = 1, bias: bool = True):
        super().__init__()
        self.align_corners = align_corners
        self.conv = nn.Conv2d(in_channels, out_channels, kernel, padding=kernel // 2, bias=bias)
        self.norm = nn.BatchNorm2d(out_channels)

    def forward(self, features: Sequence[Tensor]) -> Tensor:
        return self.activate(self.convolve(features))

    def convolve(self, features: Sequence[Tensor]) -> Tensor:
        """Apply the convolution alone."""
        return self.conv(concatenate(features, self.align_corners))

    def activate(self, x: Tensor) -> Tensor:
        """Apply batch-norm and ReLU."""
        return nnf.relu(self.norm(x), inplace=True)


class OutputLayer(nn.Conv2d):
    """A 1x1 convolution that begins near zero: weights N(0, 0.001), biases 0, so offsets begin near 0, F near 0.5.

    It runs in float32 also under autocast: at 8 bits of mantissa an offset of 0.5 is off by up to a pixel of a
    1024 pixel wide image.

    All other convolutions keep PyTorch's initial values, whose scale follows the number of inputs. HRNet's protocol has
    0.001 for them too, but the batch-norm behind undoes the scale: small weights only make the first steps too long.
    """

    def __init__(self, in_channels: int, out_channels: int):
        super().__init__(in_channels, out_channels, 1)
        nn.init.normal_(self.weight, std=0.001)
        nn.init.zeros_(self.bias)

    def forward(self, x: Tensor) -> Tensor:
        with float32_region(x.device):
            return super().forward(x.to(torch.promote_types(x.dtype, torch.float32)))


class SegmentationHead(nn.Module):
    """Over the concatenated branches: 1x1 convolution, batch-norm, ReLU and a 1x1 output layer."""

    def __init__(self, in_channels: int, out_channels: int, align_corners: bool):
        super().__init__()
        self.hidden = ConcatConv(in_channels, in_channels, align_corners)
        self.output = OutputLayer(in_channels, out_channels)

    def forward(self, features: Sequence[Tensor]) -> Tensor:
        return self.classify(self.hidden.convolve(features))

    def classify(self, x: Tensor) -> Tensor:
        """Map the hidden convolution's result to logits."""
        return self.output(self.hidden.activate(x))
