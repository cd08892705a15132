"""Signals: the step is finished, the run saved, the exit code tells which it was, and nothing is left running."""

import json
import os
import re
import signal
import time
from pathlib import Path

import pytest
import tiny
from places import Process

from vitrail.cli.main import main
from vitrail.engine import checkpoint
from vitrail.engine.log import read_rows
from vitrail.engine.signals import StopSignal
from vitrail.errors import Interrupted
from vitrail.training import loop

STEPS = 40


def words(data, out, *more):
    keys = {
        "model.depth": 2, "model.width": 16, "model.heads": 2, "model.patch": 4, "model.dropout": 0.1,
        "optim.ema_decay": 0.9,
        "augment.mixup": 0.2, "train.steps": STEPS, "train.batch_size": 16, "train.precision": "fp32",
        "train.eval-every": 5, "runtime.micro_batch": 8, "runtime.save-every": 1000, "runtime.log-every": 1,
    }  # fmt: skip
    found = ["train", "--data", str(data), "--model", "vit/nano", "--out", str(out), "--device", "cpu"]
    return [*found, *(w for key, value in keys.items() for w in (f"--{key}", str(value))), *more]


def start(given, out, command=tiny.slowed):
    """The command in a process and a process group of its own, each step made longer from outside; it prints beside
    `out`."""
    return Process(given, out.parent / "stdout.txt", out.parent / "stderr.txt", command=command)


def reach(running, out, step):
    until = time.monotonic() + 60
    while max((r["step"] for r in read_rows(out / "log.jsonl")), default=0) < step:
        assert running.running(), running.end()
        assert time.monotonic() < until
        time.sleep(0.01)


def alive(group):
    """Processes of a group that are still there and no zombies."""
    found = []
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            fields = (folder / "stat").read_text().rpartition(")")[2].split()
        except OSError:
            continue
        if int(fields[2]) == group and fields[0] != "Z":
            found.append(int(folder.name))
    return found


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return tiny.npz(tmp_path_factory.mktemp("data"))


@pytest.fixture(scope="module")
def untouched(data, tmp_path_factory):
    out = tmp_path_factory.mktemp("untouched") / "run"
    code, _, errors = start(words(data, out), out, main).end()
    assert code == 0, errors
    return tiny.digest(out / "model.safetensors")


@pytest.mark.parametrize(
    ("number", "code"),
    [(signal.SIGTERM, 143), pytest.param(signal.SIGUSR1, 143, marks=pytest.mark.slow), (signal.SIGINT, 130)],
    ids=["term", "usr1", "int"],
)
def test_a_signal_saves_and_the_run_goes_on_to_the_same_bytes(number, code, data, untouched, tmp_path):
    out = tmp_path / "run"
    running = start(words(data, out), out)
    reach(running, out, 7)
    running.signal(number)
    found, said, errors = running.end(timeout=20)
    assert found == code, (said, errors)
    assert re.search(r"stopped at step \d+ of 40, saved", errors)
    assert f"--resume {out}" in " ".join(errors.split())
    assert "Traceback" not in errors
    saved, _ = checkpoint.load_newest(out / "checkpoints")
    logged = max(r["step"] for r in read_rows(out / "log.jsonl"))
    assert saved is not None
    assert saved.numbers["step"] == logged, "the last step that was done is the one that was saved"
    tiny.finish(tiny.again(out))
    assert tiny.digest(out / "model.safetensors") == untouched


def test_ctrl_c_while_judging_saves_and_leaves(data, tmp_path):
    out = tmp_path / "run"
    running = start(words(data, out), out, tiny.slowed_judging)
    running.until("\njudging")  # the folder has the word in its name
    os.killpg(running.pid, signal.SIGINT)
    code, _, errors = running.end(timeout=20)
    assert code == 130, errors
    assert f"--resume {out}" in " ".join(errors.split())
    assert len(tiny.steps(out)) == 1


