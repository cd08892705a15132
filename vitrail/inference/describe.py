"""What Python prints of a predictor and its predictions: at most five lines."""

from collections.abc import Sequence
from pathlib import Path

from torch import Tensor

from vitrail.contracts import Task
from vitrail.errors import many
from vitrail.recipe import Recipe
from vitrail.storage.printable import printable

SHOWN = 3  # images of a prediction
CLASSES = 8  # names of classes


def describe_predictor(source: Path, recipe: Recipe, task: Task, classes: Sequence[str], has_model: bool) -> str:
    """has_model: whether it holds a module of torch."""
    size = " x ".join(map(str, recipe.input.size or ()))
    given = f"images ({recipe.input.channels} channels, {size} pixels)"
    return "\n".join(
        [
            f"Predictor of {source}: {recipe.model.name}, {recipe.task.name}",
            f"  {task.output}{describe_classes(classes)}; model input: {given}",
            "  .sample() generates images" if task.is_generative else "  predictor(images), .stream(images)",
            f"  {'.model, ' if has_model else ''}.classes, .recipe, .source",
        ]
    )


def describe_prediction(sources: Sequence[str], labels: Sequence[str], probabilities: Tensor) -> str:
    rows = [
        f"  {shorten(source)}: {shorten(label) or '-'} {float(row.max()):.1%}"
        for source, label, row in zip(sources[:SHOWN], labels, probabilities, strict=False)
    ]
    more = [f"  ... {len(sources) - SHOWN:,} more"] if len(sources) > SHOWN else []
    return "\n".join([f"Prediction of {many(len(sources), 'image')}: .labels, .probabilities, .sources", *rows, *more])


def describe_classes(classes: Sequence[str]) -> str:
    return f": {many(len(classes), 'class', 'classes')}: {list_classes(classes)}" if classes else ""


def list_classes(classes: Sequence[str]) -> str:
    """The first names, on one line."""
    return ", ".join(shorten(name, 20) for name in classes[:CLASSES]) + (", ..." if len(classes) > CLASSES else "")


def shorten(text: str, most: int = 80) -> str:
    """A text on one line, without characters that a terminal would obey."""
    clean = " ".join(printable(text).split("\n"))
    return clean if len(clean) <= most else f"{clean[: most - 20]}...{clean[-17:]}"
