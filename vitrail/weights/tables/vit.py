"""Names of published ViT weights: Google's .npz (three layouts), timm, transformers, torchvision, DINO and DINOv2."""

from typing import Any

from vitrail.models.vit import VARIANTS
from vitrail.weights.clues import Clues
from vitrail.weights.preprocessing import HALF, IMAGENET, Preprocessing
from vitrail.weights.rules import Drop, Rule
from vitrail.weights.tables import _assumed, _infer_vit
from vitrail.weights.tables._infer_vit import CONFIG_NAMES as CONFIG_NAMES

Table = tuple[Rule | Drop, ...]
MASK = "mask token of pre-training, unused afterwards"
MASKED = "the decoder of pre-training, unused afterwards"

TOKEN = (Rule("cls_token", "tokens", "row"), Rule("pos_embed", "position.table", "row"))
HEAD = (Rule("head.{p}", "heads.0.{p}"),)
STEM = (Rule("patch_embed.proj.{p}", "patch_embed.proj.{p}"),)
BLOCKS = tuple(
    Rule(f"blocks.{{i}}.{part}.{{rest}}", f"blocks.{{i}}.{part}.{{rest}}") for part in ("norm1", "attn", "norm2", "mlp")
)
TRUNK = (*STEM, *BLOCKS, Rule("norm.{p}", "norm.{p}"), Rule("pre_logits.fc.{p}", "pre_logits.0.{p}"))
POOL = (  # attention pooling of timm
    Rule("attn_pool.norm.{p}", "attn_pool.norm.{p}"),
    Rule("attn_pool.mlp.{rest}", "attn_pool.mlp.{rest}"),
    Rule("attn_pool.latent", "attn_pool.attn.latent", "row"),
    Rule("attn_pool.{x}.{p}", "attn_pool.attn.{x}.{p}"),
)
RELATIVE = tuple(  # of timm: in every block, or one for all
    Rule(f"{theirs}.mlp.fc{{k}}.{p}", f"blocks.{{{i}}}.attn.relative.{p}{{k}}")
    for i, theirs in (("i", "blocks.{i}.attn.rel_pos"), ("each", "shared_rel_pos"))
    for p in ("weight", "bias")
)
SCALES = (
    Rule("blocks.{i}.ls{k}.gamma", "blocks.{i}.ls{k}.gamma"),
    Rule("blocks.{i}.gamma_{k}", "blocks.{i}.ls{k}.gamma"),
)
PACKED = (
    Rule("blocks.{i}.mlp.fc1.{p}", "blocks.{i}.mlp.w12.{p}"),
    Rule("blocks.{i}.mlp.fc2.{p}", "blocks.{i}.mlp.w3.{p}"),
)
DECODER = (
    Drop("mask_token", MASK),
    Drop("decoder_pos_embed", MASKED),
    *(Drop(f"decoder_{part}.{{rest}}", MASKED) for part in ("embed", "blocks", "norm", "pred")),
)
REGISTERS = (Rule("reg_token", "registers", "row"),)
PLACED = (
    Rule(("reg_token", "pos_embed"), ("registers", "position.table"), "placed"),
)  # rows of the table for them too


def transformers(disk: bool, prefixes: tuple[str, ...]) -> Table:
    """disk: names in a file, else those of a model in memory in version 5. prefixes: of the model in its classifier."""
    rules: list[Rule | Drop] = []
    for p in prefixes:
        rules += [*outside(p), Rule(f"{p}pooler.dense.{{p}}", "pre_logits.0.{p}")]
        for b in (f"{p}encoder.layer.{{i}}.",) if disk else (f"{p}layers.{{i}}.", f"{p}encoder.layer.{{i}}."):
            rules += attention(b, disk)
            names = [("layernorm_before", "norm1"), ("layernorm_after", "norm2")]
            names += (
                [("intermediate.dense", "mlp.fc1"), ("output.dense", "mlp.fc2")]
                if disk
                else [("mlp.fc1",) * 2, ("mlp.fc2",) * 2]
            )
            rules += [Rule(f"{b}{theirs}.{{p}}", f"blocks.{{i}}.{ours}.{{p}}") for theirs, ours in names]
    return (*rules, Rule("classifier.{p}", "heads.0.{p}"))


