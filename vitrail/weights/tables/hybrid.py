"""Names of hybrid models: timm, and the .npz files of Google (vit_jax). Behind the stem, names as in ViT.

Google's units are counted from one, and the norms of their published files have three axes of one before the channels.
"""

from dataclasses import fields
from itertools import product
from typing import Any

from vitrail.models.hybrid import VARIANTS, Config
from vitrail.weights.clues import Clues
from vitrail.weights.preprocessing import HALF, Preprocessing
from vitrail.weights.rules import Drop, Rule
from vitrail.weights.tables import _infer_vit, vit

Table = tuple[Rule | Drop, ...]
STEM = "patch_embed.backbone"
KNOWN = {field.name for field in fields(Config)}
LEAVES = (("scale", "weight"), ("bias", "bias"))
WIDE = ("row", "row", "row")  # [1 1 1 C] and [C]


def norms(theirs: str, ours: str) -> tuple[Rule, ...]:
    """A GroupNorm, as in published files or in newer code."""
    return tuple(Rule(f"{theirs}/{a}", f"{ours}.{b}", steps) for steps in (WIDE, ()) for a, b in LEAVES)


def unit(stage: int, unit: int) -> tuple[Rule, ...]:
    theirs, ours = f"block{stage + 1}/unit{unit + 1}", f"{STEM}.stages.{stage}.blocks.{unit}"
    return (
        Rule(f"{theirs}/conv_proj/kernel", f"{ours}.downsample.conv.weight", "conv"),
        *norms(f"{theirs}/gn_proj", f"{ours}.downsample.norm"),
        *(Rule(f"{theirs}/conv{i}/kernel", f"{ours}.conv{i}.weight", "conv") for i in (1, 2, 3)),
        *(rule for i in (1, 2, 3) for rule in norms(f"{theirs}/gn{i}", f"{ours}.norm{i}")),
    )


def beside_a_stage(part: str) -> tuple[Rule, Rule]:
    """The root, which timm names differently with and without stages behind it; the first unit of a stage decides."""
    root, first = f"{STEM}.stem.{part}.{{p}}", f"{STEM}.stages.0.blocks.0.{part}1.{{p}}"
    return Rule((root, first), (root, first)), Rule(f"{STEM}.{part}.{{p}}", root)


GOOGLE: Table = (
    Rule("conv_root/kernel", f"{STEM}.stem.conv.weight", "conv"),
    *norms("gn_root", f"{STEM}.stem.norm"),
    *(rule for s, u in product(range(4), range(9)) for rule in unit(s, u)),
)

SOURCES: dict[str, Table] = {
    "timm": (
        *beside_a_stage("conv"),
        *beside_a_stage("norm"),
        Rule(f"{STEM}.stages.{{rest}}", f"{STEM}.stages.{{rest}}"),
        *vit.SOURCES["timm"],
    ),
    "google": (*GOOGLE, *vit.SOURCES["google"]),
    "google:new": (*GOOGLE, *vit.SOURCES["google:new"]),
}
PREPROCESSING: dict[str, Preprocessing] = {
    "google": HALF._replace(resize_mode="stretch", interpolation="bilinear"),
    "timm": HALF._replace(crop_ratio=0.9),  # at 224 pixels; 1.0 at 384
}
SETTINGS: dict[str, dict[str, Any]] = {
    "google": {"gelu": "tanh"},
    "timm": {"standardise": "timm", "stem_eps": 1e-5, "position_resampling": "antialias"},
}

CONFIG_NAMES = {name: theirs for name, theirs in _infer_vit.CONFIG_NAMES.items() if name not in ("qkv_bias", "qk_norm")}


def infer(clues: Clues) -> dict[str, Any] | None:
    """The config that a file shows: a ResNet, and the ViT behind it."""
    root, kernel = clues.shape(f"{STEM}.stem.conv.weight"), clues.shape("patch_embed.proj.weight")
    if len(root) != 4 or len(kernel) != 4:
        return None
    counts = [clues.count(f"{STEM}.stages.{s}.blocks.") for s in range(4)]
    stages = tuple(count for count in counts if count)
    stride = kernel[2] * (4 << max(0, len(stages) - 1))
    trunk = _infer_vit.infer(clues, VARIANTS, stride)
    if trunk is None:
        return None
    own = {"stages": stages, "stem_width": root[0], "patch": kernel[2], "channels": root[1]}
    return {**{k: v for k, v in trunk.items() if k in KNOWN}, **own}
