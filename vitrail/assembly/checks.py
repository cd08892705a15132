"""Checks of a recipe for contradictions, with itself or the data, before the first step."""

from collections.abc import Sequence

from vitrail.assembly import model, restore
from vitrail.assembly.load import describe_run
from vitrail.assembly.run_directory import RunFolder
from vitrail.contracts import Task
from vitrail.data.dataset import Dataset
from vitrail.engine import checkpoint
from vitrail.errors import CheckpointError, UsageError, choose
from vitrail.recipe import CHOICES, SECTIONS, Recipe


def check_keep(recipe: Recipe) -> None:
    keep = recipe.runtime.keep_checkpoints
    if keep < 2:
        raise UsageError(
            f"runtime.keep_checkpoints is {keep}: with fewer than 2 checkpoints a damaged one cannot be replaced",
            "--runtime.keep-checkpoints 2",
        )


def check_fits(recipe: Recipe, dataset: Dataset, task: Task) -> None:
    """Errors: `UsageError` for settings that contradict each other or the data, which would otherwise fail at some
    step."""
    given, have, low, high = recipe.input, dataset.channels, *recipe.augment.scale
    if not (
        have == given.channels
        or have == 1
        or (given.channels == 1 and have in (3, 4))
        or (given.channels, have) == (3, 4)
    ):
        raise UsageError(
            f"input.channels is {given.channels}, and images with {have} channels cannot be converted to that",
            "leave it out",
        )
    if given.vae is None and (takes := recipe.model.keys.get("channels", given.channels)) != given.channels:
        raise UsageError(
            f"model.channels is {takes}, but the images have {given.channels}",
            f"--input.channels {takes}, or leave it out",
        )
    model.build_preprocess(given)
    if recipe.data.sampler == "windowed" and dataset.splits["train"].places is None:
        what = "data.sampler windowed reads shards from their beginning to their end, and the data is no shards"
        raise UsageError(what, "vitrail pack DATA --out SHARDS, then --data SHARDS; or --data.sampler shuffle")
    if low > high or high == 0:
        raise UsageError(
            f"augment.scale is from {low} to {high}", "the smaller fraction comes first: --augment.scale 0.35 1"
        )
    near, far = recipe.augment.scale_jitter
    if near > far:
        raise UsageError(
            f"augment.scale_jitter is from {near} to {far}",
            "the smaller factor comes first: --augment.scale-jitter 0.75 1.5",
        )
    check_augmentation(recipe, given.channels)
    check_shown(recipe, dataset.multi_label)
    task.defaults().check(recipe)


def check_augmentation(recipe: Recipe, channels: int) -> None:
    """Errors: `UsageError` for augmentations that exclude each other, or that do not support so many channels."""
    a = recipe.augment
    if a.auto_augment != "none" and a.randaugment_ops:
        raise UsageError(
            f"augment.auto_augment {a.auto_augment} replaces RandAugment, but both are set",
            "--augment.randaugment-ops 0, or --augment.auto-augment none",
        )
    color = {
        "randaugment_ops": a.randaugment_ops > 0,
        f"auto_augment {a.auto_augment}": a.auto_augment != "none",
        "color_jitter": a.color_jitter > 0,
    }
    for name in (name for name, on in color.items() if on):
        if channels not in (1, 3):
            raise UsageError(
                f"augment.{name} is defined for grey and RGB images, and these have {channels} channels",
                "leave it out; crops, flips, shifts, erasing and mixing take any number of channels",
            )


def check_shown(recipe: Recipe, multi_label: bool) -> None:
    """Errors: `UsageError` for an impossible order or size of images."""
    p, repeats, full = recipe.train, recipe.augment.repeated_aug, recipe.input.size
    if recipe.data.sampler == "balanced" and multi_label:
        raise UsageError(
            "data.sampler is balanced, but these images have several classes each", "--data.sampler shuffle"
        )
    if repeats > 1 and (p.batch_size or 1) < 4 * repeats:
        raise UsageError(
            f"augment.repeated_aug is {repeats}: a batch of {p.batch_size} would have fewer than 4 different images",
            f"--batch-size {4 * repeats} or more, or a smaller --augment.repeated-aug",
        )
    if p.start_size is not None and full is not None:
        if any(a > b for a, b in zip(p.start_size, full, strict=True)):
            raise UsageError(
                f"train.start_size is {p.start_size[0]}x{p.start_size[1]}, more than input.size, {full[0]}x{full[1]}",
                "training grows to input.size: start with a smaller size",
            )
        if p.full_size_at == 0:
            raise UsageError(
                "train.start_size is given, but train.full_size_at is 0: no step would use it",
                "--train.full-size-at 0.8",
            )


def check_recipe(recipe: Recipe) -> None:
    """Errors: `UsageError` for contradictions within the recipe."""
    o, p = recipe.optim, recipe.train
    if p.patience and not p.eval_every:
        raise UsageError(
            f"train.patience is {p.patience} evaluations, and train.eval_every 0 makes none", "--train.eval-every STEPS"
        )
    if o.ema_decay_2 and not o.ema_decay:
        raise UsageError(
            f"optim.ema_decay_2 {o.ema_decay_2} is a second average, and there is no first",
            "--optim.ema-decay 0.999 sets the first",
        )
    if o.name == "muon" and o.freeze == "backbone" and not o.unfreeze_steps:
        raise UsageError("optim.name muon trains the blocks, which optim.freeze backbone freezes", "--optim.name adamw")


def check_keys(recipe: Recipe, allowed: Sequence[str]) -> None:
    """Errors: `UsageError` for unknown recipe keys, with the nearest. The keys of model, data and task are not
    checked."""
    fields = [
        f"{section}.{key}" for section in SECTIONS if section not in CHOICES for key in vars(getattr(recipe, section))
    ]
    for key in allowed:
        if key.partition(".")[0] not in CHOICES:
            choose(key, fields, "key", "keys are written as in --allow-change optim.lr")


def check_newest_checkpoint(folder: RunFolder, recipe: Recipe) -> None:
    """Holds the recipe against the newest checkpoint before anything of its size is built. Errors:
    `CheckpointError`."""
    for path in checkpoint.list_checkpoints(folder.checkpoints):
        try:
            tensors = checkpoint.stored_model(path)
        except CheckpointError:
            continue  # a damaged one is skipped, with its reason, when it is loaded
        return restore.check_fits(describe_run(folder, recipe), tensors, path)
