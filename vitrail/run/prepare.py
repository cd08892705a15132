"""Recipe -> everything a run needs to know before its first step: the data, surveyed, and a recipe with nothing left open."""

import dataclasses
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from vitrail import catalog
from vitrail.checks import checked, place, update
from vitrail.data.dataset import Dataset, Kind, Split
from vitrail.data.subset import subset
from vitrail.data.survey import Bad, Survey, survey
from vitrail.data.truths import look
from vitrail.engine import precision
from vitrail.engine.world import World
from vitrail.errors import CheckpointError, DataError, UsageError, pick
from vitrail.recipe import Augment, Choice, Recipe
from vitrail.run import choose_generation, latents, model, start
from vitrail.run.choices import Facts
from vitrail.run.choose import fill
from vitrail.run.folder import RunFolder, find
from vitrail.run.start import Origin

Progress = Callable[[int, int], None]
TASKS: dict[Kind, str] = {"classes": "classification", "masks": "segmentation", "boxes": "detection"}
PATHS = ("teacher", "teacher_weights")  # keys of tasks that name a file or folder


@dataclass(frozen=True)
class Prepared:
    """A run that could begin now."""

    recipe: Recipe
    dataset: Dataset
    survey: Survey
    reasons: tuple[str, ...]
    notes: tuple[str, ...]  # what was found in the data and left out
    left_out: dict[str, list[int]]  # by part, the places of pictures that could not be read
    origin: Origin | None = None  # the weights that the run begins with


def open_data(choice: Choice, task: str = "") -> tuple[Dataset, Choice]:
    """The data set that a recipe names, and the choice with its layout found out and its path made absolute. Of a set that has masks and
    boxes, those that the task learns from."""
    path = checked(choice.keys.get("path", ""), str, "data.path")
    if not path and not choice.name:
        raise UsageError("no data was given", "--data mini, or --data FOLDER with one folder of pictures per class")
    name = choice.name or catalog.layout(path)
    module = catalog.module("datasets", name)
    keys = dict(choice.keys)
    if path and place(path).exists():
        keys["path"] = str(place(path).absolute())
    learned = next((kind for kind, usual in TASKS.items() if usual == task), "")
    if learned in ("masks", "boxes") and not keys.get("truth") and hasattr(module.Config(), "truth"):
        keys["truth"] = learned
    config = update(module.Config(), keys, f"data ({name})")
    return module.build(config), Choice(name, keys)


def prepare(recipe: Recipe, world: World, progress: Progress | None = None) -> Prepared:
    """Opens and surveys the data, leaves out what may be left out, and fills the recipe.

    Errors: `DataError` for data that cannot be trained on, `UsageError` for a recipe that cannot be.
    """
    if recipe.task.name:
        catalog.module("tasks", recipe.task.name)  # wrong names are found before any picture is read
    origin = start.find(recipe.start)
    if recipe.model.name:
        model.config(recipe.model)
    dataset, data = open_data(recipe.data, recipe.task.name)
    recipe, learned = purpose(recipe, dataset, origin.recipe.model.name if origin and origin.recipe else "")
    recipe, taken = start.known(recipe, origin, dataset.channels, dataset.kind) if origin else (recipe, [])
    if recipe.input.vae is not None and not choose_generation.wanted(recipe):
        raise UsageError("input.vae is for models that make pictures", "leave it out, or --model dit/small_2")
    recipe, coded = latents.known(recipe)
    found = world.once(lambda: survey(dataset, progress))
    left_out, notes = bad(dataset, (*found.corrupt, *world.once(lambda: broken(dataset, found))), recipe)
    dataset = sampled(without(dataset, left_out), recipe)
    recipe = dataclasses.replace(recipe, data=data, task=absolute(recipe.task))
    filled, reasons = fill(recipe, dataclasses.replace(facts(dataset, found, world.device, data.keys), coded=coded))
    chosen = world.once(lambda: precision.choose(filled.plan.precision, world.device))
    if filled.plan.precision == "auto":
        reasons.append(f"plan.precision = {chosen.name}: {chosen.reason}")
    plan = dataclasses.replace(filled.plan, precision=chosen.name)  # type: ignore[arg-type]
    filled = dataclasses.replace(filled, plan=plan)
    check_keep(filled)
    fits(filled, dataset)
    return Prepared(filled, dataset, found, (*learned, *taken, *reasons), tuple(notes), left_out, origin)


