"""Windows in a plain ViT: ViTDet's numbers, tokens in every window, any size, and what analysis sees of it."""

import pytest
import torch

import vitrail
from vitrail.analysis import rollout
from vitrail.analysis.attention import attention
from vitrail.errors import UsageError
from vitrail.layers.windows import local_depths

TINY = {"width": 32, "depth": 4, "heads": 4, "patch": 8, "size": (96, 64)}


def windowed(tokens=1, registers=0, **keys):
    torch.manual_seed(0)
    model = vitrail.backbone("vit/tiny", **{**TINY, "tokens": tokens, "registers": registers, "window": 3, **keys})
    for p in model.parameters():
        p.data += 0.1 * torch.randn_like(p)
    return model.eval()


def relative_error(a, b):
    return float((a - b).norm() / b.norm())


@torch.no_grad()
@pytest.mark.parametrize("size", [(96, 96), (64, 104)])  # whole windows, and padded ones
def test_equals_vitdet_of_transformers(size):
    from transformers import VitDetConfig, VitDetModel

    theirs = VitDetModel(VitDetConfig(
        hidden_size=32, num_hidden_layers=4, num_attention_heads=4, image_size=96, pretrain_image_size=96, patch_size=8,
        window_block_indices=[0, 2], window_size=3, residual_block_indices=[],
    )).eval()  # fmt: skip
    for p in theirs.parameters():
        p.data += 0.2 * torch.randn_like(p)
    ours = windowed(tokens=0, size=(96, 96), global_blocks=(2, 4), map_depths=(1, 2, 3, 4))
    state = ours.state_dict()
    for name, t in theirs.state_dict().items():
        key = name.replace("encoder.layer", "blocks").replace("embeddings.projection", "patch_embed.proj")
        key = key.replace("attention", "attn")
        if key == "embeddings.position_embeddings":
            key, t = "position.table", t[0, 1:]  # the row of the class token is not used there
        assert state[key].shape == t.shape
        state[key] = t
    ours.load_state_dict(state)
    images = torch.randn(2, 3, *size)
    hidden = theirs(images, output_hidden_states=True).hidden_states[1:]
    for mine, wanted in zip(ours(images).maps[:-1], hidden[:-1], strict=True):
        assert relative_error(mine, wanted) < 1e-5


@torch.no_grad()
@pytest.mark.parametrize("tokens", [0, 1])
def test_a_window_as_large_as_the_grid_is_a_plain_vit(tokens):
    ours, plain = windowed(tokens, window=12), windowed(tokens, window=0)
    plain.load_state_dict(ours.state_dict())
    images = torch.randn(2, 3, 96, 64)
    assert torch.equal(ours(images).maps[-1], plain(images).maps[-1])


def test_a_cell_sees_its_window_and_the_tokens_alone():
    model, images = windowed(registers=2, depth=1, global_blocks=(), position="none"), torch.randn(1, 3, 96, 64)
    assert local_depths(3, (), 1) == []  # a single block is the last, which is global
    model.blocks[0].windows = windowed().blocks[0].windows
    images.requires_grad_()
    model(images).maps[-1][0, :, 0, 0].sum().backward()
    seen = images.grad[0].abs().sum(0) > 0
    assert seen[:24, :24].all()
    assert seen.sum() == 24 * 24


@torch.no_grad()
@pytest.mark.parametrize(("tokens", "registers"), [(0, 0), (1, 2)])
def test_attention_weights_are_of_windows_and_rows_sum_to_one(tokens, registers):
    model, images = windowed(tokens, registers), torch.randn(2, 3, 96, 72)
    local, whole = (attention(model, images)[i].weights for i in (0, 3))  # the last block is global
    lead = tokens + registers
    assert local.shape == whole.shape == (2, 4, 108 + lead, 108 + lead)
    torch.testing.assert_close(local.sum(-1), torch.ones(2, 4, 108 + lead))
    cells = local[0, 0, lead:, lead:].view(12, 9, 12, 9)
    assert cells[4, 4, 3:6, 3:6].min() > 0
    assert cells[4, 4].count_nonzero() == 9
    one = attention(model, images)[0]
    if lead:
        torch.testing.assert_close(one.attention_from(0), local[:, :, 0, lead:].unflatten(2, (12, 9)))
    torch.testing.assert_close(one.attention_to(), local[:, :, :, lead:].mean(2).unflatten(2, (12, 9)))
    shares = rollout.rollout(model, images)
    torch.testing.assert_close(shares.sum((1, 2)), torch.ones(2)) if not lead else None


def test_gradients_flow_at_any_size_and_drop_path_is_taken():
    model = windowed(2, 1, drop_path=0.2, dropout=0.1).train()
    for size in ((96, 64), (41, 130), (8, 8)):
        model.zero_grad()
        features = model(torch.randn(2, 3, *size))
        sum(s.square().sum() for s in features.summaries).backward()
        assert all(p.grad is not None and torch.isfinite(p.grad).all() for p in model.parameters())


@pytest.mark.parametrize("keys", [{"position": "rope"}, {"position": "relative"}, {"attention_radius": 2},
                                  {"patch_dropout": 0.5}, {"global_blocks": (5,)}])  # fmt: skip
def test_what_does_not_go_with_windows_is_refused(keys):
    with pytest.raises(UsageError):
        windowed(**keys)


def test_global_blocks_alone_and_their_default():
    with pytest.raises(UsageError, match="window"):
        windowed(window=0, global_blocks=(2,))
    assert local_depths(14, (), 12) == [1, 2, 4, 5, 7, 8, 10, 11]  # ViTDet's, and SAM's
    assert [local_depths(14, (), depth) for depth in (1, 2, 3, 6)] == [[], [1], [1, 2], [1, 2, 4, 5]]
