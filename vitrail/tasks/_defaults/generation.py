"""Defaults for generative models: images in [-1, 1], the objective of the family, a constant learning rate, averaged
weights."""

import dataclasses
import math
from typing import Any

from vitrail.contracts import Defaults
from vitrail.errors import UsageError
from vitrail.facts import Choices, LatentShape, check_absent
from vitrail.recipe import AugmentConfig, Choice, Recipe, override

HALF = 0.5  # mean and std: [0, 1] becomes [-1, 1]
SHOWN = (600_000, 60_000_000)  # images in all, on a CPU and on a GPU
EMA, SHORTER = 0.9999, 0.9996  # as published with JiT
PART = 50  # the second average spans a fiftieth of a run, where that is less than `SHORTER`
SIZES = (32, 64)  # of photographs, on a CPU and on a GPU, for the default model


class GenerationDefaults(Defaults):
    max_epochs = 600

    def images_shown(self, gpu: bool) -> int:
        return SHOWN[gpu]

    def choose_input(self, c: Choices) -> None:
        f, name = c.facts, c.recipe.model.name
        tall, wide = f.size
        if f.latent_shape:
            c.set_default("input", "channels", f.latent_shape.channels, "as the autoencoder takes")
        c.set_default("input", "channels", f.channels, "as the images have")
        small, factor = max(f.size) <= 64, f.latent_shape.factor if f.latent_shape else 1
        if small:
            whole = [-(-side // factor) * factor for side in f.size]
            c.set_default("input", "size", whole, "the images' own" if f.uniform else "the median of the images' sizes")
        elif name or f.latent_shape:
            chosen = Choice(name or default_model(c), c.recipe.model.keys if name else {})
            size = [factor * side for side in c.config_of(chosen).size]
            c.set_default("input", "size", size, f"the size of {chosen.name}")
        else:
            c.set_default(
                "input",
                "size",
                [SIZES[f.gpu]] * 2,
                f"photographs (median {tall}x{wide}) on a {'GPU' if f.gpu else 'CPU'}",
            )
        why = "small images are used whole" if small else "keeps proportions"
        c.set_default("input", "resize_mode", "stretch" if small else "crop", why)
        if any(side % factor for side in c.recipe.input.size or ()):
            fix = " ".join(str(-(-side // factor) * factor) for side in c.recipe.input.size or ())
            what = f"the autoencoder downsamples images by {factor}, and input.size is not divisible by that"
            raise UsageError(what, f"--img-size {fix}")
        for key in ("mean", "std"):
            c.set_default("input", key, [HALF] * c.recipe.input.channels)
        c.reasons.append(f"input.mean, input.std = {HALF}: generated images are in [-1, 1]")

    def choose_model(self, c: Choices) -> None:
        """The model, its classes and the objective of its family: Gaussian diffusion for one with a variance."""
        c.set_model(default_model(c), f"for {c.facts.count:,} images on a {'GPU' if c.facts.gpu else 'CPU'}")
        c.set_key("model", "classes", c.facts.classes, "as the data has")
        objective = "gaussian" if is_gaussian(c.model_config) else "flow"
        c.set_key("task", "objective", objective, f"that of {c.recipe.model.name}")
        if c.facts.latent_shape:
            set_latent_shape(c, c.facts.latent_shape)

    def choose_optimizer(self, c: Choices) -> None:
        """As published: AdamW without weight decay at a constant learning rate, and averaged weights for sampling."""
        steps, gaussian = c.recipe.train.steps or 1, is_gaussian(c.model_config)
        c.set_default("optim", "weight_decay", 0.0)
        c.set_default("optim", "betas", [0.9, 0.999] if gaussian else [0.9, 0.95])
        c.set_default(
            "optim", "schedule", "constant", "denoisers are trained at a constant learning rate, without weight decay"
        )
        if gaussian:
            c.set_default("optim", "warmup_steps", 0)
        c.set_default("optim", "ema_decay", EMA, "averaged weights are used for sampling")
        shorter = round(max(0.0, min(SHORTER, 1 - PART / steps)), 4) if c.recipe.optim.ema_decay else 0.0
        c.set_default(
            "optim",
            "ema_decay_2",
            shorter,
            "a shorter average to choose from: vitrail sample --ema 2" if shorter else "",
        )

    def choose_augmentation(self, c: Choices) -> None:
        c.set_default(
            "augment", "crop", "none", "a generative model would learn augmentations: images are only flipped"
        )
        mirrored = c.facts.is_mirrorable
        c.set_default(
            "augment",
            "hflip",
            mirrored,
            "flipped images keep their class"
            if mirrored
            else "digits, and classes of left and right, must not be flipped",
        )

    def peak_lr(self, recipe: Recipe, model_config: Any) -> float:
        """As published (DiT 1e-4 at 256, JiT 2e-4 at 1024), higher for narrow models."""
        batch = recipe.train.batch_size or 1
        usual = 1e-4 * math.sqrt(batch / 256) if is_gaussian(model_config) else 2e-4 * math.sqrt(batch / 1024)
        return usual * max(1.0, min(10.0, 768 / model_config.width))

    def check(self, recipe: Recipe) -> None:
        """Errors: `UsageError` for augmentations that a model would learn to reproduce, and for images not in [-1,
        1]."""
        a, p, default, given = recipe.augment, recipe.train, AugmentConfig(), recipe.input
        windowed = given.resize_mode in ("slide", "tile")
        dense = {"augment.mosaic": a.mosaic > 0, "augment.rotate90": a.rotate90,
                 f"input.resize_mode {given.resize_mode}": windowed}  # fmt: skip
        check_absent(dense, "is for images with masks or boxes")
        if given.vae is not None and a.crop == "random":
            what = "augment.crop random gives another crop every time, but latents are computed once"
            raise UsageError(what, "leave it out, or input.vae")
        learned = ("randaugment_ops", "auto_augment", "color_jitter", "random_erasing", "mixup", "cutmix")
        asked = {
            **{f"augment.{key}": getattr(a, key) != getattr(default, key) for key in learned},
            "augment.crop pad": a.crop == "pad", "input.resize_mode fit": given.resize_mode == "fit",
        }  # fmt: skip
        check_absent(asked, "changes images, and a generative model would learn to reproduce that")
        if p.start_size is not None:
            raise UsageError("train.start_size is not for generative models", "leave it out")
        for name, values in (("mean", given.mean), ("std", given.std)):
            if any(value != HALF for value in values or ()):
                what = f"input.{name} is {values}, and generated images are in [-1, 1]: {HALF} for each channel"
                raise UsageError(what, "leave it out")


def is_gaussian(model_config: Any) -> bool:
    """Whether a denoiser has a variance, which only Gaussian diffusion learns."""
    return "learn_sigma" in {f.name for f in dataclasses.fields(model_config)}


def default_model(c: Choices) -> str:
    """The model where none is named: DiT for latents, JiT for pixels."""
    if c.facts.latent_shape:
        return "dit/small_2" if c.facts.gpu else "dit/nano"
    return "jit/tiny" if c.facts.gpu else "jit/nano"


def set_latent_shape(c: Choices, shape: LatentShape) -> None:
    """Sets size and channels of a model of latents. Errors: `UsageError` where others were given."""
    assert c.recipe.input.size is not None
    for key, value in (("size", [side // shape.factor for side in c.recipe.input.size]), ("channels", shape.latents)):
        given = c.recipe.model.keys.get(key)
        if given is not None and (list(given) if isinstance(given, tuple | list) else given) != value:
            raise UsageError(f"model.{key} is {given}, and latents of these images have {value}", "leave it out")
        c.recipe = override(c.recipe, "model", {key: value})
        c.reasons.append(f"model.{key} = {value}: as latents have")
