"""Names of published PVT weights. Stages count from 1 in the original and from 0 elsewhere; timm has no PVT."""

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
