"""What the command is tried on: small data of every layout, good and bad, and a run that takes a second."""

import contextlib
import io
import multiprocessing
import os
import shlex
import sys
import time
from collections.abc import Callable
from functools import cache
from multiprocessing.connection import Connection
from multiprocessing.context import ForkServerContext
from pathlib import Path

import numpy as np
from PIL import Image

from vitrail.cli.main import main

TINY = ["--model", "vit/nano", "--model.depth", "1", "--model.width", "32", "--model.heads", "2"]
SHORT = [*TINY, "--steps", "3", "--batch-size", "4", "--train.eval-every", "0", "--precision", "fp32", "--workers", "0"]


def images(
    folder: Path, classes: tuple[str, ...] = ("ant", "bee"), each: int = 6, suffix: str = "png", channels: int = 3
) -> Path:
    """Class folders of noise, 12 x 12."""
    random = np.random.default_rng(0)
    for name in classes:
        (folder / name).mkdir(parents=True)
        for i in range(each):
            noise = random.integers(0, 256, (12, 12, channels), np.uint8)
            Image.fromarray(noise.squeeze()).save(folder / name / f"{i}.{suffix}")
    return folder


def npz(file: Path, classes: int = 3) -> Path:
    """MedMNIST's layout with a train and a test part."""
    random = np.random.default_rng(0)
    parts = {}
    for part, count in (("train", 24), ("test", 9)):
        parts[f"{part}_images"] = random.integers(0, 256, (count, 12, 12, 1), np.uint8)
        parts[f"{part}_labels"] = np.arange(count) % classes
    np.savez(file, **parts)
    return file


def table(file: Path, rows: list[str], head: str = "path,label") -> Path:
    file.write_text("\n".join([head, *rows]) + "\n")
    return file


def good_rows() -> list[str]:
    return [f"good/{name}/{i}.png,{number}" for number, name in enumerate(("ant", "bee")) for i in range(6)]


def everything(folder: Path) -> set[str]:
    """Every path below a folder."""
    return {str(p.relative_to(folder)) for p in folder.rglob("*")}


def vitrail(*words: object) -> tuple[int, str, str]:
    """Exit code, stdout and stderr of the command, in this process."""
    out, err = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        code = main([str(w) for w in words])
    return code, out.getvalue(), err.getvalue()


@cache
def server() -> ForkServerContext:
    """Forks processes from one that has imported what a training needs, since every process would need seconds for
    that."""
    import torch._dynamo

    from vitrail.cli import train
    from vitrail.cli.syntax import arguments
    from vitrail.datasets import coco, npz
    from vitrail.report.page import run_page as build

    context = multiprocessing.get_context("forkserver")
    needed = (torch._dynamo, train, build, arguments, coco, npz)
    context.set_forkserver_preload([module.__name__ for module in needed])
    return context


class Process:
    """The command in a process and a session of its own, whose signals, exit code, terminal and open files are real.

    Its streams are the files (or the terminal) `out` and `err`; `command` is what takes the words in the place of
    `main`.
    """

    def __init__(self, words, out: Path | str, err: Path | str, env=(), command: Callable[[list[str]], int] = main):
        self.out, self.err = Path(out), Path(err)
        here, there = server().Pipe()
        self.child = server().Process(
            target=inside, args=(there, command, [str(w) for w in words], str(out), str(err), dict(env))
        )
        self.child.start()
        self.pid: int = self.child.pid
        there.close()
        here.recv()  # its streams are open

    def running(self) -> bool:
        return self.child.is_alive()

    def signal(self, number: int) -> None:
        os.kill(self.pid, number)

    def until(self, text: str, timeout: float = 60) -> None:
        """Waits until it has printed `text`."""
        late = time.monotonic() + timeout
        while text not in self.out.read_text():
            assert self.running(), self.end()
            assert time.monotonic() < late
            time.sleep(0.01)

    def code(self, timeout: float = 300) -> int:
        """Waits for its end: the exit code, or minus the signal that killed it."""
        self.child.join(timeout)
        assert not self.running(), "it did not come to its end"
        return self.child.exitcode

    def end(self, timeout: float = 300) -> tuple[int, str, str]:
        """Waits for its end: exit code, stdout and stderr."""
        return self.code(timeout), self.out.read_text(), self.err.read_text()


def inside(
    ready: Connection, command: Callable[[list[str]], int], words: list[str], out: str, err: str, env: dict[str, str]
) -> None:
    """What a `Process` does."""
    os.setsid()
    multiprocessing.set_start_method(None, force=True)  # its own workers are started as always
    os.environ.update(env)
    for number, path in ((1, out), (2, err)):
        os.dup2(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_NOCTTY), number)
    sys.stdout, sys.stderr = (
        io.TextIOWrapper(io.FileIO(number, "w", closefd=False), line_buffering=True) for number in (1, 2)
    )
    ready.send(True)
    sys.exit(command(words))


def refused(folder: Path, words: str, code: int, piece: str) -> None:
    """A command in `folder` that must fail: with its exit code, a few plain lines that say `piece`, and nothing left on
    disk."""
    before = everything(folder)
    found, out, err = vitrail(*shlex.split(words))
    assert everything(folder) == before, "a refused command leaves nothing behind"
    assert found == code, err
    lines = err.splitlines()
    assert 1 <= len(lines) <= 5, err
    assert len(err) < 2000
    assert lines[0].startswith("vitrail: ")
    assert piece in " ".join(line.strip() for line in lines), err
    assert "Traceback" not in out + err
    assert "unexpected error" not in err


def must(*words: object) -> str:
    """Stdout of a command that must succeed."""
    code, out, err = vitrail(*words)
    assert code == 0, f"vitrail {' '.join(map(str, words))}\n{out}\n{err}"
    return out
