"""Every family beside those that hold its original: small models with the same weights on both sides, and the table of
all such pairs.

A maker builds someone else's model, stirs every parameter and buffer of it, and hands the weights to ours through the
family's table of names (`vitrail/weights/tables`), which must know every one of them and give every one back. Tests of
gradients and options use the makers; `test_parity.py` and `benchmarks/parity.py` go through `PAIRS`.
"""

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from safetensors import safe_open
from torch import Tensor, nn

from vitrail import catalog
from vitrail.heads.linear import Classifier
from vitrail.models import (
    beit,
    clip,
    crossvit,
    dinov3,
    dit,
    efficientvit,
    efficientvit_msra,
    eva,
    hybrid,
    jit,
    mobilevit,
    pvt,
    pvt_v2,
    resnet,
    samvit,
    siglip,
    swin,
    swin_v2,
    tiny_vit,
    vit,
)
from vitrail.weights.rules import convert, revert

Size = tuple[int, int]
GOLDEN = Path(__file__).parent / "golden"


def images(size: Size) -> Tensor:
    return torch.randn(2, 3, *size)


@dataclass(frozen=True)
class Both:
    """One model twice. `logits` (of a denoiser, what it says) and `maps` ask theirs; `images` makes what both are
    shown, or gives what the original was shown."""

    ours: Any
    theirs: Any
    logits: Callable[[Tensor], Tensor]
    maps: Callable[[Tensor], Sequence[Tensor]] | None = None
    images: Callable[[Size], Tensor] = images


def relative_error(a: Tensor, b: Tensor) -> float:
    return float((a - b).detach().norm() / b.detach().norm())


def count(model: nn.Module) -> int:
    return sum(p.numel() for p in model.parameters())


def stir(model: nn.Module, norms: float = 1.0) -> nn.Module:
    """Evaluation mode, no parameter at zero or one. `norms`: about how large weights of norms are; where these end
    residual branches, which start at nothing, large ones make models that turn rounding into a difference."""
    torch.manual_seed(2)
    for name, p in model.named_parameters():
        if p.ndim > 1 and name.endswith("weight"):
            p.data = torch.randn_like(p) / max(1, p[0].numel()) ** 0.5
        else:
            p.data += 0.2 * torch.randn_like(p)
    for m in model.modules():
        if isinstance(m, nn.BatchNorm1d | nn.BatchNorm2d | nn.LayerNorm | nn.GroupNorm) and m.weight is not None:
            nn.init.uniform_(m.weight, 0.5 * norms, 1.5 * norms)
    return model.eval()


def settle(model: nn.Module, size: Size = (64, 64)) -> nn.Module:
    """Running means and variances of a few images, as if it had been trained, so that signals reach the end."""
    batch_norms = [m for m in model.modules() if isinstance(m, nn.BatchNorm1d | nn.BatchNorm2d)]
    usual = [m.momentum for m in batch_norms]
    for m in batch_norms:
        m.momentum = 1.0
    with torch.no_grad():
        model.train()(torch.randn(4, 3, *size))
    for m, momentum in zip(batch_norms, usual, strict=True):
        m.momentum = momentum
    return model.eval()


def take(family: str, source: str, config: Any, state: dict[str, Tensor], classes: int = 5, heads: int = 0) -> Any:
    """Our classifier or denoiser with their weights, none left over, and the way back exact. `heads`: where theirs
    keeps them apart."""
    rules = catalog.load_module("weights/tables", family).SOURCES[source]
    made = convert(state, rules)
    assert made.unknown == []
    back = revert(made.tensors, rules, heads)
    if (family, source) != (
        "swin",
        "transformers",
    ):  # whose file has other names than the live model: the way back is to the file
        assert back.keys() | made.dropped.keys() == state.keys()
        summed = ("reg_token", "pos_embed") if source.endswith("placed") else ()  # one of ours is the sum of two
        assert all(torch.equal(t, state[name]) for name, t in back.items() if name not in summed)
    built = catalog.load_module("models", family).build(config)
    if catalog.model_kind(family) == "denoiser":
        built.load_state_dict(made.tensors)
        return built.eval()
    ours = Classifier(built, classes)
    empty = {
        name: t for name, t in ours.state_dict().items() if not t.numel()
    }  # registers that are not there have no name elsewhere
    ours.load_state_dict(
        {**empty, **{k if k.startswith("heads.") else f"backbone.{k}": t for k, t in made.tensors.items()}}
    )
    return ours.eval()


def both(
    family: str,
    source: str,
    config: Any,
    theirs: Any,
    maps: Callable[[Tensor], Sequence[Tensor]] | None = None,
    **said: Any,
) -> Both:
    """The pair of a live model; `said` is told to theirs with every image."""

    def logits(x: Tensor) -> Tensor:
        out = theirs(x, **said)
        return out if isinstance(out, Tensor) else out.logits

    return Both(take(family, source, config, theirs.state_dict()), theirs, logits, maps)


def compare(made: Both, size: Size) -> dict[str, float]:
    """The relative errors of logits and, where theirs shows them, maps; and how much one image differs from the next in
    the logits."""
    x = made.images(size)
    assert tuple(x.shape[-2:]) == size
    with torch.no_grad():
        mine, wanted = made.ours(x), made.logits(x)
        errors = {"logits": relative_error(mine, wanted)}
        if len(x) > 1:
            errors["images"] = relative_error(mine[:1], mine[1:])
        if made.maps is not None:
            pairs = zip(made.ours.backbone(x).maps, made.maps(x), strict=True)
            errors["maps"] = max(relative_error(a, b) for a, b in pairs)
    return errors


VIT = vit.Config(width=32, depth=2, heads=4, patch=8, size=(32, 32))
VIT_HF = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 128,
          "image_size": 32, "patch_size": 8,
          "num_labels": 5, "layer_norm_eps": 1e-6}  # fmt: skip


