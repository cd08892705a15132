"""CLIP: learning transferable visual models from natural language supervision (Radford et al. 2021,
arxiv.org/abs/2103.00020): its image tower, in the sizes of OpenAI and of OpenCLIP (Cherti et al. 2022).

A ViT with a norm before its first block, no bias of the patches and the "quick" GELU; OpenCLIP's have the exact one
("open_", "huge" and larger), which no tensor shows.
With `pre_logits` (512 for "base", 768 for "large") the summary is the image embedding that is compared with texts, not
yet of unit length: a classifier whose head holds embeddings of class names is a zero-shot classifier.
"""

from dataclasses import replace

from vitrail.models.vit import Config, ViT

OPENAI = Config(norm_pre=True, eps=1e-5, gelu="quick", pre_logits_act="none")
OPENCLIP = replace(OPENAI, gelu="erf")

VARIANTS = {
    "base":      replace(OPENAI, width=768,  depth=12, heads=12, patch=16),
    "base_32":   replace(OPENAI, width=768,  depth=12, heads=12, patch=32),
    "large":     replace(OPENAI, width=1024, depth=24, heads=16, patch=14),
    "large_336": replace(OPENAI, width=1024, depth=24, heads=16, patch=14, size=(336, 336)),
    "open_base":    replace(OPENCLIP, width=768,  depth=12, heads=12, patch=16),
    "open_base_32": replace(OPENCLIP, width=768,  depth=12, heads=12, patch=32),
    "open_large":   replace(OPENCLIP, width=1024, depth=24, heads=16, patch=14),
    "huge":      replace(OPENCLIP, width=1280, depth=32, heads=16, patch=14),
    "giant":     replace(OPENCLIP, width=1408, depth=40, heads=16, patch=14, mlp_ratio=6144 / 1408),
    "gigantic":  replace(OPENCLIP, width=1664, depth=48, heads=16, patch=14, mlp_ratio=8192 / 1664),
}  # fmt: skip


class CLIP(ViT):
    """Images [B C H W] -> `Features`: the class token, with `pre_logits` its projection; and the patches as a map."""


def build(config: Config) -> CLIP:
    """An image tower of CLIP, freshly initialised."""
    return CLIP(config)
