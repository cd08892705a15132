"""Data, recipes and runs so small that hundreds of them fit into a test."""

import hashlib
import os
import resource
import runpy
import signal
import sys
import threading
import time
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from vitrail.assembly import lock
from vitrail.assembly.run_directory import RunFolder
from vitrail.cli.main import main
from vitrail.data import loader
from vitrail.engine import train as steps_of
from vitrail.engine.processes.world import World
from vitrail.evaluation import evaluate
from vitrail.recipe import (
    AugmentConfig,
    Choice,
    DataConfig,
    EvalConfig,
    InitConfig,
    OptimConfig,
    Recipe,
    RuntimeConfig,
    TrainConfig,
)
from vitrail.training import create, evaluations, loop, resume, session

torch.set_num_threads(1)

ALONE = World(0, 1, torch.device("cpu"))
WORDS = [
    "--model", "vit/nano", "--model.width", "16", "--model.heads", "2", "--model.depth", "1", "--model.patch", "4",
    "--img-size", "8",
]  # fmt: skip
MODEL = {"depth": 2, "width": 16, "heads": 2, "patch": 4, "dropout": 0.1, "drop_path": 0.1}


def npz(folder: Path, train: int = 48, val: int = 17, size: int = 12, channels: int = 1, multi: bool = False) -> Path:
    """A MedMNIST-like file of noise in three classes."""
    folder.mkdir(parents=True, exist_ok=True)
    random = np.random.default_rng(0)
    arrays = {}
    for part, count in (("train", train), ("val", val)):
        arrays[f"{part}_images"] = random.integers(0, 256, (count, size, size, channels), np.uint8)
        arrays[f"{part}_labels"] = random.integers(0, 2, (count, 3)) if multi else np.arange(count) % 3
    np.savez(folder / "tiny.npz", **arrays)
    return folder / "tiny.npz"


def images(folder: Path, each: int = 12, size: int = 12) -> Path:
    """Class folders of PNG files."""
    random = np.random.default_rng(0)
    for name in ("ant", "bee"):
        (folder / name).mkdir(parents=True)
        for i in range(each):
            Image.fromarray(random.integers(0, 256, (size, size, 3), np.uint8)).save(folder / name / f"{i:03d}.png")
    return folder


def recipe(path: Path, model=(), augment=(), optim=(), train=(), runtime=(), data=(), eval=()) -> Recipe:
    """Every source of random numbers is on by default. The others are the keys of sections."""
    return Recipe(
        model=Choice("vit/nano", {**MODEL, **dict(model)}),
        data=DataConfig("", {"path": str(path)}, **dict(data)),
        init=InitConfig(fit_head=False),  # a fit takes longer than such a run
        augment=AugmentConfig(**{"mixup": 0.3, "cutmix": 0.5, "random_erasing": 0.2, **dict(augment)}),
        optim=OptimConfig(**{"ema_decay": 0.9, **dict(optim)}),
        train=TrainConfig(**{"steps": 12, "batch_size": 16, "precision": "fp32", **dict(train)}),
        runtime=RuntimeConfig(**{"micro_batch": 8, "workers": 0, "save_every": 3, "log_every": 1, **dict(runtime)}),
        eval=EvalConfig(**dict(eval)),
    )


def begin(made: Recipe, out: Path) -> session.Session:
    return create.create_session(made, out, ALONE)[0]


def again(out: Path, given=(), allowed=()) -> session.Session:
    return resume.resume_session(RunFolder(out), list(given), list(allowed), ALONE)


def finish(running: session.Session) -> list[loop.Event]:
    return list(loop.run_training(running))


def score(patch, table: dict[int, float]) -> None:
    """What the evaluation after each step gives; the last one of a run is a real one."""
    real = evaluations.evaluate_session

    def evaluate_session(running, frechet, final=False):
        if final:
            return real(running, frechet, final)
        step = running.state.step
        values = {"part": "val", "top1": table.get(step, 0.0), "count": 17}
        return evaluations.Measured(step, "none", "fp32", real, values)  # of another part than the final one

    patch.setattr(evaluations, "evaluate_session", evaluate_session)


def digest(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def steps(out: Path) -> list[str]:
    """The checkpoints of a run by name, oldest first."""
    return sorted(p.name for p in (out / "checkpoints").iterdir())


def slowed(words: list[str]) -> int:
    """The command with every step made longer."""
    update = steps_of.update_weights

    def slow(*given):
        time.sleep(0.05)
        return update(*given)

    steps_of.update_weights = slow
    return main(words)


def slowed_judging(words: list[str]) -> int:
    """The command with every step and every judgement made longer, and told of."""
    judge = evaluate.evaluate

    def slow(*given, **keys):
        print("judging", flush=True)
        time.sleep(0.7)
        return judge(*given, **keys)

    evaluate.evaluate = slow
    return slowed(words)


class Broken:
    """A batch whose worker dies between announcing and handing it over."""

    def __reduce__(self):
        return connect, (os.getpid(),)


def connect(worker: int):
    threading.Timer(0.1, os.kill, (worker, signal.SIGKILL)).start()
    raise ConnectionResetError(104, "Connection reset by peer")


def broken_worker(words: list[str]) -> int:
    """The command with a fourth batch that is `Broken`."""
    read = loader.Requests.__getitem__
    loader.Requests.__getitem__ = lambda self, index: Broken() if index == 4 else read(self, index)
    return main(words)


def hold(words: list[str]) -> int:
    """Works in the folder of a run, but does nothing; with a second word, beside a child such as a worker that reads
    images."""
    with lock.hold_lock(Path(words[0]), ALONE):
        print("held", flush=True)
        if len(words) > 1 and os.fork() == 0:
            time.sleep(20)
            os._exit(0)
        time.sleep(20)
    return 0


def closed(words: list[str]) -> int:
    """The command as `>&- 2>&-` starts it: the streams are closed, and Python has none."""
    os.close(1)
    os.close(2)
    sys.stdout = sys.stderr = None
    return main(words)


def limited(words: list[str]) -> int:
    """The command where no file may be larger than 30,000 bytes."""
    resource.setrlimit(resource.RLIMIT_FSIZE, (30_000, 30_000))
    return main(words)


def script(words: list[str]) -> int:
    """`python WORDS`."""
    sys.argv = words
    runpy.run_path(words[0], run_name="__main__")
    return 0