def plain_timm(kind: Callable[..., nn.Module], **keys: Any) -> nn.Module:
    return stir(
        kind(
            img_size=32, patch_size=8, embed_dim=32, depth=2, num_heads=4, num_classes=5, dynamic_img_size=True, **keys
        )
    )


def vit_timm(size: Size = (32, 32)) -> Both:
    from timm.models.vision_transformer import VisionTransformer

    theirs = plain_timm(VisionTransformer)
    maps = partial(theirs.forward_intermediates, indices=[1], norm=True, intermediates_only=True)
    return both("vit", "timm", replace(VIT, position_resampling="antialias"), theirs, maps)


def vit_torchvision(size: Size = (32, 32)) -> Both:
    from torchvision.models.vision_transformer import VisionTransformer

    theirs = stir(VisionTransformer(size[0], 8, num_layers=2, num_heads=4, hidden_dim=32, mlp_dim=128, num_classes=5))
    return both("vit", "torchvision", replace(VIT, size=size), theirs)


def vit_transformers(size: Size = (32, 32)) -> Both:
    from transformers import ViTConfig, ViTForImageClassification

    return both(
        "vit",
        "transformers:live",
        VIT,
        stir(ViTForImageClassification(ViTConfig(**VIT_HF))),
        interpolate_pos_encoding=True,
    )


def vit_golden(name: str, source: str, pre_logits: int, size: Size) -> Both:
    with np.load(GOLDEN / f"{name}.npz") as file:
        state = {n: torch.from_numpy(a) for n, a in file.items()}
    with np.load(GOLDEN / f"{name}_io.npz") as file:
        x, out = torch.from_numpy(file["images_nhwc"]).permute(0, 3, 1, 2), torch.from_numpy(file["logits"])
    config = replace(VIT, depth=3, mlp_ratio=2.0, gelu="tanh", pre_logits=pre_logits)
    return Both(take("vit", source, config, state, 10, heads=4), None, lambda _: out, images=lambda _: x)


SHAPE = {"width": 32, "depth": 2, "heads": 4, "patch": 8, "size": (32, 32)}


def vit_gap_timm(token: bool, size: Size = (32, 32)) -> Both:
    """The mean of the patches, normed after, with and without a class token beside them."""
    from timm.models.vision_transformer import VisionTransformer

    theirs = plain_timm(VisionTransformer, class_token=token, global_pool="avg")
    config = replace(VIT, tokens=int(token), pool="mean", fc_norm=True, position_resampling="antialias")
    maps = partial(theirs.forward_intermediates, indices=[1], intermediates_only=True)
    return both("vit", "timm:gap", config, theirs, maps)


def vit_placed_timm(size: Size = (32, 32)) -> Both:
    """Registers with rows of the position table."""
    from timm.models.vision_transformer import VisionTransformer

    theirs = plain_timm(VisionTransformer, class_token=False, reg_tokens=3, global_pool="avg")
    config = replace(VIT, tokens=0, registers=3, pool="mean", fc_norm=True, position_resampling="antialias")
    return both("vit", "timm:gap-placed", config, theirs)


def vit_relpos(kind: str, size: Size = (32, 32)) -> Both:
    """timm's relative-position ViTs: kind "" (a mean, then a norm), "cls", "clsgap" or "rpn"; they take one size."""
    from timm.models.vision_transformer_relpos import ResPostRelPosBlock, VisionTransformerRelPos

    keys, config = {"qkv_bias": False, "rel_pos_dim": 16}, replace(VIT, position="relative_log", qkv_bias=False)
    config = replace(config, tokens=int("cls" in kind), relative_width=16, layer_scale=1e-6, size=size)
    if kind in ("", "clsgap"):
        keys |= {"fc_norm": True, "class_token": kind == "clsgap"}
        config = replace(config, pool="mean", fc_norm=True)
    elif kind == "cls":
        keys |= {"class_token": True, "global_pool": "token"}
    else:
        keys |= {"block_fn": ResPostRelPosBlock}
        config = replace(config, layer_scale=None, norm_at="branch")
    shape = {"img_size": size, "patch_size": 8, "embed_dim": 32, "depth": 2, "num_heads": 4, "num_classes": 5}
    return both("vit", "timm:relative", config, stir(VisionTransformerRelPos(**shape, **keys)))


def vit_mae(size: Size = (32, 32)) -> Both:
    """The encoder of a masked autoencoder that sees every patch, in order; with a head of ours. It takes one size."""
    from transformers import ViTMAEConfig, ViTMAEForPreTraining

    small = {"decoder_hidden_size": 16, "decoder_num_hidden_layers": 1, "decoder_num_attention_heads": 2}
    config = ViTMAEConfig(**{**VIT_HF, "image_size": size}, mask_ratio=0.0, decoder_intermediate_size=32, **small)
    theirs, head = stir(ViTMAEForPreTraining(config)), stir(nn.Linear(32, 5))
    state = {**theirs.state_dict(), **{f"classifier.{n}": t for n, t in head.state_dict().items()}}
    order = torch.arange(size[0] * size[1] / 64).expand(2, -1)
    ours = take("vit", "transformers:mae-live", replace(VIT, size=size), state)
    return Both(ours, theirs, lambda x: head(theirs.vit(x, noise=order).last_hidden_state[:, 0]))


def clip_timm(size: Size = (32, 32)) -> Both:
    from timm.layers import LayerNorm
    from timm.models.vision_transformer import VisionTransformer

    keys = {"pre_norm": True, "norm_layer": partial(LayerNorm, eps=1e-5), "act_layer": "quick_gelu"}
    theirs = plain_timm(VisionTransformer, **keys)
    maps = partial(theirs.forward_intermediates, indices=[1], norm=True, intermediates_only=True)
    config = replace(clip.OPENAI, **SHAPE, position_resampling="antialias")
    return both("clip", "timm", config, theirs, maps)


