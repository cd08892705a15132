"""What a recipe leaves open is chosen from the data, and every choice gives its reason."""

import dataclasses
import math

from vitrail.recipe import Recipe, override, settled
from vitrail.run import choose_dense, choose_generation
from vitrail.run.choices import Choices, Facts

RATES = {"adamw": 1.0, "muon": 1.0, "lamb": 3.0, "sgd": 10.0}  # peak rates as multiples of AdamW's
SHOWN = {
    "classes": (250_000, 30_000_000),
    "masks": (10_000, 640_000),
    "boxes": (40_000, 1_600_000),
}  # pictures in all, on a CPU and on a GPU


def fill(recipe: Recipe, facts: Facts) -> tuple[Recipe, list[str]]:
    """The recipe with nothing open, and why each choice was made."""
    c, makes = Choices(recipe, facts), choose_generation.wanted(recipe)
    other = choose_generation if makes else choose_dense
    plain = facts.kind == "classes" and not makes
    pictures(c) if plain else other.pictures(c)
    colours(c)
    model(c) if plain else other.model(c)
    amount(c)
    augmentation(c) if plain else other.augmentation(c)
    return c.recipe, c.reasons


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


def colours(c: Choices) -> None:
    f, channels = c.facts, c.recipe.input.channels
    measured = []
    for key, values in (("mean", f.mean), ("std", tuple(s if s >= 1e-6 else 1.0 for s in f.std))):  # a channel may never change
        if getattr(c.recipe.input, key) is None:
            c.settle("input", key, spread(values, channels))
            measured.append(f"input.{key}")
    if measured:
        c.reasons.append(f"{', '.join(measured)}: measured on the training pictures")


def spread(values: tuple[float, ...], channels: int) -> list[float]:
    """Statistics for another number of channels than was measured: repeated for grey, averaged into grey."""
    if len(values) == channels:
        return [round(v, 6) for v in values]
    return [round(sum(values) / len(values), 6)] * channels


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


def amount(c: Choices) -> None:
    n, p, begun = c.facts.count, c.recipe.plan, bool(c.recipe.start.weights)
    batch = next(b for least, b in ((8000, 128), (2000, 64), (500, 32), (0, 16)) if n >= least) * (4 if c.facts.gpu else 1)
    c.settle("plan", "batch", batch, f"for {n:,} training pictures")
    batch = c.recipe.plan.batch or batch
    if p.steps is None:  # epochs become steps and are not said twice, so that the finished recipe can be run as it is
        makes = choose_generation.wanted(c.recipe)
        shown = (choose_generation.SHOWN if makes else SHOWN[c.facts.kind])[c.facts.gpu]
        most = choose_generation.EPOCHS if makes else 150
        epochs = p.epochs or min(most, max(10, round(shown / n))) / (3 if begun else 1)
        steps = max(1, math.ceil(epochs * n / batch))
        fewer = ", a third of what weights drawn by chance need" if begun and not p.epochs else ""
        c.settle("plan", "steps", steps, f"{epochs:.3g} epochs, shows {round(epochs * n):,} pictures in all{fewer}")
    c.recipe = dataclasses.replace(c.recipe, plan=dataclasses.replace(c.recipe.plan, epochs=None))
    steps = c.recipe.plan.steps or 1
    c.settle("plan", "eval_every", max(math.ceil(n / batch), math.ceil(steps / 20)))
    if choose_generation.wanted(c.recipe):
        choose_generation.optimiser(c)
    c.recipe = dataclasses.replace(c.recipe, optim=settled(c.recipe.optim))
    c.settle("optim", "warmup", min(2000, steps // 10), "a tenth of the steps, at most 2,000")
    peak = usual_rate(c.recipe)
    lower = "; half of it, since the weights have learned already" if begun else ""
    c.settle("optim", "lr", float(f"{peak:.2g}"), f"for this model at batch {batch}, by the square root{lower}")


def usual_rate(recipe: Recipe) -> float:
    """The peak rate to begin a model's training with at the recipe's batch, by the square root of the batch."""
    batch, dense = recipe.plan.batch or 1, choose_dense.PEAK.get(recipe.task.name)
    if choose_generation.wanted(recipe):
        peak = choose_generation.peak(recipe)
    elif dense:
        peak = dense * math.sqrt(batch / 16)
    else:
        peak = (3e-3 * math.sqrt(batch / 128)) if recipe.model.name == "vit/nano" else 1e-3 * math.sqrt(batch / 1024)
    return peak * RATES[recipe.optim.kind] * (0.5 if recipe.start.weights else 1.0)


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
