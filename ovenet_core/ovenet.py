"""OVeNet: a shared backbone, a semantic head and an offset head (Figure 2), and the baselines without one."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor, nn

from ovenet_core.fusion import fuse
from ovenet_core.hrnet import HRNet
from ovenet_core.layers import SegmentationHead, output_layer, upsample
from ovenet_core.memory import float32_region, run_in_float32
from ovenet_core.ocr import OCR
from ovenet_core.offset_head import OffsetHead
from ovenet_core.resampling import refine, resample, seed_positions

BACKBONES = ("hrnet", "hrnet_ocr")
WIDTHS = (18, 32, 40, 48)  # the published widths; any other positive one works as well
LogitMap = Float[Tensor, "batch classes height width"]


@dataclass
class Logits:
    """Class logits at 1/4 resolution; with OCR also those of the auxiliary (coarse) classifier."""

    main: LogitMap
    auxiliary: LogitMap | None = None

    def map(self, function: Callable[..., Tensor], *others: "Logits") -> "Logits":
        """`function` of the main maps, and of the auxiliary maps where there are any."""
        main = function(self.main, *(other.main for other in others))
        if self.auxiliary is None:
            return Logits(main)
        return Logits(main, function(self.auxiliary, *(other.auxiliary for other in others)))


@dataclass
class Prediction:
    """What the network returns, all at 1/4 of the image's resolution.

    Attributes:
        initial, seed, fused: logits whose softmaxes are S_i, S_s and S_f; a baseline has `initial` alone.
        offsets: o, [batch, 2, height, width], channels (dx, dy) in normalised image coordinates (`resampling`).
        confidence_logits: [batch, 1, height, width]; their sigmoid is the confidence F.
        align_corners: the network's convention for bilinear resizing, to be used when upsampling the logits.
    """

    initial: Logits
    seed: Logits | None = None
    fused: Logits | None = None
    offsets: Float[Tensor, "batch 2 height width"] | None = None
    confidence_logits: Float[Tensor, "batch 1 height width"] | None = None
    align_corners: bool = False

    @property
    def confidence(self) -> Float[Tensor, "batch 1 height width"] | None:
        """F, in [0, 1]; None for a baseline."""
        return None if self.confidence_logits is None else self.confidence_logits.sigmoid()

    @property
    def final(self) -> Logits:
        """The logits to predict with: the fused ones, or a baseline's own."""
        return self.initial if self.fused is None else self.fused

    def outputs(self) -> dict[str, Logits]:
        """The logits that are there, by the paper's names: S_i, S_s, S_f."""
        named = {"S_i": self.initial, "S_s": self.seed, "S_f": self.fused}
        return {name: logits for name, logits in named.items() if logits is not None}

    def upsample(self, values: LogitMap, size: Sequence[int]) -> Float[Tensor, "batch classes rows columns"]:
        """Logits (or offsets, or confidence) resized to (rows, columns)."""
        return upsample(values, size, self.align_corners)


class HRNetHead(nn.Module):
    """The semantic head of HRNet: one hidden layer over the concatenated branches."""

    def __init__(self, backbone: HRNet, num_classes: int):
        super().__init__()
        self.classifier = SegmentationHead(backbone.out_channels, num_classes, backbone.align_corners)

    def forward(self, features: Sequence[Tensor]) -> Logits:
        return Logits(self.classifier(features))


class OCRHead(nn.Module):
    """The semantic head of HRNet+OCR: coarse (auxiliary) logits, object-contextual features, final logits."""

    def __init__(self, backbone: HRNet, num_classes: int, channels: int = 512, key_channels: int = 256):
        super().__init__()
        self.auxiliary = SegmentationHead(backbone.out_channels, num_classes, backbone.align_corners)
        self.ocr = OCR(backbone.out_channels, channels, key_channels, backbone.align_corners)
        self.classifier = output_layer(channels, num_classes)

    def forward(self, features: Sequence[Tensor]) -> Logits:
        auxiliary = self.auxiliary(features)
        return Logits(run_in_float32(self.classifier, self.ocr(features, auxiliary)), auxiliary)


