"""What each way of saving work saves: seconds of a training step with it, relative to the same step without, in
alternation.

    OMP_NUM_THREADS=1 python benchmarks/saving.py [--model vit/tiny] [--size 112] [--batch 32] [--rounds 8]

Absolute times mean nothing on a shared machine, so in every round each takes one step, in an order that rotates, and
the ratio is of the least times, which somebody else's work disturbs least; for `start_size` of the sums over a whole
run, since its steps differ. Images are random and lie on disk as PNG.
"""

import argparse
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from history import append
from PIL import Image

from vitrail.engine.optim import build_parameter_groups
from vitrail.engine.processes.world import World
from vitrail.engine.train import train_steps
from vitrail.recipe import AugmentConfig, Choice, DataConfig, OptimConfig, Recipe, RuntimeConfig, TrainConfig, override
from vitrail.training import create, session
from vitrail.training.steps import loop_settings, remaining_batches

ALONE = World(0, 1, torch.device("cpu"))
SWITCHES: dict[str, tuple[list[tuple[str, dict]], list[tuple[str, dict]]]] = {  # name: (without, with)
    "patch_dropout 0.5": ([], [("model", {"patch_dropout": 0.5})]),
    "drop_path_skip, drop_path 0.3": (
        [("model", {"drop_path": 0.3, "drop_path_schedule": "constant"})],
        [("model", {"drop_path": 0.3, "drop_path_schedule": "constant", "drop_path_skip": True})],
    ),
    "start_size half the size": ([], [("train", {"start_size": [64, 64]})]),
    "channels_last": ([], [("runtime", {"channels_last": True})]),
    "cache": ([], [("runtime", {"cache_images": True})]),
}
OPTIMISERS = {
    "AdamW, foreach": {"foreach": True},
    "AdamW, a loop": {"foreach": False},
    "AdamW, fused (ours)": {"fused": True},
}


class Never:
    """A run that nobody stops."""

    def is_requested(self) -> bool:
        return False


def images(folder: Path, count: int, size: int) -> Path:
    random = np.random.default_rng(0)
    for name in ("a", "b"):
        (folder / name).mkdir(parents=True)
        for i in range(count // 2):
            Image.fromarray(random.integers(0, 256, (2 * size, 2 * size, 3), np.uint8)).save(
                folder / name / f"{i:04d}.png"
            )
    return folder


def started(recipe: Recipe, keys: list[tuple[str, dict]], out: Path) -> session.Session:
    for section, values in keys:
        recipe = override(recipe, section, values)
    return create.create_session(recipe, out, ALONE)[0]


def stepping(running: session.Session) -> Iterator[Any]:
    return train_steps(running.state, running.bundle.task, remaining_batches(running), loop_settings(running, Never()))  # type: ignore[arg-type]


def alternate(runs: dict[str, session.Session], rounds: int, first: int = 3) -> dict[str, list[float]]:
    """Seconds of each step of each run, but for the `first` ones: they read images for the first time."""
    stepped, times = {name: stepping(running) for name, running in runs.items()}, {name: [] for name in runs}
    names = list(runs)
    for r in range(rounds + first):
        for name in names[r % len(names) :] + names[: r % len(names)]:
            start = time.perf_counter()
            next(stepped[name])
            if r >= first:
                times[name].append(time.perf_counter() - start)
    return times


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="vit/tiny")
    parser.add_argument("--size", type=int, default=112)
    parser.add_argument("--batch", type=int, default=32)
    parser.add_argument("--rounds", type=int, default=8)
    given = parser.parse_args()
    steps = given.rounds + 3
    figures = {}
    print("| switch | seconds a step, relative to without |\n|---|---|")
    with tempfile.TemporaryDirectory() as place:
        data = images(Path(place) / "images", 3 * given.batch, given.size)
        recipe = Recipe(
            model=Choice(given.model), data=DataConfig("", {"path": str(data)}),
            augment=AugmentConfig(crop="random", hflip=True),
            optim=OptimConfig(warmup_steps=2), runtime=RuntimeConfig(workers=0),
            train=TrainConfig(steps=steps, batch_size=given.batch, precision="fp32", eval_every=0),
        )  # fmt: skip
        recipe = override(recipe, "input", {"size": [given.size, given.size], "resize_mode": "crop"})
        for i, (name, (off, on)) in enumerate(SWITCHES.items()):
            runs = {
                kind: started(recipe, keys, Path(place) / f"{kind}{i}") for kind, keys in (("off", off), ("on", on))
            }
            whole = "grow" in name
            times = alternate(runs, steps if whole else given.rounds, 0 if whole else 3)
            middle = sum if whole else min
            figures[name] = middle(times["on"]) / middle(times["off"])
            print(f"| {name} | {figures[name]:.2f} |", flush=True)
        runs = {name: started(recipe, [], Path(place) / f"optim{i}") for i, name in enumerate(OPTIMISERS)}
        for name, running in runs.items():
            net: Any = running.state.model
            made = build_parameter_groups(net, list(net.backbone.blocks), 0.05)
            running.state.optimizer = torch.optim.AdamW(made, lr=1.0, **OPTIMISERS[name])
        times = alternate(runs, given.rounds)
        for name in runs:
            figures[name] = min(times[name]) / min(times["AdamW, foreach"])
            print(f"| {name} | {figures[name]:.2f} |", flush=True)
    append("saving", figures, vars(given))


if __name__ == "__main__":
    main()
