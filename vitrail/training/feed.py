"""From pictures as read to batches as trained on: augmentation, size, soft targets, mixing; the same for any split into pieces."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from vitrail.assembly.model import Described
from vitrail.contracts import Task, trunk_of
from vitrail.data.dataset import Split
from vitrail.data.loader import Loaded
from vitrail.data.sampling import Keys, Stream
from vitrail.data.transforms.base import Transform
from vitrail.data.transforms.mixing import Mixing, draw, mix
from vitrail.data.transforms.progressive import Growth
from vitrail.engine.train import Piece
from vitrail.engine.world import World
from vitrail.errors import UsageError, VitrailError
from vitrail.recipe import Recipe
from vitrail.types import Batch, each_tensor


@dataclass(frozen=True)
class Feed:
    """`batch` is the global batch; a process holds `share` of it, in pieces of at most `micro`."""

    transform: Transform
    seed: int
    task: Task
    device: torch.device
    batch: int
    share: int
    micro: int
    mixing: Mixing
    growth: Growth | None = None
    teacher: Callable[[Tensor, Keys], Tensor] | None = None  # what it says of the pictures is joined to the targets

    def pieces(self, loaded: Loaded, world: World) -> list[Piece]:
        """A process's share, cut up."""
        labels = self.task.count_targets(loaded.labels, self.batch, lambda count: world.total(count.to(world.device)).cpu())
        loaded = loaded._replace(labels=labels)
        starts = range(0, len(loaded.pictures), self.micro)
        return [Piece(cut(loaded, slice(s, s + self.micro)), world.rank * self.share + s) for s in starts]

    def prepare(self, piece: Piece, step: int) -> Batch:
        """The batch of a piece, on the device."""
        pictures, labels = (each_tensor(self.moved, part) for part in piece.loaded[:2])
        images = self.transform.batch(pictures, piece.loaded.keys)
        if self.growth is not None:
            images = self.growth.batch(images, step)
        return self.taught(self.mixed(Batch(images, self.task.targets(labels)), piece, step), piece.loaded.keys)

    def moved(self, tensor: Tensor) -> Tensor:
        return tensor.to(self.device, non_blocking=True)

    def mixed(self, batch: Batch, piece: Piece, step: int) -> Batch:
        """The same pictures blended or cut into each other, where the recipe says so."""
        if not self.mixing.on:
            return batch
        pairs = slice(piece.first // 2, (piece.first + len(batch.inputs)) // 2)
        return mix(batch, draw(self.seed, step, self.batch // 2, self.mixing).part(pairs))

    def taught(self, batch: Batch, keys: Keys) -> Batch:
        """The targets with what the teacher says of the very same pictures beside them, [B 2K]."""
        if self.teacher is None:
            return batch
        return Batch(batch.inputs, torch.cat([batch.targets, self.teacher(batch.inputs, keys)], dim=1))


def cut(loaded: Loaded, part: slice) -> Loaded:
    keys = loaded.keys
    return Loaded(loaded.pictures[part], each_tensor(lambda t: t[part], loaded.labels), Keys(keys.epochs[part], keys.ids[part]))


def shares(batch: int, processes: int, micro: int | None, mixing: bool) -> tuple[int, int]:
    """How much of the global batch each process holds and takes at once. Errors: `UsageError` where it does not divide."""
    if batch % processes:
        near = [b for b in (batch // processes * processes, -(-batch // processes) * processes) if b]
        raise UsageError(f"a batch of {batch} does not divide among {processes} processes", f"--plan.batch {' or '.join(map(str, near))}")
    share = batch // processes
    each = min(micro or share, share)
    if mixing and (share % 2 or each % 2):
        raise UsageError(f"MixUp and CutMix pair pictures, and {share} per process in pieces of {each} is not even",
                         "use an even --plan.batch and --machine.micro, or --augment.mixup 0 --augment.cutmix 0")  # fmt: skip
    return share, each


def stream(recipe: Recipe, split: Split) -> Stream:
    """Which pictures a run trains on, in which order."""
    p = recipe.plan
    return Stream(p.seed, len(split), p.batch or 1, recipe.augment.repeats, split.labels if p.sampling == "balanced" else None)


def mixing(recipe: Recipe) -> Mixing:
    """What a recipe says of pairs of pictures."""
    a = recipe.augment
    return Mixing(a.mixup, a.cutmix, a.mix_share, a.mix_switch, a.mix_each)


def growth(recipe: Recipe, described: Described, device: torch.device) -> Growth | None:
    """The sizes that training goes through, each tried on one empty picture. Errors: `UsageError` where the model cannot take one."""
    start, full, steps = recipe.plan.grow_from, recipe.input.size, recipe.plan.steps or 1
    if start is None or full is None:
        return None
    trunk: Any = trunk_of(described.model)
    stride: int = trunk.strides[0]
    grown = Growth(start, full, max(1, round(recipe.plan.grow_until * steps)), stride)
    net = described.model.eval()
    for height, width in grown.sizes:
        try:
            with torch.no_grad():
                described.task.predict(net, torch.zeros(1, recipe.input.channels, height, width, device=device))
        except (VitrailError, RuntimeError, ValueError, AssertionError) as error:
            reason = (str(error).splitlines() or [type(error).__name__])[0][:160]
            raise UsageError(f"{recipe.model.name} cannot be trained on pictures of {height}x{width}, as plan.grow_from asks: {reason}",
                             "leave plan.grow_from out, or begin with another size") from None  # fmt: skip
    net.train()
    return grown
