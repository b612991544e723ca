"""The confidence loss (equation 6) and the total loss (equations 5 and 7); `ReferenceLoss` sums as the authors' code.

Logits have any resolution and are upsampled to the labels'. The gradient with respect to the small logits is computed
in the forward pass, map by map: only one of OVeNet's up to six full-size logit maps is in memory at a time.

Where several processes train together, pixels are counted over the images of all of them: each process has its
share of the loss, and the shares add up to the loss of one process with all images.
"""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Annotated, Any

import torch
import torch.nn.functional as nnf
from jaxtyping import Float
from pydantic import Field
from torch import Tensor, nn

from ovenet_core.cross_entropy import IGNORE_INDEX, Labels, cross_entropy, ohem_cross_entropy
from ovenet_core.layers import upsample
from ovenet_core.memory import backward_in_forward
from ovenet_core.ovenet import Logits, Prediction
from ovenet_core.resampling import labels_at_seeds
from ovenet_core.utils import all_reduce_sum, config_dataclass

NotNegative = Annotated[float, Field(ge=0)]


def confidence_loss(
    confidence_logits: Float[Tensor, "batch 1 height width"],
    offsets: Float[Tensor, "batch 2 height width"],
    labels: Labels,
) -> Float[Tensor, ""]:
    """Compute equation 6: binary cross-entropy between F(p) and [H(p) == H(p + o(p))], at the labels' resolution.

    The mean over the pixels whose own label and whose seed's label are valid; the comparison gives no gradient to o.
    It is computed from the logits of F: where F rounds to 1, a loss of F itself has either no gradient or, after F was
    upsampled, one that is thousands of times too large (docs/camvid.md).
    """
    seed_labels = labels_at_seeds(labels, offsets)
    valid = (labels != IGNORE_INDEX) & (seed_labels != IGNORE_INDEX)
    match = (labels == seed_labels).to(confidence_logits.dtype)
    loss = nnf.binary_cross_entropy_with_logits(confidence_logits.squeeze(1), match, reduction="none")
    return (loss * valid).sum() / all_reduce_sum(valid.sum()).clamp_min(1)


@dataclass
class LossTerms:
    """Scalars: the total of equation 7 and its parts, unweighted; a baseline has `initial` alone."""

    total: Tensor
    initial: Tensor
    seed: Tensor | None = None
    fused: Tensor | None = None
    confidence: Tensor | None = None

    def items(self) -> Iterator[tuple[str, float]]:
        """Yield the terms that are there, as plain numbers."""
        for name, value in vars(self).items():
            if value is not None:
                yield name, float(value.detach())


@config_dataclass
class LossConfig:
    """Equations 5 to 7. OCR's auxiliary logits always have plain cross-entropy, as in the authors' code."""

    ohem: bool = True  # OHEM instead of plain cross-entropy for the main logits; section 4.1
    ohem_threshold: Annotated[float, Field(ge=0, le=1)] = 0.9  # authors' code; so is ohem_min_kept
    ohem_min_kept: Annotated[int, Field(ge=0)] = 131072  # pixels of the images that all processes see at a time
    kappa: NotNegative = 0.5  # weight of S_s, section 4.1
    lambda_: NotNegative = 0.5  # weight of S_i, section 4.1
    auxiliary_weight: NotNegative = 0.4  # of the auxiliary logits; authors' code
    confidence_loss: bool = True  # section 3.3
    class_weights: tuple[NotNegative, ...] | None = None  # one per class
    loss_weight: NotNegative = 1.0  # of the total; ours, for a control: OVeNet's semantic losses together weigh 2


