"""How much memory a training step takes on a CPU, beside what is counted, and what a run takes on a small machine:

    OMP_NUM_THREADS=1 python benchmarks/memory.py                        # some models
    OMP_NUM_THREADS=1 python benchmarks/memory.py vit/tiny 96 resnet/18 64
    OMP_NUM_THREADS=1 python benchmarks/memory.py --limits vit/small 2 vit/base 4

Each model takes gradients in child processes, of few and of many images; the difference of their peaks an image is
held against the activations that `vitrail cost` counts, of which `training/needs.py` allows KEPT times as many.
`--limits` trains a model for two steps of 16 images of 224x224 as on a machine of so many GiB, and holds the peak of
the process against what the micro-batch was chosen by and what the machine would have.
"""

import contextlib
import io
import os
import resource
import sys
import tempfile
from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np
import torch
from history import append

import vitrail
from vitrail.analysis.cost import cost
from vitrail.cli.main import main as command
from vitrail.engine import memory
from vitrail.training import needs
from vitrail.training.needs import KEPT

MODELS = (("vit/tiny", 96), ("swin/tiny", 64), ("resnet/18", 64), ("pvt_v2/b0", 64))
FEW, MANY = 16, 80
BATCH, SIDE = 16, 224


def in_child(work: Callable[[], int]) -> tuple[int, int]:
    """What the work returned in a process of its own, and the largest resident memory of that process in bytes."""
    read, write = os.pipe()
    if child := os.fork():
        os.close(write)
        answer = b""
        while part := os.read(read, 100):
            answer += part
        os.waitpid(child, 0)
        value, peak = answer.split()
        return int(value), int(peak) * 1024
    value = work()
    os.write(write, f"{value} {resource.getrusage(resource.RUSAGE_SELF).ru_maxrss}".encode())
    os._exit(0)


def gradients(name: str, size: int, images: int) -> int:
    torch.manual_seed(0)
    model = vitrail.create(name, classes=10, size=(size, size))
    model(torch.randn(images, 3, size, size)).logsumexp(1).mean().backward()
    return 0


def train(name: str, limit: int, folder: Path) -> int:
    """Trains as on a machine of `limit` bytes; returns the size of its micro-batches."""
    memory.machine_memory = lambda: limit
    chosen: list[int] = []

    def fit(images: int, step: memory.StepMemory, budget: int, least: int) -> int:
        chosen[:] = [memory.fit_images(images, step, budget, least)]
        return chosen[0]

    needs.fit_images = fit
    words = f"train --data {folder / 'images.npz'} --model {name} --img-size {SIDE} --batch-size {BATCH} --steps 2 "
    more = "--precision fp32 --device cpu --runtime.workers 0 --train.eval-every 0 --data.val-fraction 0 --quiet"
    out = folder / name.replace("/", "-")
    with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
        code = command([*words.split(), *more.split(), "--out", str(out)])
    return chosen[0] if not code else 0


def limited(name: str, limit: int) -> float:
    """A row: what was chosen, what that takes by the formula, and what the process took; returns the latter two's
    ratio."""
    with torch.device("meta"):
        model = vitrail.create(name, classes=2, size=(SIDE, SIDE))
    fixed = 4 * sum(p.numel() * 4 for p in model.parameters())  # weights, gradients, two tensors of AdamW
    each = round(KEPT * cost(model).activation_bytes)
    with tempfile.TemporaryDirectory() as place:
        images = np.random.default_rng(0).integers(0, 256, (2 * BATCH, SIDE, SIDE, 3), np.uint8)
        np.savez(Path(place) / "images.npz", train_images=images, train_labels=np.arange(2 * BATCH) % 2)
        size, peak = in_child(lambda: train(name, limit << 30, Path(place)))
        _, own = in_child(lambda: 0)
    expected = fixed + each * size
    print(
        f"{name} on {limit} GiB: micro-batches of {size}; by the formula {expected / 2**30:.2f} GiB of the "
        f"{limit * memory.USABLE_CPU:.2f} that a step may use; measured {(peak - own) / 2**30:.2f}, and "
        f"{own / 2**30:.2f} for Python and the libraries: {peak / 2**30:.2f} in all",
        flush=True,
    )
    return (peak - own) / expected


def main() -> None:
    words = sys.argv[1:]
    if words[:1] == ["--limits"]:
        pairs = zip(words[1::2], map(int, words[2::2]), strict=True)
        append("memory", {f"{name} on {limit} GiB": limited(name, limit) for name, limit in pairs})
        return
    figures = {}
    for name, size in tuple(zip(words[::2], map(int, words[1::2]), strict=True)) or MODELS:
        counted = cost(vitrail.create(name, classes=10, size=(size, size))).activation_bytes
        few, many = (4, 12) if counted > 2**26 else (FEW, MANY)
        peaks = [in_child(partial(gradients, name, size, images))[1] for images in (few, many)]
        measured = (peaks[1] - peaks[0]) / (many - few)
        figures[f"{name} {size}"] = measured / counted
        print(f"{name} at {size}: counted {counted / 2**20:.1f} MiB an image, measured {measured / 2**20:.1f}, "
              f"{measured / counted:.2f} times as much; {KEPT} allowed", flush=True)  # fmt: skip
    append("memory", figures)


if __name__ == "__main__":
    main()
