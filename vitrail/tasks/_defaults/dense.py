"""Defaults for images with masks or boxes: size and proportions, the model and its maps, augmentation."""

import dataclasses
import math
from abc import abstractmethod
from typing import Any

import torch

from vitrail import catalog
from vitrail.contracts import Backbone, Defaults
from vitrail.errors import many
from vitrail.facts import Choices, check_absent
from vitrail.layers.windows import local_depths
from vitrail.models import vit
from vitrail.recipe import AugmentConfig, Recipe
from vitrail.tasks._defaults.box_heads import foreign_keys

LARGE = 4  # shorter side of an image, in canvases, from which on it is split into tiles
WINDOW = 14  # patches along a side, as ViTDet
MAPS = 4  # of a plain ViT, from as many depths
NARROW = 64  # width of a head on a CPU: the published 256 would take more time than the model
SLIM = 32  # width of a ResNet there, half of it with the finer stem
FINE = 96  # images with a shorter side keep more detail in the stem
FEW = 100_000  # boxes below which one stage learns better than a set predictor (docs/dense.md)
NMS = (0.3, 0.2, 0.6)  # least IoU of duplicates, its distance from that of objects, and FCOS's own, the most
CELLS = 4  # across the median object: FCOS's stride of 8 for the objects of COCO
STEP = 32  # sides are multiples of the coarsest map's stride
SMALL = "small, has maps at several scales, and learns positions from few images"


