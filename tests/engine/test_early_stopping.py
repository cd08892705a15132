"""Early stopping: when, with which weights, and the same whether the run was broken off or not."""

import os
import signal

import pytest
import tiny
import torch
from quick import spread

from vitrail.assembly.run_directory import RunFolder
from vitrail.engine import checkpoint
from vitrail.engine.early_stopping import EarlyStoppingState
from vitrail.errors import CheckpointError, Interrupted, UsageError
from vitrail.report.page.run_page import render_page
from vitrail.report.run_data import read_run
from vitrail.storage.tensors import unpack
from vitrail.training import evaluations, loop

SCORES = {2: 0.5, 4: 0.6, 6: 0.6, 8: 0.55, 10: 0.1}  # best at 4, and two that are no better until 8
PLAN = {"steps": 20, "eval_every": 2, "patience": 2}


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return tiny.npz(tmp_path_factory.mktemp("data"))


@pytest.fixture(autouse=True)
def scores(monkeypatch):
    table = dict(SCORES)
    tiny.score(monkeypatch, table)
    return table


def recipe(data, train=(), optim=()):
    return tiny.recipe(data, train={**PLAN, **dict(train)}, optim=dict(optim))


@pytest.fixture(scope="module")
def whole(data, tmp_path_factory):
    """A run that nobody broke off."""
    out = tmp_path_factory.mktemp("whole") / "run"
    with pytest.MonkeyPatch.context() as patch:
        tiny.score(patch, SCORES)
        tiny.finish(tiny.begin(recipe(data), out))
    return out


def test_it_stops_and_keeps_the_best_weights(data, tmp_path):
    running, out, seen = tiny.begin(recipe(data), tmp_path / "run"), tmp_path / "run", {}
    events = []
    for event in loop.run_training(running):
        events.append(event)
        if event.kind == "train":
            seen[event.step] = {name: t.clone() for name, t in running.state.best_model.state_dict().items()}
    told = next(e for e in events if e.kind == "stopped")
    assert told.step == 8
    assert (
        told.values["text"] == "stopped early at step 8 of 20: no better than top1 0.6000 at step 4 for 2 evaluations"
    )
    assert (told.values["best_step"], told.values["evaluations"]) == (4, 2)
    assert [e.kind for e in events][-2:] == ["eval", "done"]
    finished, _ = unpack(out / "model.safetensors")
    assert all(torch.equal(finished[name], seen[4][name]) for name in finished), "the averaged weights of step 4"
    assert not all(torch.equal(finished[name], seen[8][name]) for name in finished)
    assert tiny.steps(out)[-1] == "step-00000008"
    assert [p.name for p in (out / "best").iterdir()] == ["step-00000004.safetensors"]
    assert "Early stopping at step 8 of 20: no improvement over 60.0" in render_page(read_run(RunFolder(out)))


def test_a_run_that_gets_better_to_the_end_is_not_stopped(data, tmp_path, scores):
    scores.update({step: step / 100 for step in range(13)})
    events = tiny.finish(tiny.begin(recipe(data, {"steps": 11}), tmp_path / "run"))
    assert "stopped" not in [e.kind for e in events]
    assert [e.step for e in events if e.kind == "eval"] == [2, 4, 6, 8, 10, 11, 11], "the last weights compete too"
    kept = sorted(p.name for p in (tmp_path / "run" / "best").iterdir())
    assert kept == ["step-00000008.safetensors", "step-00000011.safetensors"], (
        "one for each checkpoint, of steps 9 and 11"
    )


@pytest.mark.parametrize("stop", spread([3, 4, 5, 6, 7, 8], 2))
@pytest.mark.parametrize("kind", ["train", "eval"])
def test_a_run_broken_off_anywhere_ends_in_the_same_bytes(kind, stop, data, whole, tmp_path):
    for event in loop.run_training(tiny.begin(recipe(data), tmp_path / "run")):
        if event.kind == kind and event.step >= stop:
            break
    events = tiny.finish(tiny.again(tmp_path / "run"))
    assert next(e.step for e in events if e.kind == "stopped") == 8
    for name in ("model.safetensors", "checkpoints/step-00000008/state.json", "best/step-00000004.safetensors"):
        assert tiny.digest(tmp_path / "run" / name) == tiny.digest(whole / name)


