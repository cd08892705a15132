"""The transforms of tasks, from a recipe's `augment`."""

from vitrail.data.dataset import AnnotationKind
from vitrail.data.transforms.augment import Augmentation
from vitrail.data.transforms.joint import JointTransform
from vitrail.data.transforms.preprocess import Preprocess
from vitrail.recipe import Recipe


def build_augmentation(recipe: Recipe, preprocess: Preprocess) -> Augmentation:
    """Of single images."""
    a = recipe.augment
    return Augmentation(preprocess, recipe.train.seed, a.crop or "none", a.pad, a.scale, bool(a.hflip), a.vflip,
                        a.randaugment_ops, a.magnitude, a.auto_augment, a.color_jitter, a.random_erasing)  # fmt: skip


def build_joint(recipe: Recipe, preprocess: Preprocess, kind: AnnotationKind) -> JointTransform:
    """Of images together with their masks or boxes."""
    a = recipe.augment
    resize = (1.0, 1.0) if a.crop == "none" else a.scale_jitter
    return JointTransform(preprocess, recipe.train.seed, kind, resize, bool(a.hflip), a.vflip, a.color_jitter, a.mosaic,
                          a.rotate90)  # fmt: skip
