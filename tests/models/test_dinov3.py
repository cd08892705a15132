"""DINOv3, BEiT and EVA: published sizes, files of every library and of the originals told by their names. The numbers:
`test_parity.py`."""

import json
from functools import partial

import pytest
import torch
from oracles import SHAPE, VIT_HF, beit_timm, count, dinov3_timm, eva_timm, relative_error, stir
from quick import every_third

import vitrail
from vitrail.errors import CheckpointError
from vitrail.foreign_names import translate
from vitrail.layers.attention import KeylessLinear
from vitrail.models import beit, dinov3
from vitrail.weights.identify import identify
from vitrail.weights.sidecars import Sidecar

HF = {k: v for k, v in VIT_HF.items() if k != "num_labels"}


def reloaded(ours, state, path, source):
    """Ours with the weights of a file of such tensors."""
    torch.save(state, path)
    for p in ours.parameters():
        torch.nn.init.zeros_(p)
    report = vitrail.load_weights(ours, path)
    assert report.source == source
    assert report.fraction == 1.0
    return report


def files_of(theirs, folder):
    """The state of a model of transformers as it writes it, and in memory."""
    from safetensors.torch import load_file

    theirs.save_pretrained(folder)
    return load_file(folder / "model.safetensors"), theirs.state_dict()


@torch.no_grad()
def sees_alike(ours, theirs, size=(32, 32)):
    x = torch.randn(2, 3, *size)
    out = ours.eval()(x)
    return relative_error(out if isinstance(out, torch.Tensor) else out.summaries[0], theirs(x)) < 1e-5


@pytest.mark.parametrize("gated", [False, True])
def test_dinov3_of_transformers_on_disk_and_alive(tmp_path, gated):
    t = pytest.importorskip("transformers")
    keys = {**HF, "num_register_tokens": 4, "use_gated_mlp": gated, "hidden_act": "silu" if gated else "gelu"}
    theirs = stir(t.DINOv3ViTModel(t.DINOv3ViTConfig(**{**keys, "layer_norm_eps": 1e-5})))
    ours = dinov3.build(dinov3.Config(**SHAPE, mlp="swiglu" if gated else "gelu"))
    disk, live = files_of(theirs, tmp_path / "hf")
    for state, source in ((disk, "transformers"), (live, "transformers:live")):
        end = ("-" if "live" in source else ":") + "swiglu" if gated else ""
        report = reloaded(ours, state, tmp_path / "x.pth", source + end)
        assert list(report.dropped) == ["embeddings.mask_token"]
        assert sees_alike(ours, lambda x: theirs(x).pooler_output, (40, 24))


@pytest.mark.parametrize("gated", [False, True])
def test_dinov3_of_the_original(tmp_path, gated):
    """timm's model under the original's names: one bias, of which the third for keys is masked."""
    made = dinov3_timm(gated, True)
    state = {}
    names = {"gamma_1": "ls1.gamma", "gamma_2": "ls2.gamma", "reg_token": "storage_tokens"}
    if gated:
        names |= {"fc1_g": "w1", "fc1_x": "w2", "fc2": "w3"}
    for name, tensor in made.theirs.state_dict().items():
        for theirs, original in names.items():
            name = name.replace(theirs, original)
        state[name] = tensor
    for i in range(2):
        q, v = (state.pop(f"blocks.{i}.attn.{x}_bias") for x in "qv")
        state[f"blocks.{i}.attn.qkv.bias"] = torch.cat([q, torch.full_like(q, 7.0), v])
        state[f"blocks.{i}.attn.qkv.bias_mask"] = torch.cat([q, 0 * q, v])
    state |= {"mask_token": torch.zeros(1, 32), "rope_embed.periods": torch.ones(2, dtype=torch.bfloat16)}
    ours = vitrail.create("dinov3/small", classes=5, **SHAPE, pool="mean", mlp="swiglu" if gated else "gelu")
    reloaded(ours, state, tmp_path / "x.pth", "original:swiglu" if gated else "original")
    assert sees_alike(ours, made.theirs, (40, 24))


