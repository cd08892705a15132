"""The data set of a recipe or a run, whole or as the run used it."""

import dataclasses
from typing import Any, get_type_hints

import numpy as np

from vitrail import catalog
from vitrail.assembly import layouts
from vitrail.assembly.resolve import Names
from vitrail.assembly.run_directory import RunFolder, find_run
from vitrail.data import fingerprint
from vitrail.data.dataset import Dataset, Split
from vitrail.data.portable import portability_notes
from vitrail.data.subset import stratified_subset
from vitrail.data.survey.images import survey_images
from vitrail.errors import CheckpointError, DataError, UsageError, choose
from vitrail.recipe import DataConfig, Recipe
from vitrail.validation import as_path, literals, update_config, validate


def open_data(choice: DataConfig, annotations: str = "", names: Names | None = None) -> tuple[Dataset, DataConfig]:
    """The data set of a recipe, and the choice with its detected layout and absolute path. annotations: those to learn
    from, of a data set that has several."""
    path = validate(choice.keys.get("path", ""), str, "data.path")
    if not path and not choice.name:
        raise UsageError("no data was given", "--data mini, or --data FOLDER with one folder of images per class")
    if "\\" in path:  # written on Windows
        path = str(as_path(path))
    path, notes = layouts.unwrap(path) if path else (path, [])
    entry = (names or Names()).find("datasets", choice.name or catalog.detect_layout(path))
    keys = dict(choice.keys)
    if path and as_path(path).exists():
        keys["path"] = as_path(path).absolute().as_posix()
    offered = literals(get_type_hints(type(entry.config)).get("annotation"))
    if not keys.get("annotation") and annotations in offered:
        keys["annotation"] = annotations
    config = update_config(entry.config, keys, f"data ({entry.name})")
    dataset = entry.module.build(config)
    if not choice.name:
        dataset = layouts.with_other_layouts(dataset, path, bool(keys.get("follow_links")))
    notes += portability_notes(one.name for one in dataset.entries)
    dataset = dataclasses.replace(dataset, notes=(*notes, *dataset.notes))
    return dataset, dataclasses.replace(choice, name=entry.name, keys=keys)


def drop_images(dataset: Dataset, dropped: dict[str, list[int]]) -> Dataset:
    """The data set without the images at some indices of its splits, and without splits of which none is left."""
    if not dropped:
        return dataset
    splits = {
        name: split.select(np.setdiff1d(np.arange(len(split)), dropped.get(name, [])))
        for name, split in dataset.splits.items()
    }
    if "train" in splits and not len(splits["train"]):
        raise DataError("no training image can be read", "vitrail check lists them")
    return dataclasses.replace(dataset, splits={name: split for name, split in splits.items() if len(split)})


def with_fraction(dataset: Dataset, recipe: Recipe) -> Dataset:
    """The data set with a fraction of its training images, as `data.fraction` sets."""
    if recipe.data.fraction == 1.0 or "train" not in dataset.splits:
        return dataset
    train = dataset.splits["train"]
    kept = train.select(stratified_subset(train.labels, recipe.data.fraction, recipe.train.seed))
    return dataclasses.replace(dataset, splits={**dataset.splits, "train": kept})


def reopen_dataset(recipe: Recipe, about: dict[str, Any]) -> Dataset:
    """The data set of a run as it is now, without the images that the run skipped, and only the fraction that it
    trained on."""
    return with_fraction(drop_images(open_data(recipe.data)[0], about["data"].get("left_out", {})), recipe)


def open_same_dataset(folder: RunFolder, recipe: Recipe, about: dict[str, Any]) -> Dataset:
    """The data set of a run, unchanged. Errors: `DataError` that names the first differences."""
    dataset, _ = open_data(recipe.data)
    if recipe.data.fingerprint == "content":
        if survey_images(dataset).content != about["data"]["content"]:
            raise DataError(
                "the images are not those that the run started with (their content differs)",
                "start a new run, or restore them",
            )
    else:
        differences = fingerprint.differences(fingerprint.read_entries(folder.entries), dataset.entries)
        if differences:
            raise DataError(
                f"the data set changed since the run started: {'; '.join(differences)}"[:400],
                "start a new run; if only dates changed, use --data.fingerprint content in new runs",
            )
    return with_fraction(drop_images(dataset, about["data"]["left_out"]), recipe)


def open_data_of(source: str, path: str = "", annotations: str = "") -> tuple[Dataset, RunFolder | None]:
    """The data at `path`, with such annotations where it has several, or that of the run `source`, with its folder.

    Errors: `UsageError` for weights without a run.
    """
    if path:
        return open_data(DataConfig("", {"path": path}), annotations)[0], None
    try:
        run = find_run(source)
    except CheckpointError:
        raise UsageError("a model without its run does not know its data", "--data FOLDER") from None
    return reopen_dataset(run.recipe(), run.about()), run


def choose_part(dataset: Dataset, name: str, default: str) -> Split:
    """The split of a name, or the default one. Errors: `UsageError` for an unknown split."""
    return dataset.splits[
        choose(name or default, dataset.splits, "part of the data", f"parts: {', '.join(dataset.splits)}")
    ]
