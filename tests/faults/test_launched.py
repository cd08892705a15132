"""Real processes, started by `vitrail train --nproc` and by torchrun on several machines: killed, stopped, lost."""

import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest
import tiny
from test_lost_processes import child, train, wait_for

from vitrail.engine.log import read_rows

pytestmark = [pytest.mark.slow, pytest.mark.skipif(sys.platform != "linux", reason="finds processes in /proc")]


def start(folder, *words, module="vitrail"):
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": os.pathsep.join(sys.path)}
    return subprocess.Popen(
        [sys.executable, "-m", module, *map(str, words)], cwd=folder, env=environment, stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE, text=True,
    )  # fmt: skip


def command(data, out, steps, *more):
    return [*train(data, out, steps)[2:], "--nproc", 2, *more]


def workers(launcher):
    return [int(p) for p in Path(f"/proc/{launcher.pid}/task/{launcher.pid}/children").read_text().split()]


def is_alive(process):
    try:
        return Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def end(launcher, code):
    said = launcher.communicate(timeout=300)[1]
    assert launcher.returncode == code, said
    return " ".join(said.split())


def lines(said):
    return said.count("vitrail: ")


def same(one, two):
    assert tiny.digest(one / "model.safetensors") == tiny.digest(two / "model.safetensors")


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """A run of two processes that nothing happened to, and its data."""
    folder = tmp_path_factory.mktemp("launched")
    data = tiny.npz(folder / "data")
    end(start(folder, *command(data, "whole", 30)), 0)
    return folder / "whole", data


def test_a_killed_process_is_started_again_by_the_launcher_of_the_command(whole, tmp_path):
    untouched, data = whole
    launcher = start(tmp_path, *command(data, "run", 30, "--max-restarts", 3))
    wait_for(tmp_path / "run" / "checkpoints" / "step-00000010" / "manifest.json", launcher)
    os.kill(child(launcher, 1), signal.SIGKILL)
    end(launcher, 0)
    same(untouched, tmp_path / "run")


def test_a_lost_process_ends_all_with_one_message_and_the_same_command_goes_on(whole, tmp_path):
    untouched, data = whole
    words = command(data, "run", 30, "--resume-if-there")
    launcher = start(tmp_path, *words)
    wait_for(tmp_path / "run" / "checkpoints" / "step-00000010" / "manifest.json", launcher)
    started = workers(launcher)
    os.kill(child(launcher, 0), signal.SIGKILL)
    said = end(launcher, 1)
    assert lines(said) == 1, said
    assert "process 0 is gone" in said or "process 0 was ended by SIGKILL" in said
    assert not any(map(is_alive, started))
    end(start(tmp_path, *words), 0)
    same(untouched, tmp_path / "run")


def test_a_signal_to_the_launcher_saves_once_and_the_same_command_goes_on(whole, tmp_path):
    """SIGUSR1, as schedulers send it ahead of the time limit."""
    untouched, data = whole
    words = command(data, "run", 30, "--resume-if-there")
    launcher = start(tmp_path, *words)
    wait_for(tmp_path / "run" / "log.jsonl", launcher)
    started = workers(launcher)
    launcher.send_signal(signal.SIGUSR1)
    said = end(launcher, 143)
    assert lines(said) == 1, said
    assert "saved -> go on with: vitrail train --resume run" in said
    assert not any(map(is_alive, started))
    end(start(tmp_path, *words), 0)
    same(untouched, tmp_path / "run")


def test_no_process_outlives_a_launcher_that_is_killed(tmp_path):
    launcher = start(tmp_path, *command(tiny.npz(tmp_path / "data"), "run", 10**6, "--runtime.timeout", 15))
    wait_for(tmp_path / "run" / "log.jsonl", launcher)
    started = workers(launcher)
    launcher.kill()
    launcher.wait()
    until = time.monotonic() + 100
    while any(map(is_alive, started)):
        assert time.monotonic() < until
        time.sleep(0.1)
    said = " ".join(launcher.communicate()[1].split())
    assert "the store of the launcher" in said or "no sign of life" in said, said
    assert lines(said) == 1, said


def test_what_one_process_finds_wrong_with_its_data_is_said_once(tmp_path):
    data = tiny.images(tmp_path / "photos")
    (data / "ant" / "000.png").write_bytes(b"no image")
    launcher = start(tmp_path, *command(data, "run", 30, "--data.on-error", "fail"))
    said = end(launcher, 3)
    assert lines(said) == 1, said
    assert "000.png" in said
    assert not (tmp_path / "run").exists()


def test_a_batch_that_the_processes_cannot_share_is_refused_once(tmp_path):
    """Found by the processes: the recipe leaves the batch open, or there is no launcher of ours."""
    words = train(tiny.npz(tmp_path / "data"), "run", 30)
    words[words.index("--batch-size") + 1] = 15
    options = ["--standalone", "--nproc-per-node=2"]
    said = end(start(tmp_path, *options, *words, module="torch.distributed.run"), 1)
    assert said.count("vitrail: batch size 15 is not divisible by 2 processes") == 1, said
    assert "start 1 processes; or a new run with --batch-size 14 or 16" in said


def test_a_machine_is_lost_and_the_other_goes_on_with_the_same_batches(whole, tmp_path):
    """Two agents of one process each; the second is killed with its process, and nothing brings it back."""
    untouched, data = whole
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    options = ["--nnodes=1:2", "--nproc-per-node=1", "--max-restarts=3", "--rdzv-backend=c10d", "--rdzv-id=two"]
    options += [f"--rdzv-endpoint=localhost:{port}", "--local-addr=127.0.0.1"]
    options += ["--rdzv-conf=last_call_timeout=20,keep_alive_interval=1,keep_alive_max_attempt=3"]
    words = [*options, *train(data, "run", 30)]
    first = start(tmp_path, *words, module="torch.distributed.run")
    time.sleep(3)  # it is the host of the store
    second = start(tmp_path, *words, module="torch.distributed.run")
    wait_for(tmp_path / "run" / "checkpoints" / "step-00000010" / "manifest.json", first)
    lost = workers(second)
    second.kill()
    for process in lost:
        os.kill(process, signal.SIGKILL)
    end(first, 0)
    second.communicate()
    ours, theirs = (
        [row["loss"] for row in read_rows(path / "log.jsonl") if row["kind"] == "train"]
        for path in (untouched, tmp_path / "run")
    )
    assert len(ours) == len(theirs) == 30
    assert ours[:10] == theirs[:10]
    assert ours == pytest.approx(theirs, rel=1e-3)
