"""From images as read to batches as trained on: augmentation, size, soft targets, mixing; the same for any split into pieces."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from vitrail.assembly.model import ModelBundle
from vitrail.contracts import Task, trunk_of
from vitrail.data.dataset import Split
from vitrail.data.loader import LoadedBatch
from vitrail.data.sampling import Keys, SampleStream
from vitrail.data.transforms.base import Transform
from vitrail.data.transforms.mixing import Mixing, draw_mixing, mix_batch
from vitrail.data.transforms.progressive import ProgressiveResize
from vitrail.engine.train import MicroBatch
from vitrail.engine.world import World
from vitrail.errors import UsageError, VitrailError
from vitrail.recipe import Recipe
from vitrail.types import Batch, each_tensor


@dataclass(frozen=True)
class Feed:
    """`batch` is the global batch; a process holds `share` of it, in pieces of at most `micro_batch`."""

    transform: Transform
    seed: int
    task: Task
    device: torch.device
    batch: int
    per_process: int
    micro_batch: int
    mixing: Mixing
    growth: ProgressiveResize | None = None
    teacher: Callable[[Tensor, Keys], Tensor] | None = None  # what it says of the images is joined to the targets

    def micro_batches(self, loaded: LoadedBatch, world: World) -> list[MicroBatch]:
        """A process's share, cut up."""
        labels = self.task.count_targets(
            loaded.labels, self.batch, lambda count: world.all_reduce_sum(count.to(world.device)).cpu()
        )
        loaded = loaded._replace(labels=labels)
        starts = range(0, len(loaded.images), self.micro_batch)
        return [
            MicroBatch(slice_batch(loaded, slice(s, s + self.micro_batch)), world.rank * self.per_process + s)
            for s in starts
        ]

    def prepare(self, piece: MicroBatch, step: int) -> Batch:
        """The batch of a piece, on the device."""
        pictures, labels = (each_tensor(self.to_device, part) for part in piece.loaded[:2])
        images = self.transform.batch(pictures, piece.loaded.keys)
        if self.growth is not None:
            images = self.growth.resize_batch(images, step)
        return self.add_teacher_targets(
            self.mix(Batch(images, self.task.targets(labels)), piece, step), piece.loaded.keys
        )

    def to_device(self, tensor: Tensor) -> Tensor:
        return tensor.to(self.device, non_blocking=True)

    def mix(self, batch: Batch, piece: MicroBatch, step: int) -> Batch:
        """The same images blended or cut into each other, where the recipe says so."""
        if not self.mixing.is_on:
            return batch
        pairs = slice(piece.first // 2, (piece.first + len(batch.inputs)) // 2)
        return mix_batch(batch, draw_mixing(self.seed, step, self.batch // 2, self.mixing).part(pairs))

    def add_teacher_targets(self, batch: Batch, keys: Keys) -> Batch:
        """The targets with what the teacher says of the very same images beside them, [B 2K]."""
        if self.teacher is None:
            return batch
        return Batch(batch.inputs, torch.cat([batch.targets, self.teacher(batch.inputs, keys)], dim=1))


def slice_batch(loaded: LoadedBatch, part: slice) -> LoadedBatch:
    keys = loaded.keys
    return LoadedBatch(
        loaded.images[part], each_tensor(lambda t: t[part], loaded.labels), Keys(keys.epochs[part], keys.ids[part])
    )


def batch_shares(batch: int, processes: int, micro_batch: int | None, mixing: bool) -> tuple[int, int]:
    """How much of the global batch each process holds and takes at once. Errors: `UsageError` where it does not divide."""
    if batch % processes:
        near = [b for b in (batch // processes * processes, -(-batch // processes) * processes) if b]
        raise UsageError(
            f"a batch of {batch} does not divide among {processes} processes",
            f"--batch-size {' or '.join(map(str, near))}",
        )
    share = batch // processes
    each = min(micro_batch or share, share)
    if mixing and (share % 2 or each % 2):
        raise UsageError(f"MixUp and CutMix pair images, and {share} per process in pieces of {each} is not even",
                         "use an even --batch-size and --runtime.micro-batch, or --augment.mixup 0 --augment.cutmix 0")  # fmt: skip
    return share, each


def build_stream(recipe: Recipe, split: Split) -> SampleStream:
    """Which images a run trains on, in which order."""
    p = recipe.train
    return SampleStream(
        p.seed,
        len(split),
        p.batch_size or 1,
        recipe.augment.repeated_aug,
        split.labels if recipe.data.sampler == "balanced" else None,
    )


def build_mixing(recipe: Recipe) -> Mixing:
    """What a recipe says of pairs of images."""
    a = recipe.augment
    return Mixing(a.mixup, a.cutmix, a.mix_prob, a.cutmix_prob, a.mix_mode)


def build_growth(recipe: Recipe, bundle: ModelBundle, device: torch.device) -> ProgressiveResize | None:
    """The sizes that training goes through, each tried on one empty image. Errors: `UsageError` where the model cannot take one."""
    start, full, steps = recipe.train.start_size, recipe.input.size, recipe.train.steps or 1
    if start is None or full is None:
        return None
    trunk: Any = trunk_of(bundle.model)
    stride: int = trunk.strides[0]
    grown = ProgressiveResize(start, full, max(1, round(recipe.train.full_size_at * steps)), stride)
    net = bundle.model.eval()
    for height, width in grown.all_sizes:
        try:
            with torch.no_grad():
                bundle.task.predict(net, torch.zeros(1, recipe.input.channels, height, width, device=device))
        except (VitrailError, RuntimeError, ValueError, AssertionError) as error:
            reason = (str(error).splitlines() or [type(error).__name__])[0][:160]
            raise UsageError(f"{recipe.model.name} cannot be trained on images of {height}x{width}, as train.start_size asks: {reason}",
                             "leave train.start_size out, or begin with another size") from None  # fmt: skip
    net.train()
    return grown
