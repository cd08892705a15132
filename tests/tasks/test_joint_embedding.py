"""LeJEPA: its two terms as published; exact over micro-batches, recomputed activations and in resumed runs."""

import pytest
import tiny
import torch
import view_runs
from view_runs import numbers

from vitrail.engine.joint import JointOutputs
from vitrail.errors import CheckpointError
from vitrail.recipe import Choice
from vitrail.tasks.joint_embedding import Config, JointEmbedding, draw_directions, invariance_loss, sigreg_loss

SMALL = {"embedding": 4, "hidden": 16, "directions": 32, "local_crops": 2, "local_size": 8}


def test_the_loss_is_that_of_lightly():
    """The numbers that `lightly.loss.LeJEPALoss` 1.6.0 gives in fp64 of the same embeddings [V B D], of which two are
    global, and the same directions."""
    embeddings, directions = numbers(5, 8, 6).transpose(0, 1), numbers(6, 1024) + numbers(1024, 6).T
    directions = directions / directions.norm(dim=0)
    invariance, sigreg = invariance_loss(embeddings, 2).item(), sigreg_loss(embeddings, directions).item()
    assert sigreg == pytest.approx(0.18717953637325507, abs=1e-6)
    assert invariance == pytest.approx(0.013999195732010061, abs=1e-6)
    assert 0.05 * sigreg + 0.95 * invariance == pytest.approx(0.02265821276407231, abs=1e-6)


def test_a_gaussian_costs_least():
    """The expected statistic of B normal numbers is a constant, whatever B; of a point it is B times larger."""
    directions, chance = draw_directions(8, 64, 0), torch.Generator().manual_seed(0)
    normal = torch.randn(512, 1, 8, generator=chance)
    costs = [sigreg_loss(x, directions).item() for x in (normal, 2 * normal, normal + 1, torch.zeros(512, 1, 8))]
    assert costs[0] < 2
    assert min(costs[1:]) > 20 * costs[0]


def test_directions_are_of_length_one_and_a_function_of_the_step():
    one = draw_directions(5, 7, 3)
    torch.testing.assert_close(one.norm(dim=0), torch.ones(7))
    torch.manual_seed(9)
    assert torch.equal(one, draw_directions(5, 7, 3))
    assert not torch.equal(one, draw_directions(5, 7, 4))


def test_the_terms_are_weighted_and_of_everyone():
    task, rows = JointEmbedding(Config(**SMALL, sigreg=0.25)), torch.randn(6, 4, 4)
    terms = task.joint_loss(JointOutputs((rows[:2],)), (rows,), 0)
    torch.testing.assert_close(terms["invariance"], 0.75 * invariance_loss(rows, 2))
    torch.testing.assert_close(terms["sigreg"], 0.25 * sigreg_loss(rows, draw_directions(4, 32, 0)))


def test_the_step_of_the_directions_is_in_checkpoints():
    task, other = (JointEmbedding(Config(**SMALL)) for _ in range(2))
    task.after_step(None, 5)
    other.load_state(task.state())
    assert int(other.step) == 5
    with pytest.raises(CheckpointError, match="the step"):
        other.load_state({})


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return tiny.npz(tmp_path_factory.mktemp("data"), channels=3, size=20)


def recipe(data, model=(), **runtime):
    return view_runs.recipe(data, Choice("joint_embedding", SMALL), model, 0.0, **runtime)


def test_a_run_goes_on_to_the_bit(data, tmp_path):
    parts = view_runs.whole_and_resumed(recipe(data), tmp_path)
    assert {"model", "task", "optimizer"} == set(parts)
    assert int(parts["task"]["step"]) == 4


@pytest.mark.parametrize("other", [{"micro_batch": 4}, {"micro_batch": 8, "grad_checkpoint": True}])
def test_accumulation_and_checkpointing_change_no_gradient(other, data, tmp_path):
    found = [
        view_runs.first_gradient(tiny.begin(recipe(data, view_runs.STILL, **runtime), tmp_path / str(i)))
        for i, runtime in enumerate(({"micro_batch": 16}, other))
    ]
    assert ((found[0] - found[1]).norm() / found[0].norm()).item() <= 1e-5
