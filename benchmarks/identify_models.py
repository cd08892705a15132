"""The models of other libraries that `identify.py` writes and reads: how each is built, saved and asked."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from vitrail.recipe import Choice

VITS = """vit_tiny_patch16_224 vit_tiny_patch16_384 vit_small_patch16_224 vit_small_patch16_384 vit_small_patch32_224
vit_small_patch32_384 vit_small_patch8_224 vit_base_patch16_224 vit_base_patch16_384 vit_base_patch32_224
vit_base_patch32_384 vit_base_patch8_224 vit_base_patch16_224_miil vit_large_patch16_224 vit_large_patch32_384
vit_small_patch14_dinov2 vit_base_patch14_dinov2 vit_small_patch14_reg4_dinov2 vit_base_patch14_reg4_dinov2
vit_base_patch16_clip_224 vit_base_patch32_clip_224 vit_base_patch16_clip_quickgelu_224 vit_large_patch14_clip_224
vit_base_patch16_siglip_224 vit_base_patch16_siglip_256 vit_base_patch16_siglip_gap_224 vit_base_patch16_gap_224
vit_medium_patch16_gap_240 vit_medium_patch16_reg4_gap_256 vit_betwixt_patch16_reg4_gap_256
vit_little_patch16_reg4_gap_256 vit_wee_patch16_reg1_gap_256 vit_mediumd_patch16_reg4_gap_256
deit_tiny_patch16_224 deit_small_patch16_224 deit_base_patch16_224 deit_tiny_distilled_patch16_224
deit_small_distilled_patch16_224 deit_base_distilled_patch16_224 deit3_small_patch16_224 deit3_base_patch16_224
vit_tiny_r_s16_p8_224 vit_small_r26_s32_224 vit_small_patch16_dinov3 vit_base_patch16_dinov3 beit_base_patch16_224
beitv2_base_patch16_224 eva02_tiny_patch14_224 eva02_small_patch14_336 vit_relpos_small_patch16_224
vit_relpos_medium_patch16_224 vit_small_patch16_36x1_224 vit_base_patch14_reg1_tipsv2 vit_small_patch16_rope_224
vit_small_patch16_rope_ape_224 vit_base_patch16_rpn_224 vit_base_patch32_siglip_256 vit_so150m_patch16_reg4_gap_256"""
OTHERS = """swin_tiny_patch4_window7_224 swin_base_patch4_window12_384 swinv2_tiny_window8_256 swinv2_tiny_window16_256
swinv2_base_window12to16_192to256 pvt_v2_b0 pvt_v2_b2_li crossvit_tiny_240 crossvit_9_dagger_240 crossvit_15_dagger_408
efficientvit_b0 efficientvit_l1 efficientvit_m0 efficientvit_m5 mobilevit_xxs mobilevit_s resnet18 resnet50
tiny_vit_5m_224 swin_s3_tiny_224"""


class Case(NamedTuple):
    """A model of a library. output: its logits or features of images; answer: what to type where its bare file cannot
    say all; size: of the images, else that of the file's preprocessing."""

    name: str
    origin: str  # the library
    kind: str
    build: Callable[[], nn.Module]
    save: Callable[[nn.Module, Path], None]
    state: Callable[[nn.Module, Path], dict[str, Tensor]]
    output: Callable[[nn.Module, Tensor], Tensor]
    answer: Choice = Choice()
    size: tuple[int, int] | None = None
    by_map: bool = False  # compare the mean of the patches: libraries differ in what summarises an image


def shake(model: nn.Module) -> nn.Module:
    """Evaluation mode, and no parameter or running statistic as it was made."""
    with torch.no_grad():
        for p in model.parameters():
            p.add_(torch.randn_like(p), alpha=0.02)
        for m in model.modules():
            if isinstance(m, nn.BatchNorm1d | nn.BatchNorm2d):
                m.running_mean.add_(torch.randn_like(m.running_mean), alpha=0.1)  # type: ignore[union-attr]
                m.running_var.mul_(torch.rand_like(m.running_var) + 0.5)  # type: ignore[union-attr]
    return model.eval()


def cases() -> list[Case]:
    return [*timm_cases(), *transformers_cases(), *torchvision_cases(), *diffusers_cases()]


