"""Looking shows what the fused kernel does, where it does it on the image, and leaves nothing behind."""

import numpy as np
import pytest
import torch
from test_models import NO_SOFTMAX, SIZES, SMALL, images, shaken
from torch import nn

import vitrail
from vitrail.analysis.attention import LayerAttention, attention, find_attentions
from vitrail.analysis.rollout import overlap
from vitrail.errors import UsageError
from vitrail.heads.detect import Detector, DetectorConfig
from vitrail.heads.linear import Classifier
from vitrail.layers.attention import merge_heads, named_attentions, split_heads
from vitrail.layers.token_layout import Cells
from vitrail.layers.windows import attend_windows, merge_windows
from vitrail.models import dit, jit
from vitrail.types import TokenLayout

SOFTMAX = sorted(set(SMALL) - NO_SOFTMAX - {"dit", "jit"})


def caught(model, call):
    """What every attention was given and gave during a call, by name."""
    seen = {}
    hooks = [
        m.register_forward_hook(lambda m, args, out, name=name: seen.__setitem__(name, (m, args, out)))
        for name, m in named_attentions(model).items()
    ]
    call()
    for hook in hooks:
        hook.remove()
    return seen


@pytest.mark.parametrize("family", SOFTMAX)
@torch.no_grad()
def test_looks_times_values_are_what_the_fused_kernel_gave(family):
    model = shaken(family).eval()
    x = images(family, SIZES.get(family, [(100, 72)])[-1])  # windows and patches do not divide it
    seen = caught(model, lambda: model(x))
    looks = {one.name: one for one in attention(model, x)}
    assert list(looks) == list(find_attentions(model))
    for site, modules in find_attentions(model).items():
        for head, (module, args, out) in enumerate(seen[name] for name in modules):
            parts = looks[site].parts if len(modules) == 1 else looks[site].parts[:, :, head : head + 1]
            mixed = parts.flatten(0, 1) @ module.project(*args).values
            torch.testing.assert_close(module.proj(merge_heads(mixed)), out, rtol=1e-3, atol=1e-4)
            assert looks[site].parts.dtype == torch.float32


@pytest.mark.parametrize("family", SOFTMAX)
def test_rows_sum_to_one_and_shapes_are_those_of_the_grids(family):
    x = images(family)
    for one in attention(shaken(family), x):
        w = one.weights
        assert w.shape == (2, one.parts.shape[2], one.queries.tokens, one.keys.tokens)
        rows = w.sum(-1)
        if (one.key_index >= 0).all():
            torch.testing.assert_close(rows, torch.ones_like(rows), rtol=1e-4, atol=1e-5)
        else:
            assert rows.max() < 1 + 1e-5
        assert one.keys.maps, "the keys of every family are cells"
        assert one.attention_to().shape[2:] == one.keys.maps[0].grid
        torch.testing.assert_close(
            one.attention_to().flatten(2), w.mean(2)[..., one.keys.leading :], rtol=1e-4, atol=1e-6
        )


@pytest.mark.parametrize("family", ["swin", "swin_v2"])
@pytest.mark.parametrize("block", [0, 1], ids=["straight", "shifted"])
@torch.no_grad()
def test_windows_are_put_back_where_they_were(family, block):
    """The whole matrix over the map times the values of its cells in raster order is what attention in windows makes of
    the map."""
    model = shaken(family).eval()
    x = images(family)
    inner = model.blocks[block]
    given = []
    hook = inner.register_forward_pre_hook(lambda m, args: given.append(args[0]))
    one = attention(model, x, layers=block)[0]
    hook.remove()
    fmap = inner.norm1(given[0]) if family == "swin" else given[0]
    qkv = inner.attn.qkv(fmap.flatten(1, 2))
    values = qkv.chunk(3, dim=-1)[2] + (inner.attn.v_bias if family == "swin_v2" else 0)
    mixed = inner.attn.proj(merge_heads(one.weights @ split_heads(values, inner.attn.heads)))
    wanted = attend_windows(
        inner.attn, fmap, TokenLayout((fmap.shape[1], fmap.shape[2]), (4, 4)), inner.windows
    ).flatten(1, 2)
    assert any(inner.windows.shift) == bool(block)
    torch.testing.assert_close(mixed, wanted, rtol=1e-4, atol=1e-5)


