"""Names of published DiT weights: the original's, and diffusers', with embeddings of time and class in every block."""

from typing import Any

from vitrail.models.dit import VARIANTS
from vitrail.weights.clues import Clues, Open, ratio, square
from vitrail.weights.preprocessing import GENERATED, Preprocessing
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
PREPROCESSING: dict[str, Preprocessing] = {"original": GENERATED, "diffusers": GENERATED}

CONFIG_NAMES: dict[str, tuple[str, ...]] = {
    "heads": ("num_attention_heads",),
    "depth": ("num_layers",),
    "channels": ("in_channels",),
    "patch": ("patch_size",),
    "classes": ("num_embeds_ada_norm",),
}


def infer(clues: Clues) -> dict[str, Any] | None:
    """The config that a file shows; the size by its table of positions, which the original saves."""
    kernel, out = clues.shape("patch_embed.proj.weight"), clues.shape("out.linear.weight")
    fields = block_fields(clues, [(c.width, c.depth, c.heads) for c in VARIANTS.values()])
    hidden = clues.shape("blocks.0.mlp.fc1.weight")
    if fields is None or len(kernel) != 4 or len(out) != 2 or len(hidden) != 2 or kernel[0] != fields["width"]:
        return None
    fields |= {"mlp_ratio": ratio(hidden[0], kernel[0]), "patch": kernel[2], "channels": kernel[1]}
    fields["learn_sigma"] = out[0] == 2 * kernel[2] ** 2 * kernel[1]
    clues.check_activation(("gelu-approximate", "gelu_tanh"))
    return {**fields, **table_size(clues, "pos_embed", kernel[2])}


def block_fields(clues: Clues, variants: list[tuple[int, int, int]]) -> dict[str, Any] | None:
    """What both denoisers have. variants: widths, depths and heads of the published ones."""
    qkv, label, depth = clues.shape("blocks.0.attn.qkv.weight"), clues.shape("label.weight"), clues.count("blocks.")
    if len(qkv) != 2 or len(label) != 2 or depth < 1 or not clues.has("blocks.0.modulation.linear.weight"):
        return None
    width, norm = qkv[1], clues.shape("blocks.0.attn.q_norm.weight")
    heads: Any = next((h for w, d, h in variants if (w, d) == (width, depth)), None)
    if norm:
        heads = width // max(1, norm[0])
    if heads is None:
        likely = tuple(width // d for d in (64, 32, 16) if width % d == 0)[:2]
        heads = Open(likely or (1,), "the number of attention heads")
    return {"width": width, "depth": depth, "heads": heads, "classes": label[0] - 1}


def table_size(clues: Clues, name: str, patch: int) -> dict[str, Any]:
    """The size of the images, by a table of positions among the file's own names or by a sidecar."""
    stated, table = clues.stated_size(), clues.raw.get(name)
    grid = square(table.shape[1]) if table is not None and table.ndim == 3 else None
    size = (grid[0] * patch, grid[1] * patch) if grid is not None else stated
    return {} if size is None else {"size": size}