class OVeNet(nn.Module):
    """The Offset Vector Network; without an offset head, the baseline that it is built on.

    Args:
        backbone, semantic_head, offset_head: the parts, built outside and handed in (see `build`).
        fuse_probabilities: resample and fuse softmax probabilities instead of logits; the paper found it inferior
            (section 4.1). The auxiliary output stays logits, and the outputs are log-probabilities.
        refinement_steps: how often an offset follows the offset of its seed (0 in the paper).
        seed_align_corners: False only for networks trained with the other sampling convention (see `resampling`).
        freeze_backbone: train the offset head alone; all else and its batch-norm statistics stand still.
        freeze_batchnorm: every batch-norm uses its running statistics, which stand still, in training too.
    """

    def __init__(
        self,
        backbone: HRNet,
        semantic_head: nn.Module,
        offset_head: OffsetHead | None = None,
        *,
        fuse_probabilities: bool = False,
        refinement_steps: int = 0,
        seed_align_corners: bool = True,
        freeze_backbone: bool = False,
        freeze_batchnorm: bool = False,
    ):
        super().__init__()
        if freeze_backbone and offset_head is None:
            raise ValueError(
                "freeze_backbone trains the offset head alone, but there is none: give branch_stage 4, 3 or 2"
            )
        self.backbone, self.semantic_head, self.offset_head = backbone, semantic_head, offset_head
        self.fuse_probabilities, self.refinement_steps = fuse_probabilities, refinement_steps
        self.seed_align_corners = seed_align_corners
        self.freeze_backbone, self.freeze_batchnorm = freeze_backbone, freeze_batchnorm
        for part in (backbone, semantic_head):
            part.requires_grad_(not freeze_backbone)

    def forward(self, image: Float[Tensor, "batch 3 height width"]) -> Prediction:
        """Image (RGB, normalised with the ImageNet mean and deviation) to the named outputs (section 3.2)."""
        check_image(image)
        features = self.backbone(image)
        initial = self.semantic_head(features[4])  # C
        if self.offset_head is None:
            return Prediction(initial, align_corners=self.backbone.align_corners)
        offsets, confidence_logits = self.offset_head(features[self.offset_head.branch - 1])  # o, F
        with float32_region(image.device):
            return self.resample_and_fuse(initial, offsets, confidence_logits)

    def resample_and_fuse(self, initial: Logits, offsets: Tensor, confidence_logits: Tensor) -> Prediction:
        """Equations 2 to 4: resample the logits at the seeds, fuse by the confidence."""
        convention = {"align_corners": self.seed_align_corners}
        offsets = refine(offsets, self.refinement_steps, **convention)
        seeds = seed_positions(offsets, **convention)
        if self.fuse_probabilities:
            initial = Logits(initial.main.softmax(dim=1), initial.auxiliary)
        seed = initial.map(lambda c: resample(c, seeds, **convention))
        confidence = confidence_logits.sigmoid()  # F
        fused = initial.map(lambda c, c_s: fuse(c, c_s, confidence), seed)
        if self.fuse_probabilities:
            initial, seed, fused = (Logits(log(x.main), x.auxiliary) for x in (initial, seed, fused))
        return Prediction(initial, seed, fused, offsets, confidence_logits, self.backbone.align_corners)

    def train(self, mode: bool = True) -> "OVeNet":
        super().train(mode)
        if self.freeze_backbone:
            self.backbone.eval()
            self.semantic_head.eval()
        if self.freeze_batchnorm:
            for module in self.modules():
                if isinstance(module, nn.modules.batchnorm._BatchNorm):
                    module.eval()
        return self


def log(probabilities: LogitMap) -> LogitMap:
    """Logarithm of probabilities; below the smallest normal number the gradient is zero, never infinite."""
    return probabilities.clamp_min(torch.finfo(probabilities.dtype).tiny).log()


def check_image(image: Tensor) -> None:
    """Raise ValueError unless the image is large enough for four resolutions."""
    height, width = image.shape[-2:]
    if min(height, width) < 32:
        raise ValueError(
            f"the image is {height}x{width} (height x width), but the lowest resolution is 1/32: "
            f"both sides must be 32 or more; upsample or pad it"
        )


def build(
    backbone: str = "hrnet",
    width: int = 48,
    num_classes: int = 19,
    branch_stage: int | None = 4,
    tau: float = 0.5,
    *,
    blocks: int = 4,
    align_corners: bool | None = None,
    ocr_channels: int = 512,
    ocr_key_channels: int = 256,
    fuse_probabilities: bool = False,
    refinement_steps: int = 0,
    seed_align_corners: bool = True,
    freeze_backbone: bool = False,
    freeze_batchnorm: bool = False,
    checkpointing: bool = False,
) -> OVeNet:
    """HRNet, HRNet+OCR, OVeNet (HRNet) or OVeNet (HRNet+OCR).

    Args:
        backbone: "hrnet" or "hrnet_ocr".
        width: channels of the first branch (18, 32, 40, 48; the paper: 48).
        num_classes: channels of the semantic head (19, 150, 11).
        branch_stage: 4, 3 or 2 for OVeNet; None for the baseline.
        tau: largest offset per axis in normalised image coordinates.
        align_corners: convention of every bilinear resize; by default the reference's, True with OCR, else False.
        checkpointing: compute activations again in the backward pass instead of keeping them.

    Raises:
        ValueError: naming the argument that is out of range.
    """
    for name, value, allowed in (("backbone", backbone, BACKBONES), ("branch_stage", branch_stage, (None, 4, 3, 2))):
        if value not in allowed:
            raise ValueError(f"{name} is {value!r}; expected one of {', '.join(map(repr, allowed))}")
    if not 0 < tau <= 2:
        raise ValueError(f"tau is {tau}; expected above 0 and at most 2, the width of the image in its coordinates")
    with_ocr = backbone == "hrnet_ocr"
    hrnet = HRNet(width, blocks, with_ocr if align_corners is None else align_corners)
    head = OCRHead(hrnet, num_classes, ocr_channels, ocr_key_channels) if with_ocr else HRNetHead(hrnet, num_classes)
    offset_head = None
    if branch_stage is not None:
        offset_head = OffsetHead(width, blocks, hrnet.align_corners, branch_stage, tau)
    network = OVeNet(
        hrnet,
        head,
        offset_head,
        fuse_probabilities=fuse_probabilities,
        refinement_steps=refinement_steps,
        seed_align_corners=seed_align_corners,
        freeze_backbone=freeze_backbone,
        freeze_batchnorm=freeze_batchnorm,
    )
    for module in network.modules():
        if hasattr(module, "checkpointing"):
            module.checkpointing = checkpointing
    return network
