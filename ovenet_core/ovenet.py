"""OVeNet: a shared backbone, a semantic head and an offset head (Figure 2), and the baselines without one."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Annotated, Any, Literal, get_args

import torch
from jaxtyping import Float
from pydantic import Field
from torch import Tensor, nn

from ovenet_core.fusion import fuse
from ovenet_core.hrnet import BACKBONE_MODULES, Bottleneck, HighResolutionModule, HRNet, Stage1, Stem
from ovenet_core.layers import MIN_SIDE, ConcatConv, OutputLayer, SegmentationHead, upsample
from ovenet_core.memory import float32_region, recompute_activations
from ovenet_core.ocr import OCR
from ovenet_core.offset_head import OFFSET_MODULES, OffsetHead
from ovenet_core.resampling import refine, resample, seed_positions
from ovenet_core.utils import ConfigError, config_dataclass

Backbone = Literal["hrnet", "hrnet_ocr"]
BACKBONES = get_args(Backbone)
LogitMap = Float[Tensor, "batch classes height width"]

# What the backward pass computes again instead of keeping it. Always: large activations that cost little.
ALWAYS_RECOMPUTED = {
    Stem: "forward",
    Bottleneck: "shortcut",
    ConcatConv: "convolve_concatenation",
    SegmentationHead: "classify",
}
# With checkpointing: also everything inside these.
CHECKPOINTED = {Stage1: "forward", HighResolutionModule: "forward", ConcatConv: "forward", OCR: "attend"}


@config_dataclass
class NetworkConfig:
    """The network; the defaults are OVeNet (HRNet) of Table 1.

    Raises:
        ConfigError: a field is out of its range.
    """

    backbone: Backbone = "hrnet"
    width: Annotated[int, Field(ge=1)] = 48  # channels of the first branch: HRNetV2-W48, Table 1
    blocks: Annotated[int, Field(ge=1)] = 4  # residual units per branch and module, Table 6
    branch_stage: Literal[4, 3, 2, None] = 4  # the offset head's first stage; None: the baseline; section 4.3
    tau: Annotated[float, Field(gt=0, le=2)] = 0.5  # largest offset per axis; 2 is the image's width; section 4.1
    align_corners: bool | None = None  # of every bilinear resize; None: as the authors' code, True with OCR, else False
    fuse_probabilities: bool = False  # section 4.1 found it inferior
    refinement_steps: Annotated[int, Field(ge=0)] = 0  # how often an offset follows its seed's offset; authors' code
    freeze_backbone: bool = False  # train the offset head alone; Table 5, "Fr"
    frozen_in_training_mode: bool = False  # batch-norm moves and dropout stays on; authors' code
    freeze_batchnorm: bool = False  # batch-norm stands still at its running statistics, in training too; ours
    batchnorm_momentum: Annotated[float, Field(ge=0, le=1)] = 0.1  # authors' code: 0.01 without OCR
    seed_align_corners: bool = True  # of the lookup at the seeds; torch from 1.3 on has False as its default


@dataclass
class Logits:
    """Class logits at 1/4 resolution; with OCR also those of the auxiliary (coarse) classifier."""

    main: LogitMap
    auxiliary: LogitMap | None = None

    def map(self, function: Callable[..., Tensor], *others: "Logits") -> "Logits":
        """Apply a function to the main maps, and to the auxiliary maps where there are any."""
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
        seed_align_corners: that of the lookup at the seeds.
    """

    initial: Logits
    seed: Logits | None = None
    fused: Logits | None = None
    offsets: Float[Tensor, "batch 2 height width"] | None = None
    confidence_logits: Float[Tensor, "batch 1 height width"] | None = None
    align_corners: bool = False
    seed_align_corners: bool = True

    @property
    def confidence(self) -> Float[Tensor, "batch 1 height width"] | None:
        """F, in [0, 1]; None for a baseline."""
        return None if self.confidence_logits is None else self.confidence_logits.sigmoid()

    @property
    def final(self) -> Logits:
        """The logits of the final prediction: the fused ones, or a baseline's own."""
        return self.initial if self.fused is None else self.fused

    def outputs(self) -> dict[str, Logits]:
        """Return the logits that are there by the paper's names: S_i, S_s, S_f."""
        named = {"S_i": self.initial, "S_s": self.seed, "S_f": self.fused}
        return {name: logits for name, logits in named.items() if logits is not None}

    def of_images(self, part: slice) -> "Prediction":
        """Return the prediction for some of the images."""

        def cut(value: Any) -> Any:
            return value.map(lambda x: x[part]) if isinstance(value, Logits) else value[part]

        maps = ("initial", "seed", "fused", "offsets", "confidence_logits")
        return replace(self, **{name: cut(value) for name in maps if (value := getattr(self, name)) is not None})

    def upsample(self, values: LogitMap, size: Sequence[int]) -> Float[Tensor, "batch classes rows columns"]:
        """Resize logits (or offsets, or confidence) to (rows, columns)."""
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
        self.classifier = OutputLayer(channels, num_classes)

    def forward(self, features: Sequence[Tensor]) -> Logits:
        auxiliary = self.auxiliary(features)
        return Logits(self.classifier(self.ocr(features, auxiliary)), auxiliary)


