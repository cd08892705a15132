"""Choices for pictures with classes: their size, a plain ViT that fits them, what is done to them."""

import math
from typing import Any

from vitrail.contracts import Defaults
from vitrail.facts import Choices, check_absent
from vitrail.recipe import Recipe, override

SHOWN = (250_000, 30_000_000)  # pictures in all, on a CPU and on a GPU


class ClassDefaults(Defaults):
    """Of tasks that learn one thing, or some, of a whole picture."""

    max_epochs = 150

    def images_shown(self, gpu: bool) -> int:
        return SHOWN[gpu]

    def choose_input(self, c: Choices) -> None:
        f = c.facts
        tall, wide = f.size
        c.settle("input", "channels", f.channels, "as the pictures have")
        small = max(f.size) <= 64
        if small:
            c.settle("input", "size", list(f.size), "the pictures' own" if f.uniform else "the median of the pictures' sizes")
        elif f.gpu:
            c.settle("input", "size", [224, 224], f"photographs (median {tall}x{wide}) on a GPU")
        else:
            c.settle("input", "size", [96, 96], f"photographs (median {tall}x{wide}) on a CPU: detail costs time")
        c.settle("input", "resize", "stretch" if small else "crop", "small pictures are used whole" if small else "keeps proportions")

    def choose_model(self, c: Choices) -> None:
        name = "vit/nano" if not c.facts.gpu else ("vit/tiny" if c.facts.count < 20_000 else "vit/small")
        c.settle_model(name, f"for {c.facts.count:,} pictures on {'a GPU' if c.facts.gpu else 'a CPU'}")
        name, size = c.recipe.model.name, c.recipe.input.size
        assert size is not None
        side = min(size)
        if "patch" in c.recipe.model.keys or not name.startswith("vit/"):
            return
        patch = (4 if side < 24 else 8 if side <= 64 else 16) if name == "vit/nano" else (max(2, side // 14) if side < 112 else None)
        if patch is not None:
            tokens = math.ceil(size[0] / patch) * math.ceil(size[1] / patch)
            c.recipe = override(c.recipe, "model", {"patch": patch})
            c.reasons.append(f"model.patch = {patch}: {tokens} tokens a picture")

    def choose_optimizer(self, c: Choices) -> None:
        """What is usual does."""

    def choose_augmentation(self, c: Choices) -> None:
        assert c.recipe.input.size is not None
        small = max(c.recipe.input.size) <= 64
        if not small:
            c.settle("augment", "crop", "random", "photographs are cropped")
        elif c.recipe.input.channels == 1:
            c.settle("augment", "crop", "none", "small grey pictures are usually centred, and shifting them slows learning")
        else:
            c.settle("augment", "crop", "pad", "small pictures are shifted")
        mirrored = c.facts.mirrored
        c.settle("augment", "flip", mirrored, "mirror images keep their class" if mirrored else "digits must not be mirrored")

    def peak_lr(self, recipe: Recipe, model_config: Any) -> float:
        batch = recipe.plan.batch or 1
        return 3e-3 * math.sqrt(batch / 128) if recipe.model.name == "vit/nano" else 1e-3 * math.sqrt(batch / 1024)

    def check(self, recipe: Recipe) -> None:
        resize = recipe.input.resize
        asked = {"augment.mosaic": recipe.augment.mosaic > 0, f"input.resize {resize}": resize in ("slide", "tile")}
        check_absent(asked, "is for pictures with masks or boxes")
