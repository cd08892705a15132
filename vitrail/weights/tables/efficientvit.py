"""EfficientViT (MIT): names in timm and mit-han-lab/efficientvit, whose base and large models differ."""

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