def dinov2(disk: bool, registers: bool, swiglu: bool) -> Table:
    """DINOv2 in transformers. A gated MLP is one matrix on disk and two in memory."""
    rules: list[Rule | Drop] = []
    for p in ("dinov2_with_registers." if registers else "dinov2.", ""):
        b, ours = f"{p}encoder.layer.{{i}}.", "blocks.{i}."
        rules += [*outside(p), Drop(f"{p}embeddings.mask_token", MASK), *attention(b, disk)]
        rules += [Rule(f"{p}embeddings.register_tokens", "registers", "row")] if registers else []
        rules += [Rule(f"{b}norm{k}.{{p}}", f"{ours}norm{k}.{{p}}") for k in (1, 2)]
        rules += [Rule(f"{b}layer_scale{k}.lambda1", f"{ours}ls{k}.gamma") for k in (1, 2)]
        if not swiglu:
            rules += [Rule(f"{b}mlp.fc{k}.{{p}}", f"{ours}mlp.fc{k}.{{p}}") for k in (1, 2)]
        elif disk:
            rules += [
                Rule(f"{b}mlp.weights_{x}.{{p}}", f"{ours}mlp.{y}.{{p}}") for x, y in (("in", "w12"), ("out", "w3"))
            ]
        else:
            rules.append(Rule((f"{b}mlp.gate_proj.{{p}}", f"{b}mlp.up_proj.{{p}}"), f"{ours}mlp.w12.{{p}}", "fuse"))
            rules.append(Rule(f"{b}mlp.down_proj.{{p}}", f"{ours}mlp.w3.{{p}}"))
    return (*rules, Rule("classifier.{p}", "heads.0.{p}"))


def outside(p: str) -> list[Rule]:
    """Tensors outside blocks, with the prefix `p`."""
    return [
        Rule(f"{p}embeddings.cls_token", "tokens", "row"),
        Rule(f"{p}embeddings.position_embeddings", "position.table", "row"),
        Rule(f"{p}embeddings.patch_embeddings.projection.{{p}}", "patch_embed.proj.{p}"),
        Rule(f"{p}layernorm.{{p}}", "norm.{p}"),
    ]


def attention(b: str, disk: bool) -> list[Rule]:
    """The attention of a block whose names begin with `b`."""
    qkv = ("attention.query", "attention.key", "attention.value") if disk else ("q_proj", "k_proj", "v_proj")
    return [
        Rule(tuple(f"{b}attention.{x}.{{p}}" for x in qkv), "blocks.{i}.attn.qkv.{p}", "fuse"),
        Rule(f"{b}attention.{'output.dense' if disk else 'o_proj'}.{{p}}", "blocks.{i}.attn.proj.{p}"),
    ]


TORCHVISION = (
    Rule("class_token", "tokens", "row"),
    Rule("encoder.pos_embedding", "position.table", "row"),
    Rule("conv_proj.{p}", "patch_embed.proj.{p}"),
    *(Rule(f"encoder.layers.encoder_layer_{{i}}.{theirs}{{p}}", f"blocks.{{i}}.{ours}.{{p}}") for theirs, ours in (
        ("ln_1.", "norm1"), ("self_attention.in_proj_", "attn.qkv"), ("self_attention.out_proj.", "attn.proj"),
        ("ln_2.", "norm2"),
        ("mlp.0.", "mlp.fc1"), ("mlp.3.", "mlp.fc2"), ("mlp.linear_1.", "mlp.fc1"), ("mlp.linear_2.", "mlp.fc2"))),
    Rule("encoder.ln.{p}", "norm.{p}"),
    Rule("heads.pre_logits.{p}", "pre_logits.0.{p}"),
    Rule("heads.head.{p}", "heads.0.{p}"),
)  # fmt: skip


