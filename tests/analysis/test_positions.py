"""Encodings are told as they are: against closed forms."""

import pytest
import torch
from test_models import images, shaken, small

from vitrail.analysis.positions import compute_filters, find_encodings
from vitrail.errors import UsageError
from vitrail.heads.linear import Classifier
from vitrail.models import jit


def by_axis(waves, n):
    """The mean cosine of waves at all differences of places along an axis: [n n]."""
    apart = torch.arange(n)[:, None] - torch.arange(n)
    return (apart[..., None].double() * waves).cos().mean(-1)


def two_axes(waves, h, w):
    down, across = by_axis(waves, h), by_axis(waves, w)
    return ((down[:, None, :, None] + across[None, :, None, :]) / 2).float()


def test_sincos_has_the_closed_form():
    """Every row has the same length, so the cosine of two is the mean over waves of cos(omega difference), half of it
    from each axis."""
    (found,) = find_encodings(Classifier(small("vit", position="sincos2d", size=(40, 64)), 3))
    assert (found.name, found.kind) == ("position", "table")
    waves = 10000.0 ** (-torch.arange(8, dtype=torch.float64) / 8)
    torch.testing.assert_close(found.values, two_axes(waves, 5, 8), rtol=1e-4, atol=1e-5)
    (wide,) = find_encodings(small("vit", position="sincos2d"), grid=(3, 11))
    torch.testing.assert_close(wide.values, two_axes(waves, 3, 11), rtol=1e-4, atol=1e-5)


def test_one_dimensional_sincos_runs_through_the_rows():
    (found,) = find_encodings(small("vit", position="sincos1d", size=(16, 24)))
    waves = 10000.0 ** (-torch.arange(16, dtype=torch.float64) / 16)
    torch.testing.assert_close(found.values.view(6, 6), by_axis(waves, 6).float(), rtol=1e-4, atol=1e-5)