def test_beit_of_transformers_on_disk_and_alive(tmp_path):
    t = pytest.importorskip("transformers")
    keys = {**HF, "use_relative_position_bias": True, "layer_scale_init_value": 0.1}
    classifier = stir(t.BeitForImageClassification(t.BeitConfig(**keys, num_labels=5)))
    bare = stir(t.BeitModel(t.BeitConfig(**keys, use_mean_pooling=False)))
    ours = (
        vitrail.create("beit/base", classes=5, **SHAPE),
        beit.build(beit.Config(**SHAPE, pool="token", fc_norm=False)),
    )
    for i, (mine, theirs, out) in enumerate(
        zip(ours, (classifier, bare), (lambda x: classifier(x).logits, lambda x: bare(x).pooler_output), strict=True)
    ):
        disk, live = files_of(theirs, tmp_path / str(i))
        for state, source in ((disk, "transformers"), (live, "transformers:live")):
            reloaded(mine, state, tmp_path / "x.pth", source)
            assert sees_alike(mine, out)


def test_the_one_table_of_a_pre_trained_beit_is_copied_into_every_block(tmp_path):
    t = pytest.importorskip("transformers")
    keys = {**HF, "use_shared_relative_position_bias": True, "layer_scale_init_value": 0.1, "use_mask_token": True}
    theirs = stir(t.BeitForMaskedImageModeling(t.BeitConfig(**keys, vocab_size=16)))
    ours = beit.build(beit.Config(**SHAPE, pool="token", fc_norm=False))
    disk, live = files_of(theirs, tmp_path / "hf")
    for state, source in ((disk, "transformers"), (live, "transformers:live")):
        report = reloaded(ours, state, tmp_path / "x.pth", source)
        assert len(report.dropped) == 3
        assert sees_alike(ours, lambda x: theirs.layernorm(theirs.beit(x).last_hidden_state)[:, 0])
    timms = beit_timm("avg", True).theirs.state_dict()
    table = timms.pop("blocks.0.attn.relative_position_bias_table")
    del timms["blocks.1.attn.relative_position_bias_table"]
    ours = vitrail.create("beit/base", classes=5, **SHAPE)
    reloaded(ours, {**timms, "rel_pos_bias.relative_position_bias_table": table}, tmp_path / "x.pth", "timm")
    assert all(torch.equal(block.attn.relative.table, table) for block in ours.backbone.blocks)


@pytest.mark.parametrize("kind", ["giant", "swiglu", "clip"])
def test_eva_of_the_original(tmp_path, kind):
    """timm's model under the original's names, with what its files hold besides."""
    made = eva_timm(kind)
    names = {"fc1_g": "w1", "fc1_x": "w2", "mlp.norm": "mlp.ffn_ln", "attn.norm": "attn.inner_attn_ln",
             "q_proj.bias": "q_bias", "v_proj.bias": "v_bias"}  # fmt: skip
    if kind != "giant":
        names |= {"mlp.fc2": "mlp.w3"}
    state = {"mask_token": torch.zeros(1, 1, 32), "rope.freqs_cos": torch.zeros(16, 8)}
    for name, tensor in made.theirs.state_dict().items():
        for theirs, original in names.items():
            name = name.replace(theirs, original)
        state[name] = tensor
    keys = {f: v for f, v in vars(made.ours.backbone.config).items() if f not in ("init", "map_depths")}
    ours = vitrail.create("eva/02_base", classes=5, **keys)
    reloaded(ours, state, tmp_path / "x.pth", "original" if kind == "giant" else f"original:{kind}")
    assert sees_alike(ours, made.theirs, (40, 24))


@pytest.mark.parametrize(
    "make",
    [partial(dinov3_timm, True, True), partial(beit_timm, "avg", True), partial(eva_timm, "clip")],
    ids=["dinov3", "beit", "eva"],
)
def test_gradients_equal_timms(make):
    made = make()
    x = torch.randn(2, 3, 32, 32)
    for model in (made.ours, made.theirs):
        model(x).square().sum().backward()
    mine, other = dict(made.ours.backbone.named_parameters()), dict(made.theirs.named_parameters())
    pairs = [("patch_embed.proj.weight",) * 2, ("blocks.0.norm1.weight",) * 2]
    split = "blocks.1.attn.q_proj.bias" in other
    pairs.append(("blocks.1.attn.qkv.q_bias", f"blocks.1.attn.{'q_proj.bias' if split else 'q_bias'}"))
    assert all(relative_error(mine[a].grad, other[b].grad) < 1e-5 for a, b in pairs)


