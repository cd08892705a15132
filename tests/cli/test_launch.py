"""Processes that the command starts itself, and one command for every start; the processes are real in
tests/faults/test_launched.py."""

import os
import signal
import sys
import types

import pytest
import torch
from places import SHORT, npz, vitrail

from vitrail.cli.cluster import launch
from vitrail.cli.cluster.launch import check_batch, count_processes, explain_failures
from vitrail.errors import DataError, UsageError


def test_a_refusal_is_said_once_however_often_a_launcher_starts_again(monkeypatch, tmp_path):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setenv("TORCHELASTIC_MAX_RESTARTS", "3")
    said = []
    for run, attempt, words in (
        ("one", "0", "train --lrr 1"),
        ("one", "1", "train --lrr 1"),
        ("one", "2", "train --epochs x"),
        ("one", "3", "train --lrr 1"),
        ("two", "1", "train --lrr 1"),
    ):
        monkeypatch.setenv("TORCHELASTIC_RUN_ID", run)
        monkeypatch.setenv("TORCHELASTIC_RESTART_COUNT", attempt)
        code, _, err = vitrail(*words.split())
        assert code == 2
        said.append(bool(err))
    assert said == [True, False, True, False, True]


def test_one_process_needs_no_launcher():
    assert count_processes(None, None, "auto") == count_processes(None, 1, "cpu") == 0
    assert count_processes(None, 2, "cpu") == 2


def test_what_was_started_starts_nothing(monkeypatch):
    for name, value in (("RANK", "1"), ("WORLD_SIZE", "2"), ("LOCAL_WORLD_SIZE", "2")):
        monkeypatch.setenv(name, value)
    assert count_processes(None, 2, "cpu") == count_processes(2, None, "auto") == 0
    with pytest.raises(UsageError, match="has started 2 processes on this machine, and --gpus says 8"):
        count_processes(8, None, "auto")