@pytest.mark.parametrize(
    "number", [pytest.param(signal.SIGINT, marks=pytest.mark.slow), signal.SIGTERM], ids=["int", "term"]
)
def test_workers_go_with_the_run_when_the_whole_group_is_told(number, tmp_path):
    """A terminal's Ctrl-C and a job manager's SIGTERM reach the workers as well: they neither break the saving nor
    stay."""
    out, data = tmp_path / "run", tiny.images(tmp_path / "data")
    running = start(words(data, out, "--workers", "2", "--augment.randaugment-ops", "2"), out)
    reach(running, out, 3)
    os.killpg(running.pid, number)
    code, _, errors = running.end(timeout=20)
    assert code == (130 if number == signal.SIGINT else 143), errors
    assert "saved" in errors
    assert len(tiny.steps(out)) == 1
    time.sleep(2)
    assert alive(running.pid) == []


def test_a_worker_that_is_killed_ends_the_run_with_a_remedy(tmp_path):
    """As the kernel does when memory is short. In a process of its own, since torch then raises wherever Python happens
    to be."""
    out, data = tmp_path / "run", tiny.images(tmp_path / "data")
    running = start(words(data, out, "--workers", "2"), out)
    reach(running, out, 3)
    workers = Path(f"/proc/{running.pid}/task/{running.pid}/children").read_text().split()
    os.kill(int(workers[-1]), signal.SIGKILL)
    code, _, errors = running.end(timeout=30)
    said = " ".join(errors.split())
    assert code == 1, said
    assert "a worker process that reads images died" in said
    assert "--workers 0" in said
    assert "Traceback" not in said
    assert alive(running.pid) == []


def test_a_worker_that_dies_between_announcing_and_handing_over(tmp_path):
    """Its batch is fetched through a connection to the worker, which is then gone; the death itself is told a moment
    later."""
    data = tiny.images(tmp_path / "data")
    out = tmp_path / "run"
    code, _, errors = start(words(data, out, "--workers", "2"), out, tiny.broken_worker).end()
    assert code == 1, errors
    assert "a worker process that reads images died" in errors
    assert "Traceback" not in errors


def test_a_second_signal_leaves_at_once(data, tmp_path):
    out = tmp_path / "run"
    running = start(words(data, out), out, tiny.slowed_judging)
    running.until("judging")
    running.signal(signal.SIGINT)
    time.sleep(0.3)
    began = time.monotonic()
    running.signal(signal.SIGINT)
    code, _, errors = running.end(timeout=20)
    assert code == 130
    assert time.monotonic() - began < 5
    assert "Traceback" not in errors
    assert not (out / "checkpoints").exists(), "nothing was saved: it left at once"


def test_one_request_that_arrives_twice_is_one_request():
    """`timeout` and job managers tell a process, and then its group."""
    with StopSignal() as stop:
        try:
            os.kill(os.getpid(), signal.SIGTERM)
            os.kill(os.getpid(), signal.SIGTERM)
        except KeyboardInterrupt:
            pytest.fail("the second half of one request was taken for a second request")
        assert stop.is_requested()
        assert stop.exit_code == 143
        time.sleep(0.2)
        with pytest.raises(KeyboardInterrupt):
            os.kill(os.getpid(), signal.SIGTERM)


def test_a_stop_that_could_not_be_saved_does_not_claim_to_be(data, tmp_path, monkeypatch):
    out = tmp_path / "run"
    running = tiny.begin(tiny.recipe(data, runtime={"save_every": 3}), out)

    def full(*given):
        raise OSError(28, "No space left on device")

    def stopped():
        for event in loop.run_training(running):
            if event.kind == "train" and event.step == 7:
                monkeypatch.setattr(checkpoint, "save", full)
                os.kill(os.getpid(), signal.SIGTERM)

    with pytest.raises(Interrupted) as told:
        stopped()
    assert ", saved" not in told.value.what
    assert "step-00000006" in told.value.what


def test_handlers_are_put_back_and_a_thread_may_train(data, tmp_path):
    import threading

    before = [signal.getsignal(n) for n in (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1)]
    errors = []

    def work():
        try:
            tiny.finish(tiny.begin(tiny.recipe(data, train={"steps": 2}), tmp_path / "run"))
        except BaseException as error:
            errors.append(error)

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert errors == []
    assert [signal.getsignal(n) for n in (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1)] == before
    assert json.loads((tmp_path / "run" / "evaluation" / "val.json").read_text())["count"] == 17
