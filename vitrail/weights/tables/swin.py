"""Names of Swin weights. All but timm merge patches at the end of a stage, so their downsample is one stage earlier."""

from vitrail.weights.rules import Drop, Rule

AGAIN = "made again from the sizes of the window and the map"
BUFFERS = (Drop("{rest}.relative_position_index", AGAIN), Drop("{rest}.attn_mask", AGAIN))
STEM = (
    Rule("patch_embed.proj.{p}", "patch_embed.proj.{p}"),
    Rule("patch_embed.norm.{p}", "patch_norm.{p}"),
)
BLOCKS = (
    Rule("layers.{s}.blocks.{b}.attn.relative_position_bias_table", "layers.{s}.blocks.{b}.attn.relative.table"),
    Rule("layers.{s}.blocks.{rest}", "layers.{s}.blocks.{rest}"),
    Rule("norm.{p}", "norm.{p}"),
)
SAME = Rule("layers.{s}.downsample.{rest}", "layers.{s}.downsample.{rest}")
EARLIER = tuple(Rule(f"layers.{s}.downsample.{{rest}}", f"layers.{s + 1}.downsample.{{rest}}") for s in range(3))

THEIRS, OURS = "swin.encoder.layers.{s}.blocks.{b}", "layers.{s}.blocks.{b}"
TRANSFORMERS: tuple[Rule | Drop, ...] = (
    Drop("{rest}.relative_position_index", AGAIN),
    Rule("swin.embeddings.patch_embeddings.projection.{p}", "patch_embed.proj.{p}"),
    Rule("swin.embeddings.norm.{p}", "patch_norm.{p}"),
    *(Rule(f"swin.encoder.layers.{s}.downsample.{{rest}}", f"layers.{s + 1}.downsample.{{rest}}") for s in range(3)),
    Rule(f"{THEIRS}.layernorm_before.{{p}}", f"{OURS}.norm1.{{p}}"),
    Rule(f"{THEIRS}.layernorm_after.{{p}}", f"{OURS}.norm2.{{p}}"),
    # on disk
    Rule(f"{THEIRS}.attention.self.relative_position_bias_table", f"{OURS}.attn.relative.table"),
    Rule(
        tuple(f"{THEIRS}.attention.self.{x}.{{p}}" for x in ("query", "key", "value")), f"{OURS}.attn.qkv.{{p}}", "fuse"
    ),
    Rule(f"{THEIRS}.attention.output.dense.{{p}}", f"{OURS}.attn.proj.{{p}}"),
    Rule(f"{THEIRS}.intermediate.dense.{{p}}", f"{OURS}.mlp.fc1.{{p}}"),
    Rule(f"{THEIRS}.output.dense.{{p}}", f"{OURS}.mlp.fc2.{{p}}"),
    # in memory in version 5
    Rule(f"{THEIRS}.attention.relative_position_bias.relative_position_bias_table", f"{OURS}.attn.relative.table"),
    Rule(tuple(f"{THEIRS}.attention.{x}_proj.{{p}}" for x in "qkv"), f"{OURS}.attn.qkv.{{p}}", "fuse"),
    Rule(f"{THEIRS}.attention.o_proj.{{p}}", f"{OURS}.attn.proj.{{p}}"),
    Rule(f"{THEIRS}.mlp.{{rest}}", f"{OURS}.mlp.{{rest}}"),
    Rule("swin.layernorm.{p}", "norm.{p}"),
    Rule("classifier.{p}", "heads.0.{p}"),
)


def torchvision(blocks: tuple[Rule, ...]) -> tuple[Rule | Drop, ...]:
    """features.0 is the stem, followed by stages (1, 3, 5, 7) and patch mergings (2, 4, 6). blocks: rules for tensors
    of one of the two Swins only, by their names inside a block."""
    rules: list[Rule | Drop] = [
        Drop("{rest}.relative_position_index", AGAIN),
        Rule("features.0.0.{p}", "patch_embed.proj.{p}"),
        Rule("features.0.2.{p}", "patch_norm.{p}"),
    ]
    for s in range(4):
        theirs, ours = f"features.{2 * s + 1}.{{b}}", f"layers.{s}.blocks.{{b}}"
        if s:
            rules.append(Rule(f"features.{2 * s}.{{rest}}", f"layers.{s}.downsample.{{rest}}"))
        rules += [Rule(under(theirs, r.theirs), under(ours, r.ours), r.steps) for r in blocks]
        for x in ("norm1", "norm2", "attn.qkv", "attn.proj"):
            rules.append(Rule(f"{theirs}.{x}.{{p}}", f"{ours}.{x}.{{p}}"))
        rules += [Rule(f"{theirs}.mlp.{i}.{{p}}", f"{ours}.mlp.fc{n}.{{p}}") for i, n in ((0, 1), (3, 2))]
    rules += [Rule("norm.{p}", "norm.{p}"), Rule("head.{p}", "heads.0.{p}")]
    return tuple(rules)


def under(prefix: str, names: str | tuple[str, ...]) -> str | tuple[str, ...]:
    """Names inside a block, in full."""
    return f"{prefix}.{names}" if isinstance(names, str) else tuple(f"{prefix}.{name}" for name in names)


SOURCES: dict[str, tuple[Rule | Drop, ...]] = {
    "timm": (*BUFFERS, *STEM, SAME, *BLOCKS, Rule("head.fc.{p}", "heads.0.{p}")),
    "original": (*BUFFERS, *STEM, *EARLIER, *BLOCKS, Rule("head.{p}", "heads.0.{p}")),
    "torchvision": torchvision((Rule("attn.relative_position_bias_table", "attn.relative.table"),)),
    "transformers": TRANSFORMERS,
}  # fmt: skip