@pytest.mark.parametrize(("words", "piece"), [
    ("--gpus 2 --nproc 2", "--gpus and --nproc both say"),
    ("--nproc 0", "from 1 to 1024, not 0"),
    ("--gpus -3", "from 1 to 1024, not -3"),
    ("--gpus two", "--gpus takes a whole number, not 'two'"),
    ("--gpus 2 --device cpu", "-> --nproc 2 --device cpu"),
    ("--gpus 4", "--gpus 4 asks for 4 GPUs, and this machine has 2 -> --gpus 2"),
    ("--nproc 3 --batch-size 64", "batch size 64 is not divisible by 3 processes -> --batch-size 63 or 66"),
    ("--nproc 2 --lrr 1", "unknown option '--lrr'"),
    ("--max-restarts 2", "--gpus 8 --max-restarts 3"),
    ("--nproc 2 --max-restarts -1", "--gpus 8 --max-restarts 3"),
    ("--resume-if-there", "-> --out runs/a --resume-if-there"),
    ("--resume a --resume-if-there", "-> --out runs/a --resume-if-there"),
])  # fmt: skip
def test_refused_before_any_process_is_started(words, piece, monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setattr(launch, "launch", lambda *given: pytest.fail("started"))
    data = [] if "--resume a" in words else ["--data", "mini"]
    code, _, said = vitrail("train", *data, *words.split())
    assert code == 2
    assert piece in " ".join(said.split())


def test_nearest_batches_are_those_that_divide():
    check_batch(64, 4)
    check_batch(None, 4)
    with pytest.raises(UsageError, match="--batch-size 8, or"):
        check_batch(3, 8)


@pytest.fixture
def launched(monkeypatch):
    """torch's launcher, which notes what it would start, and fails as `launched.error` says."""
    seen = types.SimpleNamespace(error=None)

    def elastic_launch(config, entrypoint):
        def start(*words):
            seen.config, seen.entrypoint, seen.words = config, entrypoint, words
            seen.environment = dict(os.environ)
            if seen.error:
                raise seen.error

        return start

    monkeypatch.setattr("torch.distributed.launcher.api.elastic_launch", elastic_launch)
    return seen


def test_the_same_command_by_the_same_python_and_no_shell(launched, monkeypatch):
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    monkeypatch.setattr(os, "cpu_count", lambda: 8)
    monkeypatch.setattr(sys, "argv", ["vitrail", "train", "--module", "mine.own", "--nproc", "2", "--debug"])
    before = dict(os.environ)
    words = ["--data", "a folder; rm -rf *", "--nproc", "2", "--max-restarts", "3"]
    assert launch.launch(words, 2, 3) == 0
    assert launched.entrypoint == sys.executable
    assert launched.words == ("-u", "-m", "vitrail", "--module", "mine.own", "--debug", "train", *words)
    config = launched.config
    assert (config.nproc_per_node, config.min_nodes, config.max_nodes, config.max_restarts) == (2, 1, 1, 3)
    assert config.rdzv_endpoint.endswith(":0"), "any free port"
    assert launched.environment["OMP_NUM_THREADS"] == "4"
    assert dict(os.environ) == before


def test_the_exit_code_is_that_of_the_process_that_failed(launched, capsys):
    from torch.distributed.elastic.multiprocessing import SignalException
    from torch.distributed.elastic.multiprocessing.errors import ChildFailedError, ProcessFailure

    launched.error = ChildFailedError("train", {1: ProcessFailure(1, 10, 3, "")})
    assert launch.launch([], 2, 0) == 3
    assert capsys.readouterr().err == "", "it has said why"
    for number, code in ((signal.SIGTERM, 143), (signal.SIGINT, 130)):
        launched.error = SignalException("stopped", number)
        assert launch.launch([], 2, 0) == code


def test_a_process_that_could_not_say_why_it_ended_is_named(capsys):
    assert explain_failures({0: 1, 1: 3}) == 3
    assert explain_failures({0: 1, 1: -9}) == 1
    assert capsys.readouterr().err == ""
    assert explain_failures({1: -9}) == 1
    assert capsys.readouterr().err.startswith("vitrail: process 1 was ended by SIGKILL: did memory run out?\n  -> ")


def test_what_all_processes_find_wrong_is_said_by_the_first_of_a_machine(monkeypatch, capsys):
    for local, said in (("1", False), ("0", True)):
        monkeypatch.setenv("LOCAL_RANK", local)
        assert vitrail("train", "--lrr", "1")[0] == 2
        code, _, words = vitrail("train", "--data", "mini", "--resume-if-there")
        assert code == 2
        assert bool(words) == said


def test_an_error_of_another_process_is_not_said_again():
    error = DataError("image-7.png is truncated")
    assert not error.is_repeated
    error.is_repeated = True
    assert error.__reduce__()[2]["is_repeated"]


# one command for every start


@pytest.fixture(scope="module")
def started(tmp_path_factory):
    folder = tmp_path_factory.mktemp("preempted")
    words = ["train", "--data", npz(folder / "tiny.npz"), *SHORT, "--out", folder / "run", "--resume-if-there"]
    return folder / "run", words, vitrail(*words)


def test_the_run_is_started_where_it_is_not_there(started):
    run, _, (code, said, error) = started
    assert code == 0, error
    assert "step 3/3" in said
    assert (run / "report.html").is_file()


def test_a_finished_run_is_left_alone(started):
    run, words, _ = started
    before = {path: path.stat().st_mtime_ns for path in run.rglob("*")}
    assert vitrail(*words) == (0, f"{run} is finished: 3 steps; nothing is left to do\n", "")
    assert {path: path.stat().st_mtime_ns for path in run.rglob("*")} == before


def test_the_launcher_starts_nothing_for_a_finished_run(started, monkeypatch):
    monkeypatch.setattr(launch, "launch", lambda *given: pytest.fail("started"))
    _, words, _ = started
    assert vitrail(*words, "--nproc", "2")[0] == 0


def test_a_run_that_is_not_finished_goes_on_unless_the_command_asks_for_another_result(started):
    run, words, _ = started
    (run / "report.html").unlink()
    code, said, error = vitrail(*words, "--lr", "0.5")
    assert code == 2
    assert "that would change the result of the run: optim.lr" in " ".join(error.split())
    code, said, error = vitrail(*words, "--runtime.log-every", "1")
    assert code == 0, error
    assert f"{run}: from step 3 of 3" in said
    assert (run / "report.html").is_file()


def test_more_steps_than_a_finished_run_has_are_no_finished_run(started):
    _, words, _ = started
    longer = [9 if before == "--steps" else word for before, word in zip(["", *words], words, strict=False)]
    code, _, error = vitrail(*longer)
    assert code == 2
    assert "train.steps: 3 -> 9" in " ".join(error.split())


def test_from_python_it_is_one_process(started):
    import vitrail as library

    with pytest.raises(UsageError, match="gpus starts processes, which the command does"):
        library.train("mini", gpus=2)
