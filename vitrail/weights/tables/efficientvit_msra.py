"""EfficientViT (Microsoft): names in timm and microsoft/Cream, where three modules between stages count as blocks."""

from typing import Any

from vitrail.models.efficientvit_msra import STRIDES, VARIANTS, Config
from vitrail.weights.clues import Clues, ratio
from vitrail.weights.rules import Drop, Rule

REBUILT = "indices of relative positions, which are recomputed"
BETWEEN = {0: "res1", 1: "patchmerge", 2: "res2"}
DEEPEST = 8  # most blocks of a stage in the original's names; published models have at most 4

TIMM = (
    Drop("{rest}.attention_bias_idxs", REBUILT),
    Rule(
        "stages.{i}.blocks.{j}.mixer.m.attn.qkvs.{h}.{rest}",
        "stages.{i}.blocks.{j}.mixer.m.attn.cascade.{h}.qkv.{rest}",
    ),
    Rule(
        "stages.{i}.blocks.{j}.mixer.m.attn.dws.{h}.{rest}", "stages.{i}.blocks.{j}.mixer.m.attn.cascade.{h}.dw.{rest}"
    ),
    Rule("stages.{rest}", "stages.{rest}"),
    Rule("patch_embed.{rest}", "patch_embed.{rest}"),
    Rule("head.bn.{p}", "norms.0.{p}"),
    Rule("head.linear.{p}", "heads.0.{p}"),
)


def block(theirs: str, ours: str) -> tuple[Rule, ...]:
    """A block, or a module between stages; their convolutions are named "c"."""
    attn = "mixer.m.attn"
    return (
        Rule(f"{theirs}.{attn}.qkvs.{{h}}.c.{{p}}", f"{ours}.{attn}.cascade.{{h}}.qkv.conv.{{p}}"),
        Rule(f"{theirs}.{attn}.qkvs.{{h}}.bn.{{p}}", f"{ours}.{attn}.cascade.{{h}}.qkv.bn.{{p}}"),
        Rule(f"{theirs}.{attn}.dws.{{h}}.c.{{p}}", f"{ours}.{attn}.cascade.{{h}}.dw.conv.{{p}}"),
        Rule(f"{theirs}.{attn}.dws.{{h}}.bn.{{p}}", f"{ours}.{attn}.cascade.{{h}}.dw.bn.{{p}}"),
        Rule(f"{theirs}.{{rest}}.c.{{p}}", f"{ours}.{{rest}}.conv.{{p}}"),
        Rule(f"{theirs}.{{rest}}", f"{ours}.{{rest}}"),
    )


def stage(number: int) -> tuple[Rule, ...]:
    rules: tuple[Rule, ...] = ()
    before = BETWEEN if number else {}
    for place, name in before.items():
        rules += block(f"blocks{number + 1}.{place}", f"stages.{number}.downsample.{name}")
    for i in range(DEEPEST):
        rules += block(f"blocks{number + 1}.{len(before) + i}", f"stages.{number}.blocks.{i}")
    return rules


SOURCES: dict[str, tuple[Rule | Drop, ...]] = {
    "timm": TIMM,
    "original": (
        Drop("{rest}.attention_bias_idxs", REBUILT),
        *(Rule(f"patch_embed.{2 * i}.c.{{p}}", f"patch_embed.conv{i + 1}.conv.{{p}}") for i in range(4)),
        *(Rule(f"patch_embed.{2 * i}.bn.{{p}}", f"patch_embed.conv{i + 1}.bn.{{p}}") for i in range(4)),
        *(rule for number in range(3) for rule in stage(number)),
        *(Rule(f"head{head}.bn.{{p}}", f"norms.{i}.{{p}}") for i, head in enumerate(("", "_dist"))),
        *(Rule(f"head{head}.l.{{p}}", f"heads.{i}.{{p}}") for i, head in enumerate(("", "_dist"))),
    ),
}

CONFIG_NAMES: dict[str, tuple[str, ...]] = {"channels": ("model_args.in_chans",)}


def infer(clues: Clues) -> dict[str, Any] | None:
    """The config that a file shows: heads and windows by the tables of biases, kernels by those over queries."""
    attn = "stages.{}.blocks.0.mixer.m.attn"
    outs = clues.stage_shapes("stages.{}.blocks.0.dw0.m.conv.weight", 3)
    biases = clues.stage_shapes(f"{attn}.attention_biases", 3)
    hidden, stem = clues.shape("stages.0.blocks.0.ffn0.m.pw1.conv.weight"), clues.shape("patch_embed.conv1.conv.weight")
    if any(len(t) != 4 for t in (*outs, hidden, stem)) or any(len(t) != 2 for t in biases):
        return None
    most = max(range(3), key=lambda s: biases[s][0])
    over = [clues.shape(f"{attn.format(most)}.cascade.{h}.dw.conv.weight") for h in range(biases[most][0])]
    if any(len(k) != 4 for k in over):
        return None
    kernels = tuple(k[2] for k in over)
    longer = (c.kernels for c in VARIANTS.values() if c.kernels[: len(kernels)] == kernels)
    sides = [round(table[1] ** 0.5) for table in biases]
    fields = {
        "widths": tuple(out[0] for out in outs),
        "depths": tuple(clues.count(f"stages.{s}.blocks.") for s in range(3)),
        "heads": tuple(table[0] for table in biases),
        "kernels": next(longer, kernels),
        "key_width": over[0][0],
        "window": max(sides),
        "mlp_ratio": ratio(hidden[0], outs[0][0]),
        "channels": stem[1],
        "summaries": max(1, clues.count("norms.")),
    }
    likely = (clues.stated_size(), Config().size, (sides[2] * STRIDES[2],) * 2)
    return {**fields, "size": next((size for size in likely if size and fits(size, sides)), likely[2])}


def fits(size: tuple[int, int], sides: list[int]) -> bool:
    """Whether images of a size have windows with such sides in the three stages: the largest, or the whole map."""
    return all(min(max(sides), -(-min(size) // s)) == side for s, side in zip(STRIDES, sides, strict=True))
