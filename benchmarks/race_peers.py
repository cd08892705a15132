"""The rivals of `race.py` in one plain loop of torch: their networks, their settings, and the sweep that chose these.

    python benchmarks/race_peers.py train vit --file bloodmnist.npz --steps 500 --seed 0    # prints a line of JSON
    python benchmarks/race_peers.py sweep vit resnet --file bloodmnist.npz --seconds 15

All images of a set lie decoded in memory. Batches of 128, label smoothing 0.1, warm-up over 5 % of the steps and a
cosine to zero, gradients clipped at 1, horizontal flips; in plans of more than ten epochs images in colour are shifted
by up to 4 pixels, too. Random weights everywhere. `yolo` needs a Python that has ultralytics, whose network alone is
used: its own trainer reads files and augments for hundreds of epochs.
"""

import argparse
import bisect
import dataclasses
import json
import math
import os
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn
from torch.nn import functional as F

BATCH, SMOOTHING, WARMUP, CLIP, SHIFT, LONG = 128, 0.1, 0.05, 1.0, 4, 10
PARAMETERS = 481_066  # of vit/nano, which timm's ViT is made as large as
HELD_OUT, SWEEP_SEED = 2000, 100  # images of the training part that the sweep is judged by, at a seed of its own


@dataclass(frozen=True)
class Settings:
    """How a rival trains. `variant`: the side of a ViT's patches, or the stem of a ResNet."""

    optimizer: str = "adamw"
    lr: float = 1e-3
    weight_decay: float = 0.05
    variant: str = ""
    flip: bool = True


def adamw(lr: float, variant: str = "") -> Settings:
    return Settings("adamw", lr, 0.05, variant)


def sgd(lr: float, variant: str = "") -> Settings:
    return Settings("sgd", lr, 5e-4, variant)


CHOSEN = {
    "vit": adamw(2e-3, "8"),
    "resnet": adamw(3e-3),
    "resnet-small-stem": adamw(3e-3, "small"),
    "yolo": adamw(1e-3),
    "linear": Settings("adamw", 1e-3, 0.0, flip=False),
}
SWEPT = {
    "vit": [adamw(lr, patch) for patch in ("4", "8") for lr in (1e-3, 2e-3, 4e-3)],
    "resnet": [*(adamw(lr) for lr in (1e-3, 3e-3, 6e-3)), *(sgd(lr) for lr in (0.03, 0.1))],
    "yolo": [*(adamw(lr) for lr in (1e-3, 3e-3, 1e-2)), *(sgd(lr) for lr in (0.1, 0.3))],
    "linear": [Settings("adamw", lr, 0.0, flip=False) for lr in (3e-4, 1e-3, 3e-3)],
}


@dataclass
class Part:
    """Images uint8 [N C H W] and labels int64 [N]."""

    images: torch.Tensor
    labels: torch.Tensor


def read_part(file: Path, part: str) -> Part:
    with np.load(file) as arrays:
        images, labels = arrays[f"{part}_images"], arrays[f"{part}_labels"]
    images = images[..., None] if images.ndim == 3 else images
    return Part(
        torch.from_numpy(images.transpose(0, 3, 1, 2).copy()), torch.from_numpy(labels.reshape(-1).astype(np.int64))
    )


def split_off(part: Part, count: int) -> tuple[Part, Part]:
    """The part without `count` images, and these, drawn by a fixed seed."""
    order = torch.randperm(len(part.labels), generator=torch.Generator().manual_seed(0))
    held, rest = order[:count], order[count:]
    return Part(part.images[rest], part.labels[rest]), Part(part.images[held], part.labels[held])


def build(name: str, settings: Settings, shape: tuple[int, int, int], classes: int) -> nn.Module:
    """shape: channels, height, width of images."""
    channels, side = shape[0], shape[1]
    if name == "linear":
        return nn.Sequential(nn.Flatten(), nn.Linear(math.prod(shape), classes))
    if name == "yolo":
        return build_yolo(channels, classes)
    if name == "vit":
        return build_vit(side, int(settings.variant), channels, classes)
    import timm

    model = timm.create_model("resnet18", in_chans=channels, num_classes=classes)
    if settings.variant == "small":  # the custom for images of 32 pixels since He et al. 2016
        model.conv1, model.maxpool = nn.Conv2d(channels, 64, 3, 1, 1, bias=False), nn.Identity()
    return model


