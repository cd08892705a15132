"""EfficientViT (Microsoft): names in timm and microsoft/Cream, where three modules between stages count as blocks."""

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
