"""One contract over the whole catalogue: what every family promises, whichever it is."""

import dataclasses
import os
import tempfile

import pytest
import torch
import torch.multiprocessing as mp
from places import server
from quick import spread, the_first
from torch import nn

import vitrail
from vitrail import catalog
from vitrail.contracts import Backbone
from vitrail.heads.linear import Classifier
from vitrail.layers.attention import merge_heads, named_attentions
from vitrail.types import Features
from vitrail.validation import update_config

SMALL = {  # a small model of every family, and how its config is made small
    "vit": ("vit/tiny", {"width": 32, "depth": 2, "heads": 4, "patch": 8, "size": (64, 64)}),
    "deit": ("deit/tiny_distilled", {"width": 32, "depth": 2, "heads": 4, "patch": 8, "size": (64, 64)}),
    "hybrid": (
        "hybrid/r26_small",
        {"stages": (1, 1), "stem_width": 32, "width": 32, "depth": 1, "heads": 4, "size": (64, 64)},
    ),
    "swin": ("swin/tiny", {"width": 16, "depths": (2, 2, 2, 2), "heads": (1, 2, 4, 8), "window": 4, "size": (64, 64)}),
    "swin_v2": (
        "swin_v2/tiny_w8",
        {"width": 16, "depths": (2, 2, 2, 2), "heads": (1, 2, 4, 8), "window": 4, "size": (64, 64)},
    ),
    "pvt": ("pvt/tiny", {"widths": (16, 24, 32, 40), "depths": (1, 1, 2, 1), "heads": (1, 2, 4, 5), "size": (64, 64)}),
    "pvt_v2": (
        "pvt_v2/b0",
        {"widths": (16, 24, 32, 40), "depths": (1, 1, 2, 1), "heads": (1, 2, 4, 5), "size": (64, 64)},
    ),
    "crossvit": (
        "crossvit/tiny",
        {"widths": (24, 32), "heads": (2, 4), "depths": (1, 1), "stages": 2, "size": (60, 60)},
    ),
    "efficientvit": ("efficientvit/b0", {"depths": (1, 1, 1, 2, 1), "pre_logits": (32, 24), "size": (64, 64)}),
    "efficientvit_msra": (
        "efficientvit_msra/m0",
        {"widths": (32, 48, 64), "heads": (2, 3, 4), "depths": (1, 1, 1), "size": (128, 128)},
    ),
    "mobilevit": (
        "mobilevit/xxs",
        {"token_widths": (16, 24, 32), "depths": (1, 1, 1), "summary_width": 48, "size": (64, 64)},
    ),
    "clip": ("clip/base", {"width": 32, "depth": 2, "heads": 4, "patch": 8, "size": (64, 64), "pre_logits": 24}),
    "dinov3": (
        "dinov3/small_plus",
        {"width": 32, "depth": 2, "heads": 4, "patch": 8, "size": (64, 64), "layer_scale": 0.1},
    ),
    "beit": ("beit/base", {"width": 32, "depth": 2, "heads": 4, "patch": 8, "size": (64, 64)}),
    "eva": ("eva/02_base", {"width": 32, "depth": 2, "heads": 4, "patch": 8, "size": (64, 64)}),
    "siglip": ("siglip/base", {"width": 32, "depth": 2, "heads": 4, "patch": 8, "size": (64, 64)}),
    "samvit": (
        "samvit/base",
        {"width": 32, "depth": 3, "heads": 4, "patch": 8, "size": (64, 64), "window": 3, "neck": 24},
    ),
    "tiny_vit": (
        "tiny_vit/5m",
        {
            "widths": (16, 24, 32, 48),
            "depths": (1, 1, 2, 1),
            "heads": (2, 4, 4),
            "windows": (3, 2, 2),
            "size": (64, 64),
        },
    ),
    "resnet": ("resnet/18", {"depths": (1, 1, 1, 1), "width": 8, "size": (64, 64)}),
}
FAMILIES = [
    family for family in catalog.list_modules("models") if catalog.model_kind(family) == "backbone"
]  # denoisers: test_denoisers.py
SIZES_OF_ONE = {"clip", "siglip", "beit", "eva", "dinov3"}  # whose variants differ in numbers only
NO_SOFTMAX = {"resnet", "efficientvit"}  # a convolutional network, and linear attention
NOMINAL = {"crossvit"}  # its second branch sees a smaller copy of the image, so its stride is not whole
SIZES = {"efficientvit_msra": [(128, 128), (160, 96)], "crossvit": [(60, 60), (120, 60)]}