class OVeNet(nn.Module):
    """The Offset Vector Network; without an offset head, the baseline that it is built on.

    Args:
        backbone, semantic_head, offset_head: the parts, built outside and handed in (see `build`).
        config: how they work together: fuse_probabilities, refinement_steps, seed_align_corners (see `resampling`) and
            what is frozen. With fuse_probabilities the auxiliary output stays logits, and the outputs are
            log-probabilities.
    """

    def __init__(
        self,
        backbone: HRNet,
        semantic_head: nn.Module,
        offset_head: OffsetHead | None = None,
        config: NetworkConfig = NetworkConfig(),  # noqa: B008 (frozen)
    ):
        super().__init__()
        if config.freeze_backbone and offset_head is None:
            fix = "set branch_stage to 4, 3 or 2"
            raise ConfigError("freeze_backbone", "True without an offset head", "an offset head to train", fix)
        self.config = config
        self.backbone, self.semantic_head, self.offset_head = backbone, semantic_head, offset_head
        for part in (backbone, semantic_head):
            part.requires_grad_(not config.freeze_backbone)

    def forward(self, image: Float[Tensor, "batch 3 height width"], min_side: int = MIN_SIDE) -> Prediction:
        """Map an image (RGB, normalised with the ImageNet mean and deviation) to the named outputs (section 3.2).

        It has `min_side` pixels or more on each side; in evaluation mode the network itself takes any image.
        """
        check_image(image, min_side)
        features = self.backbone(image)
        initial = self.semantic_head(features[4])  # C
        if self.offset_head is None:
            return Prediction(initial, align_corners=self.backbone.align_corners)
        offsets, confidence_logits = self.offset_head(features[self.offset_head.branch_stage - 1])  # o, F
        return self.resample_and_fuse(initial, offsets, confidence_logits)  # C_s, C_f

    def resample_and_fuse(self, initial: Logits, offsets: Tensor, confidence_logits: Tensor) -> Prediction:
        """Predict from the seed pixels and fuse with the initial prediction (equations 2 to 4), all in float32."""
        convention = {"align_corners": self.config.seed_align_corners}
        with float32_region(offsets.device):
            offsets = refine(offsets, self.config.refinement_steps, **convention)
            seeds = seed_positions(offsets, **convention)  # q = p + o(p)
            if self.config.fuse_probabilities:
                initial = replace(initial, main=initial.main.softmax(dim=1))
            seed = initial.map(lambda c: resample(c, seeds, **convention))
            confidence = confidence_logits.sigmoid()
            fused = initial.map(lambda c, c_s: fuse(c, c_s, confidence), seed)
            if self.config.fuse_probabilities:
                initial, seed, fused = (replace(x, main=log(x.main)) for x in (initial, seed, fused))
        conventions = self.backbone.align_corners, self.config.seed_align_corners
        return Prediction(initial, seed, fused, offsets, confidence_logits, *conventions)

    def train(self, mode: bool = True) -> "OVeNet":
        super().train(mode)
        if self.config.freeze_backbone and not self.config.frozen_in_training_mode:
            self.backbone.eval()
            self.semantic_head.eval()
        if self.config.freeze_batchnorm:
            for module in self.modules():
                if isinstance(module, nn.modules.batchnorm._BatchNorm):
                    module.eval()
        return self


def log(probabilities: LogitMap) -> LogitMap:
    """Take the logarithm; below the smallest normal number the gradient is zero, never infinite."""
    return probabilities.clamp_min(torch.finfo(probabilities.dtype).tiny).log()


def check_image(image: Tensor, min_side: int) -> None:
    """Raise ConfigError unless the image is large enough for four resolutions."""
    height, width = image.shape[-2:]
    if min(height, width) < min_side:
        expected = f"{min_side} pixels or more on each side"
        raise ConfigError("image", f"{height}x{width} (height x width)", expected, "upsample or pad it")


def build(
    num_classes: int = 19,
    config: NetworkConfig | None = None,
    *,
    checkpointing: bool = False,
    channels_last: bool = True,
    ocr_channels: int = 512,
    ocr_key_channels: int = 256,
    backbone_modules: Mapping[int, int] = BACKBONE_MODULES,
    offset_modules: Mapping[int, int] = OFFSET_MODULES,
    **fields: Any,
) -> OVeNet:
    """Build HRNet, HRNet+OCR, OVeNet (HRNet) or OVeNet (HRNet+OCR).

    Args:
        num_classes: channels of the semantic head (19, 150, 11).
        config: the network; by default OVeNet (HRNet) of Table 1.
        checkpointing: recompute activations in the backward pass instead of keeping them; the results are the same.
        channels_last: the memory format of the weights, hence of all maps; a tenth to a quarter faster.
        ocr_channels, ocr_key_channels: see `OCR`.
        backbone_modules, offset_modules: high-resolution modules per stage; fewer make a small network for tests.
        fields: fields of the config to change, such as `backbone="hrnet_ocr"`; a ConfigError names one
            that does not exist or is out of its range.
    """
    config = replace(config or NetworkConfig(), **fields)
    with_ocr = config.backbone == "hrnet_ocr"
    align_corners = with_ocr if config.align_corners is None else config.align_corners
    backbone = HRNet(config.width, config.blocks, align_corners, backbone_modules)
    if with_ocr:
        semantic_head = OCRHead(backbone, num_classes, ocr_channels, ocr_key_channels)
    else:
        semantic_head = HRNetHead(backbone, num_classes)
    offset_head = None
    if config.branch_stage is not None:
        offset_head = OffsetHead(backbone, config.branch_stage, config.tau, offset_modules)
    network = OVeNet(backbone, semantic_head, offset_head, config)
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.momentum = config.batchnorm_momentum
    recompute_activations(network, ALWAYS_RECOMPUTED)
    if checkpointing:
        recompute_activations(network, CHECKPOINTED)
    return network.to(memory_format=torch.channels_last if channels_last else torch.contiguous_format)
