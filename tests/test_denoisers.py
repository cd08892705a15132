"""One contract over all denoisers of the catalogue: what each promises, whichever it is."""

import dataclasses

import pytest
import torch
from quick import every_third
from torch.utils.checkpoint import checkpoint

import vitrail
from vitrail import catalog
from vitrail.analysis.cost import on_meta_device
from vitrail.contracts import Denoiser
from vitrail.errors import UsageError
from vitrail.layers.attention import merge_heads, named_attentions
from vitrail.tasks.diffusion import Config, Sampling, build
from vitrail.tasks.diffusion.guidance import ConditioningCache
from vitrail.types import Batch

SMALL = {
    "dit": ("dit/nano", {"width": 32, "depth": 2, "heads": 2, "size": (16, 16), "classes": 3}),
    "jit": ("jit/nano", {"width": 32, "depth": 3, "heads": 2, "size": (16, 16), "classes": 3, "context_start": 1}),
}
FAMILIES = [family for family in catalog.list_modules("models") if catalog.model_kind(family) == "denoiser"]
OBJECTIVE = {"dit": "gaussian", "jit": "flow"}


def small(family, **keys):
    torch.manual_seed(0)
    name, shrunk = SMALL[family]
    return catalog.load_module("models", name).build(
        dataclasses.replace(catalog.load_config("models", name), **{**shrunk, **keys})
    )


def shaken(family, **keys):
    """Nothing at zero or one, so that nothing hides."""
    model = small(family, **keys)
    for p in model.parameters():
        p.data += 0.1 * torch.randn_like(p)
    return model.eval()


def asked(batch=2, size=(16, 16), channels=3, classes=3):
    return torch.randn(batch, channels, *size), torch.rand(batch) * 900, torch.arange(batch) % (classes + 1)


def test_every_denoiser_is_under_contract_and_no_backbone_is_one():
    assert sorted(SMALL) == FAMILIES
    assert all(isinstance(small(family), Denoiser) for family in FAMILIES)
    assert not isinstance(vitrail.backbone("vit/nano"), Denoiser)
    assert (
        catalog.model_kind("vit/base")
        == catalog.model_kind("nobody")
        == catalog.model_kind("mine.own/small")
        == "backbone"
    )


