"""Without what only POSIX has: no fcntl, fork, /proc, memfd, SIGCHLD, SIGUSR1; workers are spawned. A simulation."""

import ast
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest
import tiny

import vitrail

POSIX = {
    "os": {"fork", "O_DIRECTORY", "memfd_create", "sched_getaffinity", "pread", "pwrite", "sysconf", "statvfs",
           "mkfifo", "getuid", "killpg", "setsid", "uname", "register_at_fork", "posix_fallocate", "nice", "wait"},
    "signal": {"SIGCHLD", "SIGUSR1", "SIGUSR2", "SIGCONT", "SIGSTOP", "SIGKILL", "SIGHUP", "SIGALRM", "alarm"},
}  # fmt: skip
MODULES = {"fcntl", "resource", "termios", "pwd", "grp", "pty", "tty"}
LAPTOP = Path(__file__).parent / "laptop"
ROOT = Path(vitrail.__file__).parent


def posix_only(tree):
    for node in ast.walk(tree):
        if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name):
            if node.attr in POSIX.get(node.value.id, ()):
                yield f"{node.value.id}.{node.attr}, line {node.lineno}"
        elif isinstance(node, ast.Import | ast.ImportFrom):
            names = [a.name for a in node.names] if isinstance(node, ast.Import) else [node.module]
            yield from (f"import {name}, line {node.lineno}" for name in names if name in MODULES)


def test_what_only_posix_has_is_asked_for_by_name():
    """`vars(os).get("fork")` asks; `os.fork` fails on Windows. What is under a condition that asks is named here."""
    asked = {
        "signal.SIGCHLD": "data/loader.py", "signal.SIGKILL": "serve/process.py", "import resource": "serve/run.py",
        "import fcntl": "storage/large.py", "signal.SIGHUP": "serve/run.py",
        "os.pread": "data/shards/store.py",
    }  # fmt: skip
    found = [
        f"{path.relative_to(ROOT)}: {what}"
        for path in sorted(ROOT.rglob("*.py"))
        for what in posix_only(ast.parse(path.read_text(encoding="utf-8")))
        if asked.get(what.partition(",")[0]) != path.relative_to(ROOT).as_posix()
    ]
    assert found == []


def command(folder, *words):
    paths = os.pathsep.join([str(LAPTOP), *sys.path])
    return subprocess.Popen(
        [sys.executable, "-m", "vitrail", *map(str, words)], cwd=folder, env={**os.environ, "PYTHONPATH": paths},
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
    )  # fmt: skip


def run(folder, *words):
    running = command(folder, *words)
    said = running.communicate(timeout=300)[0]
    assert running.returncode == 0, said
    assert "Traceback" not in said
    return said


def words(out):
    keys = ["--model.depth", 1, "--model.width", 16, "--model.heads", 2, "--img-size", 16, "--augment.crop", "random"]
    return ["train", "--data", "images", "--model", "vit/nano", *keys, "--steps", 40, "--batch-size", 8, "--workers", 2,
            "--precision", "fp32", "--train.eval-every", 0, "--runtime.save-every", 2, "--device", "cpu",
            "--out", out]  # fmt: skip


@pytest.mark.slow
def test_train_kill_resume_eval_and_predict(tmp_path):
    tiny.images(tmp_path / "images", each=30)
    told = "import os, signal, vitrail.data.loader as l; print(sorted(vars(l.os).keys() & {'fork', 'getpid'}))"
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(LAPTOP), *sys.path])}
    seen = subprocess.run([sys.executable, "-c", told], env=environment, capture_output=True, text=True, check=True)
    assert seen.stdout == "['getpid']\n", "the simulation is on"
    run(tmp_path, *words("whole"), "--quiet")
    killed = command(tmp_path, *words("killed"))
    until = time.monotonic() + 200
    while not (tmp_path / "killed" / "checkpoints" / "step-00000004").exists():
        assert killed.poll() is None, killed.communicate()[0]
        assert time.monotonic() < until
        time.sleep(0.02)
    killed.kill()
    killed.communicate()
    assert not (tmp_path / "killed" / "model.safetensors").exists()
    assert "from step" in run(tmp_path, "train", "--resume", "killed", "--workers", 2)
    assert tiny.digest(tmp_path / "killed" / "model.safetensors") == tiny.digest(
        tmp_path / "whole" / "model.safetensors"
    )
    run(tmp_path, "eval", "killed")
    assert "ant" in run(tmp_path, "predict", "killed", "images/ant/000.png")


def on_small_device(folder, *models):
    script = Path(__file__).parent / "on_small_device.py"
    paths = os.pathsep.join([str(script.parent), *sys.path])
    words = [sys.executable, script, folder, *models]
    done = subprocess.run(words, env={**os.environ, "PYTHONPATH": paths}, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.slow
def test_a_device_without_float64_trains_resumes_evaluates_and_predicts(tmp_path):
    """As Apple's GPUs, whose name it is given; what they lack is refused, and what is on the CPU is not mixed in."""
    said = on_small_device(tmp_path, "vit/nano")
    assert "train.precision = fp32: the safe choice on laptop" in said
    assert "val: 4 images" in said


@pytest.mark.slow
def test_other_families_too(tmp_path):
    on_small_device(tmp_path, "resnet/18", "swin/tiny")
