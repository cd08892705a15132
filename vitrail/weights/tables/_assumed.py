"""The mean and std of bare files: weights of several origins have the same names, and what tells them apart is a head,
a bias or a register; where nothing does, the other values are named."""

from collections.abc import Mapping
from typing import Any

from vitrail.weights.clues import Clues
from vitrail.weights.preprocessing import HALF, IMAGENET, Assumed, Preprocessing

UNIT = Preprocessing((0.0,) * 3, (1.0,) * 3)
SATELLITE = Preprocessing((0.43, 0.411, 0.296), (0.213, 0.156, 0.143))
NAMED_ALIKE = ("timm", "original")  # sources whose files have no preprocessing of their own
HUGE = 1280  # the least width of I-JEPA's models


def vit(clues: Clues, fields: Mapping[str, Any], usual: Preprocessing) -> Assumed:
    """Of timm's plain ViTs, and of originals with the same names."""
    if clues.source.partition(":")[0] != "timm":
        return Assumed(usual, clues.source)
    plain = fields["layer_scale"] is None and not fields["registers"]
    if fields["tokens"] and fields["registers"] == 1:
        return with_values(usual, UNIT, "TIPS v2")
    if fields["tokens"] and plain and not fields["qkv_bias"]:
        return with_values(usual, UNIT, "MIIL")
    if not fields["tokens"]:
        ijepa = plain and not fields["fc_norm"] and fields["width"] >= HUGE
        return with_values(usual, *((IMAGENET, "I-JEPA") if ijepa else (HALF, "timm's ViTs without a class token")))
    if clues.source == "timm":
        if clues.has("heads.0.weight"):
            return with_values(usual, HALF, "Google's ViTs", IMAGENET, "DeiT, DINO and MAE")
        return with_values(usual, IMAGENET, "DINO and MAE, which have no head", HALF, "Google's ViTs")
    return Assumed(usual, clues.source)


def beit(clues: Clues, fields: Mapping[str, Any], usual: Preprocessing) -> Assumed:
    if clues.source not in NAMED_ALIKE:
        return Assumed(usual, clues.source)
    return Assumed(usual, "BEiT", (IMAGENET.mean, IMAGENET.std), "BEiT v2")


def dinov3(clues: Clues, fields: Mapping[str, Any], usual: Preprocessing) -> Assumed:
    if clues.source.partition(":")[0] not in NAMED_ALIKE:
        return Assumed(usual, clues.source)
    return Assumed(usual, "weights for photographs", (SATELLITE.mean, SATELLITE.std), "satellite images (sat493m)")


def with_values(
    usual: Preprocessing, own: Preprocessing, whose: str, other: Preprocessing | None = None, others: str = ""
) -> Assumed:
    """Mean and std of `own`, the rest as usual."""
    values = None if other is None else (other.mean, other.std)
    return Assumed(usual._replace(mean=own.mean, std=own.std), whose, values, others)
