"""The text tower: the ViT's own block, causal where CLIP's is, and what its padding changes."""

import dataclasses

import pytest
import torch

from vitrail.errors import UsageError
from vitrail.layers.block import Block
from vitrail.models import _text
from vitrail.models._text import Config
from vitrail.models.vit import Config as ViTConfig
from vitrail.models.vit import ViT

TINY = Config(width=32, depth=2, heads=2, vocabulary=50, context=8, outputs=16)


def build(**changes):
    torch.manual_seed(0)
    return _text.build(dataclasses.replace(TINY, **changes)).eval()


def test_its_blocks_are_those_of_the_vit():
    image = ViT(ViTConfig(width=32, depth=1, heads=2, size=(32, 32)))
    assert {type(block) for block in [*build().blocks, *image.blocks]} == {Block}


def test_every_variant_has_a_width_that_its_heads_divide():
    for name, config in _text.VARIANTS.items():
        assert config.width % config.heads == 0, name


def test_a_causal_tower_sees_no_token_behind_the_end():
    tower, tokens = build(), torch.tensor([[1, 7, 9, 2, 0, 0, 0, 0]])
    other = tokens.clone()
    other[:, 4:] = 33
    assert torch.equal(tower(tokens), tower(other))
    torch.testing.assert_close(tower(tokens), tower(tokens[:, :4]))
    assert not torch.allclose(tower(tokens), tower(torch.tensor([[1, 9, 7, 2, 0, 0, 0, 0]])))


def test_a_mean_is_of_the_tokens_up_to_the_end():
    tower, tokens = build(summary="mean"), torch.tensor([[1, 7, 9, 2, 0, 0, 0, 0], [1, 2, 0, 0, 0, 0, 0, 0]])
    other = tokens.clone()
    other[0, 4:], other[1, 2:] = 33, 17
    assert torch.equal(tower(tokens), tower(other))
    x = torch.arange(16.0).reshape(2, 8, 1)
    assert tower.summarise(x, tokens).flatten().tolist() == [1.5, 8.5]


def test_other_towers_see_all_tokens():
    tower, tokens = build(causal=False, summary="last"), torch.tensor([[1, 7, 9, 2, 0, 0, 0, 0]])
    other = tokens.clone()
    other[:, 6] = 33
    assert not torch.allclose(tower(tokens), tower(other))


def test_its_attention_can_be_looked_at():
    tower = build()
    x = tower.tokens(torch.tensor([[1, 7, 9, 2]]))
    weights = tower.blocks[0].attn.weights(tower.blocks[0].norm1(x), _text.TokenLayout((1, 4), _text.STRIDE))
    assert torch.equal(weights.triu(1), torch.zeros_like(weights))
    torch.testing.assert_close(weights.sum(-1), torch.ones(1, 2, 4))


def test_it_needs_the_width_of_its_embedding():
    with pytest.raises(UsageError, match="width of its embedding"):
        build(outputs=0)
