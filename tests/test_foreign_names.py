"""Names of models in other libraries are answered with ours: by rules, so every name that a rule reads is a model with
the same number of parameters."""

import pytest
import torch
from places import vitrail as command

import vitrail
from vitrail.errors import UsageError
from vitrail.foreign_names import answer, translate

OURS = vitrail.models()
FAMILIES = ("vit_", "deit", "swin", "resnet", "pvt", "crossvit", "efficientvit", "mobilevit")

OTHERS = {  # torchvision, transformers, torch.hub, the papers: ours
    "vit_b_16": "--model vit/base", "vit_l_32": "--model vit/large --model.patch 32", "vit_h_14": "--model vit/huge",
    "swin_t": "--model swin/tiny", "swin_v2_b": "--model swin_v2/base_w8", "resnet-50": "--model resnet/50",
    "google/vit-base-patch16-224-in21k": "--model vit/base",
    "google/vit-large-patch32-384": "--model vit/large --model.patch 32 --img-size 384",
    "google/vit-hybrid-base-bit-384": "--model hybrid/r50_base_384",
    "facebook/deit-small-distilled-patch16-224": "--model deit/small_distilled",
    "microsoft/swin-tiny-patch4-window7-224": "--model swin/tiny",
    "microsoft/swinv2-base-patch4-window12to16-192to256-22kto1k-ft": "--model swin_v2/base_w12to16_256",
    "apple/mobilevit-x-small": "--model mobilevit/xs", "OpenGVLab/pvt_v2_b2_linear": "--model pvt_v2/b2_li",
    "facebook/dinov2-small": "--model vit/small --model.patch 14 --img-size 518 --model.layer-scale 1e-05",
    "dino_vits8": "--model vit/small --model.patch 8", "DiT-XL/2": "--model dit/xl_2",
    "facebook/DiT-XL-2-512": "--model dit/xl_2 --img-size 64", "JiT-B/16": "--model jit/base_16",
    "ViT-B/32": "--model vit/base --model.patch 32", "ViT_B16": "--model vit/base", "vit-base": "--model vit/base",
    "timm/vit_base_patch16_224.augreg2_in21k_ft_in1k": "--model vit/base", "hf_hub:timm/resnet50.a1_in1k":
    "--model resnet/50", "resnet50.a1_in1k": "--model resnet/50", "timm.vit_tiny_patch16_384":
    "--model vit/tiny --img-size 384",
    "facebook/sam-vit-huge": "--model samvit/huge", "sam_vit_b_01ec64": "--model samvit/base",
    "timm/samvit_large_patch16.sa1b": "--model samvit/large", "samvit_base_patch16_224": "--model samvit/base_224",
    "tiny_vit_21m_384.dist_in22k_ft_in1k": "--model tiny_vit/21m_384", "tiny_vit_11m_224": "--model tiny_vit/11m",
}  # fmt: skip


@pytest.mark.parametrize(("name", "flags"), OTHERS.items())
def test_names_of_other_libraries(name, flags):
    model = translate(name, OURS)
    assert model is not None
    assert model.as_flags() == flags
    with torch.device("meta"):
        vitrail.backbone(model.name, **model.keys)
    with pytest.raises(UsageError) as refused:
        vitrail.create(name)
    assert refused.value.what == f"{name} is {model.name} here: {flags}"
    assert refused.value.fix == f"in Python: {model.as_call()}"


@pytest.mark.slow
def test_a_translated_model_of_timm_has_timms_parameters():
    """One name a rule, of the smallest size; on the meta device, without a weight."""
    timm = pytest.importorskip("timm")
    for name in ("vit_tiny_patch16_384", "vit_small_patch14_reg4_dinov2", "deit_tiny_distilled_patch16_224",
                 "vit_tiny_r_s16_p8_384", "crossvit_9_dagger_240", "swinv2_tiny_window16_256", "pvt_v2_b2_li",
                 "efficientvit_m2", "resnet34", "vit_base_patch16_clip_quickgelu_224",
                 "vit_base_patch32_siglip_256", "vit_small_patch16_dinov3", "beitv2_base_patch16_224",
                 "eva02_tiny_patch14_336", "tiny_vit_5m_224", "samvit_base_patch16_224"):  # fmt: skip
        model = translate(name, OURS)
        with torch.device("meta"):
            made, theirs = vitrail.create(model.name, **model.keys), timm.create_model(name, num_classes=1000)
        assert sum(p.numel() for p in made.parameters()) == sum(p.numel() for p in theirs.parameters()), name


def test_names_that_have_no_model_here_are_answered_with_the_nearest():
    for name, near in {"convnext_tiny": "resnet/50", "efficientnet_b0.ra_in1k": "resnet/50", "vgg16": "resnet/50",
                       "resnet50d": "resnet/50", "vit_5b_patch16_sapiens2":
                       "vit/small", "swin_s3_tiny_224": "swin/tiny", "dinov4_vits16": "vit/small",
                       "timm/eva05_enormous_patch14_clip_224": "vit/small"}.items():  # fmt: skip
        assert answer(name, OURS).fix.startswith(f"--model {near};"), name


@pytest.mark.parametrize(
    "name", ["", "vit", "vit/bse", "vti/nano", "my_model", "mine.wavelets/base", "nano", "/", "x" * 9]
)
def test_other_words_are_no_names_of_a_library(name):
    assert answer(name, OURS) is None


def test_other_words_for_weights_are_no_key_of_a_model():
    for key in ("pretrained", "checkpoint_path"):
        with pytest.raises(UsageError, match=rf"{key} is no key of a model.*\n?weights=True loads published ones"):
            vitrail.create("vit/nano", **{key: True})


def wrong(*words):
    code, _, err = command(*words)
    assert code == 2
    return " ".join(err.split())


def test_methods_by_the_names_of_their_papers_are_answered_with_our_tasks():
    from vitrail import catalog
    from vitrail.foreign_names import TASKS

    assert set(TASKS.values()) <= set(catalog.list_modules("tasks"))
    with pytest.raises(UsageError) as said:
        catalog.find("tasks", "DINO")
    assert (said.value.what, said.value.fix) == ("DINO is the task self_distillation here", "--task self_distillation")


def test_the_command_answers_too():
    assert "resnet50 is resnet/50 here: --model resnet/50" in wrong("train", "--data", "mini", "--model", "resnet50")
    assert "--model vit/base --model.patch 32 --img-size 384" in wrong("models", "vit_base_patch32_384")
    assert "swin_t is swin/tiny here" in wrong("probe", "swin_t", "--data", "mini")
    assert "there is no convnext_tiny here; the nearest models are" in wrong("cost", "convnext_tiny")
