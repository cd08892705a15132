"""Choices for pictures with masks or boxes: their size and proportions, the model and the maps it gives, what is done to them."""

import dataclasses
import math
from abc import abstractmethod
from typing import Any

from vitrail.contracts import Defaults
from vitrail.facts import Choices, check_absent
from vitrail.recipe import Augment, Recipe

LARGE = 4  # canvases that fit along the shorter side of a picture from which on it is looked at in tiles
MAPS = 4  # of a plain ViT, from as many depths
NARROW = 64  # width of a head on a CPU: the published 256 would take more time than the model
SLIM = 32  # width of a ResNet there, half of it with the finer stem
FINE = 96  # pictures with a shorter side keep more detail in the stem
STEP = 32  # sides are multiples of the coarsest map's stride
SMALL = "small, its maps are of several sizes, and it learns where things are from few pictures"


class DenseDefaults(Defaults):
    """What masks and boxes have in common."""

    max_epochs = 150
    what: str  # that pictures have, in messages
    side: int  # of pictures on a GPU
    shown: tuple[int, int]  # pictures in all, on a CPU and on a GPU
    models: tuple[str, str]  # on a CPU and on a GPU
    lr: float  # of AdamW at a batch of 16, for weights drawn by chance

    @abstractmethod
    def choose_tiles(self, c: Choices) -> None:
        """Whether pictures that are many times larger than the canvas are looked at in tiles."""

    @abstractmethod
    def choose_head(self, c: Choices) -> None: ...

    def images_shown(self, gpu: bool) -> int:
        return self.shown[gpu]

    def choose_input(self, c: Choices) -> None:
        """Size and proportions. Details count more than for classes, so pictures are larger where the machine allows it."""
        f = c.facts
        tall, wide = f.size
        c.settle("input", "channels", f.channels, "as the pictures have")
        if f.tile:
            side = max(STEP, -(-f.tile // STEP) * STEP)
            c.settle("input", "size", [side, side], f"tiles of {f.tile} pixels")
            c.settle("input", "resize", "tile", "large pictures are looked at in windows of that size")
        side = self.side if f.gpu else 128
        if max(f.size) <= side:
            size = [max(STEP, -(-length // STEP) * STEP) for length in f.size]
            c.settle("input", "size", size, f"the pictures' own, up to a multiple of {STEP}")
        else:
            where = "GPU" if f.gpu else "CPU: detail costs time"
            c.settle("input", "size", [side, side], f"pictures of {tall}x{wide} (median) on a {where}")
        given = c.recipe.input.size
        assert given is not None
        if min(f.size) >= LARGE * max(given):
            self.choose_tiles(c)
        if f.uniform and tall * given[1] == wide * given[0]:
            c.settle("input", "resize", "stretch", "all pictures have these proportions")
        else:
            c.settle("input", "resize", "fit", "whole pictures in their own proportions, padded")

    def choose_model(self, c: Choices) -> None:
        if not c.recipe.model.name:
            c.settle_model(self.models[c.facts.gpu], SMALL)
            if c.recipe.model.name.startswith("resnet/"):
                slim_resnet(c)
        choose_depths(c)
        self.choose_head(c)

    def choose_optimizer(self, c: Choices) -> None:
        """What is usual does."""

    def choose_augmentation(self, c: Choices) -> None:
        c.settle("augment", "crop", "random", "parts of pictures in several sizes")
        c.settle("augment", "flip", True, "mirror images are as good as the pictures")

    def peak_lr(self, recipe: Recipe, model_config: Any) -> float:
        return self.lr * math.sqrt((recipe.plan.batch or 1) / 16)

    def check(self, recipe: Recipe) -> None:
        a, p, default = recipe.augment, recipe.plan, Augment()
        alone = ("randaugment", "policy", "erase", "mixup", "cutmix")
        asked = {
            **{f"augment.{key}": getattr(a, key) != getattr(default, key) for key in alone},
            "augment.crop pad": a.crop == "pad", "plan.sampling balanced": p.sampling == "balanced",
            "plan.grow_from": p.grow_from is not None, "input.resize crop": recipe.input.resize == "crop",
        }  # fmt: skip
        check_absent(asked, f"would change a picture and not its {self.what}")


class MaskDefaults(DenseDefaults):
    what, side, shown, models, lr = "masks", 512, (10_000, 640_000), ("resnet/18", "pvt_v2/b0"), 1e-3

    def choose_tiles(self, c: Choices) -> None:
        """The model that has all of a picture before it knows better what a pixel belongs to."""

    def choose_head(self, c: Choices) -> None:
        keys = c.recipe.task.keys
        wide = keys.get("head", "fpn") in ("fpn", "pup", "upernet") and not keys.get("width")
        if wide and not c.facts.gpu:
            settings = {key: value for key, value in keys.items() if key != "width"}
            c.recipe = dataclasses.replace(c.recipe, task=dataclasses.replace(c.recipe.task, keys=settings))
            c.settle_key("task", "width", NARROW, "the published width would take most of the time on a CPU")


class BoxDefaults(DenseDefaults):
    what, side, shown, models, lr = "boxes", 640, (40_000, 1_600_000), ("resnet/18", "resnet/18"), 5e-4

    def choose_tiles(self, c: Choices) -> None:
        c.settle("input", "resize", "tile", "the pictures are many times larger, and what is in them would be too small to see")

    def choose_head(self, c: Choices) -> None:
        """The task's own defaults do."""


def slim_resnet(c: Choices) -> None:
    """A ResNet where none was asked for: a finer stem for small pictures, and on a CPU a narrow one."""
    size = c.recipe.input.size
    assert size is not None
    fine = min(size) < FINE
    if fine:
        c.settle_key("model", "stem_stride", 2, "small pictures, whose details the published stem would lose")
    if not c.facts.gpu:
        c.settle_key("model", "width", SLIM // 2 if fine else SLIM, "much less time than the published 64")


def choose_depths(c: Choices) -> None:
    """A plain ViT gives maps of several depths, where it is not said which."""
    config = c.model_config
    if "map_depths" not in {f.name for f in dataclasses.fields(config)} or not isinstance(config.depth, int) or config.depth < MAPS:
        return
    depths = [round(config.depth * (i + 1) / MAPS) for i in range(MAPS)]
    c.settle_key("model", "map_depths", depths, f"maps of {MAPS} depths make up for one stride")
