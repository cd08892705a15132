"""UPerNet (Xiao et al. 2018) on a Swin, as transformers has it (openmmlab's weights, converted)."""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from vitrail.recipe import Choice
from vitrail.weights.preprocessing import IMAGENET
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

SIZE = (512, 512)  # of training, and of the windows of evaluation
POOLS, LEVELS = 4, 4
SECOND = "of a second head for training, of another width or depth than ours"


def conv(theirs: str, ours: str) -> tuple[Rule, Rule]:
    """A convolution and its batch norm."""
    return Rule(f"{theirs}.conv.{{p}}", f"{ours}.conv.{{p}}"), Rule(
        f"{theirs}.batch_norm.{{p}}", f"{ours}.norm.bn.{{p}}"
    )


MAIN, SECOND_HEAD = "heads.main", "heads.auxiliary"
TRANSFORMERS: Table = (
    *(
        Rule(f"backbone.hidden_states_norms.stage{i + 1}.{{p}}", f"heads.neck.norms.{i}.norm.{{p}}")
        for i in range(LEVELS)
    ),
    *(rule for i in range(POOLS) for rule in conv(f"decode_head.psp_modules.{i}.1", f"{MAIN}.pools.{i}.1")),
    *conv("decode_head.bottleneck", f"{MAIN}.bottleneck"),
    *conv("decode_head.lateral_convs.{i}", f"{MAIN}.laterals.{{i}}"),
    *conv("decode_head.fpn_convs.{i}", f"{MAIN}.smooth.{{i}}"),
    *conv("decode_head.fpn_bottleneck", f"{MAIN}.fuse"),
    Rule("decode_head.classifier.{p}", f"{MAIN}.classify.proj.{{p}}"),
)
AUXILIARY: Table = (
    *conv("auxiliary_head.convs.0", f"{SECOND_HEAD}.conv"),
    Rule("auxiliary_head.classifier.{p}", f"{SECOND_HEAD}.classify.proj.{{p}}"),
)
PREFIX, SWIN = "backbone.", ("backbone.swin.", "backbone.")  # in memory in version 5, and on disk


def recognise(tensors: Tensors, sidecar: Sidecar) -> WholeModel | None:
    """A UPerNet on a Swin, from its pyramid pooling and its norms of stages."""
    marks = {"decode_head.psp_modules.0.1.conv.weight", "backbone.hidden_states_norms.stage4.weight"}
    if marks - tensors.keys():
        return None
    norms = {name: t for name, t in tensors.items() if ".hidden_states_norms." in name}
    inside, rest = split_prefix({n: t for n, t in tensors.items() if n not in norms}, PREFIX)
    whole = {f"swin.{name.removeprefix('swin.')}": t for name, t in inside.items()}
    backbone = convert_backbone(whole, "swin")
    if "patch_embed.proj.weight" not in backbone.tensors:
        return None
    width, count = rest["decode_head.classifier.weight"].shape[1], rest["decode_head.classifier.weight"].shape[0]
    second = rest.get("auxiliary_head.convs.0.conv.weight")
    auxiliary = second is not None and second.shape[0] == width // 2 and second.shape[2] == 3 and not any(
        name.startswith(("auxiliary_head.convs.1.", "auxiliary_head.conv_cat.")) for name in rest
    )  # fmt: skip
    other: Table = AUXILIARY if auxiliary else (Drop("auxiliary_head.{rest}", SECOND),)
    head = convert({**norms, **rest}, (*TRANSFORMERS, *other))
    every, unknown, dropped = join(PREFIX, backbone, head)
    reasons = ["model.map_norm = False: the head has the norms of all maps"]
    if "backbone.norm.weight" not in every:  # without a use in this model, so a file needs none
        last = every["heads.neck.norms.3.norm.weight"]
        every |= {"backbone.norm.weight": torch.ones_like(last), "backbone.norm.bias": torch.zeros_like(last)}
    keys = {**swin_keys(backbone.tensors), "map_norm": False}
    channels = backbone.tensors["patch_embed.proj.weight"].shape[1]
    task = Choice("segmentation", {
        "head": "upernet", "norm": "batch", "width": width, "auxiliary": 0.4 if auxiliary else 0.0
    })  # fmt: skip
    return WholeModel(
        "transformers", name_model("swin", keys), task, input_of(sidecar, IMAGENET, SIZE, channels, "slide"),
        class_names(sidecar, count), every, unknown, dropped, tuple(reasons),
    )  # fmt: skip


def swin_keys(tensors: Mapping[str, Tensor]) -> dict[str, Any]:
    """The keys of a Swin, from our names and shapes."""
    tables = [tensors[f"layers.{s}.blocks.0.attn.relative.table"] for s in range(LEVELS)]
    patch = tensors["patch_embed.proj.weight"]
    hidden = tensors["layers.0.blocks.0.mlp.fc1.weight"].shape[0]
    return {
        "width": patch.shape[0],
        "depths": tuple(count_blocks(tensors, f"layers.{s}.blocks.") for s in range(LEVELS)),
        "heads": tuple(table.shape[1] for table in tables),
        "window": (round(len(tables[0]) ** 0.5) + 1) // 2,
        "patch": patch.shape[2],
        "mlp_ratio": hidden / patch.shape[0],
        "qkv_bias": "layers.0.blocks.0.attn.qkv.bias" in tensors,
    }
