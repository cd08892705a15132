"""MAE gives the numbers of transformers with the same weights and masks; no masked pixel reaches the encoder."""

import dataclasses
import re

import numpy as np
import pytest
import torch

from vitrail import catalog
from vitrail.errors import UsageError
from vitrail.layers.block import PatchEncoder
from vitrail.layers.position import sincos_2d
from vitrail.models import vit
from vitrail.recipe import Choice, Recipe, override
from vitrail.tasks.masked_autoencoding import Config, MaskedAutoencoding, build, decoder_config
from vitrail.types import Batch

SMALL = vit.Config(width=32, depth=2, heads=2, patch=8, size=(32, 32), position="sincos2d", eps=1e-6)
SIDE, NAMES = 32, [
    (r"^vit\.", ""), (r"^decoder\.", ""), (r"(^|_)layers\.", r"\1blocks."),
    (r"layernorm_before", "norm1"), (r"layernorm_after", "norm2"), (r"attention\.o_proj", "attn.proj"),
    (r"^(blocks|layernorm|embeddings)", r"backbone.\1"), (r"^backbone.layernorm\.", "backbone.norm."),
    (r"backbone.embeddings.patch_embeddings.projection", "backbone.patch_embed.proj"),
    (r"backbone.embeddings.cls_token", "backbone.tokens"),
]  # fmt: skip


def model_of(config=SMALL, task=None, **keys):
    torch.manual_seed(0)
    task = task or build(Config(decoder_width=64, decoder_depth=1, **keys))
    return task, task.assemble(vit.build(config))


def our_names(tensors):
    """transformers' tensors by our names; queries, keys and values are joined."""
    found = {}
    for name, tensor in tensors.items():
        for pattern, ours in NAMES:
            name = re.sub(pattern, ours, name)
        if match := re.match(r"(.*)\.attention\.([qkv])_proj\.(.*)", name):
            found.setdefault(f"{match[1]}.attn.qkv.{match[3]}", {})[match[2]] = tensor
        elif "pos" not in name:
            found[name] = tensor[0] if name in ("mask_token", "backbone.tokens") else tensor
    return {n: torch.cat([t["q"], t["k"], t["v"]]) if isinstance(t, dict) else t for n, t in found.items()}


@pytest.fixture(scope="module")
def oracle():
    transformers = pytest.importorskip("transformers")
    torch.manual_seed(1)
    config = transformers.ViTMAEConfig(
        hidden_size=32, num_hidden_layers=2, num_attention_heads=2, intermediate_size=128, image_size=SIDE,
        patch_size=8, decoder_hidden_size=64, decoder_num_hidden_layers=1, decoder_num_attention_heads=2,
        decoder_intermediate_size=256, layer_norm_eps=1e-6,
    )  # fmt: skip
    model = transformers.ViTMAEForPreTraining(config)
    with torch.no_grad():  # its tables are zeros when it is fresh
        model.vit.embeddings.position_embeddings[0, 1:] = sincos_2d((4, 4), 32)
        model.decoder.decoder_pos_embed[0, 1:] = sincos_2d((4, 4), 64)
        for p in model.parameters():
            if p.requires_grad and p.ndim != 3:
                p.copy_(torch.randn_like(p) * 0.1)
    return model.train()