def build_vit(side: int, patch: int, channels: int, classes: int, parameters: int = PARAMETERS) -> nn.Module:
    """timm's ViT, six blocks deep, as wide as makes it as large as `vit/nano`; patches that divide the image."""
    from timm.models.vision_transformer import VisionTransformer

    patch = min((p for p in range(1, side + 1) if side % p == 0), key=lambda p: abs(p - patch))

    def made(width: int) -> nn.Module:
        return VisionTransformer(
            side, patch, channels, classes, embed_dim=width, depth=6, num_heads=4, drop_path_rate=0.1
        )

    def gap(width: int) -> int:
        with torch.device("meta"):
            return sum(p.numel() for p in made(width).parameters()) - parameters

    widths = range(32, 257, 4)
    above = bisect.bisect(widths, 0, hi=len(widths) - 1, key=gap)
    return made(min(widths[max(0, above - 1)], widths[above], key=lambda width: abs(gap(width))))


def build_yolo(channels: int, classes: int) -> nn.Module:
    """yolo11n-cls with random weights, and logits in evaluation as in training."""
    os.environ |= {"YOLO_OFFLINE": "true", "YOLO_AUTOINSTALL": "false", "YOLO_VERBOSE": "false"}
    from ultralytics.nn.tasks import ClassificationModel

    class Logits(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.inner = ClassificationModel("yolo11n-cls.yaml", ch=channels, nc=classes, verbose=False)

        def forward(self, images: torch.Tensor) -> torch.Tensor:
            given = self.inner(images)
            return given if torch.is_tensor(given) else given[1]  # probabilities and logits in evaluation

    return Logits()


def make_optimizer(model: nn.Module, settings: Settings) -> torch.optim.Optimizer:
    """No weight decay for biases and norms."""
    groups: list[dict[str, Any]] = [
        {"params": [p for p in model.parameters() if p.ndim > 1], "weight_decay": settings.weight_decay},
        {"params": [p for p in model.parameters() if p.ndim <= 1], "weight_decay": 0.0},
    ]
    if settings.optimizer == "sgd":
        return torch.optim.SGD(groups, lr=settings.lr, momentum=0.9, nesterov=True)
    return torch.optim.AdamW(groups, lr=settings.lr)


def lr_factor(step: int, steps: int) -> float:
    """Of the step that begins, the first is 0: warm-up, then a cosine whose end is zero."""
    warm = max(1, round(WARMUP * steps))
    return (step + 1) / warm if step < warm else 0.5 * (1 + math.cos(math.pi * (step - warm) / max(1, steps - warm)))


def batches(count: int, generator: torch.Generator) -> Iterator[torch.Tensor]:
    """Indices of images, epoch after epoch without end; the last, smaller batch of an epoch is left out."""
    size = min(BATCH, count)
    while True:
        order = torch.randperm(count, generator=generator)
        for start in range(0, count - size + 1, size):
            yield order[start : start + size]


def augment(images: torch.Tensor, settings: Settings, shift: int, generator: torch.Generator) -> torch.Tensor:
    """Flips each image with one half, and shifts each by up to `shift` pixels."""
    size, _, high, wide = images.shape
    columns = torch.arange(wide).expand(size, wide)
    if settings.flip:
        flipped = torch.rand(size, 1, generator=generator) < 0.5
        columns = torch.where(flipped, columns.flip(1), columns)
    if not shift:
        return images.gather(3, columns[:, None, None].expand_as(images)) if settings.flip else images
    moved = torch.randint(0, 2 * shift + 1, (2, size, 1), generator=generator)
    rows, columns = torch.arange(high) + moved[0], columns + moved[1]
    padded = F.pad(images, (shift,) * 4).permute(0, 2, 3, 1)
    return padded[torch.arange(size)[:, None, None], rows[:, :, None], columns[:, None]].permute(0, 3, 1, 2)


def train(
    model: nn.Module, part: Part, settings: Settings, steps: int, seed: int, stats: tuple[torch.Tensor, ...]
) -> float:
    """Trains for so many steps; returns the processor seconds of the loop. stats: mean and std [C 1 1]."""
    generator, optimizer = torch.Generator().manual_seed(seed), make_optimizer(model, settings)
    long_plan = steps * BATCH > LONG * len(part.labels)
    shift = SHIFT if settings.flip and part.images.shape[1] == 3 and long_plan else 0
    model.train()
    began = time.process_time()
    for step, chosen in zip(range(steps), batches(len(part.labels), generator), strict=False):
        images = augment(part.images[chosen], settings, shift, generator)
        loss = F.cross_entropy(model(normalise(images, stats)), part.labels[chosen], label_smoothing=SMOOTHING)
        for group in optimizer.param_groups:
            group["lr"] = settings.lr * lr_factor(step, steps)
        optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), CLIP)
        optimizer.step()
    return time.process_time() - began


