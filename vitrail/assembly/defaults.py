"""Fills in a recipe: options that are not set are chosen from the data, each with its reason. And the commands that are
suggested for a data set, which work as printed."""

import dataclasses
import math
import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch

from vitrail.contracts import Defaults, Task
from vitrail.data.annotations.boxes import measure_objects
from vitrail.data.dataset import Dataset
from vitrail.data.survey.images import Survey
from vitrail.data.texts.captions import Captions
from vitrail.facts import Choices, Facts
from vitrail.recipe import Choice, DataConfig, Recipe, with_defaults
from vitrail.storage.json_text import to_json
from vitrail.storage.printable import shell_word
from vitrail.tasks._defaults import transfer

SIDES = {"left", "right"}
SMALL = 5_000  # training images below which published weights are suggested
LR_SCALES = {"adamw": 1.0, "muon": 1.0, "lamb": 3.0, "sgd": 10.0}  # peak learning rates as multiples of AdamW's


def fill_recipe(
    recipe: Recipe, facts: Facts, defaults: Defaults, config_of: Callable[[Choice], Any]
) -> tuple[Recipe, list[str]]:
    """The recipe with every option set, and the reasons. config_of: the config of a model by name and keys."""
    c = Choices(recipe, facts, config_of)
    defaults.choose_input(c)
    choose_colors(c)
    defaults.choose_model(c)
    choose_duration(c, defaults)
    defaults.choose_augmentation(c)
    return c.recipe, c.reasons


def choose_colors(c: Choices) -> None:
    f, channels = c.facts, c.recipe.input.channels
    measured = []
    std = tuple(s if s >= 1e-6 else 1.0 for s in f.std)  # a channel may be constant
    for key, values in (("mean", f.mean), ("std", std)):
        if getattr(c.recipe.input, key) is None:
            c.set_default("input", key, adapt_channels(values, channels))
            measured.append(f"input.{key}")
    c.recipe = dataclasses.replace(c.recipe, input=with_defaults(c.recipe.input))
    if measured:
        on = f"{f.measured:,} of the" if f.measured else "the"
        c.reasons.append(f"{', '.join(measured)}: measured on {on} training images")


def adapt_channels(values: tuple[float, ...], channels: int) -> list[float]:
    """Statistics for another number of channels than measured: their mean, repeated."""
    if len(values) == channels:
        return [round(v, 6) for v in values]
    return [round(sum(values) / len(values), 6)] * channels


def choose_duration(c: Choices, defaults: Defaults) -> None:
    n, p, pretrained = c.facts.count, c.recipe.train, bool(c.recipe.init.weights)
    batch = next(b for least, b in ((8000, 128), (2000, 64), (500, 32), (0, 16)) if n >= least) * (
        4 if c.facts.gpu else 1
    )
    c.set_default("train", "batch_size", batch, f"for {n:,} training images")
    batch = c.recipe.train.batch_size or batch
    if p.steps is None:  # epochs become steps, so that the saved recipe can be run unchanged
        budget = defaults.images_shown(c.facts.gpu)
        whole = min(defaults.max_epochs, max(defaults.least_epochs, round(budget / n)))
        epochs = p.epochs or whole / (3 if pretrained else 1)
        steps = max(1, math.ceil(epochs * n / batch))
        fewer = ", a third of what random weights need" if pretrained and not p.epochs else ""
        length = "1 epoch" if epochs == 1 else f"{epochs:.3g} epochs"
        c.set_default("train", "steps", steps, f"{length}, {round(epochs * n):,} images in all{fewer}")
    c.recipe = dataclasses.replace(c.recipe, train=dataclasses.replace(c.recipe.train, epochs=None))
    steps = c.recipe.train.steps or 1
    c.set_default("train", "eval_every", max(math.ceil(n / batch), math.ceil(steps / 20)))
    defaults.choose_optimizer(c)
    c.recipe = dataclasses.replace(c.recipe, optim=with_defaults(c.recipe.optim))
    c.set_default("optim", "warmup_steps", min(2000, steps // 10), "a tenth of the steps, at most 2,000")
    peak = default_lr(c.recipe, defaults, c.model_config)
    factor = weights_factor(c.recipe)
    lower = f"; {factor:g} of it for pretrained weights" if factor != 1 else ""
    c.set_default(
        "optim", "lr", float(f"{peak:.2g}"), f"for this model at batch size {batch}, by square-root scaling{lower}"
    )


def default_lr(recipe: Recipe, defaults: Defaults, model_config: Any) -> float:
    """The default peak learning rate of a model at the recipe's batch size, by square-root scaling."""
    return defaults.peak_lr(recipe, model_config) * LR_SCALES[recipe.optim.name or "adamw"] * weights_factor(recipe)


def weights_factor(recipe: Recipe) -> float:
    """The learning rate for initial weights, as a multiple of that for random ones."""
    return transfer.way_of(recipe.optim).lr if recipe.init.weights else 1.0


def gather_facts(dataset: Dataset, survey: Survey, device: torch.device, keys: Mapping[str, Any], task: Task) -> Facts:
    """The facts that defaults depend on. keys: those of the data set."""
    objects, sample = measure_objects(dataset.splits["train"]), survey.sample
    return Facts(
        count=len(dataset.splits["train"]),
        size=(sample.sizes.height[1], sample.sizes.width[1]),
        uniform=sample.sizes.distinct == 1,
        channels=dataset.channels,
        mean=sample.mean,
        std=sample.std,
        measured=sample.images if sample.images < survey.images["train"] else 0,
        is_mirrorable=is_mirrorable(dataset.origin or dataset.layout, dataset.classes),
        gpu=device.type == "cuda",
        classes=len(dataset.classes),
        objects=objects.total,
        object_side=objects.side,
        object_overlap=objects.overlap,
        tile=int(keys.get("tile", 0)),
        takes_features=task.takes_features,
        captions=Captions(dataset.splits["train"]),
    )


def is_mirrorable(layout: str, classes: Sequence[str]) -> bool:
    """Whether a mirrored image keeps its class: not of digits, nor where sides are classes (a left kidney)."""
    sided = any(SIDES & set(re.split(r"[^a-z]+", name.lower())) for name in classes)
    return not sided and not (layout == "idx" and classes[0].isdigit())


def train_command(choice: DataConfig) -> str:
    """The command that trains on the data, with every key that was given."""
    given = {field.name: getattr(choice, field.name) for field in dataclasses.fields(choice) if field.name != "keys"}
    changed = {name: value for name, value in given.items() if value != getattr(DataConfig(), name)}
    words = [
        f"--data.{key.replace('_', '-')} {shell_word(value if isinstance(value, str) else to_json(value))}"
        for key, value in {**changed, **choice.keys}.items()
        if key != "path"
    ]
    return " ".join([f"vitrail train --data {shell_word(choice.keys['path'])}", *words])


def suggest_weights(choice: DataConfig, count: int, defaults: Defaults, gpu: bool) -> str:
    """That published weights would help so few training images, with the command; "" where they are many, or nothing is
    known to help. choice: the data as it was given."""
    name = defaults.published[gpu]
    if count >= SMALL or not name or "path" not in choice.keys:
        return ""
    command = f"{train_command(choice)} --weights {name}"
    return f"{count:,} training images are few; published weights would help (vitrail weights lists them): {command}"
