"""Seconds of training until a test accuracy of 88 % on Fashion-MNIST: ours against timm's ViT with timm's recipe.

    python benchmarks/time_to_accuracy.py --data data/fashion-mnist [--target 88] [--epochs 4] \
        [--their-epochs 20] [--their-patch 4]

Both train in one process, turn by turn, `--turn` steps each, so that whatever else the machine does falls on both.
Counted are data and steps, not evaluation. Theirs is timm's VisionTransformer with as many parameters as ours (within 3
%), at timm's settings for a ViT: AdamW, cosine with warm-up, MixUp and CutMix, RandAugment m9, random crops, erasing,
smoothing, drop path, all by timm's own functions. Ours is `vit/nano` by the recipe that vitrail chooses for this set,
with fewer epochs.
"""

import argparse
import random
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from history import append
from torch import nn

from vitrail.engine.signals import StopSignal
from vitrail.engine.train import train_steps
from vitrail.engine.world import World
from vitrail.evaluation import evaluate
from vitrail.recipe import AugmentConfig, Choice, DataConfig, OptimConfig, Recipe, RuntimeConfig, TrainConfig
from vitrail.training import create, session
from vitrail.training.loop import loop_settings, remaining_batches

ALONE = World(0, 1, torch.device("cpu"))


class Turn(NamedTuple):
    """What some steps took, and the share of the test images that is right after them."""

    steps: int
    seconds: float
    accuracy: float


def ours(data: str, epochs: float, turn: int, share: float = 1.0) -> tuple[session.Session, Iterator[Turn]]:
    """A run of ours, `turn` steps at a time."""
    recipe = Recipe(
        model=Choice("vit/nano", {"patch": 8}),
        data=DataConfig("", {"path": data}, fraction=share),
        augment=AugmentConfig(crop="none", hflip=True),
        optim=OptimConfig(lr=4e-3),
        train=TrainConfig(epochs=epochs, batch_size=128, precision="fp32", eval_every=0),
        runtime=RuntimeConfig(workers=0),
    )
    running, _ = create.create_session(recipe, Path(tempfile.mkdtemp()) / "run", ALONE)

    def turns() -> Iterator[Turn]:
        with StopSignal() as stop:
            seconds = 0.0
            for report in train_steps(
                running.state, running.bundle.task, remaining_batches(running), loop_settings(running, stop)
            ):
                seconds += report.step_s
                if report.step % turn == 0 or report.step == running.steps:
                    split = running.dataset.splits["test"]
                    found = evaluate.evaluate(running.bundle, split, ALONE, running.preprocess, 0).metrics
                    yield Turn(report.step, seconds, 100 * float(found["top1"]))

    return running, turns()


def peer(parameters: int, patch: int) -> nn.Module:
    """timm's ViT for 28x28 grey images, six blocks deep, as wide as makes its size ours."""
    from timm.models.vision_transformer import VisionTransformer

    def made(width: int) -> nn.Module:
        return VisionTransformer(28, patch, 1, 10, embed_dim=width, depth=6, num_heads=4, drop_path_rate=0.1)

    with torch.device("meta"):
        sizes = {width: sum(p.numel() for p in made(width).parameters()) for width in range(32, 129, 4)}
    return made(min(sizes, key=lambda width: abs(sizes[width] - parameters)))


