"""The config of a plain ViT, DeiT or DINOv2 from its tensors and the files beside them."""

import math
from collections.abc import Mapping
from typing import Any

from vitrail.errors import CheckpointError
from vitrail.weights.clues import Clues, Open, as_pair, ratio, square
from vitrail.weights.sidecars import Whole

CONFIG_NAMES: dict[str, tuple[str, ...]] = {  # fields of ours: theirs in transformers and in timm
    "width": ("hidden_size", "model_args.embed_dim", "model_cfg.vision_cfg.width"),
    "depth": ("num_hidden_layers", "model_args.depth", "model_cfg.vision_cfg.layers"),
    "heads": ("num_attention_heads", "model_args.num_heads"),
    "channels": ("num_channels", "model_args.in_chans"),
    "registers": ("num_register_tokens", "model_args.reg_tokens"),
    "qkv_bias": ("qkv_bias", "model_args.qkv_bias"),
    "qk_norm": ("model_args.qk_norm",),
    "eps": ("layer_norm_eps",),
}
GELUS = {"gelu": "erf", "gelu_python": "erf", "gelu_new": "tanh", "gelu_fast": "tanh", "gelu_pytorch_tanh": "tanh",
         "gelu_tanh": "tanh", "quick_gelu": "quick"}  # fmt: skip
HEADS = {  # of all published models by width and depth; the same for a width and depth but for two
    (192, 12): 3, (256, 10): 4, (256, 14): 4, (320, 14): 5, (384, 12): 6, (384, 36): 6, (512, 12): 8, (512, 20): 8,
    (640, 12): 10, (768, 12): 12, (832, 21): 13, (896, 12): 14, (896, 18): 14, (1024, 23): 16, (1024, 24): 16,
    (1152, 27): 16, (1280, 32): 16, (1408, 40): 16, (1536, 40): 16, (1536, 47): 16, (1536, 50): 16, (1664, 48): 16,
    (1792, 64): 16,
}  # fmt: skip
GATED_HEADS = {(1536, 40): 24}  # of DINOv2's giant, whose MLP is gated
EITHER_HEADS = {(768, 12, 16): (12, 16)}  # with a patch, of a bare mean of patches: SigLIP's tower and timm's "gap"
NAMED_HEADS = {"vit_base_patch16_gap_224": 16}
ROPE = "timm:rope"  # the source of timm's ViTs whose rotations of queries and keys no tensor shows
ROTATED = "_rope_"  # in timm's names of them
SPLIT = "/query/kernel"  # [D h d] in Google's files
HEAD_WIDTHS = (64, 32, 16)  # usual ones


def infer(clues: Clues, variants: Mapping[str, Any], stride: int = 0) -> dict[str, Any] | None:
    """The fields of `vit.Config` that the file shows; None where it is no ViT. stride: pixels of a token, 0 for those
    of the patch."""
    if clues.sidecar.writer == "timm" and ROTATED in clues.sidecar.kind and clues.source != ROPE:
        return None
    qkv, depth = clues.shape("blocks.0.attn.qkv.weight"), clues.count("blocks.")
    embed = stem_fields(clues)
    if len(qkv) != 2 or depth < 1 or embed is None:
        return None
    width, mlp = qkv[1], mlp_fields(clues, qkv[1])
    if qkv[0] != 3 * width or clues.shape("patch_embed.proj.weight")[0] != width or mlp is None:
        return None
    tokens, registers = (rows(clues, name) for name in ("tokens", "registers"))
    pre_logits = clues.shape("pre_logits.0.weight")
    fields = {
        "width": width,
        "depth": depth,
        "heads": count_heads(clues, width, depth, variants),
        "tokens": tokens,
        "registers": registers,
        "pre_logits": pre_logits[0] if pre_logits else 0,
        "norm": "layer" if clues.has("blocks.0.norm1.bias") else "rms",
        "qkv_bias": clues.has("blocks.0.attn.qkv.bias"),
        "qk_norm": clues.has("blocks.0.attn.q_norm.weight"),
        "layer_scale": 1e-5 if clues.has("blocks.0.ls1.gamma") else None,
        **embed,
        **mlp,
        **activation(clues),
        **summary_fields(clues),
    }
    place = position_fields(clues, fields, as_pair(stride or fields["patch"]) or (1, 1))
    return {**fields, **place, **relative_fields(clues, fields)}


def rows(clues: Clues, name: str) -> int:
    shape = clues.shape(name)
    return shape[0] if len(shape) == 2 else 0


def stem_fields(clues: Clues) -> dict[str, Any] | None:
    """Patch and channels: of one convolution, or of a stack that halves the image."""
    kernel, first = clues.shape("patch_embed.proj.weight"), clues.shape("patch_embed.convs.0.weight")
    if len(kernel) != 4:
        return None
    if len(first) == 4:
        convs = sum(len(clues.shape(f"patch_embed.convs.{3 * i}.weight")) == 4 for i in range(16))
        return {"stem": "conv", "patch": 2 ** (convs - 1), "channels": first[1]}
    patch = kernel[2] if kernel[2] == kernel[3] else kernel[2:]
    return {"stem": "patch", "patch": patch, "channels": kernel[1]}


def summary_fields(clues: Clues) -> dict[str, Any]:
    """Where the norms are, and what summarises an image: timm's file says a mean beside class tokens."""
    after = clues.has("fc_norm.weight")
    mean = after or (rows(clues, "tokens") and clues.sidecar.get(str, "global_pool", "model_args.global_pool") == "avg")
    pool = "attention" if clues.has("attn_pool.attn.latent") else "mean" if mean else "token"
    return {"norm_pre": clues.has("norm_pre.weight"), "fc_norm": after, "pool": pool}


