"""The data set that a recipe or a run names, whole or as the run saw it."""

import dataclasses
from typing import Any, get_type_hints

import numpy as np

from vitrail import catalog
from vitrail.assembly.resolve import Names
from vitrail.assembly.run_directory import RunFolder, find_run
from vitrail.data.dataset import Dataset, Split
from vitrail.data.subset import stratified_subset
from vitrail.errors import CheckpointError, UsageError, choose
from vitrail.recipe import DataConfig, Recipe
from vitrail.validation import as_path, literals, update_config, validate


def open_data(choice: DataConfig, annotations: str = "", names: Names | None = None) -> tuple[Dataset, DataConfig]:
    """The data set that a recipe names, and the choice with its layout found out and its path made absolute. annotations: of a set that has
    several, those that are learned from."""
    path = validate(choice.keys.get("path", ""), str, "data.path")
    if not path and not choice.name:
        raise UsageError("no data was given", "--data mini, or --data FOLDER with one folder of images per class")
    entry = (names or Names()).find("datasets", choice.name or catalog.detect_layout(path))
    keys = dict(choice.keys)
    if path and as_path(path).exists():
        keys["path"] = str(as_path(path).absolute())
    offered = literals(get_type_hints(type(entry.config)).get("annotation"))
    if not keys.get("annotation") and annotations in offered:
        keys["annotation"] = annotations
    config = update_config(entry.config, keys, f"data ({entry.name})")
    return entry.module.build(config), dataclasses.replace(choice, name=entry.name, keys=keys)


def drop_images(dataset: Dataset, places: dict[str, list[int]]) -> Dataset:
    """The data set with the images at some places of its parts left out."""
    if not places:
        return dataset
    splits = {
        name: split.select(np.setdiff1d(np.arange(len(split)), places.get(name, []))) for name, split in dataset.splits.items()
    }  # fmt: skip
    return dataclasses.replace(dataset, splits=splits)


def with_fraction(dataset: Dataset, recipe: Recipe) -> Dataset:
    """The data set with only a share of its training images, where the recipe asks for that."""
    if recipe.data.fraction == 1.0 or "train" not in dataset.splits:
        return dataset
    train = dataset.splits["train"]
    kept = train.select(stratified_subset(train.labels, recipe.data.fraction, recipe.train.seed))
    return dataclasses.replace(dataset, splits={**dataset.splits, "train": kept})


def reopen_dataset(recipe: Recipe, about: dict[str, Any]) -> Dataset:
    """The data set of a run: what is there now, without what the run left out, and only the share that it trained on."""
    return with_fraction(drop_images(open_data(recipe.data)[0], about["data"].get("left_out", {})), recipe)


def open_data_of(source: str, path: str = "", annotations: str = "") -> tuple[Dataset, RunFolder | None]:
    """The data at `path`, with such annotations where it has several, or else that of the run `source`, and then its folder.

    Errors: `UsageError` for weights without a run.
    """
    if path:
        return open_data(DataConfig("", {"path": path}), annotations)[0], None
    try:
        run = find_run(source)
    except CheckpointError:
        raise UsageError("a model without its run does not know its data", "--data FOLDER says where it is") from None
    return reopen_dataset(run.recipe(), run.about()), run


def choose_part(dataset: Dataset, name: str, default: str) -> Split:
    """The part that is asked for, or the usual one. Errors: `UsageError` for a part that is not there."""
    return dataset.splits[
        choose(name or default, dataset.splits, "part of the data", f"parts: {', '.join(dataset.splits)}")
    ]
