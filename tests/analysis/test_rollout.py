"""Rollout and relevance against whole matrices, gradient CAM against a linear case worked out by hand."""

import pytest
import torch
from test_models import NO_SOFTMAX, SMALL, images, shaken
from torch import nn

from vitrail.analysis.attention import attention
from vitrail.analysis.cam import gradient_cam, resize_to_image
from vitrail.analysis.rollout import (
    discard_smallest,
    positive_relevance,
    relevance,
    rollout,
    split_pool,
    summary_row,
    trace_shares,
)
from vitrail.contracts import Backbone
from vitrail.errors import UsageError
from vitrail.heads.detect import Detector, DetectorConfig
from vitrail.heads.linear import Classifier
from vitrail.layers.attention import merge_heads

SOFTMAX = sorted(set(SMALL) - NO_SOFTMAX - {"dit", "jit"})
ONE_BRANCH = {"crossvit": ["blocks.0.blocks.1", "blocks.1.blocks.1"]}


def eye(looks):
    tokens = looks[-1].queries.tokens
    return torch.eye(tokens).expand(len(looks[0].parts), -1, -1)


@pytest.mark.parametrize("family", SOFTMAX)
def test_rows_of_rollout_sum_to_one(family):
    looks, _ = split_pool(attention(shaken(family), images(family, (100, 72)), ONE_BRANCH.get(family), "mean"))
    for discard in (0.0, 0.6):
        found = trace_shares(looks, [discard_smallest(one, discard) for one in looks], eye(looks), 0.5, 0.5)
        total = found.tokens.sum(2) + found.cells.sum((2, 3))
        torch.testing.assert_close(total, torch.ones_like(total), rtol=1e-4, atol=1e-4)
        assert found.cells.min() >= 0
        assert found.cells.shape[2:] == looks[0].queries.maps[0].grid


def test_rollout_is_the_product_of_the_matrices():
    model, x = shaken("deit"), images("deit")
    for kind, discard in (("mean", 0.0), ("max", 0.3), ("min", 0.0)):
        whole = torch.eye(66)
        for one in attention(model, x, heads=kind):
            a = one.weights[:, 0]
            if discard:
                least = a.topk(int(discard * 66), dim=-1, largest=False).indices
                a = a.scatter(-1, least, 0.0)
            whole = (0.5 * a / a.sum(-1, keepdim=True) + 0.5 * torch.eye(66)) @ whole
        wanted = whole[:, :2, 2:].mean(1).unflatten(1, (8, 8))  # both tokens are read
        torch.testing.assert_close(rollout(model, x, heads=kind, discard=discard), wanted, rtol=1e-4, atol=1e-6)


def test_rollout_of_windows_is_the_product_of_the_matrices():
    model, x = shaken("swin"), images("swin")
    looks = attention(model, x, "layers.0", "mean")
    whole = torch.eye(256)
    for one in looks:
        whole = (0.3 * torch.eye(256) + 0.7 * one.weights[:, 0]) @ whole
    found = trace_shares(looks, [discard_smallest(one, 0.0) for one in looks], eye(looks), 0.3, 0.7)
    torch.testing.assert_close(found.cells.flatten(2), whole, rtol=1e-4, atol=1e-6)
    torch.testing.assert_close(
        rollout(model, x, "layers.0", residual=0.3).flatten(1), whole.mean(1), rtol=1e-4, atol=1e-7
    )


def test_what_is_read_is_the_summary():
    x = images("vit")
    for keys, wanted in (
        ({"tokens": 1, "registers": 2}, [0]),
        ({"tokens": 0, "registers": 2}, range(2, 66)),
        ({"tokens": 2}, [0, 1]),
    ):
        model = shaken("vit", **keys)
        shares = summary_row(attention(model, x, -1, "mean")[0])
        assert shares[0, 0].nonzero().flatten().tolist() == list(wanted)
        torch.testing.assert_close(shares.sum(-1), torch.ones(2, 1))


def test_layers_that_are_no_stack_are_refused():
    model, x = shaken("crossvit"), images("crossvit")
    for layers, said in (
        ("blocks.0.fusion", "attends from one set of tokens"),
        (None, "parallel to"),
        ([1, 4], "parallel to"),
    ):
        with pytest.raises(UsageError, match=said):
            rollout(model, x, layers)
    with pytest.raises(UsageError, match="share of the weights"):
        rollout(shaken("vit"), images("vit"), discard=1.0)


def test_gradients_of_weights_are_those_of_the_class():
    """Against finite differences: one weight of one head moved, all else as it is."""
    model = Classifier(shaken("vit"), 5).double().eval()
    for p in model.heads.parameters():
        p.data.normal_()
    x = images("vit").double()
    attn, step = model.backbone.blocks[0].attn, 1e-6
    pushed, name = torch.zeros(2, 4, 65, 65, dtype=torch.float64), "backbone.blocks.0.attn"

    def score():
        def hook(module, args, out):
            return module.proj(merge_heads((module.weights(*args) + pushed) @ module.project(*args).values))

        handle = attn.register_forward_hook(hook)
        with torch.no_grad():
            said = model(x)[0, 2]
        handle.remove()
        return float(said)

    (found,) = [one for one in positive_relevance(model, x, 2, None) if one.name == name]
    weights = attention(model, x, name)[0].weights
    for q, k in ((0, 3), (17, 0), (30, 31)):
        total = 0.0
        for h in range(4):
            pushed[0, h, q, k] = step
            up = score()
            pushed[0, h, q, k] = -step
            slope = (up - score()) / (2 * step)
            pushed[0, h, q, k] = 0
            total += max(0.0, slope * float(weights[0, h, q, k])) / 4
        assert float(found.weights[0, 0, q, k]) == pytest.approx(total, rel=1e-3, abs=1e-9)


