"""The confidence loss (equation 6) and the total loss (equations 5 and 7), also as the authors' code sums them.

Logits have any resolution and are upsampled to the labels'. The gradient with respect to the small logits is computed
in the forward pass, map by map: only one of OVeNet's up to six full-size logit maps is in memory at a time.

Where several processes train together, pixels are counted over the images of all of them: each process has its
share of the loss, and the shares add up to the loss of one process with all images. `images_counted_together` splits
them into small groups, as the authors' processes do, whatever the number of processes is here.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import Annotated, Any

import torch
import torch.nn.functional as nnf
from jaxtyping import Float
from pydantic import Field, field_validator
from torch import Tensor, nn

from ovenet_core.cross_entropy import IGNORE_INDEX, Labels, cross_entropy, ohem_cross_entropy, require_class_weights
from ovenet_core.layers import upsample
from ovenet_core.memory import backward_in_forward
from ovenet_core.ovenet import Logits, Prediction
from ovenet_core.resampling import labels_at_seeds
from ovenet_core.utils import all_reduce_sum, config_dataclass, counted_alone

NotNegative = Annotated[float, Field(ge=0)]
OHEM_MIN_KEPT = 131072  # pixels; authors' code


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
    ohem_min_kept: Annotated[int, Field(ge=0)] = OHEM_MIN_KEPT  # pixels of the images that are counted together
    ohem_min_kept_per_image: Annotated[int, Field(ge=0)] | None = None  # instead; authors' code: 65536
    images_counted_together: Annotated[int, Field(ge=1)] | None = None  # None: all that all processes see at a time
    kappa: NotNegative = 0.5  # weight of S_s, section 4.1
    lambda_: NotNegative = 0.5  # weight of S_i, section 4.1
    auxiliary_weight: NotNegative = 0.4  # of the auxiliary logits; authors' code
    confidence_loss: bool = True  # section 3.3
    confidence_weight: NotNegative = 1.0  # equation 7; authors' code: 2, a sum over the two images of a process
    reference_loss: bool = False  # sum as the authors' code does (docs/divergences.md)
    class_weights: tuple[NotNegative, ...] | None = None  # one per class
    loss_weight: NotNegative = 1.0  # of the total; ours, for a control: OVeNet's semantic losses together weigh 2

    @field_validator("ohem_min_kept_per_image")
    @classmethod
    def _one_number(cls, per_image: int | None, info: Any) -> int | None:
        if per_image is not None and info.data.get("ohem_min_kept", OHEM_MIN_KEPT) != OHEM_MIN_KEPT:
            raise ValueError(f"null beside ohem_min_kept {info.data['ohem_min_kept']}")
        return per_image


class OVeNetLoss(nn.Module):
    """L = L(S_f) + kappa L(S_s) + lambda L(S_i) + L_F (equations 5 and 7); for a baseline L(S_i) alone.

    Args:
        config: the loss; by default that of section 4.1. Its `loss_weight` is applied by who trains.
        num_classes: of the logits, so that a wrong number of class weights is refused at once.
        fields: fields of the config to change, such as `ohem=False`.

    Raises:
        ConfigError: a field does not exist, is out of its range or of another length.
    """

    def __init__(self, config: LossConfig | None = None, num_classes: int | None = None, **fields: Any):
        super().__init__()
        self.config = replace(config or LossConfig(), **fields)
        if num_classes is not None:
            require_class_weights(self.config.class_weights, num_classes)
        weights = None if self.config.class_weights is None else torch.tensor(self.config.class_weights)
        self.register_buffer("class_weights", weights, persistent=False)

    def forward(self, prediction: Prediction, labels: Labels) -> LossTerms:
        """Map a prediction at any resolution and labels (train ids, 255 ignored) to the loss and its terms."""
        together = self.config.images_counted_together
        if together is None:
            return self.terms(prediction, labels)
        total: dict[str, Tensor] = {}
        images = all_reduce_sum(labels.new_tensor(len(labels)))
        for first in range(0, len(labels), together):
            part = slice(first, first + together)
            with counted_alone():
                terms = self.terms(prediction.of_images(part), labels[part])
            for name, value in vars(terms).items():
                if value is not None:
                    total[name] = total.get(name, 0) + value * (len(labels[part]) / images)
        return LossTerms(**total)

    def terms(self, prediction: Prediction, labels: Labels) -> LossTerms:
        """Compute the loss of images whose pixels are counted together."""
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
        return LossTerms(total + self.config.confidence_weight * confidence, initial, seed, fused, confidence)

    def semantic(self, logits: Logits, labels: Labels, align_corners: bool) -> Tensor:
        """Compute L of equation 5 for one prediction: main logits, and auxiliary ones where there are any."""

        def upsampled(loss: Callable[[Tensor, Labels], Tensor], x: Tensor) -> Tensor:  # a softmax reads class by class
            size = labels.shape[-2:]
            return backward_in_forward(lambda x: loss(upsample(x.contiguous(), size, align_corners), labels), x)

        main = upsampled(self.main, logits.main)
        if logits.auxiliary is None:
            return main
        return main + self.config.auxiliary_weight * upsampled(self.auxiliary, logits.auxiliary)

    def main(self, logits: Tensor, labels: Labels) -> Tensor:
        """Compute OHEM or plain cross-entropy of main logits at the labels' resolution."""
        if not self.config.ohem:
            return cross_entropy(logits, labels, self.class_weights)
        min_kept = self.config.ohem_min_kept
        if self.config.ohem_min_kept_per_image is not None:
            min_kept = self.config.ohem_min_kept_per_image * int(all_reduce_sum(labels.new_tensor(len(labels))))
        return ohem_cross_entropy(logits, labels, self.class_weights, self.config.ohem_threshold, min_kept)

    def auxiliary(self, logits: Tensor, labels: Labels) -> Tensor:
        """Compute plain cross-entropy of auxiliary logits at the labels' resolution.

        As the authors' code with OHEM: the mean over all pixels, ignored ones counting as 0.
        """
        if not (self.config.reference_loss and self.config.ohem):
            return cross_entropy(logits, labels, self.class_weights)
        loss = nnf.cross_entropy(logits, labels.long(), self.class_weights, ignore_index=IGNORE_INDEX, reduction="sum")
        return loss / all_reduce_sum(labels.new_tensor(labels.numel()))

    def confidence(self, prediction: Prediction, labels: Labels) -> Tensor:
        """Compute L_F of the prediction's offsets and confidence, upsampled to the labels.

        The authors' code upsamples F itself, and never corner-aligned.
        """
        size = labels.shape[-2:]
        if not self.config.reference_loss:
            maps = (prediction.upsample(x, size) for x in (prediction.confidence_logits, prediction.offsets))
            return confidence_loss(*maps, labels)
        maps = (upsample(x, size, False) for x in (prediction.confidence, prediction.offsets))
        total = reference_confidence_loss(*maps, labels, prediction.seed_align_corners)
        return total / all_reduce_sum(labels.new_tensor(len(labels)))


def reference_confidence_loss(
    confidence: Tensor, offsets: Tensor, labels: Labels, align_corners: bool = False
) -> Float[Tensor, ""]:
    """Compute L_F as the authors' code: from F, as a sum over the batch, over H x W, ignored labels as class 0."""
    labels = labels.masked_fill(labels == IGNORE_INDEX, 0)
    match = labels == labels_at_seeds(labels, offsets, align_corners=align_corners)
    confidence = confidence.squeeze(1)
    agreement = torch.where(match, confidence, 1 - confidence)
    return -torch.log(agreement + 1e-7).sum() / labels[0].numel()