@pytest.mark.parametrize("normalise", [True, False])
def test_forward_loss_and_gradients_are_those_of_transformers(oracle, normalise):
    task, model = model_of(normalise_pixels=normalise)
    missing, unexpected = model.load_state_dict(our_names(oracle.state_dict()), strict=False)
    assert (missing, unexpected) == ([], [])
    chance = torch.Generator().manual_seed(2)
    images, noise = torch.randn(3, 3, SIDE, SIDE, generator=chance), torch.rand(3, 16, generator=chance)
    oracle.config.norm_pix_loss = normalise
    theirs = oracle(images, noise=noise)
    ours = model.reconstruct(images, noise)
    torch.testing.assert_close(ours.masked.float(), theirs.mask)
    torch.testing.assert_close(ours.pixels, theirs.logits, atol=1e-5, rtol=1e-5)
    loss = task.errors(model, images, ours).mean()
    torch.testing.assert_close(loss, theirs.loss, atol=1e-6, rtol=1e-6)
    oracle.zero_grad()
    theirs.loss.backward()
    loss.backward()
    expected = our_names({n: p.grad for n, p in oracle.named_parameters() if p.grad is not None})
    for name, p in model.named_parameters():
        torch.testing.assert_close(
            p.grad, expected[name], atol=1e-5, rtol=1e-4, msg=lambda m, name=name: f"{name}: {m}"
        )
    torch.testing.assert_close(model.unpatch(theirs.logits, (SIDE, SIDE)), oracle.unpatchify(theirs.logits))


@pytest.mark.parametrize("size", [(32, 32), (24, 40), (30, 21)])
def test_patches_and_back(size):
    _, model = model_of()
    images = torch.randn(2, 3, *size)
    assert torch.equal(model.unpatch(model.patches(images), size), images)


