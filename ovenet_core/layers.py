"""Layers that several parts of the network share, and the input that the network expects."""

from collections.abc import Sequence

import torch
import torch.nn.functional as nnf
from jaxtyping import Float, Num
from torch import Tensor, nn

from ovenet_core.memory import float32_region

IMAGENET_MEAN, IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)  # RGB in [0, 1]
OUTPUT_STRIDE = 4  # the network predicts at 1/4 of the image's resolution
MIN_SIDE = 32  # pixels of an image's shorter side: the lowest resolution is 1/32


def normalise(images: Num[Tensor, "batch 3 height width"]) -> Float[Tensor, "batch 3 height width"]:
    """Scale RGB in [0, 255] to [0, 1], subtract the ImageNet mean and divide by the ImageNet deviation."""
    images = images if images.is_floating_point() else images.float()
    mean, std = (images.new_tensor(v).view(3, 1, 1) for v in (IMAGENET_MEAN, IMAGENET_STD))
    return (images / 255 - mean) / std


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


def convolve_upsampled(x: Tensor, weight: Tensor, size: torch.Size, align_corners: bool) -> Tensor:
    """Make `conv2d(upsample(x, size), weight, padding="same")`, with the channels mixed at the resolution of `x`."""
    kernel = weight.shape[-1]
    if kernel == 1:
        return upsample(nnf.conv2d(x, weight), size, align_corners)
    if 2 * x.shape[-1] >= size[-1]:  # there the taps take as many operations, and more memory
        return nnf.conv2d(upsample(x, size, align_corners), weight, padding="same")
    batch, channels, *sizes = x.shape
    # What each tap of the kernel makes of each pixel: [batch, kernel rows, y * x, kernel columns * channels].
    taps = x.permute(0, 2, 3, 1).reshape(batch, 1, -1, channels) @ weight.permute(2, 1, 3, 0).flatten(2)
    # How much of each pixel each tap sees from each target pixel: [y or x, kernel, target].
    identities = (torch.eye(n, dtype=x.dtype, device=x.device).view(1, n, n, 1) for n in sizes)
    seen = (upsample(i, (n, 1), align_corners).view(-1, n) for i, n in zip(identities, size, strict=True))
    down, across = (nnf.pad(m, [kernel // 2] * 2).unfold(1, m.shape[1], 1) for m in seen)
    taps = across.flatten(0, 1).T @ taps.view(batch, kernel * sizes[0], sizes[1] * kernel, -1)
    taps = down.transpose(0, 1).flatten(0, 1).T @ taps.flatten(2)
    return taps.view(batch, *size, -1).permute(0, 3, 1, 2)


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
        """Apply the convolution alone; on a CPU branch by branch, an eighth of the multiplications."""
        first = features[0]
        if first.device.type != "cpu" or not first.is_contiguous(memory_format=torch.channels_last):
            return self.convolve_concatenation(features)
        weight, *weights = self.conv.weight.split([x.shape[1] for x in features], dim=1)
        total = nnf.conv2d(first, weight, self.conv.bias, padding="same")
        for x, weight in zip(features[1:], weights, strict=True):
            total += convolve_upsampled(x, weight, first.shape[-2:], self.align_corners)
        return total

    def convolve_concatenation(self, features: Sequence[Tensor]) -> Tensor:
        """Convolve the HRNetV2 representation: every branch at the first one's resolution, side by side."""
        size = features[0].shape[-2:]
        return self.conv(torch.cat([upsample(x, size, self.align_corners) for x in features], dim=1))

    def activate(self, x: Tensor) -> Tensor:
        """Apply batch-norm and ReLU."""
        return nnf.relu(self.norm(x), inplace=True)


class OutputLayer(nn.Conv2d):
    """A 1x1 convolution that begins near zero: weights N(0, 0.001), biases 0, so offsets begin near 0, F near 0.5.

    It runs in float32 also under autocast: at 8 bits of mantissa an offset of 0.5 is off by up to a pixel of a
    1024 pixel wide image.
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
