"""The card of a model for the hub: what it is, its data and metrics, how it is used, under what licence.

No path, host name or command line of this machine is in it.
"""

from collections.abc import Mapping
from typing import Any

from vitrail.assembly.run_directory import RunFolder
from vitrail.errors import many
from vitrail.recipe import Recipe, with_defaults
from vitrail.report.run_data import ORDER, read_evaluations
from vitrail.storage.json_text import to_json
from vitrail.storage.printable import printable

TASKS = {"classes": "image-classification", "masks": "image-segmentation", "boxes": "object-detection",
         "captions": "zero-shot-image-classification"}  # fmt: skip
CALLS = dict.fromkeys(("classes", "captions"), "labels, probabilities = model.predict")
NAMED = {"captions": (' --labels "a cat,a dog"', ', labels=["a cat", "a dog"]')}  # of texts: flags, arguments
MORE = {"captions": ('search hf:{repo} FOLDER "a red car"',)}
SHOWN = ("mean_recall", "top1", "top5", "macro_f1", "miou", "pixel_accuracy", "mAP", "AP50", "calibration_error", "nll")
MOST_CLASSES = 100
HUB = ("hf:", "timm:")


def model_card(run: RunFolder, repo: str, licence: str, kind: str, origin: Mapping[str, Any]) -> str:
    """The text of README.md. kind: of the task's output, "captions" where texts name classes; origin: of the weights
    that the run began with."""
    recipe, about = run.recipe(), run.about()
    head = {
        "license": licence or None,
        "library_name": "vitrail",
        "pipeline_tag": TASKS.get(kind),
        "tags": ["vitrail", recipe.model.name.partition("/")[0]],
        "base_model": base_model(str(origin.get("source", ""))) or None,
    }
    rows = [f"{key}: {to_json(value, ensure_ascii=False)}" for key, value in head.items() if value]
    name = repo.rpartition("/")[2]
    parts = [
        ["---", *rows, "---", "", f"# {name}", ""],
        [f"A {recipe.model.name} for {recipe.task.name}, trained with [vitrail](https://pypi.org/project/vitrail/)."],
        ["", "## Use", "", *usage(repo, kind)],
        ["", "## Data", "", *data_lines(about)],
        ["", "## Metrics", "", *metric_lines(run)],
        ["", "## Preprocessing", "", *preprocessing_lines(recipe)],
        ["", "## Weights and licence", "", *origin_lines(origin, licence)],
    ]
    return printable("\n".join(line for part in parts for line in part)) + "\n"


def base_model(source: str) -> str:
    """The repository of the weights that a model began with; "" where it was none of the hub's."""
    start = next((own for own in HUB if source.startswith(own)), "")
    inside = source.removeprefix(start) if start else ""
    return f"timm/{inside}" if start == "timm:" else inside


def usage(repo: str, kind: str) -> list[str]:
    call, (flags, arguments) = CALLS.get(kind, "predictions = model"), NAMED.get(kind, ("", ""))
    more = [f"$ vitrail {line.format(repo=repo)}" for line in MORE.get(kind, ())]
    return [
        "```console", f"$ vitrail predict hf:{repo} image.jpg{flags}", *more,
        f"$ vitrail train --data FOLDER --weights hf:{repo}", "```", "",
        "```python", "import vitrail", "", f'model = vitrail.load("hf:{repo}"{arguments})', f'{call}("image.jpg")',
        "```",
    ]  # fmt: skip


def data_lines(about: Mapping[str, Any]) -> list[str]:
    data, classes = about["data"], [str(name) for name in about["classes"]]
    parts = ", ".join(f"{count:,} {name}" for name, count in data.get("parts", {}).items())
    shown = ", ".join(classes[:MOST_CLASSES]) + (", ..." if classes[MOST_CLASSES:] else "")
    named = ["", f"{many(len(classes), 'class', 'classes')}: {shown}."] if classes else []
    return [f"Images: {parts}.", *named]


def metric_lines(run: RunFolder) -> list[str]:
    """A table a part of the data: the metric that ranks models with its 95 % interval, and others."""
    found = read_evaluations(run)
    rows = []
    for part in sorted(found, key=lambda name: (ORDER.index(name) if name in ORDER else len(ORDER), name)):
        metrics, interval = found[part], found[part].get("interval") or {}
        for name in SHOWN:
            if isinstance(metrics.get(name), int | float):
                own = interval.get("metric") == name
                spread = f"{interval['low']:.4f} to {interval['high']:.4f}" if own else ""
                rows.append(f"| {part} | {metrics['count']:,} | {name} | {metrics[name]:.4f} | {spread} |")
    if not rows:
        return ["Not evaluated."]
    return ["| part | images | metric | value | 95 % interval |", "| --- | --- | --- | --- | --- |", *rows]


def preprocessing_lines(recipe: Recipe) -> list[str]:
    given = with_defaults(recipe.input)
    height, width = given.size or (0, 0)
    values = {
        "size": f"{height} x {width} pixels, {given.channels} channels", "resize": given.resize_mode,
        "crop ratio": given.crop_ratio, "interpolation": given.interpolation,
        "mean": ", ".join(f"{v:.4g}" for v in given.mean or ()), "std": ", ".join(f"{v:.4g}" for v in given.std or ()),
    }  # fmt: skip
    return [f"- {key}: {value}" for key, value in values.items() if value]


def origin_lines(origin: Mapping[str, Any], licence: str) -> list[str]:
    own = [f"The licence of these weights: {licence or 'not stated'}."]
    if not origin:
        return ["Trained from random weights.", "", *own]
    names = {"source": "source", "revision": "revision", "sha256": "SHA-256", "licence": "licence"}
    rows = [f"- {text}: {origin[key]}" for key, text in names.items() if origin.get(key)]
    return ["Trained from published weights:", "", *rows, "", *own]