def siglip_timm(size: Size = (32, 32)) -> Both:
    from timm.models.vision_transformer import VisionTransformer

    theirs = plain_timm(VisionTransformer, class_token=False, global_pool="map", act_layer="gelu_tanh")
    maps = partial(theirs.forward_intermediates, indices=[1], norm=True, intermediates_only=True)
    config = replace(siglip.BASE, **SHAPE, position_resampling="antialias")
    return both("siglip", "timm", config, theirs, maps)


def dinov3_timm(gated: bool, bias: bool, size: Size = (32, 32)) -> Both:
    """timm takes the mean of the patches."""
    from timm.layers import LayerNorm
    from timm.models.eva import Eva

    keys = {"rope_type": "dinov3", "rope_temperature": 100, "rope_rotate_half": True, "use_rot_pos_emb": True}
    keys |= {"use_abs_pos_emb": False, "num_reg_tokens": 4, "use_fc_norm": False, "init_values": 1e-5}
    keys |= {"swiglu_mlp": True, "swiglu_align_to": 8} if gated else {}
    theirs = plain_timm(Eva, **keys, qkv_bias=bias, norm_layer=partial(LayerNorm, eps=1e-5))
    config = dinov3.Config(**SHAPE, pool="mean", qkv_bias=bias, mlp="swiglu" if gated else "gelu")
    maps = partial(theirs.forward_intermediates, indices=[1], norm=True, intermediates_only=True)
    return both("dinov3", "timm:swiglu" if gated else "timm", config, theirs, maps)


def dinov3_transformers(gated: bool, size: Size = (32, 32)) -> Both:
    """The class token with a head of ours."""
    from transformers import DINOv3ViTConfig, DINOv3ViTModel

    keys = {**VIT_HF, "layer_norm_eps": 1e-5, "num_register_tokens": 4, "hidden_act": "silu" if gated else "gelu"}
    theirs, head = stir(DINOv3ViTModel(DINOv3ViTConfig(**keys, use_gated_mlp=gated))), stir(nn.Linear(32, 5))
    state = {**theirs.state_dict(), **{f"classifier.{n}": t for n, t in head.state_dict().items()}}
    config = dinov3.Config(**SHAPE, mlp="swiglu" if gated else "gelu")
    ours = take("dinov3", f"transformers:live{'-swiglu' * gated}", config, state)
    return Both(ours, theirs, lambda x: head(theirs(x).pooler_output))


def beit_timm(pool: str, fc_norm: bool, size: Size = (32, 32)) -> Both:
    from timm.models.beit import Beit

    keys = {"img_size": size, "patch_size": 8, "embed_dim": 32, "depth": 2, "num_heads": 4, "num_classes": 5}
    keys |= {"use_abs_pos_emb": False, "use_rel_pos_bias": True, "init_values": 0.1}
    theirs = stir(Beit(**keys, global_pool=pool, use_fc_norm=fc_norm))
    config = beit.Config(**{**SHAPE, "size": size}, pool="mean" if pool == "avg" else "token", fc_norm=fc_norm)
    return both("beit", "timm", config, theirs)


def beit_transformers(size: Size = (32, 32)) -> Both:
    """transformers takes the square that it was built for."""
    from transformers import BeitConfig, BeitForImageClassification

    keys = {**VIT_HF, "image_size": size[0], "use_relative_position_bias": True, "layer_scale_init_value": 0.1}
    theirs = stir(BeitForImageClassification(BeitConfig(**keys)))
    return both("beit", "transformers:live", beit.Config(**{**SHAPE, "size": size}), theirs)


def eva_timm(kind: str, size: Size = (32, 32)) -> Both:
    """kind: "giant", "packed" (tiny and small EVA-02), "swiglu" (base and large), "clip" (their towers), "enormous"."""
    from timm.models.eva import Eva

    keys, config = {"mlp_ratio": 3}, replace(eva.GIANT, **SHAPE, mlp_ratio=3.0)
    if kind == "enormous":
        keys |= {"use_post_norm": True, "global_pool": "token"}
        config = replace(config, norm_at="branch", pool="token", fc_norm=False)
    elif kind != "giant":
        keys = {"mlp_ratio": 8 / 3, "swiglu_mlp": True, "use_rot_pos_emb": True, "ref_feat_shape": (6, 5)}
        config = eva.Config(**SHAPE, mlp_ratio=85 / 32, rope_grid=(6, 5), mlp_norm=kind != "packed")
    if kind in ("swiglu", "clip"):
        keys |= {"qkv_fused": False, "scale_mlp": True}
    if kind == "clip":
        keys |= {"scale_attn_inner": True, "global_pool": "token"}
        config = replace(config, attention_norm=True, pool="token", fc_norm=False)
    theirs = plain_timm(Eva, **keys)
    source = "timm" if kind in ("giant", "enormous") else f"timm:{kind}"
    return both("eva", source, replace(config, position_resampling="antialias"), theirs)


DISTILLED, DEIT_3 = (
    replace(VIT, tokens=2),
    replace(VIT, position_tokens=False, layer_scale=1e-4, position_resampling="antialias"),
)


def deit_timm(size: Size = (32, 32)) -> Both:
    from timm.models.deit import VisionTransformerDistilled

    return both(
        "deit", "timm", replace(DISTILLED, position_resampling="antialias"), plain_timm(VisionTransformerDistilled)
    )


def deit_3_timm(size: Size = (32, 32)) -> Both:
    from timm.models.vision_transformer import VisionTransformer

    return both("deit", "timm:3", DEIT_3, plain_timm(VisionTransformer, no_embed_class=True, init_values=1e-4))


def deit_3_original(size: Size) -> Both:
    """timm's model under the original's names."""
    made = deit_3_timm()
    state = {
        n.replace("ls1.gamma", "gamma_1").replace("ls2.gamma", "gamma_2"): t
        for n, t in made.theirs.state_dict().items()
    }
    return replace(made, ours=take("deit", "original:3", DEIT_3, state))


