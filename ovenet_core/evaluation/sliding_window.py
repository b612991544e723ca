"""Sliding windows: the logits of an image from top to bottom, so that memory does not grow with its height."""

from collections.abc import Callable, Iterator, Sequence
from itertools import pairwise
from typing import NamedTuple

import numpy as np
import torch
import torch.nn.functional as nnf
from jaxtyping import Float
from torch import Tensor

from ovenet_core.layers import OUTPUT_STRIDE, upsample

STRIP_VALUES = 2**21  # logits, of all outputs, that are upsampled at a time: few operations, and little memory
Size = tuple[int, int]  # (height, width)
Weights = Float[Tensor, "strip rows"]
LogitRows = Float[Tensor, "outputs classes rows columns"]
Forward = Callable[[np.ndarray], tuple[LogitRows, bool]]  # logits of an RGB image, and the network's align_corners


class RowStrip(NamedTuple):
    """Some rows of the result: the rows of logits next to them, and the weights that resize these rows."""

    logits: LogitRows
    weights: Weights
    align_corners: bool

    def upsample(self, width: int) -> Float[Tensor, "outputs classes strip width"]:
        """Resize the logits to the size of the result."""
        return self.weights @ upsample(self.logits, (self.logits.shape[2], width), self.align_corners)


def row_strips(
    forward: Forward, image: np.ndarray, window: Size, stride: Size, result: Size, mirrored: bool
) -> Iterator[RowStrip]:
    """Yield what the result is resized from, some rows at a time; the windows are seen when they are needed.

    Where windows overlap, it is the mean of their softmaxes.

    Args:
        window, stride: in pixels of the image, multiples of 4.
        mirrored: show the network the image mirrored, and mirror the logits back.
    """
    view, columns = image[:, ::-1] if mirrored else image, -(-image.shape[1] // OUTPUT_STRIDE)
    tops, lefts = (starts(*axis) for axis in zip(image.shape, window, stride, strict=False))
    covers = [_covers(*axis) for axis in zip((tops, lefts), window, image.shape, strict=False)]
    sums, first, strips = None, 0, []  # sums over windows of the rows of logits from `first` on
    for top, below in pairwise([*tops, image.shape[0]]):
        for left in lefts:
            logits, align_corners = forward(view[top : top + window[0], left : left + window[1]])
            if len(tops) * len(lefts) > 1:
                # A softmax stays the same when a number is added to all logits of a pixel, upsampled or not. So the
                # logarithms of mean probabilities can stand for logits.
                logits = logits.log_softmax(1)
            if sums is None:
                sums = logits.new_empty((*logits.shape[:2], 0, columns))
                strip = max(STRIP_VALUES // (logits.shape[:2].numel() * result[1]), 1)
                strips = _row_weights(len(covers[0]), result[0], strip, align_corners, logits)
            v, u = top // OUTPUT_STRIDE - first, left // OUTPUT_STRIDE
            sums = nnf.pad(sums, (0, 0, 0, v + logits.shape[2] - sums.shape[2]), value=-torch.inf)
            here = np.s_[:, :, v:, u : u + logits.shape[3]]
            sums[here] = torch.logaddexp(sums[here], logits)
        complete = -(-below // OUTPUT_STRIDE)  # of the rows above, all windows have been seen
        while strips and strips[0][0].stop <= complete:
            source, weights = strips.pop(0)
            counts = torch.outer(covers[0][source], covers[1]).log().to(sums)
            logits = sums[:, :, source.start - first : source.stop - first] - counts
            yield RowStrip(logits.flip(-1) if mirrored else logits, weights, align_corners)
        unused = min(strips[0][0].start, complete) - first if strips else complete - first
        sums, first = sums[:, :, unused:].clone(), first + unused


def starts(length: int, window: int, stride: int, multiple: int = OUTPUT_STRIDE) -> list[int]:
    """Return where the windows along one axis begin: by default at multiples of 4, so that logits fall on one grid."""
    last = -(-max(length - window, 0) // multiple) * multiple
    return [*range(0, last, stride), last]


def _covers(starts: Sequence[int], window: int, length: int) -> Float[Tensor, " positions"]:
    """Count the windows along one axis that cover each position of the logits."""
    at = torch.arange(0, length, OUTPUT_STRIDE)
    return sum(((start <= at) & (at < start + window)).float() for start in starts)


def _row_weights(rows: int, height: int, strip: int, align_corners: bool, like: Tensor) -> list[tuple[slice, Weights]]:
    """For every `strip` rows of the result: the rows of logits that `upsample` makes them from, and their weights."""
    identity = torch.eye(rows, dtype=like.dtype, device=like.device)
    strips = []
    for weights in upsample(identity[None, None], (height, rows), align_corners)[0, 0].split(strip):
        used = weights.any(0).nonzero()
        source = slice(int(used[0]), int(used[-1]) + 1)
        strips.append((source, weights[:, source].clone()))
    return strips
