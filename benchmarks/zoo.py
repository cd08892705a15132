"""Every family's smallest published model against timm's same one: inference and a training step, in alternation, as
ratios.

    python benchmarks/zoo.py [--families swin,pvt_v2] [--batch 8] [--rounds 9] [--size 224] [--threads 2] [--device cpu]

Both sides get the same images, float32, and in training the same fused AdamW. Times mean nothing on a shared machine,
so each round times ours and theirs one after the other, in turned order, and a figure is the median over rounds of
(their time / our time), with the quartiles: 1 and more means that we are as fast or faster. With one thread on a CPU
what is timed is the processor's time, which others' work hardly touches; otherwise the wall clock's.
"""

import argparse
import gc
import statistics
import time
from collections.abc import Callable

import torch
import torch.nn.functional as F
from history import append
from torch import nn

import vitrail

PEERS = {  # of each family its smallest variant: timm's name, or why there is none
    "vit/tiny": "vit_tiny_patch16_224",
    "deit/tiny": "deit_tiny_patch16_224",
    "hybrid/r_tiny": "vit_tiny_r_s16_p8_224",
    "swin/tiny": "swin_tiny_patch4_window7_224",
    "swin_v2/tiny_w8": "swinv2_tiny_window8_256",
    "pvt/tiny": "timm has no PVT v1",
    "pvt_v2/b0": "pvt_v2_b0",
    "crossvit/tiny": "crossvit_tiny_240",
    "efficientvit/b0": "efficientvit_b0",
    "efficientvit_msra/m0": "efficientvit_m0",
    "mobilevit/xxs": "mobilevit_xxs",
    "resnet/18": "resnet18",
}
AIM = 0.97


def inference(model: nn.Module, images: torch.Tensor, labels: torch.Tensor) -> Callable[[], None]:
    settle(model, images)
    model.eval()

    def step() -> None:
        with torch.inference_mode():
            model(images)

    return step


def settle(model: nn.Module, images: torch.Tensor) -> None:
    """Running statistics of these images. With those of a fresh model signals shrink from layer to layer until they are
    denormal numbers, which take a processor many times as long: what would be compared is how small the first weights
    are."""
    for m in model.modules():
        if isinstance(m, nn.BatchNorm1d | nn.BatchNorm2d):
            m.momentum = 1.0
    with torch.no_grad():
        model.train()(images)


def train_step(model: nn.Module, images: torch.Tensor, labels: torch.Tensor) -> Callable[[], None]:
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-5, fused=True)
    model.train()

    def step() -> None:
        optimizer.zero_grad(set_to_none=True)
        F.cross_entropy(model(images), labels).backward()
        optimizer.step()

    return step


def seconds(step: Callable[[], None], device: str) -> float:
    clock = time.process_time if device == "cpu" and torch.get_num_threads() == 1 else time.perf_counter
    start = clock()
    step()
    if device != "cpu":
        torch.cuda.synchronize()
    return clock() - start


def ratio(ours: Callable[[], None], theirs: Callable[[], None], rounds: int, device: str) -> list[float]:
    """Lower quartile, median and upper quartile over rounds of their time by ours; who goes first changes from round to
    round."""
    for step in (ours, theirs):
        seconds(step, device)  # what is done once only
        seconds(step, device)
    found = []
    for r in range(rounds):
        order = (ours, theirs) if r % 2 == 0 else (theirs, ours)
        taken = {step: seconds(step, device) for step in order}
        found.append(taken[theirs] / taken[ours])
    return statistics.quantiles(found, n=4, method="inclusive")


def pair(name: str, device: str) -> tuple[nn.Module, nn.Module]:
    import timm

    return vitrail.create(name, classes=1000).to(device), timm.create_model(PEERS[name], num_classes=1000).to(device)


def compare(name: str, given: argparse.Namespace) -> tuple[list[str], dict[str, float]]:
    """One row of the table."""
    family, _, variant = name.partition("/")
    if " " in PEERS[name]:
        return [family, variant, PEERS[name], "", ""], {}
    figures = []
    for what in (inference, train_step):
        torch.manual_seed(0)
        ours, theirs = pair(name, given.device)
        size = (given.size, given.size) if given.size else ours.backbone.config.size
        images = torch.randn(given.batch, 3, *size, device=given.device)
        labels = torch.randint(1000, (given.batch,), device=given.device)
        figures.append(ratio(what(ours, images, labels), what(theirs, images, labels), given.rounds, given.device))
        del ours, theirs
        gc.collect()
    cells = [family, variant, PEERS[name]]
    for low, middle, high in figures:
        shown = f"{middle:.2f}" if middle >= AIM else f"**{middle:.2f}**"
        cells.append(f"{shown} ({low:.2f} to {high:.2f})")
    medians = {what: figure[1] for what, figure in zip(("inference", "training"), figures, strict=True)}
    return cells, medians | {f"{what} high": figure[2] for what, figure in zip(medians, figures, strict=True)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--families", default="", help="such as swin,pvt_v2; all by default")
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument(
        "--size", type=int, help="of the images; the model's own by default, and most of timm's take no other"
    )
    parser.add_argument("--threads", type=int, help="on a CPU; torch's own choice by default")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    given = parser.parse_args()
    if given.threads:
        torch.set_num_threads(given.threads)
    wanted = [f for f in given.families.split(",") if f]
    names = [n for n in PEERS if not wanted or n.partition("/")[0] in wanted]
    print(f"Their time by ours, so 1 and more means that ours is as fast or faster; below {AIM} in bold. "
          f"Batch {given.batch}, float32, {given.device}, {torch.get_num_threads()} threads, "
          f"median and quartiles of {given.rounds} rounds.\n")  # fmt: skip
    print("| family | variant | in timm | inference | training step |\n|---|---|---|---|---|")
    found = {}
    for name in names:
        cells, found[name] = compare(name, given)
        print(f"| {' | '.join(cells)} |", flush=True)
    append("zoo", found, vars(given))


if __name__ == "__main__":
    main()
