"""Small models and optimisers at equal processor time from random weights, through `vitrail train`: the search.

    OMP_NUM_THREADS=1 python benchmarks/small_models.py --data data --runs runs/small --seconds 45
    OMP_NUM_THREADS=1 python benchmarks/small_models.py --data data --steps 300 --arms default adamw --seeds 0 1 2

`--data` as in `race.py`. With `--seconds` each arm gets as many steps as it makes in that time, by what a step took in
short runs before, in turns, so no clock ends a run; with `--steps` all get the same. Prints a table of means.
"""

import argparse
import json
import statistics
import sys
import tempfile
from pathlib import Path

from history import append
from race import KEPT, SETS, data_words, launch

ARMS = {  # words of `vitrail train` beside the data
    "default": "",
    "adamw": "--optim.name adamw",
    "fp32": "--precision fp32",
    "nano": "--model vit/nano",
    "nano, adamw": "--model vit/nano --optim.name adamw",
    "pico": "--model vit/pico",
    "micro": "--model vit/micro",
    "micro, no attention": "--model vit/micro --model.depth 0",
    "micro, two blocks": "--model vit/micro --model.depth 2",
    "linear schedule": "--optim.schedule linear",
    "rate x3": "--lr 1e-2",
    "batch 64": "--batch-size 64",
    "shifts": "--augment.crop pad",
    "no shifts": "--augment.crop none",
}
PROBE = 40  # steps of a short run


def train(data: str, arm: str, steps: int, seed: int, given: argparse.Namespace) -> tuple[float, float]:
    """The share of the test images that is right, in per cent, and the processor seconds of the whole run."""
    with tempfile.TemporaryDirectory(dir=given.runs) as folder:
        out = Path(folder) / "run"
        words = [*data_words(data, given), *KEPT.split(), *ARMS[arm].split()]
        words += ["--steps", str(steps), "--seed", str(seed), "--out", str(out)]
        _, seconds = launch([sys.executable, "-m", "vitrail", "train", *words])
        found = json.loads((out / "evaluation" / "test.json").read_text())
    return 100 * found["top1"], seconds


def calibrate(data: str, given: argparse.Namespace) -> dict[str, int]:
    """Steps of each arm within the seconds, by the medians of short runs in turns."""
    found: dict[str, list[float]] = {arm: [] for arm in given.arms}
    for _ in range(given.rounds):
        for arm in given.arms:
            short, long = (train(data, arm, steps, 0, given)[1] for steps in (1, PROBE))
            found[arm].append((long - short) / (PROBE - 1))
    return {arm: max(1, round(given.seconds / max(1e-6, statistics.median(times)))) for arm, times in found.items()}


def main(words: list[str] | None = None) -> None:
    asked = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    asked.add_argument("--data", type=Path, default=Path("data"))
    asked.add_argument("--runs", type=Path, default=Path("runs/small"))
    asked.add_argument("--sets", nargs="+", default=tuple(SETS), choices=tuple(SETS))
    asked.add_argument("--arms", nargs="+", default=tuple(ARMS), choices=tuple(ARMS))
    asked.add_argument("--seeds", nargs="+", type=int, default=(0,))
    asked.add_argument("--rounds", type=int, default=2)
    length = asked.add_mutually_exclusive_group(required=True)
    length.add_argument("--seconds", type=float)
    length.add_argument("--steps", type=int)
    given = asked.parse_args(words)
    given.runs.mkdir(parents=True, exist_ok=True)
    print("| set | arm | steps | top-1 % | sd | seeds |\n|---|---|---|---|---|---|", flush=True)
    figures = {}
    for data in given.sets:
        steps = calibrate(data, given) if given.steps is None else dict.fromkeys(given.arms, given.steps)
        for arm in given.arms:
            shares = [train(data, arm, steps[arm], seed, given)[0] for seed in given.seeds]
            spread = f"{statistics.stdev(shares):.1f}" if len(shares) > 1 else ""
            row = (data, arm, f"{steps[arm]:,}", f"{statistics.mean(shares):.1f}", spread, len(shares))
            print("| " + " | ".join(map(str, row)) + " |", flush=True)
            figures[f"{data} {arm}"] = statistics.mean(shares)
    append("small_models", figures, {"seconds": given.seconds, "steps": given.steps, "seeds": len(given.seeds)})


if __name__ == "__main__":
    main()
