"""CLIP, SigLIP and masked autoencoders: published sizes, and files as transformers, OpenAI and big_vision write them.
More numbers: `test_parity.py`."""

from dataclasses import replace
from functools import partial

import numpy as np
import pytest
import torch
from oracles import SHAPE, VIT_HF, clip_timm, count, relative_error, siglip_timm, stir, vit_gap_timm, vit_relpos
from quick import every_third

import vitrail
from vitrail.analysis.rollout import relevance, rollout
from vitrail.errors import CheckpointError
from vitrail.foreign_names import translate
from vitrail.models import clip, siglip, vit
from vitrail.recipe import Choice
from vitrail.weights.identify import identify
from vitrail.weights.rules import revert
from vitrail.weights.sidecars import Sidecar
from vitrail.weights.tables import siglip as siglip_names

HF = {k: v for k, v in VIT_HF.items() if k not in ("num_labels", "layer_norm_eps")}
TEXT = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 1, "num_attention_heads": 2, "vocab_size": 9}
TEXT |= {"max_position_embeddings": 4, "bos_token_id": 0, "eos_token_id": 1, "pad_token_id": 1}


def reloaded(ours, theirs, tmp_path, source):
    """Ours with the weights of theirs, both from the file that theirs writes and from its state in memory."""
    theirs.save_pretrained(tmp_path / "hf")
    torch.save(theirs.state_dict(), tmp_path / "live.pth")
    report = None
    for path in (tmp_path / "hf" / "model.safetensors", tmp_path / "live.pth"):
        for p in ours.parameters():
            torch.nn.init.zeros_(p)
        report = vitrail.load_weights(ours, path)
        assert report.source.startswith(source)
        assert report.fraction == 1.0
    return report


def sees_alike(ours, theirs):
    x = torch.randn(2, 3, 40, 24)
    with torch.no_grad():
        return relative_error(ours.eval()(x).summaries[0], theirs(x, interpolate_pos_encoding=True)) < 1e-5


@pytest.mark.parametrize("whole", [False, True])
def test_clip_of_transformers_alone_and_with_its_text_tower(tmp_path, whole):
    t = pytest.importorskip("transformers")
    ours = clip.build(replace(clip.OPENAI, **SHAPE, pre_logits=24))
    if whole:
        theirs = stir(t.CLIPModel(t.CLIPConfig(text_config=TEXT, vision_config=HF, projection_dim=24)))
    else:
        theirs = stir(t.CLIPVisionModelWithProjection(t.CLIPVisionConfig(**HF, projection_dim=24)))
    report = reloaded(ours, theirs, tmp_path, "transformers")
    assert any("text" in why for why in report.dropped.values()) == whole
    assert sees_alike(ours, lambda x, **k: theirs.visual_projection(theirs.vision_model(x, **k).pooler_output))


def test_clip_without_its_projection(tmp_path):
    t = pytest.importorskip("transformers")
    ours, theirs = clip.build(replace(clip.OPENAI, **SHAPE)), stir(t.CLIPVisionModel(t.CLIPVisionConfig(**HF)))
    reloaded(ours, theirs, tmp_path, "transformers:tower")
    assert sees_alike(ours, lambda x, **k: theirs(x, **k).pooler_output)


@pytest.mark.parametrize("prefix", ["visual.", ""])
def test_clip_under_the_names_of_openai(tmp_path, prefix):
    pytest.importorskip("timm")
    made = clip_timm()
    names = {"attn.qkv.": "attn.in_proj_", "attn.proj.": "attn.out_proj.", "norm1": "ln_1", "norm2": "ln_2",
             "mlp.fc1": "mlp.c_fc", "mlp.fc2": "mlp.c_proj", "patch_embed.proj": "conv1", "norm_pre": "ln_pre",
             "norm.": "ln_post.", "blocks": "transformer.resblocks", "cls_token": "class_embedding",
             "pos_embed": "positional_embedding"}  # fmt: skip
    state = {}
    for name, tensor in made.theirs.state_dict().items():
        for ours, theirs in names.items():
            name = name.replace(ours, theirs) if ours != "norm." or name.startswith("norm.") else name
        state[prefix + name] = tensor[0] if "positional" in name else tensor[0, 0] if "class_emb" in name else tensor
    state[f"{prefix}proj"] = state.pop(f"{prefix}head.weight").T
    bias = state.pop(f"{prefix}head.bias")
    if prefix:
        state |= {"transformer.resblocks.0.ln_1.weight": torch.ones(3), "logit_scale": torch.ones(())}
    torch.save(state, tmp_path / "x.pth")
    ours = clip.build(replace(clip.OPENAI, **SHAPE, pre_logits=5, position_resampling="antialias"))
    assert vitrail.load_weights(ours, tmp_path / "x.pth").source.startswith("original")
    x = torch.randn(2, 3, 40, 24)
    with torch.no_grad():
        assert relative_error(ours.eval()(x).summaries[0] + bias, made.theirs(x)) < 1e-5