@torch.no_grad()
def test_squares_of_msra_are_put_back_where_they_were():
    model = shaken("efficientvit_msra").eval()
    cascade = model.stages[0].blocks[0].mixer.m.attn
    given, found = [], []
    hooks = [
        model.stages[0].blocks[0].mixer.m.register_forward_pre_hook(lambda m, args: given.append(args[0])),
        cascade.cascade[0].register_forward_hook(lambda m, args, out: found.append(out)),
    ]
    one = attention(model, images("efficientvit_msra", (112, 224)), layers=0)[0]
    for hook in hooks:
        hook.remove()
    head = cascade.cascade[0]
    assert len(one.key_index) == 2
    share = given[0].chunk(len(cascade.cascade), dim=1)[0]
    values = head.qkv(share).split(head.widths, dim=1)[2].flatten(2).mT  # [B hw d], in raster order
    wanted = merge_windows(found[0].unflatten(1, (7, 7)).flatten(1, 2), (7, 7), (7, 14)).flatten(1, 2)
    torch.testing.assert_close(one.weights[:, 0] @ values, wanted, rtol=1e-4, atol=1e-5)


@torch.no_grad()
def test_unfolded_pixels_are_put_back_where_they_were():
    model = shaken("mobilevit").eval()
    block = model.stages[2][1]
    given, found = [], []
    hooks = [
        block.conv_1x1.register_forward_hook(lambda m, args, out: given.append(out)),
        block.transformer[0].attn.register_forward_hook(lambda m, args, out: found.append(out)),
    ]
    one = attention(model, images("mobilevit", (64, 96)), layers=0)[0]
    for hook in hooks:
        hook.remove()
    attn, norm = block.transformer[0].attn, block.transformer[0].norm1
    values = split_heads(attn.qkv(norm(given[0].flatten(2).mT)).chunk(3, dim=-1)[2], attn.heads)
    mixed = attn.proj(merge_heads(one.weights @ values))  # [B hw D], in raster order of the map
    h, w = one.queries.maps[0].grid
    wanted = found[0].view(2, 2, 2, h // 2, w // 2, -1).permute(0, 3, 1, 4, 2, 5).reshape(2, h * w, -1)
    torch.testing.assert_close(mixed, wanted, rtol=1e-4, atol=1e-5)


def test_hooks_are_gone_and_the_model_is_as_it_was():
    model = Classifier(shaken("efficientvit_msra", dropout=0.5), 3)
    model.train()
    model.backbone.stages[0].eval()
    modes = {n: m.training for n, m in model.named_modules()}
    before = {k: v.clone() for k, v in model.state_dict().items()}
    x = images("efficientvit_msra")
    torch.manual_seed(3)
    first = model.eval()(x)
    for n, m in model.named_modules():
        m.training = modes[n]
    attention(model, x, heads="mean")
    with pytest.raises(RuntimeError):
        attention(model, x[:, :2])
    assert not [m for m in model.modules() if m._forward_hooks or m._forward_pre_hooks]
    assert {n: m.training for n, m in model.named_modules()} == modes
    assert all(torch.equal(v, before[k]) for k, v in model.state_dict().items())
    assert torch.equal(model.eval()(x), first)
    assert all(p.grad is None for p in model.parameters())


def test_looking_changes_no_output_and_watches_only_what_is_chosen():
    model, x = shaken("vit").eval(), images("vit")
    outputs, calls = [], []
    model.register_forward_hook(lambda m, args, out: outputs.append(out))
    plain = model(x)
    for block in model.blocks:
        block.attn.weights = lambda *args, attn=block.attn: calls.append(attn) or type(attn).weights(attn, *args)
    found = attention(model, x, layers=-1)
    assert calls == [model.blocks[-1].attn]
    assert [one.name for one in found] == ["blocks.1.attn"]
    assert all(
        torch.equal(a, b)
        for a, b in zip(outputs[1].maps + outputs[1].summaries, plain.maps + plain.summaries, strict=True)
    )


def test_heads_are_chosen_or_joined():
    model, x = shaken("vit"), images("vit")
    every = attention(model, x, layers=0)[0].weights
    joined = {kind: attention(model, x, layers=0, heads=kind)[0].weights for kind in ("mean", "min", "max")}
    torch.testing.assert_close(joined["mean"], every.mean(1, keepdim=True))
    assert torch.equal(joined["min"], every.amin(1, keepdim=True))
    assert torch.equal(joined["max"], every.amax(1, keepdim=True))
    assert torch.equal(attention(model, x, layers=0, heads=[2, 0])[0].weights, every[:, [2, 0]])
    cascade = shaken("efficientvit_msra")
    y = images("efficientvit_msra")
    torch.testing.assert_close(
        attention(cascade, y, 0, "mean")[0].parts, attention(cascade, y, 0)[0].parts.mean(2, keepdim=True)
    )


def test_layers_by_number_and_by_name():
    model = Classifier(shaken("swin"), 3)
    x = images("swin")
    names = list(find_attentions(model))
    assert [one.name for one in attention(model, x, [0, -1])] == [names[0], names[-1]]
    assert [one.name for one in attention(model, x, "layers.1")] == names[2:4]
    assert [one.name for one in attention(model, x, names[1])] == [names[1]]
    for wrong, said in ((8, "layers are 0 to 7"), ("backbone.layers.0.blocks.0.atn", "did you mean")):
        with pytest.raises(UsageError, match=said):
            attention(model, x, wrong)


@pytest.mark.parametrize("family", sorted(NO_SOFTMAX))
def test_models_without_softmax_say_what_to_use_instead(family):
    with pytest.raises(UsageError, match="no softmax attention") as error:
        attention(shaken(family), images(family))
    assert "gradient_cam" in error.value.fix


def test_wrong_images_and_heads():
    model = shaken("vit")
    for wrong in ("cat.png", torch.zeros(3, 64, 64), torch.zeros(1, 3, 64, 64, dtype=torch.uint8), ()):
        with pytest.raises(UsageError, match="batch of images"):
            attention(model, wrong)
    for heads, said in (("median", "unknown reduction of heads"), ([9], "heads are 0 to 3"), ([], "no heads")):
        with pytest.raises(UsageError, match=said):
            attention(model, images("vit"), heads=heads)


def test_one_query_on_the_map_of_its_keys():
    one = attention(shaken("pvt"), images("pvt", (64, 96)), layers=0)[0]
    assert one.queries.maps[0].grid == (16, 24)
    assert one.keys.maps[0].grid == (2, 3)
    assert torch.equal(one.attention_from((3, 5)).flatten(2), one.weights[:, :, 3 * 24 + 5])
    shifted = attention(shaken("swin"), images("swin"), layers=1)[0]
    assert torch.equal(shifted.attention_from((15, 2)).flatten(2), shifted.weights[:, :, 15 * 16 + 2])
    with_token = attention(shaken("deit"), images("deit"), layers=-1)[0]
    assert torch.equal(with_token.attention_from(1).flatten(2), with_token.weights[:, :, 1, 2:])
    for wrong, said in ((0, "no token 0"), ((16, 0), "no cell")):
        with pytest.raises(UsageError, match=said):
            one.attention_from(wrong)
    with pytest.raises(UsageError, match="attends to 1 maps"):
        one.attention_to(1)


def test_keys_are_where_the_cells_are_that_they_stand_for():
    def keys(family, size, layer, **config):
        return attention(shaken(family, **config), images(family, size), layers=layer)[0].keys.maps[0]

    reduced = keys("pvt", (100, 72), 0)  # 25 x 18 cells of 4 pixels, 8 x 8 of them a key, the rest in none
    assert reduced.rows.tolist() == [[0, 32], [32, 64], [64, 96]]
    assert reduced.columns.tolist() == [[0, 32], [32, 64]]
    pooled = keys("pvt_v2", (40, 64), 0, pool=7)  # 10 rows shared by 7
    assert pooled.rows[:3].tolist() == [[0, 8], [4, 12], [8, 20]]
    assert pooled.grid == (7, 7)
    assert keys("crossvit", (120, 60), "blocks.0.fusion.1").grid == (10, 5)
    small = keys("crossvit", (240, 240), "blocks.0.fusion.0")  # the second branch sees 224 pixels in patches of 16
    assert small.grid == (14, 14)
    torch.testing.assert_close(small.rows[0], torch.tensor([0, 240 / 14]))


def test_decoders_look_from_queries_at_the_maps_of_the_memory():
    torch.manual_seed(0)
    backbone = shaken("resnet")
    design = DetectorConfig(
        queries=20, kind="slots", width=32, heads=4, encoder=1, decoder=1, hidden=32, dropout=0.0, stride=16
    )
    found = {one.name: one for one in attention(Detector(backbone, 3, design), images("resnet"))}
    encoder, own, cross = (found[n] for n in ("encoder.0.self_attn", "decoder.0.self_attn", "decoder.0.cross_attn"))
    assert [cells.grid for cells in cross.keys.maps] == [(4, 4), (2, 2)]
    assert cross.queries.maps == own.queries.maps == own.keys.maps == (), "as many queries as cells are still queries"
    assert [cells.grid for cells in encoder.queries.maps] == [(4, 4), (2, 2)]
    assert cross.attention_from(7).shape == (2, 4, 4, 4)
    assert torch.equal(cross.attention_from(7, level=1).flatten(2), cross.weights[:, :, 7, 16:])
    with pytest.raises(UsageError, match="no map"):
        own.attention_to()


@pytest.mark.parametrize(("family", "leading"), [(dit, [0, 0]), (jit, [0, 3])])
def test_denoisers_are_looked_at_with_all_that_they_take(family, leading):
    torch.manual_seed(0)
    keys = {"width": 32, "depth": 2, "heads": 2, "patch": 4, "size": (16, 16), "channels": 3, "classes": 2}
    more = {"context": 3, "context_start": 1, "bottleneck": 8} if family is jit else {}
    model = family.build(family.Config(**keys, **more))
    looks = attention(model, (torch.randn(2, 3, 16, 24), torch.rand(2), torch.tensor([0, 1])))
    assert [one.queries.leading for one in looks] == leading
    assert all(one.queries.maps[0].grid == (4, 6) for one in looks)


def test_front_door_takes_models_and_what_load_gives(tmp_path):
    model = vitrail.create("vit/nano", classes=2, channels=1, width=32, depth=2, heads=2, size=(16, 16), patch=4)
    images = np.random.default_rng(0).integers(0, 256, (3, 16, 16), dtype=np.uint8)
    loaded = vitrail.load(vitrail.save(model, tmp_path / "kept"))
    looks = vitrail.attention(loaded, list(images), layers=-1, heads="max")
    assert isinstance(looks[0], LayerAttention)
    assert looks[0].weights.shape == (3, 1, 16, 16)
    x = loaded.preprocess.batch(torch.from_numpy(images)[:, None])
    assert torch.equal(vitrail.attention(model, x, layers=[1], heads="max")[0].weights, looks[0].weights)
    for wrong, given, said in ((3, x, "not a model"), (loaded, [], "no image"), (model, "a.png", "batch of images")):
        with pytest.raises(UsageError, match=said):
            vitrail.attention(wrong, given)


def test_an_attention_by_itself_is_a_model_too():
    from vitrail.layers.attention import SelfAttention

    class One(nn.Module):
        def __init__(self):
            super().__init__()
            self.inner = nn.ModuleList([nn.ModuleDict({"attn": SelfAttention(8, 2)})])

        def forward(self, x):
            return self.inner[0]["attn"](x.flatten(2).mT, TokenLayout((x.shape[2], x.shape[3]), (1, 1)))

    (one,) = attention(One(), torch.randn(1, 8, 3, 5))
    assert one.name == "inner.0.attn"
    assert one.queries.maps[0].grid == (3, 5)


def test_overlap_of_intervals():
    new, old = torch.tensor([[0.0, 8], [8, 16]]), torch.tensor([[0.0, 6], [6, 12]])
    torch.testing.assert_close(overlap(new, old), torch.tensor([[0.75, 0.25], [0, 1.0]]))
    cells = Cells(new, torch.tensor([[0.0, 2], [2, 4], [4, 6]]))
    assert cells.extent == (16, 6)
    assert cells.centres.tolist() == [[4, 1], [4, 3], [4, 5], [12, 1], [12, 3], [12, 5]]
