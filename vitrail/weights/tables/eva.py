"""Names of EVA, EVA-02 and EVA-CLIP weights: timm and the original's."""

from typing import Any

from vitrail.models.eva import VARIANTS
from vitrail.weights.clues import Clues
from vitrail.weights.preprocessing import OPENAI, Preprocessing
from vitrail.weights.rules import Drop, Rule
from vitrail.weights.tables import _infer_vit, vit
from vitrail.weights.tables.beit import INDEX, WORDS, biases
from vitrail.weights.tables.dinov3 import gated

Table = tuple[Rule | Drop, ...]
AGAIN = "made again from the size of the grid"
ATTENTION = "blocks.{i}.attn."
FUSED = biases("{x}_bias")
SPLIT: Table = (
    Rule(tuple(f"{ATTENTION}{x}_proj.weight" for x in "qkv"), f"{ATTENTION}qkv.weight", "fuse"),
    Rule(f"{ATTENTION}{{x}}_proj.bias", f"{ATTENTION}qkv.{{x}}_bias"),
)
GATED, GATED_02 = gated("fc1_g", "fc1_x", "fc2"), gated("w1", "w2", "w3")
MLP_NORM_02 = (Rule("blocks.{i}.mlp.ffn_ln.{p}", "blocks.{i}.mlp.norm.{p}"),)
DROPPED: Table = (
    Drop("mask_token", vit.MASK),
    Drop("lm_head.{p}", WORDS),
    Drop("rope.{p}", AGAIN),
    Drop("{rest}.rope.{p}", AGAIN),
    INDEX,
)


def before_projection(norm: str) -> Table:
    """The norm before the projection of the attention."""
    return (Rule(f"{ATTENTION}{norm}.{{p}}", f"{ATTENTION}proj.norm.{{p}}"),)


def table(blocks: Table) -> Table:
    return (*vit.TOKEN, *blocks, Rule("fc_norm.{p}", "fc_norm.{p}"), *vit.TRUNK, *vit.HEAD)


SOURCES: dict[str, Table] = {
    "timm": table(FUSED),
    "timm:packed": table((*FUSED, *vit.PACKED)),
    "timm:swiglu": table((*SPLIT, *GATED)),
    "timm:clip": table((*SPLIT, *GATED, *before_projection("norm"))),
    "original": (*DROPPED, *table(FUSED)),
    "original:swiglu": (*DROPPED, *table((*SPLIT[:1], *FUSED, *GATED_02, *MLP_NORM_02))),
    "original:clip": (
        *DROPPED,
        *table((*SPLIT[:1], *FUSED, *GATED_02, *MLP_NORM_02, *before_projection("inner_attn_ln"))),
    ),
}
PREPROCESSING: dict[str, Preprocessing] = {"timm": OPENAI, "original": OPENAI}  # of some giants ImageNet's
SETTINGS: dict[str, dict[str, Any]] = {"timm": {"position_resampling": "antialias"}}

CONFIG_NAMES = {k: v for k, v in _infer_vit.CONFIG_NAMES.items() if k in vars(VARIANTS["giant"])}


def infer(clues: Clues) -> dict[str, Any] | None:
    """The config that a file shows: queries and values with a bias of their own, and a position table."""
    fields = _infer_vit.infer(clues, VARIANTS)
    if fields is None or not clues.has("position.table") or not clues.has("blocks.0.attn.qkv.q_bias"):
        return None
    own = {k: v for k, v in fields.items() if k in vars(VARIANTS["giant"])}
    norms: dict[str, Any] = {
        "mlp_norm": clues.has("blocks.0.mlp.norm.weight"),
        "attention_norm": clues.has("blocks.0.attn.proj.norm.weight"),
    }
    largest = VARIANTS["02_enormous_clip"]  # whose place of norms only its size shows
    if (own["width"], own["depth"]) == (largest.width, largest.depth):
        norms["norm_at"] = largest.norm_at
    return {**own, **norms, "qkv_bias": True, "rope": fields["mlp"] == "swiglu"}
