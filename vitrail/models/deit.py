"""DeiT: training data-efficient image transformers & distillation through attention (Touvron et al. 2020,
arxiv.org/abs/2012.12877), and DeiT III: revenge of the ViT (Touvron et al. 2022, arxiv.org/abs/2204.07118).

A DeiT is a ViT with its own training recipe; a distilled one has a second summary, trained on a teacher's predictions,
and its prediction is the mean of both heads. A DeiT III has no position for its class token, LayerScale initialised at
1e-4 and a constant drop-path rate. With its recipe were trained the ViTs of "Rotary Position Embedding for Vision
Transformer" (Heo et al. 2024, arxiv.org/abs/2403.13298): "rope" rotates queries and keys along both axes and has no
position table, "rope_ape" has both.
"""

from dataclasses import replace

from vitrail.models.vit import Config, ViT

DEIT3 = Config(position_tokens=False, layer_scale=1e-4, drop_path_schedule="constant")
ROPE = replace(DEIT3, position="rope", position_resampling="antialias")  # as timm has it
ROPE_APE = replace(ROPE, position="learned_rope")  # a learned table ("absolute position embedding") as well

VARIANTS = {
    "tiny":            Config(width=192,  depth=12, heads=3),
    "small":           Config(width=384,  depth=12, heads=6),
    "base":            Config(width=768,  depth=12, heads=12),
    "base_384":        Config(width=768,  depth=12, heads=12, size=(384, 384)),
    "tiny_distilled":  Config(width=192,  depth=12, heads=3,  tokens=2),
    "small_distilled": Config(width=384,  depth=12, heads=6,  tokens=2),
    "base_distilled":  Config(width=768,  depth=12, heads=12, tokens=2),
    "base_distilled_384": Config(width=768, depth=12, heads=12, tokens=2, size=(384, 384)),
    "3_small":     replace(DEIT3, width=384,  depth=12, heads=6),
    "3_medium":    replace(DEIT3, width=512,  depth=12, heads=8),
    "3_base":      replace(DEIT3, width=768,  depth=12, heads=12),
    "3_large":     replace(DEIT3, width=1024, depth=24, heads=16),
    "3_huge":      replace(DEIT3, width=1280, depth=32, heads=16, patch=14),
    "3_small_384": replace(DEIT3, width=384,  depth=12, heads=6,  size=(384, 384)),
    "3_base_384":  replace(DEIT3, width=768,  depth=12, heads=12, size=(384, 384)),
    "3_large_384": replace(DEIT3, width=1024, depth=24, heads=16, size=(384, 384)),
    "rope_small":     replace(ROPE,     width=384,  depth=12, heads=6),
    "rope_base":      replace(ROPE,     width=768,  depth=12, heads=12),
    "rope_large":     replace(ROPE,     width=1024, depth=24, heads=16),
    "rope_ape_small": replace(ROPE_APE, width=384,  depth=12, heads=6),
    "rope_ape_base":  replace(ROPE_APE, width=768,  depth=12, heads=12),
    "rope_ape_large": replace(ROPE_APE, width=1024, depth=24, heads=16),
}  # fmt: skip


class DeiT(ViT):
    """Images [B C H W] -> `Features`: a summary per token, and the patches as a map."""


def build(config: Config) -> DeiT:
    """A DeiT, freshly initialised."""
    return DeiT(config)
