"""Decoded images in memory, once on each machine."""

from vitrail.data.cache import cache_images
from vitrail.data.dataset import Dataset
from vitrail.data.splits import evaluation_part
from vitrail.engine.processes.world import World


def cache_in_memory(dataset: Dataset, world: World) -> tuple[Dataset, list[str]]:
    """The data set with its training and evaluation images cached in memory, and notes."""
    parts = list(dict.fromkeys(["train", evaluation_part(dataset, final=False)]))
    return cache_images(dataset, parts, world.per_machine)
