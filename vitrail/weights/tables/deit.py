"""Names of published DeiT and DeiT III weights. The original writes its LayerScale gamma_1 where timm writes
ls1.gamma."""

from typing import Any

from vitrail.models.deit import VARIANTS
from vitrail.weights.clues import Clues
from vitrail.weights.preprocessing import IMAGENET, Preprocessing
from vitrail.weights.rules import Drop, Rule
from vitrail.weights.tables import _infer_vit, vit
from vitrail.weights.tables._infer_vit import CONFIG_NAMES as CONFIG_NAMES

Table = tuple[Rule | Drop, ...]

TOKENS = (Rule(("cls_token", "dist_token"), "tokens", ("row", "fuse")), *vit.TOKEN)
HEADS = (Rule("head.{p}", "heads.0.{p}"), Rule("head_dist.{p}", "heads.1.{p}"))
TRUNK = (*TOKENS, *vit.STEM, *vit.BLOCKS, Rule("norm.{p}", "norm.{p}"), *HEADS)


def transformers(disk: bool) -> Table:
    both = tuple(
        Rule((f"{p}embeddings.cls_token", f"{p}embeddings.distillation_token"), "tokens", ("row", "fuse"))
        for p in ("deit.", "")
    )
    heads = (Rule("cls_classifier.{p}", "heads.0.{p}"), Rule("distillation_classifier.{p}", "heads.1.{p}"))
    return (*both, *heads, *vit.transformers(disk, ("deit.", "")))


SOURCES: dict[str, Table] = {
    "timm": TRUNK,
    "timm:3": (Rule("blocks.{i}.ls{k}.gamma", "blocks.{i}.ls{k}.gamma"), *TRUNK),
    "original": TRUNK,
    "original:3": (Rule("blocks.{i}.gamma_{k}", "blocks.{i}.ls{k}.gamma"), *TRUNK),
    "transformers": transformers(True),
    "transformers:live": transformers(False),
}
PREPROCESSING: dict[str, Preprocessing] = {
    "timm": IMAGENET._replace(crop_ratio=0.9),
    "timm:3": IMAGENET._replace(crop_ratio=1.0),
    "original": IMAGENET,
    "original:3": IMAGENET._replace(crop_ratio=1.0),
    "transformers": IMAGENET,
}
SETTINGS: dict[str, dict[str, Any]] = {"timm": {"position_resampling": "antialias"}, "transformers": {"eps": 1e-12}}


def infer(clues: Clues) -> dict[str, Any] | None:
    """The config that a file shows."""
    return _infer_vit.infer(clues, VARIANTS)