def test_learned_and_factorised_tables_are_compared_without_the_rows_of_tokens():
    model = small("deit")
    (found,) = find_encodings(model)
    cells = model.position.table[2:]
    assert found.values.shape == (8, 8, 8, 8)
    torch.testing.assert_close(
        found.values[3, 5, 0, 7], torch.cosine_similarity(cells[29], cells[7], dim=0), rtol=1e-4, atol=1e-5
    )
    torch.testing.assert_close(found.values.view(64, 64).diagonal(), torch.ones(64))
    factorised = small("vit", position="factorised", size=(24, 40))
    (made,) = find_encodings(factorised)
    a, b = (
        factorised.position.rows[1] + factorised.position.columns[4],
        factorised.position.rows[2] + factorised.position.columns[0],
    )
    torch.testing.assert_close(made.values[1, 4, 2, 0], torch.cosine_similarity(a, b, dim=0), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("pairs", ["rope", "rope_half"])
def test_rotation_has_the_closed_form_and_is_what_turning_does(pairs):
    model = small("vit", position=pairs, size=(24, 40))
    (found,) = find_encodings(model)  # of all layers one, as they turn alike
    waves = 100.0 ** (-torch.arange(2, dtype=torch.float64) / 2)
    torch.testing.assert_close(found.values, two_axes(waves, 3, 5), rtol=1e-4, atol=1e-5)
    assert found.kind == "rotary"
    alike = torch.ones(15, 8)
    turned = model.blocks[0].attn.rotary(alike, (3, 5))
    torch.testing.assert_close(turned @ turned.T / 8, found.values.view(15, 15), rtol=1e-4, atol=1e-5)


def test_a_denoiser_that_turns_by_itself_has_both():
    config = jit.Config(width=32, depth=2, heads=2, patch=4, size=(12, 20), context=3, context_start=1, bottleneck=8)
    table, turned = find_encodings(jit.build(config))
    assert (table.kind, turned.kind) == ("table", "rotary")
    waves = 10000.0 ** (-torch.arange(4, dtype=torch.float64) / 4)
    torch.testing.assert_close(turned.values, two_axes(waves, 3, 5), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("family", ["swin", "swin_v2"])
def test_relative_biases_of_windows_are_maps_of_displacements(family):
    model = shaken(family)
    found = find_encodings(model)
    assert [e.name for e in found] == [f"layers.{s}.blocks.{b}.attn" for s in range(4) for b in range(2)]
    bias, block = model.layers[1].blocks[0].attn.relative(), found[2].values
    assert block.shape == (2, 7, 7)
    for query, key in ((0, 15), (6, 6), (13, 2)):  # cells of a window of 4 x 4
        down, across = key // 4 - query // 4, key % 4 - query % 4
        torch.testing.assert_close(block[:, 3 + down, 3 + across], bias[:, query, key])


def test_relative_bias_of_a_vit_leaves_out_its_tokens():
    model = shaken("vit", position="relative", size=(24, 40))
    found = find_encodings(model)
    bias = model.blocks[1].attn.relative()[:, 1:, 1:]
    assert len(found) == 2
    assert found[1].values.shape == (4, 5, 9)
    torch.testing.assert_close(found[1].values[:, 2 + 1, 4 - 3], bias[:, 0 * 5 + 4, 1 * 5 + 1])


def test_biases_of_msra_are_the_same_on_all_sides():
    model = shaken("efficientvit_msra")
    found = find_encodings(model)
    assert len(found) == 3
    cascade, drawn = model.stages[0].blocks[0].mixer.m.attn, found[0].values
    assert drawn.shape == (2, 13, 13)
    torch.testing.assert_close(drawn, drawn.flip(1).flip(2))
    bias = cascade.attention_biases[:, cascade.index]
    torch.testing.assert_close(drawn[:, 6 + 2, 6 - 5], bias[:, 1 * 7 + 6, 3 * 7 + 1])


@pytest.mark.parametrize("family", ["resnet", "efficientvit", "pvt_v2", "mobilevit"])
def test_models_without_an_encoding_say_so(family):
    with pytest.raises(UsageError, match="no position encoding"):
        find_encodings(small(family))


def test_several_tables_are_all_told():
    assert [e.values.shape[:2] for e in find_encodings(small("pvt"))] == [(16, 16), (8, 8), (4, 4), (2, 2)]
    assert [e.name for e in find_encodings(small("crossvit"))] == ["position.0", "position.1"]


def test_filters_are_principal_components():
    model = Classifier(small("vit"), 3)
    weight = model.backbone.patch_embed.proj.weight
    directions = torch.linalg.qr(torch.randn(192, 2))[
        0
    ].T  # what the filters are made of: one direction more than the other
    strengths = torch.randn(32, 2) * torch.tensor([3.0, 1.0])
    weight.data = (torch.randn(192) + strengths @ directions).view_as(weight)
    found = compute_filters(model, count=5)
    assert found.images.shape == (5, 3, 8, 8)
    spread = strengths - strengths.mean(0)
    wanted = torch.linalg.eigvalsh(spread.T @ spread).flip(0)
    torch.testing.assert_close(found.shares[:2], wanted / wanted.sum(), rtol=1e-3, atol=1e-4)
    assert found.shares[2:].max() < 1e-6
    plane = found.images[:2].flatten(1)
    torch.testing.assert_close(plane @ plane.T, torch.eye(2), rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(plane @ directions.T @ directions, plane, rtol=1e-3, atol=1e-4)


def test_filters_of_any_model_are_those_that_meet_the_image_first():
    assert compute_filters(small("resnet")).images.shape == (8, 3, 7, 7)
    assert compute_filters(small("hybrid"), 4).images.shape == (4, 3, 7, 7)
    with pytest.raises(UsageError, match="0 components"):
        compute_filters(small("vit"), 0)
    with pytest.raises(UsageError, match="no convolution"):
        compute_filters(torch.nn.Linear(2, 2))
    assert images("vit").shape[1] == compute_filters(small("vit")).images.shape[1]
