"""How much memory a training step takes on a CPU, beside what is counted: python benchmarks/memory.py [MODEL SIZE ...]

    OMP_NUM_THREADS=1 python benchmarks/memory.py vit/tiny 96 resnet/18 64

Each model takes gradients in child processes, of few and of many images; the difference of their peaks an image is
held against the activations that `vitrail cost` counts, of which `training/needs.py` allows KEPT times as many.
"""

import os
import resource
import sys

import torch
from history import append

import vitrail
from vitrail.analysis.cost import cost
from vitrail.training.needs import KEPT

MODELS = (("vit/tiny", 96), ("swin/tiny", 64), ("resnet/18", 64), ("pvt_v2/b0", 64))
FEW, MANY = 16, 80


def peak(name: str, size: int, images: int) -> int:
    """The largest resident memory, in bytes, of a process that takes gradients of so many images."""
    read, write = os.pipe()
    if child := os.fork():
        os.close(write)
        os.waitpid(child, 0)
        return int(os.read(read, 100)) * 1024
    torch.manual_seed(0)
    model = vitrail.create(name, classes=10, size=(size, size))
    model(torch.randn(images, 3, size, size)).logsumexp(1).mean().backward()
    os.write(write, str(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss).encode())
    os._exit(0)


def main() -> None:
    words = sys.argv[1:]
    figures = {}
    for name, size in tuple(zip(words[::2], map(int, words[1::2]), strict=True)) or MODELS:
        counted = cost(vitrail.create(name, classes=10, size=(size, size))).activation_bytes
        few, many = (4, 12) if counted > 2**26 else (FEW, MANY)
        measured = (peak(name, size, many) - peak(name, size, few)) / (many - few)
        figures[f"{name} {size}"] = measured / counted
        print(f"{name} at {size}: counted {counted / 2**20:.1f} MiB an image, measured {measured / 2**20:.1f}, "
              f"{measured / counted:.2f} times as much; {KEPT} allowed", flush=True)  # fmt: skip
    append("memory", figures)


if __name__ == "__main__":
    main()
