"""Names of TinyViT weights: timm's, and the original's, which halves the grid at the end of a stage, so that its
downsample is one stage earlier."""

from typing import Any

from vitrail.weights.clues import Clues, ratio
from vitrail.weights.preprocessing import IMAGENET, Preprocessing
from vitrail.weights.rules import Drop, Rule

Table = tuple[Rule | Drop, ...]
AGAIN = "made again from the size of the window"
BIAS = "attn.attention_biases"


def original() -> Table:
    """Convolutions and their norms are c and bn there."""
    convs = [("patch_embed.seq.0", "patch_embed.conv1"), ("patch_embed.seq.2", "patch_embed.conv2")]
    convs += [(f"layers.0.blocks.{{i}}.conv{k}", f"stages.0.blocks.{{i}}.conv{k}") for k in (1, 2, 3)]
    convs += [
        (f"layers.{s}.downsample.conv{k}", f"stages.{s + 1}.downsample.conv{k}") for s in range(3) for k in (1, 2, 3)
    ]
    convs.append(("layers.{s}.blocks.{i}.local_conv", "stages.{s}.blocks.{i}.local_conv"))
    return (
        Drop("{rest}.attention_bias_idxs", AGAIN),
        *(
            Rule(f"{theirs}.{x}.{{p}}", f"{ours}.{y}.{{p}}")
            for theirs, ours in convs
            for x, y in (("c", "conv"), ("bn",) * 2)
        ),
        Rule(f"layers.{{s}}.blocks.{{i}}.{BIAS}", "stages.{s}.blocks.{i}.attn.relative.attention_biases"),
        *(
            Rule(f"layers.{{s}}.blocks.{{i}}.{x}.{{rest}}", f"stages.{{s}}.blocks.{{i}}.{x}.{{rest}}")
            for x in ("attn", "mlp")
        ),
        Rule("norm_head.{p}", "norm.{p}"),
        Rule("head.{p}", "heads.0.{p}"),
    )


SOURCES: dict[str, Table] = {
    "timm": (
        Drop("{rest}.attention_bias_idxs", AGAIN),
        Rule(f"stages.{{s}}.blocks.{{i}}.{BIAS}", "stages.{s}.blocks.{i}.attn.relative.attention_biases"),
        Rule("stages.{rest}", "stages.{rest}"),
        Rule("patch_embed.{rest}", "patch_embed.{rest}"),
        Rule("head.norm.{p}", "norm.{p}"),
        Rule("head.fc.{p}", "heads.0.{p}"),
    ),
    "original": original(),
}
PREPROCESSING: dict[str, Preprocessing] = {
    "timm": IMAGENET._replace(crop_ratio=0.95),  # of 384 and 512 pixels it is 1.0
    "original": IMAGENET,
}
CONFIG_NAMES: dict[str, tuple[str, ...]] = {"channels": ("model_args.in_chans",)}


def infer(clues: Clues) -> dict[str, Any] | None:
    """The config that a file shows: heads and windows by the tables of biases."""
    biases = [clues.shape(f"stages.{s}.blocks.0.attn.relative.attention_biases") for s in (1, 2, 3)]
    stem, first = clues.shape("patch_embed.conv1.conv.weight"), clues.shape("stages.0.blocks.0.conv1.conv.weight")
    merges = [clues.shape(f"stages.{s}.downsample.conv3.conv.weight") for s in (1, 2, 3)]
    hidden = clues.shape("stages.1.blocks.0.mlp.fc1.weight")
    if any(len(t) != 4 for t in (stem, first, *merges)) or any(len(t) != 2 for t in (*biases, hidden)):
        return None
    windows = tuple(round(table[1] ** 0.5) for table in biases)
    stated = clues.stated_size()
    return {
        "widths": (first[1], *(m[0] for m in merges)),
        "depths": tuple(clues.count(f"stages.{s}.blocks.") for s in range(4)),
        "heads": tuple(table[0] for table in biases),
        "windows": windows,
        "expand": ratio(first[0], first[1]),
        "mlp_ratio": ratio(hidden[0], merges[0][0]),
        "size": stated or (32 * windows[2],) * 2,
        "channels": stem[1],
    }
