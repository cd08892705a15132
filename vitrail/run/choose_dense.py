"""Choices for pictures with masks or boxes: their size and proportions, the model and the maps it gives, what is done to them."""

from vitrail import catalog
from vitrail.recipe import override
from vitrail.run.choices import Choices

LARGE = 4  # canvases that fit along the shorter side of a picture from which on it is looked at in tiles
MAPS = 4  # of a plain ViT, from as many depths
MODELS = {"masks": "pvt_v2/b0", "boxes": "resnet/18"}
PEAK = {"segmentation": 1e-3, "detection": 5e-4}  # rate of AdamW at a batch of 16, for weights drawn by chance
NARROW = 64  # width of a head on a CPU: the published 256 would take more time than the model
SLIM = 32  # width of the detector's backbone there
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
        name = MODELS[c.facts.kind]
        c.recipe = override(c.recipe, "model", {"name": name})
        c.reasons.append(f"model = {name}: small, and its maps are of several sizes")
        if c.facts.kind == "boxes" and not c.facts.gpu and "width" not in c.recipe.model.keys:
            c.recipe = override(c.recipe, "model", {"width": SLIM})
            c.reasons.append(f"model.width = {SLIM}: a quarter of the time of the published width")
    plain(c)
    keys = c.recipe.task.keys
    wide = c.facts.kind == "masks" and keys.get("head", "fpn") in ("fpn", "pup", "upernet") and not keys.get("width")
    if wide and not c.facts.gpu:
        c.recipe = override(c.recipe, "task", {"width": NARROW})
        c.reasons.append(f"task.width = {NARROW}: the published width would take most of the time on a CPU")


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


def augmentation(c: Choices) -> None:
    c.settle("augment", "crop", "random", "parts of pictures in several sizes")
    c.settle("augment", "flip", True, "mirror images are as good as the pictures")
