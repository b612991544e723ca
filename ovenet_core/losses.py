"""The losses: cross-entropy, OHEM, the confidence loss (equation 6) and their sum (equations 5 and 7).

All take logits at any resolution and enlarge them to the labels'. The gradient with respect to the small logits is
computed at once, map by map, so that of the up to six full-size score maps of OVeNet only one is alive at a time.

Where several processes train together, pixels are counted over the pictures of all of them: each process has its
share of the loss, and the shares add up to what one process would find.
"""

from collections.abc import Callable, Iterator, Sized
from dataclasses import dataclass

import torch
import torch.nn.functional as nnf
from jaxtyping import Float, Integer
from torch import Tensor, nn

from ovenet_core import processes
from ovenet_core.benchmarks import IGNORE
from ovenet_core.hrnet import resize
from ovenet_core.ovenet import Logits, Prediction
from ovenet_core.resampling import labels_at_seeds

Scores = Float[Tensor, "batch classes height width"]
Labels = Integer[Tensor, "batch height width"]


def cross_entropy(logits: Scores, labels: Labels, class_weights: Tensor | None = None) -> Float[Tensor, ""]:
    """Cross-entropy, the mean over valid pixels weighted by their class; 0 where no pixel is valid."""
    require_class_weights(class_weights, logits.shape[1])
    labels = labels.long()
    total = nnf.cross_entropy(logits, labels, class_weights, ignore_index=IGNORE, reduction="sum")
    weight = labels != IGNORE if class_weights is None else _weight_of(labels, class_weights)
    return total / processes.total(weight.sum(dtype=total.dtype)).clamp_min(torch.finfo(total.dtype).tiny)


def ohem_cross_entropy(
    logits: Scores,
    labels: Labels,
    class_weights: Tensor | None = None,
    threshold: float = 0.9,
    min_kept: int = 131072,
) -> Float[Tensor, ""]:
    """Online hard example mining: cross-entropy over the pixels whose true class has a low probability.

    Kept are the valid pixels with a probability below max(`threshold`, the `min_kept`-th smallest); the mean over
    them weighs the loss by the class but not the count. 0 where no pixel is kept.
    """
    require_class_weights(class_weights, logits.shape[1])
    labels = labels.long()

    def weigh(loss: Tensor) -> Tensor:
        probability = loss.neg().exp_()  # 1 where the label is ignored, which is not below any limit
        kept = probability < max(threshold, _kth_probability(probability, labels, threshold, min_kept))
        weight = kept.to(loss.dtype) if class_weights is None else _weight_of(labels, class_weights).mul_(kept)
        return weight.div_(processes.total(kept.count_nonzero()).clamp_min(1))

    return _WeightedCrossEntropy.apply(logits, labels, weigh)


def _kth_probability(probability: Tensor, labels: Tensor, threshold: float, min_kept: int) -> float:
    """The `min_kept`-th smallest probability of the valid pixels (from 0), or 0 if it is not above the threshold.

    Counting is enough as a rule: only where too few pixels are below the threshold is one of them selected, on a
    processor in linear time, without sorting. Ignored pixels, of probability 1, come last and need no care.
    """
    counts = (labels != IGNORE).count_nonzero(), (probability <= threshold).count_nonzero()
    count, below = processes.total(torch.stack(counts)).tolist()
    rank = min(min_kept, count - 1)
    if count == 0 or below > rank:
        return 0.0
    values = processes.smallest(probability, rank + 1)
    # A GPU selects with one of its hundred processors, and sorts with all of them.
    return (values.sort().values[rank] if values.is_cuda else values.kthvalue(rank + 1).values).item()


def require_class_weights(class_weights: Sized | None, num_classes: int) -> None:
    """Raise ValueError unless there is one weight for each class, or none at all."""
    if class_weights is not None and len(class_weights) != num_classes:
        raise ValueError(
            f"class_weights has {len(class_weights)} values, expected {num_classes}: set class_weights: "
            "null or give one for each class"
        )


def _weight_of(labels: Tensor, class_weights: Tensor) -> Tensor:
    """The class weight of each pixel, 0 where the label is ignored."""
    table = class_weights.new_zeros(IGNORE + 1)
    table[: len(class_weights)] = class_weights
    return table[labels]