def test_relevance_adds_up_as_in_the_paper():
    model, x = Classifier(shaken("vit"), 5), images("vit")
    wanted = torch.eye(65).expand(2, -1, -1)
    for one in positive_relevance(model, x, torch.tensor([1, 4]), None):
        wanted = wanted + one.weights[:, 0] @ wanted
    found = relevance(model, x, torch.tensor([1, 4]))
    torch.testing.assert_close(found.flatten(1), wanted[:, 0, 1:], rtol=1e-4, atol=1e-8)
    assert found.max() > 0
    likeliest = model.eval()(x).argmax(1)
    assert torch.equal(relevance(model, x), relevance(model, x, likeliest))
    assert not torch.allclose(relevance(model, x, 0), relevance(model, x, 1))


@pytest.mark.parametrize("family", SOFTMAX)
def test_relevance_of_every_family_is_a_map_and_frozen_models_have_one(family):
    model = Classifier(shaken(family), 5).requires_grad_(False)
    for head in model.heads:
        head.weight.normal_()
    found = relevance(model, images(family), 1, ONE_BRANCH.get(family))
    assert found.shape[0] == 2
    assert torch.isfinite(found).all()
    assert found.max() > 0
    assert found.min() > -1e-6
    assert not [m for m in model.modules() if m._forward_hooks or m._forward_pre_hooks]


class Twice(nn.Module):
    """A block that doubles a map."""

    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(3, 3, 1, bias=False)
        self.conv.weight.data = 2 * torch.eye(3)[:, :, None, None]

    def forward(self, x):
        return self.conv(x)


class Linear(Backbone):
    """Mean of the last map, then a linear layer."""

    summary_widths, map_widths, strides = (3,), (3,), (1,)

    def __init__(self):
        super().__init__()
        self.blocks = nn.ModuleList([Twice(), Twice()])
        self.head = nn.Linear(3, 2)

    def forward(self, x):
        for block in self.blocks:
            x = block(x)
        return self.head(x.mean((2, 3)))


def test_gradient_cam_of_a_linear_model_is_its_weights():
    model, x = Linear(), torch.randn(2, 3, 4, 6)
    last = 4 * x
    wanted = torch.einsum("bchw,c->bhw", last, model.head.weight[1] / 24).clamp(min=0)
    torch.testing.assert_close(gradient_cam(model, x, 1), wanted)
    assert wanted.any()
    each = torch.stack([gradient_cam(model, x, k)[i] for i, k in enumerate((0, 1))])
    torch.testing.assert_close(gradient_cam(model, x, torch.tensor([0, 1])), each)


@pytest.mark.parametrize("family", sorted(set(SMALL) - {"dit", "jit"}))
def test_gradient_cam_of_every_family_depends_on_the_cells(family):
    model = Classifier(shaken(family), 5).eval()
    for head in model.heads:
        nn.init.normal_(head.weight)
    x = images(family)
    found = next((heat for k in range(5) if (heat := gradient_cam(model, x, k)).any()), None)
    assert found is not None, "some class has cells that speak for it"
    assert found.shape[0] == 2
    assert found.min() >= 0
    assert all(p.grad is None for p in model.parameters())


def test_gradient_cam_of_a_class_token_is_taken_where_cells_still_count():
    """After the last block nothing looks at the patches, so the map is that of the block before."""
    model, x = Classifier(shaken("vit"), 5), images("vit")
    seen = []
    model.backbone.blocks[0].register_forward_hook(lambda m, args, out: seen.append(out))
    found = gradient_cam(model, x, 2)
    score = model(x)[:, 2].sum()
    (gradient,) = torch.autograd.grad(score, seen[-1])
    wanted = torch.einsum("bnd,bd->bn", seen[-1][:, 1:], gradient[:, 1:].mean(1)).clamp(min=0)
    torch.testing.assert_close(found.flatten(1), wanted.detach(), rtol=1e-4, atol=1e-8)


def test_detectors_and_one_block_have_a_map_too():
    torch.manual_seed(0)
    design = DetectorConfig(
        queries=5, kind="slots", width=32, heads=4, encoder=1, decoder=1, hidden=32, dropout=0.0, stride=16
    )
    found = gradient_cam(Detector(shaken("resnet"), 3, design), images("resnet"), 2)
    assert found.shape == (2, 2, 2)
    model, x = Classifier(shaken("vit", depth=1), 5), images("vit")
    assert gradient_cam(model, x, 1).shape == (2, 8, 8), "of what comes into the only block"
    with pytest.raises(UsageError, match="classes are 0 to 2"):
        gradient_cam(Detector(shaken("resnet"), 3, design), images("resnet"), 3)


def test_what_says_nothing_of_classes_is_refused():
    for wrong in (shaken("vit"), shaken("resnet")):
        with pytest.raises(UsageError, match="has no class scores"):
            gradient_cam(wrong, images("vit"))
    with pytest.raises(UsageError, match="classes are 0 to 4"):
        relevance(Classifier(shaken("vit"), 5), images("vit"), 5)


def test_maps_at_the_resolution_of_the_image():
    heat = torch.tensor([[0.0, 1.0], [0.0, 1.0]])
    large = resize_to_image(heat[None], (4, 8))
    assert large.shape == (1, 4, 8)
    torch.testing.assert_close(large[0, 0], torch.tensor([0, 0, 0.125, 0.375, 0.625, 0.875, 1, 1]))
    cut = resize_to_image(heat, (4, 6), extent=(4, 8))
    torch.testing.assert_close(cut, large[0, :, :6])