def deit_rope_timm(table: bool, size: Size = (32, 32)) -> Both:
    """Rotations along both axes, with a position table as well or without one."""
    from timm.models.eva import Eva

    keys = {"use_rot_pos_emb": True, "rope_grid_indexing": "xy", "rope_temperature": 100.0, "attn_type": "rope"}
    keys |= {"global_pool": "token", "no_embed_class": True, "use_abs_pos_emb": table, "init_values": 1e-4}
    config = replace(DEIT_3, position="learned_rope" if table else "rope")
    return both("deit", "timm:rope", config, plain_timm(Eva, mlp_ratio=4, **keys))


def deit_transformers(size: Size = (32, 32)) -> Both:
    from transformers import DeiTConfig, DeiTForImageClassificationWithTeacher

    theirs = stir(DeiTForImageClassificationWithTeacher(DeiTConfig(**VIT_HF)))
    return both("deit", "transformers:live", DISTILLED, theirs, interpolate_pos_encoding=True)


HYBRID = hybrid.Config(
    stages=(2, 1, 1), stem_width=32, width=32, depth=2, heads=4, size=(64, 64), standardise="timm", stem_eps=1e-5
)


def timm_hybrid(stages: tuple[int, ...], patch: int, size: Size) -> nn.Module:
    import timm
    from timm.models.resnetv2 import ResNetV2, create_resnetv2_stem

    keys = {"stem_type": "same", "preact": False, "conv_layer": partial(timm.layers.StdConv2dSame, eps=1e-8)}
    if stages:
        widths = tuple(128 << i for i in range(len(stages)))
        stem = ResNetV2(stages, widths, num_classes=0, global_pool="", stem_chs=32, **keys)
    else:
        stem = create_resnetv2_stem(3, 32, **keys)
    return timm.models.vision_transformer.VisionTransformer(
        size,
        patch,
        embed_dim=32,
        depth=2,
        num_heads=4,
        num_classes=5,
        embed_layer=partial(timm.layers.HybridEmbed, backbone=stem),
    )


def hybrid_timm(stages: tuple[int, ...], patch: int, size: Size) -> Both:
    config = replace(HYBRID, stages=stages, patch=patch, size=size)
    return both("hybrid", "timm", config, stir(timm_hybrid(stages, patch, size)))


SWIN_SHAPE = {"width": 16, "depths": (2, 2, 1, 2), "heads": (2, 2, 4, 4), "window": 4}
SWIN, SWIN_2 = (room.Config(**SWIN_SHAPE, size=(128, 128)) for room in (swin, swin_v2))  # the last stage is one window
SWIN_TIMM = {"embed_dim": 16, "depths": (2, 2, 1, 2), "num_heads": (2, 2, 4, 4), "window_size": 4, "num_classes": 5}
SWIN_TORCHVISION = ([4, 4], 16, [2, 2, 1, 2], [2, 2, 4, 4], [4, 4])
SWIN_HF = {"embed_dim": 16, "depths": [2, 2, 1, 2], "num_heads": [2, 2, 4, 4], "num_labels": 5}


def whole(x: Tensor) -> Tensor:
    """Ours pads to whole patches, torchvision's Swins drop what is left over."""
    return F.pad(x, (0, -x.shape[3] % 4, 0, -x.shape[2] % 4))


def swin_timm(size: Size = (128, 128)) -> Both:
    from timm.models.swin_transformer import SwinTransformer

    theirs = stir(SwinTransformer(size, **SWIN_TIMM))
    return both(
        "swin",
        "timm",
        replace(SWIN, size=size),
        theirs,
        partial(theirs.forward_intermediates, intermediates_only=True, norm=True),
    )


def swin_torchvision(size: Size = (128, 128)) -> Both:
    from torchvision.models.swin_transformer import SwinTransformer

    theirs = stir(SwinTransformer(*SWIN_TORCHVISION, num_classes=5))
    return replace(both("swin", "torchvision", SWIN, theirs), logits=lambda x: theirs(whole(x)))


def swin_transformers(size: Size = (128, 128), window: int = 4) -> Both:
    from transformers import SwinConfig, SwinForImageClassification

    theirs = stir(SwinForImageClassification(SwinConfig(**SWIN_HF, image_size=size, window_size=window)))
    return both("swin", "transformers", replace(SWIN, size=size, window=window), theirs)


def warm(model: nn.Module, temperature: float = 5.0) -> nn.Module:
    """Stirred; one temperature of every cosine attention above its limit of ln 100, and no bias of keys, as published:
    nothing moves it."""
    for name, p in stir(model, norms=0.3).named_parameters():
        if name.endswith("logit_scale"):
            p.data[0] = temperature
        elif name.endswith("qkv.bias"):
            p.data.view(3, -1)[1] = 0
    return model


def swin_v2_timm(size: Size = (128, 128), before: tuple[int, ...] | None = None) -> Both:
    from timm.models.swin_transformer_v2 import SwinTransformerV2

    theirs = warm(SwinTransformerV2(size, **SWIN_TIMM, pretrained_window_sizes=before or (0, 0, 0, 0)))
    return both("swin_v2", "timm", replace(SWIN_2, size=size, pretrained_windows=before), theirs)


def swin_v2_torchvision(size: Size = (128, 128)) -> Both:
    from torchvision.models.swin_transformer import PatchMergingV2, SwinTransformer, SwinTransformerBlockV2

    theirs = SwinTransformer(
        *SWIN_TORCHVISION, num_classes=5, block=SwinTransformerBlockV2, downsample_layer=PatchMergingV2
    )
    return replace(both("swin_v2", "torchvision", SWIN_2, warm(theirs)), logits=lambda x: theirs(whole(x)))


