"""UPerNet (Xiao et al. 2018) on a Swin: the files of mmsegmentation, and what transformers made of them."""

from collections.abc import Mapping
from typing import Any, NamedTuple

import torch
from torch import Tensor

from vitrail.errors import CheckpointError
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


def conv(theirs: str, ours: str, norm: str) -> tuple[Rule, Rule]:
    """A convolution and its batch norm."""
    return Rule(f"{theirs}.conv.{{p}}", f"{ours}.conv.{{p}}"), Rule(f"{theirs}.{norm}.{{p}}", f"{ours}.norm.bn.{{p}}")


MAIN, SECOND_HEAD = "heads.main", "heads.auxiliary"


class Layout(NamedTuple):
    """Names of one library: of the norms of stages, of batch norms, of classifiers."""

    norms: tuple[str, ...]
    batch_norm: str
    classifier: str
    swin: Table | None  # of the backbone behind its prefix; None: those of the family's tables

    def head(self) -> Table:
        bn = self.batch_norm
        return (
            *(Rule(f"{name}.{{p}}", f"heads.neck.norms.{i}.norm.{{p}}") for i, name in enumerate(self.norms)),
            *(rule for i in range(POOLS) for rule in conv(f"decode_head.psp_modules.{i}.1", f"{MAIN}.pools.{i}.1", bn)),
            *conv("decode_head.bottleneck", f"{MAIN}.bottleneck", bn),
            *conv("decode_head.lateral_convs.{i}", f"{MAIN}.laterals.{{i}}", bn),
            *conv("decode_head.fpn_convs.{i}", f"{MAIN}.smooth.{{i}}", bn),
            *conv("decode_head.fpn_bottleneck", f"{MAIN}.fuse", bn),
            Rule(f"decode_head.{self.classifier}.{{p}}", f"{MAIN}.classify.proj.{{p}}"),
        )

    def second(self) -> Table:
        return (
            *conv("auxiliary_head.convs.0", f"{SECOND_HEAD}.conv", self.batch_norm),
            Rule(f"auxiliary_head.{self.classifier}.{{p}}", f"{SECOND_HEAD}.classify.proj.{{p}}"),
        )


PREFIX, THEIRS, OURS = "backbone.", "stages.{s}.blocks.{b}", "layers.{s}.blocks.{b}"
MMSEG: Table = (
    Drop("{rest}.relative_position_index", "made again from the size of the window"),
    Rule("patch_embed.projection.{p}", "patch_embed.proj.{p}"),
    Rule("patch_embed.norm.{p}", "patch_norm.{p}"),
    *(Rule(f"{THEIRS}.norm{k}.{{p}}", f"{OURS}.norm{k}.{{p}}") for k in (1, 2)),
    Rule(f"{THEIRS}.attn.w_msa.relative_position_bias_table", f"{OURS}.attn.relative.table"),
    *(Rule(f"{THEIRS}.attn.w_msa.{x}.{{p}}", f"{OURS}.attn.{x}.{{p}}") for x in ("qkv", "proj")),
    Rule(f"{THEIRS}.ffn.layers.0.0.{{p}}", f"{OURS}.mlp.fc1.{{p}}"),
    Rule(f"{THEIRS}.ffn.layers.1.{{p}}", f"{OURS}.mlp.fc2.{{p}}"),
    *(Rule(f"stages.{s}.downsample.{x}.{{p}}", f"layers.{s + 1}.downsample.{x}.{{p}}", "unfold")
      for s in range(LEVELS - 1) for x in ("norm", "reduction")),
)  # fmt: skip
LAYOUTS = {
    "transformers": Layout(tuple(f"backbone.hidden_states_norms.stage{i + 1}" for i in range(LEVELS)), "batch_norm",
                           "classifier", None),
    "mmseg": Layout(tuple(f"backbone.norm{i}" for i in range(LEVELS)), "bn", "conv_seg", MMSEG),
}  # fmt: skip


def recognise(tensors: Tensors, sidecar: Sidecar, given: Choice) -> WholeModel | None:
    """A UPerNet on a Swin, from its pyramid pooling and its norms of stages."""
    marks = {
        name: {"decode_head.psp_modules.0.1.conv.weight", f"{one.norms[-1]}.weight"} for name, one in LAYOUTS.items()
    }
    source = next((name for name, mark in marks.items() if not mark - tensors.keys()), "")
    if not source:
        return None
    layout = LAYOUTS[source]
    norms = {name: t for name, t in tensors.items() if name.rpartition(".")[0] in layout.norms}
    inside, rest = split_prefix({n: t for n, t in tensors.items() if n not in norms}, PREFIX)
    # in memory in version 5, transformers has a prefix more than on disk
    backbone = (
        convert_backbone({f"swin.{name.removeprefix('swin.')}": t for name, t in inside.items()}, "swin")
        if layout.swin is None
        else convert(inside, layout.swin)
    )
    if "patch_embed.proj.weight" not in backbone.tensors:
        raise CheckpointError("the file is a UPerNet on a backbone that is no Swin", "vitrail reads UPerNet on Swin")
    count, width = rest[f"decode_head.{layout.classifier}.weight"].shape[:2]
    auxiliary = has_our_second_head(rest, width)
    other: Table = layout.second() if auxiliary else (Drop("auxiliary_head.{rest}", SECOND),)
    every, unknown, dropped = join(PREFIX, backbone, convert({**norms, **rest}, (*layout.head(), *other)))
    if "backbone.norm.weight" not in every:  # without a use in this model, so a file needs none
        last = every["heads.neck.norms.3.norm.weight"]
        every |= {"backbone.norm.weight": torch.ones_like(last), "backbone.norm.bias": torch.zeros_like(last)}
    channels = backbone.tensors["patch_embed.proj.weight"].shape[1]
    task = {"head": "upernet", "norm": "batch", "width": width, "auxiliary": 0.4 if auxiliary else 0.0}
    return WholeModel(
        source, name_model("swin", {**swin_keys(backbone.tensors), "map_norm": False}), Choice("segmentation", task),
        input_of(sidecar, IMAGENET, SIZE, channels, "slide"), class_names(sidecar, count), every, unknown, dropped,
        ("model.map_norm = False: the head has the norms of all maps",),
    )  # fmt: skip


def has_our_second_head(rest: Tensors, width: int) -> bool:
    """Whether the second head is one 3x3 convolution of half the width, as ours."""
    first = rest.get("auxiliary_head.convs.0.conv.weight")
    more = any(name.startswith(("auxiliary_head.convs.1.", "auxiliary_head.conv_cat.")) for name in rest)
    return first is not None and first.shape[0] == width // 2 and first.shape[2] == 3 and not more


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
