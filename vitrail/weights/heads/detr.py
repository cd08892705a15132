"""DETR (Carion et al. 2020) on a ResNet: the original's files and those of transformers, panoptic ones without their
mask head.

A file does not show its number of heads (8 in every published one) and not whether the last stage is dilated (DC5);
the config.json beside it does.
"""

from collections.abc import Mapping
from typing import Any

from torch import Tensor

from vitrail.errors import CheckpointError
from vitrail.recipe import Choice
from vitrail.validation import Fraction
from vitrail.weights.preprocessing import IMAGENET
from vitrail.weights.rules import Drop, Rule, convert
from vitrail.weights.sidecars import Sidecar, Whole, unique_names
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

HEADS = 8  # of every published model
SIZE = (1088, 1088)  # published: shorter side 800, longer at most 1333, so that images of 4:3 have 1067x800 pixels
MASKS = "of the mask head for panoptic segmentation"
COCO = (  # by category id; ids without a name are unused
    " person bicycle car motorcycle airplane bus train truck boat traffic_light fire_hydrant  stop_sign parking_meter"
    " bench bird cat dog horse sheep cow elephant bear zebra giraffe  backpack umbrella   handbag tie suitcase frisbee"
    " skis snowboard sports_ball kite baseball_bat baseball_glove skateboard surfboard tennis_racket bottle "
    " wine_glass cup fork knife spoon bowl banana apple sandwich orange broccoli carrot hot_dog pizza donut cake chair"
    " couch potted_plant bed  dining_table   toilet  tv laptop mouse remote keyboard cell_phone microwave oven toaster"
    " sink refrigerator  book clock vase scissors teddy_bear hair_drier toothbrush"
)
OUTSIDE = (
    Rule("class_embed.{p}", "class_embed.{p}"),
    *(Rule(f"bbox_embed.layers.{i}.{{p}}", f"bbox_embed.{2 * i}.{{p}}") for i in range(3)),
)


def original() -> Table:
    rules: list[Rule | Drop] = [
        *OUTSIDE,
        Rule("input_proj.{p}", "input_proj.0.{p}"),
        Rule("query_embed.weight", "queries.places"),
        Rule("transformer.decoder.norm.{p}", "norm.{p}"),
        Drop("mask_head.{rest}", MASKS),
        Drop("bbox_attention.{rest}", MASKS),
    ]
    for part, attentions in (("encoder", ("self_attn",)), ("decoder", ("self_attn", "multihead_attn"))):
        b, ours = f"transformer.{part}.layers.{{i}}", f"{part}.{{i}}"
        for name in attentions:
            attn = f"{ours}.{name.replace('multihead', 'cross')}"
            rules.append(Rule(f"{b}.{name}.in_proj_{{p}}", tuple(f"{attn}.{x}.{{p}}" for x in "qkv"), "split"))
            rules.append(Rule(f"{b}.{name}.out_proj.{{p}}", f"{attn}.proj.{{p}}"))
        rules += [Rule(f"{b}.linear{k}.{{p}}", f"{ours}.mlp.{place}.{{p}}") for k, place in ((1, 0), (2, 3))]
        rules += [Rule(f"{b}.norm{k}.{{p}}", f"{ours}.norm{k}.{{p}}") for k in range(1, len(attentions) + 2)]
    return tuple(rules)


def transformers() -> Table:
    """Names on disk, and those of a model in memory in version 5."""
    rules: list[Rule | Drop] = [
        Rule("class_labels_classifier.{p}", "class_embed.{p}"),
        *(Rule(f"bbox_predictor.layers.{i}.{{p}}", f"bbox_embed.{2 * i}.{{p}}") for i in range(3)),
        Rule("model.input_projection.{p}", "input_proj.0.{p}"),
        Rule("model.query_position_embeddings.weight", "queries.places"),
        Rule("model.decoder.layernorm.{p}", "norm.{p}"),
    ]
    for part, attentions in (("encoder", ("self_attn",)), ("decoder", ("self_attn", "encoder_attn"))):
        b, ours = f"model.{part}.layers.{{i}}", f"{part}.{{i}}"
        for k, name in enumerate(attentions, start=1):
            attn = f"{ours}.{name.replace('encoder', 'cross')}"
            rules += [Rule(f"{b}.{name}.{x}_proj.{{p}}", f"{attn}.{x}.{{p}}") for x in "qkv"]
            rules += [Rule(f"{b}.{name}.{x}_proj.{{p}}", f"{attn}.proj.{{p}}") for x in ("out", "o")]
            rules.append(Rule(f"{b}.{name}_layer_norm.{{p}}", f"{ours}.norm{k}.{{p}}"))
        rules.append(Rule(f"{b}.final_layer_norm.{{p}}", f"{ours}.norm{len(attentions) + 1}.{{p}}"))
        for k, place in ((1, 0), (2, 3)):
            rules += [Rule(f"{b}.{mlp}fc{k}.{{p}}", f"{ours}.mlp.{place}.{{p}}") for mlp in ("", "mlp.")]
    return tuple(rules)


