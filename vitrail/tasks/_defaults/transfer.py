"""Defaults of training that begins from weights, by what learns: the head alone, the last blocks, the blocks from the
head down, or all of it. benchmarks/transfer.py compares them on real images (docs/results.md); layer decay is that of
BEiT (Bao et al. 2021), drop path that of DeiT's fine-tuning (Touvron et al. 2020).

The head of new classes starts as the linear probe of the features (Kumar et al. 2022, arxiv.org/abs/2202.10054), so the
first steps do not pull the backbone towards a random head.
"""

import math
from typing import Any, NamedTuple

from vitrail.facts import Choices
from vitrail.recipe import OptimConfig, Recipe


class Way(NamedTuple):
    """What learns, and how: `lr` as a multiple of that for random weights."""

    name: str
    lr: float
    layer_decay: float
    drop_path: float  # for a set of `MANY` images or more; none for a smaller one


HEAD = Way("the head alone learns", 1.0, 1.0, 0.0)
BLOCKS = Way("the head and the last blocks learn", 0.5, 0.75, 0.1)
GRADUAL = Way("the blocks learn one after another, from the head down", 0.5, 0.75, 0.1)
ALL = Way("all of it learns", 0.5, 0.75, 0.1)

MANY = 10_000
PROBE_LR, RANDOM_LR = 1e-5, 1e-2  # of the head alone at 64 images: where it starts as the probe, and at random
FITTED = 100  # most classes for which the probe is fitted before the first step
RANDOM_KEYS = ("dropout", "attention_dropout", "drop_path", "patch_dropout")  # of the configs of families


def way_of(optim: OptimConfig) -> Way:
    """The way that a recipe's settings amount to."""
    if optim.freeze in (None, "none", 0):
        return ALL
    if optim.unfreeze_steps:
        return GRADUAL
    return HEAD if optim.freeze == "backbone" else BLOCKS


def choose_what_learns(c: Choices) -> None:
    """Of weights for other classes; those for the same ones are trained on as they are."""
    o, count = c.recipe.optim, c.facts.count
    if not c.recipe.init.weights:
        return
    if not c.facts.is_new_head:  # sets whose classes are called 0, 1, 2 look alike
        same = ", for classes of the same names; --init.head new is for others" if c.facts.classes else ""
        c.reasons.append(f"the head is kept{same}")
        return
    if o.unfreeze_steps:
        c.set_default("optim", "freeze", "backbone", "what unfreezes is frozen first")
    else:  # ahead of the head alone with 50, 250 and 1,250 images alike, since the head starts as the probe
        cheap = "the head alone, --optim.freeze backbone, takes a fraction of the time"
        c.set_default("optim", "freeze", "none", f"{ALL.name}, which was best with few images and many; {cheap}")
    if way_of(c.recipe.optim) is not HEAD and has_drop_path(c):
        dropped = way_of(c.recipe.optim).drop_path if count >= MANY else 0.0
        c.set_key("model", "drop_path", dropped, f"for {count:,} images and pre-trained weights")


def has_drop_path(c: Choices) -> bool:
    return "drop_path" in vars(c.model_config)


def choose_start(c: Choices) -> None:
    """Whether a new head starts as the linear probe, and the optimiser's settings."""
    o, facts = c.recipe.optim, c.facts
    way, pretrained = way_of(o), bool(c.recipe.init.weights)
    is_open = o.lr is None and (way is HEAD or (pretrained and facts.is_new_head))
    c.set_default("init", "fit_head", is_open, "a new head starts as the linear probe" if is_open else "")
    if way is HEAD and o.lr is None and o.name in (None, "adamw"):
        base = PROBE_LR if facts.classes <= FITTED else RANDOM_LR
        lr = base * math.sqrt((c.recipe.train.batch_size or 1) / 64)
        c.set_default("optim", "lr", float(f"{lr:.2g}"), "only the head learns, on frozen features")
        c.set_default("optim", "weight_decay", 0.0, "as of a linear probe")
    elif pretrained and facts.is_new_head and way is not HEAD:
        c.set_default("optim", "layer_decay", way.layer_decay, "early blocks know most of what other images need")


def choose_features(c: Choices) -> None:
    """Features that are computed once, where only the head learns: then images are not augmented, unless asked for."""
    if way_of(c.recipe.optim) is not HEAD or not c.facts.takes_features or c.recipe.runtime.cache_features is False:
        return
    if not (asked := random_settings(c.recipe)):
        c.set_default("augment", "crop", "none", "no crops or shifts, so that features are computed once")
        c.set_default("augment", "hflip", False, "no flips, likewise")
        for key in RANDOM_KEYS:
            if vars(c.model_config).get(key):
                c.set_key("model", key, 0.0, "likewise")
        c.set_default("runtime", "cache_features", True, "only the head learns: no image passes the backbone twice")
    else:
        c.set_default("runtime", "cache_features", False, f"{asked[0]} gives other features in every step")


def random_settings(recipe: Recipe) -> list[str]:
    """The settings with which an image has not the same features in every step, by their full names."""
    a, keys = recipe.augment, recipe.model.keys
    asked: dict[str, Any] = {
        "augment.crop": a.crop not in (None, "none"), "augment.hflip": a.hflip, "augment.vflip": a.vflip,
        "augment.randaugment_ops": a.randaugment_ops, "augment.auto_augment": a.auto_augment != "none",
        "augment.color_jitter": a.color_jitter, "augment.random_erasing": a.random_erasing,
        "augment.mixup": a.mixup, "augment.cutmix": a.cutmix, "train.start_size": recipe.train.start_size,
        **{f"model.{key}": keys.get(key) for key in RANDOM_KEYS},
    }  # fmt: skip
    return [name for name, is_on in asked.items() if is_on]