def google(table: str, block: str, attention: str, norm2: str, mlp: str) -> Table:
    """Flax kernels, with split heads. Later code numbers modules by kind; with scan, one tensor stacks all blocks."""
    b, ours = f"Transformer/{block}/", "blocks.{all}." if block == "encoderblock" else "blocks.{i}."
    qkv = [f"{b}{attention}/{x}/" for x in ("query", "key", "value")]
    return (
        Rule("cls", "tokens", "row"),
        Rule(table, "position.table", "row"),
        *dense("embedding", "patch_embed.proj", "conv"),
        *scale(f"{b}LayerNorm_0", f"{ours}norm1"),
        Rule(tuple(f"{x}kernel" for x in qkv), f"{ours}attn.qkv.weight", ("heads_in", "fuse")),
        Rule(tuple(f"{x}bias" for x in qkv), f"{ours}attn.qkv.bias", ("heads_bias", "fuse")),
        *dense(f"{b}{attention}/out", f"{ours}attn.proj", "heads_out"),
        *scale(f"{b}{norm2}", f"{ours}norm2"),
        *dense(f"{b}{mlp}/Dense_0", f"{ours}mlp.fc1"),
        *dense(f"{b}{mlp}/Dense_1", f"{ours}mlp.fc2"),
        *scale("Transformer/encoder_norm", "norm"),
        *dense("pre_logits", "pre_logits.0"),
        *dense("head", "heads.0"),
    )


def dense(theirs: str, ours: str, step: str = "linear") -> tuple[Rule, Rule]:
    return Rule(f"{theirs}/kernel", f"{ours}.weight", step), Rule(f"{theirs}/bias", f"{ours}.bias")


def scale(theirs: str, ours: str) -> tuple[Rule, Rule]:
    return Rule(f"{theirs}/scale", f"{ours}.weight"), Rule(f"{theirs}/bias", f"{ours}.bias")


def map_head(theirs: str = "MAPHead_0", ours: str = "attn_pool") -> Table:
    """Attention pooling of big_vision, which is beside the transformer."""
    mix, kernel, bias = f"{theirs}/MultiHeadDotProductAttention_0", "heads_in", "heads_bias"
    pair = [(f"{mix}/key/{p}", f"{mix}/value/{p}") for p in ("kernel", "bias")]
    return (
        Rule(f"{theirs}/probe", f"{ours}.attn.latent", "row"),
        Rule(f"{mix}/query/kernel", f"{ours}.attn.q.weight", kernel),
        Rule(f"{mix}/query/bias", f"{ours}.attn.q.bias", bias),
        Rule(pair[0], f"{ours}.attn.kv.weight", (kernel, "fuse")),
        Rule(pair[1], f"{ours}.attn.kv.bias", (bias, "fuse")),
        *dense(f"{mix}/out", f"{ours}.attn.proj", "heads_out"),
        *scale(f"{theirs}/LayerNorm_0", f"{ours}.norm"),
        *dense(f"{theirs}/MlpBlock_0/Dense_0", f"{ours}.mlp.fc1"),
        *dense(f"{theirs}/MlpBlock_0/Dense_1", f"{ours}.mlp.fc2"),
    )


OLD = ("MultiHeadDotProductAttention_1", "LayerNorm_2", "MlpBlock_3")
NEW = ("MultiHeadDotProductAttention_0", "LayerNorm_1", "MlpBlock_0")
INPUT = "Transformer/posembed_input/pos_embedding"

KINDS = [  # of DINOv2 in transformers: such as "-registers-live-swiglu"
    (f"{'-registers' * registers}{'-live' * live}{'-swiglu' * swiglu}", not live, registers, swiglu)
    for registers in (False, True)
    for live in (False, True)
    for swiglu in (False, True)
]

