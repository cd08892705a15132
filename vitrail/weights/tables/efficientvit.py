"""EfficientViT (MIT): names in timm and mit-han-lab/efficientvit, whose base and large models differ."""

from typing import Any

from vitrail.weights.clues import Clues
from vitrail.weights.rules import Drop, Rule

TIMM = (
    Rule(
        "stages.{i}.blocks.{j}.context_module.main.qkv.conv.weight",
        "stages.{i}.blocks.{j}.context_module.main.qkv.weight",
    ),
    Rule("stages.{rest}", "stages.{rest}"),
    Rule("stem.{rest}", "stem.{rest}"),
    Rule("head.in_conv.{rest}", "pre_logits.in_conv.{rest}"),
    Rule("head.classifier.0.weight", "pre_logits.fc.weight"),
    Rule("head.classifier.1.{p}", "pre_logits.norm.{p}"),
    Rule("head.classifier.4.{p}", "heads.0.{p}"),
)
HEAD = (
    Rule("head.op_list.0.{rest}", "pre_logits.in_conv.{rest}"),
    Rule("head.op_list.2.linear.weight", "pre_logits.fc.weight"),
    Rule("head.op_list.2.norm.{p}", "pre_logits.norm.{p}"),
    Rule("head.op_list.3.linear.{p}", "heads.0.{p}"),
)
QKV = "context_module.main.qkv"
ORIGINAL = (  # b0 to b3: a stem, and stages from 0
    Rule("backbone.input_stem.op_list.0.{rest}", "stem.in_conv.{rest}"),
    Rule("backbone.input_stem.op_list.1.{rest}", "stem.res0.{rest}"),
    Rule(f"backbone.stages.{{i}}.op_list.{{j}}.{QKV}.conv.weight", f"stages.{{i}}.blocks.{{j}}.{QKV}.weight"),
    Rule("backbone.stages.{i}.op_list.{j}.{rest}", "stages.{i}.blocks.{j}.{rest}"),
    *HEAD,
)
ORIGINAL_LARGE = (  # l1 to l3: stage 0 is the stem
    Rule("backbone.stages.0.op_list.0.{rest}", "stem.in_conv.{rest}"),
    Rule("backbone.stages.0.op_list.1.{rest}", "stem.res0.{rest}"),
    Rule(f"backbone.stages.4.op_list.{{j}}.{QKV}.conv.weight", f"stages.3.blocks.{{j}}.{QKV}.weight"),
    Rule("backbone.stages.1.op_list.{j}.{rest}", "stages.0.blocks.{j}.{rest}"),
    Rule("backbone.stages.2.op_list.{j}.{rest}", "stages.1.blocks.{j}.{rest}"),
    Rule("backbone.stages.3.op_list.{j}.{rest}", "stages.2.blocks.{j}.{rest}"),
    Rule("backbone.stages.4.op_list.{j}.{rest}", "stages.3.blocks.{j}.{rest}"),
    *HEAD,
)

SOURCES: dict[str, tuple[Rule | Drop, ...]] = {"timm": TIMM, "original": ORIGINAL, "original_large": ORIGINAL_LARGE}

CONFIG_NAMES: dict[str, tuple[str, ...]] = {
    "widths": ("model_args.widths",),
    "head_width": ("model_args.head_dim",),
    "channels": ("model_args.in_chans",),
}
SETTINGS: dict[str, dict[str, Any]] = {"timm": {"eps": 1e-5}}


def infer(clues: Clues) -> dict[str, Any] | None:
    """The config that a file shows: the stem's blocks say the plan, and grouped convolutions the width of heads."""
    stem, mixed = clues.shape("stem.in_conv.conv.weight"), "stages.3.blocks.1.context_module.main.aggreg"
    outs = clues.stage_shapes("stages.{}.blocks.0.main.point_conv.conv.weight")
    grouped = clues.shape(f"{mixed}.0.1.weight")
    if any(len(t) != 4 for t in (stem, grouped, *outs)):
        return None
    base = clues.has("stem.res0.main.depth_conv.conv.weight")
    counts = [clues.count(f"stages.{s}.blocks.") for s in range(4)]
    whole = [base and s < 2 for s in range(4)]  # the block that halves the grid counts there
    hidden = clues.shape("pre_logits.in_conv.conv.weight"), clues.shape("pre_logits.fc.weight")
    fields = {
        "plan": "base" if base else "large",
        "widths": (stem[0], *(out[0] for out in outs)),
        "depths": (clues.count("stem.res"), *(n if w else n - 1 for n, w in zip(counts, whole, strict=True))),
        "head_width": grouped[1],
        "scales": tuple(clues.shape(f"{mixed}.{i}.0.weight")[-1] for i in range(clues.count(f"{mixed}."))),
        "pre_logits": (hidden[0][0], hidden[1][0]) if all(hidden) else None,
        "channels": stem[1],
    }
    size = clues.stated_size()
    return {**fields, "size": size} if size else fields
