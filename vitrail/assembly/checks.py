"""What in a recipe contradicts itself or the data, found before the first step."""

from collections.abc import Sequence

from vitrail.assembly import model
from vitrail.contracts import Task
from vitrail.data.dataset import Dataset
from vitrail.errors import UsageError, pick
from vitrail.recipe import CHOICES, SECTIONS, Recipe


def check_keep(recipe: Recipe) -> None:
    keep = recipe.machine.keep
    if keep < 2:
        raise UsageError(f"machine.keep is {keep}: fewer than 2 checkpoints cannot survive a damaged one", "--machine.keep 2")


def fits(recipe: Recipe, dataset: Dataset, task: Task) -> None:
    """Errors: `UsageError` for settings that contradict each other or the data, which would only be noticed at some step."""
    given, have, low, high = recipe.input, dataset.channels, *recipe.augment.scale
    if not (have == given.channels or have == 1 or (given.channels == 1 and have in (3, 4)) or (given.channels, have) == (3, 4)):
        raise UsageError(f"input.channels is {given.channels}, and pictures with {have} cannot be made into that", "leave it out")
    if given.vae is None and (takes := recipe.model.keys.get("channels", given.channels)) != given.channels:
        raise UsageError(f"model.channels is {takes}, but the pictures have {given.channels}", f"--input.channels {takes}, or leave it out")
    model.preprocess(given)
    if low > high or high == 0:
        raise UsageError(f"augment.scale is from {low} to {high}", "the smaller share comes first: --augment.scale 0.35 1")
    near, far = recipe.augment.resize
    if near > far:
        raise UsageError(f"augment.resize is from {near} to {far}", "the smaller factor comes first: --augment.resize 0.75 1.5")
    augments(recipe, given.channels)
    shown(recipe, dataset.multi_label)
    task.defaults().check(recipe)


def augments(recipe: Recipe, channels: int) -> None:
    """Errors: `UsageError` for what cannot be done to pictures together, or to pictures of so many channels."""
    a = recipe.augment
    if a.policy != "none" and a.randaugment:
        raise UsageError(f"augment.policy {a.policy} stands in place of RandAugment, and both are asked for",
                         "--augment.randaugment 0, or --augment.policy none")  # fmt: skip
    asked = {"randaugment": a.randaugment > 0, f"policy {a.policy}": a.policy != "none", "jitter": a.jitter > 0}
    for name in (name for name, on in asked.items() if on):
        if channels not in (1, 3):
            raise UsageError(f"augment.{name} is defined for grey and RGB pictures, and these have {channels} channels",
                             "leave it out; crops, flips, shifts, erasing and mixing take any number of channels")  # fmt: skip


def shown(recipe: Recipe, multi_label: bool) -> None:
    """Errors: `UsageError` for an order or sizes of pictures that cannot be."""
    p, repeats, full = recipe.plan, recipe.augment.repeats, recipe.input.size
    if p.sampling == "balanced" and multi_label:
        raise UsageError("plan.sampling is balanced, but these pictures have several classes each", "--plan.sampling shuffle")
    if repeats > 1 and (p.batch or 1) < 4 * repeats:
        raise UsageError(f"augment.repeats is {repeats}, and a batch of {p.batch} would hold fewer than four different pictures",
                         f"--plan.batch {4 * repeats} or more, or fewer repeats")  # fmt: skip
    if p.grow_from is not None and full is not None:
        if any(a > b for a, b in zip(p.grow_from, full, strict=True)):
            raise UsageError(f"plan.grow_from is {p.grow_from[0]}x{p.grow_from[1]}, more than input.size, {full[0]}x{full[1]}",
                             "training grows to input.size, so begin with less")  # fmt: skip
        if p.grow_until == 0:
            raise UsageError("plan.grow_from is given, but plan.grow_until is 0: no step would see it", "--plan.grow_until 0.8")


def check(recipe: Recipe) -> None:
    """Errors: `UsageError` for what can be seen from the recipe alone."""
    o, p = recipe.optim, recipe.plan
    if p.patience and not p.eval_every:
        raise UsageError(f"plan.patience is {p.patience} evaluations, and plan.eval_every 0 makes none", "--plan.eval-every STEPS")
    if o.ema2 and not o.ema:
        raise UsageError(f"optim.ema2 {o.ema2} is a second average, and there is no first", "--optim.ema says the decay of one")
    if o.kind == "muon" and o.freeze == "backbone" and not o.unfreeze:
        raise UsageError("optim.kind muon moves the blocks, which optim.freeze backbone keeps still", "--optim.kind adamw")


def check_keys(recipe: Recipe, allowed: Sequence[str]) -> None:
    """Errors: `UsageError` for keys that no recipe has, with the nearest. A model's own keys are its affair."""
    fields = [f"{section}.{key}" for section in SECTIONS if section not in CHOICES for key in vars(getattr(recipe, section))]
    for key in allowed:
        if key.partition(".")[0] not in CHOICES:
            pick(key, fields, "key", "keys are written as in --allow-change optim.lr")