SOURCES: dict[str, Table] = {
    "timm": (*TOKEN, *TRUNK, *HEAD),
    "timm:relative": (
        *RELATIVE[:2],
        *SCALES[:1],
        Rule("fc_norm.{p}", "fc_norm.{p}"),
        *TRUNK,
        *TOKEN,
        *HEAD,
        *RELATIVE[2:],
    ),
    "timm:dinov2": (*TOKEN, *SCALES, *TRUNK, *HEAD),
    "timm:dinov2-registers": (*TOKEN, *REGISTERS, *SCALES, *TRUNK, *HEAD),
    "timm:dinov2-swiglu": (*TOKEN, *SCALES, *PACKED, *TRUNK, *HEAD),
    "timm:dinov2-registers-swiglu": (*TOKEN, *REGISTERS, *SCALES, *PACKED, *TRUNK, *HEAD),
    "timm:gap": (*TOKEN, *REGISTERS, *SCALES[:1], Rule("fc_norm.{p}", "fc_norm.{p}"), *TRUNK, *HEAD),
    "timm:gap-placed": (*PLACED, *SCALES[:1], Rule("fc_norm.{p}", "fc_norm.{p}"), *TRUNK, *HEAD),
    "original": (*TOKEN, Drop("mask_token", MASK), *SCALES, *TRUNK, *HEAD),
    "original:mae": (*TOKEN, *DECODER, Rule("fc_norm.{p}", "fc_norm.{p}"), *TRUNK, *HEAD),
    "original:registers": (
        *TOKEN,
        Rule("register_tokens", "registers", "row"),
        Drop("mask_token", MASK),
        *SCALES,
        *TRUNK,
        *HEAD,
    ),
    "torchvision": TORCHVISION,
    "transformers": transformers(True, ("vit.", "")),
    "transformers:live": transformers(False, ("vit.", "")),
    "transformers:mae": (Drop("decoder.{rest}", MASKED), *transformers(True, ("vit.",))),
    "transformers:mae-live": (Drop("decoder.{rest}", MASKED), *transformers(False, ("vit.",))),
    **{f"transformers:dinov2{name}": dinov2(*has) for name, *has in KINDS},
    "google": google(INPUT, "encoderblock_{i}", *OLD),
    "google:new": google(INPUT, "encoderblock_{i}", *NEW),
    "google:big_vision": google("pos_embedding", "encoderblock_{i}", *NEW),
    "google:scanned": google("pos_embedding", "encoderblock", *NEW),
    "google:scanned-input": google(INPUT, "encoderblock", *NEW),
}
PREPROCESSING: dict[str, Preprocessing] = {
    "google": HALF._replace(resize_mode="stretch", interpolation="bilinear"),
    "timm": HALF._replace(crop_ratio=0.9),  # of Google's AugReg weights; those of others differ
    "timm:dinov2": IMAGENET._replace(crop_ratio=1.0),
    "transformers": HALF._replace(resize_mode="stretch", interpolation="bilinear"),
    "transformers:dinov2": IMAGENET,
    "timm:relative": HALF._replace(crop_ratio=0.9),
    "timm:gap": IMAGENET._replace(crop_ratio=0.9),  # MAE; of big_vision's and relative positions' mean and std are 0.5
    "transformers:mae": IMAGENET,
    "torchvision": IMAGENET._replace(interpolation="bilinear"),
    "original": IMAGENET,
}
# defaults of the model, with which the outputs equal the original's
SETTINGS: dict[str, dict[str, Any]] = {
    "google": {"gelu": "tanh"},
    "timm": {"position_resampling": "antialias"},
    "timm:gap": {"position_resampling": "antialias", "pool": "mean", "fc_norm": True},
    "transformers": {"eps": 1e-12},
    "transformers:dinov2": {"position_resampling": "bicubic"},
    "transformers:dinov2-registers": {"position_resampling": "antialias"},
    "original": {"position_resampling": "dino"},
    "original:mae": {"position_resampling": "bicubic"},
    "original:registers": {"position_resampling": "antialias"},
}
ASSUME = _assumed.vit


def infer(clues: Clues) -> dict[str, Any] | None:
    """The config that a file shows."""
    if clues.source == "timm:relative" and not clues.has("blocks.0.attn.relative.weight1"):
        return None
    return _infer_vit.infer(clues, VARIANTS)
