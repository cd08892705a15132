"""Images that turn out in mid-run to be unreadable: another image stands in for each. Which one is a function of its
index alone, and an image is readable or not whoever reads it, so batches are the same for any number of workers."""

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any, NamedTuple

import numpy as np

from vitrail.data.dataset import Split
from vitrail.data.sampling import Keys, splitmix_one
from vitrail.errors import BadImage

TRIES = 100  # images that are tried in place of one


class LostImage(NamedTuple):
    """An image that cannot be read: its place in the batch, its number in the split, and why."""

    position: int
    number: int
    reason: str


@dataclass(frozen=True)
class StandIns:
    """broken: the images of a split that are known to be unreadable, with the reason; each process finds its own."""

    broken: dict[int, str] = field(default_factory=dict)

    def index(self, index: int, count: int) -> int:
        """The image that is read for image `index` of `count`. Errors: `BadImage` where none can be found."""
        if index not in self.broken:
            return index
        tried = (splitmix_one(splitmix_one(index) ^ turn) % count for turn in range(TRIES))
        found = next((one for one in tried if one not in self.broken), -1)
        if found < 0:
            raise BadImage(self.broken[index], "vitrail check lists all images that cannot be read")
        return found

    def load(
        self, load: Callable[[Split, Keys], tuple[Any, Any]], split: Split, keys: Keys
    ) -> tuple[Any, Any, Keys, tuple[LostImage, ...]]:
        """What `load` gives for the images, or those that stand in for them, their keys, and what they stand in for.
        Errors: `BadImage`."""
        if split.array is not None:
            return *load(split, keys), keys, ()
        count, annotation = len(split), split.annotation
        view = replace(
            split,
            read=StandInReader(split.read, self, count),
            annotation=annotation and StandInReader(annotation, self, count),
        )
        while True:
            known = len(self.broken)
            ids = keys.ids
            if known:
                ids = np.array([self.index(int(i), count) for i in keys.ids], np.int64)
            try:
                images, labels = load(view, Keys(keys.epochs, ids))
            except BadImage:
                if len(self.broken) == known:  # not of one image
                    raise
                continue
            lost = ((at, int(keys.ids[at])) for at in np.flatnonzero(ids != keys.ids).tolist())
            return images, labels, Keys(keys.epochs, ids), tuple(LostImage(at, i, self.broken[i]) for at, i in lost)


@dataclass(frozen=True)
class StandInReader:
    """Reads image i, or its annotation, or those of the image that stands in for it; what is found to be unreadable is
    added to `stand_ins`, and raises `BadImage`."""

    read: Callable[[int], Any]
    stand_ins: StandIns
    count: int

    def __call__(self, index: int) -> Any:
        index = self.stand_ins.index(index, self.count)
        try:
            return self.read(index)
        except BadImage as error:
            self.stand_ins.broken.setdefault(index, error.what)
            raise
