"""DeiT and DeiT III: two heads, published sizes, files of every source told by their names. The numbers:
`test_parity.py`."""

import pytest
import torch
from oracles import count, deit_3_timm, deit_timm, deit_transformers, relative_error
from quick import every_third

import vitrail
from vitrail.models.deit import VARIANTS

TINY = {"width": 32, "depth": 2, "heads": 4, "patch": 8, "size": (32, 32)}
MILLIONS = {  # with a head of 1000 classes
    "tiny": 5.72, "small": 22.05, "base": 86.57, "base_384": 86.86, "tiny_distilled": 5.91, "small_distilled": 22.44,
    "base_distilled": 87.34, "base_distilled_384": 87.63, "3_small": 22.06, "3_medium": 38.85, "3_base": 86.59,
    "3_large": 304.37, "3_huge": 632.13, "3_small_384": 22.21, "3_base_384": 86.88, "3_large_384": 304.76,
    "rope_small": 21.98, "rope_base": 86.43, "rope_large": 304.17, "rope_ape_small": 22.06, "rope_ape_base": 86.59,
    "rope_ape_large": 304.37,
}  # fmt: skip
GMACS = {"tiny": 1.26, "tiny_distilled": 1.27, "small": 4.61, "small_distilled": 4.63, "base": 17.58,
         "base_distilled": 17.68,
         "base_384": 55.54, "base_distilled_384": 55.65, "3_medium": 8.00, "3_huge": 167.4}  # fmt: skip


def loaded(ours, state, tmp_path, source):
    torch.save({"model": state}, tmp_path / "x.pth")
    report = vitrail.load_weights(ours, tmp_path / "x.pth")
    assert report.source == source
    assert report.fraction == 1.0
    return ours.eval()


@torch.no_grad()
def test_distilled_averages_two_heads_that_are_timms(tmp_path):
    pytest.importorskip("timm")
    theirs = deit_timm().theirs
    ours = loaded(vitrail.create("deit/tiny_distilled", classes=5, **TINY), theirs.state_dict(), tmp_path, "timm")
    x = torch.randn(3, 3, 32, 32)
    theirs.train().set_distilled_training(True)
    pair = theirs(x)
    for i in range(2):
        assert relative_error(ours.forward_all(x)[:, i], pair[i]) < 1e-5
    torch.testing.assert_close(ours(x), ours.forward_all(x).mean(1))
    torch.testing.assert_close(ours.train()(x), ours.eval()(x))  # one output, whatever the mode


@pytest.mark.parametrize("where", ["disk", "live"])
@torch.no_grad()
def test_transformers_on_disk_and_alive(tmp_path, where):
    pytest.importorskip("transformers")
    theirs = deit_transformers().theirs
    ours = vitrail.create("deit/tiny_distilled", classes=5, **TINY)
    if where == "disk":
        theirs.save_pretrained(tmp_path / "hf")
        assert vitrail.load_weights(ours, tmp_path / "hf" / "model.safetensors").source == "transformers"
    else:
        loaded(ours, theirs.state_dict(), tmp_path, "transformers:live")
    x = torch.randn(3, 3, 32, 32)
    assert relative_error(ours.eval()(x), theirs(x).logits) < 1e-5


@pytest.mark.parametrize("spelling", ["timm", "original"])
def test_spellings_of_deit_3_are_told_apart(tmp_path, spelling):
    pytest.importorskip("timm")
    made = deit_3_timm()
    state = dict(made.theirs.state_dict())
    if spelling == "original":
        state = {n.replace("ls1.gamma", "gamma_1").replace("ls2.gamma", "gamma_2"): t for n, t in state.items()}
    ours = loaded(vitrail.create("deit/3_small", classes=5, **TINY), state, tmp_path, f"{spelling}:3")
    assert all(torch.equal(t, made.ours.state_dict()[n]) for n, t in ours.state_dict().items())


@torch.no_grad()
def test_a_table_with_a_row_for_the_class_token_goes_into_a_model_without(tmp_path):
    theirs = vitrail.create("deit/tiny", classes=5, **TINY).eval()
    torch.save(theirs.state_dict(), tmp_path / "x.pth")
    ours = vitrail.create("deit/tiny", classes=5, position_tokens=False, **TINY).eval()
    report = vitrail.load_weights(ours, tmp_path / "x.pth")
    assert "added to the tokens" in report.resized["backbone.position.table"]
    x = torch.randn(2, 3, 32, 32)
    assert relative_error(ours(x), theirs(x)) < 1e-5


def test_gradients_equal_timms():
    pytest.importorskip("timm")
    made = deit_timm()
    ours, theirs = made.ours, made.theirs
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
    if plain.startswith("rope_"):
        way, _, scale = plain.rpartition("_")
        return f"vit_{scale}_patch16_{way}_224"
    if plain.startswith("3_"):
        return f"deit3_{plain[2:]}_patch{14 if 'huge' in plain else 16}_{size}"
    return f"deit_{plain.removesuffix('_distilled')}{'_distilled' * plain.endswith('_distilled')}_patch16_{size}"


@pytest.mark.parametrize("name", every_third(VARIANTS))
def test_parameter_counts(name):
    import timm

    found = count(on_meta(name))
    with torch.device("meta"):
        assert found == count(timm.create_model(timm_name(name)))
    assert abs(found / 1e6 - MILLIONS[name]) < 0.006


@pytest.mark.parametrize("name", every_third(GMACS))
def test_multiply_adds(name):
    """To 0.5 % or the last digit of the table, which counts norms too."""
    assert abs(vitrail.cost(on_meta(name)).macs / 1e9 - GMACS[name]) < max(0.005 * GMACS[name], 0.01)


def test_deit_3_is_built_as_published():
    with torch.device("meta"):
        model = vitrail.backbone("deit/3_base", drop_path=0.2)
    assert {block.drop_path.drop_prob for block in model.blocks} == {0.2}
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
