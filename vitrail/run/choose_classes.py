"""Choices for pictures with classes: their size, a plain ViT that fits them, what is done to them."""

import math

from vitrail.recipe import Recipe, override
from vitrail.run.choices import Choices

SHOWN = {"classes": (250_000, 30_000_000)}  # pictures in all, on a CPU and on a GPU
EPOCHS = 150  # at most


def pictures(c: Choices) -> None:
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


def model(c: Choices) -> None:
    if c.recipe.model.name:
        name = c.recipe.model.name
    else:
        name = "vit/nano" if not c.facts.gpu else ("vit/tiny" if c.facts.count < 20_000 else "vit/small")
        where = "a GPU" if c.facts.gpu else "a CPU"
        c.recipe = override(c.recipe, "model", {"name": name})
        c.reasons.append(f"model = {name}: for {c.facts.count:,} pictures on {where}")
    assert c.recipe.input.size is not None
    side = min(c.recipe.input.size)
    if "patch" not in c.recipe.model.keys and name.startswith("vit/"):
        patch = (4 if side < 24 else 8 if side <= 64 else 16) if name == "vit/nano" else (max(2, side // 14) if side < 112 else None)
        if patch is not None:
            tokens = math.ceil(c.recipe.input.size[0] / patch) * math.ceil(c.recipe.input.size[1] / patch)
            c.recipe = override(c.recipe, "model", {"patch": patch})
            c.reasons.append(f"model.patch = {patch}: {tokens} tokens a picture")


def peak(recipe: Recipe) -> float:
    """The rate of AdamW."""
    batch = recipe.plan.batch or 1
    return 3e-3 * math.sqrt(batch / 128) if recipe.model.name == "vit/nano" else 1e-3 * math.sqrt(batch / 1024)


def augmentation(c: Choices) -> None:
    assert c.recipe.input.size is not None
    small = max(c.recipe.input.size) <= 64
    if not small:
        c.settle("augment", "crop", "random", "photographs are cropped")
    elif c.recipe.input.channels == 1:
        c.settle("augment", "crop", "none", "small grey pictures are usually centred, and shifting them slows learning")
    else:
        c.settle("augment", "crop", "pad", "small pictures are shifted")
    if c.recipe.augment.flip is None:
        c.settle(
            "augment", "flip", c.facts.mirrored, "mirror images keep their class" if c.facts.mirrored else "digits must not be mirrored"
        )
