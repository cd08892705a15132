"""Names of published ResNet weights: torchvision and timm have our names, transformers counts stages from 0."""

from typing import Any

from vitrail.weights.clues import Clues
from vitrail.weights.preprocessing import IMAGENET, Preprocessing
from vitrail.weights.rules import Drop, Rule

SAME = (
    Rule("conv1.{p}", "conv1.{p}"),
    Rule("bn1.{p}", "bn1.{p}"),
    Rule("layer{s}.{rest}", "layer{s}.{rest}"),
    Rule("fc.{p}", "heads.0.{p}"),
)


def transformers() -> tuple[Rule | Drop, ...]:
    rules = []
    parts = (("convolution", "conv", "0"), ("normalization", "bn", "1"))
    for prefix in ("resnet.", ""):
        for theirs, ours, place in parts:
            rules.append(Rule(f"{prefix}embedder.embedder.{theirs}.{{p}}", f"{ours}1.{{p}}"))
            for s in range(4):
                b, block = f"{prefix}encoder.stages.{s}.layers.{{j}}", f"layer{s + 1}.{{j}}"
                rules += [Rule(f"{b}.layer.{k}.{theirs}.{{p}}", f"{block}.{ours}{k + 1}.{{p}}") for k in range(3)]
                rules.append(Rule(f"{b}.shortcut.{theirs}.{{p}}", f"{block}.downsample.{place}.{{p}}"))
    return (*rules, Rule("classifier.1.{p}", "heads.0.{p}"))


SOURCES: dict[str, tuple[Rule | Drop, ...]] = {"torchvision": SAME, "timm": SAME, "transformers": transformers()}
PREPROCESSING: dict[str, Preprocessing] = {
    "torchvision": IMAGENET._replace(interpolation="bilinear"),  # of the first weights; the second resize to 232
    "timm": IMAGENET._replace(crop_ratio=0.95),
    "transformers": IMAGENET._replace(interpolation="bicubic"),
}

CONFIG_NAMES: dict[str, tuple[str, ...]] = {
    "depths": ("depths", "model_args.layers"),
    "channels": ("num_channels", "model_args.in_chans"),
    "width": ("embedding_size",),
}


def infer(clues: Clues) -> dict[str, Any] | None:
    """The config that a file shows. A stem of 3x3 is that for small images."""
    kernel = clues.shape("conv1.weight")
    depths = tuple(clues.count(f"layer{s}.") for s in range(1, 5))
    if len(kernel) != 4 or min(depths) < 1 or kernel[2] not in (3, 7):
        return None
    clues.check_activation(("relu",))
    fields = {
        "depths": depths,
        "block": "bottleneck" if clues.has("layer1.0.conv3.weight") else "basic",
        "width": kernel[0],
        "channels": kernel[1],
        "stem_stride": 4 if kernel[2] == 7 else 1,
    }
    size = clues.stated_size()
    return {**fields, "size": size} if size else fields
