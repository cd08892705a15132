"""Names of published PVT v2 weights. Stages count from 1 in the original and from 0 elsewhere; ours are timm's."""

from vitrail.weights.rules import Drop, Rule

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
