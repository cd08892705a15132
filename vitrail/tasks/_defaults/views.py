"""Defaults of tasks that learn without labels from several crops of each image."""

import dataclasses
import math
from abc import abstractmethod
from typing import Any, final

from vitrail.contracts import Defaults
from vitrail.errors import UsageError
from vitrail.facts import Choices, check_absent
from vitrail.recipe import AugmentConfig, Recipe
from vitrail.tasks._defaults.classes import SMALL_MODELS, ClassDefaults

LOCAL = 3 / 7  # the side of a local crop as a fraction of the global one's: 96 of 224
SMALL = 64  # pixels along a side up to which images are used whole
SHOWN = (250_000, 60_000_000)  # images in all, on a CPU and on a GPU
SPANS = 40  # in a short run the teacher is at first the average over a fortieth of it
COLD = 0.02  # the teacher's temperature for small models, whose features hardly differ before they have learned
FEW_PROTOTYPES, MOST_PROTOTYPES = 1024, 65_536  # of small models, and as published
TAKES = ("crop", "hflip", "vflip")  # the settings of [augment] that these tasks take


class ViewDefaults(Defaults):
    """Size and model as for classes; crops and colours by the size of the images. A task adds its head, its optimiser
    and what it refuses."""

    max_epochs, least_epochs = 300, 20
    base = ClassDefaults()
    small_lr: float  # of AdamW at batch 128, for the small models

    @final
    def images_shown(self, gpu: bool) -> int:
        return SHOWN[gpu]

    @final
    def choose_input(self, c: Choices) -> None:
        self.base.choose_input(c)

    @final
    def choose_model(self, c: Choices) -> None:
        self.base.choose_model(c)
        self.choose_head(c)
        choose_views(c)

    @abstractmethod
    def choose_head(self, c: Choices) -> None:
        """Keys of the head."""

    @abstractmethod
    def check_optimizer(self, recipe: Recipe) -> None:
        """Errors: `UsageError` for an optimiser that the task cannot learn with."""

    @final
    def choose_augmentation(self, c: Choices) -> None:
        c.set_default("augment", "crop", "none")
        mirrored = c.facts.is_mirrorable
        why = "flipped images keep their class" if mirrored else "digits, and left and right, must not be flipped"
        c.set_default("augment", "hflip", mirrored, why)

    @final
    def peak_lr(self, recipe: Recipe, model_config: Any) -> float:
        batch = recipe.train.batch_size or 1
        if recipe.model.name in SMALL_MODELS:
            return self.small_lr * math.sqrt(batch / 128)
        return 5e-4 * math.sqrt(batch / 256)

    @final
    def check(self, recipe: Recipe) -> None:
        a, usual, resize = recipe.augment, AugmentConfig(), recipe.input.resize_mode
        names = [field.name for field in dataclasses.fields(a) if field.name not in TAKES]
        asked = {f"augment.{name}": getattr(a, name) != getattr(usual, name) for name in names}
        asked[f"augment.crop {a.crop}"] = a.crop not in (None, "none")
        asked["train.start_size"] = recipe.train.start_size is not None
        check_absent(asked, "has no effect here: crops and colours are settings of the task (--task.global-scale ...)")
        check_absent({f"input.resize_mode {resize}": resize in ("slide", "tile")}, "is for images with masks or boxes")
        self.check_optimizer(recipe)


class DistillationDefaults(ViewDefaults):
    """Of DINO: as published, but for small models, whose runs are short. With a moving centre their head gives all
    images the same before the centre has followed; balanced batches cannot, and bear a teacher that follows quickly."""

    small_lr = 2e-3

    def choose_head(self, c: Choices) -> None:
        small = c.recipe.model.name in SMALL_MODELS
        most = FEW_PROTOTYPES if small else MOST_PROTOTYPES
        some = min(most, 2 ** max(8, round(math.log2(max(1, c.facts.count / 8)))))
        c.set_key("task", "prototypes", some, f"about an eighth of {c.facts.count:,} images, at most {most:,}")
        if small:
            c.set_key("task", "centering", "sinkhorn", "with a moving centre a short run stays at the loss of chance")
        if small and is_balanced(c.recipe) and "teacher_temperature" not in c.recipe.task.keys:
            for key in ("teacher_temperature_start", "teacher_temperature"):
                c.set_key("task", key, COLD, "a new small model's features hardly differ")
        if not c.facts.gpu:
            c.set_key("task", "hidden", 512, "a smaller head, on a CPU")
        if c.recipe.input.channels == 1 and max(c.recipe.input.size or (SMALL + 1,)) <= SMALL:
            for key, scale in (("global_scale", (0.6, 1.0)), ("local_scale", (0.3, 0.7))):
                c.set_key("task", key, scale, "small grey images are usually centred, and small crops miss them")

    def choose_optimizer(self, c: Choices) -> None:
        c.set_default("optim", "weight_decay", 0.04, "as published for DINO")
        steps = c.recipe.train.steps or 1
        most = 0.1 if is_balanced(c.recipe) else 0.02
        decay = round(1 - min(most, max(0.004, SPANS / steps)), 4)
        few = "" if decay == 0.996 else f"; 0.996 from {SPANS / 0.004:,.0f} steps on, and these are {steps:,}"
        c.set_default("optim", "ema_decay", decay, f"of the teacher, rising to 1{few}")

    def check_optimizer(self, recipe: Recipe) -> None:
        if not recipe.optim.ema_decay:
            raise UsageError("optim.ema_decay is 0, and the teacher is that average", "--optim.ema-decay 0.996")


class EmbeddingDefaults(ViewDefaults):
    """Of LeJEPA."""

    small_lr = 2e-3

    def choose_head(self, c: Choices) -> None:
        if not c.facts.gpu:
            c.set_key("task", "hidden", 512, "a smaller head, on a CPU")
            c.set_key("task", "directions", 256, "fewer directions a step, on a CPU")

    def choose_optimizer(self, c: Choices) -> None:
        """AdamW with the usual weight decay, as published; no average is needed."""

    def check_optimizer(self, recipe: Recipe) -> None:
        """Any will do, but not a batch of one image."""
        if recipe.train.batch_size == 1:
            raise UsageError(
                "one image has no distribution that SIGReg could compare", "--batch-size 64, or 2 at least"
            )


def is_balanced(recipe: Recipe) -> bool:
    """Whether DINO's targets are balanced over the prototypes."""
    return bool(recipe.task.keys.get("centering") == "sinkhorn")


def choose_views(c: Choices) -> None:
    """Local crops in proportion to the model's size, and colours of images that have some."""
    size = c.recipe.input.size
    assert size is not None
    side = min(size)
    patch = vars(c.model_config).get("patch", 16)
    step = max(patch) if isinstance(patch, tuple) else patch
    local = max(2, round(LOCAL * side / step)) * step
    if local >= side:
        c.set_key("task", "local_crops", 0, f"crops smaller than {side} pixels would have too few patches of {step}")
    c.set_key("task", "local_size", local, f"{local // step} of {side // step} patches along a side")
    if side <= SMALL:
        if local < side:
            c.set_key("task", "local_crops", 4, "small images have fewer different parts")
            c.set_key("task", "local_scale", (0.15, 0.5), "small crops of small images show little")
        c.set_key("task", "blur", 0.0, "small images have no detail to lose")
    if c.recipe.input.channels != 3:
        c.set_key("task", "solarize", 0.0, "the images are not RGB")
        c.set_key("task", "color_jitter", 0.4, "brightness and contrast are all that changes")
