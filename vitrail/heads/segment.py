"""Segmentation: a class for every pixel, from the maps of any backbone and one of several heads."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

from torch import Tensor, nn

from vitrail.contracts import HeadedModel
from vitrail.errors import UsageError
from vitrail.heads.blocks import Classify, NormKind, initialise, map_norm, resize_map
from vitrail.heads.fpn import Progressive, SemanticFPN, count_doublings
from vitrail.heads.mask_transformer import MaskTransformer
from vitrail.heads.pyramid import Last, Pyramid, SimplePyramid, Skips
from vitrail.heads.unused_parameters import freeze_unused_parameters
from vitrail.heads.upernet import Auxiliary, UPerNet
from vitrail.shapes import Float

HeadKind = Literal["linear", "fpn", "pup", "upernet", "mask"]
WIDTHS = {"fpn": 256, "pup": 256, "upernet": 512}


@dataclass(frozen=True)
class HeadConfig:
    """The head on a backbone. width: 0 is the published one, for "mask" the last map's. norm: "auto" is group norm,
    which does not depend on batch size or number of processes; none before "linear". auxiliary: with "upernet" a second
    head for training. neck: "simple" is ViTDet's pyramid of a plain ViT's last map, for "fpn" and "upernet"."""

    kind: HeadKind
    classes: int
    width: int = 0
    norm: NormKind | Literal["auto"] = "auto"
    dropout: float = 0.1
    auxiliary: bool = False
    neck: Literal["auto", "simple"] = "auto"


class Segmenter(HeadedModel):
    """Images [B C H W] -> logits [B K H W], in training and out of it alike.

    Parameters of the backbone that no logit depends on, such as those of its summaries, are frozen.
    """

    def __init__(self, backbone: Any, head: HeadConfig):
        check_config(head)
        super().__init__(backbone, head.classes)
        neck = neck_of(head, backbone)
        parts = {"neck": neck, "main": head_of(head, neck)}
        if head.auxiliary:
            parts["auxiliary"] = Auxiliary(
                neck.widths, head.classes, max(1, width_of(head, neck) // 2), norm_of(head), head.dropout
            )
        self.heads = nn.ModuleDict(parts)
        self.strides = {"main": stride_of(head, neck), "auxiliary": neck.strides[-2:][0]}
        if head.kind != "mask":
            initialise(self.heads)
        freeze_unused_parameters(backbone, neck.sources)

    def forward(self, images: Float[Tensor, "B C H W"]) -> Float[Tensor, "B K H W"]:
        return self.run_head("main", self.maps(images), images)

    def forward_all(self, images: Float[Tensor, "B C H W"]) -> tuple[Tensor, Tensor | None]:
        """The logits and those of the auxiliary head, where there is one, for the training loss."""
        maps = self.maps(images)
        second = self.run_head("auxiliary", maps, images) if "auxiliary" in self.heads else None
        return self.run_head("main", maps, images), second

    def maps(self, images: Tensor) -> list[Tensor]:
        return self.heads["neck"](self.backbone(images).maps)

    def run_head(self, name: str, maps: Sequence[Tensor], images: Float[Tensor, "B C H W"]) -> Float[Tensor, "B K H W"]:
        """The logits of a head, one for every pixel; the padding to whole cells is cropped."""
        logits = self.heads[name](maps)  # [B K h w]
        size, cell = images.shape[2:], max(self.backbone.strides)
        covered = [round(cells * self.strides[name]) for cells in logits.shape[2:]]
        whole = [c if side <= c < side + cell else side for side, c in zip(size, covered, strict=True)]
        return resize_map(logits, whole)[:, :, : size[0], : size[1]]


def check_config(head: HeadConfig) -> None:
    """Errors: `UsageError` for settings that a head does not use."""
    if head.kind == "linear" and head.width:
        raise UsageError(f"head linear has no hidden layer, so width {head.width} has no effect", "leave width out")
    if head.kind == "mask" and head.norm != "auto":
        raise UsageError(f"head mask has norms of its own, so norm {head.norm!r} has no effect", "leave norm out")
    if head.neck == "simple" and head.kind not in ("fpn", "upernet"):
        raise UsageError(f"head {head.kind} reads no pyramid, so neck simple has no effect", "leave neck out")
    if head.auxiliary and head.kind != "upernet":
        raise UsageError(f"head {head.kind} has no auxiliary head", 'use head="upernet"')


def neck_of(head: HeadConfig, backbone: Any) -> Any:
    widths, strides = backbone.map_widths, backbone.strides
    if head.kind in ("linear", "mask"):
        return Last(widths, strides)
    if head.kind == "pup":
        return Skips(widths, strides, count_doublings(strides[-1]))
    if head.neck == "simple":
        return SimplePyramid(widths, strides, head.width or WIDTHS["fpn"])
    return Pyramid(widths, strides, norm_of(head))


def head_of(head: HeadConfig, neck: Any) -> nn.Module:
    """The module from the maps of `neck` to logits."""
    widths, classes, width, norm, dropout = neck.widths, head.classes, width_of(head, neck), norm_of(head), head.dropout
    if head.kind == "linear":
        return Linear(width, classes, norm, dropout)
    if head.kind == "mask":
        return MaskTransformer(widths, classes, width, dropout, neck.strides[-1])
    if head.kind == "pup":
        return Progressive(widths, neck.strides[-1], classes, width, norm, dropout)
    return (SemanticFPN if head.kind == "fpn" else UPerNet)(widths, classes, width, norm, dropout)


class Linear(nn.Module):
    """The last map -> logits [B K h w]: a linear layer over the channels of every cell, with "batch" after a norm as in
    DINOv2 (Oquab et al. 2023, section 7.4)."""

    def __init__(self, width: int, classes: int, norm: NormKind, dropout: float):
        super().__init__()
        self.norm = map_norm(norm, width)
        self.classify = Classify(width, classes, dropout)

    def forward(self, maps: Sequence[Float[Tensor, "B _ _ _"]]) -> Float[Tensor, "B K h w"]:
        return self.classify(self.norm(maps[-1]))


def width_of(head: HeadConfig, neck: Any) -> int:
    return head.width or WIDTHS.get(head.kind, neck.widths[-1])


def norm_of(head: HeadConfig) -> NormKind:
    if head.norm == "auto":
        return "none" if head.kind == "linear" else "group"
    return head.norm


def stride_of(head: HeadConfig, neck: Any) -> float:
    """The stride of the logits in pixels."""
    return neck.strides[-1] / 2 ** count_doublings(neck.strides[-1]) if head.kind == "pup" else neck.strides[0]
