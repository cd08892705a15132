"""Recipe -> everything a run needs to know before its first step: the data, surveyed, and a recipe with nothing left open."""

import dataclasses
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, get_type_hints

import numpy as np
import torch

from vitrail import catalog
from vitrail.checks import checked, literals, place, update
from vitrail.contracts import Task
from vitrail.data.dataset import Dataset, Split
from vitrail.data.subset import subset
from vitrail.data.survey import Bad, Survey, survey
from vitrail.data.truths import look
from vitrail.engine import precision
from vitrail.engine.world import World
from vitrail.errors import CheckpointError, DataError, UsageError, pick
from vitrail.facts import Facts
from vitrail.recipe import Choice, Recipe
from vitrail.run import latents, model, start
from vitrail.run.choose import fill
from vitrail.run.folder import RunFolder, find
from vitrail.run.resolve import Names
from vitrail.run.start import Origin

Progress = Callable[[int, int], None]


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
    names: Names = field(default_factory=Names)  # what the recipe's names stand for


def open_data(choice: Choice, annotations: str = "", names: Names | None = None) -> tuple[Dataset, Choice]:
    """The data set that a recipe names, and the choice with its layout found out and its path made absolute. annotations: of a set that has
    several, those that are learned from."""
    path = checked(choice.keys.get("path", ""), str, "data.path")
    if not path and not choice.name:
        raise UsageError("no data was given", "--data mini, or --data FOLDER with one folder of pictures per class")
    entry = (names or Names()).find("datasets", choice.name or catalog.layout(path))
    keys = dict(choice.keys)
    if path and place(path).exists():
        keys["path"] = str(place(path).absolute())
    offered = literals(get_type_hints(type(entry.config)).get("truth"))
    if not keys.get("truth") and annotations in offered:
        keys["truth"] = annotations
    config = update(entry.config, keys, f"data ({entry.name})")
    return entry.module.build(config), Choice(entry.name, keys)


def prepare(recipe: Recipe, world: World, progress: Progress | None = None) -> Prepared:
    """Opens and surveys the data, leaves out what may be left out, and fills the recipe.

    Errors: `DataError` for data that cannot be trained on, `UsageError` for a recipe that cannot be.
    """
    names = Names()  # wrong ones are found before any picture is read
    asked_for = annotations_of(recipe, names)
    origin = start.find(recipe.start)
    if recipe.model.name:
        names.model_config(recipe.model)
    dataset, data = open_data(recipe.data, asked_for, names)
    recipe, task, learned = purpose(recipe, dataset, origin.recipe.model.name if origin and origin.recipe else "", names)
    recipe, taken = start.known(recipe, origin, dataset.channels, task, names) if origin else (recipe, [])
    if recipe.input.vae is not None and not task.is_generative:
        raise UsageError("input.vae is for models that make pictures", "leave it out, or --model dit/small_2")
    recipe, coded = latents.known(recipe)
    found = world.once(lambda: survey(dataset, progress))
    left_out, notes = bad(dataset, (*found.corrupt, *world.once(lambda: broken(dataset, found))), recipe)
    dataset = sampled(without(dataset, left_out), recipe)
    recipe = dataclasses.replace(recipe, data=data, task=absolute(recipe.task, task))
    known = dataclasses.replace(facts(dataset, found, world.device, data.keys), coded=coded)
    filled, reasons = fill(recipe, known, task.defaults(), names.model_config)
    chosen = world.once(lambda: precision.choose(filled.plan.precision, world.device))
    if filled.plan.precision == "auto":
        reasons.append(f"plan.precision = {chosen.name}: {chosen.reason}")
    plan = dataclasses.replace(filled.plan, precision=chosen.name)  # type: ignore[arg-type]
    filled = dataclasses.replace(filled, plan=plan)
    check_keep(filled)
    fits(filled, dataset, task)
    return Prepared(filled, dataset, found, (*learned, *taken, *reasons), tuple(notes), left_out, origin, names)


def annotations_of(recipe: Recipe, names: Names) -> str:
    """What the task that a recipe names learns from; "" where it names none. Errors: `UsageError` for an unknown one."""
    return str(vars(names.find("tasks", recipe.task.name).module)["ANNOTATIONS"]) if recipe.task.name else ""


def purpose(recipe: Recipe, dataset: Dataset, begun: str, names: Names) -> tuple[Recipe, Task, list[str]]:
    """The recipe with a task that such data and such a model are for, the task, and the reason. `begun`: the model of the weights that it
    starts from. Errors: `UsageError` where another was asked for."""
    asked = recipe.model.name or begun
    kind = names.find("models", asked).kind if asked else "backbone"
    usual = catalog.default_task(dataset.kind, kind)
    backbones = catalog.default_task(dataset.kind, "backbone")
    name = recipe.task.name or usual or backbones
    task = names.task(Choice(name, recipe.task.keys), len(dataset.classes), dataset.multi_label)
    if not task.learns_from(dataset.kind):
        raise UsageError(f"{name} learns from {task.annotations}, and this data has {dataset.kind}", f"--task {usual or backbones}")
    if asked and task.trains != kind:
        what, fix = TRAINS[task.trains]
        raise UsageError(f"{asked} {what}, so it cannot be trained for {name}", fix)
    why = f"{asked} makes pictures" if task.is_generative else f"the data has {dataset.kind}"
    told = [] if recipe.task.name or usual == catalog.default_task("classes", "backbone") else [f"task = {name}: {why}"]
    return dataclasses.replace(recipe, task=Choice(name, recipe.task.keys)), task, told


TRAINS = {  # what a task is for: what another kind of model does, and the remedy
    "denoiser": ("makes no pictures", "--model jit/nano or dit/nano does"),
    "backbone": ("makes pictures", "leave --task out"),
}


def absolute(choice: Choice, task: Task) -> Choice:
    """A task whose paths hold wherever the run is taken up again."""
    there = {k: str(p.absolute()) for k, v in choice.keys.items() if k in task.path_keys and v and (p := place(v)).exists()}
    return Choice(choice.name, {**choice.keys, **there})


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
        classes=len(dataset.classes),
        tile=int(keys.get("tile", 0)),
    )


def broken(dataset: Dataset, found: Survey) -> tuple[Bad, ...]:
    """Masks and boxes that cannot be read or do not fit their picture, of pictures that can be read."""
    if not dataset.is_annotated:
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


def data_of(source: str, path: str = "", annotations: str = "") -> tuple[Dataset, RunFolder | None]:
    """The data at `path`, with such annotations where it has several, or else that of the run `source`, and then its folder.

    Errors: `UsageError` for weights without a run.
    """
    if path:
        return open_data(Choice("", {"path": path}), annotations)[0], None
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