class _WeightedCrossEntropy(torch.autograd.Function):
    """The sum over pixels of weight * cross-entropy; `weigh` makes the constant weights from the cross-entropy.

    Its gradient, weight * (softmax - one-hot), is written down here because autograd's own way takes one more
    full-size map, and passes over it on one thread.
    """

    @staticmethod
    def forward(ctx, logits: Tensor, labels: Tensor, weigh: Callable[[Tensor], Tensor]) -> Tensor:
        ignored = labels == IGNORE
        true_class = labels.masked_fill(ignored, 0).unsqueeze(1)
        log_probability = logits.log_softmax(dim=1)
        loss = log_probability.gather(1, true_class).squeeze(1).neg_().masked_fill_(ignored, 0)
        weight = weigh(loss)
        ctx.save_for_backward(log_probability, true_class, loss, weight)
        return (loss * weight).sum()

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx, upstream: Tensor) -> tuple[Tensor, None, None]:
        log_probability, true_class, loss, weight = ctx.saved_tensors
        weight = upstream * weight
        gradient = log_probability.exp().mul_(weight.unsqueeze(1))
        return gradient.scatter_(1, true_class, (weight * torch.expm1(-loss)).unsqueeze(1)), None, None


def confidence_loss(
    confidence_logits: Float[Tensor, "batch 1 height width"],
    offsets: Float[Tensor, "batch 2 height width"],
    labels: Labels,
) -> Float[Tensor, ""]:
    """Equation 6: binary cross-entropy between F(p) and [H(p) == H(p + o(p))], at the labels' resolution.

    The mean over the pixels whose own label and whose seed's label are valid; the comparison gives no gradient to o.
    It is computed from the logits of F: where F rounds to 1, a loss of F itself has either no gradient or, after F was
    enlarged, one that is thousands of times too large (docs/camvid.md).
    """
    seed_labels = labels_at_seeds(labels, offsets)
    valid = (labels != IGNORE) & (seed_labels != IGNORE)
    match = (labels == seed_labels).to(confidence_logits.dtype)
    loss = nnf.binary_cross_entropy_with_logits(confidence_logits.squeeze(1), match, reduction="none")
    return (loss * valid).sum() / processes.total(valid.sum()).clamp_min(1)


def reference_confidence_loss(
    confidence: Float[Tensor, "batch 1 height width"],
    offsets: Float[Tensor, "batch 2 height width"],
    labels: Labels,
    align_corners: bool = False,
) -> Float[Tensor, ""]:
    """The confidence loss with the authors' numbers: a sum over the batch over H x W, ignored labels as class 0.

    1e-7 is added inside the logarithm.
    """
    labels = labels.masked_fill(labels == IGNORE, 0)
    match = labels == labels_at_seeds(labels, offsets, align_corners=align_corners)
    confidence = confidence.squeeze(1)
    agreement = torch.where(match, confidence, 1 - confidence)
    return -torch.log(agreement + 1e-7).sum() / labels[0].numel()


@dataclass
class LossTerms:
    """Scalars: the total of equation 7 and its parts, unweighted; a baseline has `initial` alone."""

    total: Tensor
    initial: Tensor
    seed: Tensor | None = None
    fused: Tensor | None = None
    confidence: Tensor | None = None

    def items(self) -> Iterator[tuple[str, float]]:
        """The terms that are there, as plain numbers."""
        for name, value in vars(self).items():
            if value is not None:
                yield name, float(value.detach())