@pytest.mark.parametrize("whole", [False, True])
def test_siglip_of_transformers_alone_and_with_its_text_tower(tmp_path, whole):
    t = pytest.importorskip("transformers")
    ours = siglip.build(replace(siglip.BASE, **SHAPE))
    if whole:
        model = stir(t.SiglipModel(t.SiglipConfig(text_config=TEXT, vision_config=HF)))
        theirs = model.vision_model
    else:
        model = theirs = stir(t.SiglipVisionModel(t.SiglipVisionConfig(**HF)))
    report = reloaded(ours, model, tmp_path, "transformers")
    assert bool(report.dropped) == whole
    assert sees_alike(ours, lambda x, **k: theirs(x, **k).pooler_output)


def test_siglip_classifier_of_transformers_takes_the_mean(tmp_path):
    t = pytest.importorskip("transformers")
    theirs = stir(t.SiglipForImageClassification(t.SiglipConfig(text_config=TEXT, vision_config=HF, num_labels=5)))
    ours = vitrail.create("siglip/base", classes=5, pool="mean", **SHAPE)
    reloaded(ours, theirs, tmp_path, "transformers:classifier")
    x = torch.randn(2, 3, 40, 24)
    with torch.no_grad():
        assert relative_error(ours.eval()(x), theirs(x, interpolate_pos_encoding=True).logits) < 1e-5


def test_siglip_2_for_images_of_any_shape(tmp_path):
    t = pytest.importorskip("transformers")
    keys = {k: v for k, v in HF.items() if k != "image_size"}
    theirs = stir(t.Siglip2VisionModel(t.Siglip2VisionConfig(**keys, num_patches=16)))
    ours = siglip.build(replace(siglip.BASE, **SHAPE, position_resampling="antialias_bilinear"))
    reloaded(ours, theirs, tmp_path, "transformers:naflex")

    def tower(x, **_):
        cells = x.unflatten(3, (-1, 8)).unflatten(2, (-1, 8)).permute(0, 2, 4, 3, 5, 1)  # [B h w 8 8 C]
        rows, grid = cells.flatten(3).flatten(1, 2), torch.tensor([cells.shape[1:3]] * len(x))
        return theirs(rows, pixel_attention_mask=torch.ones(rows.shape[:2]).long(), spatial_shapes=grid).pooler_output

    assert sees_alike(ours, tower)


def test_siglip_of_big_vision(tmp_path):
    """Our names for its file against timm's reader of it."""
    timm = pytest.importorskip("timm")
    made = siglip_timm()
    names = siglip_names.SOURCES["google"]
    tensors = dict(made.ours.backbone.state_dict())
    file = {f"params/img/{name}": t.numpy() for name, t in revert(tensors, names, heads=4).items()}
    np.savez(tmp_path / "x.npz", **file, **{"params/t": np.ones(1)})
    theirs = made.theirs
    theirs.reset_classifier(0)
    for p in theirs.parameters():
        torch.nn.init.zeros_(p)
    timm.models.vision_transformer._load_weights(theirs, str(tmp_path / "x.npz"))
    ours = siglip.build(replace(siglip.BASE, **SHAPE, position_resampling="antialias"))
    assert vitrail.load_weights(ours, tmp_path / "x.npz").source.startswith("google")
    x = torch.randn(2, 3, 32, 32)
    with torch.no_grad():
        assert relative_error(ours.eval()(x).summaries[0], theirs(x)) < 1e-5