class DenseDefaults(Defaults):
    """What masks and boxes have in common."""

    max_epochs = 150
    what: str  # annotations, in messages
    side: int  # of images on a GPU
    shown: tuple[int, int]  # images in all, on a CPU and on a GPU
    models: tuple[str, str]  # on a CPU and on a GPU
    lr: float  # of AdamW at a batch of 16, for random weights

    @abstractmethod
    def choose_tiles(self, c: Choices) -> None:
        """Whether images that are many times larger than the canvas are split into tiles."""

    @abstractmethod
    def choose_maps(self, c: Choices) -> None:
        """The maps of a plain ViT, which has one stride."""

    @abstractmethod
    def choose_head(self, c: Choices) -> None: ...

    def images_shown(self, gpu: bool) -> int:
        return self.shown[gpu]

    def choose_input(self, c: Choices) -> None:
        """Size and proportions. Details count more than for classes, so images are larger where the machine allows
        it."""
        f = c.facts
        tall, wide = f.size
        c.set_default("input", "channels", f.channels, "as the images have")
        if f.tile:
            side = max(STEP, -(-f.tile // STEP) * STEP)
            c.set_default("input", "size", [side, side], f"tiles of {f.tile} pixels")
            c.set_default("input", "resize_mode", "tile", "large images are predicted in windows of that size")
        side = self.side if f.gpu else 128
        if max(f.size) <= side:
            size = [max(STEP, -(-length // STEP) * STEP) for length in f.size]
            c.set_default("input", "size", size, f"the images' own, up to a multiple of {STEP}")
        else:
            where = "GPU" if f.gpu else "CPU: detail costs time"
            c.set_default("input", "size", [side, side], f"images of {tall}x{wide} (median) on a {where}")
        given = c.recipe.input.size
        assert given is not None
        if min(f.size) >= LARGE * max(given):
            self.choose_tiles(c)
        if f.uniform and tall * given[1] == wide * given[0]:
            c.set_default("input", "resize_mode", "stretch", "all images have these proportions")
        else:
            c.set_default("input", "resize_mode", "fit", "whole images in their own proportions, padded")

    def choose_model(self, c: Choices) -> None:
        if not c.recipe.model.name:
            c.set_model(self.models[c.facts.gpu], SMALL)
            if c.recipe.model.name.startswith("resnet/"):
                slim_resnet(c)
        self.choose_head(c)
        self.choose_maps(c)

    def choose_optimizer(self, c: Choices) -> None:
        """The general defaults."""

    def choose_augmentation(self, c: Choices) -> None:
        c.set_default("augment", "crop", "random", "parts of images in several sizes")
        c.set_default("augment", "hflip", True, "flipped images are valid images")

    def peak_lr(self, recipe: Recipe, model_config: Any) -> float:
        return self.lr * math.sqrt((recipe.train.batch_size or 1) / 16)

    def check(self, recipe: Recipe) -> None:
        a, p, default = recipe.augment, recipe.train, AugmentConfig()
        alone = ("randaugment_ops", "auto_augment", "random_erasing", "mixup", "cutmix")
        asked = {
            **{f"augment.{key}": getattr(a, key) != getattr(default, key) for key in alone},
            "augment.crop pad": a.crop == "pad", "data.sampler balanced": recipe.data.sampler == "balanced",
            "train.start_size": p.start_size is not None, "input.resize_mode crop": recipe.input.resize_mode == "crop",
        }  # fmt: skip
        check_absent(asked, f"would change an image and not its {self.what}")


class MaskDefaults(DenseDefaults):
    what, side, shown, models, lr = "masks", 512, (10_000, 640_000), ("resnet/18", "pvt_v2/b0"), 1e-3
    published = models

    def choose_tiles(self, c: Choices) -> None:
        """No tiles: a model that sees the whole image classifies its pixels better."""

    def choose_maps(self, c: Choices) -> None:
        choose_depths(c)

    def choose_head(self, c: Choices) -> None:
        keys = c.recipe.task.keys
        wide = keys.get("head", "fpn") in ("fpn", "pup", "upernet") and not keys.get("width")
        if wide and not c.facts.gpu:
            drop_task_key(c, "width")
            c.set_key("task", "width", NARROW, "the published width would take most of the time on a CPU")


class BoxDefaults(DenseDefaults):
    what, side, shown, models, lr = "boxes", 640, (40_000, 1_600_000), ("resnet/18", "resnet/18"), 5e-4
    published = models

    def choose_tiles(self, c: Choices) -> None:
        c.set_default(
            "input",
            "resize_mode",
            "tile",
            "the images are many times larger, and their objects would be too small",
        )

    def choose_head(self, c: Choices) -> None:
        """One stage where boxes are few; a set predictor where they are many, or where one of its settings is given."""
        keys, count = c.recipe.task.keys, c.facts.objects
        if keys.get("head", "auto") == "auto" and not foreign_keys("dense", keys):
            given = foreign_keys("detr", keys)
            few = f"{many(count, 'box', 'boxes')}, few for a set predictor (detr)"
            if given or count < FEW:
                drop_task_key(c, "head")
                c.set_key("task", "head", "dense", f"task.{next(iter(given))} is a setting of it" if given else few)
        if c.recipe.task.keys.get("head") != "dense":
            return
        if c.facts.object_overlap is not None:
            least, margin, most = NMS
            iou = round(min(most, max(least, c.facts.object_overlap + margin)), 1)
            why = f"99 of 100 objects overlap by less than {c.facts.object_overlap:.2f} with another of their class"
            c.set_key("task", "nms_iou", iou, why)
        if not c.facts.gpu:
            c.set_key("task", "width", NARROW, "a wider head would take most of the time on a CPU")

    def choose_maps(self, c: Choices) -> None:
        """As ViTDet, a pyramid of the last map of a plain ViT, which objects of all sizes need (51.2 AP instead of 47.8
        for ViT-B in its paper, table 1), and attention in windows where the image is larger than one."""
        strides, given = map_strides(c), c.recipe.model.keys
        if len(set(strides)) != 1 or given.get("map_depths") or c.recipe.task.keys.get("neck") == "none":
            choose_depths(c)
            return choose_stride(c, strides)
        patch = strides[0]
        c.set_key("task", "neck", "simple", "a pyramid of a plain ViT's last map, for objects of all sizes (ViTDet)")
        c.set_key("task", "stride", max(1, patch // 2), "three levels of the pyramid")
        if isinstance(c.model_config, vit.Config):
            choose_windows(c, c.model_config)
        return None


def choose_stride(c: Choices, strides: tuple[int, ...]) -> None:
    """The finest level of a head of cells: the coarsest one that has `CELLS` cells across the median object."""
    if c.recipe.task.keys.get("head") != "dense" or not strides or not c.facts.object_side:
        return
    side = c.facts.object_side * resize_factor(c)
    stride = max((s for s in strides if s * CELLS <= side), default=min(strides))
    c.set_key("task", "stride", stride, f"the median object is {side:.0f} pixels large, {side / stride:.1f} cells")


def resize_factor(c: Choices) -> float:
    """How much larger an image of median size becomes."""
    given = c.recipe.input
    assert given.size is not None
    ratios = [new / old for new, old in zip(given.size, c.facts.size, strict=True)]
    return {"tile": 1.0, "slide": max(ratios)}.get(given.resize_mode or "", min(ratios))


def drop_task_key(c: Choices, key: str) -> None:
    """The recipe without a key that says no more than that it is open."""
    settings = {name: value for name, value in c.recipe.task.keys.items() if name != key}
    c.recipe = dataclasses.replace(c.recipe, task=dataclasses.replace(c.recipe.task, keys=settings))


def map_strides(c: Choices) -> tuple[int, ...]:
    """The strides of the maps of the recipe's backbone, as it says itself; none of a model that is no backbone."""
    module = catalog.load_module("models", c.recipe.model.name.partition("/")[0])
    with torch.device("meta"):
        built = module.build(c.model_config)
    return built.strides if isinstance(built, Backbone) else ()


def choose_windows(c: Choices, config: vit.Config) -> None:
    """Windows in most blocks, where the image is larger than one and nothing in the model needs all patches."""
    patch, size = vit.pair(config.patch), c.recipe.input.size
    assert size is not None
    cells = -(-size[0] // patch[0]) * -(-size[1] // patch[1])
    if cells > WINDOW**2 and not vit.needs_grid(config) and not config.patch_dropout:
        local = len(local_depths(WINDOW, config.global_blocks, config.depth))
        share = 1 - local / config.depth * (1 - WINDOW**2 / cells)
        some = f"{config.depth - local} of {config.depth} blocks see all {cells:,} patches, the others windows"
        c.set_key("model", "window", WINDOW, f"{some}: {share:.0%} of the cost of attention (ViTDet)")


def slim_resnet(c: Choices) -> None:
    """The default ResNet: a finer stem for small images, and narrow on a CPU."""
    size = c.recipe.input.size
    assert size is not None
    fine = min(size) < FINE
    if fine:
        c.set_key("model", "stem_stride", 2, "small images, whose details the published stem would lose")
    if not c.facts.gpu:
        c.set_key("model", "width", SLIM // 2 if fine else SLIM, "much less time than the published 64")


def choose_depths(c: Choices) -> None:
    """The depths of the maps of a plain ViT, where they are not set."""
    config = c.model_config
    if (
        "map_depths" not in {f.name for f in dataclasses.fields(config)}
        or not isinstance(config.depth, int)
        or config.depth < MAPS
    ):
        return
    depths = [round(config.depth * (i + 1) / MAPS) for i in range(MAPS)]
    c.set_key("model", "map_depths", depths, f"maps of {MAPS} depths compensate for a single stride")
