"""Segmenter (Strudel et al. 2021) on a plain ViT, by the names of its repository (github.com/rstrudel/segmenter): the
mask transformer, or one linear layer."""

from collections.abc import Mapping
from typing import Any

from torch import Tensor

from vitrail.recipe import Choice
from vitrail.weights.preprocessing import HALF, IMAGENET
from vitrail.weights.rules import Drop, Rule, convert
from vitrail.weights.sidecars import Sidecar
from vitrail.weights.whole import (
    Table,
    Tensors,
    WholeModel,
    class_names,
    convert_backbone,
    count_blocks,
    input_of,
    join,
    name_model,
    split_prefix,
)

PREFIX, HEAD_WIDTH = "encoder.", 64
PRETRAINING = "head of pre-training, which segmentation does not use"
UNUSED: Table = (Drop("head.{p}", PRETRAINING), Drop("head_dist.{p}", PRETRAINING))
MAIN = "heads.main"
RULES: Table = (
    Rule("decoder.head.{p}", f"{MAIN}.classify.proj.{{p}}", "pointwise"),
    Rule("decoder.cls_emb", f"{MAIN}.classes", "row"),
    Rule("decoder.proj_dec.{p}", f"{MAIN}.inside.{{p}}"),
    Rule("decoder.proj_patch", f"{MAIN}.cell_proj"),
    Rule("decoder.proj_classes", f"{MAIN}.class_proj"),
    Rule("decoder.decoder_norm.{p}", f"{MAIN}.norm.{{p}}"),
    Rule("decoder.mask_norm.{p}", f"{MAIN}.mask_norm.{{p}}"),
    *(
        Rule(f"decoder.blocks.{{i}}.{x}.{{rest}}", f"{MAIN}.blocks.{{i}}.{x}.{{rest}}")
        for x in ("norm1", "attn", "norm2", "mlp")
    ),
)
MARKS = ("decoder.cls_emb", "decoder.head.weight")


def recognise(tensors: Tensors, sidecar: Sidecar) -> WholeModel | None:
    """A Segmenter, from its class embeddings or its linear decoder beside a ViT."""
    mark = next((name for name in MARKS if name in tensors), "")
    if not mark or "encoder.pos_embed" not in tensors:
        return None
    inside, rest = split_prefix(tensors, PREFIX)
    unused = convert(inside, UNUSED).dropped
    family = "deit" if "dist_token" in inside else "vit"
    backbone = convert_backbone({n: t for n, t in inside.items() if n not in unused}, family)
    every, unknown, dropped = join(PREFIX, backbone, convert(rest, RULES))
    dropped |= {PREFIX + name: why for name, why in unused.items()}
    count = tensors[mark].shape[1 if mark == MARKS[0] else 0]
    keys = vit_keys(backbone.tensors)
    side = round((len(every["backbone.position.table"]) - keys["tokens"]) ** 0.5) * keys["patch"]
    task: dict[str, Any] = {"head": "mask" if mark == MARKS[0] else "linear"}
    if mark == MARKS[0] and every[f"{MAIN}.inside.weight"].shape[0] != keys["width"]:
        task["width"] = every[f"{MAIN}.inside.weight"].shape[0]
    usual = IMAGENET if family == "deit" else HALF  # of the weights that it was fine-tuned from
    channels = backbone.tensors["patch_embed.proj.weight"].shape[1]
    reasons = (
        f"model.heads = {keys['heads']}: {HEAD_WIDTH} channels each, as published; the file does not show it",
        f"input.mean = {usual.mean[0]} ...: as usual for {family} weights",
    )
    return WholeModel(
        "original", name_model("vit", keys), Choice("segmentation", task),
        input_of(sidecar, usual, (side, side), channels, "slide"), class_names(sidecar, count), every, unknown, dropped,
        reasons,
    )  # fmt: skip


def vit_keys(tensors: Mapping[str, Tensor]) -> dict[str, Any]:
    """The keys of a ViT, from our names and shapes."""
    kernel = tensors["patch_embed.proj.weight"]
    width = kernel.shape[0]
    return {
        "width": width,
        "depth": count_blocks(tensors, "blocks."),
        "heads": max(1, width // HEAD_WIDTH),
        "mlp_ratio": tensors["blocks.0.mlp.fc1.weight"].shape[0] / width,
        "patch": kernel.shape[2],
        "tokens": len(tensors["tokens"]),
        "stem": "patch",
        "eps": 1e-5,
        "position_resampling": "plain_bilinear",
    }
