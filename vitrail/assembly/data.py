"""The data set that a recipe or a run names, whole or as the run saw it."""

import dataclasses
from typing import Any, get_type_hints

import numpy as np

from vitrail import catalog
from vitrail.assembly.resolve import Names
from vitrail.assembly.run_directory import RunFolder, find
from vitrail.data.dataset import Dataset, Split
from vitrail.data.subset import subset
from vitrail.errors import CheckpointError, UsageError, pick
from vitrail.recipe import Choice, Recipe
from vitrail.validation import checked, literals, place, update


def open_data(choice: Choice, annotations: str = "", names: Names | None = None) -> tuple[Dataset, Choice]:
    """The data set that a recipe names, and the choice with its layout found out and its path made absolute. annotations: of a set that has
    several, those that are learned from."""
    path = checked(choice.keys.get("path", ""), str, "data.path")
    if not path and not choice.name:
        raise UsageError("no data was given", "--data mini, or --data FOLDER with one folder of pictures per class")
    entry = (names or Names()).find("datasets", choice.name or catalog.layout(path))
    keys = dict(choice.keys)
    if path and place(path).exists():
        keys["path"] = str(place(path).absolute())
    offered = literals(get_type_hints(type(entry.config)).get("truth"))
    if not keys.get("truth") and annotations in offered:
        keys["truth"] = annotations
    config = update(entry.config, keys, f"data ({entry.name})")
    return entry.module.build(config), Choice(entry.name, keys)


def without(dataset: Dataset, places: dict[str, list[int]]) -> Dataset:
    """The data set with the pictures at some places of its parts left out."""
    if not places:
        return dataset
    splits = {
        name: split.take(np.setdiff1d(np.arange(len(split)), places.get(name, []))) for name, split in dataset.splits.items()
    }  # fmt: skip
    return dataclasses.replace(dataset, splits=splits)


def sampled(dataset: Dataset, recipe: Recipe) -> Dataset:
    """The data set with only a share of its training pictures, where the recipe asks for that."""
    if recipe.plan.share == 1.0 or "train" not in dataset.splits:
        return dataset
    train = dataset.splits["train"]
    kept = train.take(subset(train.labels, recipe.plan.share, recipe.plan.seed))
    return dataclasses.replace(dataset, splits={**dataset.splits, "train": kept})


def as_it_was(recipe: Recipe, about: dict[str, Any]) -> Dataset:
    """The data set of a run: what is there now, without what the run left out, and only the share that it trained on."""
    return sampled(without(open_data(recipe.data)[0], about["data"].get("left_out", {})), recipe)


def data_of(source: str, path: str = "", annotations: str = "") -> tuple[Dataset, RunFolder | None]:
    """The data at `path`, with such annotations where it has several, or else that of the run `source`, and then its folder.

    Errors: `UsageError` for weights without a run.
    """
    if path:
        return open_data(Choice("", {"path": path}), annotations)[0], None
    try:
        run = find(source)
    except CheckpointError:
        raise UsageError("a model without its run does not know its data", "--data FOLDER says where it is") from None
    return as_it_was(run.recipe(), run.about()), run


def part_of(dataset: Dataset, name: str, usual: str) -> Split:
    """The part that is asked for, or the usual one. Errors: `UsageError` for a part that is not there."""
    return dataset.splits[pick(name or usual, dataset.splits, "part of the data", f"parts: {', '.join(dataset.splits)}")]
