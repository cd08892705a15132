"""The data set of a recipe or a run, whole or as the run used it."""

import contextlib
import dataclasses
import os
from collections.abc import Iterator, Mapping
from typing import Any, get_type_hints

import numpy as np

from vitrail import catalog
from vitrail.assembly import layouts
from vitrail.assembly.opening import opened
from vitrail.assembly.resolve import Names
from vitrail.assembly.run_directory import RunFolder, find_run
from vitrail.assembly.validation_part import choose_val_fraction, with_val_part
from vitrail.contracts import Task
from vitrail.data import fingerprint
from vitrail.data.dataset import Dataset
from vitrail.data.portable import portability_notes
from vitrail.data.subset import stratified_subset
from vitrail.data.survey.images import survey_images
from vitrail.errors import CheckpointError, DataError, UsageError
from vitrail.recipe import DataConfig, Recipe, override
from vitrail.validation import as_path, literals, update_config, validate

SELECTING = (  # keys that say which images are trained on, not how data is read
    "path", "seed", "held_out", "split", "test", "tile", "overlap", "empty", "count_train", "count_val", "count_test",
    "whole",
)  # fmt: skip
WHOLE = {"held_out": 0.0, "split": (1.0, 0.0), "whole": True}  # nothing is held out randomly, any classes will do


def open_data(
    choice: DataConfig, annotations: str = "", names: Names | None = None, optional: Mapping[str, Any] | None = None
) -> tuple[Dataset, DataConfig]:
    """The data set of a recipe, and the choice with its detected layout and absolute path. annotations: those to learn
    from, of a data set that has several. optional: keys that are used if the layout has them."""
    given = path = validate(choice.keys.get("path", ""), str, "data.path")
    if not path and not choice.name:
        raise UsageError("no data was given", "--data mini, or --data FOLDER with one folder of images per class")
    if "\\" in path:  # written on Windows
        path = str(as_path(path))
    names = names or Names()
    read = {k: v for k, v in {**(optional or {}), **choice.keys}.items() if k != "path"}
    key = opened.key_of([os.path.abspath(path), read])
    indexed = opened.find_indexed(key, choice.name) if as_path(path).is_dir() else None
    notes: list[str] = []
    with refused_files(path):
        if indexed is None:
            path, notes = layouts.unwrap(path) if path else (path, [])
        else:
            path = indexed.path
        layout = indexed.name if indexed else choice.name or catalog.detect_layout(path)
        entry = names.find("datasets", layout)
    keys = {k: v for k, v in (optional or {}).items() if k in vars(entry.config)} | choice.keys
    if path and as_path(path).exists():
        keys["path"] = as_path(path).absolute().as_posix()
    offered = literals(get_type_hints(type(entry.config)).get("annotation"))
    if not keys.get("annotation") and annotations in offered:
        keys["annotation"] = annotations
    config = update_config(entry.config, keys, f"data ({entry.name})")
    data = dataclasses.replace(choice, name=entry.name, keys=keys)
    if indexed:
        return indexed.with_notes(bool(choice.name)), data
    with refused_files(path):
        dataset = entry.module.build(config)
        others = [] if choice.name else layouts.note_other_layouts(dataset, path, bool(keys.get("follow_links")))
    notes += portability_notes([one.name for one in dataset.entries])
    found = opened.Opened(dataset, entry.name, path, (*notes, *dataset.notes), tuple(others), bool(choice.name))
    return opened.with_index(found, given, "" if offered else key), data


@contextlib.contextmanager
def refused_files(path: str) -> Iterator[None]:
    """Turns what the file system refuses, such as a name in an annotation that is too long for it, into `DataError`."""
    try:
        yield
    except OSError as error:
        name = str(error.filename or path)
        name = name if len(name) < 120 else f"{name[:60]}...{name[-40:]}"
        raise DataError(
            f"{path}: {name} cannot be read: {(error.strerror or str(error)).lower()}",
            "check that it exists and is readable, and the names in the files of the data set",
        ) from None


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


def choose_images(
    recipe: Recipe, dataset: Dataset, task: Task, left_out: dict[str, list[int]]
) -> tuple[Recipe, Dataset, list[str]]:
    """The images that a run uses: without those left out, the fraction that the recipe sets, with a validation part.
    Returns the recipe with the size of that part, the images and the reasons."""
    dataset = with_fraction(drop_images(dataset, left_out), recipe)
    recipe, reasons = choose_val_fraction(recipe, dataset, task)
    return recipe, with_val_part(dataset, recipe), reasons


def reopen_dataset(recipe: Recipe, about: dict[str, Any]) -> Dataset:
    """The data set of a run as it is now, without the images that the run skipped, and only the fraction that it
    trained on."""
    return as_trained(open_data(recipe.data)[0], recipe, about["data"].get("left_out", {}))


def as_trained(dataset: Dataset, recipe: Recipe, left_out: dict[str, list[int]]) -> Dataset:
    """The data set without the images that the run skipped, only the fraction that it trains on, and with the part that
    it holds out."""
    return with_val_part(with_fraction(drop_images(dataset, left_out), recipe), recipe)


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
        differences = fingerprint.read_differences(folder.entries, dataset.entries)
        if differences:
            raise DataError(
                f"the data set changed since the run started: {'; '.join(differences)}"[:400],
                "start a new run; if only dates changed, use --data.fingerprint content in new runs",
            )
    return as_trained(dataset, recipe, about["data"]["left_out"])


def reading_keys(source: str) -> DataConfig:
    """How a run reads its data, for reading other data in the same way: the keys of its layout without its path and
    without what says which images it trains on. Nothing of a model without its run."""
    try:
        data = find_run(source).recipe().data
    except CheckpointError:
        return DataConfig()
    keys = {key: value for key, value in data.keys.items() if key not in SELECTING}
    return DataConfig(data.name, keys, on_error=data.on_error, max_errors=data.max_errors)


def open_given(source: str, given: Mapping[str, Any], task: Task) -> Dataset:
    """Data to evaluate the model of `source` on, all of it: nothing is split randomly. It is read as the run reads its
    own, but for the keys that are given ("path" among them). Errors: `DataError`, `UsageError`."""
    own = reading_keys(source)
    choice = override(Recipe(data=dataclasses.replace(own, name="", keys={})), "data", dict(given)).data
    optional = {**own.keys, **WHOLE}
    dataset, found = open_data(choice, task.annotations, optional=optional)
    path = str(choice.keys.get("path", ""))
    if task.learns_from(dataset.kind) or choice.name or found.name == own.name:
        return dataset
    # a folder may fit several layouts: then the one that the run was trained on is meant
    if own.name in catalog.list_modules("datasets") and catalog.load_module("datasets", own.name).matches(path):
        return open_data(dataclasses.replace(choice, name=own.name), task.annotations, optional=optional)[0]
    return dataset


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
