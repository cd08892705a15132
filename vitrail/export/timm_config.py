"""The config.json with which timm builds a plain ViT of ours."""

from typing import Any

from vitrail.assembly.model import ModelBundle, build_preprocess
from vitrail.contracts import trunk_of
from vitrail.models.vit import Config
from vitrail.tasks.classification import Classification
from vitrail.weights.published import family_of

ARCHITECTURE = "vit_base_patch16_224"  # of timm's VisionTransformer; the arguments below say all that differs
SAME = {  # fields that timm's class has in one way only
    "stem": "patch", "norm_pre": False, "position": "learned", "position_tokens": True, "position_join": "add",
    "attention_radius": None, "window": 0, "pre_logits": 0, "mlp": "gelu", "gelu": "erf", "norm": "layer",
    "norm_at": "pre", "merge": 0, "residual": True, "registers": 0, "eps": 1e-6, "qkv_bias": True,
}  # fmt: skip


def timm_config(bundle: ModelBundle) -> dict[str, Any] | None:
    """The content of config.json for a classifier whose family is the plain ViT; None for a model that timm's class is
    not, or that it builds otherwise."""
    config = trunk_of(bundle.model).config
    plain = family_of(bundle.model) == "vit" and isinstance(config, Config) and isinstance(bundle.task, Classification)
    if not plain or any(vars(config)[key] != value for key, value in SAME.items()):
        return None
    patch, tokens = config.patch, config.tokens
    if not isinstance(patch, int) or any(side % patch for side in config.size) or tokens > 1:
        return None
    if config.pool == "attention" or (config.pool == "mean" and tokens):
        return None
    pre = build_preprocess(bundle.recipe.input)
    arguments = {
        "img_size": list(config.size), "patch_size": patch, "in_chans": config.channels, "embed_dim": config.width,
        "depth": config.depth, "num_heads": config.heads, "mlp_ratio": config.mlp_ratio, "class_token": tokens == 1,
        "global_pool": "token" if tokens else "avg", "fc_norm": config.fc_norm, "qk_norm": config.qk_norm,
        "init_values": config.layer_scale,
    }  # fmt: skip
    given = {
        "input_size": [pre.channels, *pre.size], "mean": list(pre.mean), "std": list(pre.std),
        "interpolation": pre.interpolation, "crop_pct": pre.crop_ratio if pre.resize_mode == "crop" else 1.0,
        "crop_mode": {"stretch": "squash", "fit": "border"}.get(pre.resize_mode, "center"), "fixed_input_size": True,
        "num_classes": len(bundle.classes), "license": str(bundle.origin.get("licence", "")) or None,
        "first_conv": "patch_embed.proj", "classifier": "head",
    }  # fmt: skip
    return {
        "architecture": ARCHITECTURE, "num_classes": len(bundle.classes), "num_features": config.width,
        "global_pool": arguments["global_pool"], "model_args": arguments, "pretrained_cfg": given,
        "label_names": list(bundle.classes),
    }  # fmt: skip
