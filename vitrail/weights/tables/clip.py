"""Names of the image towers of CLIP: timm, transformers (a tower, or the whole model, whose text tower is left out),
OpenAI's own and OpenCLIP's."""

from typing import Any

from vitrail.models.clip import VARIANTS
from vitrail.weights import open_clip
from vitrail.weights.clues import Clues, Open
from vitrail.weights.preprocessing import OPENAI, Preprocessing
from vitrail.weights.rules import Drop, Rule
from vitrail.weights.tables import _infer_vit, vit
from vitrail.weights.tables._infer_vit import CONFIG_NAMES as CONFIG_NAMES

Table = tuple[Rule | Drop, ...]
TEXT = "the text tower, which an image model has not"


def tower(p: str) -> list[Rule | Drop]:
    """A tower of transformers whose names begin with `p`; in memory and on disk alike. Those of SigLIP too."""
    b, ours = f"{p}encoder.layers.{{i}}.", "blocks.{i}."
    return [
        Drop(f"{p}embeddings.position_ids", "made again from the size of the grid"),
        Rule(f"{p}embeddings.position_embedding.weight", "position.table"),
        Rule(f"{p}embeddings.patch_embedding.{{p}}", "patch_embed.proj.{p}"),
        Rule(tuple(f"{b}self_attn.{x}_proj.{{p}}" for x in "qkv"), f"{ours}attn.qkv.{{p}}", "fuse"),
        Rule(f"{b}self_attn.out_proj.{{p}}", f"{ours}attn.proj.{{p}}"),
        *(Rule(f"{b}layer_norm{k}.{{p}}", f"{ours}norm{k}.{{p}}") for k in (1, 2)),
        *(Rule(f"{b}mlp.fc{k}.{{p}}", f"{ours}mlp.fc{k}.{{p}}") for k in (1, 2)),
        Rule(f"{p}post_layernorm.{{p}}", "norm.{p}"),
    ]


def transformers(p: str) -> Table:
    return (
        Drop("text_model.{rest}", TEXT),
        Drop("text_projection.weight", TEXT),
        Drop("logit_scale", TEXT),
        Rule(f"{p}embeddings.class_embedding", "tokens", "vector"),
        *tower(p),
        Rule(f"{p}pre_layrnorm.{{p}}", "norm_pre.{p}"),
        Rule("visual_projection.weight", "pre_logits.0.weight"),
    )


def original(p: str) -> Table:
    b, ours = f"{p}transformer.resblocks.{{i}}.", "blocks.{i}."
    text = ("transformer.{rest}", "token_embedding.{rest}", "ln_final.{rest}", "positional_embedding",
            "text_projection", "logit_scale", "logit_bias", "attn_mask")  # fmt: skip
    numbers = ("input_resolution", "context_length", "vocab_size")
    return (
        Rule(f"{p}class_embedding", "tokens", "vector"),
        Rule(f"{p}positional_embedding", "position.table"),
        Rule(f"{p}conv1.weight", "patch_embed.proj.weight"),
        Rule(f"{p}ln_pre.{{p}}", "norm_pre.{p}"),
        Rule(f"{b}attn.in_proj_{{p}}", f"{ours}attn.qkv.{{p}}"),
        Rule(f"{b}attn.out_proj.{{p}}", f"{ours}attn.proj.{{p}}"),
        *(Rule(f"{b}ln_{k}.{{p}}", f"{ours}norm{k}.{{p}}") for k in (1, 2)),
        Rule(f"{b}mlp.c_fc.{{p}}", f"{ours}mlp.fc1.{{p}}"),
        Rule(f"{b}mlp.c_proj.{{p}}", f"{ours}mlp.fc2.{{p}}"),
        Rule(f"{p}ln_post.{{p}}", "norm.{p}"),
        Rule(f"{p}proj", "pre_logits.0.weight", "linear"),
        *(Drop(name, TEXT) for name in text if p),
        *(Drop(name, TEXT) for name in ("text.{rest}", "text_projection.{p}") if p),  # OpenCLIP's, of other classes
        *(Drop(name, "a number that the shapes have too") for name in numbers if p),
    )


SOURCES: dict[str, Table] = {
    "timm": (Rule("norm_pre.{p}", "norm_pre.{p}"), *vit.SOURCES["timm"]),
    "transformers": transformers("vision_model."),
    "transformers:tower": transformers(""),
    "original": original("visual."),
    "original:tower": original(""),
}
PREPROCESSING: dict[str, Preprocessing] = {
    "timm": OPENAI,  # of towers at their own size; of those fine-tuned to ImageNet the crop is between 0.9 and 1.0
    "transformers": OPENAI,
    "original": OPENAI,
}
SETTINGS: dict[str, dict[str, Any]] = {"timm": {"position_resampling": "antialias"}}


def infer(clues: Clues) -> dict[str, Any] | None:
    """The config that a file shows."""
    fields = _infer_vit.infer(clues, VARIANTS)
    if fields is None or not fields["norm_pre"]:
        return None
    if open_clip.wrote(clues.sidecar) and clues.source == "original":
        fields |= open_clip.image_fields(clues.sidecar, fields["width"])
    return {"gelu": gelu_of(clues), "pre_logits_act": "none", **fields}


def gelu_of(clues: Clues) -> Any:
    """The form of GELU, which no tensor shows: of OpenAI's own files, by timm's names, or transformers' default."""
    kind = clues.sidecar.kind
    if any(name.endswith("input_resolution") for name in clues.raw) or "quickgelu" in kind:
        return "quick"
    if not kind:
        return Open(("quick", "erf"), "which form of GELU they were trained with")
    return "erf" if clues.sidecar.writer == "timm" else "quick"
