"""The validation part on which the best weights of a run are chosen: that of the data, or a held-out fraction of its
training images, by a rule that depends on their number."""

import dataclasses

import numpy as np

from vitrail.contracts import Task
from vitrail.data.dataset import Dataset
from vitrail.data.files import hold_out
from vitrail.errors import UsageError, many
from vitrail.recipe import Recipe

SHARE = 0.05  # of the training images
LEAST = 1000  # images that a held-out part must have: with fewer, chance decides between weights a point apart
STOPPING_SHARE = 0.1  # where early stopping needs a part, whatever the size


def choose_val_fraction(recipe: Recipe, dataset: Dataset, task: Task) -> tuple[Recipe, list[str]]:
    """The recipe with `data.val_fraction` set, and the reason. Errors: `UsageError` where the data cannot be split
    so."""
    given, train = recipe.data.val_fraction, len(dataset.splits["train"])
    patience, tiles = recipe.train.patience > 0, bool(recipe.data.keys.get("tile"))
    reasons: list[str] = []
    if "val" in dataset.splits:
        if given:
            raise UsageError("data.val_fraction is given, but the data has a val part", "leave it out")
        fraction = 0.0
    elif given is not None:
        if given and tiles:
            raise UsageError("data.val_fraction would hold out tiles of training images", "give the data a val part")
        fraction = given
    elif tiles or (not task.selects_best and not patience) or recipe.train.eval_every == 0:
        fraction = 0.0
    elif patience:
        fraction = STOPPING_SHARE
        reasons.append(f"data.val_fraction = {fraction}: early stopping needs a val part, and the data names none")
    elif train * SHARE >= LEAST:
        fraction = SHARE
        held_out = f"{SHARE:.0%} of the {train:,} training images are held out to choose the best weights"
        reasons.append(f"data.val_fraction = {fraction}: the data names no val part, so {held_out}")
    else:
        fraction = 0.0
        few = f"{SHARE:.0%} of {many(train, 'training image')} would be fewer than {LEAST:,}"
        reasons.append(f"data.val_fraction = 0: the data names no val part, and {few}: the last weights are used")
    if patience and not fraction and "val" not in dataset.splits:
        raise UsageError(
            "train.patience chooses the best weights, and the data has no val part: a test part is never used for it",
            "--data.val-fraction 0.1 holds out training images, or give the data a val part",
        )
    return dataclasses.replace(recipe, data=dataclasses.replace(recipe.data, val_fraction=fraction)), reasons


def with_val_part(dataset: Dataset, recipe: Recipe) -> Dataset:
    """The data set with a fraction of the training images of every class as its val part, as `data.val_fraction` sets;
    chosen by name and seed."""
    fraction = recipe.data.val_fraction
    if not fraction or "val" in dataset.splits or "train" not in dataset.splits:
        return dataset
    train = dataset.splits["train"]
    held_out = hold_out(train.names, train.labels, fraction, recipe.train.seed)
    if not held_out.any():
        return dataset
    splits = {"train": train.select(np.flatnonzero(~held_out)), "val": train.select(np.flatnonzero(held_out))}
    return dataclasses.replace(dataset, splits={**dataset.splits, **splits})