@pytest.mark.parametrize(("ours", "theirs"), every_third([
    ("dinov3/small", "vit_small_patch16_dinov3_qkvb"), ("dinov3/huge_plus", "vit_huge_plus_patch16_dinov3_qkvb"),
    ("dinov3/large", "vit_large_patch16_dinov3_qkvb"), ("dinov3/small_plus", "vit_small_plus_patch16_dinov3_qkvb"),
    ("beit/large_512", "beit_large_patch16_512"), ("eva/giant_336", "eva_giant_patch14_336"),
    ("beit/v2_base", "beitv2_base_patch16_224"), ("beit/base_384", "beit_base_patch16_384"),
    ("eva/02_large", "eva02_large_patch14_224"), ("eva/02_tiny", "eva02_tiny_patch14_224"),
    ("eva/02_base_448", "eva02_base_patch14_448"), ("eva/02_large_clip_336", "eva02_large_patch14_clip_336"),
    ("eva/02_base_clip", "eva02_base_patch16_clip_224"),
]))  # fmt: skip
def test_parameter_counts_and_files_are_timms(ours, theirs):
    timm = pytest.importorskip("timm")
    with torch.device("meta"):
        model = timm.create_model(theirs, num_classes=7)
        assert count(vitrail.create(ours, classes=7)) == count(model)
    found = identify(model.state_dict(), Sidecar("timm", {"architecture": theirs}))
    assert found.model.name == ours or ours == "beit/v2_base"  # that of the first BEiT
    assert set(found.model.keys) <= {"position_resampling", "layer_scale"}
    assert translate(theirs, [ours]).name == ours


def test_tensors_alone_say_what_they_are():
    timm = pytest.importorskip("timm")
    for theirs, ours in (("vit_small_patch16_dinov3", "dinov3/small"), ("eva02_tiny_patch14_336", "eva/02_tiny_336")):
        with torch.device("meta"):
            found = identify(timm.create_model(theirs).state_dict())
        assert found.model.name == ours


def test_a_published_dinov3_has_21_6_million_parameters():
    with torch.device("meta"):
        model = vitrail.backbone("dinov3/small", qkv_bias=False)
    assert abs(count(model) / 1e6 - 21.59) < 0.01


def test_files_of_transformers_say_what_they_are():
    t = pytest.importorskip("transformers")
    keys = {**HF, "num_register_tokens": 4, "layer_norm_eps": 1e-5}
    config = t.DINOv3ViTConfig(**keys)
    found = identify(t.DINOv3ViTModel(config).state_dict(), Sidecar("transformers", config.to_dict()))
    wanted = {"width": 32, "depth": 2, "heads": 4, "patch": 8, "size": (32, 32)}
    assert (found.model.name, found.model.keys) == ("dinov3/small", wanted)
    config = t.BeitConfig(**HF, use_relative_position_bias=True, layer_scale_init_value=0.1, num_labels=5)
    beside = Sidecar("transformers", json.loads(config.to_json_string()))
    found = identify(t.BeitForImageClassification(config).state_dict(), beside)
    assert (found.model.name, found.model.keys) == ("beit/base", wanted)
    assert found.outputs == 5


def test_a_beit_for_larger_images_keeps_their_size(tmp_path):
    """The table says which size it was made for, and is resampled for another."""
    state = beit_timm("avg", True, (48, 48)).theirs.state_dict()
    torch.save(state, tmp_path / "x.pth")
    ours = vitrail.create("beit/base", classes=5, **SHAPE)
    with pytest.raises(CheckpointError, match="--resize"):
        vitrail.load_weights(ours, tmp_path / "x.pth")
    report = vitrail.load_weights(ours, tmp_path / "x.pth", resize=True)
    assert report.resized["backbone.blocks.0.attn.relative.table"] == "window 6x6 to 4x4, bicubic"


def test_keys_have_no_bias_and_nothing_else_differs():
    layer = KeylessLinear(8)
    torch.nn.init.normal_(layer.q_bias)
    torch.nn.init.normal_(layer.v_bias)
    x = torch.randn(2, 3, 8)
    plain = x @ layer.weight.T
    q, k, v = (layer(x) - plain).chunk(3, dim=-1)
    torch.testing.assert_close(q, layer.q_bias.expand_as(q), atol=1e-6, rtol=1e-5)
    torch.testing.assert_close(v, layer.v_bias.expand_as(v), atol=1e-6, rtol=1e-5)
    assert not k.any()


def test_a_dinov3_sees_where_patches_are():
    model = stir(dinov3.build(dinov3.Config(**SHAPE)))
    x = torch.randn(2, 3, 32, 32)
    with torch.no_grad():
        assert relative_error(model(x.roll(8, 3)).summaries[0], model(x).summaries[0]) > 1e-3