class OVeNetLoss(nn.Module):
    """L = L(S_f) + kappa L(S_s) + lambda L(S_i) + L_F (equations 5 and 7); for a baseline L(S_i) alone.

    Args:
        ohem: OHEM cross-entropy for the main logits instead of plain cross-entropy. The auxiliary logits of OCR always
            have plain cross-entropy, as in the authors' code (not specified in the paper).
        threshold, min_kept: of OHEM; pixels are counted over the pictures that all processes see at a time.
        kappa, lambda_: weights of S_s and S_i (0.5 and 0.5, section 4.1).
        auxiliary_weight: weight of the auxiliary logits of OCR (0.4).
        class_weights: one per class, or None.
        with_confidence: False leaves L_F out.
        reference: sums as the authors' code does (see docs/divergences.md).
    """

    def __init__(
        self,
        *,
        ohem: bool = True,
        threshold: float = 0.9,
        min_kept: int = 131072,
        kappa: float = 0.5,
        lambda_: float = 0.5,
        auxiliary_weight: float = 0.4,
        class_weights: tuple[float, ...] | None = None,
        with_confidence: bool = True,
        reference: bool = False,
    ):
        super().__init__()
        self.ohem, self.threshold, self.min_kept = ohem, threshold, min_kept
        self.kappa, self.lambda_, self.auxiliary_weight = kappa, lambda_, auxiliary_weight
        self.with_confidence, self.reference = with_confidence, reference
        weights = None if class_weights is None else torch.tensor(class_weights)
        self.register_buffer("class_weights", weights, persistent=False)

    def forward(self, prediction: Prediction, labels: Labels) -> LossTerms:
        """Prediction at any resolution and labels (train ids, 255 ignored) to the loss and its terms."""
        initial = self.semantic(prediction.initial, labels, prediction.align_corners)
        if prediction.fused is None:
            return LossTerms(initial, initial)
        seed = self.semantic(prediction.seed, labels, prediction.align_corners)
        # NaN if an offset is: resampling reads that as a number, and its backward pass may crash the process.
        seed = seed + 0 * prediction.offsets.detach().sum()
        fused = self.semantic(prediction.fused, labels, prediction.align_corners)
        total = fused + self.kappa * seed + self.lambda_ * initial
        if not self.with_confidence:
            return LossTerms(total, initial, seed, fused)
        confidence = self.confidence(prediction, labels)
        return LossTerms(total + confidence, initial, seed, fused, confidence)

    def semantic(self, logits: Logits, labels: Labels, align_corners: bool) -> Tensor:
        """L of equation 5 for one prediction: main logits, and auxiliary ones where there are any."""
        size = labels.shape[-2:]
        main = self.hard if self.ohem else self.plain
        loss = at_once(lambda x: main(resize(x, size, align_corners), labels), logits.main)
        if logits.auxiliary is None:
            return loss
        auxiliary = self.auxiliary_in_reference if self.reference and self.ohem else self.plain
        coarse = at_once(lambda x: auxiliary(resize(x, size, align_corners), labels), logits.auxiliary)
        return loss + self.auxiliary_weight * coarse

    def plain(self, logits: Tensor, labels: Tensor) -> Tensor:
        return cross_entropy(logits, labels, self.class_weights)

    def hard(self, logits: Tensor, labels: Tensor) -> Tensor:
        return ohem_cross_entropy(logits, labels, self.class_weights, self.threshold, self.min_kept)

    def auxiliary_in_reference(self, logits: Tensor, labels: Tensor) -> Tensor:
        """Mean over all pixels, ignored ones counting as 0."""
        total = nnf.cross_entropy(logits, labels.long(), self.class_weights, ignore_index=IGNORE, reduction="sum")
        return total / labels.numel()

    def confidence(self, prediction: Prediction, labels: Labels) -> Tensor:
        """L_F of the prediction's offsets and confidence, enlarged to the labels."""
        size = labels.shape[-2:]
        if self.reference:
            return reference_confidence_loss(
                *(resize(x, size, align_corners=False) for x in (prediction.confidence, prediction.offsets)), labels
            )
        return confidence_loss(
            *(prediction.enlarged(x, size) for x in (prediction.confidence_logits, prediction.offsets)), labels
        )


def at_once(loss: Callable[[Tensor], Tensor], logits: Tensor) -> Tensor:
    """`loss(logits)`, whose gradient is computed in the forward pass so that nothing full-size is kept for later."""
    return _AtOnce.apply(logits, loss)


class _AtOnce(torch.autograd.Function):
    @staticmethod
    def forward(ctx, logits, loss):
        if not ctx.needs_input_grad[0]:
            return loss(logits)
        with torch.enable_grad():
            leaf = logits.detach().requires_grad_()
            value = loss(leaf)
            (gradient,) = torch.autograd.grad(value, leaf)
        ctx.save_for_backward(gradient)
        return value.detach()

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx, upstream):
        (gradient,) = ctx.saved_tensors
        return upstream * gradient, None
