"""Small parts against torch's and timm's own."""

import pytest
import torch
from torch import nn

from vitrail.errors import UsageError
from vitrail.layers.attention import Attention, AttentionInputs, SelfAttention, split_heads
from vitrail.layers.drop import DropPath, drop_rates
from vitrail.layers.mlp import Mlp, SwiGLU
from vitrail.layers.norm import LayerScale, norm
from vitrail.layers.patch import ConvStem
from vitrail.layers.token_layout import cross_attention_layout, side_of
from vitrail.types import TokenLayout, unplaced_tokens

GRID = TokenLayout((3, 4), (16, 16))


def test_self_attention_equals_torchs():
    ours, theirs = SelfAttention(32, 4), nn.MultiheadAttention(32, 4, batch_first=True)
    ours.qkv.weight.data, ours.qkv.bias.data = theirs.in_proj_weight.data, theirs.in_proj_bias.data
    ours.proj.load_state_dict(theirs.out_proj.state_dict())
    x = torch.randn(2, 12, 32)
    out, weights = theirs(x, x, x, average_attn_weights=False)
    torch.testing.assert_close(ours(x, GRID), out, rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(ours.weights(x, GRID), weights, rtol=1e-5, atol=1e-6)


def test_another_attention_needs_only_to_project_and_to_say_where_its_tokens_are():
    class Cross(Attention):
        def __init__(self):
            super().__init__(16, 2)
            self.q, self.kv = nn.Linear(16, 16), nn.Linear(16, 32)

        def project(self, x, context):
            return AttentionInputs(*(split_heads(t, 2) for t in (self.q(x), *self.kv(context).chunk(2, -1))))

        def locate(self, x, context):
            return cross_attention_layout(*(side_of(unplaced_tokens(t.shape[1])) for t in (x, context)))

    cross = Cross()
    x, context = torch.randn(2, 5, 16), torch.randn(2, 9, 16)
    assert cross(x, context).shape == (2, 5, 16)
    assert cross.weights(x, context).shape == (2, 2, 5, 9)
    with pytest.raises(TypeError):
        Attention(16, 2)


def test_attention_dropout_acts_in_training_only():
    attention = SelfAttention(32, 4, attention_dropout=0.5)
    x = torch.randn(2, 12, 32)
    assert not torch.equal(attention.train()(x, GRID), attention(x, GRID))
    assert torch.equal(attention.eval()(x, GRID), attention(x, GRID))


def test_heads_must_divide():
    with pytest.raises(UsageError, match="heads that fit"):
        SelfAttention(32, 5)


def test_mlp_and_swiglu_equal_timms():
    timm = pytest.importorskip("timm")
    x = torch.randn(2, 5, 32)
    theirs = timm.layers.Mlp(32, 64)
    ours = Mlp(32, 64)
    ours.load_state_dict(theirs.state_dict())
    torch.testing.assert_close(ours(x), theirs(x))
    gated = timm.layers.GluMlp(32, 128, act_layer=nn.SiLU, gate_last=False)
    mine = SwiGLU(32, 64)
    mine.w12.load_state_dict(gated.fc1.state_dict())
    mine.w3.load_state_dict(gated.fc2.state_dict())
    torch.testing.assert_close(mine(x), gated(x))


def test_tanh_gelu_is_the_approximation():
    x = torch.linspace(-4, 4, 101)[None]
    erf, tanh = Mlp(101, 8, "erf").act(x), Mlp(101, 8, "tanh").act(x)
    torch.testing.assert_close(tanh, nn.functional.gelu(x, approximate="tanh"))
    assert 1e-4 < float((erf - tanh).abs().max()) < 1e-3


def test_norms_and_layer_scale():
    x = torch.randn(2, 5, 16)
    rms = norm("rms", 16, 1e-6)
    torch.testing.assert_close(rms(x), x / (x.square().mean(-1, keepdim=True) + 1e-6).sqrt())
    assert isinstance(norm("layer", 16, 1e-5), nn.LayerNorm)
    assert norm("layer", 16, 1e-5).eps == 1e-5
    torch.testing.assert_close(LayerScale(16, 0.1)(x), 0.1 * x)


def test_drop_path_drops_whole_samples_and_keeps_the_mean():
    x = torch.ones(4000, 2, 3)
    y = DropPath(0.25)(x)
    kept = y[:, 0, 0] != 0
    assert abs(float(kept.float().mean()) - 0.75) < 0.03
    assert set(y.unique().tolist()) == {0.0, float(torch.tensor(1 / 0.75))}
    assert torch.equal(y, y[:, :1, :1].expand_as(y))
    assert torch.equal(DropPath(0.25).eval()(x), x)
    assert drop_rates(0.3, 4, "constant") == [0.3] * 4
    assert drop_rates(0.3, 4, "linear") == pytest.approx([0, 0.1, 0.2, 0.3])


def test_conv_stem_reaches_the_grid_and_knows_no_batch():
    stem = ConvStem(3, 24, 8)
    x = torch.randn(3, 3, 28, 44)
    assert stem(x).shape == (3, 4, 6, 24)
    torch.testing.assert_close(stem(x)[:1], stem(x[:1]), rtol=1e-4, atol=1e-5)
