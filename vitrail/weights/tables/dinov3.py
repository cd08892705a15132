"""Names of DINOv3 weights: timm, transformers (on disk and in memory) and the original's."""

from typing import Any

from vitrail.models.dinov3 import VARIANTS
from vitrail.weights.clues import Clues
from vitrail.weights.preprocessing import IMAGENET, Preprocessing
from vitrail.weights.rules import Drop, Rule
from vitrail.weights.tables import _assumed, _infer_vit, vit

Table = tuple[Rule | Drop, ...]
AGAIN = "made again from the base of the periods; the original's are rounded to bfloat16"


def transformers(prefix: str, gated: bool) -> Table:
    b, ours = f"{prefix}layer.{{i}}.", "blocks.{i}."
    mlp = [("gate_proj", "up_proj")] if gated else []
    first = (
        Rule(tuple(f"{b}mlp.{x}.{{p}}" for x in mlp[0]), f"{ours}mlp.w12.{{p}}", "fuse")
        if mlp
        else Rule(f"{b}mlp.up_proj.{{p}}", f"{ours}mlp.fc1.{{p}}")
    )
    return (
        Drop("embeddings.mask_token", vit.MASK),
        Rule("embeddings.cls_token", "tokens", "row"),
        Rule("embeddings.register_tokens", "registers", "row"),
        Rule("embeddings.patch_embeddings.{p}", "patch_embed.proj.{p}"),
        Rule(tuple(f"{b}attention.{x}_proj.weight" for x in "qkv"), f"{ours}attn.qkv.weight", "fuse"),
        *(Rule(f"{b}attention.{x}_proj.bias", f"{ours}attn.qkv.{x}_bias") for x in "qv"),
        Rule(f"{b}attention.o_proj.{{p}}", f"{ours}attn.proj.{{p}}"),
        *(Rule(f"{b}norm{k}.{{p}}", f"{ours}norm{k}.{{p}}") for k in (1, 2)),
        *(Rule(f"{b}layer_scale{k}.lambda1", f"{ours}ls{k}.gamma") for k in (1, 2)),
        first,
        Rule(f"{b}mlp.down_proj.{{p}}", f"{ours}mlp.{'w3' if gated else 'fc2'}.{{p}}"),
        Rule("norm.{p}", "norm.{p}"),
        Rule("classifier.{p}", "heads.0.{p}"),
    )


def gated(first: str, second: str, last: str) -> Table:
    b, ours = "blocks.{i}.mlp.", "blocks.{i}.mlp."
    pair = (f"{b}{first}.{{p}}", f"{b}{second}.{{p}}")
    return Rule(pair, f"{ours}w12.{{p}}", "fuse"), Rule(f"{b}{last}.{{p}}", f"{ours}w3.{{p}}")


BIASES = (Rule("blocks.{i}.attn.{x}_bias", "blocks.{i}.attn.qkv.{x}_bias"),)
TIMM = (*vit.TOKEN[:1], *vit.REGISTERS, *vit.SCALES[1:], *BIASES)
ORIGINAL: Table = (
    Drop("mask_token", vit.MASK),
    Drop("rope_embed.periods", AGAIN),
    Drop("{rest}.bias_mask", "keys have no bias here"),
    Drop("local_cls_norm.{p}", "a norm of pre-training, unused afterwards"),
    *vit.TOKEN[:1],
    Rule("storage_tokens", "registers", "row"),
    *vit.SCALES[:1],
    Rule("blocks.{i}.attn.qkv.bias", ("blocks.{i}.attn.qkv.q_bias", "blocks.{i}.attn.qkv.v_bias"), "keyless"),
)

SOURCES: dict[str, Table] = {
    "timm": (*TIMM, *vit.TRUNK, *vit.HEAD),
    "timm:swiglu": (*TIMM, *gated("fc1_g", "fc1_x", "fc2"), *vit.TRUNK, *vit.HEAD),
    "transformers": transformers("", False),
    "transformers:swiglu": transformers("", True),
    "transformers:live": transformers("model.", False),
    "transformers:live-swiglu": transformers("model.", True),
    "original": (*ORIGINAL, *vit.TRUNK, *vit.HEAD),
    "original:swiglu": (*ORIGINAL, *gated("w1", "w2", "w3"), *vit.TRUNK, *vit.HEAD),
}
# of weights trained on photographs; those of satellite images ("sat493m") have mean 0.43 0.411 0.296 and std 0.213
# 0.156 0.143
PREPROCESSING: dict[str, Preprocessing] = {
    "timm": IMAGENET._replace(crop_ratio=1.0),
    "transformers": IMAGENET._replace(resize_mode="stretch", crop_ratio=1.0, interpolation="bilinear"),
    "original": IMAGENET,
}

CONFIG_NAMES = {k: v for k, v in _infer_vit.CONFIG_NAMES.items() if k in vars(VARIANTS["small"])}
ASSUME = _assumed.dinov3


def infer(clues: Clues) -> dict[str, Any] | None:
    """The config that a file shows: no position table, and LayerScale."""
    fields = _infer_vit.infer(clues, VARIANTS)
    if fields is None or clues.has("position.table") or fields["layer_scale"] is None or fields["tokens"] != 1:
        return None
    if not fields["registers"]:  # timm's ViTs with other rotations
        return None
    own = {k: v for k, v in fields.items() if k in vars(VARIANTS["small"])}
    if clues.source.startswith("timm") and not clues.sidecar.kind:
        own["pool"] = "mean"  # as timm's models have it, and the files beside its weights say
    return {**own, "qkv_bias": clues.has("blocks.0.attn.qkv.q_bias")}
