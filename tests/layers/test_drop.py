"""Stochastic depth that leaves the work out: the same mean, an exact count, nothing in evaluation."""

import pytest
import torch
from torch import nn

from vitrail.layers.drop import DropPath, SkipPath


def test_the_mean_over_many_draws_is_the_whole_branch():
    torch.manual_seed(0)
    x, branch = torch.randn(8, 5, 4), nn.Linear(4, 4)
    part = SkipPath(0.4).train()
    with torch.no_grad():
        mean = torch.stack([part(x, branch) for _ in range(4000)]).mean(0)
        wanted = x + branch(x)
    assert (mean - wanted).abs().max() < 0.12
    assert (mean - wanted).mean().abs() < 5e-3


@pytest.mark.parametrize(
    ("rate", "batch", "count"), [(0.5, 8, 4), (0.3, 10, 7), (0.1, 4, 4), (0.99, 8, 1), (0.9, 3, 1)]
)
def test_as_many_samples_as_the_rate_says_are_computed(rate, batch, count):
    torch.manual_seed(0)
    seen = []

    def branch(x):
        seen.append(len(x))
        return torch.ones_like(x)

    x = torch.zeros(batch, 3)
    made = SkipPath(rate).train()(x, branch)
    assert seen == [count]
    kept = made[:, 0] != 0
    assert kept.sum() == count
    torch.testing.assert_close(made[kept], torch.full((count, 3), batch / count))


def test_other_samples_each_time():
    torch.manual_seed(0)
    part, x = SkipPath(0.5).train(), torch.zeros(16, 1)
    chosen = {tuple(part(x, torch.ones_like).flatten().tolist()) for _ in range(20)}
    assert len(chosen) > 10


def test_gradients_reach_the_branch_from_the_chosen_and_the_input_from_all():
    torch.manual_seed(0)
    x, branch = torch.randn(6, 3, requires_grad=True), nn.Linear(3, 3)
    SkipPath(0.5).train()(x, branch).sum().backward()
    assert branch.weight.grad is not None
    assert branch.weight.grad.abs().sum() > 0
    through = x.grad - 1  # what came through the branch
    assert (through.abs().sum(1) > 0).sum() == 3


@pytest.mark.parametrize("rate", [0.0, 0.7])
def test_in_evaluation_nothing_is_left_out(rate):
    x, branch = torch.randn(5, 4), nn.Linear(4, 4)
    assert torch.equal(SkipPath(rate).eval()(x, branch), x + branch(x))
    assert torch.equal(DropPath(rate).eval()(x), x)


def test_a_rate_of_zero_draws_nothing():
    torch.manual_seed(3)
    before = torch.get_rng_state()
    SkipPath(0.0).train()(torch.zeros(4, 2), torch.ones_like)
    assert torch.equal(torch.get_rng_state(), before)


def test_the_sum_keeps_its_type_under_autocast():
    """The branch computes in bf16, what it is added to is fp32."""
    x, branch = torch.randn(4, 8), nn.Linear(8, 8)
    with torch.autocast("cpu", torch.bfloat16):
        assert SkipPath(0.5).train()(x, branch).dtype == torch.float32
