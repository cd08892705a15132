"""The task of a recipe: as named, or the default for the data and the model."""

import dataclasses

from vitrail import catalog
from vitrail.assembly.resolve import Names
from vitrail.contracts import Task
from vitrail.data.dataset import Dataset
from vitrail.errors import UsageError
from vitrail.recipe import Choice, Recipe
from vitrail.validation import as_path


def annotations_of(recipe: Recipe, names: Names) -> str:
    """The annotations that the task of a recipe learns from; "" where none is named. Errors: `UsageError` for an
    unknown task."""
    return str(vars(names.find("tasks", recipe.task.name).module)["ANNOTATIONS"]) if recipe.task.name else ""


def choose_task(recipe: Recipe, dataset: Dataset, pretrained: str, names: Names) -> tuple[Recipe, Task, list[str]]:
    """The recipe with a task that fits the data and the model, the task, and the reason. `pretrained`: the model of the
    initial weights. Errors: `UsageError` where the requested task does not fit."""
    model = recipe.model.name or pretrained
    kind = names.find("models", model).kind if model else "backbone"
    default = catalog.default_task(dataset.kind, kind)
    backbones = catalog.default_task(dataset.kind, "backbone")
    name = recipe.task.name or default or backbones
    classes = len(dataset.classes) or 2  # a task of classes is built, to be refused, where there are none
    task = names.task(Choice(name, recipe.task.keys), classes, dataset.multi_label)
    if not task.learns_from(dataset.kind):
        raise UsageError(
            f"{name} learns from {task.annotations}, and this data has {describe_kind(dataset)}",
            OTHERWISE.get(task.annotations, "") + f"--task {default or backbones}",
        )
    if model and task.trains != kind:
        what, fix = TRAINS[task.trains]
        raise UsageError(f"{model} {what}, so it cannot be trained for {name}", fix)
    why = f"{model} is a generative model" if task.is_generative else f"the data has {describe_kind(dataset)}"
    is_usual = default == catalog.default_task("classes", "backbone")
    reasons = [] if recipe.task.name or is_usual else [f"task = {name}: {why}"]
    return dataclasses.replace(recipe, task=Choice(name, recipe.task.keys)), task, reasons


def describe_kind(dataset: Dataset) -> str:
    """The annotations of a data set in words."""
    return {"none": "no labels"}.get(dataset.kind, dataset.kind)


OTHERWISE = {  # by what a task learns from: how data gets it
    "captions": "put a .txt with the caption beside each image (--data.name captions, where few have one), or "
}
TRAINS = {  # the kind of model that a task trains: why another kind does not fit, and the remedy
    "denoiser": ("is not a generative model", "--model jit/nano or dit/nano"),
    "backbone": ("is a generative model", "leave --task out"),
}


def with_absolute_paths(choice: Choice, task: Task) -> Choice:
    """The task with absolute paths, so that the run can be resumed from any folder."""
    given = {key: as_path(value) for key, value in choice.keys.items() if key in task.path_keys and value}
    paths = {key: path.absolute().as_posix() for key, path in given.items() if path.exists()}
    return dataclasses.replace(choice, keys={**choice.keys, **paths})