# source: the mark of its names, the prefixes of the backbone, the rules of the rest
SOURCES: dict[str, tuple[str, tuple[str, ...], Table]] = {
    "original": ("query_embed.weight", ("backbone.0.body.",), original()),
    "transformers": (
        "model.query_position_embeddings.weight",
        ("model.backbone.conv_encoder.model.", "model.backbone.model."),
        transformers(),
    ),
}
PANOPTIC = "detr."  # the prefix of the detector in a panoptic file


def recognise(tensors: Tensors, sidecar: Sidecar, given: Choice) -> WholeModel | None:
    """A DETR, from its object queries and its box head. Errors: `CheckpointError` for settings that ours has not."""
    masks = [name for name in tensors if name.startswith(("mask_head.", "bbox_attention."))]
    inside, rest = split_prefix(tensors, PANOPTIC)
    names = inside if masks and len(rest) == len(masks) else {n: t for n, t in tensors.items() if n not in masks}
    for source, (mark, prefixes, rules) in SOURCES.items():
        prefix = next((p for p in prefixes if any(name.startswith(p) for name in names)), "")
        if mark not in names or not prefix:
            continue
        stem, rest = split_prefix(names, prefix)
        backbone, head = convert_backbone(stem, "resnet"), convert(rest, rules)
        every, unknown, dropped = join(prefix, backbone, head)
        if {"input_proj.0.weight", "class_embed.weight", "queries.places"} - every.keys():
            continue
        dilated = bool(sidecar.get(bool, "dilation"))
        model = name_model("resnet", {**resnet_keys(backbone.tensors), **({"last_stride": 1} if dilated else {})})
        count = every["class_embed.weight"].shape[0] - 1
        names_given = class_names(sidecar, count)
        classes = coco_names() if count == 91 and names_given[0] == "0" else names_given
        about = input_of(sidecar, IMAGENET, SIZE, backbone.tensors["conv1.weight"].shape[1], "fit")
        return WholeModel(
            source, model, detection(every, sidecar, dilated), about, classes, every, unknown,
            dropped | dict.fromkeys(masks, MASKS), reasons(sidecar, dilated),
        )  # fmt: skip
    return None


def detection(tensors: Tensors, sidecar: Sidecar, dilated: bool) -> Choice:
    """The keys of the task, from shapes. Errors: `CheckpointError`."""
    heads = {sidecar.get(Whole, f"{part}_attention_heads") or HEADS for part in ("encoder", "decoder")}
    kinds = (sidecar.get(str, "position_embedding_type"), sidecar.get(str, "activation_function"))
    if len(heads) > 1 or kinds[0] not in (None, "sine") or kinds[1] not in (None, "relu"):
        raise CheckpointError(
            "the DETR has other numbers of heads in encoder and decoder, learned positions or another activation",
            "vitrail has the published DETR: one number of heads, sines, ReLU",
        )
    stated = sidecar.get(Fraction, "dropout")
    dropout = 0.1 if stated is None else float(stated)
    queries, width = tensors["queries.places"].shape
    encoder, decoder = count_blocks(tensors, "encoder."), count_blocks(tensors, "decoder.")
    hidden = tensors["decoder.0.mlp.0.weight"].shape[0] if decoder else 2048
    return Choice("detection", {
        "kind": "slots", "queries": queries, "width": width, "heads": heads.pop(), "encoder": encoder,
        "decoder": decoder, "hidden": hidden, "dropout": dropout,
        **({"stride": 16, "maps": "last"} if dilated else {"stride": 32}),
    })  # fmt: skip


def resnet_keys(tensors: Mapping[str, Tensor]) -> dict[str, Any]:
    """The keys of a ResNet, from our names and shapes."""
    depths = tuple(count_blocks(tensors, f"layer{i}.") for i in (1, 2, 3, 4))
    block = "bottleneck" if "layer1.0.conv3.weight" in tensors else "basic"
    return {"depths": depths, "block": block, "width": tensors["conv1.weight"].shape[0]}


def reasons(sidecar: Sidecar, dilated: bool) -> tuple[str, ...]:
    shown = []
    if sidecar.get(Whole, "encoder_attention_heads") is None:
        shown.append(f"task.heads = {HEADS}: as published; the file does not show it")
    if dilated:
        shown.append("model.last_stride = 1: dilation (DC5), as its config.json or its name says")
    elif sidecar.get(bool, "dilation") is None:
        shown.append("model.last_stride = 2: DC5 has the same names, and is recognised by dc5 in the file's name")
    return tuple(shown)


def coco_names() -> tuple[str, ...]:
    """The names of COCO's 91 category ids; the ten that are unused and that of 0 are numbered."""
    return unique_names([name.replace("_", " ") or "N/A" for name in COCO.split(" ")])
