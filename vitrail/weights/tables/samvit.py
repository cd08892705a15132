"""Names of SAM's image encoder: timm, transformers, and the original's files, which have the prompt encoder and the
mask decoder beside it. None has a classifier but timm's."""

from typing import Any

from vitrail.layers.windows import local_depths
from vitrail.models.samvit import Config
from vitrail.weights.clues import Clues, ratio, square
from vitrail.weights.preprocessing import IMAGENET, Preprocessing
from vitrail.weights.rules import Drop, Rule

Table = tuple[Rule | Drop, ...]
OTHERS = "of the prompt encoder and the mask decoder, which are not here"
AXES = (("rel_pos_h", "rows"), ("rel_pos_w", "columns"))
POSITION = Rule("pos_embed", "position.table", "cells")


def trunk(stem: str, block: str, norm: str, mlp: str, prefix: str = "") -> Table:
    """Names behind a prefix that is in the file: those of the stem, a block, its norms and its MLP's layers."""
    b, ours = f"{prefix}{block}.{{i}}", "blocks.{i}"
    return (
        Rule(f"{prefix}{POSITION.theirs}", POSITION.ours, POSITION.steps),
        Rule(f"{prefix}patch_embed.{stem}.{{p}}", "patch_embed.proj.{p}"),
        *(Rule(f"{b}.{norm}{k}.{{p}}", f"{ours}.norm{k}.{{p}}") for k in (1, 2)),
        *(Rule(f"{b}.attn.{x}.{{p}}", f"{ours}.attn.{x}.{{p}}") for x in ("qkv", "proj")),
        *(Rule(f"{b}.attn.{theirs}", f"{ours}.attn.relative.{axis}") for theirs, axis in AXES),
        *(Rule(f"{b}.mlp.{mlp}{k}.{{p}}", f"{ours}.mlp.fc{k}.{{p}}") for k in (1, 2)),
    )


def transformers(prefix: str) -> Table:
    """The neck has names there, not numbers."""
    names = ("conv1", "layer_norm1", "conv2", "layer_norm2")
    return (*trunk("projection", "layers", "layer_norm", "lin", prefix), *neck(f"{prefix}neck.", names))


def neck(prefix: str, names: tuple[str, ...] = ("0", "1", "2", "3")) -> Table:
    """Convolution, norm, convolution, norm."""
    ours = ("neck.0", "neck.1.norm", "neck.2", "neck.3.norm")
    return tuple(Rule(f"{prefix}{name}.{{p}}", f"{place}.{{p}}") for name, place in zip(names, ours, strict=True))


def drops(*names: str) -> Table:
    return tuple(Drop(f"{name}.{{rest}}", OTHERS) for name in names)


FILE, HEAD = "image_encoder.", (Rule("neck.{p}", "neck.norm.{p}"), Rule("head.fc.{p}", "heads.0.{p}"))
SOURCES: dict[str, Table] = {
    "timm": (*trunk("proj", "blocks", "norm", "fc"), *neck("neck."), *HEAD),
    "original": (
        *trunk("proj", "blocks", "norm", "lin", FILE),
        *neck(f"{FILE}neck."),
        *drops("prompt_encoder", "mask_decoder"),
    ),
    "transformers": (
        *transformers("vision_encoder."),
        *drops("shared_image_embedding", "prompt_encoder", "mask_decoder"),
    ),
    "transformers:tower": transformers(""),
}
PREPROCESSING: dict[str, Preprocessing] = {
    "timm": IMAGENET._replace(crop_ratio=1.0),  # of the weights of SAM
    "original": IMAGENET._replace(crop_ratio=1.0, interpolation="bilinear"),
    "transformers": IMAGENET._replace(crop_ratio=1.0, interpolation="bilinear"),
}
SETTINGS: dict[str, dict[str, Any]] = {"timm": {"eps": 1e-5}}  # of the original 1e-6, which timm forgot
CONFIG_NAMES: dict[str, tuple[str, ...]] = {
    "heads": ("num_attention_heads", "model_args.num_heads"),
    "eps": ("layer_norm_eps",),
}


def infer(clues: Clues) -> dict[str, Any] | None:
    """The config that a file shows: its grid and windows by the tables of relative positions."""
    kernel, hidden, depth = (
        clues.shape("patch_embed.proj.weight"), clues.shape("blocks.0.mlp.fc1.weight"), clues.count("blocks."),
    )  # fmt: skip
    rows = [clues.shape(f"blocks.{i}.attn.relative.rows") for i in range(max(0, depth))]
    columns = [clues.shape(f"blocks.{i}.attn.relative.columns") for i in range(max(0, depth))]
    if len(kernel) != 4 or len(hidden) != 2 or depth < 1 or any(len(one) != 2 for one in (*rows, *columns)):
        return None
    width, patch, sides = kernel[0], kernel[2], sorted({(one[0] + 1) // 2 for one in rows})
    whole, window = sides[-1], sides[0] if len(sides) == 2 else 0
    if window and square(len(clues.tensors.get("position.table", ()))) == (window, window):
        whole, window = window, whole  # of images smaller than a window
    blocks = tuple(i for i, one in enumerate(rows, start=1) if (one[0] + 1) // 2 == whole)
    across = {(columns[i - 1][0] + 1) // 2 for i in blocks}
    out = clues.shape("neck.0.weight")
    fields = {
        "width": width,
        "depth": depth,
        "heads": width // max(1, rows[0][1]),
        "mlp_ratio": ratio(hidden[0], width),
        "patch": patch,
        "size": (whole * patch, max(across) * patch),
        "channels": kernel[1],
        "position": "learned" if clues.has("position.table") else "none",
        "relative": True,
        "neck": out[0] if len(out) == 4 else 0,
        "qkv_bias": clues.has("blocks.0.attn.qkv.bias"),
    }
    if not window:  # none, or as large as the image, which is the same at its size
        return {**fields, "window": Config.window if whole == Config.window else 0}
    usual = tuple(i for i in range(1, depth + 1) if i not in local_depths(window, (), depth))
    return {**fields, "window": window, "global_blocks": () if blocks == usual else blocks}