class OVeNetLoss(nn.Module):
    """L = L(S_f) + kappa L(S_s) + lambda L(S_i) + L_F (equations 5 and 7); for a baseline L(S_i) alone.

    Args:
        config: the loss; by default that of section 4.1. Its `loss_weight` is applied by who trains.
        fields: fields of the config to change, such as `ohem=False`.

    Raises:
        ConfigError: a field does not exist or is out of its range.
    """

    def __init__(self, config: LossConfig | None = None, **fields: Any):
        super().__init__()
        self.config = replace(config or LossConfig(), **fields)
        weights = None if self.config.class_weights is None else torch.tensor(self.config.class_weights)
        self.register_buffer("class_weights", weights, persistent=False)

    def forward(self, prediction: Prediction, labels: Labels) -> LossTerms:
        """Map a prediction at any resolution and labels (train ids, 255 ignored) to the loss and its terms."""
        initial = self.semantic(prediction.initial, labels, prediction.align_corners)
        if prediction.fused is None:
            return LossTerms(initial, initial)
        seed = self.semantic(prediction.seed, labels, prediction.align_corners)
        # NaN if an offset is: resampling reads that as a number, and its backward pass may crash the process.
        seed = seed + 0 * prediction.offsets.detach().sum()
        fused = self.semantic(prediction.fused, labels, prediction.align_corners)
        total = fused + self.config.kappa * seed + self.config.lambda_ * initial
        if not self.config.confidence_loss:
            return LossTerms(total, initial, seed, fused)
        confidence = self.confidence(prediction, labels)
        return LossTerms(total + confidence, initial, seed, fused, confidence)

    def semantic(self, logits: Logits, labels: Labels, align_corners: bool) -> Tensor:
        """Compute L of equation 5 for one prediction: main logits, and auxiliary ones where there are any."""
        size = labels.shape[-2:]
        main = backward_in_forward(lambda x: self.main(upsample(x, size, align_corners), labels), logits.main)
        if logits.auxiliary is None:
            return main
        auxiliary = backward_in_forward(
            lambda x: self.auxiliary(upsample(x, size, align_corners), labels), logits.auxiliary
        )
        return main + self.config.auxiliary_weight * auxiliary

    def main(self, logits: Tensor, labels: Labels) -> Tensor:
        """Compute OHEM or plain cross-entropy of main logits at the labels' resolution."""
        if self.config.ohem:
            hard = self.config.ohem_threshold, self.config.ohem_min_kept
            return ohem_cross_entropy(logits, labels, self.class_weights, *hard)
        return cross_entropy(logits, labels, self.class_weights)

    def auxiliary(self, logits: Tensor, labels: Labels) -> Tensor:
        """Compute plain cross-entropy of auxiliary logits at the labels' resolution."""
        return cross_entropy(logits, labels, self.class_weights)

    def confidence(self, prediction: Prediction, labels: Labels) -> Tensor:
        """Compute L_F of the prediction's offsets and confidence, upsampled to the labels."""
        maps = (prediction.upsample(x, labels.shape[-2:]) for x in (prediction.confidence_logits, prediction.offsets))
        return confidence_loss(*maps, labels)


class ReferenceLoss(OVeNetLoss):
    """The loss as the authors' code sums it (docs/divergences.md)."""

    def auxiliary(self, logits: Tensor, labels: Labels) -> Tensor:
        """With OHEM, compute the mean of the cross-entropy over all pixels, ignored ones counting as 0."""
        if not self.config.ohem:
            return super().auxiliary(logits, labels)
        loss = nnf.cross_entropy(logits, labels.long(), self.class_weights, ignore_index=IGNORE_INDEX, reduction="sum")
        return loss / labels.numel()

    def confidence(self, prediction: Prediction, labels: Labels) -> Tensor:
        """Compute L_F of the authors' code; its upsampling is never corner-aligned."""
        maps = (upsample(x, labels.shape[-2:], False) for x in (prediction.confidence, prediction.offsets))
        return reference_confidence_loss(*maps, labels)


def reference_confidence_loss(
    confidence: Float[Tensor, "batch 1 height width"],
    offsets: Float[Tensor, "batch 2 height width"],
    labels: Labels,
    align_corners: bool = False,
) -> Float[Tensor, ""]:
    """Compute the confidence loss as the authors' code: a sum over the batch, over H x W, ignored labels as class 0.

    It takes F itself and adds 1e-7 inside the logarithm.
    """
    labels = labels.masked_fill(labels == IGNORE_INDEX, 0)
    match = labels == labels_at_seeds(labels, offsets, align_corners=align_corners)
    confidence = confidence.squeeze(1)
    agreement = torch.where(match, confidence, 1 - confidence)
    return -torch.log(agreement + 1e-7).sum() / labels[0].numel()
