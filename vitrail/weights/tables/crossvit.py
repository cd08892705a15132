"""Names of published CrossViT weights. timm writes pos_embed_0 where the original has pos_embed.0."""

import math
from typing import Any

from vitrail.models.crossvit import VARIANTS
from vitrail.weights.clues import Clues, likely_heads, ratio, square
from vitrail.weights.rules import Drop, Rule

SHARED = (
    Rule("patch_embed.{rest}", "patch_embed.{rest}"),
    Rule("blocks.{rest}", "blocks.{rest}"),
    Rule("norm.{rest}", "norm.{rest}"),
    Rule("head.{rest}", "heads.{rest}"),
)

SOURCES: dict[str, tuple[Rule | Drop, ...]] = {
    "timm": (
        *(Rule(f"pos_embed_{i}", f"position.{i}.table", "row") for i in range(2)),
        *(Rule(f"cls_token_{i}", f"tokens.{i}", "row") for i in range(2)),
        *SHARED,
    ),
    "original": (
        *(Rule(f"pos_embed.{i}", f"position.{i}.table", "row") for i in range(2)),
        *(Rule(f"cls_token.{i}", f"tokens.{i}", "row") for i in range(2)),
        *SHARED,
    ),
}

CONFIG_NAMES: dict[str, tuple[str, ...]] = {
    "widths": ("model_args.embed_dim",), "heads": ("model_args.num_heads",), "channels": ("model_args.in_chans",),
    "qkv_bias": ("model_args.qkv_bias",),
}  # fmt: skip
PATCHES = (12, 16)  # of every published model; a stem of convolutions does not show them


def infer(clues: Clues) -> dict[str, Any] | None:
    """The config that a file shows; the second branch's share of the image by the grids of both."""
    tables = clues.stage_shapes("position.{}.table", 2)
    hidden = clues.stage_shapes("blocks.0.blocks.{}.0.mlp.fc1.weight", 2)
    depths = tuple(clues.count(f"blocks.0.blocks.{i}.") for i in range(2))
    stem = "conv" if clues.has("patch_embed.0.proj.0.weight") else "patch"
    kernels = clues.stage_shapes(f"patch_embed.{{}}.proj.{'0.' if stem == 'conv' else ''}weight", 2)
    grids = [square(table[0] - 1) for table in tables if len(table) == 2]
    if len(grids) != 2 or None in grids or min(depths) < 1 or any(len(t) != 2 for t in hidden):
        return None
    if any(len(k) != 4 for k in kernels):
        return None
    widths = tuple(table[1] for table in tables)
    patches = PATCHES if stem == "conv" else tuple(k[2] for k in kernels)
    sides = [grid[0] * patch for grid, patch in zip(grids, patches, strict=True) if grid is not None]
    shared = math.gcd(*sides)
    return {
        "widths": widths,
        "heads": likely_heads(widths, VARIANTS.values()),
        "stages": clues.count("blocks."),
        "depths": depths,
        "mlp_ratios": tuple(ratio(h[0], width) for h, width in zip(hidden, widths, strict=True)),
        "patches": patches,
        "stem": stem,
        "size": (sides[0], sides[0]),
        "zoom": (sides[1] // shared, sides[0] // shared),
        "channels": kernels[0][1],
        "qkv_bias": clues.has("blocks.0.blocks.0.0.attn.qkv.bias"),
    }