@pytest.mark.parametrize(
    "name", [one for family in FAMILIES for one in every_third(catalog.list_names("models", family))]
)
def test_every_variant_gives_what_it_gets(name):
    """On the meta device, with two blocks, at two sizes, one of them not square."""
    with on_meta_device():
        model = vitrail.create(name, classes=7, depth=2, **({"context_start": 1} if name.startswith("jit") else {}))
        assert model.null == model.config.classes == 7
        assert len(model.blocks) == 2
        height, width = model.config.size
        for size in ((height, width), (height // 2, width)):
            x = torch.empty(2, model.config.channels, *size)
            out = model(x, torch.zeros(2), torch.zeros(2, dtype=torch.int64))
            assert out.shape == (2, model.config.channels * (1 + getattr(model.config, "learn_sigma", False)), *size)


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("size", [(16, 16), (8, 20), (13, 7)])
def test_any_size_and_any_number_of_channels(family, size):
    model = shaken(family, channels=5)
    x, t, label = asked(size=size, channels=5)
    out = model(x, t, label)
    assert out.shape[-2:] == size
    assert torch.isfinite(out).all()
    torch.testing.assert_close(model(x[1:], t[1:], label[1:]), out[1:], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("family", FAMILIES)
def test_begins_with_nothing_and_blocks_pass_everything_through(family):
    model, seen = small(family).eval(), []
    for block in model.blocks:
        block.register_forward_hook(lambda m, args, out: seen.append(torch.equal(args[0], out)))
    assert not model(*asked()).any()
    assert seen == [True] * len(model.blocks)


@pytest.mark.parametrize("family", FAMILIES)
def test_time_class_and_every_place_matter(family):
    model = shaken(family)
    x, t, label = asked()
    plain = model(x, t, label)
    moved = x.clone()
    moved[:, :, -1, -1] += 1
    for other in (model(x, t + 1, label), model(x, t, (label + 1) % 4), model(moved, t, label)):
        assert ((other - plain).flatten(2).norm(dim=2) > 1e-4).all()


@pytest.mark.parametrize("classes", [3, 0])
@pytest.mark.parametrize("family", FAMILIES)
def test_every_parameter_gets_a_gradient_after_one_update(family, classes):
    model = small(family, classes=classes)
    task = build(Config(objective=OBJECTIVE[family], classes=3))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    task.assemble(model)
    batch = Batch(torch.rand(16, 3, 16, 16) * 2 - 1, torch.arange(16) % 3)
    for _ in range(3):  # the last layer moves first, then modulations, then what they modulate
        optimizer.zero_grad()
        sum(task.loss(model, batch).values()).backward()
        optimizer.step()
    assert [n for n, p in model.named_parameters() if p.grad is None or not p.grad.any()] == []


@pytest.mark.parametrize("family", FAMILIES)
def test_blocks_can_be_computed_twice_instead_of_kept(family):
    model, given = shaken(family), asked()
    model(*given).square().sum().backward()
    plain = {n: p.grad.clone() for n, p in model.named_parameters()}
    model.zero_grad()
    for block in model.blocks:
        block.forward = lambda *args, inside=block.forward: checkpoint(inside, *args, use_reentrant=False)
    model(*given).square().sum().backward()
    assert all(torch.equal(p.grad, plain[n]) for n, p in model.named_parameters())


@pytest.mark.parametrize("family", FAMILIES)
def test_an_image_is_the_same_whatever_is_made_beside_it(family):
    model, task = shaken(family), build(Config(objective=OBJECTIVE[family], classes=3))
    how = Sampling(steps=4, guidance=2.0)
    labels = torch.tensor([2, 0, 1])
    *_, together = task.sample(model, labels, how, seed=5)
    *_, again = task.sample(model, labels, how, seed=5)
    *_, other = task.sample(model, labels, how, seed=6)
    *_, alone = task.sample(model, labels[1:2], how, seed=5, numbers=[1])
    assert torch.equal(together, again)
    assert torch.isfinite(together).all()
    assert (together - other).norm() > 0.1 * together.norm()
    torch.testing.assert_close(alone, together[1:2], rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("family", FAMILIES)
def test_what_depends_on_no_image_is_worked_out_once_for_each_class(family, monkeypatch):
    model, asked_for, condition = shaken(family), [], type(small(family)).condition
    monkeypatch.setattr(
        type(model), "condition", lambda self, t, label: asked_for.append(len(t)) or condition(self, t, label)
    )
    labels, times = torch.tensor([2, 0, 2, 3]), [5.0, 3.0, 0.0]
    ahead = ConditioningCache(model, labels, times)
    for t in times:
        found, alone = ahead(t, labels), condition(model, torch.full((4,), t), labels)
        for mine, theirs in zip((*found.moves, found.label), (*alone.moves, alone.label), strict=True):
            torch.testing.assert_close(mine, theirs)
    assert asked_for == [3 * 3], "three times at once, classes 0 and 2 and none of them"
    ahead(4.0, labels)
    assert asked_for == [9, 3], "a time that nobody announced"


@pytest.mark.parametrize("family", FAMILIES)
def test_comes_back_from_its_state(family):
    model, again, given = shaken(family), small(family).eval(), asked()
    again.load_state_dict(model.state_dict())
    assert torch.equal(again(*given), model(*given))


@pytest.mark.parametrize("family", FAMILIES)
def test_weights_sum_to_one_and_reproduce_forward(family):
    model, checked = shaken(family), []

    def look(module, args, out):
        w, values = module.weights(*args), module.project(*args).values
        torch.testing.assert_close(w.sum(-1), torch.ones_like(w[..., 0]), rtol=1e-4, atol=1e-5)
        torch.testing.assert_close(out, module.proj(merge_heads(w @ values)), rtol=1e-3, atol=1e-4)
        checked.append(module)

    for module in named_attentions(model).values():
        module.register_forward_hook(look)
    model(*asked())
    assert len(checked) == len(model.blocks)


@pytest.mark.parametrize("family", FAMILIES)
def test_compile_and_export_agree_with_eager(family):
    model, given = shaken(family), asked()
    plain = model(*given)
    with torch.no_grad():
        torch.testing.assert_close(torch.compile(model, backend="aot_eager")(*given), plain, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(torch.export.export(model, given).module()(*given), plain, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("family", FAMILIES)
def test_half_precision_is_near(family):
    model, given = shaken(family), asked()
    plain = model(*given)
    with torch.autocast("cpu", torch.bfloat16):
        out = model(*given)
    assert (out.float() - plain).norm() < 0.05 * plain.norm()


@pytest.mark.parametrize("family", FAMILIES)
def test_layer_decay_rises_with_depth_and_covers_everything(family):
    from vitrail.engine.optim import depth_levels

    model = small(family)
    level = depth_levels(model, list(model.blocks))
    assert set(level) == {n for n, _ in model.named_parameters()}
    assert {level[n] for n, _ in model.named_parameters() if n.startswith("out.")} == {len(model.blocks) + 1}
    assert {level[n] for n, _ in model.named_parameters() if n.startswith(("patch_embed.", "time.", "label."))} == {0}


def test_made_by_name_and_wrong_words_are_told():
    model = vitrail.create("jit/nano", classes=5, size=32, depth=3)
    assert (model.null, model.config.size) == (5, (32, 32))
    assert vitrail.create("dit/nano", classes=0).null == 0
    with pytest.raises(ValueError, match="did you mean 'channels'"):
        vitrail.create("dit/nano", chanels=1)
    with pytest.raises(UsageError, match="context_start 9 is beyond the last of 6 blocks"):
        vitrail.backbone("jit/nano", context_start=9)
    with pytest.raises(UsageError, match="width divisible by 4"):
        vitrail.backbone("jit/nano", width=36, heads=6)
