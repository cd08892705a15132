"""Names of MobileViT weights: timm, whose names are ours, transformers, and CVNets, the source of all published
weights.

CVNets, and so transformers, trained on BGR pixels; so the input channels of their first convolution are reversed.
"""

from typing import Any

from vitrail.weights.clues import Clues, ratio
from vitrail.weights.preprocessing import Preprocessing
from vitrail.weights.rules import Drop, Rule


def conv(theirs: str, ours: str, inside: tuple[str, str]) -> tuple[Rule, ...]:
    """A convolution and its norm; inside: their names in the source."""
    return tuple(Rule(f"{theirs}.{a}.{{p}}", f"{ours}.{b}.{{p}}") for a, b in zip(inside, ("conv", "bn"), strict=True))


def inverted(theirs: str, ours: str, inside: tuple[str, str], last: str) -> tuple[Rule, ...]:
    """An inverted residual. last: name of the last of its three convolutions in the source."""
    pairs = (("exp" if last == "red" else "expand", 1, "1x1"), ("conv", 2, "kxk"), (last, 3, "1x1"))
    return tuple(
        rule
        for name, i, kernel in pairs
        for rule in conv(f"{theirs}.{name}_{'3x3' if i == 2 else '1x1'}", f"{ours}.conv{i}_{kernel}", inside)
    )


LIVE = ("convolution", "normalization")
HUB = "mobilevit.encoder.layer"
LAYER, BLOCK = HUB + ".{s}.transformer.layer.{i}", "stages.{s}.1.transformer.{i}"
TRANSFORMERS = (
    Rule("mobilevit.conv_stem.convolution.weight", "stem.conv.weight", "bgr"),
    *conv("mobilevit.conv_stem", "stem", LIVE),
    *(rule for s in (0, 1) for rule in inverted(f"{HUB}.{s}.layer.{{b}}", f"stages.{s}.{{b}}", LIVE, "reduce")),
    *inverted(f"{HUB}.{{s}}.downsampling_layer", "stages.{s}.0", LIVE, "reduce"),
    *conv(f"{HUB}.{{s}}.conv_kxk", "stages.{s}.1.conv_kxk", LIVE),
    Rule(f"{HUB}.{{s}}.conv_1x1.convolution.{{p}}", "stages.{s}.1.conv_1x1.{p}"),
    Rule(f"{LAYER}.layernorm_before.{{p}}", f"{BLOCK}.norm1.{{p}}"),
    Rule(
        tuple(f"{LAYER}.attention.attention.{x}.{{p}}" for x in ("query", "key", "value")),
        f"{BLOCK}.attn.qkv.{{p}}",
        "fuse",
    ),
    Rule(f"{LAYER}.attention.output.dense.{{p}}", f"{BLOCK}.attn.proj.{{p}}"),
    Rule(f"{LAYER}.layernorm_after.{{p}}", f"{BLOCK}.norm2.{{p}}"),
    Rule(f"{LAYER}.intermediate.dense.{{p}}", f"{BLOCK}.mlp.fc1.{{p}}"),
    Rule(f"{LAYER}.output.dense.{{p}}", f"{BLOCK}.mlp.fc2.{{p}}"),
    Rule(f"{HUB}.{{s}}.layernorm.{{p}}", "stages.{s}.1.norm.{p}"),
    *conv(f"{HUB}.{{s}}.conv_projection", "stages.{s}.1.conv_proj", LIVE),
    *conv(f"{HUB}.{{s}}.fusion", "stages.{s}.1.conv_fusion", LIVE),
    *conv("mobilevit.conv_1x1_exp", "final_conv", LIVE),
    Rule("classifier.{p}", "heads.0.{p}"),
)


