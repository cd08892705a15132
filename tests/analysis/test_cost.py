"""Costs are counted, not estimated: against the closed form of the paper."""

import pytest
import torch

import vitrail


def closed_form(n, d, depth, patch, channels=3, ratio=4, classes=10, tokens=1):
    """Multiply-adds of a ViT (families of formulas agree): L[(4+2r) N d^2 + 2 N^2 d] + patches and head."""
    return depth * ((4 + 2 * ratio) * n * d * d + 2 * n * n * d) + (n - tokens) * channels * patch**2 * d + d * classes


@pytest.mark.parametrize("size", [(32, 32), (64, 48)])
def test_multiply_adds_equal_the_closed_form(size):
    model = vitrail.create("vit/tiny", classes=10, width=64, depth=3, heads=4, patch=8, size=(32, 32))
    n = (size[0] // 8) * (size[1] // 8) + 1
    counted = vitrail.cost(model, size=size)
    assert counted.macs == closed_form(n, 64, 3, 8)
    assert counted.attention_bytes == 3 * 4 * n * n * 4
    assert counted.parameters == counted.trainable == sum(p.numel() for p in model.parameters())
    assert counted.parameter_bytes == 4 * counted.parameters
    assert counted.activation_bytes > 0


def test_counting_leaves_the_model_alone_and_sees_what_is_frozen():
    model = vitrail.create("vit/nano", classes=10, channels=1).train()
    before = {k: v.clone() for k, v in model.state_dict().items()}
    model.backbone.blocks[0].requires_grad_(False)
    counted = vitrail.cost(model)
    assert counted.trainable < counted.parameters
    assert model.training
    assert all(torch.equal(v, before[k]) for k, v in model.state_dict().items())
    assert sum(counted.by_part.values()) > 0


def test_a_backbone_alone_can_be_counted():
    assert vitrail.cost(vitrail.backbone("vit/nano"), size=28).macs > 0
