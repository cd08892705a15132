"""What a recipe's `augment` says, as the transforms that tasks train with."""

from vitrail.data.dataset import Kind
from vitrail.data.transforms.augment import Augmentation
from vitrail.data.transforms.joint import Joint
from vitrail.data.transforms.preprocess import Preprocess
from vitrail.recipe import Recipe


def augmentation(recipe: Recipe, preprocess: Preprocess) -> Augmentation:
    """Of single pictures."""
    a = recipe.augment
    return Augmentation(preprocess, recipe.plan.seed, a.crop or "none", a.pad, a.scale, bool(a.flip), a.flip_vertical,
                        a.randaugment, a.magnitude, a.policy, a.jitter, a.erase)  # fmt: skip


def joint(recipe: Recipe, preprocess: Preprocess, kind: Kind) -> Joint:
    """Of pictures together with their masks or boxes."""
    a = recipe.augment
    resize = (1.0, 1.0) if a.crop == "none" else a.resize
    return Joint(preprocess, recipe.plan.seed, kind, resize, bool(a.flip), a.flip_vertical, a.jitter, a.mosaic)