def cvnets(s: int, depth: int) -> tuple[Rule, ...]:
    """A stage with a transformer of `depth` blocks: the norm behind them counts as one more."""
    theirs, ours, inside = f"layer_{s + 1}.1", f"stages.{s}.1", ("block.conv", "block.norm")
    layer, block = f"{theirs}.global_rep.{{i}}", f"{ours}.transformer.{{i}}"
    return (
        *conv(f"{theirs}.local_rep.conv_3x3", f"{ours}.conv_kxk", inside),
        Rule(f"{theirs}.local_rep.conv_1x1.block.conv.{{p}}", f"{ours}.conv_1x1.{{p}}"),
        Rule(f"{layer}.pre_norm_mha.0.{{p}}", f"{block}.norm1.{{p}}"),
        Rule(f"{layer}.pre_norm_mha.1.qkv_proj.{{p}}", f"{block}.attn.qkv.{{p}}"),
        Rule(f"{layer}.pre_norm_mha.1.out_proj.{{p}}", f"{block}.attn.proj.{{p}}"),
        Rule(f"{layer}.pre_norm_ffn.0.{{p}}", f"{block}.norm2.{{p}}"),
        Rule(f"{layer}.pre_norm_ffn.1.{{p}}", f"{block}.mlp.fc1.{{p}}"),
        Rule(f"{layer}.pre_norm_ffn.4.{{p}}", f"{block}.mlp.fc2.{{p}}"),
        Rule(f"{theirs}.global_rep.{depth}.{{p}}", f"{ours}.norm.{{p}}"),
        *conv(f"{theirs}.conv_proj", f"{ours}.conv_proj", inside),
        *conv(f"{theirs}.fusion", f"{ours}.conv_fusion", inside),
    )


CVNETS = ("block.conv", "block.norm")
SOURCES: dict[str, tuple[Rule | Drop, ...]] = {
    "timm": (
        Rule("stem.{rest}", "stem.{rest}"),
        Rule("stages.{rest}", "stages.{rest}"),
        Rule("final_conv.{rest}", "final_conv.{rest}"),
        Rule("head.fc.{p}", "heads.0.{p}"),
    ),
    "transformers": TRANSFORMERS,
    "original": (
        Rule("conv_1.block.conv.weight", "stem.conv.weight", "bgr"),
        *conv("conv_1", "stem", CVNETS),
        *(
            rule
            for s in range(5)
            for rule in inverted(f"layer_{s + 1}.{{b}}.block", f"stages.{s}.{{b}}", CVNETS, "red")
        ),
        *(rule for s, depth in ((2, 2), (3, 4), (4, 3)) for rule in cvnets(s, depth)),
        *conv("conv_1x1_exp", "final_conv", CVNETS),
        Rule("classifier.fc.{p}", "heads.0.{p}"),
    ),
}
PREPROCESSING: dict[str, Preprocessing] = {
    "timm": Preprocessing((0.0,) * 3, (1.0,) * 3, crop_ratio=0.9),
    "transformers": Preprocessing((0.0,) * 3, (1.0,) * 3, crop_ratio=256 / 288, interpolation="bilinear"),
    "original": Preprocessing((0.0,) * 3, (1.0,) * 3, crop_ratio=256 / 288, interpolation="bilinear"),
}

CONFIG_NAMES: dict[str, tuple[str, ...]] = {
    "heads": ("num_attention_heads",),
    "patch": ("patch_size",),
    "channels": ("num_channels", "model_args.in_chans"),
    "eps": ("layer_norm_eps",),
}


def infer(clues: Clues) -> dict[str, Any] | None:
    """The config that a file shows. Heads and patch are 4 and 2 in every MobileViT, unless a sidecar has others."""
    stem, final = clues.shape("stem.conv.weight"), clues.shape("final_conv.conv.weight")
    outs = clues.stage_shapes("stages.{}.0.conv3_1x1.conv.weight", 5)
    tokens = [clues.shape(f"stages.{s}.1.conv_1x1.weight") for s in (2, 3, 4)]
    up, hidden = clues.shape("stages.0.0.conv1_1x1.conv.weight"), clues.shape("stages.2.1.transformer.0.mlp.fc1.weight")
    if any(len(t) != 4 for t in (stem, final, up, *outs, *tokens)) or len(hidden) != 2:
        return None
    fields = {
        "stem_width": stem[0],
        "channels": stem[1],
        "widths": tuple(out[0] for out in outs),
        "expand": ratio(up[0], up[1]),
        "convs": tuple(clues.count(f"stages.{s}.") for s in (0, 1)),
        "token_widths": tuple(t[0] for t in tokens),
        "depths": tuple(clues.count(f"stages.{s}.1.transformer.") for s in (2, 3, 4)),
        "mlp_ratio": ratio(hidden[0], hidden[1]),
        "summary_width": final[0],
    }
    clues.check_activation(("silu", "swish"))
    size = clues.stated_size()
    return {**fields, "size": size} if size else fields
