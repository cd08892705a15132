"""Names of published PVT weights. Stages count from 1 in the original and from 0 elsewhere; timm has no PVT."""

from collections.abc import Iterable
from typing import Any

from vitrail.models.pvt import VARIANTS
from vitrail.weights.clues import Clues, likely_heads, ratio, square
from vitrail.weights.rules import Drop, Rule

ORIGINAL = (
    *(Rule(f"patch_embed{i + 1}.proj.{{p}}", f"stages.{i}.patch_embed.proj.{{p}}") for i in range(4)),
    *(Rule(f"patch_embed{i + 1}.norm.{{p}}", f"stages.{i}.patch_norm.{{p}}") for i in range(4)),
    *(Rule(f"pos_embed{i + 1}", f"stages.{i}.position.table", "row") for i in range(4)),
    *(Rule(f"block{i + 1}.{{rest}}", f"stages.{i}.blocks.{{rest}}") for i in range(4)),
    Rule("cls_token", "stages.3.tokens", "row"),
    Rule("norm.{p}", "norm.{p}"),
    Rule("head.{p}", "heads.0.{p}"),
)

THEIRS, OURS = "pvt.encoder.block.{i}.{j}", "stages.{i}.blocks.{j}"
TRANSFORMERS = (
    Rule("pvt.encoder.patch_embeddings.{i}.projection.{p}", "stages.{i}.patch_embed.proj.{p}"),
    Rule("pvt.encoder.patch_embeddings.{i}.layer_norm.{p}", "stages.{i}.patch_norm.{p}"),
    Rule("pvt.encoder.patch_embeddings.{i}.position_embeddings", "stages.{i}.position.table", "row"),
    Rule("pvt.encoder.patch_embeddings.{i}.cls_token", "stages.{i}.tokens", "row"),
    Rule(f"{THEIRS}.layer_norm_1.{{p}}", f"{OURS}.norm1.{{p}}"),
    Rule(f"{THEIRS}.attention.self.query.{{p}}", f"{OURS}.attn.q.{{p}}"),
    Rule(
        (f"{THEIRS}.attention.self.key.{{p}}", f"{THEIRS}.attention.self.value.{{p}}"), f"{OURS}.attn.kv.{{p}}", "fuse"
    ),
    Rule(f"{THEIRS}.attention.self.sequence_reduction.{{p}}", f"{OURS}.attn.sr.{{p}}"),
    Rule(f"{THEIRS}.attention.self.layer_norm.{{p}}", f"{OURS}.attn.norm.{{p}}"),
    Rule(f"{THEIRS}.attention.output.dense.{{p}}", f"{OURS}.attn.proj.{{p}}"),
    Rule(f"{THEIRS}.layer_norm_2.{{p}}", f"{OURS}.norm2.{{p}}"),
    Rule(f"{THEIRS}.mlp.dense1.{{p}}", f"{OURS}.mlp.fc1.{{p}}"),
    Rule(f"{THEIRS}.mlp.dense2.{{p}}", f"{OURS}.mlp.fc2.{{p}}"),
    Rule("pvt.encoder.layer_norm.{p}", "norm.{p}"),
    Rule("classifier.{p}", "heads.0.{p}"),
)

SOURCES: dict[str, tuple[Rule | Drop, ...]] = {"original": ORIGINAL, "transformers": TRANSFORMERS}

CONFIG_NAMES = {
    "widths": ("hidden_sizes", "model_args.embed_dims"),
    "depths": ("depths", "model_args.depths"),
    "heads": ("num_attention_heads", "model_args.num_heads"),
    "reductions": ("sequence_reduction_ratios", "sr_ratios", "model_args.sr_ratios"),
    "channels": ("num_channels", "model_args.in_chans"),
    "qkv_bias": ("qkv_bias", "model_args.qkv_bias"),
    "eps": ("layer_norm_eps",),
    "inner_eps": ("layer_norm_eps",),  # transformers has one for all
}
SETTINGS: dict[str, dict[str, Any]] = {"transformers": {"inner_eps": 1e-6}}


def infer(clues: Clues) -> dict[str, Any] | None:
    """The config that a file shows."""
    fields = stage_fields(clues, VARIANTS.values())
    kernels = clues.stage_shapes("stages.{}.patch_embed.proj.weight")
    table = clues.shape("stages.0.position.table")
    if fields is None or any(len(k) != 4 for k in kernels) or len(table) != 2:
        return None
    patch, stated = kernels[0][2], clues.stated_size()
    grid = square(table[0])
    if stated is not None and (stated[0] // patch) * (stated[1] // patch) == table[0]:
        grid = (stated[0] // patch, stated[1] // patch)
    if grid is None:
        return None
    return {**fields, "patch": patch, "channels": kernels[0][1], "size": (grid[0] * patch, grid[1] * patch)}


def stage_fields(clues: Clues, variants: Iterable[Any]) -> dict[str, Any] | None:
    """What both PVTs have: widths, depths, and reductions by the kernels of the reducing convolutions."""
    queries = clues.stage_shapes("stages.{}.blocks.0.attn.q.weight")
    hidden = clues.stage_shapes("stages.{}.blocks.0.mlp.fc1.weight")
    depths = tuple(clues.count(f"stages.{s}.blocks.") for s in range(4))
    if any(len(t) != 2 for t in (*queries, *hidden)) or min(depths) < 1:
        return None
    clues.check_activation(("gelu",))
    widths = tuple(q[0] for q in queries)
    kernels = clues.stage_shapes("stages.{}.blocks.0.attn.sr.weight")
    return {
        "widths": widths,
        "depths": depths,
        "heads": likely_heads(widths, variants),
        "mlp_ratios": tuple(ratio(h[0], width) for h, width in zip(hidden, widths, strict=True)),
        "reductions": tuple(k[2] if len(k) == 4 else 1 for k in kernels),
        "qkv_bias": clues.has("stages.0.blocks.0.attn.q.bias"),
    }