def swin_v2_transformers(size: Size = (128, 128), window: int = 4, before: tuple[int, ...] | None = None) -> Both:
    """transformers adds its mask of -100 twice, which is seen where the temperature nears 100 and windows are so small
    that all others in them are masked: windows of 2 are compared at a lower one."""
    from transformers import Swinv2Config, Swinv2ForImageClassification

    keys = {
        **SWIN_HF,
        "image_size": size,
        "window_size": window,
        "pretrained_window_sizes": list(before or (0, 0, 0, 0)),
    }
    theirs = warm(Swinv2ForImageClassification(Swinv2Config(**keys)), 3.0 if window == 2 else 5.0)
    return both("swin_v2", "transformers", replace(SWIN_2, size=size, window=window, pretrained_windows=before), theirs)


PVT = pvt.Config(widths=(16, 32, 40, 64), depths=(2, 2, 2, 2), size=(64, 64))
PVT_2 = pvt_v2.Config(widths=(16, 32, 40, 64), depths=(1, 2, 1, 1))


def pvt_golden(size: Size) -> Both:
    with safe_open(GOLDEN / "pvt_v1_tiny.safetensors", "pt") as file:
        held, about = {name: file.get_tensor(name) for name in file.keys()}, file.metadata()  # noqa: SIM118
    config = pvt.Config(
        widths=tuple(json.loads(about["embed_dims"])), depths=tuple(json.loads(about["depths"])), size=(64, 64)
    )
    state = {k.removeprefix("state."): t for k, t in held.items() if k.startswith("state.")}
    which = "" if size == (64, 64) else "_rect"
    return Both(
        take("pvt", "original", config, state, 10),
        None,
        lambda _: held[f"out{which}"],
        images=lambda _: held[f"x{which}"],
    )


def pvt_transformers(size: Size = (64, 64)) -> Both:
    """transformers has one eps for all norms, and takes only the square that it was built for."""
    from transformers import PvtConfig, PvtForImageClassification

    config = PvtConfig(hidden_sizes=[16, 32, 40, 64], depths=[2, 2, 2, 2], image_size=size[0], num_labels=5)
    return both("pvt", "transformers", replace(PVT, inner_eps=1e-6, size=size), stir(PvtForImageClassification(config)))


def pvt_v2_timm(pool: int | None, size: Size = (64, 64)) -> Both:
    from timm.models.pvt_v2 import PyramidVisionTransformerV2

    theirs = stir(PyramidVisionTransformerV2(
        embed_dims=(16, 32, 40, 64), depths=(1, 2, 1, 1), num_heads=(1, 2, 5, 8), linear=pool is not None, num_classes=5
    ))  # fmt: skip
    return both(
        "pvt_v2",
        "timm",
        replace(PVT_2, pool=pool),
        theirs,
        partial(theirs.forward_intermediates, intermediates_only=True),
    )


def pvt_v2_transformers(pool: int | None, size: Size = (64, 64)) -> Both:
    """transformers has one eps for all norms."""
    from transformers import PvtV2Config, PvtV2ForImageClassification

    keys = {
        "hidden_sizes": [16, 32, 40, 64],
        "depths": [1, 2, 1, 1],
        "linear_attention": pool is not None,
        "num_labels": 5,
    }
    theirs = stir(PvtV2ForImageClassification(PvtV2Config(**keys, image_size=64)))
    return both("pvt_v2", "transformers", replace(PVT_2, pool=pool, inner_eps=1e-6), theirs)


CROSSVIT = crossvit.Config(
    widths=(16, 32), heads=(2, 4), stages=2, depths=(1, 3), mlp_ratios=(3.0, 3.0), size=(120, 240)
)


def crossvit_timm(stem: str, size: Size, built: Size | None = None) -> Both:
    """timm's stretches every image to the size that it was `built` for."""
    from timm.models.crossvit import CrossVit

    theirs = stir(CrossVit(
        img_size=built or size, img_scale=(1.0, 224 / 240), patch_size=(12, 16), embed_dim=(16, 32),
        depth=((1, 3, 0), (1, 3, 0)), num_heads=(2, 4), mlp_ratio=(3, 3, 1), multi_conv=stem == "conv", num_classes=5,
    ))  # fmt: skip
    config = replace(CROSSVIT, stem=stem, size=built or size, fit=built is not None)
    return both("crossvit", "timm", config, theirs, lambda x: theirs.forward_intermediates(x, [1, 3], norm=True)[1])


EFFICIENT = efficientvit.Config((8, 16, 24, 32, 48), (1, 2, 2, 1, 2), head_width=8, pre_logits=(40, 24), size=(64, 64))
EFFICIENT_LARGE = replace(EFFICIENT, plan="large", norm_eps=1e-7)


def efficientvit_timm(config: efficientvit.Config, size: Size = (64, 64)) -> Both:
    """timm's eps in attention; the original's in the one norm where timm forgot it, that of the large models' head
    (1e-7, not 1e-5)."""
    from timm.models import efficientvit_mit as mit

    kind = mit.EfficientVit if config.plan == "base" else mit.EfficientVitLarge
    theirs = kind(
        widths=config.widths,
        depths=config.depths,
        head_dim=config.head_width,
        head_widths=config.pre_logits,
        num_classes=5,
    )
    theirs.head.in_conv.norm.eps = config.norm_eps
    theirs = settle(stir(theirs))
    return both("efficientvit", "timm", replace(config, eps=1e-5), theirs, lambda x: theirs.forward_intermediates(x)[1])


MSRA = efficientvit_msra.Config((16, 24, 36), (1, 2, 1), (2, 3, 4), (7, 5, 3, 3), key_width=8)