def timm_cases() -> list[Case]:
    import timm
    from timm.models import _hub as hub

    def save(model: nn.Module, folder: Path) -> None:
        hub.save_for_hf(model, folder, safe_serialization=True)

    answers = {
        "swinv2_tiny_window8_256": Choice("swin_v2/tiny_w8"), "swinv2_tiny_window16_256": Choice("swin_v2/tiny_w16"),
        "swinv2_base_window12to16_192to256": Choice("swin_v2/base_w12to16_256"),
        "vit_base_patch16_clip_224": Choice("clip/open_base"), "vit_base_patch32_clip_224": Choice("clip/open_base_32"),
        "vit_base_patch16_clip_quickgelu_224": Choice("clip/base"),
        "vit_large_patch14_clip_224": Choice("clip/open_large"),
        "vit_base_patch16_gap_224": Choice("", {"heads": 16}),
        "vit_base_patch16_siglip_gap_224": Choice("", {"heads": 12}),
        "vit_base_patch16_rpn_224": Choice("", {"norm_at": "branch"}),
        "vit_small_patch16_rope_ape_224": Choice("deit/rope_ape_small"),
    }  # fmt: skip
    return [
        Case(name, "timm", "real size", lambda name=name: timm.create_model(name), save, own_state,
             mean_patch if "dinov3" in name else lambda model, x: model(x), answers.get(name, gelu_of(name)),
             by_map="dinov3" in name)
        for name in (*VITS.split(), *OTHERS.split())
        if timm.is_model(name)
    ]  # fmt: skip


def gelu_of(name: str) -> Choice:
    """What no tensor of a CLIP shows."""
    return Choice("", {"gelu": "quick" if "quickgelu" in name else "erf"}) if "_clip_" in name else Choice()


def mean_patch(model: Any, x: Tensor) -> Tensor:
    """timm takes the mean of the patches of DINOv3, the original the class token."""
    return model.forward_features(x)[:, model.num_prefix_tokens :].mean(1)  # type: ignore[no-any-return]


def own_state(model: nn.Module, folder: Path) -> dict[str, Tensor]:
    return dict(model.state_dict())


def saved_state(model: nn.Module, folder: Path) -> dict[str, Tensor]:
    """The tensors of a folder, whose names differ from those in memory."""
    return {n: t for file in sorted(folder.glob("*.safetensors")) for n, t in load_file(file).items()}


def first(model: nn.Module, x: Tensor) -> Tensor:
    return model(x).last_hidden_state[:, 0]  # type: ignore[no-any-return]


def logits(model: nn.Module, x: Tensor) -> Tensor:
    return model(x).logits  # type: ignore[no-any-return]


def embeds(model: nn.Module, x: Tensor) -> Tensor:
    return model(x).image_embeds  # type: ignore[no-any-return]


def pooled(model: nn.Module, x: Tensor) -> Tensor:
    return model(x).pooler_output  # type: ignore[no-any-return]


def transformers_cases() -> list[Case]:
    """Every class that ours has a counterpart of, small: heads are known by the config alone, and of the bare file
    typed."""
    import transformers as hf

    vit = {"hidden_size": 48, "num_hidden_layers": 2, "num_attention_heads": 3, "intermediate_size": 96,
           "image_size": 32, "patch_size": 8}  # fmt: skip
    labels, heads = {"num_labels": 5}, Choice("", {"heads": 3})
    swin = {"embed_dim": 32, "depths": [2, 1, 2, 1], "num_heads": [1, 2, 4, 8], "window_size": 2, "image_size": 64}
    pvt = {"hidden_sizes": [32, 64, 160, 256], "depths": [1, 1, 2, 1], **labels}
    tower, relative = {**vit, "projection_dim": 24}, {"use_relative_position_bias": True}
    Row = tuple[Any, Any, Callable[[nn.Module, Tensor], Tensor] | None, Choice, int]
    registers, by_width = {"num_register_tokens": 3}, Choice("", {"heads": [1, 2, 5, 8]})
    quick = Choice("", {"heads": 3, "gelu": "quick"})
    window = Choice("", {"window": 2, "size": [64, 64]})
    resnet = {"embedding_size": 64, "hidden_sizes": [64, 128, 256, 512], "depths": [1, 2, 1, 1], "layer_type": "basic"}
    rows: list[Row] = [
        (hf.ViTForImageClassification, hf.ViTConfig(**vit, **labels), logits, heads, 32),
        (hf.ViTModel, hf.ViTConfig(**vit), pooled, heads, 32),
        (hf.DeiTForImageClassificationWithTeacher, hf.DeiTConfig(**vit, **labels), logits, heads, 32),
        (hf.Dinov2Model, hf.Dinov2Config(**drop(vit), mlp_ratio=2), first, heads, 32),
        (hf.Dinov2Model, hf.Dinov2Config(**drop(vit), use_swiglu_ffn=True), first, heads, 32),
        (hf.Dinov2WithRegistersModel, hf.Dinov2WithRegistersConfig(**drop(vit), **registers), first, heads, 32),
        (hf.SwinForImageClassification, hf.SwinConfig(**swin, **labels), logits, Choice(), 64),
        (hf.Swinv2ForImageClassification, hf.Swinv2Config(**swin, **labels), logits, window, 64),
        (hf.PvtForImageClassification, hf.PvtConfig(image_size=64, **pvt), logits, by_width, 64),
        (hf.PvtV2ForImageClassification, hf.PvtV2Config(image_size=64, **pvt), logits, by_width, 64),
        (hf.MobileViTForImageClassification, hf.MobileViTConfig(image_size=64, **labels), logits, Choice(), 64),
        (hf.ResNetForImageClassification, hf.ResNetConfig(**resnet, **labels), logits, Choice(), 64),
        (hf.CLIPVisionModelWithProjection, hf.CLIPVisionConfig(**tower), embeds, quick, 32),
        (hf.CLIPVisionModel, hf.CLIPVisionConfig(**vit), pooled, quick, 32),
        (hf.SiglipVisionModel, hf.SiglipVisionConfig(**vit), pooled, heads, 32),
        (hf.ViTMAEModel, hf.ViTMAEConfig(**vit, mask_ratio=0.0), None, heads, 32),
        (hf.BeitForImageClassification, hf.BeitConfig(**vit, **relative, **labels), logits, heads, 32),
        (hf.DINOv3ViTModel, hf.DINOv3ViTConfig(**vit, num_register_tokens=2), first, heads, 32),
    ]  # fmt: skip

    def save(model: Any, folder: Path) -> None:
        model.save_pretrained(folder)
        words = {
            "do_resize": True, "size": {"height": 32, "width": 32}, "resample": 3, "do_normalize": True,
            "image_mean": [0.5] * 3, "image_std": [0.5] * 3, "do_rescale": True, "rescale_factor": 1 / 255,
        }  # fmt: skip
        (folder / "preprocessor_config.json").write_text(json.dumps(words))

    return [
        Case(name_of(kind, config), "transformers", "small", lambda kind=kind, config=config: kind(config), save,
             saved_state, output or unmasked, answer, (size, size))
        for kind, config, output, answer, size in rows
    ]  # fmt: skip


