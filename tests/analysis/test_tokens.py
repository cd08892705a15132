"""Likeness of tokens, colours, and CKA: against definitions written out."""

import pytest
import torch
import torch.nn.functional as F
from test_models import SMALL, images, shaken
from torch import nn

from vitrail.analysis.tokens import compute_cka, compute_colors, compute_similarity, hsic
from vitrail.contracts import Backbone
from vitrail.errors import UsageError
from vitrail.heads.linear import Classifier

FAMILIES = sorted(set(SMALL) - {"dit", "jit"})


def test_likeness_is_the_mean_cosine_of_different_patches():
    model, x = shaken("deit"), images("deit")
    seen = []
    hooks = [block.register_forward_hook(lambda m, args, out: seen.append(out)) for block in model.blocks]
    found = compute_similarity(model, x)
    for hook in hooks:
        hook.remove()
    assert found.names == ["blocks.0", "blocks.1"]
    for value, out in zip(found.cosine, seen, strict=True):
        unit = F.normalize(out[:, 2:], dim=-1)
        cosines = unit @ unit.mT
        apart = ~torch.eye(64, dtype=torch.bool)
        torch.testing.assert_close(value, cosines[:, apart].mean(), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("family", FAMILIES)
def test_every_family_has_tokens_after_every_block(family):
    model, x = Classifier(shaken(family), 3), images(family)
    found = compute_similarity(model, x)
    branches = 2 if family == "crossvit" else 1
    assert len(found.names) == branches * len(model.backbone.blocks)
    assert ((found.cosine >= -1) & (found.cosine <= 1 + 1e-5)).all()
    pictures = compute_colors(model, x)
    assert [c.name for c in pictures] == found.names
    last = model.backbone.eval()(x).maps
    assert pictures[-1].images.shape == (2, *last[-1].shape[2:], 3)
    for one in pictures:
        assert (one.images.min(), one.images.max()) == (0, 1)
        assert 0 < one.shares.sum() <= 1 + 1e-5


class Turned(Backbone):
    """Two blocks: what is given, and the same through a fixed matrix."""

    summary_widths, map_widths, strides = (4,), (4,), (1,)

    def __init__(self, matrix, scale=1.0):
        super().__init__()
        self.blocks = nn.ModuleList([nn.Linear(4, 4, bias=False), nn.Linear(4, 4, bias=False)])
        self.blocks[0].weight.data = scale * torch.eye(4)
        self.blocks[1].weight.data = matrix

    def forward(self, x):
        x = x.flatten(2).mT  # [B N C]
        for block in self.blocks:
            x = block(x)
        return x


def test_cka_is_one_for_a_layer_with_itself_and_for_one_that_is_turned():
    turn = torch.linalg.qr(torch.randn(4, 4))[0]
    batches = [torch.randn(6, 4, 3, 3), torch.randn(4, 4, 3, 3)]
    torch.testing.assert_close(compute_cka(Turned(turn), batches).values, torch.ones(2, 2))
    torch.testing.assert_close(compute_cka(Turned(turn), batches, Turned(-turn, scale=7.0)).values, torch.ones(2, 2))
    bent = compute_cka(Turned(torch.diag(torch.tensor([9.0, 1, 0.1, 0]))), batches).values
    assert bent[0, 1] < 0.99
    torch.testing.assert_close(bent.diagonal(), torch.ones(2))
    model = shaken("vit")
    torch.testing.assert_close(compute_cka(model, [images("vit", batch=5)]).values.diagonal(), torch.ones(2))


def test_layers_of_images_that_have_nothing_in_common_are_not_alike():
    """Unbiased: the mean over many pairs of independent features is nothing, where the plain estimate is far above."""
    values, plain = [], []
    for seed in range(60):
        torch.manual_seed(seed)
        k, l = ((x @ x.T).double() for x in torch.randn(2, 8, 20))  # noqa: E741
        bare = [(m - torch.diag(m.diagonal()))[None] for m in (k, l)]
        values.append(hsic(*bare) / (hsic(bare[0], bare[0]) * hsic(bare[1], bare[1])).sqrt())
        centre = torch.eye(8).double() - 1 / 8
        a, b = centre @ k @ centre, centre @ l @ centre
        plain.append((a * b).sum() / (a.square().sum() * b.square().sum()).sqrt())
    assert abs(float(torch.stack(values).mean())) < 0.1
    assert float(torch.stack(plain).mean()) > 0.2


def test_hsic_is_the_sum_over_quadruples():
    """The definition: expectations over two, three and four different images, as means over all of them."""
    n = 5
    k, l = (x @ x.T for x in torch.randn(2, n, 3).double())  # noqa: E741
    all_ = range(n)
    two = [k[i, j] * l[i, j] for i in all_ for j in all_ if i != j]
    four = [k[i, j] * l[q, r] for i in all_ for j in all_ for q in all_ for r in all_ if len({i, j, q, r}) == 4]
    three = [k[i, j] * l[i, q] for i in all_ for j in all_ for q in all_ if len({i, j, q}) == 3]
    wanted = torch.stack(two).mean() + torch.stack(four).mean() - 2 * torch.stack(three).mean()
    bare = [m - torch.diag(m.diagonal()) for m in (k, l)]
    torch.testing.assert_close(hsic(bare[0][None], bare[1][None])[0, 0], wanted)


def test_small_batches_make_what_they_can():
    model = shaken("vit")
    with pytest.raises(UsageError, match="batch of 3"):
        compute_cka(model, [images("vit", batch=3)])
    with pytest.raises(UsageError, match="no batches"):
        compute_cka(model, [])
    found = compute_cka(model, [images("vit", batch=4)] * 2, shaken("resnet"))
    assert found.values.shape == (2, 4)
    assert (found.row_names[0], found.column_names[0]) == ("blocks.0", "layer1.0")
    with pytest.raises(UsageError, match="no `blocks`"):
        compute_similarity(nn.Conv2d(3, 3, 1), images("vit"))
