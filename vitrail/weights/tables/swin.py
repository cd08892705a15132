"""Names of Swin weights. All but timm merge patches at the end of a stage, so their downsample is one stage earlier."""

from typing import Any

from vitrail.weights.clues import Clues, ratio
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

CONFIG_NAMES: dict[str, tuple[str, ...]] = {
    "width": ("embed_dim", "model_args.embed_dim"),
    "depths": ("depths", "model_args.depths"),
    "heads": ("num_heads", "model_args.num_heads"),
    "channels": ("num_channels", "model_args.in_chans"),
    "patch": ("patch_size", "model_args.patch_size"),
    "qkv_bias": ("qkv_bias", "model_args.qkv_bias"),
    "eps": ("layer_norm_eps",),
}


def infer(clues: Clues) -> dict[str, Any] | None:
    """The config that a file shows: heads and windows by the tables of relative positions; stages of S3 have windows of
    their own."""
    tables = clues.stage_shapes("layers.{}.blocks.0.attn.relative.table")
    fields = stage_fields(clues)
    sides = [round(table[0] ** 0.5) for table in tables if len(table) == 2]
    if fields is None or len(sides) != 4 or any(side % 2 == 0 for side in sides):
        return None
    windows = [(side + 1) // 2 for side in sides]
    fields |= {"heads": tuple(table[1] for table in tables), "window": max(windows)}
    fields["qkv_bias"] = clues.has("layers.0.blocks.0.attn.qkv.bias")
    cell = [fields["patch"] << s for s in range(4)]
    stated = clues.stated_size()
    if stated is not None and [min(fields["window"], -(-min(stated) // c)) for c in cell] == windows:
        return {**fields, "size": stated}
    smaller = next((s for s in range(4) if windows[s] < max(windows)), 3)  # its window is its whole map
    side = windows[smaller] * cell[smaller]
    if [min(max(windows), -(-side // c)) for c in cell] == windows:
        return {**fields, "size": (side, side)}
    side = max(window * c for window, c in zip(windows, cell, strict=True))  # stages of different windows
    return {**fields, "window": tuple(windows), "size": stated or (side, side)}


def stage_fields(clues: Clues) -> dict[str, Any] | None:
    """What both Swins have."""
    kernel, qkv = clues.shape("patch_embed.proj.weight"), clues.shape("layers.0.blocks.0.attn.qkv.weight")
    hidden = clues.shape("layers.0.blocks.0.mlp.fc1.weight")
    depths = tuple(clues.count(f"layers.{s}.blocks.") for s in range(4))
    if len(kernel) != 4 or len(qkv) != 2 or len(hidden) != 2 or min(depths) < 1 or kernel[2] != kernel[3]:
        return None
    clues.check_activation(("gelu",))
    return {
        "width": kernel[0],
        "depths": depths,
        "patch": kernel[2],
        "channels": kernel[1],
        "mlp_ratio": ratio(hidden[0], kernel[0]),
    }
