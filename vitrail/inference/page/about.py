"""What the page is told of a model: how images go in, what comes out, and facts in plain words."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any, NamedTuple

from vitrail.contracts import Task
from vitrail.data.transforms.preprocess import Preprocess
from vitrail.errors import UsageError, many
from vitrail.heads.image_text import TextTask
from vitrail.inference.page.assemble import Fact as Fact
from vitrail.recipe import Recipe
from vitrail.storage.printable import printable
from vitrail.types import Grid

CHANNELS = {1: "grey", 3: "colour", 4: "colour and alpha"}  # those that a browser has
SHOWN = ("classes", "masks", "boxes")  # outputs of tasks
MODES = {
    "stretch": "the whole image, stretched", "crop": "the centre of the image", "fit": "the whole image, fitted",
    "slide": "overlapping windows of the resized image", "tile": "overlapping windows of the image",
}  # fmt: skip
METRICS = {
    "top1": "Accuracy", "exact": "Exact match", "mAP": "Mean average precision", "miou": "Mean IoU",
}  # fmt: skip


class AttentionGrid(NamedTuple):
    """The cells of the attention output, and the pixels of the model's canvas that they cover (height, width)."""

    grid: Grid
    covers: Grid


class Example(NamedTuple):
    """An image that the page begins with: its bytes as base64, their MIME type, and its label where it has one."""

    name: str
    type: str
    data: str
    label: str
    tiny: bool  # so small that it is enlarged without smoothing


def describe_model(
    recipe: Recipe,
    task: Task,
    classes: Sequence[str],
    pre: Preprocess,
    facts: Sequence[Fact],
    attention: AttentionGrid | None = None,
    examples: Sequence[Example] = (),
) -> dict[str, Any]:
    """A model as the page takes it, in JSON's types; every text is one that may be shown. Errors: `UsageError` for
    channels that no browser has."""
    check_channels(pre)
    data = printable(str(recipe.data.keys.get("path") or recipe.data.name)).rstrip("/").rpartition("/")[2]
    settings = {key: value for key, value in asdict(pre).items() if key != "std"}
    return {
        "title": printable(recipe.model.name) + (f" on {data}" if data else ""),
        "output": task.output,
        "multi_label": task.multi_label,
        "nms_iou": task.nms_iou,
        "classes": [printable(name) for name in classes],
        "input": settings,
        "attention": attention._asdict() if attention else None,
        "facts": [Fact(*map(printable, fact))._asdict() for fact in facts],
        "examples": [one._replace(name=printable(one.name), label=printable(one.label))._asdict() for one in examples],
    }


def check_output(task: Task) -> None:
    """Errors: `UsageError` for a model whose answer is nothing to look at."""
    if task.output not in SHOWN:
        what = f"the page shows {', '.join(SHOWN)}, and this model gives {task.output} of an image"
        named = '--labels "a cat,a dog" makes classes of texts; ' if isinstance(task, TextTask) else ""
        raise UsageError(what, f"{named}--format onnx writes the model for programs")


def check_channels(pre: Preprocess) -> None:
    """Errors: `UsageError` for channels that no browser has."""
    if pre.channels not in CHANNELS:
        what = f"the page shows images of 1, 3 or 4 channels, and the model takes {pre.channels}"
        raise UsageError(what, "--format onnx writes the model for programs")


def input_facts(classes: Sequence[str], pre: Preprocess, parameters: int) -> list[Fact]:
    """Of the model as such."""
    return [
        Fact("Classes", f"{len(classes):,}"),
        Fact("Input", f"{pre.size[0]} × {pre.size[1]} pixels", f"{CHANNELS[pre.channels]}; {MODES[pre.resize_mode]}"),
        Fact("Parameters", shorten(parameters), f"{parameters:,}"),
    ]


def score_facts(task: Task, part: str, metrics: Mapping[str, Any]) -> list[Fact]:
    """The metric of an evaluation, with its 95 % interval where it has one; empty where it lacks the metric."""
    value, count = metrics.get(task.metric.name), metrics.get("count")
    if not isinstance(value, float) or not isinstance(count, int):
        return []
    is_share = task.metric.higher_is_better
    ends = find_interval(task, metrics, value, count)
    more = many(count, f"{part} image")
    if ends:
        more = f"95 % interval {100 * ends[0]:.1f} to {100 * ends[1]:.1f} %, {more}"
    name = METRICS.get(task.metric.name, task.metric.name)
    return [Fact(name, f"{100 * value:.1f} %" if is_share else f"{value:.4g}", more)]


def find_interval(task: Task, metrics: Mapping[str, Any], value: float, count: int) -> tuple[float, float] | None:
    from vitrail.metrics.intervals import wilson_interval

    known = metrics.get("interval")
    if isinstance(known, dict) and isinstance(known.get("low"), float) and isinstance(known.get("high"), float):
        return known["low"], known["high"]
    return wilson_interval(value, count) if task.is_classifier and task.metric.name == "top1" and count else None


def shorten(count: int) -> str:
    """12,345,678 -> "12.3 M"."""
    for size, letter in ((1e9, "G"), (1e6, "M"), (1e3, "k")):
        if count >= size:
            return f"{count / size:.3g} {letter}"
    return str(count)
