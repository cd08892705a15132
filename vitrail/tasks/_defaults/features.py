"""Defaults of tasks that learn features without labels: input and model as of classification, long training, crops and
flips alone."""

import math
from typing import Any

from vitrail.contracts import Defaults
from vitrail.errors import UsageError
from vitrail.facts import Choices, check_absent
from vitrail.recipe import AugmentConfig, Recipe
from vitrail.tasks._defaults.classes import ClassDefaults

SHOWN = (750_000, 100_000_000)  # images in all, on a CPU and on a GPU: a few times what labels take


class FeatureDefaults(Defaults):
    """As published with MAE: AdamW with a shorter memory, no augmentation of colours. Positions are fixed sines, and
    every patch is embedded on its own."""

    max_epochs, least_epochs = 400, 16

    def images_shown(self, gpu: bool) -> int:
        return SHOWN[gpu]

    def choose_input(self, c: Choices) -> None:
        ClassDefaults().choose_input(c)

    def choose_model(self, c: Choices) -> None:
        name, weights = c.recipe.model.name, c.recipe.init.weights
        c.set_model("vit/small" if c.facts.gpu else "vit/nano", f"on {'a GPU' if c.facts.gpu else 'a CPU'}")
        if c.recipe.model.name.startswith("vit/") and not weights:
            c.set_key("model", "stem", "patch", "a masked patch must not be seen from its neighbours")
            c.set_key("model", "position", "sincos2d", "fixed, as published")
            side = min(c.recipe.input.size or (224,))
            if not name or side < 112:
                patch = 4 if side <= 48 else 8 if side < 112 else 16
                c.set_key("model", "patch", patch, "so that an image has some dozen patches")

    def choose_optimizer(self, c: Choices) -> None:
        c.set_default("optim", "betas", [0.9, 0.95], "as published: a shorter memory of squared gradients")

    def choose_augmentation(self, c: Choices) -> None:
        if c.facts.channels == 1 and max(c.recipe.input.size or (0,)) <= 64:
            c.set_default("augment", "crop", "none", "small grey images are usually centred")
        else:
            c.set_default("augment", "crop", "random", "crops and flips are all the augmentation that is needed")
        mirrored = c.facts.is_mirrorable
        why = "as published" if mirrored else "digits, and classes of left and right, must not be flipped"
        c.set_default("augment", "hflip", mirrored, why)

    def peak_lr(self, recipe: Recipe, model_config: Any) -> float:
        """As published, 1.5e-4 at a batch of 256 for a base ViT, by square-root scaling; higher for narrow models."""
        return 1.5e-4 * math.sqrt((recipe.train.batch_size or 1) / 256) * max(1.0, min(10.0, 768 / model_config.width))

    def check(self, recipe: Recipe) -> None:
        """Errors: `UsageError` for settings of labels, and of tasks with masks or boxes."""
        a, plain, resize = recipe.augment, AugmentConfig(), recipe.input.resize_mode
        dense = {"augment.mosaic": a.mosaic > 0, "augment.rotate90": a.rotate90,
                 f"input.resize_mode {resize}": resize in ("slide", "tile")}  # fmt: skip
        check_absent(dense, "is for images with masks or boxes")
        mixed = {f"augment.{key}": vars(a)[key] != vars(plain)[key] for key in ("mixup", "cutmix")}
        check_absent(mixed, "mixes labels, and nothing is learned from labels here")
        dropped = {"model.patch_dropout": bool(recipe.model.keys.get("patch_dropout"))}
        check_absent(dropped, "drops patches as they are drawn, and which are seen is --task.mask-ratio here")
        if recipe.data.sampler == "balanced":
            raise UsageError("data.sampler balanced needs labels, and none are learned from", "--data.sampler shuffle")
