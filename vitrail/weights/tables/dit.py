"""Names of published DiT weights: the original's, and diffusers', with embeddings of time and class in every block."""

from vitrail.weights.rules import Drop, Rule

Table = tuple[Rule | Drop, ...]
COMPUTED = "a table of sines, which is computed here"
COPY = "identical in every block; the first one is loaded"


def embedding_rules(mlp: str, first: str, second: str, classes: str) -> Table:
    """The embeddings of time and class."""
    return (
        Rule(f"{mlp}{first}.{{p}}", "time.fc1.{p}"),
        Rule(f"{mlp}{second}.{{p}}", "time.fc2.{p}"),
        Rule(f"{classes}embedding_table.weight", "label.weight"),
    )


ORIGINAL: Table = (
    Drop("pos_embed", COMPUTED),
    *embedding_rules("t_embedder.mlp.", "0", "2", "y_embedder."),
    Rule("x_embedder.proj.{p}", "patch_embed.proj.{p}"),
    Rule("blocks.{i}.adaLN_modulation.1.{p}", "blocks.{i}.modulation.linear.{p}"),
    Rule("blocks.{rest}", "blocks.{rest}"),
    Rule("final_layer.adaLN_modulation.1.{p}", "out.modulation.linear.{p}"),
    Rule("final_layer.linear.{p}", "out.linear.{p}"),
)

BLOCK = "transformer_blocks.{i}"
EMBEDDINGS = "transformer_blocks.0.norm1.emb."
DIFFUSERS: Table = (
    *embedding_rules(f"{EMBEDDINGS}timestep_embedder.", "linear_1", "linear_2", f"{EMBEDDINGS}class_embedder."),
    Drop(f"{BLOCK}.norm1.emb.{{rest}}", COPY),
    Rule("pos_embed.proj.{p}", "patch_embed.proj.{p}"),
    Rule(f"{BLOCK}.norm1.linear.{{p}}", "blocks.{i}.modulation.linear.{p}"),
    Rule(tuple(f"{BLOCK}.attn1.to_{x}.{{p}}" for x in "qkv"), "blocks.{i}.attn.qkv.{p}", "fuse"),
    Rule(f"{BLOCK}.attn1.to_out.0.{{p}}", "blocks.{i}.attn.proj.{p}"),
    Rule(f"{BLOCK}.ff.net.0.proj.{{p}}", "blocks.{i}.mlp.fc1.{p}"),
    Rule(f"{BLOCK}.ff.net.2.{{p}}", "blocks.{i}.mlp.fc2.{p}"),
    Rule("proj_out_1.{p}", "out.modulation.linear.{p}"),
    Rule("proj_out_2.{p}", "out.linear.{p}"),
)

SOURCES: dict[str, Table] = {"original": ORIGINAL, "diffusers": DIFFUSERS}
