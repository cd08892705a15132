"""The text tower: a transformer over tokens, of the very blocks of the plain ViT, as CLIP (Radford et al. 2021,
arxiv.org/abs/2103.00020) and SigLIP (Zhai et al. 2023, arxiv.org/abs/2303.15343) have it beside their image tower.

CLIP's is causal and is summarised at its end token, so that padding behind it changes nothing; SigLIP's attends to all
tokens, padding included, and is summarised at the last one. The small ones of vitrail are causal and summarised by the
mean up to the end token, which learns more of few captions: every word has a direct part in it.
"""

from dataclasses import dataclass, replace
from functools import partial
from typing import Literal

import torch
from torch import Tensor, nn

from vitrail.contracts import Trunk
from vitrail.errors import UsageError
from vitrail.layers.attention import PositionTerms, SelfAttention
from vitrail.layers.block import Block, block_norm
from vitrail.layers.drop import drop_rates
from vitrail.layers.init import initialise
from vitrail.layers.mlp import Gelu
from vitrail.layers.relative import CausalBias
from vitrail.models.vit import shared_config
from vitrail.shapes import Float, Int
from vitrail.types import TokenLayout
from vitrail.validation import Count, Fraction, Positive

Summary = Literal["end", "last", "mean"]
STRIDE = (1.0, 1.0)  # of tokens, which have no pixels


@dataclass(frozen=True)
class Config:
    """Of fields that the ViT has too, the meaning is the same."""

    width: Positive = 512
    depth: Positive = 12
    heads: Positive = 8
    mlp_ratio: float = 4.0
    vocabulary: Positive = 49408  # tokens
    context: Positive = 77  # tokens of the longest text; all are padded to it
    outputs: Count = 0  # width of the embedding; 0: that of the image tower
    output_bias: bool = True
    causal: bool = True  # a token attends to itself and those before it
    summary: Summary = "end"  # the first end token; "mean": up to it; "last": the last token, padding or not
    end: Count = 2  # the id of the end token
    gelu: Gelu = "erf"
    eps: float = 1e-6
    dropout: Fraction = 0.0
    attention_dropout: Fraction = 0.0
    drop_path: Fraction = 0.0


OWN = Config(summary="mean")
CLIP = Config(output_bias=False, gelu="quick", eps=1e-5, end=49407)
OPEN = replace(CLIP, gelu="erf")
SIGLIP = Config(vocabulary=32000, context=64, causal=False, summary="last", gelu="tanh", end=1)
OPEN_SIGLIP = replace(SIGLIP, gelu="erf")  # as OpenCLIP computes SigLIP's, but not SigLIP 2's

VARIANTS = {
    "nano":           replace(OWN,    width=96,   depth=3,  heads=3,  vocabulary=4096, context=32),
    "tiny":           replace(OWN,    width=192,  depth=6,  heads=3,  vocabulary=8192, context=32),
    "small":          replace(OWN,    width=384,  depth=12, heads=6,  vocabulary=16384, context=64),
    "clip_base":      replace(CLIP,   width=512,  depth=12, heads=8),
    "clip_large":     replace(CLIP,   width=768,  depth=12, heads=12),
    "open_base":      replace(OPEN,   width=512,  depth=12, heads=8),
    "open_large":     replace(OPEN,   width=768,  depth=12, heads=12),
    "open_huge":      replace(OPEN,   width=1024, depth=24, heads=16),
    "open_gigantic":  replace(OPEN,   width=1280, depth=32, heads=20),
    "siglip_base":    replace(SIGLIP, width=768,  depth=12, heads=12),
    "siglip_large":   replace(SIGLIP, width=1024, depth=24, heads=16),
    "siglip_so400m":  replace(SIGLIP, width=1152, depth=27, heads=16, mlp_ratio=4304 / 1152),
    "open_siglip_base":   replace(OPEN_SIGLIP, width=768,  depth=12, heads=12),
    "open_siglip_large":  replace(OPEN_SIGLIP, width=1024, depth=24, heads=16),
    "open_siglip_so400m": replace(OPEN_SIGLIP, width=1152, depth=27, heads=16, mlp_ratio=4304 / 1152),
    "siglip2_base":   replace(SIGLIP, width=768,  depth=12, heads=12, vocabulary=256000),
    "siglip2_large":  replace(SIGLIP, width=1024, depth=24, heads=16, vocabulary=256000),
    "siglip2_so400m": replace(SIGLIP, width=1152, depth=27, heads=16, vocabulary=256000, mlp_ratio=4304 / 1152),
    "siglip2_giant":  replace(SIGLIP, width=1152, depth=27, heads=16, vocabulary=256000, mlp_ratio=4304 / 1152,
                              outputs=1536),
}  # fmt: skip


class TextTower(Trunk):
    """Token ids int64 [B N] -> embeddings [B E], not yet of unit length."""

    blocks: nn.ModuleList

    def __init__(self, config: Config):
        """Errors: `UsageError` for an embedding of no width."""
        super().__init__()
        if not config.outputs:
            raise UsageError("the text tower needs the width of its embedding", "outputs 512")
        self.config = config
        width, shared = config.width, shared_config(config)
        self.tokens = nn.Embedding(config.vocabulary, width)
        self.position = nn.Parameter(torch.empty(config.context, width))
        terms = PositionTerms(relative=CausalBias(config.context) if config.causal else None)
        attention = partial(
            SelfAttention, width, config.heads, True, None, config.dropout, config.attention_dropout, terms
        )
        rates = drop_rates(config.drop_path, config.depth, "linear")
        self.blocks = nn.ModuleList(Block(shared, rate, attention()) for rate in rates)
        self.norm = block_norm(shared)
        self.proj = nn.Linear(width, config.outputs, bias=config.output_bias)
        initialise(self, "truncated")
        nn.init.normal_(self.tokens.weight, std=0.02)
        nn.init.normal_(self.position, std=0.01)
        nn.init.normal_(self.proj.weight, std=width**-0.5)

    def forward(self, tokens: Int[Tensor, "B N"]) -> Float[Tensor, "B E"]:
        x = self.tokens(tokens) + self.position[: tokens.shape[1]]
        layout = TokenLayout((1, tokens.shape[1]), STRIDE)
        for block in self.blocks:
            x = block(x, layout)
        out: Tensor = self.proj(self.summarise(self.norm(x), tokens))
        return out

    def summarise(self, x: Tensor, tokens: Tensor) -> Tensor:
        """The summary [B D] of a sequence [B N D]."""
        if self.config.summary == "last":
            return x[:, -1]
        ends = (tokens == self.config.end).int().argmax(1)
        if self.config.summary == "end":
            return x[torch.arange(len(x), device=x.device), ends]
        is_text = torch.arange(tokens.shape[1], device=x.device) <= ends[:, None]
        return (x * is_text[..., None]).sum(1) / (ends[:, None] + 1)


def build(config: Config) -> TextTower:
    """A text tower, freshly initialised."""
    return TextTower(config)
