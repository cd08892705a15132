"""Names of BEiT and BEiT v2 weights: timm and the original's, which are alike, and transformers' (disk and memory)."""

from typing import Any

from vitrail.models.beit import VARIANTS
from vitrail.weights.clues import Clues
from vitrail.weights.preprocessing import HALF, Preprocessing
from vitrail.weights.rules import Drop, Rule
from vitrail.weights.tables import _assumed, _infer_vit, vit

Table = tuple[Rule | Drop, ...]
INDEX = Drop("{rest}relative_position_index", "made again from the sizes of the grid")
WORDS = "the head of pre-training, unused afterwards"
TABLE = "relative_position_bias_table"


def biases(theirs: str) -> tuple[Rule, ...]:
    """The biases of queries and values, apart in a block."""
    return (Rule(f"blocks.{{i}}.attn.{theirs}", "blocks.{i}.attn.qkv.{x}_bias"),)


TIMM: Table = (
    INDEX,
    *vit.TOKEN,
    *vit.SCALES[1:],
    *biases("{x}_bias"),
    Rule(f"blocks.{{i}}.attn.{TABLE}", "blocks.{i}.attn.relative.table"),
    Rule("fc_norm.{p}", "fc_norm.{p}"),
    *vit.TRUNK,
    *vit.HEAD,
)
SHARED = Rule(f"rel_pos_bias.{TABLE}", "blocks.{each}.attn.relative.table")


def transformers(disk: bool) -> Table:
    """Of a classifier or a model for pre-training, and of the bare model."""
    rules = [INDEX, Drop("lm_head.{p}", WORDS), *inside("beit.", disk), *inside("", disk)]
    return (*rules, Rule("classifier.{p}", "heads.0.{p}"))


def inside(p: str, disk: bool) -> list[Rule | Drop]:
    b, ours = f"{p}{'encoder.layer' if disk else 'layers'}.{{i}}.", "blocks.{i}."
    a = f"{b}attention.attention." if disk else f"{b}attention."
    query, key, value = [f"{a}{x}" for x in (("query", "key", "value") if disk else ("q_proj", "k_proj", "v_proj"))]
    rows, proj = f"relative_position_bias.{TABLE}", "output.dense" if disk else "o_proj"
    shared = f"{p}encoder.{rows}" if disk else f"{p}shared_position_bias.{TABLE}"
    return [
        Drop(f"{p}embeddings.mask_token", vit.MASK),
        *vit.outside(p),
        Rule(f"{p}pooler.layernorm.{{p}}", "fc_norm.{p}"),
        Rule((f"{query}.weight", f"{key}.weight", f"{value}.weight"), f"{ours}attn.qkv.weight", "fuse"),
        Rule(f"{query}.bias", f"{ours}attn.qkv.q_bias"),
        Rule(f"{value}.bias", f"{ours}attn.qkv.v_bias"),
        Rule(f"{b}attention.{proj}.{{p}}", f"{ours}attn.proj.{{p}}"),
        Rule(f"{a if disk else b}{rows}", f"{ours}attn.relative.table"),
        *(Rule(f"{b}layernorm_{x}.{{p}}", f"{ours}norm{k}.{{p}}") for k, x in ((1, "before"), (2, "after"))),
        *(Rule(f"{b}lambda_{k}", f"{ours}ls{k}.gamma") for k in (1, 2)),
        Rule(f"{b}{'intermediate.dense' if disk else 'mlp.fc1'}.{{p}}", f"{ours}mlp.fc1.{{p}}"),
        Rule(f"{b}{'output.dense' if disk else 'mlp.fc2'}.{{p}}", f"{ours}mlp.fc2.{{p}}"),
        Rule(shared, "blocks.{each}.attn.relative.table"),
    ]


SOURCES: dict[str, Table] = {
    "timm": (*TIMM, SHARED),
    "original": (Drop("mask_token", vit.MASK), Drop("lm_head.{p}", WORDS), *TIMM, SHARED),
    "transformers": transformers(True),
    "transformers:live": transformers(False),
}
PREPROCESSING: dict[str, Preprocessing] = {  # of v2 mean and std are ImageNet's
    "timm": HALF._replace(crop_ratio=0.9),
    "transformers": HALF._replace(crop_ratio=0.9),
    "original": HALF._replace(crop_ratio=0.875),
}
SETTINGS: dict[str, dict[str, Any]] = {"transformers": {"eps": 1e-12}}

CONFIG_NAMES = {k: v for k, v in _infer_vit.CONFIG_NAMES.items() if k in vars(VARIANTS["base"])}
ASSUME = _assumed.beit


def infer(clues: Clues) -> dict[str, Any] | None:
    """The config that a file shows: a table of relative positions with three rows for the class token."""
    fields, rows = _infer_vit.infer(clues, VARIANTS), clues.shape("blocks.0.attn.relative.table")
    if fields is None or len(rows) != 2:
        return None
    side = round((rows[0] - 3) ** 0.5)
    if side % 2 == 0 or side * side != rows[0] - 3:
        return None
    own = {k: v for k, v in fields.items() if k in vars(VARIANTS["base"])}
    pixels = (side + 1) // 2 * own["patch"]
    size = fields.get("size") or (pixels, pixels)
    return {**own, "heads": rows[1], "size": size, "qkv_bias": clues.has("blocks.0.attn.qkv.q_bias")}