@pytest.mark.parametrize("what", ["model", "pre-training"])
def test_masked_autoencoders_of_transformers(tmp_path, what):
    t = pytest.importorskip("transformers")
    small = {"decoder_hidden_size": 16, "decoder_num_hidden_layers": 1, "decoder_num_attention_heads": 2}
    config = t.ViTMAEConfig(**HF, mask_ratio=0.0, decoder_intermediate_size=32, **small)
    theirs = stir((t.ViTMAEModel if what == "model" else t.ViTMAEForPreTraining)(config))
    ours = vit.build(vit.Config(**SHAPE, eps=1e-12))
    report = reloaded(ours, theirs, tmp_path, "transformers")
    assert bool(report.dropped) == (what != "model")
    x, order = torch.randn(2, 3, 32, 32), torch.arange(16.0).expand(2, -1)
    encoder = theirs if what == "model" else theirs.vit
    with torch.no_grad():
        wanted = encoder(x, noise=order).last_hidden_state
        features = ours.eval()(x)
    assert relative_error(features.summaries[0], wanted[:, 0]) < 1e-5
    assert relative_error(features.maps[0].flatten(2).mT, wanted[:, 1:]) < 1e-5


def test_masked_autoencoder_of_the_original(tmp_path):
    """Pre-trained with its decoder, and fine-tuned with the mean and a norm after it."""
    pytest.importorskip("timm")
    made = vit_gap_timm(True)
    state = made.theirs.state_dict()
    ours = vitrail.create("vit/base", classes=5, **SHAPE, pool="mean", fc_norm=True, position_resampling="antialias")
    torch.save({"model": {**state, "mask_token": torch.ones(1, 1, 16), "decoder_norm.weight": torch.ones(16)}},
               tmp_path / "x.pth")  # fmt: skip
    report = vitrail.load_weights(ours, tmp_path / "x.pth")
    assert report.source == "original:mae"
    assert sorted(report.dropped) == ["decoder_norm.weight", "mask_token"]
    assert all(torch.equal(t, made.ours.state_dict()[n]) for n, t in ours.state_dict().items())


@pytest.mark.parametrize(
    "make",
    [clip_timm, siglip_timm, partial(vit_gap_timm, True), partial(vit_relpos, "rpn", (40, 24))],
    ids=["clip", "siglip", "gap", "rpn"],
)
def test_gradients_equal_timms(make):
    pytest.importorskip("timm")
    made = make()
    x = torch.randn(2, 3, 40, 24)
    for model in (made.ours, made.theirs):
        model(x).square().sum().backward()
    for name in ("blocks.1.attn.qkv.weight", "patch_embed.proj.weight", "blocks.0.mlp.fc1.bias"):
        mine, other = made.ours.get_parameter(f"backbone.{name}").grad, made.theirs.get_parameter(name).grad
        assert relative_error(mine, other) < 1e-5


@pytest.mark.parametrize(("ours", "theirs"), every_third([
    ("clip/base", "vit_base_patch16_clip_224"), ("clip/base_32", "vit_base_patch32_clip_quickgelu_224"),
    ("clip/large_336", "vit_large_patch14_clip_336"), ("siglip/base_32_256", "vit_base_patch32_siglip_256"),
    ("siglip/large_384", "vit_large_patch16_siglip_384"), ("siglip/so400m", "vit_so400m_patch14_siglip_224"),
    ("siglip/so400m_378", "vit_so400m_patch14_siglip_384"), ("siglip/so400m_16_512", "vit_so400m_patch16_siglip_512"),
]))  # fmt: skip
def test_parameter_counts_are_timms(ours, theirs):
    timm = pytest.importorskip("timm")
    with torch.device("meta"):
        assert count(vitrail.create(ours, classes=7)) == count(timm.create_model(theirs, num_classes=7))


@pytest.mark.parametrize(("name", "wanted", "keys"), [
    ("vit_base_patch32_clip_quickgelu_224", "clip/base_32", {}),
    ("vit_base_patch16_clip_224", "clip/open_base", {}),
    ("vit_base_patch16_siglip_384", "siglip/base_384", {"gelu": "erf"}),
    ("vit_so400m_patch14_siglip_384", "siglip/so400m_378", {"gelu": "erf"}),
])  # fmt: skip
def test_timms_files_say_what_they_are(name, wanted, keys):
    timm = pytest.importorskip("timm")
    with torch.device("meta"):
        state = timm.create_model(name).state_dict()
    sidecar = Sidecar("timm", {"architecture": name})
    found = identify(state, sidecar)
    assert (found.model.name, found.source.partition(":")[0]) == (wanted, "timm")
    assert found.model.keys == {"position_resampling": "antialias", **keys}
    assert translate(name, [wanted]).name == wanted


