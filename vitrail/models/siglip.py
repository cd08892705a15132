"""SigLIP: sigmoid loss for language image pre-training (Zhai et al. 2023, arxiv.org/abs/2303.15343), and SigLIP 2
(Tschannen et al. 2025, arxiv.org/abs/2502.14786): the image tower, which is the same in both.

A ViT without class token; a learned query that attends to all patches gathers the summary, which is the image embedding
(not yet of unit length). The weights were trained with the tanh form of GELU; timm loads them with the exact one.
"""

from dataclasses import replace

from vitrail.models.vit import Config, ViT

BASE = Config(tokens=0, pool="attention", gelu="tanh")
LARGE = replace(BASE, width=1024, depth=24, heads=16)
SO400M = replace(BASE, width=1152, depth=27, heads=16, mlp_ratio=4304 / 1152)
GIANT = replace(BASE, width=1536, depth=40, heads=16)

VARIANTS = {
    "base":        replace(BASE,   width=768, depth=12, heads=12),
    "base_256":    replace(BASE,   width=768, depth=12, heads=12, size=(256, 256)),
    "base_384":    replace(BASE,   width=768, depth=12, heads=12, size=(384, 384)),
    "base_512":    replace(BASE,   width=768, depth=12, heads=12, size=(512, 512)),
    "base_32_256": replace(BASE,   width=768, depth=12, heads=12, size=(256, 256), patch=32),
    "large_256":   replace(LARGE,  size=(256, 256)),
    "large_384":   replace(LARGE,  size=(384, 384)),
    "large_512":   replace(LARGE,  size=(512, 512)),
    "so400m":      replace(SO400M, size=(224, 224), patch=14),
    "so400m_378":  replace(SO400M, size=(378, 378), patch=14),  # published as 384, of which 378 pixels are seen
    "so400m_16_256": replace(SO400M, size=(256, 256)),
    "so400m_16_384": replace(SO400M, size=(384, 384)),
    "so400m_16_512": replace(SO400M, size=(512, 512)),
    "giant_256":   replace(GIANT,  size=(256, 256)),
    "giant_384":   replace(GIANT,  size=(384, 384)),
}  # fmt: skip


class SigLIP(ViT):
    """Images [B C H W] -> `Features`: what the learned query gathers, and the patches as a map."""


def build(config: Config) -> SigLIP:
    """An image tower of SigLIP, freshly initialised."""
    return SigLIP(config)
