"""Cross-entropy and online hard example mining (OHEM) over the valid pixels of all processes (equation 5)."""

from collections.abc import Callable, Sized

import torch
import torch.nn.functional as nnf
from jaxtyping import Float, Integer
from torch import Tensor

from ovenet_core.utils import ConfigError, all_reduce_sum, all_smallest

IGNORE_INDEX = 255  # train id of the pixels that neither the losses nor the scores count

Scores = Float[Tensor, "batch classes height width"]
Labels = Integer[Tensor, "batch height width"]


def cross_entropy(logits: Scores, labels: Labels, class_weights: Tensor | None = None) -> Float[Tensor, ""]:
    """Compute cross-entropy, the mean over valid pixels weighted by their class; 0 where no pixel is valid."""
    require_class_weights(class_weights, logits.shape[1])
    labels = labels.long()
    total = nnf.cross_entropy(logits, labels, class_weights, ignore_index=IGNORE_INDEX, reduction="sum")
    weight = labels != IGNORE_INDEX if class_weights is None else _weight_of(labels, class_weights)
    return total / all_reduce_sum(weight.sum(dtype=total.dtype)).clamp_min(torch.finfo(total.dtype).tiny)


def ohem_cross_entropy(
    logits: Scores,
    labels: Labels,
    class_weights: Tensor | None = None,
    threshold: float = 0.9,
    min_kept: int = 131072,
) -> Float[Tensor, ""]:
    """Compute OHEM: cross-entropy over the pixels whose true class has a low probability.

    Kept are the valid pixels with a probability below max(`threshold`, the `min_kept`-th smallest); the mean over
    them weighs the loss by the class but not the count. 0 where no pixel is kept.
    """
    require_class_weights(class_weights, logits.shape[1])
    labels = labels.long()

    def pixel_weights(loss: Tensor) -> Tensor:
        probability = loss.neg().exp_()  # 1 where the label is ignored, which is not below any limit
        kept = probability < max(threshold, _kth_probability(probability, labels, threshold, min_kept))
        weight = kept.to(loss.dtype) if class_weights is None else _weight_of(labels, class_weights).mul_(kept)
        return weight.div_(all_reduce_sum(kept.count_nonzero()).clamp_min(1))

    return _WeightedCrossEntropy.apply(logits, labels, pixel_weights)


def _kth_probability(probability: Tensor, labels: Tensor, threshold: float, min_kept: int) -> float:
    """Return the `min_kept`-th smallest probability of the valid pixels (from 0), or 0 if not above the threshold.

    Counting is enough as a rule: only where too few pixels are below the threshold is one of them selected, on a
    CPU in linear time, without sorting. Ignored pixels, of probability 1, come last and need no care.
    """
    counts = (labels != IGNORE_INDEX).count_nonzero(), (probability <= threshold).count_nonzero()
    count, below = all_reduce_sum(torch.stack(counts)).tolist()
    rank = min(min_kept, count - 1)
    if count == 0 or below > rank:
        return 0.0
    values = all_smallest(probability, rank + 1)
    # A GPU selects with one of its hundred processors, and sorts with all of them.
    return (values.sort().values[rank] if values.is_cuda else values.kthvalue(rank + 1).values).item()


def require_class_weights(class_weights: Sized | None, num_classes: int) -> None:
    """Raise ConfigError unless there is one weight for each class, or none at all."""
    if class_weights is not None and len(class_weights) != num_classes:
        expected = f"{num_classes}, one for each class, or null"
        raise ConfigError("class_weights", f"{len(class_weights)} values", expected, "correct class_weights")


def _weight_of(labels: Tensor, class_weights: Tensor) -> Tensor:
    """Look up the class weight of each pixel, 0 where the label is ignored."""
    table = class_weights.new_zeros(IGNORE_INDEX + 1)
    table[: len(class_weights)] = class_weights
    return table[labels]


class _WeightedCrossEntropy(torch.autograd.Function):
    """The sum over pixels of weight * cross-entropy; `pixel_weights` makes the constant weights from the cross-entropy.

    Its gradient, weight * (softmax - one-hot), is written down here because autograd's own way takes one more
    full-size map, and passes over it on one thread.
    """

    @staticmethod
    def forward(ctx, logits: Tensor, labels: Tensor, pixel_weights: Callable[[Tensor], Tensor]) -> Tensor:
        ignored = labels == IGNORE_INDEX
        true_class = labels.masked_fill(ignored, 0).unsqueeze(1)
        log_probability = logits.log_softmax(dim=1)
        loss = log_probability.gather(1, true_class).squeeze(1).neg_().masked_fill_(ignored, 0)
        weight = pixel_weights(loss)
        ctx.save_for_backward(log_probability, true_class, loss, weight)
        return (loss * weight).sum()

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx, upstream: Tensor) -> tuple[Tensor, None, None]:
        log_probability, true_class, loss, weight = ctx.saved_tensors
        weight = upstream * weight
        gradient = log_probability.exp().mul_(weight.unsqueeze(1))
        return gradient.scatter_(1, true_class, (weight * torch.expm1(-loss)).unsqueeze(1)), None, None