def msra_timm(built: Size, size: Size = (224, 224)) -> Both:
    from timm.models.efficientvit_msra import EfficientVitMsra

    theirs = settle(stir(EfficientVitMsra(
        img_size=built, num_classes=5, embed_dim=MSRA.widths, key_dim=(MSRA.key_width,) * 3, depth=MSRA.depths,
        num_heads=MSRA.heads, window_size=(MSRA.window,) * 3, kernels=MSRA.kernels,
    ), norms=0.5), (224, 224))  # fmt: skip
    return both(
        "efficientvit_msra", "timm", replace(MSRA, size=built), theirs, lambda x: theirs.forward_intermediates(x)[1]
    )


MOBILE = mobilevit.Config(
    stem_width=8, widths=(8, 16, 16, 24, 32), expand=2.0, token_widths=(16, 24, 32), summary_width=40, size=(64, 64)
)


def mobilevit_timm(size: Size = (64, 64)) -> Both:
    from timm.models import byobnet
    from timm.models import mobilevit as made_of

    blocks = [made_of._inverted_residual_block(d=d, c=c, s=s, br=2.0) for d, c, s in ((1, 8, 1), (3, 16, 2))]
    blocks += [
        made_of._mobilevit_block(d=1, c=c, s=2, transformer_dim=t, transformer_depth=n, patch_size=2, br=2.0)
        for c, t, n in ((16, 16, 2), (24, 24, 4), (32, 32, 3))
    ]
    keys = {
        "stem_chs": 8,
        "stem_type": "3x3",
        "stem_pool": "",
        "downsample": "",
        "act_layer": "silu",
        "num_features": 40,
    }
    theirs = byobnet.ByobNet(byobnet.ByoModelCfg(blocks=tuple(blocks), **keys), num_classes=5)
    return both("mobilevit", "timm", MOBILE, settle(stir(theirs)))


def mobilevit_transformers(size: Size = (64, 64)) -> Both:
    """transformers' sees blue first."""
    from transformers import MobileViTConfig, MobileViTForImageClassification

    keys = {
        "hidden_sizes": [16, 24, 32],
        "neck_hidden_sizes": [8, 8, 16, 16, 24, 32, 40],
        "expand_ratio": 2.0,
        "num_labels": 5,
    }
    theirs = settle(stir(MobileViTForImageClassification(MobileViTConfig(**keys, image_size=64))))
    return replace(both("mobilevit", "transformers", MOBILE, theirs), logits=lambda x: theirs(x.flip(1)).logits)


SAM = samvit.Config(width=32, depth=4, heads=4, patch=8, size=(48, 48), window=4, neck=24, global_blocks=(2, 4))


def samvit_timm(built: Size, neck: int, size: Size = (48, 48)) -> Both:
    from timm.models.vision_transformer_sam import VisionTransformerSAM

    theirs = stir(VisionTransformerSAM(
        img_size=built, patch_size=8, embed_dim=32, depth=4, num_heads=4, num_classes=5, use_rel_pos=True,
        use_abs_pos=neck > 0, window_size=4, global_attn_indexes=(1, 3), neck_chans=neck or None,
    ))  # fmt: skip
    config = replace(SAM, eps=1e-5, neck=neck, position="learned" if neck else "none", size=built)
    return both("samvit", "timm", config, theirs, lambda x: [theirs.forward_features(x)])


def samvit_transformers(size: Size = (48, 48)) -> Both:
    """transformers' takes only the square that it was built for, and has no classifier: ours gets one of random
    weights, and theirs is asked for the mean of its map."""
    from transformers import SamVisionConfig, SamVisionModel

    theirs = stir(SamVisionModel(SamVisionConfig(
        hidden_size=32, output_channels=24, num_hidden_layers=4, num_attention_heads=4, image_size=size[0],
        patch_size=8, window_size=4, global_attn_indexes=[1, 3], mlp_dim=128,
    )))  # fmt: skip
    state = {**theirs.state_dict(), "heads.0.weight": torch.eye(24), "heads.0.bias": torch.zeros(24)}
    rules = catalog.load_module("weights/tables", "samvit").SOURCES["transformers"]
    ours = Classifier(samvit.build(replace(SAM, size=size)), 24)
    made = convert(theirs.state_dict(), rules)
    assert made.unknown == []
    assert revert(made.tensors, rules).keys() == theirs.state_dict().keys()
    ours.backbone.load_state_dict(made.tensors)
    ours.heads.load_state_dict({"0.weight": state["heads.0.weight"], "0.bias": state["heads.0.bias"]})
    last = lambda x: theirs(x).last_hidden_state  # noqa: E731
    return Both(ours.eval(), theirs, lambda x: last(x).mean((2, 3)), lambda x: [last(x)])


TINY_VIT = tiny_vit.Config((16, 24, 32, 48), (1, 2, 2, 1), (2, 4, 4), (4, 3, 2), size=(64, 64))


def tiny_vit_timm(size: Size = (64, 64)) -> Both:
    from timm.models.tiny_vit import TinyVit

    theirs = settle(stir(TinyVit(
        num_classes=5, embed_dims=TINY_VIT.widths, depths=TINY_VIT.depths, num_heads=(1, *TINY_VIT.heads),
        window_sizes=(4, *TINY_VIT.windows), drop_path_rate=0.0,
    ), norms=0.5))  # fmt: skip
    return both("tiny_vit", "timm", TINY_VIT, theirs, partial(theirs.forward_intermediates, intermediates_only=True))


RESNET = resnet.Config(depths=(1, 2, 1, 1))


def resnet_torchvision(block: str, size: Size = (64, 64)) -> Both:
    from torchvision.models import resnet as held

    theirs = held.ResNet(held.BasicBlock if block == "basic" else held.Bottleneck, list(RESNET.depths), num_classes=5)
    return both("resnet", "torchvision", replace(RESNET, block=block), settle(stir(theirs)))


def resnet_timm(block: str, size: Size = (64, 64)) -> Both:
    from timm.models.resnet import BasicBlock, Bottleneck, ResNet

    theirs = settle(stir(ResNet(BasicBlock if block == "basic" else Bottleneck, list(RESNET.depths), num_classes=5)))
    maps = partial(theirs.forward_intermediates, indices=[1, 2, 3, 4], intermediates_only=True)
    return both("resnet", "timm", replace(RESNET, block=block), theirs, maps)


