"""Costs are counted, not estimated: against the closed form of the paper."""

import pytest
import torch
from quick import every_third, spread
from torch.utils._python_dispatch import TorchDispatchMode

import vitrail
from vitrail import catalog
from vitrail.analysis.cost import classify_attention, cost, fit_exponent, on_meta_device
from vitrail.layers.neighbourhood import VisiblePairs


def closed_form(n, d, depth, patch, channels=3, ratio=4, classes=10, tokens=1):
    """Multiply-adds of a ViT (families of formulas agree): L[(4+2r) N d^2 + 2 N^2 d] + patches and head."""
    return depth * ((4 + 2 * ratio) * n * d * d + 2 * n * n * d) + (n - tokens) * channels * patch**2 * d + d * classes


def light(name, **keys):
    with on_meta_device():
        return vitrail.create(name, **keys)


def smallest(family):
    rows = catalog.read_published()["models"]
    return min((n for n in rows if n.startswith(f"{family}/")), key=lambda n: rows[n]["parameters"])


@pytest.mark.parametrize("size", [(32, 32), (64, 48)])
def test_multiply_adds_equal_the_closed_form(size):
    model = vitrail.create("vit/tiny", classes=10, width=64, depth=3, heads=4, patch=8, size=(32, 32))
    n = (size[0] // 8) * (size[1] // 8) + 1
    counted = vitrail.cost(model, size=size)
    assert counted.macs == closed_form(n, 64, 3, 8)
    assert counted.attention_bytes == 3 * 4 * n * n * 4
    assert counted.parameters == counted.trainable == sum(p.numel() for p in model.parameters())
    assert counted.parameter_bytes == 4 * counted.parameters
    assert counted.size == size


def test_activations_are_the_outputs_of_leaves_each_once():
    n, d = 17, 64
    model = vitrail.create("vit/tiny", classes=10, width=d, depth=1, heads=4, patch=8, size=(32, 32)).eval()
    counted = vitrail.cost(model)
    outputs = []
    for m in model.modules():
        if not any(m.children()) and not isinstance(m, torch.nn.Identity):
            m.register_forward_hook(lambda m, a, out: outputs.append(out.numel()))
    model(torch.zeros(1, 3, 32, 32))
    assert outputs.count(n * 3 * d) == 1, "queries, keys and values"
    assert counted.activation_bytes == 4 * sum(outputs)


def test_counting_leaves_the_model_alone_and_sees_what_is_frozen():
    model = vitrail.create("vit/nano", classes=10, channels=1).train()
    before = {k: v.clone() for k, v in model.state_dict().items()}
    model.backbone.blocks[0].requires_grad_(False)
    counted = vitrail.cost(model)
    assert counted.trainable < counted.parameters
    assert model.training
    assert all(torch.equal(v, before[k]) for k, v in model.state_dict().items())


def test_a_backbone_alone_can_be_counted():
    counted = vitrail.cost(vitrail.backbone("vit/nano"), size=28)
    assert counted.macs == sum(counted.by_part.values()) > 0
    assert set(counted.by_part) == {"patch_embed", "blocks"}


@pytest.mark.parametrize("family", spread(catalog.list_modules("models"), 4))
def test_parts_add_up_to_what_torch_counts(family):
    from torch.utils.flop_counter import FlopCounterMode

    model = light(smallest(family))
    counted = cost(model)
    config = getattr(model, "backbone", model).config
    asked = (torch.empty(1), torch.empty(1, dtype=torch.int64)) if catalog.model_kind(family) == "denoiser" else ()
    with torch.device("meta"), FlopCounterMode(display=False) as counter:
        model.eval()(torch.empty(1, config.channels, *config.size), *(t.to("meta") for t in asked))
    assert counted.macs == sum(counted.by_part.values()) == counter.get_total_flops() // 2
    assert counted.macs == catalog.read_published()["models"][smallest(family)]["macs"]
    assert "between parts" not in counted.by_part
    assert len(counted.by_part) >= 3


def test_parts_leave_out_pairs_that_are_not_seen():
    whole, near = (cost(light("vit/tiny", depth=2, attention_radius=radius)) for radius in (None, 1))
    n, pairs = 197, VisiblePairs(1, (14, 14), 1).count_pairs()
    assert whole.macs - near.macs == whole.by_part["blocks"] - near.by_part["blocks"] == 2 * 2 * 192 * (n * n - pairs)
    assert near.attention_bytes == 2 * 3 * 4 * pairs
    assert near.macs == sum(near.by_part.values())


@pytest.mark.parametrize(
    ("name", "power", "kind"),
    every_third([
        ("vit/tiny", 2, "pixels^2.0: global"), ("pvt/tiny", 2, "pixels^2.0: global"),
        ("pvt_v2/b0", 2, "pixels^2.0: global"),
        ("pvt_v2/b2_li", 1, "pixels^1.0: windows or linear"), ("swin/tiny", 1, "pixels^1.0: windows or linear"),
        ("efficientvit/b0", None, "no attention weights"), ("resnet/18", None, "no attention weights"),
    ]),
)  # fmt: skip
def test_growth_tells_what_kind_of_attention_it_is(name, power, kind):
    model = light(name)
    counted = [cost(model, side) for side in (224, 448)]
    found = fit_exponent(counted, "attention_bytes")
    assert found == (None if power is None else pytest.approx(power, abs=0.02))
    assert kind in classify_attention(counted)
    assert fit_exponent(counted, "activation_bytes") == pytest.approx(1, abs=0.02)


def test_attention_in_windows_is_linear_in_the_pixels():
    model = light("swin_v2/tiny_w8")
    small, wide, large = (cost(model, size) for size in ((256, 256), (256, 512), (512, 512)))
    assert 2 * small.attention_bytes == wide.attention_bytes
    assert 4 * small.attention_bytes == large.attention_bytes


def test_one_size_grows_nowhere():
    model = light("vit/nano")
    same = [cost(model, size) for size in ((28, 56), (56, 28))]
    assert fit_exponent(same, "macs") is None
    assert "different numbers of pixels" in classify_attention(same)


def test_a_batch_multiplies_memory_only():
    model = light("vit/tiny", depth=1)
    one, many = cost(model), cost(model, batch=6)
    assert (many.macs, many.by_part, many.parameters) == (one.macs, one.by_part, one.parameters)
    assert (many.attention_bytes, many.activation_bytes) == (6 * one.attention_bytes, 6 * one.activation_bytes)


class NothingReal(TorchDispatchMode):
    """Errors: an assertion, for any tensor that takes memory."""

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        out = func(*args, **(kwargs or {}))
        for t in out if isinstance(out, list | tuple) else [out]:
            assert not isinstance(t, torch.Tensor) or t.device.type == "meta", (
                f"{func} made {tuple(t.shape)} on the {t.device}"
            )
        return out


LARGE = [(smallest(family), {}) for family in catalog.list_modules("models")] + [
    ("vit/tiny", {"patch": 1, "depth": 1, "position": position, "attention_radius": radius})
    for position, radius in [
        ("learned", 3),
        ("sincos1d", None),
        ("sincos2d", None),
        ("rope", None),
        ("relative", None),
        ("factorised", None),
    ]
]


@pytest.mark.parametrize(("name", "keys"), spread(LARGE, 5))
def test_a_large_image_takes_no_memory(name, keys):
    """No mask, table of places or window is made for real, neither with the model nor when it runs."""
    with NothingReal():
        counted = cost(light(name, **keys), (2048, 1024))
    assert counted.macs > 0


def test_attention_over_all_pixels():
    """One map of 256 x 256 pixels is 16 GiB; 48 of them are 768."""
    counted = cost(light("vit/base", depth=4, tokens=0, patch=1), 256)
    assert counted.attention_bytes == 48 * (256 * 256) ** 2 * 4 == 768 * 2**30
