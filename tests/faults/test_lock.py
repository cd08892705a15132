"""One process works in a run's folder at a time; a signal in the last judgement ends a run that is saved."""

import contextlib
import os
import signal

import pytest
import tiny
from places import Process

from vitrail.assembly import lock
from vitrail.errors import Interrupted, RunError, UsageError
from vitrail.evaluation import evaluate
from vitrail.training import loop


@pytest.fixture
def run(tmp_path):
    made = tiny.begin(tiny.recipe(tiny.npz(tmp_path / "data"), train={"eval_every": 0}), tmp_path / "run")
    for event in loop.run_training(made):
        if event.kind == "saved":
            break
    return tmp_path / "run"


def holder(run, *more):
    """A process that works in the folder of a run."""
    running = Process([run, *more], run.parent / "stdout.txt", run.parent / "stderr.txt", command=tiny.hold)
    running.until("held")
    return running


def kill(running):
    running.signal(signal.SIGKILL)
    assert running.end()[0] == -signal.SIGKILL


def test_a_second_process_is_told_which_one_is_at_work(run):
    running = holder(run)
    try:
        before = sorted(run.rglob("*"))
        with pytest.raises(RunError, match=f"process {running.pid} on .* is working in") as told:
            tiny.again(run)
        assert told.value.fix
        assert sorted(run.rglob("*")) == before
    finally:
        kill(running)
    assert tiny.finish(tiny.again(run))[-1].kind == "done"
    assert not (run / lock.NAME).exists()
    assert not (run / lock.OWNER).exists()


def test_a_run_that_was_taken_up_elsewhere_in_between_does_not_begin(run):
    mine = tiny.again(run)
    running = holder(run)
    try:
        with pytest.raises(RunError, match="is working in"):
            tiny.finish(mine)
    finally:
        kill(running)


def test_a_killed_run_holds_nothing_even_if_its_workers_live_on(run):
    running = holder(run, "fork")
    kill(running)
    try:
        assert tiny.finish(tiny.again(run))[-1].kind == "done"
    finally:
        with contextlib.suppress(ProcessLookupError):  # they may have come to their end
            os.killpg(running.pid, signal.SIGKILL)


def test_without_locks_one_goes_on(run, monkeypatch):
    import fcntl

    def none(*given):
        raise OSError(95, "Operation not supported")

    monkeypatch.setattr(fcntl, "flock", none)
    assert tiny.finish(tiny.again(run))[-1].kind == "done"


def test_a_key_that_no_recipe_has_cannot_be_allowed_to_change(run):
    with pytest.raises(UsageError, match=r"optim\.lr"):
        tiny.again(run, [], ["optim.lrr"])


def test_a_signal_in_the_last_judgement_ends_a_run_that_is_saved(run, monkeypatch):
    judge, done = evaluate.evaluate, []

    def told(*given, **keys):
        os.kill(os.getpid(), signal.SIGTERM)
        done.append(judge(*given, **keys))
        return done[-1]

    monkeypatch.setattr(evaluate, "evaluate", told)
    with pytest.raises(Interrupted, match="stopped at step 12 of 12, saved") as said:
        tiny.finish(tiny.again(run))
    assert said.value.code == 143
    assert not done
    assert (run / "model.safetensors").exists()
    monkeypatch.undo()
    assert [e.kind for e in tiny.finish(tiny.again(run))] == ["eval", "done"]
