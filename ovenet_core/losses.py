"""The losses: cross-entropy, OHEM, the confidence loss (equation 6) and their sum (equations 5 and 7).

All take logits at any resolution and upsample them to the labels'. The gradient with respect to the small logits is
computed at once, map by map, so that of the up to six full-size score maps of OVeNet only one is alive at a time.

Where several processes train together, pixels are counted over the images of all of them: each process has its
share of the loss, and the shares add up to what one process would find.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import torch
import torch.nn.functional as nnf
from jaxtyping import Float
from torch import Tensor, nn

from ovenet_core import utils
from ovenet_core.cross_entropy import IGNORE_INDEX, Labels, cross_entropy, ohem_cross_entropy
from ovenet_core.layers import upsample
from ovenet_core.memory import backward_in_forward
from ovenet_core.ovenet import Logits, Prediction
from ovenet_core.resampling import labels_at_seeds


def confidence_loss(
    confidence_logits: Float[Tensor, "batch 1 height width"],
    offsets: Float[Tensor, "batch 2 height width"],
    labels: Labels,
) -> Float[Tensor, ""]:
    """Equation 6: binary cross-entropy between F(p) and [H(p) == H(p + o(p))], at the labels' resolution.

    The mean over the pixels whose own label and whose seed's label are valid; the comparison gives no gradient to o.
    It is computed from the logits of F: where F rounds to 1, a loss of F itself has either no gradient or, after F was
    upsampled, one that is thousands of times too large (docs/camvid.md).
    """
    seed_labels = labels_at_seeds(labels, offsets)
    valid = (labels != IGNORE_INDEX) & (seed_labels != IGNORE_INDEX)
    match = (labels == seed_labels).to(confidence_logits.dtype)
    loss = nnf.binary_cross_entropy_with_logits(confidence_logits.squeeze(1), match, reduction="none")
    return (loss * valid).sum() / utils.all_reduce_sum(valid.sum()).clamp_min(1)


def reference_confidence_loss(
    confidence: Float[Tensor, "batch 1 height width"],
    offsets: Float[Tensor, "batch 2 height width"],
    labels: Labels,
    align_corners: bool = False,
) -> Float[Tensor, ""]:
    """The confidence loss with the authors' numbers: a sum over the batch over H x W, ignored labels as class 0.

    1e-7 is added inside the logarithm.
    """
    labels = labels.masked_fill(labels == IGNORE_INDEX, 0)
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
        threshold, min_kept: of OHEM; pixels are counted over the images that all processes see at a time.
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
        loss = backward_in_forward(lambda x: main(upsample(x, size, align_corners), labels), logits.main)
        if logits.auxiliary is None:
            return loss
        auxiliary = self.auxiliary_in_reference if self.reference and self.ohem else self.plain
        coarse = backward_in_forward(lambda x: auxiliary(upsample(x, size, align_corners), labels), logits.auxiliary)
        return loss + self.auxiliary_weight * coarse

    def plain(self, logits: Tensor, labels: Tensor) -> Tensor:
        return cross_entropy(logits, labels, self.class_weights)

    def hard(self, logits: Tensor, labels: Tensor) -> Tensor:
        return ohem_cross_entropy(logits, labels, self.class_weights, self.threshold, self.min_kept)

    def auxiliary_in_reference(self, logits: Tensor, labels: Tensor) -> Tensor:
        """Mean over all pixels, ignored ones counting as 0."""
        total = nnf.cross_entropy(logits, labels.long(), self.class_weights, ignore_index=IGNORE_INDEX, reduction="sum")
        return total / labels.numel()

    def confidence(self, prediction: Prediction, labels: Labels) -> Tensor:
        """L_F of the prediction's offsets and confidence, upsampled to the labels."""
        size = labels.shape[-2:]
        if self.reference:
            return reference_confidence_loss(
                *(upsample(x, size, align_corners=False) for x in (prediction.confidence, prediction.offsets)), labels
            )
        return confidence_loss(
            *(prediction.upsample(x, size) for x in (prediction.confidence_logits, prediction.offsets)), labels
        )
