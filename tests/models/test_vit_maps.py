"""Maps of a plain ViT at several depths: beside the last, and changing nothing about it."""

from dataclasses import replace

import pytest
import torch

from vitrail.errors import UsageError
from vitrail.models import deit, hybrid, vit

SMALL = vit.Config(width=16, depth=4, heads=2, patch=(4, 8), size=(16, 24), registers=2)
IMAGES = torch.randn(
    2, 3, 18, 24, generator=torch.Generator().manual_seed(0)
)  # rows of patches that do not divide, not square


def model(build=vit.build, config=SMALL, **keys):
    torch.manual_seed(0)
    made = build(replace(config, **keys))
    for p in made.parameters():
        p.data += 0.05 * torch.randn_like(p)
    return made.eval()


def test_maps_are_what_the_blocks_leave_and_the_last_is_normed():
    made = model(map_depths=(1, 3))
    assert (made.map_widths, made.strides) == ((16, 16, 16), (4, 4, 4))
    left = []
    for block in made.blocks:
        block.register_forward_hook(lambda module, args, out: left.append(out))
    maps = made(IMAGES).maps
    assert [tuple(m.shape) for m in maps] == [(2, 16, 5, 3)] * 3
    for fmap, tokens in zip(maps, (left[0], left[2], made.norm(left[3])), strict=True):
        assert torch.equal(fmap, tokens[:, 3:].mT.unflatten(2, (5, 3)))  # behind a class token and two registers


@pytest.mark.parametrize("keys", [{}, {"tokens": 0}, {"position": "rope"}, {"attention_radius": 1}])
def test_the_last_map_and_the_summaries_are_as_without(keys):
    plain, deep = model(**keys), model(map_depths=(2, 3), **keys)
    assert list(plain.state_dict()) == list(deep.state_dict())
    one, several = plain(IMAGES), deep(IMAGES)
    assert len(one.maps) == 1
    assert torch.equal(one.maps[0], several.maps[-1])
    assert all(torch.equal(a, b) for a, b in zip(one.summaries, several.summaries, strict=True))


def test_the_last_depth_may_be_named_and_is_there_once():
    assert model(map_depths=(1, 2, 3, 4)).strides == model(map_depths=(1, 2, 3)).strides == (4, 4, 4, 4)
    assert model(map_depths=(4,)).strides == model().strides == (4,)


def test_maps_keep_their_shape_where_patches_are_left_out():
    made = model(map_depths=(2,), patch_dropout=0.5).train()
    features = made(IMAGES)
    assert [tuple(m.shape) for m in features.maps] == [(2, 16, 5, 3)] * 2
    for fmap in features.maps:
        columns = fmap[0].flatten(1).T.unique(dim=0)
        assert len(columns) == 8 + 1  # 8 of 15 patches stay, the others have their mean
    made.zero_grad()
    features.maps[0].square().sum().backward()
    assert bool(made.blocks[1].mlp.fc2.weight.grad.any())
    assert made.blocks[2].mlp.fc2.weight.grad is None


def test_deit_and_hybrid_have_them_too():
    distilled = model(deit.build, tokens=2, map_depths=(2,))
    assert [tuple(m.shape) for m in distilled(IMAGES).maps] == [(2, 16, 5, 3)] * 2
    config = hybrid.Config(stages=(1,), stem_width=32, width=16, depth=3, heads=2, size=(16, 24), map_depths=(1, 2))
    mixed = model(hybrid.build, config)
    assert mixed.strides == (4, 4, 4)
    assert [tuple(m.shape) for m in mixed(IMAGES).maps] == [(2, 16, 5, 6)] * 3


@pytest.mark.parametrize(("depths", "said"), [
    ((2, 5), "map_depths is 2 5, and there are 4 blocks"), ((0, 2), "there are 4 blocks"),
    ((3, 2), "not ascending: 3 2\nuse 2 3"), ((2, 2), "not ascending"),
])  # fmt: skip
def test_depths_that_cannot_be(depths, said):
    with pytest.raises(UsageError, match=said):
        model(map_depths=depths)