def drop(vit: dict[str, int]) -> dict[str, int]:
    return {k: v for k, v in vit.items() if k != "intermediate_size"}


def name_of(kind: Any, config: Any) -> str:
    return kind.__name__ + (", SwiGLU" if config.to_dict().get("use_swiglu_ffn") else "")


def unmasked(model: Any, x: Tensor) -> Tensor:
    """The class token of a masked autoencoder that sees every patch, in order."""
    count = model.config.image_size**2 // model.config.patch_size**2
    return model(x, noise=torch.arange(count)[None].float()).last_hidden_state[:, 0]  # type: ignore[no-any-return]


def torchvision_cases() -> list[Case]:
    import torchvision.models as tv
    from torchvision.models.vision_transformer import VisionTransformer

    def save(model: nn.Module, folder: Path) -> None:
        folder.mkdir()
        torch.save(model.state_dict(), folder / "weights.pth")

    builds: dict[str, Callable[[], nn.Module]] = {
        "VisionTransformer (192, 12 blocks)": lambda: VisionTransformer(224, 16, 12, 3, 192, 768, num_classes=7),
        "swin_t": tv.swin_t, "swin_v2_t": tv.swin_v2_t, "resnet18 (torchvision)": tv.resnet18,
        "resnet50 (torchvision)": tv.resnet50, "vit_b_16": tv.vit_b_16, "vit_b_32": tv.vit_b_32,
    }  # fmt: skip
    return [
        Case(name, "torchvision", "real size", build, save, own_state, lambda model, x: model(x))
        for name, build in builds.items()
    ]


def diffusers_cases() -> list[Case]:
    """DiT as diffusers saves it. Its times and the norm before its MLP differ from the original's, which are set."""
    try:
        from diffusers import DiTTransformer2DModel
    except ImportError:
        return []

    def build() -> nn.Module:
        model = DiTTransformer2DModel(
            num_attention_heads=2, attention_head_dim=16, in_channels=4, out_channels=8, num_layers=2, sample_size=8,
            patch_size=2, num_embeds_ada_norm=10, norm_eps=1e-6,
        )  # fmt: skip
        for block in model.transformer_blocks:
            block.norm1.emb.time_proj.downscale_freq_shift = 0
        return model  # type: ignore[no-any-return]

    def output(model: Any, x: Tensor) -> Tensor:
        return model(x, timestep=torch.tensor([7]), class_labels=torch.tensor([3])).sample  # type: ignore[no-any-return]

    def save(model: Any, folder: Path) -> None:
        first_emb = model.transformer_blocks[0].norm1.emb
        for block in model.transformer_blocks:  # published ones are copies
            block.norm1.emb.load_state_dict(first_emb.state_dict())
        model.save_pretrained(folder)

    answer = Choice("", {"heads": 2, "size": [8, 8]})
    return [Case("DiTTransformer2DModel", "diffusers", "small", build, save, saved_state, output, answer, (8, 8))]