def small(family, **keys):
    torch.manual_seed(0)
    name, shrunk = SMALL[family]
    config = dataclasses.replace(catalog.load_config("models", name), **{**shrunk, **keys})
    return catalog.load_module("models", name).build(config)


def shaken(family, **keys):
    """Nothing at zero or one, so that nothing hides."""
    model = small(family, **keys)
    for p in model.parameters():
        p.data += 0.02 * torch.randn_like(p)
    return model


def images(family, size=None, batch=2, channels=3):
    return torch.randn(batch, channels, *(size or SIZES.get(family, [(64, 64)])[0]))


def total(features):
    return sum(s.square().sum() for s in features.summaries) + sum(m.square().mean() for m in features.maps)


def test_every_family_is_under_contract():
    assert sorted(SMALL) == FAMILIES


@pytest.mark.parametrize(
    "name",
    [
        one
        for family in FAMILIES
        for one in spread(catalog.list_names("models", family), 1 if family in SIZES_OF_ONE else 2)
    ],
)
def test_every_variant_keeps_what_it_declares(name):
    """On the meta device: widths and strides as declared, and no parameter without numbers."""
    with torch.device("meta"):
        model = vitrail.backbone(name)
        assert_as_declared(model, model(torch.empty(2, 3, *model.config.size)), model.config.size)
    assert isinstance(model, Backbone)
    assert len(model.blocks) > 0
    assert [n for n, p in model.state_dict().items() if not p.numel()] == []


