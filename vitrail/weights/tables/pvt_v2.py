"""Names of published PVT v2 weights. Stages count from 1 in the original and from 0 elsewhere; ours are timm's."""

from typing import Any

from vitrail.models.pvt_v2 import VARIANTS
from vitrail.weights.clues import Clues
from vitrail.weights.rules import Drop, Rule
from vitrail.weights.tables import pvt

TIMM = (
    Rule("patch_embed.{rest}", "patch_embed.{rest}"),
    Rule("stages.{rest}", "stages.{rest}"),
    Rule("head.{p}", "heads.0.{p}"),
)

ORIGINAL = (
    Rule("patch_embed1.{rest}", "patch_embed.{rest}"),
    *(Rule(f"patch_embed{i + 1}.{{rest}}", f"stages.{i}.downsample.{{rest}}") for i in (1, 2, 3)),
    *(
        Rule(f"block{i + 1}.{{j}}.mlp.dwconv.dwconv.{{p}}", f"stages.{i}.blocks.{{j}}.mlp.dwconv.{{p}}")
        for i in range(4)
    ),
    *(Rule(f"block{i + 1}.{{rest}}", f"stages.{i}.blocks.{{rest}}") for i in range(4)),
    *(Rule(f"norm{i + 1}.{{p}}", f"stages.{i}.norm.{{p}}") for i in range(4)),
    Rule("head.{p}", "heads.0.{p}"),
)

THEIRS, OURS = "pvt_v2.encoder.layers.{i}.blocks.{j}", "stages.{i}.blocks.{j}"
TRANSFORMERS = (
    Rule("pvt_v2.encoder.layers.0.patch_embedding.proj.{p}", "patch_embed.proj.{p}"),
    Rule("pvt_v2.encoder.layers.0.patch_embedding.layer_norm.{p}", "patch_embed.norm.{p}"),
    Rule("pvt_v2.encoder.layers.{i}.patch_embedding.proj.{p}", "stages.{i}.downsample.proj.{p}"),
    Rule("pvt_v2.encoder.layers.{i}.patch_embedding.layer_norm.{p}", "stages.{i}.downsample.norm.{p}"),
    Rule(f"{THEIRS}.layer_norm_1.{{p}}", f"{OURS}.norm1.{{p}}"),
    Rule(f"{THEIRS}.attention.query.{{p}}", f"{OURS}.attn.q.{{p}}"),
    Rule((f"{THEIRS}.attention.key.{{p}}", f"{THEIRS}.attention.value.{{p}}"), f"{OURS}.attn.kv.{{p}}", "fuse"),
    Rule(f"{THEIRS}.attention.proj.{{p}}", f"{OURS}.attn.proj.{{p}}"),
    Rule(f"{THEIRS}.attention.spatial_reduction.{{p}}", f"{OURS}.attn.sr.{{p}}"),
    Rule(f"{THEIRS}.attention.layer_norm.{{p}}", f"{OURS}.attn.norm.{{p}}"),
    Rule(f"{THEIRS}.layer_norm_2.{{p}}", f"{OURS}.norm2.{{p}}"),
    Rule(f"{THEIRS}.mlp.dense1.{{p}}", f"{OURS}.mlp.fc1.{{p}}"),
    Rule(f"{THEIRS}.mlp.dwconv.dwconv.{{p}}", f"{OURS}.mlp.dwconv.{{p}}"),
    Rule(f"{THEIRS}.mlp.dense2.{{p}}", f"{OURS}.mlp.fc2.{{p}}"),
    Rule("pvt_v2.encoder.layers.{i}.layer_norm.{p}", "stages.{i}.norm.{p}"),
    Rule("classifier.{p}", "heads.0.{p}"),
)

SOURCES: dict[str, tuple[Rule | Drop, ...]] = {"timm": TIMM, "original": ORIGINAL, "transformers": TRANSFORMERS}

CONFIG_NAMES = {k: v for k, v in pvt.CONFIG_NAMES.items() if k != "reductions"}
SETTINGS: dict[str, dict[str, Any]] = {"transformers": {"inner_eps": 1e-6}}
POOL = 7  # cells along an axis of the keys of every linear variant


def infer(clues: Clues) -> dict[str, Any] | None:
    """The config that a file shows: a linear variant has a 1x1 convolution over its keys in every stage."""
    fields, kernel = pvt.stage_fields(clues, VARIANTS.values()), clues.shape("patch_embed.proj.weight")
    if fields is None or len(kernel) != 4:
        return None
    last = clues.shape("stages.3.blocks.0.attn.sr.weight")
    fields |= {"channels": kernel[1], "pool": POOL if last[2:] == (1, 1) else None}
    if last:
        fields.pop("reductions")
    size = clues.stated_size()
    return {**fields, "size": size} if size else fields
