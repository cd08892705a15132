"""From pictures as read to batches as trained on: augmentation, soft targets, mixing; the same for any split into pieces."""

from dataclasses import dataclass

import torch

from vitrail.data.loader import Loaded
from vitrail.data.mixing import draw, mix
from vitrail.data.sampling import Keys
from vitrail.data.transforms import Augmentation
from vitrail.engine.train import Piece
from vitrail.errors import UsageError
from vitrail.types import Batch, Task


@dataclass(frozen=True)
class Feed:
    """`batch` is the global batch; a process holds `share` of it, in pieces of at most `micro`."""

    augmentation: Augmentation
    task: Task
    device: torch.device
    batch: int
    share: int
    micro: int
    mixup: float
    cutmix: float

    def pieces(self, loaded: Loaded, rank: int) -> list[Piece]:
        """A process's share, cut up."""
        starts = range(0, len(loaded.pictures), self.micro)
        return [Piece(cut(loaded, slice(s, s + self.micro)), rank * self.share + s) for s in starts]

    def prepare(self, piece: Piece, step: int) -> Batch:
        """The batch of a piece, on the device."""
        pictures, labels = (t.to(self.device, non_blocking=True) for t in (piece.loaded.pictures, piece.loaded.labels))
        images = self.augmentation.batch(pictures, piece.loaded.keys)
        batch = Batch(images, self.task.targets(labels))
        if not (self.mixup or self.cutmix):
            return batch
        cut, keep, places = draw(self.augmentation.seed, step, self.batch // 2, self.mixup, self.cutmix)
        pairs = slice(piece.first // 2, (piece.first + len(images)) // 2)
        return mix(batch, cut, keep[pairs], places[pairs])


def cut(loaded: Loaded, part: slice) -> Loaded:
    keys = loaded.keys
    return Loaded(loaded.pictures[part], loaded.labels[part], Keys(keys.epochs[part], keys.ids[part]))


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