def assert_as_declared(model, features, size):
    assert isinstance(features, Features)
    assert tuple(s.shape for s in features.summaries) == tuple((2, w) for w in model.summary_widths)
    assert tuple(m.shape[1] for m in features.maps) == model.map_widths
    nominal = type(model).__module__.rpartition(".")[2] in NOMINAL
    for i, (fmap, stride) in enumerate(zip(features.maps, model.strides, strict=True)):
        if not nominal or i == 0:
            assert fmap.shape[2:] == tuple(-(-side // stride) for side in size), f"stride {stride}"


@pytest.mark.parametrize("family", FAMILIES)
def test_every_parameter_gets_a_gradient_and_any_size_is_taken(family):
    model = shaken(family)
    for size in SIZES.get(family, [(64, 64), (96, 64)]):
        model.zero_grad()
        features = model(images(family, size))
        assert_as_declared(model, features, size)
        total(features).backward()
        assert [n for n, p in model.named_parameters() if p.numel() and (p.grad is None or not p.grad.any())] == []


@pytest.mark.parametrize("family", FAMILIES)
def test_any_number_of_channels(family):
    features = small(family, channels=5).eval()(images(family, channels=5))
    assert torch.isfinite(features.summaries[0]).all()


@pytest.mark.parametrize("family", FAMILIES)
def test_comes_back_from_its_state(family):
    model, again = shaken(family).eval(), small(family)
    again.load_state_dict(model.state_dict())
    x = images(family)
    for a, b in zip(again.eval()(x).summaries, model(x).summaries, strict=True):
        assert torch.equal(a, b)


@pytest.mark.parametrize("family", FAMILIES)
def test_evaluation_is_deterministic_and_knows_no_batch(family):
    has = {f.name for f in dataclasses.fields(small(family).config)}
    model = shaken(
        family, **{name: 0.5 for name in ("drop_path", "dropout", "attention_dropout") if name in has}
    ).eval()
    x = images(family, batch=3)
    together, again, alone = model(x), model(x), model(x[1:2])
    for a, b, c in zip(together.summaries, again.summaries, alone.summaries, strict=True):
        assert torch.equal(a, b)
        torch.testing.assert_close(a[1:2], c, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("family", FAMILIES)
def test_weights_sum_to_one_and_reproduce_forward(family):
    model = shaken(family).eval()
    found, checked = named_attentions(model), []

    def look(module, args, out):
        w, values = module.weights(*args), module.project(*args).values
        torch.testing.assert_close(w.sum(-1), torch.ones_like(w[..., 0]), rtol=1e-4, atol=1e-5)
        torch.testing.assert_close(out, module.proj(merge_heads(w @ values)), rtol=1e-3, atol=1e-4)
        checked.append(module)

    for module in found.values():
        module.register_forward_hook(look)
    model(images(family))
    assert bool(found) == (family not in NO_SOFTMAX)
    assert set(checked) == set(found.values())


@pytest.mark.parametrize("family", the_first(FAMILIES))  # one of another kind: tests/export
def test_export_for_any_batch_agrees_with_eager(family):
    """Of images that windows and patches do not divide, where the family takes them."""
    model, size = shaken(family).eval(), SIZES.get(family, [(72, 100)])[-1]
    batch = {0: torch.export.Dim("batch", min=1, max=64)}
    program = torch.export.export(model, (images(family, size),), dynamic_shapes=(batch,)).module()
    x = images(family, size, batch=5)
    for a, b in zip(program(x), model(x), strict=True):
        for exported, eager in zip(a, b, strict=True):
            torch.testing.assert_close(exported, eager, rtol=1e-4, atol=1e-4)


COMPILED = ["vit", "efficientvit"]  # global, linear; the others are slow


@pytest.mark.parametrize("family", [pytest.param(f, marks=() if f in COMPILED else pytest.mark.slow) for f in FAMILIES])
def test_compile_agrees_with_eager(family):
    model = shaken(family).eval()
    x = images(family)
    with torch.no_grad():
        compiled = torch.compile(model, backend="aot_eager")(x)
        for a, b in zip(compiled.summaries, model(x).summaries, strict=True):
            torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("family", FAMILIES)
def test_layer_decay_rises_with_depth_and_covers_everything(family):
    from vitrail.engine.optim import build_parameter_groups, depth_levels

    model = Classifier(small(family), 5)
    blocks = list(model.backbone.blocks)
    level = depth_levels(model, blocks)
    assert set(level) == {n for n, _ in model.named_parameters()}
    assert {level[n] for n, _ in model.named_parameters() if n.startswith("heads")} == {len(blocks) + 1}
    made = build_parameter_groups(model, blocks, 0.05, 0.5)
    assert sum(len(g["params"]) for g in made) == len(list(model.parameters()))
    plain = {id(m.weight) for m in model.modules() if isinstance(m, nn.Linear | nn.Conv2d)}
    assert all(id(p) in plain for g in made if g["weight_decay"] for p in g["params"])


def work(rank, folder, families):
    """What one of two processes does: a step of every family under DDP; the gradients must be the same on both."""
    torch.set_num_threads(1)
    torch.distributed.init_process_group("gloo", init_method=f"file://{folder}/meet", rank=rank, world_size=2)
    for family in families:
        model = nn.parallel.DistributedDataParallel(Classifier(small(family), 5), broadcast_buffers=False)
        torch.manual_seed(rank)
        model(images(family)).square().sum().backward()
        flat = torch.cat([p.grad.flatten() for p in model.parameters() if p.grad is not None])
        other = flat.clone()
        torch.distributed.broadcast(other, 0)
        assert torch.equal(flat, other), family
        assert flat.any()
    torch.distributed.destroy_process_group()


@pytest.mark.slow  # test_many_processes.py has all that is not the family's
def test_every_family_trains_under_two_processes():
    with tempfile.TemporaryDirectory() as folder:
        os.environ.setdefault("GLOO_SOCKET_IFNAME", "lo")
        server()  # what starts them has imported torch
        mp.start_processes(work, args=(folder, FAMILIES), nprocs=2, start_method="forkserver")


@pytest.mark.parametrize("family", FAMILIES)
def test_wrong_keys_name_the_nearest(family):
    with pytest.raises(ValueError, match="did you mean"):
        update_config(catalog.load_config("models", SMALL[family][0]), {"chanels": 3}, family)
