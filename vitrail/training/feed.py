"""From decoded images to training batches: augmentation, size, soft targets, mixing; the same for any size of
micro-batches."""

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn

from vitrail.assembly.model import ModelBundle
from vitrail.contracts import Task, trunk_of
from vitrail.data.dataset import Dataset, Split, map_readers
from vitrail.data.files import EncodedReader
from vitrail.data.loader import LoadedBatch
from vitrail.data.sampling import Keys, SampleStream
from vitrail.data.transforms.base import Transform
from vitrail.data.transforms.mixing import Mixing, draw_mixing, mix_batch
from vitrail.data.transforms.progressive import ProgressiveResize
from vitrail.engine.processes.world import World
from vitrail.engine.train import MicroBatch
from vitrail.errors import UsageError, VitrailError
from vitrail.layers.modes import evaluation_mode
from vitrail.recipe import Recipe
from vitrail.types import Batch, each_tensor


@dataclass(frozen=True)
class Feed:
    """`batch` is the global batch size; a process has `per_process` of it, in micro-batches of at most
    `micro_batch`."""

    transform: Transform
    seed: int
    task: Task
    device: torch.device
    batch: int
    per_process: int
    micro_batch: int
    mixing: Mixing
    growth: ProgressiveResize | None = None
    teacher: Callable[[Tensor, Keys], Tensor] | None = None  # its logits are joined to the targets

    def micro_batches(self, loaded: LoadedBatch, world: World) -> list[MicroBatch]:
        """The images of a process, in micro-batches."""
        labels = self.task.count_targets(
            loaded.labels, self.batch, lambda count: world.all_reduce_sum(count.to(world.device)).cpu()
        )
        loaded = loaded._replace(labels=labels)
        starts = range(0, loaded.size, self.micro_batch)
        return [
            MicroBatch(slice_batch(loaded, slice(s, s + self.micro_batch)), world.rank * self.per_process + s)
            for s in starts
        ]

    def prepare(self, micro_batch: MicroBatch, step: int) -> Batch:
        """The batch of a micro-batch, on the device."""
        pixels, labels = (each_tensor(self.to_device, part) for part in micro_batch.loaded[:2])
        keys = micro_batch.loaded.keys
        images = self.transform.batch(pixels, keys)
        if self.growth is not None:
            images = self.growth.resize_batch(images, step)
        return self.add_teacher_targets(self.mix(Batch(images, self.task.targets(labels)), micro_batch, step), keys)

    def to_device(self, tensor: Tensor) -> Tensor:
        return tensor.to(self.device, non_blocking=True)

    def mix(self, batch: Batch, micro_batch: MicroBatch, step: int) -> Batch:
        """The batch after MixUp or CutMix, where the recipe has them."""
        if not self.mixing.is_on:
            return batch
        pairs = slice(micro_batch.first // 2, (micro_batch.first + len(batch.inputs)) // 2)
        return mix_batch(batch, draw_mixing(self.seed, step, self.batch // 2, self.mixing).part(pairs))

    def add_teacher_targets(self, batch: Batch, keys: Keys) -> Batch:
        """The targets with the teacher's logits of the same images beside them, [B 2K]."""
        if self.teacher is None:
            return batch
        return Batch(batch.inputs, torch.cat([batch.targets, self.teacher(batch.inputs, keys)], dim=1))


def slice_batch(loaded: LoadedBatch, part: slice) -> LoadedBatch:
    keys = loaded.keys
    images, labels = (each_tensor(lambda t: t[part], whole) for whole in loaded[:2])
    return LoadedBatch(images, labels, Keys(keys.epochs[part], keys.ids[part]))


def reduce_decoding(recipe: Recipe, dataset: Dataset, task: Task) -> Dataset:
    """The data set with its training images decoded at a reduced size where the recipe asks for it: one that is not
    enlarged by the smallest crop. Images to evaluate stay as they are. Errors: `UsageError` where pixels have to be
    those of the whole image."""
    if not recipe.augment.reduced_decode:
        return dataset
    fix = "leave --augment.reduced-decode out"
    if not task.is_classifier:
        raise UsageError(
            "augment.reduced_decode is for classes: what is learned here is in pixels of whole images", fix
        )
    crop = recipe.augment.scale[0] ** 0.5 if recipe.augment.crop == "random" else 1.0
    least = math.ceil(max(recipe.input.size or (0,)) / min(crop, recipe.input.crop_ratio or 1.0))

    def reduce(read: Callable[[int], Any]) -> EncodedReader:
        if not isinstance(read, EncodedReader):
            what = f"augment.reduced_decode is for files of images, not for data as {dataset.layout} has it"
            raise UsageError(what, fix)
        return read.reduced(least)

    train = dataset.splits["train"]
    return replace(dataset, splits={**dataset.splits, "train": replace(train, read=map_readers(train.read, reduce))})


def build_stream(recipe: Recipe, split: Split) -> SampleStream:
    """The training images of a run, in order."""
    p = recipe.train
    return SampleStream(
        p.seed,
        len(split),
        p.batch_size or 1,
        recipe.augment.repeated_aug,
        split.labels if recipe.data.sampler == "balanced" else None,
        split.places if recipe.data.sampler == "windowed" else None,
    )


def build_mixing(recipe: Recipe) -> Mixing:
    """MixUp and CutMix, as a recipe sets them."""
    a = recipe.augment
    return Mixing(a.mixup, a.cutmix, a.mix_prob, a.cutmix_prob, a.mix_mode)


def build_growth(recipe: Recipe, bundle: ModelBundle, device: torch.device) -> ProgressiveResize | None:
    """The sizes of progressive resizing, each tested on one empty image. Errors: `UsageError` where the model does not
    take one."""
    start, full, steps = recipe.train.start_size, recipe.input.size, recipe.train.steps or 1
    if start is None or full is None:
        return None
    trunk: Any = trunk_of(bundle.model)
    stride: int = trunk.strides[0]
    growth = ProgressiveResize(start, full, max(1, round(recipe.train.full_size_at * steps)), stride)
    net = bundle.model
    for height, width in growth.all_sizes:
        try:
            with torch.no_grad(), evaluation_mode(net):
                bundle.task.predict(net, torch.zeros(1, recipe.input.channels, height, width, device=device))
        except (VitrailError, RuntimeError, ValueError, AssertionError) as error:
            reason = (str(error).splitlines() or [type(error).__name__])[0][:160]
            raise UsageError(
                f"{recipe.model.name} cannot be trained on images of {height}x{width}, for train.start_size: {reason}",
                "leave train.start_size out, or use another one",
            ) from None
    return growth


def smallest_micro_batch(per_process: int, micro_batch: int) -> int:
    """The images of the last micro-batch of a step, which may be fewer than the others."""
    return per_process % micro_batch or micro_batch


def check_norms(net: nn.Module, recipe: Recipe, images: int, device: torch.device) -> None:
    """Errors: `UsageError` where a norm of the model would get one value a channel in training, from which it cannot
    learn: found on an empty image, before a batch is read."""
    norms = [m for m in net.modules() if isinstance(m, nn.modules.batchnorm._BatchNorm) and m.training]
    if images > 1 or not norms:
        return
    size = recipe.train.start_size or recipe.input.size
    kept = [buffer.clone() for buffer in net.buffers()]
    try:
        with torch.no_grad(), torch.random.fork_rng([]):
            net(torch.zeros(1, recipe.input.channels, *(size or ()), device=device))
    except ValueError as error:
        if "more than 1 value per channel" not in str(error):
            raise
        height, width = size or (0, 0)
        raise UsageError(
            f"batch norm cannot learn from one value a channel: {recipe.model.name} makes a map of 1x1 of an image "
            f"of {height}x{width}, and a micro-batch has one image",
            "--batch-size 2 or more for each process, with micro-batches of 2 or more; or a larger --img-size",
        ) from None
    finally:
        for buffer, value in zip(net.buffers(), kept, strict=True):
            buffer.copy_(value)
