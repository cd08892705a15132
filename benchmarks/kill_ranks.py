"""Kills processes of a run of two, over and over: does it end in the same bytes as an undisturbed one?

    python benchmarks/kill_ranks.py --kills 20

One launch, `vitrail train --nproc 2 --max-restarts N`. Each time one of the two processes, drawn at random, is killed
(SIGKILL): within a step, while a checkpoint is written, or during an evaluation, in turns. The launcher starts both
again and they go on from the newest checkpoint. Dropout, stochastic depth, averaged weights, accumulation, MixUp and
CutMix are on. Prints one JSON line: kills by moment, the steps that were lost at most, the seconds from a kill to the
next step (the longest, and the median), and whether the end is equal (SHA-256 of model.safetensors and of the last
checkpoint, every loss of the log).
"""

import argparse
import json
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from statistics import median

from history import append
from kill import EVERY, STEPS, Trial, last_step, outcome

MOMENTS = ("step", "save", "eval")
EVAL_EVERY = 7  # of `Trial.start`
LONGEST = 300.0  # seconds to wait for a step


def launch(words: list[str], restarts: int) -> subprocess.Popen:
    """The command in two processes, which share the processor."""
    command = [sys.executable, "-m", "vitrail", *words, "--nproc", "2", "--max-restarts", str(restarts)]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    return subprocess.Popen(command, env=environment, stdout=subprocess.DEVNULL)


def process_of(launcher: subprocess.Popen, rank: int) -> int:
    """The process of a rank; 0 where there is none just now."""
    try:
        for process in Path(f"/proc/{launcher.pid}/task/{launcher.pid}/children").read_text().split():
            if f"RANK={rank}" in Path(f"/proc/{process}/environ").read_text().split("\0"):
                return int(process)
    except OSError:
        pass
    return 0


def wait_for(launcher: subprocess.Popen, out: Path, moment: str, step: int, chance: random.Random) -> bool:
    """Waits until the run is past a step, and then for the moment; False where the run has ended before."""
    until = time.monotonic() + LONGEST
    while last_step(out) < step:
        if launcher.poll() is not None or time.monotonic() > until:
            return False
        time.sleep(0.002)
    if moment == "save":
        until = time.monotonic() + 5
        while not list((out / "checkpoints").glob(".step-*")) and time.monotonic() < until:
            if launcher.poll() is not None:
                return False
    elif moment == "step":
        time.sleep(chance.random() * 0.05)
    return launcher.poll() is None


def disturb(launcher: subprocess.Popen, out: Path, kills: int, seed: int) -> dict[str, float]:
    """Kills a process so often, never past what is left of the run, and notes what that cost."""
    chance = random.Random(seed)
    found: dict[str, float] = {**dict.fromkeys(MOMENTS, 0), "lost_steps": 0}
    seconds = list[float]()
    for number in range(kills):
        moment = MOMENTS[number % len(MOMENTS)]
        target = last_step(out) + chance.randint(1, 2)
        target = -(-target // EVAL_EVERY) * EVAL_EVERY if moment == "eval" else target
        target = min(target, STEPS - 4)
        if not wait_for(launcher, out, moment, target, chance):
            break
        if not (process := process_of(launcher, chance.randrange(2))):
            continue
        at = last_step(out)
        os.kill(process, signal.SIGKILL)
        found[moment] += 1
        began, seen = time.monotonic(), None
        while seen is None and launcher.poll() is None and time.monotonic() - began < LONGEST:
            time.sleep(0.01)
            now = last_step(out)
            seen = now if now != at else None  # the log begins again at the checkpoint
        seconds.append(time.monotonic() - began)
        found["lost_steps"] = max(found["lost_steps"], at - (seen or at))
    return {**found, "restart_s": max(seconds, default=0.0), "restart_median_s": median(seconds or [0.0])}


def trial(folder: Path, kills: int, seed: int) -> tuple[dict[str, float], bool]:
    """An undisturbed run and a disturbed one: what the kills cost, and whether both end in the same bytes."""
    made = Trial(folder / "one", seed)
    assert launch(made.start(folder / "untouched"), 0).wait() == 0, "the untouched run failed"
    launcher = launch(made.start(folder / "killed"), 2 * kills)
    found = disturb(launcher, folder / "killed", kills, seed)
    finished = launcher.wait() == 0
    return found, finished and outcome(folder / "killed") == outcome(folder / "untouched")


def main(words: list[str] | None = None) -> bool:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=20)
    parser.add_argument("--seed", type=int, default=0)
    given = parser.parse_args(words)
    with tempfile.TemporaryDirectory() as folder:
        found, equal = trial(Path(folder), given.kills, given.seed)
    figures = {**{k: round(v, 1) for k, v in found.items()}, "interval": EVERY, "equal": int(equal)}
    print(json.dumps(figures))
    append("kill_ranks", figures, vars(given))
    return equal


if __name__ == "__main__":
    sys.exit(0 if main() else 1)
