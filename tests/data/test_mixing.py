"""What mixing draws: the distributions that its settings name, the same for any number of pieces."""

import numpy as np
import pytest
import torch

from vitrail.data.transforms.mixing import Mixing, draw_mixing, mix_batch
from vitrail.types import Batch

STEPS, PAIRS = 60, 100


def many(mixing, seed=0):
    """(cut, keep) of the pairs of many steps, [steps P]."""
    drawn = [draw_mixing(seed, step, PAIRS, mixing) for step in range(STEPS)]
    return np.stack([d.cut for d in drawn]), np.stack([d.keep for d in drawn])


@pytest.mark.parametrize("alpha", [0.2, 0.8, 1.0])
@pytest.mark.parametrize("kind", ["mixup", "cutmix"])
def test_lambda_is_beta_distributed(alpha, kind):
    from scipy.stats import beta, kstest

    cut, keep = many(Mixing(**{kind: alpha}))
    assert cut.all() == cut.any() == (kind == "cutmix")
    assert kstest(keep.ravel(), beta(alpha, alpha).cdf).pvalue > 1e-3


@pytest.mark.parametrize(("share", "switch"), [(1.0, 0.5), (0.3, 0.5), (0.8, 0.9), (1.0, 0.0), (1.0, 1.0), (0.0, 0.5)])
def test_pairs_are_mixed_and_switched_as_often_as_asked(share, switch):
    cut, keep = many(Mixing(0.8, 1.0, share, switch))
    done = keep < 1
    assert abs(done.mean() - share) < 0.02
    if done.any():
        assert abs(cut[done].mean() - switch) < 0.03
        assert 0 < switch < 1 or len(np.unique(cut)) == 1


def test_every_pair_has_a_chance_of_its_own_or_the_whole_batch_one():
    cut, keep = many(Mixing(0.8, 1.0, 0.5, 0.5, "pair"))
    assert all(len(np.unique(row)) > 10 for row in keep)
    assert all(len(np.unique(row)) == 2 for row in cut)
    cut, keep = many(Mixing(0.8, 1.0, 0.5, 0.5, "batch"))
    assert all(len(np.unique(row)) == 1 for row in keep)
    assert all(len(np.unique(row)) == 1 for row in cut)
    assert 0.3 < (keep[:, 0] < 1).mean() < 0.7
    assert 0.3 < cut[:, 0].mean() < 0.7
    assert len(np.unique(draw_mixing(0, 1, 8, Mixing(0.0, 1.0, mode="batch")).places, axis=0)) == 1, "one box for all"


@pytest.mark.parametrize("each", ["pair", "batch"])
def test_a_function_of_seed_and_step(each):
    mixing = Mixing(0.8, 1.0, 0.7, 0.4, each)
    a, b = draw_mixing(5, 7, 12, mixing), draw_mixing(5, 7, 12, mixing)
    assert all(np.array_equal(x, y) for x, y in zip(a, b, strict=True))
    assert not np.array_equal(a.places, draw_mixing(5, 8, 12, mixing).places)
    assert not np.array_equal(a.places, draw_mixing(6, 7, 12, mixing).places)


def batch_of(count):
    return Batch(torch.rand(count, 3, 16, 12, generator=torch.Generator().manual_seed(1)), torch.eye(count))


def test_pairs_that_are_left_alone_keep_every_bit():
    batch = batch_of(40)
    drawn = draw_mixing(0, 0, 20, Mixing(0.8, 1.0, 0.5))
    mixed = mix_batch(batch, drawn)
    alone = np.flatnonzero(drawn.keep.repeat(2) == 1)
    assert 5 < len(alone) < 35
    assert torch.equal(mixed.inputs[alone], batch.inputs[alone])
    assert torch.equal(mixed.targets[alone], batch.targets[alone])


def test_blends_and_cuts_in_one_batch_are_each_what_they_are_alone():
    """Against the formulas, written out pair by pair."""
    batch = batch_of(40)
    drawn = draw_mixing(3, 9, 20, Mixing(0.8, 1.0))
    assert 0 < drawn.cut.sum() < 20
    mixed = mix_batch(batch, drawn)
    for i in range(40):
        j, lam = i ^ 1, float(drawn.keep[i // 2])
        if drawn.cut[i // 2]:
            from_other = (mixed.inputs[i] == batch.inputs[j]).all(0)
            assert torch.equal(mixed.inputs[i], torch.where(from_other, batch.inputs[j], batch.inputs[i]))
            rows, columns = from_other.any(1).nonzero().flatten(), from_other.any(0).nonzero().flatten()
            assert int(from_other.sum()) == len(rows) * len(columns), "a box"
            assert len(rows) <= round(16 * (1 - lam) ** 0.5)
            lam = 1 - float(from_other.float().mean())
        else:
            torch.testing.assert_close(mixed.inputs[i], lam * batch.inputs[i] + (1 - lam) * batch.inputs[j])
        torch.testing.assert_close(mixed.targets[i, [i, j]], torch.tensor([lam, 1 - lam]))