def test_a_signal_before_an_evaluation_that_is_due_only_postpones_it(data, whole, tmp_path):
    running = tiny.begin(recipe(data), tmp_path / "run")

    def told():
        for event in loop.run_training(running):
            if event.kind == "train" and event.step == 3:
                os.kill(os.getpid(), signal.SIGTERM)

    with pytest.raises(Interrupted, match="step 4 of 20, saved"):
        told()
    events = tiny.finish(tiny.again(tmp_path / "run"))
    assert (events[0].kind, events[0].step) == ("eval", 4)
    assert tiny.digest(tmp_path / "run" / "model.safetensors") == tiny.digest(whole / "model.safetensors")


def test_weights_that_a_lost_stretch_thought_best_are_not_taken(data, tmp_path, scores):
    """After the checkpoint of step 3 the fourth was the best; done again under another rate it is not, and that of step
    2 counts."""
    scores[4] = 0.9
    for event in loop.run_training(tiny.begin(recipe(data), tmp_path / "run")):
        if event.kind == "train" and event.step == 5:
            break
    second = tiny.digest(tmp_path / "run" / "best" / "step-00000002.safetensors")
    scores.update({4: 0.4, 6: 0.4})
    tiny.finish(tiny.again(tmp_path / "run", [("optim", {"lr": 1e-4})], ["optim.lr"]))
    assert [p.name for p in (tmp_path / "run" / "best").iterdir()] == ["step-00000002.safetensors"]
    assert tiny.digest(tmp_path / "run" / "best" / "step-00000002.safetensors") == second


def test_a_stopped_run_stays_stopped_unless_it_is_given_more_patience(data, tmp_path):
    tiny.finish(tiny.begin(recipe(data), tmp_path / "run"))
    before = tiny.digest(tmp_path / "run" / "model.safetensors")
    events = tiny.finish(tiny.again(tmp_path / "run"))
    assert [e.kind for e in events] == ["stopped", "eval", "done"]
    assert tiny.digest(tmp_path / "run" / "model.safetensors") == before
    events = tiny.finish(tiny.again(tmp_path / "run", [("train", {"patience": 3})], ["train.patience"]))
    assert next(e.step for e in events if e.kind == "stopped") == 10


def test_patience_without_evaluations_is_refused(data, tmp_path):
    with pytest.raises(UsageError, match=r"train\.eval_every 0 makes none"):
        tiny.begin(recipe(data, {"eval_every": 0}), tmp_path / "run")


def test_best_weights_that_cannot_be_written_are_not_counted(data, tmp_path, monkeypatch):
    write = evaluations.write_file

    def full(path, content):
        if "00000004" in path.name:
            raise OSError(28, "No space left on device")
        write(path, content)

    monkeypatch.setattr(evaluations, "write_file", full)
    running = tiny.begin(recipe(data), tmp_path / "run")
    events = tiny.finish(running)
    assert any(e.kind == "note" and "No space left" in e.values["text"] for e in events)
    assert running.state.early_stopping.step == 6, "the next that is better than the last one kept"
    assert next(e.step for e in events if e.kind == "stopped") == 10


def test_best_weights_that_are_gone_are_told(data, tmp_path):
    tiny.finish(tiny.begin(recipe(data), tmp_path / "run"))
    (tmp_path / "run" / "best" / "step-00000004.safetensors").unlink()
    with pytest.raises(CheckpointError, match="best weights of the run cannot be read") as told:
        tiny.finish(tiny.again(tmp_path / "run"))
    assert "train.patience" in told.value.fix


def test_what_is_no_number_is_never_the_best():
    standing = EarlyStoppingState()
    assert not standing.is_better(float("nan"))
    standing.record(1, float("nan"), False)
    assert standing.is_better(-5.0)
    standing.record(2, -5.0, True)
    assert not standing.is_better(-5.0)
    assert standing.numbers() == {"step": 2, "value": -5.0, "evaluations_since": 0, "evaluated_step": 2}


def test_checkpoints_of_before_have_no_standing(data, tmp_path):
    running = tiny.begin(tiny.recipe(data, train={"steps": 3}), tmp_path / "run")
    tiny.finish(running)
    saved = checkpoint.load(tmp_path / "run" / "checkpoints" / "step-00000003")
    del saved.numbers["early_stopping"]
    running.state.load(saved.parts, saved.numbers)
    assert running.state.early_stopping == EarlyStoppingState()
