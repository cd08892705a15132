"""DeiT and DeiT III are those of timm and transformers, number for number, and as large as published."""

import pytest
import torch

import vitrail
from vitrail.models.deit import VARIANTS

TINY = {"width": 32, "depth": 2, "heads": 4, "patch": 8, "size": (32, 32)}
MILLIONS = {  # with a head of 1000 classes
    "tiny": 5.72, "small": 22.05, "base": 86.57, "base_384": 86.86, "tiny_distilled": 5.91, "small_distilled": 22.44,
    "base_distilled": 87.34, "base_distilled_384": 87.63, "3_small": 22.06, "3_medium": 38.85, "3_base": 86.59, "3_large": 304.37,
    "3_huge": 632.13, "3_small_384": 22.21, "3_base_384": 86.88, "3_large_384": 304.76,
}  # fmt: skip
GMACS = {"tiny": 1.26, "tiny_distilled": 1.27, "small": 4.61, "small_distilled": 4.63, "base": 17.58, "base_distilled": 17.68,
         "base_384": 55.54, "base_distilled_384": 55.65, "3_medium": 8.00, "3_huge": 167.4}  # fmt: skip


def relative_error(a, b):
    return float((a - b).norm() / b.norm())


def shaken(model):
    for p in model.parameters():
        p.data += 0.05 * torch.randn_like(p)
    return model.eval()


def loaded(ours, state, tmp_path, source):
    torch.save({"model": state}, tmp_path / "x.pth")
    report = vitrail.load_weights(ours, tmp_path / "x.pth")
    assert report.source == source
    assert report.fraction == 1.0
    return ours.eval()


def timm_distilled():
    from timm.models.deit import VisionTransformerDistilled

    return shaken(VisionTransformerDistilled(img_size=32, patch_size=8, embed_dim=32, depth=2, num_heads=4, num_classes=5))


@torch.no_grad()
def test_distilled_equals_timm_and_averages_two_heads(tmp_path):
    theirs = timm_distilled()
    ours = loaded(vitrail.create("deit/tiny_distilled", classes=5, **TINY), theirs.state_dict(), tmp_path, "timm")
    x = torch.randn(3, 3, 32, 32)
    assert relative_error(ours(x), theirs(x)) < 1e-5
    theirs.train().set_distilled_training(True)
    pair = theirs(x)
    for i in range(2):
        assert relative_error(ours.each(x)[:, i], pair[i]) < 1e-5
    torch.testing.assert_close(ours(x), ours.each(x).mean(1))
    torch.testing.assert_close(ours.train()(x), ours.eval()(x))  # one output, whatever the mode


@pytest.mark.parametrize("where", ["disk", "live"])
@torch.no_grad()
def test_distilled_equals_transformers(tmp_path, where):
    transformers = pytest.importorskip("transformers")
    config = transformers.DeiTConfig(hidden_size=32, num_hidden_layers=2, num_attention_heads=4, intermediate_size=128, image_size=32,
                                     patch_size=8, num_labels=5, layer_norm_eps=1e-6)  # fmt: skip
    theirs = shaken(transformers.DeiTForImageClassificationWithTeacher(config))
    ours = vitrail.create("deit/tiny_distilled", classes=5, **TINY)
    if where == "disk":
        theirs.save_pretrained(tmp_path / "hf")
        assert vitrail.load_weights(ours, tmp_path / "hf" / "model.safetensors").source == "transformers"
    else:
        loaded(ours, theirs.state_dict(), tmp_path, "transformers:live")
    x = torch.randn(3, 3, 32, 32)
    assert relative_error(ours.eval()(x), theirs(x).logits) < 1e-5


