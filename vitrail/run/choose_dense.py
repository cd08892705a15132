"""Choices for pictures with masks or boxes: their size and proportions, the model and the maps it gives, what is done to them."""

import math

from vitrail import catalog
from vitrail.recipe import Recipe, override
from vitrail.run.choices import Choices

LARGE = 4  # canvases that fit along the shorter side of a picture from which on it is looked at in tiles
MAPS = 4  # of a plain ViT, from as many depths
MODELS = {("masks", False): "resnet/18", ("masks", True): "pvt_v2/b0", ("boxes", False): "resnet/18", ("boxes", True): "resnet/18"}
SHOWN = {"masks": (10_000, 640_000), "boxes": (40_000, 1_600_000)}  # pictures in all, on a CPU and on a GPU
EPOCHS = 150  # at most
PEAK = {"segmentation": 1e-3, "detection": 5e-4}  # rate of AdamW at a batch of 16, for weights drawn by chance
NARROW = 64  # width of a head on a CPU: the published 256 would take more time than the model
SLIM = 32  # width of a ResNet there, half of it with the finer stem
FINE = 96  # pictures with a shorter side keep more detail in the stem
STEP = 32  # sides are multiples of the coarsest map's stride


def pictures(c: Choices) -> None:
    """Size and proportions. Details count more than for classes, so pictures are larger where the machine allows it."""
    f = c.facts
    tall, wide = f.size
    c.settle("input", "channels", f.channels, "as the pictures have")
    if f.tile:
        side = max(STEP, -(-f.tile // STEP) * STEP)
        c.settle("input", "size", [side, side], f"tiles of {f.tile} pixels")
        c.settle("input", "resize", "tile", "large pictures are looked at in windows of that size")
    side = (512 if f.kind == "masks" else 640) if f.gpu else 128
    if max(f.size) <= side:
        size = [max(STEP, -(-length // STEP) * STEP) for length in f.size]
        c.settle("input", "size", size, f"the pictures' own, up to a multiple of {STEP}")
    else:
        c.settle("input", "size", [side, side], f"pictures of {tall}x{wide} (median) on a {'GPU' if f.gpu else 'CPU: detail costs time'}")
    given = c.recipe.input.size
    assert given is not None
    if min(f.size) >= LARGE * max(given) and f.kind == "boxes":
        c.settle("input", "resize", "tile", "the pictures are many times larger, and what is in them would be too small to see")
    elif f.uniform and tall * given[1] == wide * given[0]:
        c.settle("input", "resize", "stretch", "all pictures have these proportions")
    else:
        c.settle("input", "resize", "fit", "whole pictures in their own proportions, padded")


def model(c: Choices) -> None:
    if not c.recipe.model.name:
        chosen(c)
    plain(c)
    keys = c.recipe.task.keys
    wide = c.facts.kind == "masks" and keys.get("head", "fpn") in ("fpn", "pup", "upernet") and not keys.get("width")
    if wide and not c.facts.gpu:
        c.recipe = override(c.recipe, "task", {"width": NARROW})
        c.reasons.append(f"task.width = {NARROW}: the published width would take most of the time on a CPU")


def chosen(c: Choices) -> None:
    """A model where none is said."""
    f, given, size = c.facts, c.recipe.model.keys, c.recipe.input.size
    assert size is not None
    name = MODELS[f.kind, f.gpu]
    c.recipe = override(c.recipe, "model", {"name": name})
    c.reasons.append(f"model = {name}: small, its maps are of several sizes, and it learns where things are from few pictures")
    if not name.startswith("resnet/"):
        return
    fine = min(size) < FINE
    if fine and "stem_stride" not in given:
        c.recipe = override(c.recipe, "model", {"stem_stride": 2})
        c.reasons.append("model.stem_stride = 2: small pictures, whose details the published stem would lose")
    if not f.gpu and "width" not in given:
        width = SLIM // 2 if fine else SLIM
        c.recipe = override(c.recipe, "model", {"width": width})
        c.reasons.append(f"model.width = {width}: much less time than the published 64")


def plain(c: Choices) -> None:
    """A plain ViT gives maps of several depths, where it is not said which."""
    name, keys = c.recipe.model.name, c.recipe.model.keys
    room = name.partition("/")[0]
    if "." in room or "map_depths" not in catalog.fields("models", room) or "map_depths" in keys:
        return
    depth = keys.get("depth", catalog.config("models", name).depth)
    if isinstance(depth, int) and depth >= MAPS:
        depths = [round(depth * (i + 1) / MAPS) for i in range(MAPS)]
        c.recipe = override(c.recipe, "model", {"map_depths": depths})
        c.reasons.append(f"model.map_depths = {', '.join(map(str, depths))}: maps of {MAPS} depths make up for one stride")


def peak(recipe: Recipe) -> float:
    """The rate of AdamW."""
    return PEAK[recipe.task.name] * math.sqrt((recipe.plan.batch or 1) / 16)


def augmentation(c: Choices) -> None:
    c.settle("augment", "crop", "random", "parts of pictures in several sizes")
    c.settle("augment", "flip", True, "mirror images are as good as the pictures")