def resnet_transformers(block: str, size: Size = (64, 64)) -> Both:
    from transformers import ResNetConfig, ResNetForImageClassification

    widths = [(64 if block == "basic" else 256) << i for i in range(4)]
    config = ResNetConfig(
        embedding_size=64, hidden_sizes=widths, depths=list(RESNET.depths), layer_type=block, num_labels=5
    )
    return both(
        "resnet", "transformers", replace(RESNET, block=block), settle(stir(ResNetForImageClassification(config)))
    )


DIT = dit.Config(width=64, depth=3, heads=4, patch=2, size=(8, 8), classes=10)
JIT = jit.Config(
    width=64, depth=4, heads=4, bottleneck=16, context=4, context_start=2, patch=4, size=(32, 32), classes=10
)


def golden(name: str) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """What the original said, and its weights."""
    with safe_open(GOLDEN / f"{name}.safetensors", "pt") as file:
        held = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    return held, {k.removeprefix("state."): t for k, t in held.items() if k.startswith("state.")}


def denoiser_golden(family: str, size: Size) -> Both:
    """The original's outputs at three times, one of them for no class."""
    held, state = golden(f"{family}_tiny")
    ours = take(family, "original", DIT if family == "dit" else JIT, state)
    x, t, label, out = (held[f"forward.{part}"] for part in ("x", "t", "y", "out"))
    return Both(lambda x: ours(x, t, label), None, lambda _: out, images=lambda _: x)


def dit_diffusers(size: Size = (16, 16)) -> Both:
    """diffusers' with the original's eps and waves (its own end at 10000^(-127/127), not 10000^(-127/128)); it takes
    squares only."""
    from diffusers import DiTTransformer2DModel

    theirs = stir(
        DiTTransformer2DModel(4, 16, 4, 8, num_layers=3, sample_size=size[0], num_embeds_ada_norm=10, norm_eps=1e-6)
    )
    for block in theirs.transformer_blocks:
        block.norm1.emb.time_proj.downscale_freq_shift = 0
        block.norm1.emb.load_state_dict(theirs.transformer_blocks[0].norm1.emb.state_dict())
    ours = take("dit", "diffusers", replace(DIT, size=size), theirs.state_dict())
    t, label = torch.tensor([3, 999]), torch.tensor([7, 10])
    return Both(
        lambda x: ours(x, t, label),
        theirs,
        lambda x: theirs(x, t, label).sample,
        images=lambda size: torch.randn(2, 4, *size),
    )


class Pair(NamedTuple):
    """A row of the table: whose numbers, at which settings and sizes (height, width); why, where more than 1e-5 is
    allowed."""

    family: str
    oracle: str
    settings: str
    make: Callable[[Size], Both]
    sizes: tuple[Size, ...]
    tolerance: float = 1e-5
    why: str = ""


