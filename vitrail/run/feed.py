"""From pictures as read to batches as trained on: augmentation, size, soft targets, mixing; the same for any split into pieces."""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from vitrail.data.dataset import Kind, Split
from vitrail.data.growth import Growth
from vitrail.data.joint import Joint
from vitrail.data.latents import Latents
from vitrail.data.loader import Loaded
from vitrail.data.mixing import Mixing, draw, mix
from vitrail.data.preprocess import Preprocess
from vitrail.data.sampling import Keys, Stream
from vitrail.data.transforms import Augmentation
from vitrail.engine.train import Piece
from vitrail.engine.world import World
from vitrail.errors import UsageError, VitrailError
from vitrail.recipe import Recipe
from vitrail.run.model import Described
from vitrail.types import Batch, Objects, Task, each_tensor


@dataclass(frozen=True)
class Feed:
    """`batch` is the global batch; a process holds `share` of it, in pieces of at most `micro`."""

    augmentation: Augmentation | Joint | Latents
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
        if isinstance(loaded.labels, Objects):
            loaded = loaded._replace(labels=counted(loaded.labels, self.batch, world))
        starts = range(0, len(loaded.pictures), self.micro)
        return [Piece(cut(loaded, slice(s, s + self.micro)), world.rank * self.share + s) for s in starts]

    def prepare(self, piece: Piece, step: int) -> Batch:
        """The batch of a piece, on the device."""
        pictures, labels = (each_tensor(self.moved, part) for part in piece.loaded[:2])
        images = self.augmentation.batch(pictures, piece.loaded.keys)
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
        return mix(batch, draw(self.augmentation.seed, step, self.batch // 2, self.mixing).part(pairs))

    def taught(self, batch: Batch, keys: Keys) -> Batch:
        """The targets with what the teacher says of the very same pictures beside them, [B 2K]."""
        if self.teacher is None:
            return batch
        return Batch(batch.inputs, torch.cat([batch.targets, self.teacher(batch.inputs, keys)], dim=1))


def cut(loaded: Loaded, part: slice) -> Loaded:
    keys = loaded.keys
    return Loaded(loaded.pictures[part], each_tensor(lambda t: t[part], loaded.labels), Keys(keys.epochs[part], keys.ids[part]))


def counted(objects: Objects, batch: int, world: World) -> Objects:
    """The same objects, with how many a picture of the whole batch has in the mean, at least one in all: of all processes, so that
    their number changes no loss."""
    count = world.total((objects.labels >= 0).sum().float().to(world.device)).cpu()
    return objects._replace(usual=(count.clamp(min=1) / batch).expand(len(objects.labels)).clone())


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


def augmentation(recipe: Recipe, preprocess: Preprocess, truth: str) -> Augmentation | Joint | Latents:
    """What a recipe says of single pictures, and of what is true of them."""
    a = recipe.augment
    if recipe.input.vae is not None:
        return Latents(preprocess, recipe.plan.seed)
    if truth in ("masks", "boxes"):
        kind: Kind = "masks" if truth == "masks" else "boxes"
        resize = (1.0, 1.0) if a.crop == "none" else a.resize
        return Joint(preprocess, recipe.plan.seed, kind, resize, bool(a.flip), a.flip_vertical, a.jitter, a.mosaic)
    return Augmentation(preprocess, recipe.plan.seed, a.crop or "none", a.pad, a.scale, bool(a.flip), a.flip_vertical,
                        a.randaugment, a.magnitude, a.policy, a.jitter, a.erase)  # fmt: skip


def mixing(recipe: Recipe) -> Mixing:
    """What a recipe says of pairs of pictures."""
    a = recipe.augment
    return Mixing(a.mixup, a.cutmix, a.mix_share, a.mix_switch, a.mix_each)


def growth(recipe: Recipe, described: Described, device: torch.device) -> Growth | None:
    """The sizes that training goes through, each tried on one empty picture. Errors: `UsageError` where the model cannot take one."""
    start, full, steps = recipe.plan.grow_from, recipe.input.size, recipe.plan.steps or 1
    if start is None or full is None:
        return None
    stride: int = described.model.backbone.strides[0]  # type: ignore
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
