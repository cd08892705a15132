"""open_clip_config.json, which OpenCLIP writes beside its weights: what it says of both towers and of the tokenizer,
read as data.

What no tensor shows and vitrail's towers have not is named by its key; a key that is not known here may change what a
model computes, and is not passed over.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from vitrail.data.texts.tokenizer import Clean
from vitrail.errors import CheckpointError
from vitrail.weights.sidecars import CountOf, Sidecar, Small, Whole

WRITER = "open_clip"
VISION, TEXT = "model_cfg.vision_cfg", "model_cfg.text_cfg"
HEAD_WIDTH = 64  # of an image tower whose config does not say it
EPS = 1e-5
TIMM = "timm_model_name"
LARGEST_ID = "argmax"  # the summary of a text is at the token with the highest id
ENDS = {LARGEST_ID: "end", "eos": "end", "last": "last"}  # pool_type of a text tower: `_text.Config.summary`
CLEANS: dict[str, Clean] = {"whitespace": "", "lower": "lower", "canonicalize": "canonicalize"}
FALSE = (None, False)
# keys of an image tower that is not timm's, with the values that ours has; None: any, since tensors show it or it is
# read here
OF_BOTH: dict[str, Any] = {
    "layers": None, "width": None, "mlp_ratio": None, "output_tokens": None, "act_kwargs": None, "norm_kwargs": None,
    "ls_init_value": (None,), "block_type": (None, "default", "custom"), "qk_norm": FALSE,
    "scaled_cosine_attn": FALSE, "scale_heads": FALSE, "scale_attn_inner": FALSE, "scale_attn": FALSE,
    "scale_fc": FALSE,
}  # fmt: skip
OF_IMAGES: dict[str, Any] = {
    **OF_BOTH, "head_width": None, "patch_size": None, "image_size": None, "patch_dropout": None,
    "pos_embed_type": None, "attentional_pool": FALSE, "attn_pooler_queries": None, "attn_pooler_heads": None,
    "no_ln_pre": FALSE, "final_ln_after_pool": FALSE, "pool_type": ("tok",), TIMM: (None, ""),
    "timm_model_pretrained": None, "timm_pool": None, "timm_proj": None, "timm_proj_bias": None, "timm_drop": None,
    "timm_drop_path": None,
}  # fmt: skip
OF_TEXTS: dict[str, Any] = {
    **OF_BOTH, "context_length": None, "vocab_size": None, "heads": None, "hf_tokenizer_name": None,
    "tokenizer_mode": (None, ""), "tokenizer_kwargs": None, "embed_cls": FALSE, "pad_id": None, "eos_id": None,
    "no_causal_mask": None, "use_pad_mask": FALSE, "final_ln_after_pool": FALSE, "pool_type": (None, *ENDS),
    "proj_bias": None, "proj_type": (None, "linear"), "hf_model_name": (None, ""), "hf_model_pretrained": None,
    "hf_proj_type": None, "hf_pooler_type": None,
}  # fmt: skip


@dataclass(frozen=True)
class TextForm:
    """What no tensor of a text tower shows; fields as of `_text.Config`. end: the id of its end token, None: the
    highest one; clean: what is done with a text before the tokenizer reads it."""

    causal: bool = True
    summary: str = "end"
    gelu: str = "erf"
    eps: float = EPS
    end: int | None = None
    clean: Clean = ""


def wrote(sidecar: Sidecar) -> bool:
    return sidecar.writer == WRITER


def foreign_text_tower(sidecar: Sidecar) -> str:
    """The name of a text tower of transformers, which OpenCLIP wraps; "" where it is OpenCLIP's own."""
    return str(sidecar.get(str, f"{TEXT}.hf_model_name") or "")[:60]


def odd_setting(sidecar: Sidecar, path: str, known: Mapping[str, Any]) -> str:
    """The first key of a tower that vitrail's has not, in words; "" where there is none. Errors: `CheckpointError` for
    what is no object."""
    for name, value in (sidecar.get(dict, path) or {}).items():
        allowed = known.get(name, ())
        if allowed is not None and value not in allowed:
            return f"{sidecar.path_of(f'{path}.{name[:60]}')} is {str(value)[:40]!r}"
    return ""


def text_form(sidecar: Sidecar) -> TextForm:
    """The form of a text tower whose settings are all known here. Errors: `CheckpointError`."""
    stated = sidecar.get(str, f"{TEXT}.pool_type") or LARGEST_ID
    clean = sidecar.get(str, f"{TEXT}.tokenizer_kwargs.clean")
    return TextForm(
        not sidecar.get(bool, f"{TEXT}.no_causal_mask"),
        ENDS[stated],
        gelu_of(sidecar, TEXT),
        eps_of(sidecar, TEXT),
        (sidecar.get(CountOf, f"{TEXT}.eos_id") or 2) if stated == "eos" else None,
        CLEANS.get(clean or "whitespace", ""),
    )


def image_fields(sidecar: Sidecar, width: int) -> dict[str, Any]:
    """The fields of an image tower of OpenCLIP's own that no tensor shows. Errors: `CheckpointError` for settings that
    vitrail's tower has not, and for a config of another model."""
    if odd := odd_setting(sidecar, VISION, OF_IMAGES):
        if TIMM in odd:
            what = f"{odd}, and the tensors are not timm's"
            raise CheckpointError(what, f"remove {sidecar.file}, or bring the one of these weights")
        raise CheckpointError(
            f"{odd}, which vitrail's CLIP has not", "use other weights: vitrail weights clip lists some"
        )
    each = sidecar.get(Whole, f"{VISION}.head_width") or HEAD_WIDTH
    if width % each:
        what = f"{sidecar.path_of(f'{VISION}.head_width')} is {each}, and the tower is {width} wide"
        raise CheckpointError(what, "bring the file that belongs to these weights")
    gelu, eps = gelu_of(sidecar, VISION), eps_of(sidecar, VISION)
    return {"heads": width // each, "gelu": gelu, "eps": eps, "position_resampling": "antialias"}


def gelu_of(sidecar: Sidecar, path: str) -> str:
    """The form of GELU of a tower."""
    if sidecar.get(bool, "model_cfg.quick_gelu"):
        return "quick"
    return "tanh" if sidecar.get(str, f"{path}.act_kwargs.approximate") == "tanh" else "erf"


def eps_of(sidecar: Sidecar, path: str) -> float:
    return float(sidecar.get(Small, f"{path}.norm_kwargs.eps") or EPS)
