"""BEiT: BERT pre-training of image transformers (Bao et al. 2021, arxiv.org/abs/2106.08254), and BEiT v2: masked image
modeling with vector-quantized visual tokenizers (Peng et al. 2022, arxiv.org/abs/2208.06366).

A ViT that learned to predict visual words of masked patches. Its positions are a learned bias on the attention of two
patches by their displacement, of its own in every block, with rows for the class token; keys have no bias, branches
have LayerScale, and the summary is the norm of the mean of the patches. As pre-trained one table served all blocks,
which becomes a copy in each, as the authors do for fine-tuning.
"""

from dataclasses import dataclass, replace
from functools import partial
from typing import Literal

from vitrail.layers.attention import PositionTerms, SelfAttention
from vitrail.layers.block import Block, MergingBlock
from vitrail.layers.init import Init
from vitrail.layers.mlp import Gelu
from vitrail.layers.patch import grid_of
from vitrail.layers.relative import RelativeBias
from vitrail.models import vit
from vitrail.validation import Fraction, NonNegative, Positive, PositiveFloat


@dataclass(frozen=True)
class Config:
    width: Positive = 768
    depth: Positive = 12
    heads: Positive = 12
    mlp_ratio: PositiveFloat = 4.0
    patch: Positive = 16
    size: tuple[Positive, Positive] = (224, 224)  # (height, width) of the relative positions; any other size works too
    channels: Positive = 3
    position: Literal["none", "learned"] = "none"  # besides the relative ones
    pool: Literal["token", "mean"] = "mean"
    fc_norm: bool = True  # the last norm is after the mean, not before it
    qkv_bias: bool = True  # of queries and values; keys have none
    gelu: Gelu = "erf"
    eps: PositiveFloat = 1e-6
    layer_scale: float | None = 0.1  # initial value
    dropout: Fraction = 0.0
    attention_dropout: Fraction = 0.0
    drop_path: NonNegative = 0.0
    map_depths: tuple[Positive, ...] = ()  # numbers of blocks after which there is a map, besides the last
    init: Init = "truncated"


LARGE = Config(width=1024, depth=24, heads=16, layer_scale=1e-5)

VARIANTS = {
    "base":      Config(width=768,  depth=12, heads=12),
    "base_384":  Config(width=768,  depth=12, heads=12, size=(384, 384)),
    "large":     replace(LARGE, size=(224, 224)),
    "large_384": replace(LARGE, size=(384, 384)),
    "large_512": replace(LARGE, size=(512, 512)),
    "v2_base":   Config(width=768,  depth=12, heads=12, layer_scale=1e-5),
    "v2_large":  replace(LARGE, size=(224, 224)),
}  # fmt: skip


class BEiT(vit.ViT):
    """Images [B C H W] -> `Features`: the mean of the patches, normed, and the patches as a map."""

    def __init__(self, config: Config):
        super().__init__(vit.shared_config(config), partial(block, config))
        self.config = config


def build(config: Config) -> BEiT:
    """A BEiT, freshly initialised."""
    return BEiT(config)


def block(config: Config, drop_path: float) -> Block | MergingBlock:
    relative = RelativeBias(grid_of(config.size, (config.patch, config.patch)), config.heads, tokens=1)
    bias: bool | Literal["keyless"] = "keyless" if config.qkv_bias else False
    terms = PositionTerms(relative=relative)
    attn = SelfAttention(config.width, config.heads, bias, None, config.dropout, config.attention_dropout, terms)
    return vit.build_block(vit.shared_config(config), drop_path, attn)
