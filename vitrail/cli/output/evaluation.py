"""An evaluation in words: what it is of, its metrics, the classes, and the confusion matrix."""

from collections.abc import Mapping, Sequence
from typing import Any

from vitrail.cli.output import sample_quality
from vitrail.cli.output.tables import Column, paragraph, table

MOST = 20  # classes of a confusion matrix on the terminal
WIDE = 9  # columns of a number
NAME = 32  # columns of the name of a class
SHORT = 10  # columns of a heading in the confusion matrix
COUNTS = ("count", "pixels", "objects")  # the column that says how often a class occurs


def show_metrics(part: str, sentence: str, metrics: Mapping[str, Any], classes: Sequence[str]) -> None:
    from vitrail.evaluation.evaluate import scalar_metrics

    print(f"{part}: {metrics['count']:,} images")
    print("\n".join(paragraph(sentence)))
    interval = metrics.get("interval")
    for name, value in scalar_metrics(metrics).items():
        if name != "count":
            spread = ""
            if interval and interval["metric"] == name:
                spread = f"   95 % interval {interval['low']:.4f} to {interval['high']:.4f}"
            print(f"  {name:<18} {value:.4f}{spread}")
    if "made" in metrics:
        sample_quality.show(metrics["made"])
    show_classes(metrics["per_class"], classes)
    if "confusion" in metrics and 1 < len(classes) <= MOST:
        print("\n" + "\n".join(confusion_lines(metrics["confusion"], classes)))


def show_classes(columns: Mapping[str, Sequence[float]], classes: Sequence[str]) -> None:
    """A row for each class; "-" where a class does not occur, so that there is nothing to measure."""
    columns = {key: values for key, values in columns.items() if len(values) == len(classes)}
    if not columns:
        return
    counts = next((columns[key] for key in COUNTS if key in columns), None)
    wide = min(NAME, max([5, *map(len, classes)]))
    print(f"\n  {'class':<{wide}} " + " ".join(f"{key:>{WIDE}}" for key in columns))
    for i, name in enumerate(classes):
        absent = counts is not None and not counts[i]
        numbers = " ".join(
            f"{'-' if absent and key not in COUNTS else format_number(values[i]):>{WIDE}}"
            for key, values in columns.items()
        )
        print(f"  {name[:NAME]:<{wide}} {numbers}")


def confusion_lines(confusion: Sequence[Sequence[int]], classes: Sequence[str]) -> list[str]:
    """Rows are annotations, columns predictions; headings are cut to fit."""
    heads = [name if len(name) <= SHORT else f"{name[: SHORT - 1]}~" for name in classes]
    rows = [[name[:NAME], *(f"{n:,}" if n else "." for n in row)] for name, row in zip(classes, confusion, strict=True)]
    lines = table([Column("", right=False), *map(Column, heads)], rows)
    return ["  confusion matrix: rows are labels, columns predictions", *(f"  {line}" for line in lines)]


def show_change(size: tuple[int, int], predictor: Any, name: str, own_metrics: Any, metrics: Any) -> None:
    """Prints how the metric that ranks models changes at another size than the model's own."""
    own = "x".join(map(str, predictor.preprocess.size))
    change = 100 * (metrics[name] - own_metrics[name])
    print(
        f"\n  {name} at {own} {own_metrics[name]:.4f}, at {size[0]}x{size[1]} {metrics[name]:.4f}: {change:+.2f} points"
    )


def format_number(value: float) -> str:
    """Counts as whole numbers, fractions with four decimals."""
    return f"{value:,}" if isinstance(value, int) else f"{value:.4f}"
