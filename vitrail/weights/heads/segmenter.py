"""Segmenter (Strudel et al. 2021) on a plain ViT, by the names of its repository (github.com/rstrudel/segmenter) and by
those of mmsegmentation: the mask transformer, or one linear layer."""

from collections.abc import Mapping
from typing import Any, NamedTuple

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
    count_blocks,
    input_of,
    join,
    name_model,
    split_prefix,
)

HEAD_WIDTH = 64
MAIN = "heads.main"
PRETRAINING = "head of pre-training, which segmentation does not use"
UNUSED = "a linear layer that mmsegmentation builds and does not use"


def parts(before: str, norm: str, attention: tuple[str, str], mlp: tuple[str, str], ours: str) -> Table:
    """The names of a block: norms, attention, MLP."""
    return (
        *(Rule(f"{before}.{norm}{k}.{{p}}", f"{ours}.norm{k}.{{p}}") for k in (1, 2)),
        Rule(f"{before}.{attention[0]}{{p}}", f"{ours}.attn.qkv.{{p}}"),
        Rule(f"{before}.{attention[1]}.{{p}}", f"{ours}.attn.proj.{{p}}"),
        *(Rule(f"{before}.{name}.{{p}}", f"{ours}.mlp.fc{k}.{{p}}") for k, name in enumerate(mlp, start=1)),
    )


ORIGINAL = ("norm", ("attn.qkv.", "attn.proj"), ("mlp.fc1", "mlp.fc2"))
MMSEG = ("ln", ("attn.attn.in_proj_", "attn.attn.out_proj"), ("ffn.layers.0.0", "ffn.layers.1"))
TOKENS = (
    Rule(("cls_token", "dist_token"), "tokens", ("row", "fuse")),
    Rule("cls_token", "tokens", "row"),
    Rule("pos_embed", "position.table", "row"),
)


class Layout(NamedTuple):
    """The names of one library, and the settings that go with them. marks: of the mask transformer and of the linear
    decoder."""

    prefix: str  # of the backbone
    marks: tuple[str, str]
    vit: Table
    head: Table
    settings: dict[str, Any]


LAYOUTS = {
    "original": Layout(
        "encoder.",
        ("decoder.cls_emb", "decoder.head.weight"),
        (
            *TOKENS,
            Rule("patch_embed.proj.{p}", "patch_embed.proj.{p}"),
            *parts("blocks.{i}", *ORIGINAL, "blocks.{i}"),
            Rule("norm.{p}", "norm.{p}"),
            Drop("head.{p}", PRETRAINING),
            Drop("head_dist.{p}", PRETRAINING),
        ),
        (
            Rule("decoder.head.{p}", f"{MAIN}.classify.proj.{{p}}", "pointwise"),
            Rule("decoder.cls_emb", f"{MAIN}.classes", "row"),
            Rule("decoder.proj_dec.{p}", f"{MAIN}.inside.{{p}}"),
            Rule("decoder.proj_patch", f"{MAIN}.cell_proj"),
            Rule("decoder.proj_classes", f"{MAIN}.class_proj"),
            Rule("decoder.decoder_norm.{p}", f"{MAIN}.norm.{{p}}"),
            Rule("decoder.mask_norm.{p}", f"{MAIN}.mask_norm.{{p}}"),
            *parts("decoder.blocks.{i}", *ORIGINAL, f"{MAIN}.blocks.{{i}}"),
        ),
        {"eps": 1e-5, "position_resampling": "plain_bilinear"},
    ),
    "mmseg": Layout(
        "backbone.",
        ("decode_head.cls_emb", "decode_head.conv_seg.weight"),
        (
            *TOKENS,
            Rule("patch_embed.projection.{p}", "patch_embed.proj.{p}"),
            *parts("layers.{i}", *MMSEG, "blocks.{i}"),
            Rule("ln1.{p}", "norm.{p}"),
        ),
        (
            Rule("decode_head.cls_emb", f"{MAIN}.classes", "row"),
            Rule("decode_head.dec_proj.{p}", f"{MAIN}.inside.{{p}}"),
            Rule("decode_head.patch_proj.weight", f"{MAIN}.cell_proj", "linear"),
            Rule("decode_head.classes_proj.weight", f"{MAIN}.class_proj", "linear"),
            Rule("decode_head.decoder_norm.{p}", f"{MAIN}.norm.{{p}}"),
            Rule("decode_head.mask_norm.{p}", f"{MAIN}.mask_norm.{{p}}"),
            *parts("decode_head.layers.{i}", *MMSEG, f"{MAIN}.blocks.{{i}}"),
        ),
        {"eps": 1e-6, "position_resampling": "bicubic"},
    ),
}
LINEAR: Table = (Rule("decode_head.conv_seg.{p}", f"{MAIN}.classify.proj.{{p}}"),)


def recognise(tensors: Tensors, sidecar: Sidecar, given: Choice) -> WholeModel | None:
    """A Segmenter, from its class embeddings or its linear decoder beside a ViT."""
    source, layout = next(
        ((name, one) for name, one in LAYOUTS.items()
         if f"{one.prefix}pos_embed" in tensors and any(mark in tensors for mark in one.marks)), ("", None)
    )  # fmt: skip
    if layout is None:
        return None
    inside, rest = split_prefix(tensors, layout.prefix)
    has_masks, distilled = layout.marks[0] in tensors, "dist_token" in inside
    last: Table = (Drop("decode_head.conv_seg.{p}", UNUSED),) if has_masks else LINEAR
    backbone, head = convert(inside, layout.vit), convert(rest, (*layout.head, *last))
    every, unknown, dropped = join(layout.prefix, backbone, head)
    count = tensors[layout.marks[0]].shape[1] if has_masks else tensors[layout.marks[1]].shape[0]
    keys = {**vit_keys(backbone.tensors), **layout.settings}
    side = round((len(every["backbone.position.table"]) - keys["tokens"]) ** 0.5) * keys["patch"]
    task: dict[str, Any] = {"head": "mask" if has_masks else "linear"}
    if has_masks and every[f"{MAIN}.inside.weight"].shape[0] != keys["width"]:
        task["width"] = every[f"{MAIN}.inside.weight"].shape[0]
    usual = IMAGENET if distilled else HALF  # of the weights that it was fine-tuned from
    channels = backbone.tensors["patch_embed.proj.weight"].shape[1]
    reasons = (
        f"model.heads = {keys['heads']}: {HEAD_WIDTH} channels each, as published; the file does not show it",
        f"input.mean = {usual.mean[0]} ...: as usual for {'DeiT' if distilled else 'AugReg'} weights",
    )
    return WholeModel(
        source, name_model("vit", keys), Choice("segmentation", task),
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
    }