def test_a_bare_file_of_clip_does_not_say_its_gelu():
    timm = pytest.importorskip("timm")
    with torch.device("meta"):
        state = timm.create_model("vit_base_patch32_clip_224").state_dict()
    with pytest.raises(CheckpointError, match=r"form of GELU(.|\n)*--model.gelu quick or --model.gelu erf"):
        identify(state)
    assert identify(state, given=Choice("clip/open_base_32")).model.name == "clip/open_base_32"


@pytest.mark.parametrize(("name", "size"), [
    ("vit_relpos_small_patch16_224", "small"), ("vit_srelpos_small_patch16_224", "small"),
    ("vit_relpos_medium_patch16_cls_224", "medium"), ("vit_relpos_medium_patch16_rpn_224", "medium"),
])  # fmt: skip
def test_timms_relative_positions_say_what_they_are(name, size):
    timm = pytest.importorskip("timm")
    with torch.device("meta"):
        theirs = timm.create_model(name)
    found = identify(theirs.state_dict(), Sidecar("timm", {"architecture": name}))
    assert (found.model.name, found.source) == (f"vit/{size}", "timm:relative")
    assert found.model.keys.get("norm_at", "pre") == ("branch" if "rpn" in name else "pre")
    named = translate(name, [f"vit/{size}"])
    with torch.device("meta"):
        ours, same = (vitrail.create(m.name, **m.keys) for m in (found.model, named))
    assert {n: t.shape for n, t in ours.state_dict().items()} == {n: t.shape for n, t in same.state_dict().items()}
    assert count(ours) == count(theirs) + ("srelpos" in name) * 11 * (384 * 3 + 6 * 385)


def test_one_set_of_relative_weights_serves_all_blocks(tmp_path):
    pytest.importorskip("timm")
    from timm.models.vision_transformer_relpos import VisionTransformerRelPos

    shape = {"img_size": 32, "patch_size": 8, "embed_dim": 32, "depth": 2, "num_heads": 4, "num_classes": 5}
    theirs = stir(VisionTransformerRelPos(**shape, qkv_bias=False, shared_rel_pos=True, rel_pos_dim=16))
    torch.save(theirs.state_dict(), tmp_path / "x.pth")
    keys = {"tokens": 0, "position": "relative_log", "relative_width": 16, "qkv_bias": False, "layer_scale": 1e-6}
    ours = vitrail.create("vit/small", classes=5, **SHAPE, **keys)
    assert vitrail.load_weights(ours, tmp_path / "x.pth").source == "timm:relative"
    x = torch.randn(2, 3, 32, 32)
    with torch.no_grad():
        assert relative_error(ours.eval()(x), theirs(x)) < 1e-5
        assert ours(torch.randn(2, 3, 40, 24)).shape == (2, 5)


@pytest.mark.parametrize("whole", [False, True])
def test_transformers_files_say_what_they_are(whole):
    t = pytest.importorskip("transformers")
    towers = {"clip": (t.CLIPVisionConfig, t.CLIPVisionModelWithProjection, t.CLIPConfig, t.CLIPModel),
              "siglip": (t.SiglipVisionConfig, t.SiglipVisionModel, t.SiglipConfig, t.SiglipModel)}  # fmt: skip
    for family, (small, tower, large, model) in towers.items():
        config = small(**HF) if not whole else large(text_config=TEXT, vision_config=HF)
        theirs = (model if whole else tower)(config)
        found = identify(theirs.state_dict(), Sidecar("transformers", config.to_dict()))
        assert found.model.name.startswith(f"{family}/")
        wanted = {"width": 32, "depth": 2, "heads": 4, "patch": 8, "size": (32, 32)}
        assert found.model.keys == {**wanted, **({"pre_logits": 512} if family == "clip" else {})}


def test_the_pooling_query_leads_to_cells():
    """Attention maps go through it: its weights begin the rollout."""
    model = vitrail.create("siglip/base", classes=5, **SHAPE)
    stir(model)
    x = torch.randn(2, 3, 32, 32)
    layers = vitrail.attention(model, x, heads="mean")
    shares = layers[-1].weights[:, 0]  # [B 1 16]
    for one in reversed(layers[:-1]):
        shares = 0.5 * shares + 0.5 * shares @ one.weights[:, 0]
    torch.testing.assert_close(rollout(model, x).flatten(1), shares[:, 0], rtol=1e-4, atol=1e-6)
    assert relevance(model, x).shape == (2, 4, 4)
    assert float(relevance(model, x).std()) > 0