@pytest.mark.parametrize("spelling", ["timm", "original"])
@pytest.mark.parametrize("size", [(32, 32), (40, 24)])
@torch.no_grad()
def test_deit_3_equals_timm(tmp_path, spelling, size):
    from timm.models.vision_transformer import VisionTransformer

    theirs = shaken(VisionTransformer(img_size=32, patch_size=8, embed_dim=32, depth=2, num_heads=4, num_classes=5, no_embed_class=True,
                                      init_values=1e-4, dynamic_img_size=True))  # fmt: skip
    state = dict(theirs.state_dict())
    if spelling == "original":
        state = {n.replace("ls1.gamma", "gamma_1").replace("ls2.gamma", "gamma_2"): t for n, t in state.items()}
    ours = vitrail.create("deit/3_small", classes=5, position_resampling="antialias", **TINY)
    loaded(ours, state, tmp_path, f"{spelling}:3")
    x = torch.randn(3, 3, *size)
    assert relative_error(ours(x), theirs(x)) < 1e-5


@torch.no_grad()
def test_a_table_with_a_row_for_the_class_token_goes_into_a_model_without(tmp_path):
    theirs = vitrail.create("deit/tiny", classes=5, **TINY).eval()
    torch.save(theirs.state_dict(), tmp_path / "x.pth")
    ours = vitrail.create("deit/tiny", classes=5, position_tokens=False, **TINY).eval()
    report = vitrail.load_weights(ours, tmp_path / "x.pth")
    assert "added to the tokens" in report.resized["backbone.position.table"]
    x = torch.randn(2, 3, 32, 32)
    assert relative_error(ours(x), theirs(x)) < 1e-5


def test_gradients_equal_timms(tmp_path):
    theirs = timm_distilled()
    ours = loaded(vitrail.create("deit/tiny_distilled", classes=5, **TINY), theirs.state_dict(), tmp_path, "timm")
    x = torch.randn(2, 3, 32, 32)
    for model in (ours, theirs):
        model(x).square().sum().backward()
    for name in ("blocks.1.attn.qkv.weight", "patch_embed.proj.weight", "blocks.0.mlp.fc1.bias"):
        assert relative_error(ours.get_parameter(f"backbone.{name}").grad, theirs.get_parameter(name).grad) < 1e-5
    assert relative_error(ours.backbone.tokens.grad[1], theirs.dist_token.grad[0, 0]) < 1e-5


def on_meta(name):
    with torch.device("meta"):
        return vitrail.create(f"deit/{name}", classes=1000)


def timm_name(name):
    size = "384" if name.endswith("384") else "224"
    plain = name.removesuffix("_384")
    if plain.startswith("3_"):
        return f"deit3_{plain[2:]}_patch{14 if 'huge' in plain else 16}_{size}"
    return f"deit_{plain.removesuffix('_distilled')}{'_distilled' * plain.endswith('_distilled')}_patch16_{size}"


@pytest.mark.parametrize("name", VARIANTS)
def test_parameter_counts(name):
    import timm

    count = sum(p.numel() for p in on_meta(name).parameters())
    with torch.device("meta"):
        assert count == sum(p.numel() for p in timm.create_model(timm_name(name)).parameters())
    assert abs(count / 1e6 - MILLIONS[name]) < 0.006


@pytest.mark.parametrize("name", GMACS)
def test_multiply_adds(name):
    """To 0.5 % or the last digit of the table, which counts norms too."""
    assert abs(vitrail.cost(on_meta(name)).macs / 1e9 - GMACS[name]) < max(0.005 * GMACS[name], 0.01)


def test_deit_3_is_built_as_published():
    with torch.device("meta"):
        model = vitrail.backbone("deit/3_base", drop_path=0.2)
    assert {block.drop_path.rate for block in model.blocks} == {0.2}
    assert model.position.table.shape == (196, 768)
    small = vitrail.backbone("deit/3_small", **TINY)
    torch.testing.assert_close(small.blocks[0].ls1.gamma.detach(), torch.full((32,), 1e-4))


def test_every_parameter_learns_and_two_summaries_come():
    model = vitrail.backbone("deit/tiny_distilled", **TINY)
    features = model(torch.randn(2, 3, 40, 24))
    assert [s.shape for s in features.summaries] == [(2, 32)] * 2
    assert features.maps[0].shape == (2, 32, 5, 3)
    (sum(s.square().sum() for s in features.summaries) + features.maps[0].square().mean()).backward()
    assert [n for n, p in model.named_parameters() if p.numel() and (p.grad is None or not p.grad.any())] == []
