"""Kills training with SIGKILL, again and again, and compares what comes out with a run that nobody touched.

    python benchmarks/kill.py --kills 20 --seeds 3

For every seed one run is killed at random moments until it is done, and one more is killed inside each of the steps of
writing a checkpoint. Dropout, stochastic depth, averaged weights, accumulation, MixUp and CutMix are on; every second
seed reads its images in a worker process with RandAugment. Prints one JSON line: how often was killed, and how many of
the runs ended in the same bytes (SHA-256 of model.safetensors and of the last checkpoint's tensors, and every loss in
the log).
"""

import argparse
import contextlib
import hashlib
import io
import json
import os
import random
import shutil
import signal
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from history import append

from vitrail.cli.main import main as vitrail_main
from vitrail.engine import checkpoint
from vitrail.engine.log import read_rows

STEPS, EVERY = 60, 3
POINTS = ("written", "manifest", "rename", "prune", "pruning")


def aim(point: str, number: int) -> None:
    """From here on this process kills itself inside its save `number` (from 1):

    written    the first file of the temporary folder is written, not yet synced to the disk
    manifest   everything is written, the manifest not yet synced
    rename     everything is synced, the folder has not its final name yet
    prune      the folder has its name, old checkpoints are still there
    pruning    an old checkpoint is half deleted
    """
    fsync, rename, rmtree = os.fsync, os.rename, shutil.rmtree
    saves: list[Path] = []

    def now(here: str) -> bool:
        return here == point and len(saves) == number

    def die() -> None:
        os.kill(os.getpid(), signal.SIGKILL)

    def aimed_fsync(handle: int) -> None:
        if now("written") or (now("manifest") and (saves[-1] / "manifest.json").exists()):
            die()
        fsync(handle)

    def aimed_rename(source: Path, target: Path) -> None:
        if now("rename"):
            die()
        rename(source, target)

    def aimed_rmtree(path: Path | str, ignore_errors: bool = False) -> None:
        path = Path(path)
        if path.name.startswith(".step-"):
            saves.append(path)  # a save begins by clearing its place
        elif now("prune"):
            die()
        elif now("pruning"):
            sorted(path.iterdir())[0].unlink()
            die()
        rmtree(path, ignore_errors=ignore_errors)

    os.fsync, os.rename, shutil.rmtree = aimed_fsync, aimed_rename, aimed_rmtree  # type: ignore[assignment]


def spawn(words: list[str], before: Callable[[], None] | None = None) -> int:
    """`vitrail` in a process of its own, a fork of this one: what takes time is imported already."""
    child = os.fork()
    if child:
        return child
    code = 1
    try:
        null = os.open(os.devnull, os.O_WRONLY)
        os.dup2(null, 1)
        if before:
            before()
        code = vitrail_main(words)
    finally:
        os._exit(code)


def wait(child: int) -> int:
    """The exit code of a process, minus the signal that killed it."""
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


