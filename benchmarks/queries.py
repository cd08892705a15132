"""What the queries of the small set predictor are good for: each part left out in turn, on synthetic shapes, and
denoising queries added (Li et al. 2022, DN-DETR: arxiv.org/abs/2203.01305).

    OMP_NUM_THREADS=1 python benchmarks/queries.py --steps 500
    OMP_NUM_THREADS=1 python benchmarks/queries.py --only both denoising --steps 1000

Queries are anchor boxes that each layer of the decoder refines, with a bias on attention from the edges of the box to
the cells ("both"). Variants: boxes that are not refined, no bias, neither (queries are learned embeddings, as in
DETR), and "both" with a second pass of noisy copies of the annotated boxes, which need no matching. All have the same
backbone, steps, images and learning rate; AP50 is of images that were not trained on.
"""

import argparse
from collections.abc import Iterator
from typing import final

import numpy as np
import torch
import torch.nn.functional as F
from history import append
from torch import Tensor, nn

import vitrail
from vitrail.data.sampling import Keys
from vitrail.data.transforms.joint import JointTransform
from vitrail.data.transforms.preprocess import Preprocess
from vitrail.datasets import shapes
from vitrail.heads.detr_layers import Memory
from vitrail.heads.queries import AnchorQueries, ObjectQueries
from vitrail.metrics.detection import average_precision
from vitrail.tasks import detection
from vitrail.tasks.detection.matching import giou, to_corners, to_relative
from vitrail.types import Batch, DetectionTargets

SIDE, CLASSES, BATCH = 64, 3, 32
PRE = Preprocess((SIDE, SIDE), 3, (0.5,) * 3, (0.3,) * 3, "stretch")
SHIFT, RESIZE = 0.4, 0.4  # noise of a box: shares of half of its sides, and of its sides
VARIANTS = ("both", "not refined", "no bias", "embeddings", "denoising")


class Without(ObjectQueries):
    """Anchors without a part of what they do."""

    def __init__(self, inner: AnchorQueries):
        super().__init__()
        self.inner = inner

    @final
    def start(self, batch: int) -> tuple[Tensor, Tensor]:
        return self.inner.start(batch)


class NotRefined(Without):
    """Every layer begins with the anchors."""

    def attention_terms(self, layer: int, boxes: Tensor, memory: Memory) -> tuple[Tensor, Tensor | None]:
        return self.inner.attention_terms(layer, self.start(len(boxes))[1], memory)

    def update_boxes(self, offsets: Tensor, boxes: Tensor) -> Tensor:
        return self.inner.update_boxes(offsets, self.start(len(boxes))[1])


class NoBias(Without):
    """Boxes are encoded and refined, and bias no attention."""

    def attention_terms(self, layer: int, boxes: Tensor, memory: Memory) -> tuple[Tensor, Tensor | None]:
        return self.inner.attention_terms(layer, boxes, memory)[0], memory.bias

    def update_boxes(self, offsets: Tensor, boxes: Tensor) -> Tensor:
        return self.inner.update_boxes(offsets, boxes)


class Denoiser(nn.Module):
    """Noisy copies of the annotated boxes as queries of a pass of their own: query i learns object i."""

    def __init__(self, width: int):
        super().__init__()
        self.labels = nn.Embedding(CLASSES, width)

    def loss(self, model: nn.Module, memory: Memory, objects: DetectionTargets) -> Tensor:
        boxes, known = to_relative(objects), objects.labels >= 0
        random = torch.rand(2, *boxes.shape[:2], 2) * 2 - 1
        middle = boxes[..., :2] + random[0] * SHIFT * boxes[..., 2:] / 2
        noisy = torch.cat([middle, boxes[..., 2:] * (1 + RESIZE * random[1])], -1).clamp(0.01, 0.99)
        x, total = self.labels(objects.labels.clamp(min=0)), boxes.new_zeros(())
        count, keys = known.sum().clamp(min=1), memory.values + memory.positions
        for i, layer in enumerate(model.decoder):
            place, bias = model.queries.attention_terms(i, noisy, memory)
            x = layer(x, place, keys, memory, bias)
            state = model.norm(x)
            found = model.queries.update_boxes(model.bbox_embed(state), noisy)
            kinds = F.cross_entropy(model.class_embed(state)[known], objects.labels[known], reduction="sum")
            away = 5 * (found - boxes).abs().sum(-1) + 2 * (1 - giou(to_corners(found), to_corners(boxes)))
            total = total + (kinds + (away * known).sum()) / count
            noisy = found.detach()
        return total


def build(variant: str) -> tuple[detection.Detection, nn.Module]:
    torch.manual_seed(0)
    kind = "slots" if variant == "embeddings" else "anchors"
    task = detection.build(detection.Config(classes=CLASSES, width=64, hidden=128, queries=20, kind=kind))
    model = task.assemble(vitrail.backbone("resnet/18", width=16, stem_stride=2, size=(SIDE, SIDE)))
    if variant in ("not refined", "no bias"):
        model.queries = (NotRefined if variant == "not refined" else NoBias)(model.queries)
    return task, model


def batches(split, steps: int) -> Iterator[Batch]:
    """The same for every variant."""
    transform, random = JointTransform(PRE, 0, "boxes", hflip=True, vflip=True), np.random.default_rng(0)
    for step in range(steps):
        keys = Keys(np.full(BATCH, step), random.integers(0, len(split), BATCH))
        images, objects = transform.load(split, keys)
        yield Batch(transform.batch(images), objects)


def learn(variant: str, steps: int, lr: float) -> float:
    """AP50 on the images of val."""
    data = shapes.build(shapes.Config(count_train=4000, count_val=200, count_test=0, annotation="boxes"))
    task, model = build(variant)
    denoiser = Denoiser(64)
    optimizer = torch.optim.AdamW([*model.parameters(), *denoiser.parameters()], lr=lr, weight_decay=0.05)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, lr, steps, pct_start=0.1)
    model.train()
    for batch in batches(data.splits["train"], steps):
        loss = torch.stack(list(task.loss(model, batch).values())).sum()
        if variant == "denoising":
            loss = loss + denoiser.loss(model, model.encode(batch.inputs, batch.targets.sizes), batch.targets)
        optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        schedule.step()
    return evaluate(task, model.eval(), data.splits["val"])


@torch.no_grad()
def evaluate(task: detection.Detection, model: nn.Module, split) -> float:
    rows = []
    for start in range(0, len(split), BATCH):
        pixels = [split.read(i) for i in range(start, min(start + BATCH, len(split)))]
        rows += task.predict(model, PRE.batch(torch.stack([PRE.image(one) for one in pixels])))
    return float(average_precision(rows, [split.annotation(i) for i in range(len(split))], CLASSES)["AP50"])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=500)
    parser.add_argument("--lr", type=float, default=1e-3)
    parser.add_argument("--only", nargs="*", choices=VARIANTS, default=list(VARIANTS))
    given = parser.parse_args()
    print(f"AP50 on shapes of {SIDE}x{SIDE} after {given.steps} steps of {BATCH}, one seed\n")
    print("| queries | AP50 |\n|---|---|")
    figures = {}
    for variant in given.only:
        figures[variant] = learn(variant, given.steps, given.lr)
        print(f"| {variant} | {figures[variant]:.3f} |", flush=True)
    append("queries", figures, {"steps": given.steps, "lr": given.lr})


if __name__ == "__main__":
    main()