def theirs(running: session.Session, epochs: int, turn: int, patch: int) -> Iterator[Turn]:
    """timm's model and recipe on the same images, `turn` steps at a time."""
    from PIL import Image, ImageOps
    from timm.data import Mixup, auto_augment, create_transform
    from timm.loss import SoftTargetCrossEntropy
    from timm.optim import create_optimizer_v2
    from timm.scheduler import CosineLRScheduler

    random.seed(0)  # timm augments by both of these, so that without them no two races are the same
    np.random.seed(0)
    # timm sometimes asks for 0 bits, which today's Pillow refuses
    auto_augment.NAME_TO_OP["PosterizeIncreasing"] = lambda image, bits, **rest: ImageOps.posterize(image, max(1, bits))
    split, test, batch = running.dataset.splits["train"], running.dataset.splits["test"], 128
    mean, std = running.preprocess.mean, running.preprocess.std
    model = peer(sum(p.numel() for p in running.state.model.parameters()), patch)
    look = create_transform((1, 28, 28), is_training=True, auto_augment="rand-m9-mstd0.5-inc1", mean=mean, std=std,
                            re_prob=0.25,
                            interpolation="bilinear", scale=(0.35, 1.0))  # fmt: skip
    plain = create_transform((1, 28, 28), mean=mean, std=std, crop_pct=1.0)
    mix = Mixup(0.8, 1.0, label_smoothing=0.1, num_classes=10)
    optimizer = create_optimizer_v2(model, opt="adamw", lr=1e-3, weight_decay=0.05)
    each = len(split) // batch
    schedule = CosineLRScheduler(
        optimizer, epochs * each, lr_min=1e-5, warmup_t=max(1, epochs * each // 10), warmup_lr_init=1e-6
    )
    loss_of, shuffle = SoftTargetCrossEntropy(), np.random.default_rng(0)
    held = torch.stack([plain(Image.fromarray(test.read(i)[:, :, 0])) for i in range(len(test))])
    done, seconds = 0, 0.0
    while done < epochs * each:
        order = shuffle.permutation(len(split))
        for start in range(0, each * batch, batch):
            began, ids = time.perf_counter(), order[start : start + batch]
            images = torch.stack([look(Image.fromarray(split.read(int(i))[:, :, 0])) for i in ids])
            images, targets = mix(images, torch.from_numpy(split.labels[ids]))
            model.train()
            optimizer.zero_grad()
            loss_of(model(images), targets).backward()
            optimizer.step()
            done += 1
            schedule.step_update(done)
            schedule.step(done)
            seconds += time.perf_counter() - began
            if done % turn == 0 or done == epochs * each:
                yield Turn(done, seconds, accuracy(model, held, test.labels))


@torch.inference_mode()
def accuracy(model: nn.Module, images: torch.Tensor, labels: np.ndarray) -> float:
    model.eval()
    said = torch.cat([model(part).argmax(1) for part in images.split(500)])
    return 100 * float((said.numpy() == labels).mean())


def race(
    runners: dict[str, Iterator[Turn]], target: float, patience: float = 8.0
) -> dict[str, tuple[Turn | None, Turn]]:
    """Turn by turn until everyone has the target, has come to the end, or has taken `patience` times as long as the
    first who reached it: the turn in which it was reached, and the last turn."""
    reached: dict[str, tuple[Turn | None, Turn]] = {}
    going = dict(runners)
    while going:
        for name in list(going):
            turn = next(going[name], None)
            if turn is None:
                del going[name]
                continue
            print(f"{name:<6} step {turn.steps:>6}  {turn.seconds:7.1f} s  {turn.accuracy:.2f} %", flush=True)
            first = turn if turn.accuracy >= target else None
            reached[name] = (first, turn)
            best = min((done.seconds for done, _ in reached.values() if done), default=float("inf"))
            if first or turn.seconds > patience * best:
                del going[name]
    return reached


def main() -> None:
    asked = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    asked.add_argument("--data", default="data/fashion-mnist")
    asked.add_argument("--target", type=float, default=88.0)
    asked.add_argument("--epochs", type=float, default=4)
    asked.add_argument("--their-epochs", type=int, default=20)
    asked.add_argument("--their-patch", type=int, default=4)
    asked.add_argument("--turn", type=int, default=100)
    given = asked.parse_args()
    running, mine = ours(given.data, given.epochs, given.turn)
    found: dict[str, Any] = race(
        {"ours": mine, "timm": theirs(running, given.their_epochs, given.turn, given.their_patch)}, given.target
    )
    for name, (first, last) in found.items():
        accuracy, seconds = (given.target, first.seconds) if first else (f"{last.accuracy:.2f}", last.seconds)
        print(f"{name}: {accuracy} % after {seconds:.1f} s")
    reached = {
        name: {"reached": first is not None, "seconds": (first or last).seconds}
        for name, (first, last) in found.items()
    }
    append("time_to_accuracy", reached, {key: value for key, value in vars(given).items() if key != "data"})
    first, second = found["ours"][0], found["timm"][0] or found["timm"][1]
    if first:
        more = "" if found["timm"][0] else "less than "
        print(f"ours takes {more}{first.seconds / second.seconds:.2f} of timm's time")


if __name__ == "__main__":
    main()
