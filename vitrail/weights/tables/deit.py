"""Names of published DeiT and DeiT III weights. The original writes its LayerScale gamma_1 where timm writes
ls1.gamma."""

from typing import Any

from vitrail.models.deit import VARIANTS
from vitrail.weights.clues import Clues, Open
from vitrail.weights.preprocessing import IMAGENET, Preprocessing
from vitrail.weights.rules import Drop, Rule
from vitrail.weights.tables import _infer_vit, vit
from vitrail.weights.tables._infer_vit import CONFIG_NAMES as CONFIG_NAMES
from vitrail.weights.tables._infer_vit import ROPE, ROTATED

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
    "timm:3": (*vit.SCALES[:1], *TRUNK),
    "original": TRUNK,
    "original:3": (*vit.SCALES[1:], *TRUNK),
    ROPE: (*vit.SCALES[1:], *TRUNK),  # after the source that has the same names
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
    """The config that a file shows. Rotations of queries and keys have no tensors: without a position table they are
    the positions, beside one only a name says them; the tensors are then those of the original's DeiT III."""
    fields = _infer_vit.infer(clues, VARIANTS)
    if fields is None or clues.source not in (ROPE, "original:3"):
        return fields
    table, rotated = clues.has("position.table"), ROTATED in clues.sidecar.kind
    if (clues.source == ROPE) != (rotated or not table) or fields["tokens"] != 1 or fields["layer_scale"] is None:
        return None
    if clues.source == ROPE:
        return {**fields, "position": "learned_rope" if table else "rope", "position_tokens": False}
    same = VARIANTS["rope_ape_base"]
    if clues.sidecar.kind or (fields["patch"], fields.get("size")) != (same.patch, same.size):
        return fields
    return {**fields, "position": Open(("learned", "learned_rope"), "whether queries and keys are rotated as well")}