PADDED = ((64, 96), (100, 72), (128, 36), (120, 300), (13, 7))  # neither windows nor, in some, patches divide these
BESIDE = (3, 3, 3, 2)  # windows of pre-training
PAIRS = [
    Pair("vit", "timm", "", vit_timm, ((32, 32), (40, 24))),
    Pair("vit", "torchvision", "", vit_torchvision, ((32, 32), (48, 48))),
    Pair("vit", "timm", "mean, then norm", partial(vit_gap_timm, False), ((32, 32), (40, 24))),
    Pair("vit", "timm", "mean beside a class token", partial(vit_gap_timm, True), ((40, 24),)),
    Pair("vit", "transformers", "", vit_transformers, ((32, 32), (40, 24))),
    *(
        Pair("vit", "timm", f"relative {kind}", partial(vit_relpos, kind), (size,))
        for kind, size in (("", (40, 24)), ("cls", (32, 32)), ("clsgap", (32, 32)), ("rpn", (32, 32)))
    ),
    Pair("vit", "transformers", "MAE", vit_mae, ((32, 32),)),
    Pair("clip", "timm", "", clip_timm, ((32, 32), (40, 24))),
    Pair("vit", "timm", "placed registers", vit_placed_timm, ((32, 32), (40, 24))),
    Pair("siglip", "timm", "", siglip_timm, ((32, 32), (40, 24))),
    Pair("dinov3", "timm", "", partial(dinov3_timm, False, True), ((32, 32), (40, 24))),
    Pair("dinov3", "timm", "gated, without biases", partial(dinov3_timm, True, False), ((40, 24),)),
    Pair("dinov3", "transformers", "", partial(dinov3_transformers, False), ((32, 32), (40, 24))),
    Pair("dinov3", "transformers", "gated", partial(dinov3_transformers, True), ((40, 24),)),
    Pair("beit", "timm", "", partial(beit_timm, "avg", True), ((32, 32), (40, 24))),
    Pair("beit", "timm", "class token", partial(beit_timm, "token", False), ((32, 32),)),
    Pair("beit", "transformers", "", beit_transformers, ((32, 32), (40, 40))),
    *(
        Pair("eva", "timm", kind, partial(eva_timm, kind), ((32, 32), (40, 24)))
        for kind in ("giant", "packed", "swiglu", "clip", "enormous")
    ),
    Pair("vit", "original", "Google, its outputs", partial(vit_golden, "google_vit_tiny", "google", 0), ((32, 32),)),
    Pair(
        "vit",
        "original",
        "Google, pre_logits",
        partial(vit_golden, "google_vit_tiny_in21k", "google:new", 32),
        ((32, 32),),
    ),
    Pair("deit", "timm", "distilled", deit_timm, ((32, 32), (40, 24))),
    Pair("deit", "timm", "III", deit_3_timm, ((32, 32), (40, 24))),
    Pair("deit", "timm", "III, the original's names", deit_3_original, ((32, 32), (40, 24))),
    Pair("deit", "timm", "rotated", partial(deit_rope_timm, False), ((32, 32), (40, 24))),
    Pair("deit", "timm", "rotated, with a table", partial(deit_rope_timm, True), ((32, 32), (40, 24))),
    Pair("deit", "transformers", "distilled", deit_transformers, ((32, 32), (40, 24))),
    Pair("hybrid", "timm", "stages 2 1 1", partial(hybrid_timm, (2, 1, 1), 1), ((64, 64), (64, 96))),
    Pair("hybrid", "timm", "stages 1 2, patch 2", partial(hybrid_timm, (1, 2), 2), ((64, 96),)),
    Pair("hybrid", "timm", "stages 1 1 1 1", partial(hybrid_timm, (1, 1, 1, 1), 1), ((70, 50),)),
    Pair("hybrid", "timm", "root alone, patch 8", partial(hybrid_timm, (), 8), ((64, 32),)),
    Pair("swin", "timm", "", swin_timm, ((128, 128), (128, 256), (64, 64))),
    Pair("swin", "torchvision", "", swin_torchvision, ((128, 128), (128, 256))),
    Pair("swin", "torchvision", "padded", swin_torchvision, PADDED),
    Pair("swin", "transformers", "", swin_transformers, ((128, 128),)),
    Pair("swin", "transformers", "window 2", partial(swin_transformers, window=2), ((128, 192),)),
    Pair("swin_v2", "timm", "", swin_v2_timm, ((128, 128), (128, 256), (64, 64))),
    Pair("swin_v2", "timm", "from other windows", partial(swin_v2_timm, before=BESIDE), ((128, 128),)),
    Pair("swin_v2", "torchvision", "", swin_v2_torchvision, ((128, 128), (128, 256))),
    Pair("swin_v2", "torchvision", "padded", swin_v2_torchvision, PADDED),
    Pair("swin_v2", "transformers", "", swin_v2_transformers, ((128, 128),)),
    Pair("swin_v2", "transformers", "window 2", partial(swin_v2_transformers, window=2), ((128, 192),)),
    Pair("swin_v2", "transformers", "from other windows", partial(swin_v2_transformers, before=BESIDE), ((128, 128),)),
    Pair("pvt", "original", "its outputs", pvt_golden, ((64, 64), (96, 64))),
    Pair("pvt", "transformers", "one eps", pvt_transformers, ((64, 64), (96, 96))),
    Pair("pvt_v2", "timm", "convolution", partial(pvt_v2_timm, None), ((64, 64), (96, 64), (100, 75), (64, 130))),
    Pair("pvt_v2", "timm", "pool", partial(pvt_v2_timm, 7), ((64, 64), (96, 64), (100, 75), (64, 130))),
    Pair("pvt_v2", "transformers", "convolution, one eps", partial(pvt_v2_transformers, None), ((64, 64), (96, 64))),
    Pair("pvt_v2", "transformers", "pool, one eps", partial(pvt_v2_transformers, 7), ((64, 64), (96, 64))),
    Pair("crossvit", "timm", "patch stem", partial(crossvit_timm, "patch"), ((240, 240), (120, 240))),
    Pair("crossvit", "timm", "conv stem", partial(crossvit_timm, "conv"), ((240, 240), (120, 240))),
    Pair("crossvit", "timm", "stretched to 240x240", partial(crossvit_timm, "patch", built=(240, 240)), ((200, 100),)),
    Pair("efficientvit", "timm", "base", partial(efficientvit_timm, EFFICIENT), ((64, 64), (70, 45), (33, 96))),
    Pair("efficientvit", "timm", "large", partial(efficientvit_timm, EFFICIENT_LARGE), ((64, 64), (70, 45), (33, 96))),
    Pair(
        "efficientvit_msra",
        "timm",
        "windows 7 7 4",
        partial(msra_timm, (224, 224)),
        ((224, 224), (64, 100), (240, 130)),
    ),
    Pair("efficientvit_msra", "timm", "windows 4 2 1", partial(msra_timm, (64, 64)), ((64, 64), (96, 41))),
    Pair("efficientvit_msra", "timm", "windows 6 3 2", partial(msra_timm, (96, 224)), ((96, 224),)),
    Pair("efficientvit_msra", "timm", "windows 7 7 7", partial(msra_timm, (448, 448)), ((300, 448),)),
    Pair(
        "mobilevit", "timm", "", mobilevit_timm, ((64, 64), (96, 40), (70, 50))
    ),  # odd maps: 12x5, 6x3, 3x2 and 9x7, 5x4, 3x2
    Pair("mobilevit", "transformers", "", mobilevit_transformers, ((64, 64), (96, 40), (70, 50))),
    Pair("samvit", "timm", "", partial(samvit_timm, (48, 48), 24), ((48, 48), (64, 72), (40, 104), (24, 16))),
    Pair("samvit", "timm", "without neck and positions", partial(samvit_timm, (64, 48), 0), ((64, 48), (48, 80))),
    Pair("samvit", "transformers", "", samvit_transformers, ((48, 48), (64, 64))),
    Pair("tiny_vit", "timm", "", tiny_vit_timm, ((64, 64), (96, 64), (100, 75), (33, 130))),
    Pair("dit", "original", "its outputs", partial(denoiser_golden, "dit"), ((8, 8),)),
    Pair("dit", "diffusers", "the original's eps and waves", dit_diffusers, ((16, 16), (32, 32))),
    Pair("jit", "original", "its outputs", partial(denoiser_golden, "jit"), ((32, 32),)),
    *(
        Pair("resnet", oracle, block, partial(make, block), ((64, 64), (70, 45)))
        for oracle, make in (
            ("torchvision", resnet_torchvision),
            ("timm", resnet_timm),
            ("transformers", resnet_transformers),
        )
        for block in ("basic", "bottleneck")
    ),
]
