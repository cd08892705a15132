"""A ViT that leaves work out in training: whole branches (drop_path_skip), patches (patch_dropout). Evaluation knows of
neither."""

from dataclasses import replace

import pytest
import torch

from vitrail.errors import UsageError
from vitrail.models import vit

SMALL = vit.Config(width=16, depth=3, heads=2, patch=4, size=(16, 20), channels=1, registers=2)
IMAGES = torch.randn(6, 1, 16, 20, generator=torch.Generator().manual_seed(0))


def model(**keys):
    torch.manual_seed(0)
    made = vit.build(replace(SMALL, **keys))
    with torch.no_grad():
        for p in made.parameters():
            p.add_(0.05 * torch.randn_like(p))
    return made


@pytest.mark.parametrize("keys", [{"drop_path": 0.4, "drop_path_skip": True}, {"patch_dropout": 0.5}])
def test_weights_and_answers_are_those_of_a_model_without(keys):
    plain, other = model().eval(), model(**keys).eval()
    assert list(plain.state_dict()) == list(other.state_dict())
    for a, b in zip(plain(IMAGES), other(IMAGES), strict=True):
        assert all(torch.equal(x, y) for x, y in zip(a, b, strict=True))


@pytest.mark.parametrize("position", ["learned", "relative", "rope", "none"])
@pytest.mark.parametrize(
    "keys", [{}, {"attention_radius": 1}, {"norm_at": "post"}, {"layer_scale": 0.1, "mlp": "swiglu"}]
)
def test_branches_that_are_skipped_go_with_everything(keys, position):
    made = model(drop_path=0.5, drop_path_skip=True, drop_path_schedule="constant", position=position, **keys).train()
    features = made(IMAGES)
    features.summaries[0].square().sum().backward()
    assert torch.isfinite(features.maps[0]).all()
    assert all(p.grad is not None for name, p in made.named_parameters() if p.numel() and "blocks" in name)


def test_skipping_has_the_mean_of_plain_stochastic_depth():
    """One block, whose output is linear in what its two branches are multiplied with but for the second seeing the
    first: so only the first is dropped here, by taking the second's weights away."""
    means = []
    for skip in (False, True):
        made = model(depth=1, drop_path=0.5, drop_path_skip=skip, drop_path_schedule="constant", norm_at="none").train()
        torch.nn.init.zeros_(made.blocks[0].mlp.fc2.weight)
        torch.nn.init.zeros_(made.blocks[0].mlp.fc2.bias)
        with torch.no_grad():
            means.append(torch.stack([made(IMAGES).maps[0] for _ in range(1500)]).mean(0))
            made.eval()
            whole = made(IMAGES).maps[0]
    assert (means[1] - whole).abs().max() < 0.1
    assert (means[0] - whole).abs().max() < 0.1


def test_only_the_samples_that_keep_a_branch_are_computed():
    made = model(drop_path=0.5, drop_path_skip=True, drop_path_schedule="constant").train()
    seen = []
    for block in made.blocks:
        block.attn.register_forward_hook(lambda module, given, out: seen.append(len(out)))
        block.mlp.register_forward_hook(lambda module, given, out: seen.append(len(out)))
    made(IMAGES)
    assert seen == [3] * 6


def tokens_seen(made):
    seen = []
    made.blocks[0].register_forward_hook(lambda module, given, out: seen.append(out.shape[1]))
    return seen


@pytest.mark.parametrize(("rate", "patches"), [(0.5, 10), (0.25, 15), (0.9, 2), (0.99, 1)])
@pytest.mark.parametrize("tokens", [0, 1, 2])
def test_patches_are_left_out_and_class_tokens_and_registers_are_not(tokens, rate, patches):
    made = model(patch_dropout=rate, tokens=tokens).train()
    seen = tokens_seen(made)
    features = made(IMAGES)
    assert seen == [patches + tokens + 2]
    assert features.maps[0].shape == (6, 16, 4, 5)
    assert len(features.summaries) == max(1, tokens)
    sum(s.square().sum() for s in features.summaries).backward()
    assert all(torch.isfinite(p.grad).all() for p in made.parameters() if p.grad is not None)
    made.eval()
    made(IMAGES)
    assert seen[1] == 20 + tokens + 2


def test_every_image_draws_its_own_and_what_is_left_out_gets_the_mean_of_the_rest():
    made = model(patch_dropout=0.5, tokens=0, registers=0).train()
    features = made(IMAGES)
    patterns = set()
    for summary, image in zip(features.summaries[0], features.maps[0].flatten(2).mT, strict=True):  # [20 D] each
        filled = (image - summary).abs().amax(1) < 1e-6
        assert filled.sum() == 10
        torch.testing.assert_close(image.mean(0), summary)
        patterns.add(tuple(filled.tolist()))
    assert len(patterns) == 6


@pytest.mark.parametrize(
    "position", ["learned", "sincos1d", "sincos2d", "sincos2d_bv", "sincos2d_sum", "factorised", "none"]
)
def test_a_patch_keeps_its_place(position):
    """Without blocks, the patches that stay are those of the whole image, position included."""
    made = model(patch_dropout=0.4, depth=0, position=position, registers=0)
    whole = made.eval()(IMAGES).maps[0].flatten(2).mT
    part = made.train()(IMAGES).maps[0].flatten(2).mT
    same = (whole - part).abs().amax(2) < 1e-6
    assert (same.sum(1) >= 12).all()


@pytest.mark.parametrize(
    "keys",
    [
        {"position": "rope"},
        {"position": "rope_half"},
        {"position": "learned_rope"},
        {"position": "relative"},
        {"attention_radius": 2},
    ],
)
def test_positions_that_count_on_the_grid_are_refused(keys):
    with pytest.raises(UsageError, match="patch_dropout drops patches"):
        model(patch_dropout=0.5, **keys)


def test_skipping_without_a_residual_is_refused():
    with pytest.raises(UsageError, match="drop_path_skip"):
        model(drop_path_skip=True, drop_path=0.1, residual=False)