def purpose(recipe: Recipe, dataset: Dataset, begun: str) -> tuple[Recipe, list[str]]:
    """The recipe with a task that such data and such a model are for, and the reason. `begun`: the model of the weights that it starts
    from. Errors: `UsageError` where another was asked for."""
    usual, asked = TASKS[dataset.kind], recipe.model.name or begun
    makes = catalog.kind(asked) == "denoiser" if asked else recipe.task.name == choose_generation.TASK
    if dataset.kind == "classes" and makes:
        usual = choose_generation.TASK
    name = recipe.task.name or usual
    made = model.task(Choice(name, recipe.task.keys), len(dataset.classes), dataset.multi_label)
    if made.truth != dataset.kind:
        raise UsageError(f"{name} learns from {made.truth}, and this data has {dataset.kind}", f"--task {usual}")
    if (name == choose_generation.TASK) != makes:
        what, fix = ("makes pictures", "leave --task out") if makes else ("makes no pictures", "--model jit/nano or dit/nano does")
        raise UsageError(f"{asked} {what}, so it cannot be trained for {name}", fix)
    why = f"{asked} makes pictures" if usual == choose_generation.TASK else f"the data has {dataset.kind}"
    told = [] if recipe.task.name or usual == TASKS["classes"] else [f"task = {name}: {why}"]
    return dataclasses.replace(recipe, task=Choice(name, recipe.task.keys)), told


def absolute(task: Choice) -> Choice:
    """A task whose paths hold wherever the run is taken up again."""
    there = {k: str(p.absolute()) for k, v in task.keys.items() if k in PATHS and v and (p := place(v)).exists()}
    return Choice(task.name, {**task.keys, **there})


def check_keep(recipe: Recipe) -> None:
    keep = recipe.machine.keep
    if keep < 2:
        raise UsageError(f"machine.keep is {keep}: fewer than 2 checkpoints cannot survive a damaged one", "--machine.keep 2")


def fits(recipe: Recipe, dataset: Dataset) -> None:
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
    together(recipe, dataset.kind)
    if choose_generation.wanted(recipe):
        choose_generation.check(recipe)


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


def together(recipe: Recipe, kind: Kind) -> None:
    """Errors: `UsageError` for what is done to pictures alone, or to pictures with masks or boxes alone."""
    a, p, default = recipe.augment, recipe.plan, Augment()
    if kind == "classes":
        asked = {"augment.mosaic": a.mosaic > 0, f"input.resize {recipe.input.resize}": recipe.input.resize in ("slide", "tile")}
        why = "is for pictures with masks or boxes"
    else:
        asked = {
            **{f"augment.{k}": getattr(a, k) != getattr(default, k) for k in ("randaugment", "policy", "erase", "mixup", "cutmix")},
            "augment.crop pad": a.crop == "pad", "plan.sampling balanced": p.sampling == "balanced",
            "plan.grow_from": p.grow_from is not None, "input.resize crop": recipe.input.resize == "crop",
        }  # fmt: skip
        why = f"would change a picture and not its {kind}"
    for name in (name for name, on in asked.items() if on):
        raise UsageError(f"{name} {why}", "leave it out")


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


def facts(dataset: Dataset, found: Survey, device: torch.device, keys: Mapping[str, Any]) -> Facts:
    """What choices depend on. keys: those of the data set."""
    return Facts(
        count=len(dataset.splits["train"]),
        size=(found.sizes.height[1], found.sizes.width[1]),
        uniform=found.sizes.distinct == 1,
        channels=dataset.channels,
        mean=found.mean,
        std=found.std,
        mirrored=not (dataset.layout == "idx" and dataset.classes[0].isdigit()),
        gpu=device.type == "cuda",
        kind=dataset.kind,
        classes=len(dataset.classes),
        tile=int(keys.get("tile", 0)),
    )