@pytest.mark.parametrize("stem", ["patch", "conv", "pyramid"])
@pytest.mark.parametrize("size", [(32, 32), (28, 44)])
def test_no_masked_pixel_reaches_the_encoder(stem, size):
    _, model = model_of(dataclasses.replace(SMALL, stem=stem))
    model.eval()
    images, count = torch.randn(2, 3, *size), -(-size[0] // 8) * -(-size[1] // 8)
    noise = torch.rand(2, count)
    first = model.reconstruct(images, noise)
    cells = first.masked.unflatten(1, (-(-size[0] // 8), -(-size[1] // 8))).repeat_interleave(8, 1)
    hidden = cells.repeat_interleave(8, 2)[:, None, : size[0], : size[1]]
    again = model.reconstruct(torch.where(hidden, torch.randn_like(images), images), noise)
    assert torch.equal(first.pixels, again.pixels)
    assert not torch.equal(first.pixels, model.reconstruct(images + 0.1, noise).pixels)
    assert first.masked.sum(1).tolist() == [count - int(count * 0.25)] * 2


KEYS = {"width": 32, "depth": 1, "heads": 2, "size": (32, 32), "patch": 8}


@pytest.mark.parametrize("name", ["vit/nano", "deit/tiny", "clip/base", "dinov3/small", "eva/giant"])
def test_families_on_the_plain_block_learn(name):
    entry = catalog.find("models", name)
    trunk = entry.module.build(dataclasses.replace(entry.config, **KEYS))
    assert isinstance(trunk, PatchEncoder)
    task = build(Config())
    loss = task.loss(task.assemble(trunk), Batch(torch.randn(2, 3, 32, 32), None))["reconstruction"]
    loss.backward()
    assert torch.isfinite(loss)


@pytest.mark.parametrize("keys", [{"pool": "attention"}, {"pre_logits": 16}])
def test_a_summary_that_would_stay_random_is_refused(keys):
    with pytest.raises(UsageError, match="stay random"):
        build(Config()).assemble(vit.build(dataclasses.replace(SMALL, **keys)))


def test_one_patch_leaves_nothing_to_predict():
    with pytest.raises(UsageError, match="one patch"):
        build(Config()).assemble(vit.build(dataclasses.replace(SMALL, patch=32)))
    task, model = model_of()
    assert task.loss(model, Batch(torch.randn(2, 3, 8, 8), None))["reconstruction"].item() == 0  # of a smaller image


def test_in_16_bits_the_loss_is_close():
    task, model = model_of()
    images, noise = torch.randn(4, 3, 32, 32), torch.rand(4, 16)
    whole = task.errors(model, images, model.reconstruct(images, noise))
    with torch.autocast("cpu", torch.bfloat16):
        low = task.errors(model, images, model.reconstruct(images, noise))
    assert low.dtype == torch.float32
    torch.testing.assert_close(low, whole, atol=0.05, rtol=0.05)


def test_beit_is_refused():
    entry = catalog.find("models", "beit/base")
    with pytest.raises(UsageError, match="relative positions"):
        build(Config()).assemble(entry.module.build(dataclasses.replace(entry.config, **KEYS)))


def test_rotary_positions_are_those_of_the_visible_patches():
    config = dataclasses.replace(SMALL, position="rope", depth=1)
    torch.manual_seed(0)
    model = vit.build(config).eval()
    images = torch.randn(1, 3, 32, 32)
    everything = torch.arange(16)[None]
    whole, _ = model.encode_visible(images, everything)
    order = torch.randperm(16, generator=torch.Generator().manual_seed(3))[None]
    shuffled, _ = model.encode_visible(images, order)
    torch.testing.assert_close(shuffled[:, 1:], whole[:, 1:][:, order[0]])
    torch.testing.assert_close(whole[:, 0], model(images).summaries[0])


@pytest.mark.parametrize(
    ("keys", "reason"),
    [({"attention_radius": 2}, "attention radius"), ({"window": 2}, "windows"), ({"merge": 2}, "merging"),
     ({"position": "relative"}, "relative positions")],
)  # fmt: skip
def test_a_backbone_that_needs_every_patch_is_refused(keys, reason):
    with pytest.raises(UsageError, match=reason):
        build(Config()).assemble(vit.build(dataclasses.replace(SMALL, **keys)))


def test_other_backbones_are_refused():
    resnet = catalog.find("models", "resnet/18")
    with pytest.raises(UsageError, match="cannot encode some patches alone"):
        build(Config()).assemble(resnet.module.build(resnet.config))


def test_the_decoder_is_that_of_the_paper_for_its_backbones():
    for name, depth in (("base", 8), ("large", 8), ("huge", 8), ("small", 8), ("nano", 2), ("pico", 1)):
        with torch.device("meta"):
            decoder = decoder_config(Config(), vit.build(vit.VARIANTS[name]))
        assert decoder.depth == depth
        assert decoder.width == (512 if vit.VARIANTS[name].width >= 512 else max(64, vit.VARIANTS[name].width // 2))
        assert decoder.heads * 32 == decoder.width
    with pytest.raises(UsageError, match="32 or 64"):
        decoder_config(Config(decoder_width=40), vit.build(SMALL))


def test_held_out_masks_depend_on_the_image_alone():
    task, model = model_of()
    model.eval()
    images, ids = torch.randn(5, 3, 32, 32), np.array([3, 9, 1, 7, 5])
    together = task.held_out(model, images, ids)
    torch.manual_seed(99)
    alone = torch.cat([task.held_out(model, images[i : i + 1], ids[i : i + 1]) for i in range(5)])
    torch.testing.assert_close(together, alone, atol=1e-6, rtol=1e-5)
    assert together.shape == (5, 1)


def test_it_learns_from_images_alone():
    task = build(Config())
    assert isinstance(task, MaskedAutoencoding)
    assert all(task.learns_from(kind) for kind in ("classes", "masks", "boxes", "none"))
    assert task.targets(torch.zeros(4)).shape == (4, 0)
    assert task.output_names(("a", "b")) == ()


@pytest.mark.parametrize(
    ("section", "keys"),
    [("augment", {"mixup": 0.2}), ("augment", {"mosaic": 0.5}), ("input", {"resize_mode": "tile"}),
     ("data", {"sampler": "balanced"}), ("model", {"patch_dropout": 0.5})],
)  # fmt: skip
def test_settings_that_mean_nothing_here_are_refused(section, keys):
    recipe = override(Recipe(model=Choice("vit/nano")), section, keys)
    with pytest.raises(UsageError, match=next(iter(keys))):
        build(Config()).defaults().check(recipe)
    build(Config()).defaults().check(Recipe(model=Choice("vit/nano")))
