"""Small image-text models of OpenCLIP's own classes, saved as its repositories on the hub are:
open_clip_model.safetensors, open_clip_config.json and the tokenizer."""

import json

from oracles import stir
from safetensors.torch import save_file
from test_image_text import save_tokenizer

IMAGE = {"image_size": 32, "layers": 2, "width": 32, "head_width": 8, "patch_size": 8, "mlp_ratio": 1.5}
TEXT = {"context_length": 10, "vocab_size": 320, "width": 32, "heads": 4, "layers": 2, "mlp_ratio": 1.5}
TRUNK = {
    "image_size": 32, "timm_model_name": "vit_base_patch16_siglip_224", "timm_model_pretrained": False,
    "timm_pool": "map", "timm_proj": "none",
}  # fmt: skip
SIGLIP_TEXT = {
    **TEXT, "width": 48, "no_causal_mask": True, "proj_bias": True, "pool_type": "last", "norm_kwargs": {"eps": 1e-6},
    "hf_tokenizer_name": "timm/ViT-B-16-SigLIP", "tokenizer_kwargs": {"clean": "canonicalize"},
}  # fmt: skip
SIGLIP = {"embed_dim": 96, "init_logit_bias": -10, "custom_text": True, "vision_cfg": TRUNK, "text_cfg": SIGLIP_TEXT}
CLIP = {"embed_dim": 24, "vision_cfg": IMAGE, "text_cfg": TEXT}
CONFIGS = {
    "CLIP": CLIP,
    "CLIP, quick GELU": {**CLIP, "quick_gelu": True},
    "CLIP, text tower apart": {**CLIP, "custom_text": True},
    "CLIP, sigmoid": {**CLIP, "init_logit_bias": -10},
    "SigLIP": SIGLIP,
    "SigLIP 2": {**SIGLIP, "text_cfg": {**SIGLIP_TEXT, "act_kwargs": {"approximate": "tanh"}}},
    "SigLIP, timm projected": {**SIGLIP, "embed_dim": 40, "vision_cfg": {**TRUNK, "timm_proj": "linear"}},
}
OPENAI = {"mean": [0.48145466, 0.4578275, 0.40821073], "std": [0.26862954, 0.26130258, 0.27577711]}
HALF = {"mean": [0.5] * 3, "std": [0.5] * 3, "interpolation": "bicubic", "resize_mode": "squash"}


VIT = {"img_size": 32, "patch_size": 8, "embed_dim": 96, "depth": 2, "mlp_ratio": 1.5}


def build(config, small=None):
    """A model with every parameter stirred. timm's tower has the form that its name says, and a small shape."""
    import open_clip.model
    import timm

    keys = json.loads(json.dumps(config))
    made = open_clip.model.CustomTextCLIP if keys.pop("custom_text", False) else open_clip.model.CLIP
    original = timm.create_model
    timm.create_model = lambda name, **given: original(name, **given, **(small or VIT))
    try:
        return stir(made(**keys, output_dict=True))
    finally:
        timm.create_model = original


def save(model, config, folder, name="open_clip_model.safetensors"):
    folder.mkdir(parents=True, exist_ok=True)
    save_file({n: t.contiguous() for n, t in model.state_dict().items()}, folder / name)
    preprocess = HALF if "timm_model_name" in config["vision_cfg"] else OPENAI
    about = {"model_cfg": config, "preprocess_cfg": preprocess}
    (folder / "open_clip_config.json").write_text(json.dumps(about))
    save_tokenizer(folder / "tokenizer.json")
    own = {"tokenizer_class": "PreTrainedTokenizerFast", "pad_token": "<pad>", "eos_token": "<|endoftext|>"}
    (folder / "tokenizer_config.json").write_text(json.dumps(own))


def loss_of(model, batch):
    """OpenCLIP's own loss of a model, and what it has answered."""
    import open_clip.loss

    out = model(batch.inputs, batch.targets)
    rows = out["image_features"], out["text_features"], out["logit_scale"]
    if "logit_bias" in out:
        return open_clip.loss.SigLipLoss()(*rows, out["logit_bias"]), out
    return open_clip.loss.ClipLoss()(*rows), out