def relative_fields(clues: Clues, fields: Mapping[str, Any]) -> dict[str, Any]:
    """The MLP of relative positions of timm, and where norms are: models without LayerScale norm what leaves a branch,
    as do others that it calls "rpn", whose tensors are those of a plain ViT."""
    hidden, named = clues.shape("blocks.0.attn.relative.weight1"), "_rpn_" in clues.sidecar.kind
    if len(hidden) != 2:
        if is_unnamed(clues) and not (fields["tokens"] or fields["qkv_bias"] or fields["layer_scale"]):
            return {"norm_at": Open(("branch", "pre"), "whether norms are after each branch or before it")}
        return {"norm_at": "branch"} if named else {}
    norm_at = "branch" if named or fields["layer_scale"] is None else "pre"
    return {"position": "relative_log", "relative_width": hidden[0], "norm_at": norm_at}


def mlp_fields(clues: Clues, width: int) -> dict[str, Any] | None:
    """Kind and width of the MLP: a gated one has two rows in the first matrix for a column of the second."""
    first, last = clues.shape("blocks.0.mlp.fc1.weight"), clues.shape("blocks.0.mlp.fc2.weight")
    gated, out = clues.shape("blocks.0.mlp.w12.weight"), clues.shape("blocks.0.mlp.w3.weight")
    if len(first) == len(last) == 2 and first == (last[1], width):
        return {"mlp": "gelu", "mlp_ratio": ratio(first[0], width)}
    if len(gated) == len(out) == 2 and gated == (2 * out[1], width):
        return {"mlp": "swiglu", "mlp_ratio": ratio(out[1], width)}
    return None


def activation(clues: Clues) -> dict[str, Any]:
    """The form of GELU that a sidecar names. Errors: `CheckpointError` for another activation."""
    name, word = clues.sidecar.find(str, ("hidden_act", "model_args.act_layer"))
    if word is None:
        return {}
    if word not in GELUS:
        what = f"{clues.sidecar.path_of(name)} is {word[:40]!r}, an activation that this ViT has not"
        raise CheckpointError(what, f"there are {', '.join(GELUS)}")
    return {"gelu": GELUS[word]}


def count_heads(clues: Clues, width: int, depth: int, variants: Mapping[str, Any]) -> Any:
    """The number of heads: by the norms of queries, by the sidecar, or as the models of this width have; else open."""
    if norm := clues.shape("blocks.0.attn.q_norm.weight"):
        return width // max(1, norm[0])
    for name, tensor in clues.raw.items():
        if name.endswith(SPLIT) and tensor.ndim >= 3:
            return tensor.shape[-2]
    _, stated = clues.sidecar.find(Whole, CONFIG_NAMES["heads"])
    if stated is not None:
        return stated
    own = [c.heads for c in variants.values() if (c.width, c.depth) == (width, depth)]
    gated = GATED_HEADS.get((width, depth)) if clues.has("blocks.0.mlp.w12.weight") else None
    named = NAMED_HEADS.get(clues.sidecar.kind)
    either = EITHER_HEADS.get((width, depth, clues.shape("patch_embed.proj.weight")[2]))
    if either and is_unnamed(clues) and is_bare_mean(clues):
        return Open(either, "the number of attention heads")
    if known := named or (own[0] if own else None) or gated or HEADS.get((width, depth)):
        return known
    likely = tuple(width // d for d in HEAD_WIDTHS if width % d == 0)[:2]
    return Open(likely or (1,), "the number of attention heads")


def is_unnamed(clues: Clues) -> bool:
    """Whether the file has timm's names, or those of an original that are the same, and nothing names its model."""
    return not clues.sidecar.kind and clues.source.partition(":")[0] in ("timm", "original")


def is_bare_mean(clues: Clues) -> bool:
    """Whether the file has neither a token nor another part that summarises an image: that is the mean of its patches,
    with no norm after it."""
    others = ("tokens", "registers", "fc_norm.weight", "attn_pool.attn.latent", "blocks.0.ls1.gamma")
    return not any(map(clues.has, others))


def position_fields(clues: Clues, fields: Mapping[str, Any], patch: tuple[int, int]) -> dict[str, Any]:
    """The kind of positions, and the size of the images that a table was made for. Rows of tokens precede those of the
    grid. The size stays open for a table of no square grid, where no sidecar has it."""
    table = clues.shape("position.table")
    size = clues.stated_size()
    if len(table) != 2:  # of another kind, which only the family, a sidecar or a person knows
        none = {"position": "none"} if clues.sidecar.get(str, "model_args.pos_embed") == "none" else {}
        return {**none, **({"size": size} if size else {})}
    grids = [(-(-size[0] // patch[0]), -(-size[1] // patch[1]))] if size else []
    for tokens in dict.fromkeys((fields["tokens"], 0)):
        cells = table[0] - tokens
        own = next((grid for grid in grids if grid[0] * grid[1] == cells), None) or square(cells)
        if own is not None:
            exact = size if own in grids and size else (own[0] * patch[0], own[1] * patch[1])
            return {"position": "learned", "position_tokens": tokens > 0 or not fields["tokens"], "size": exact}
    if square(table[0] - fields["tokens"] - fields["registers"]):  # with rows of registers, which ours has not
        return {"position": "learned"}
    likely = tuple((h * patch[0], w * patch[1]) for h, w in grids_of(table[0] - fields["tokens"]))
    return {"position": "learned", "size": Open(likely, "the size of the images of its position table")}


def grids_of(cells: int) -> list[tuple[int, int]]:
    """The two likeliest grids of so many cells, which are no square: the nearest to one."""
    low = next((h for h in range(math.isqrt(max(cells, 1)), 0, -1) if cells % h == 0), 1)
    return [(low, max(cells, 1) // low), (max(cells, 1) // low, low)]
