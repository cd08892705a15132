"""What each augmentation costs, in images a second relative to none, as a Markdown table.

    python benchmarks/augment.py [--rounds 5]

Two columns: a whole training step of vit/nano on the embedded set (28x28, grey, batch 128), reading in the same
process; and the data side alone (reading from memory, augmenting, mixing) for photographs of 320x256 that become
224x224. Times are those of the processor, since on a shared machine the clock counts the others' work too; each round
times every setting once, in an order that rotates, and the ratio is of the medians. One thread, so that nothing waits
for anything. Below, reading JPEG files of 320x256 with and without runtime.cache_images.
"""

import argparse
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from history import append
from PIL import Image

from vitrail.assembly.resolve import Names
from vitrail.data.cache import cache_images
from vitrail.data.dataset import ArrayReader, Split
from vitrail.data.loader import Fetcher
from vitrail.data.transforms.preprocess import Preprocess
from vitrail.datasets import imagefolder
from vitrail.engine.processes.world import World
from vitrail.recipe import AugmentConfig, Choice, DataConfig, Recipe, RuntimeConfig, TrainConfig
from vitrail.training import create, loop
from vitrail.training.feed import Feed, build_mixing, build_stream

BATCH, PHOTOS, STEPS = 128, 32, 6  # images a step, images a step of photographs, steps a timing
WORLD = World(0, 1, torch.device("cpu"))
NONE: dict[str, Any] = {"crop": "none", "hflip": False}
AUGMENTS: dict[str, dict[str, Any]] = {
    "none": {},
    "hflip": {"hflip": True},
    "crop pad": {"crop": "pad"},
    "crop random": {"crop": "random"},
    "random_erasing 0.25": {"random_erasing": 0.25},
    "randaugment_ops 2": {"randaugment_ops": 2},
    "auto_augment autoaugment": {"auto_augment": "autoaugment"},
    "auto_augment trivialaugment": {"auto_augment": "trivialaugment"},
    "auto_augment 3-augment": {"auto_augment": "3-augment"},
    "color_jitter 0.3": {"color_jitter": 0.3},
    "mixup 0.8": {"mixup": 0.8},
    "cutmix 1": {"cutmix": 1.0},
    "mixup 0.8, cutmix 1": {"mixup": 0.8, "cutmix": 1.0},
    "repeated_aug 3": {"repeated_aug": 3},
}
SECTIONS: dict[str, dict[str, dict[str, Any]]] = {
    "sampler balanced": {"data": {"sampler": "balanced"}},
    "start_size 14 14 (first fifth)": {"train": {"start_size": (14, 14)}},
}
Step = Callable[[], object]


def small(folder: Path, augment: dict[str, Any], sections: dict[str, dict[str, Any]]) -> Step:
    """A training step of vit/nano on the embedded set."""
    recipe = Recipe(
        model=Choice("vit/nano"),
        data=DataConfig("", {"path": "mini"}, **sections.get("data", {})),
        augment=AugmentConfig(**{**NONE, **augment}),
        train=TrainConfig(
            **{"steps": 10**5, "batch_size": BATCH, "precision": "fp32", "eval_every": 0, **sections.get("train", {})}
        ),
        runtime=RuntimeConfig(workers=0, log_every=1, save_every=10**6),
    )
    running = create.create_session(recipe, folder, WORLD)[0]
    events = loop.run_training(running)
    return lambda: next(event for event in events if event.kind == "train")


def photographs(augment: dict[str, Any]) -> Step:
    """The data side of a step on photographs."""
    random = np.random.default_rng(0)
    split = Split([""] * 128, np.arange(128) % 10, ArrayReader(random.integers(0, 256, (128, 256, 320, 3), np.uint8)))
    recipe = Recipe(augment=AugmentConfig(**{**NONE, **augment}), train=TrainConfig(batch_size=PHOTOS))
    pre = Preprocess((224, 224), 3, (0.5,) * 3, (0.25,) * 3, "crop")
    task = Names().task(Choice("classification"), 10)
    feed = Feed(task.transform(recipe, pre), 0, task, WORLD.device, PHOTOS, PHOTOS, PHOTOS, build_mixing(recipe))
    fetch, order = Fetcher(split, feed.transform), build_stream(recipe, split)

    def steps() -> Iterator[object]:
        for step in range(10**9):
            yield feed.prepare(feed.micro_batches(fetch(order.keys(step)), 0)[0], step)

    made = steps()
    return lambda: next(made)


def seconds(steps: dict[str, Step], rounds: int, times: int) -> dict[str, float]:
    """The median time of a step of each."""
    names = list(steps)
    for step in steps.values():
        step()
    found: dict[str, list[float]] = {name: [] for name in names}
    for r in range(rounds):
        turn = r * len(names) // rounds
        for name in names[turn:] + names[:turn]:
            start = time.process_time()
            for _ in range(times):
                steps[name]()
            found[name].append((time.process_time() - start) / times)
    return {name: statistics.median(each) for name, each in found.items()}


def files(folder: Path) -> dict[str, Step]:
    """Reading a batch of JPEG files, and of the same images kept in memory."""
    random = np.random.default_rng(0)
    for name in ("ant", "bee"):
        (folder / name).mkdir(parents=True)
        for i in range(PHOTOS):
            coarse = Image.fromarray(random.integers(0, 256, (16, 20, 3), np.uint8))
            coarse.resize((320, 256), Image.Resampling.BICUBIC).save(folder / name / f"{i}.jpg", quality=90)
    dataset = imagefolder.build(imagefolder.Config(str(folder)))
    plain, kept = dataset.splits["train"], cache_images(dataset, ["train"], 1)[0].splits["train"]
    return {name: lambda s=s: [s.read(i) for i in range(PHOTOS)] for name, s in (("none", plain), ("cache", kept))}  # type: ignore[misc]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5)
    given = parser.parse_args()
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as place:
        base = Path(place)
        all_of = {name: (a, {}) for name, a in AUGMENTS.items()} | {name: ({}, s) for name, s in SECTIONS.items()}
        tiny = seconds({name: small(base / name, *each) for name, each in all_of.items()}, given.rounds, STEPS)
        large = seconds({name: photographs(a) for name, a in AUGMENTS.items()}, given.rounds, 1)
        disk = seconds(files(base / "photographs"), given.rounds, 1)
    print("| setting | training, 28x28: speed | us an image | data side alone, 224x224: speed | ms an image |")
    print("|---|---|---|---|---|")
    for name, spent in tiny.items():
        more = (spent - tiny["none"]) / BATCH * 1e6
        row = f"| {name} | {tiny['none'] / spent:.2f} | {more:+.0f} |"
        photo = large.get(name)
        print(
            row
            + (f" {large['none'] / photo:.2f} | {(photo - large['none']) / PHOTOS * 1e3:+.2f} |" if photo else " | |")
        )
    print(f"\nnone: {BATCH / tiny['none']:.0f} images/s in training, {PHOTOS / large['none']:.0f} photographs/s")
    print(f"reading JPEG files of 320x256: runtime.cache_images is {disk['none'] / disk['cache']:.0f} times as fast")
    speeds = {"training": {name: tiny["none"] / spent for name, spent in tiny.items()}}
    speeds |= {
        "data": {name: large["none"] / spent for name, spent in large.items()},
        "cache": {"files": disk["none"] / disk["cache"]},
    }
    append("augment", speeds, vars(given))


if __name__ == "__main__":
    main()