def broken(dataset: Dataset, found: Survey) -> tuple[Bad, ...]:
    """Masks and boxes that cannot be read or do not fit their picture, of pictures that can be read."""
    if dataset.kind == "classes":
        return ()
    unread = {(item.split, item.number) for item in found.corrupt}
    return tuple(item for item in look(dataset).broken if (item.split, item.number) not in unread)


def bad(dataset: Dataset, corrupt: tuple[Bad, ...], recipe: Recipe) -> tuple[dict[str, list[int]], list[str]]:
    """The pictures to leave out, by part, where the recipe allows that. Errors: `DataError`."""
    if not corrupt:
        return {}, []
    share = len(corrupt) / sum(len(s) for s in dataset.splits.values())
    first, budget = corrupt[0], recipe.plan.bad_budget
    count, ending = len(corrupt), "" if len(corrupt) == 1 else "s"
    what = f"{count:,} picture{ending} ({share:.2%}) cannot be read, the first: {first.name} ({first.reason})"
    if share == 1:
        raise DataError(what, "are these pictures at all? vitrail check lists them")
    if recipe.plan.bad == "fail":
        allowed = "" if share <= budget else f" --plan.bad-budget {share + 0.001:.3f}"
        raise DataError(what, f"vitrail check lists them all; remove them, or --plan.bad skip{allowed} leaves them out")
    if share > budget:
        raise DataError(what, f"the budget is {budget:.2%}; --plan.bad-budget {share + 0.001:.3f} allows them")
    places: dict[str, list[int]] = {}
    for item in corrupt:
        places.setdefault(item.split, []).append(item.number)
    return places, [f"left out: {what}"]


def without(dataset: Dataset, places: dict[str, list[int]]) -> Dataset:
    """The data set with the pictures at some places of its parts left out."""
    if not places:
        return dataset
    splits = {
        name: split.take(np.setdiff1d(np.arange(len(split)), places.get(name, []))) for name, split in dataset.splits.items()
    }  # fmt: skip
    return dataclasses.replace(dataset, splits=splits)


def sampled(dataset: Dataset, recipe: Recipe) -> Dataset:
    """The data set with only a share of its training pictures, where the recipe asks for that."""
    if recipe.plan.share == 1.0 or "train" not in dataset.splits:
        return dataset
    train = dataset.splits["train"]
    kept = train.take(subset(train.labels, recipe.plan.share, recipe.plan.seed))
    return dataclasses.replace(dataset, splits={**dataset.splits, "train": kept})


def as_it_was(recipe: Recipe, about: dict[str, Any]) -> Dataset:
    """The data set of a run: what is there now, without what the run left out, and only the share that it trained on."""
    return sampled(without(open_data(recipe.data)[0], about["data"].get("left_out", {})), recipe)


def data_of(source: str, path: str = "", task: str = "") -> tuple[Dataset, RunFolder | None]:
    """The data at `path`, as a task learns from it, or else that of the run `source`, and then its folder. Errors: `UsageError` for weights
    without a run."""
    if path:
        return open_data(Choice("", {"path": path}), task)[0], None
    try:
        run = find(source)
    except CheckpointError:
        raise UsageError("a model without its run does not know its data", "--data FOLDER says where it is") from None
    return as_it_was(run.recipe(), run.about()), run


def part_of(dataset: Dataset, name: str, usual: str) -> Split:
    """The part that is asked for, or the usual one. Errors: `UsageError` for a part that is not there."""
    return dataset.splits[pick(name or usual, dataset.splits, "part of the data", f"parts: {', '.join(dataset.splits)}")]


def held_out(dataset: Dataset, final: bool) -> str:
    """Which part judges the model: while it trains the validation part, at the end the test part; what there is of them."""
    order = ("test", "val") if final else ("val", "test")
    return next((name for name in order if name in dataset.splits), "train")