class Trial:
    """One seed: its data, its recipe and what an untouched run makes of it."""

    def __init__(self, folder: Path, seed: int):
        self.folder, self.seed = folder, seed
        folder.mkdir(parents=True)
        self.data = folder / "tiny.npz"
        draw = np.random.default_rng(seed)
        parts = {"train": 50, "val": 17}
        arrays = {f"{p}_images": draw.integers(0, 256, (n, 12, 12, 3), np.uint8) for p, n in parts.items()}
        np.savez(self.data, **arrays, **{f"{p}_labels": np.arange(n) % 3 for p, n in parts.items()})
        self.warm()
        assert wait(spawn(self.start(folder / "untouched"))) == 0, "the untouched run failed"
        self.wanted = outcome(folder / "untouched")

    def warm(self) -> None:
        """One step in this very process, so that forks of it find everything imported."""
        with contextlib.redirect_stdout(io.StringIO()):
            vitrail_main(self.start(self.folder / "warm", 1))

    def start(self, out: Path, steps: int = STEPS) -> list[str]:
        keys = {
            "model.depth": 2, "model.width": 16, "model.heads": 2, "model.patch": 4, "model.dropout": 0.1,
            "model.drop-path": 0.2,
            "augment.mixup": 0.2, "augment.cutmix": 1.0, "augment.random_erasing": 0.25,
            "augment.randaugment_ops": 2 * (self.seed % 2),
            "optim.ema_decay": 0.9, "train.steps": steps, "train.batch_size": 16, "train.eval-every": 7,
            "train.seed": self.seed,
            "train.precision": "fp32", "runtime.micro_batch": 8, "runtime.workers": self.seed % 2,
            "runtime.save-every": EVERY, "runtime.log-every": 1,
        }  # fmt: skip
        words = ["train", "--data", str(self.data), "--model", "vit/nano", "--out", str(out), "--device", "cpu"]
        return [*words, *(w for key, value in keys.items() for w in (f"--{key}", str(value)))]

    def next(self, out: Path) -> list[str]:
        """The words that go on with a run, or begin it where no run is there yet."""
        return ["train", "--resume", str(out), "--device", "cpu"] if (out / "run.json").exists() else self.start(out)

    def at_random(self, kills: int) -> tuple[int, bool]:
        """Kills at random moments: how often it happened, and whether the end is equal."""
        out, chance, done = self.folder / "random", random.Random(self.seed), 0
        targets = sorted(chance.choices(range(STEPS - 1), k=kills))
        for target in targets:
            child = spawn(self.next(out))
            began = time.monotonic()
            while last_step(out) < target and time.monotonic() - began < 60:
                time.sleep(0.001)
            time.sleep(chance.random() * 0.05)  # somewhere within the steps after it, saving and evaluating included
            os.kill(child, signal.SIGKILL)
            done += wait(child) == -signal.SIGKILL
        finished = wait(spawn(self.next(out))) == 0
        return done, finished and outcome(out) == self.wanted

    def aimed(self, point: str) -> bool:
        """Kills inside a save: whether the newest checkpoint is at most one interval old, litter is gone and the end is
        equal."""
        out = self.folder / f"aimed-{point}"
        number = random.Random(f"{self.seed} {point}").randint(
            3, STEPS // EVERY - 1
        )  # from the third save on there is one to prune
        if wait(spawn(self.start(out), lambda: aim(point, number))) != -signal.SIGKILL:
            return False
        litter = list((out / "checkpoints").glob(".*"))
        found = checkpoint.load_newest(out / "checkpoints")[0]
        fresh = found is not None and found.numbers["step"] >= (number - 1) * EVERY
        finished = wait(spawn(self.next(out))) == 0
        clean = not list((out / "checkpoints").glob(".*"))
        return fresh and bool(litter) == (point in POINTS[:3]) and finished and clean and outcome(out) == self.wanted


def last_step(out: Path) -> int:
    """The last step in a run's log."""
    return max((row["step"] for row in read_rows(out / "log.jsonl")), default=0)


def outcome(out: Path) -> dict[str, object]:
    """What must not differ between two runs: bytes of the weights and of the last checkpoint, and every logged loss."""
    files = [out / "model.safetensors", *sorted((out / "checkpoints" / checkpoint.checkpoint_name(STEPS)).glob("*"))]
    losses = [(row["step"], row["loss"]) for row in read_rows(out / "log.jsonl") if row["kind"] == "train"]
    return {**{p.name: hashlib.sha256(p.read_bytes()).hexdigest() for p in files}, "losses": losses}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=20, help="random kills of each seed's run")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--points", nargs="*", default=POINTS, choices=POINTS, help="where inside a save to kill")
    given = parser.parse_args()
    torch.set_num_threads(1)
    kills, aimed, equal, runs = 0, 0, 0, 0
    with tempfile.TemporaryDirectory() as folder:
        for seed in range(given.seeds):
            trial = Trial(Path(folder) / str(seed), seed)
            if given.kills:
                done, same = trial.at_random(given.kills)
                kills, equal, runs = kills + done, equal + same, runs + 1
            for point in given.points:
                aimed, equal, runs = aimed + 1, equal + trial.aimed(point), runs + 1
    figures = {"kills": kills, "aimed": aimed, "runs": runs, "equal": equal}
    print(json.dumps({**figures, "torch": torch.__version__}))
    append("kill", figures, vars(given))
    sys.exit(0 if equal == runs else 1)


if __name__ == "__main__":
    main()