def normalise(images: torch.Tensor, stats: tuple[torch.Tensor, ...]) -> torch.Tensor:
    return (images.float() / 255 - stats[0]) / stats[1]


def measure_stats(part: Part) -> tuple[torch.Tensor, ...]:
    """Mean and standard deviation [C 1 1] of each channel of the training images, of 5,000 of them."""
    pixels = part.images[:5000].float() / 255
    return tuple(given[:, None, None] for given in (pixels.mean((0, 2, 3)), pixels.std((0, 2, 3))))


@torch.inference_mode()
def count_right(model: nn.Module, part: Part, stats: tuple[torch.Tensor, ...]) -> int:
    model.eval()
    parts = zip(part.images.split(500), part.labels.split(500), strict=True)
    return sum(int((model(normalise(images, stats)).argmax(1) == labels).sum()) for images, labels in parts)


def run(name: str, settings: Settings, parts: tuple[Part, Part], steps: int, seed: int) -> dict[str, Any]:
    """Trains on the first part and evaluates on the second."""
    torch.manual_seed(seed)
    first, second = parts
    stats = measure_stats(first)
    shape = (first.images.shape[1], first.images.shape[2], first.images.shape[3])
    model = build(name, settings, shape, int(first.labels.max()) + 1)
    seconds = train(model, first, settings, steps, seed, stats)
    right = count_right(model, second, stats)
    size = sum(p.numel() for p in model.parameters())
    return {"loop_s": round(seconds, 2), "right": right, "images": len(second.labels), "parameters": size}


def sweep(name: str, parts: tuple[Part, Part], seconds: float, match: str) -> None:
    """Settings whose text has `match`, each for as many steps as take `seconds`, by the time of some; rows of a table
    in Markdown."""
    for settings in SWEPT[name]:
        which = f"{settings.optimizer} {settings.lr:g} {settings.variant}".strip()
        if match not in which:
            continue
        probe = 1000 if name == "linear" else 12
        each = run(name, settings, parts, probe, SWEEP_SEED)["loop_s"] / probe
        steps = max(10, round(seconds / max(each, 1e-5)))
        found = run(name, settings, parts, steps, SWEEP_SEED)
        accuracy = 100 * found["right"] / found["images"]
        print(f"| {name} | {which} | {steps} | {found['loop_s']:.1f} | {accuracy:.1f} |", flush=True)


def main(words: list[str] | None = None) -> None:
    asked = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    asked.add_argument("mode", choices=("train", "sweep"))
    asked.add_argument("rivals", nargs="+", choices=tuple(CHOSEN))
    asked.add_argument("--file", type=Path, required=True)
    asked.add_argument("--steps", type=int, default=100)
    asked.add_argument("--seed", type=int, default=0)
    asked.add_argument("--match", default="", help="of the sweep only settings whose text has this, as adamw")
    asked.add_argument("--no-flip", action="store_true", help="where left and right are classes")
    asked.add_argument("--seconds", type=float, default=15.0)
    given = asked.parse_args(words)
    training = read_part(given.file, "train")
    if given.mode == "sweep":
        for name in given.rivals:
            sweep(name, split_off(training, min(HELD_OUT, len(training.labels) // 5)), given.seconds, given.match)
        return
    name = given.rivals[0]
    settings = dataclasses.replace(CHOSEN[name], flip=CHOSEN[name].flip and not given.no_flip)
    print(json.dumps(run(name, settings, (training, read_part(given.file, "test")), given.steps, given.seed)))


if __name__ == "__main__":
    main()
