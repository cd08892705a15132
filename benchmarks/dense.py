"""Models for masks and boxes against the same models of transformers: inference, in alternation, as a ratio.

    python benchmarks/dense.py [--only upernet] [--batch 2] [--rounds 9] [--size 224] [--threads 1] [--device cpu]

Both sides get the same images in float32 and are fresh; their numbers of parameters are printed, and are the same.
Times mean nothing on a shared machine, so each round times ours and theirs one after the other, in turned order, and
the figure is the median over rounds of (their time / our time): 1 and more means that we are as fast or faster. With
one thread on a CPU what is timed is the processor's time, which others' work hardly touches; otherwise the wall
clock's.

transformers runs the auxiliary head in inference as well, where ours is there for training alone; "without" leaves it
out of both. Its DETR freezes the norms of its backbone, so that their weights are no parameters there (0.05 M), and
computes them step by step.
"""

import argparse
import gc
from collections.abc import Callable, Iterator
from typing import NamedTuple

import torch
from history import append
from torch import nn
from zoo import AIM, inference, ratio

import vitrail
from vitrail.heads.segment import HeadConfig, Segmenter
from vitrail.tasks import detection

CLASSES = 150  # of ADE20K


class Pair(NamedTuple):
    """What is compared, in words, and both sides of it."""

    what: str
    ours: nn.Module
    theirs: nn.Module


def upernet(size: int) -> Iterator[Pair]:
    """Swin-T with UPerNet."""
    from transformers import SwinConfig, UperNetConfig, UperNetForSemanticSegmentation

    for auxiliary in (True, False):
        backbone = SwinConfig(image_size=size, out_features=["stage1", "stage2", "stage3", "stage4"])
        config = UperNetConfig(backbone_config=backbone, num_labels=CLASSES, use_auxiliary_head=auxiliary)
        ours = Segmenter(
            vitrail.backbone("swin/tiny", size=(size, size)),
            HeadConfig("upernet", CLASSES, norm="batch", auxiliary=auxiliary),
        )
        words = "with the auxiliary head" if auxiliary else "without"
        yield Pair(f"Swin-T UPerNet, {words}", ours, UperNetForSemanticSegmentation(config))


def detr(size: int) -> Iterator[Pair]:
    """DETR with a ResNet-50, as published."""
    from transformers import DetrConfig, DetrForObjectDetection

    config = detection.Config(
        91, queries=100, kind="slots", stride=32, width=256, encoder=6, decoder=6, hidden=2048, dropout=0.1
    )
    ours = detection.build(config).assemble(vitrail.backbone("resnet/50", size=(size, size)))
    yield Pair("R50 DETR", ours, DetrForObjectDetection(DetrConfig(num_labels=91)))


PAIRS: dict[str, Callable[[int], Iterator[Pair]]] = {"upernet": upernet, "detr": detr}


def compare(pair: Pair, given: argparse.Namespace) -> tuple[list[str], float]:
    """One row of the table."""
    images = torch.randn(given.batch, 3, given.size, given.size, device=given.device)
    sides = [side.to(given.device) for side in (pair.ours, pair.theirs)]
    counted = [f"{sum(p.numel() for p in side.parameters()) / 1e6:.2f}" for side in sides]
    torch.manual_seed(0)
    figure = ratio(*(inference(side, images, images) for side in sides), given.rounds, given.device)
    return [pair.what, *counted, f"{figure:.2f}" if figure >= AIM else f"**{figure:.2f}**"], figure


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", default="", help=f"such as {next(iter(PAIRS))}; all by default")
    parser.add_argument("--batch", type=int, default=2, help="2 or more: theirs cannot be settled on a single image")
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--size", type=int, default=224, help="height and width of the images")
    parser.add_argument("--threads", type=int, default=1, help="on a CPU")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    given = parser.parse_args()
    torch.set_num_threads(given.threads)
    wanted = [name for name in given.only.split(",") if name] or list(PAIRS)
    print(f"Their time by ours, so 1 and more means that ours is as fast or faster; below {AIM} in bold. "
          f"Batch {given.batch} of {given.size}x{given.size}, float32, {given.device}, {given.threads} threads, "
          f"median of {given.rounds} rounds.\n")  # fmt: skip
    print("| model | ours, M | theirs, M | inference |\n|---|---|---|---|")
    figures = {}
    for name in wanted:
        for pair in PAIRS[name](given.size):
            cells, figures[pair.what] = compare(pair, given)
            print(f"| {' | '.join(cells)} |", flush=True)
            del pair
            gc.collect()
    append("dense", figures, vars(given))


if __name__ == "__main__":
    main()
