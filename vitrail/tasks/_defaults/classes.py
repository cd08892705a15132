"""Defaults for images with classes: size, a plain ViT, augmentation."""

import math
from typing import Any

from vitrail.contracts import Defaults
from vitrail.facts import Choices, check_absent
from vitrail.recipe import Recipe, override, with_defaults
from vitrail.tasks._defaults import transfer

SMALL_MODELS = ("vit/pico", "vit/nano", "vit/micro")  # for small images on a CPU
MANY = 20_000  # images from which on a larger model learns more in the same time
SHOWN = (250_000, 30_000_000)  # images in all, on a CPU and on a GPU


class ClassDefaults(Defaults):
    """Of tasks that learn one class, or several, of a whole image."""

    max_epochs, least_epochs = 150, 16
    published = ("vit/tiny", "vit/small")

    def images_shown(self, gpu: bool) -> int:
        return SHOWN[gpu]

    def choose_input(self, c: Choices) -> None:
        f = c.facts
        tall, wide = f.size
        c.set_default("input", "channels", f.channels, "as the images have")
        small = max(f.size) <= 64
        if small:
            c.set_default(
                "input", "size", list(f.size), "the images' own" if f.uniform else "the median of the images' sizes"
            )
        elif f.gpu:
            c.set_default("input", "size", [224, 224], f"photographs (median {tall}x{wide}) on a GPU")
        else:
            c.set_default("input", "size", [96, 96], f"photographs (median {tall}x{wide}) on a CPU: detail costs time")
        c.set_default(
            "input",
            "resize_mode",
            "stretch" if small else "crop",
            "small images are used whole" if small else f"keeps proportions; {describe_edges(c)}",
        )

    def choose_model(self, c: Choices) -> None:
        c.set_model(default_model(c), f"for {c.facts.count:,} images on {'a GPU' if c.facts.gpu else 'a CPU'}")
        transfer.choose_what_learns(c)
        name, size = c.recipe.model.name, c.recipe.input.size
        assert size is not None
        side = min(size)
        if "patch" in c.recipe.model.keys or not name.startswith("vit/") or c.recipe.init.weights:
            return  # initial weights keep the patch that they were trained with
        patch = (
            (4 if side < 24 else 8 if side <= 64 else 16)
            if name in SMALL_MODELS
            else (max(2, side // 14) if side < 112 else None)
        )
        if patch is not None:
            tokens = math.ceil(size[0] / patch) * math.ceil(size[1] / patch)
            c.recipe = override(c.recipe, "model", {"patch": patch})
            c.reasons.append(f"model.patch = {patch}: {tokens} tokens an image")

    def choose_optimizer(self, c: Choices) -> None:
        """Muon for random weights; AdamW, and settings of their own, for training that begins from weights."""
        if not c.recipe.init.weights and transfer.way_of(c.recipe.optim) is not transfer.HEAD:
            c.set_default("optim", "name", "muon", "learns most in the same time from random weights")
        transfer.choose_start(c)

    def choose_augmentation(self, c: Choices) -> None:
        transfer.choose_features(c)
        assert c.recipe.input.size is not None
        small = max(c.recipe.input.size) <= 64
        if not small:
            c.set_default("augment", "crop", "random", "photographs are cropped")
        elif c.recipe.input.channels == 1:
            c.set_default(
                "augment", "crop", "none", "small grey images are usually centred, and shifting them slows learning"
            )
        else:
            c.set_default("augment", "crop", "pad", "small images are shifted")
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
        batch = recipe.train.batch_size or 1
        return 3e-3 * math.sqrt(batch / 128) if recipe.model.name in SMALL_MODELS else 1e-3 * math.sqrt(batch / 1024)

    def check(self, recipe: Recipe) -> None:
        resize = recipe.input.resize_mode
        asked = {
            "augment.mosaic": recipe.augment.mosaic > 0, "augment.rotate90": recipe.augment.rotate90,
            f"input.resize_mode {resize}": resize in ("slide", "tile"),
        }  # fmt: skip
        check_absent(asked, "is for images with masks or boxes")


def describe_edges(c: Choices) -> str:
    """What a crop from the middle leaves out of an image of the median size, and what keeps it."""
    given = with_defaults(c.recipe.input)
    assert given.crop_ratio is not None
    lost = edges_lost(c.facts.size, given.size or c.facts.size, given.crop_ratio)
    return f"the edges, {lost:.0%} of a median image, are not looked at (--input.resize-mode fit looks at all of it)"


def edges_lost(image: tuple[int, int], size: tuple[int, int], crop_ratio: float) -> float:
    """The share of an image of (height, width) that `Preprocess` crops away for `size`."""
    scale = max(size[0] / image[0], size[1] / image[1]) / crop_ratio
    return max(0.0, 1 - size[0] * size[1] / (image[0] * image[1] * scale**2))


def default_model(c: Choices) -> str:
    """The model where none is named."""
    few = c.facts.count < MANY
    if c.facts.gpu:
        return "vit/tiny" if few else "vit/small"
    assert c.recipe.input.size is not None
    if max(c.recipe.input.size) > 64:
        return "vit/nano"
    return "vit/pico" if few else "vit/micro"
