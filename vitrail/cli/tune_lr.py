"""`vitrail tune-lr`: a learning-rate range test."""

import shlex
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import tyro

from vitrail.cli.output.console import Console
from vitrail.cli.output.tables import Column, table
from vitrail.cli.syntax.arguments import device, read
from vitrail.cli.syntax.flags import KEYED, flag_of
from vitrail.cli.syntax.verb import Verb
from vitrail.cli.train import TrainingRequest, build_recipe, sort_by_section
from vitrail.errors import UsageError
from vitrail.recipe import SECTIONS
from vitrail.validation import PositiveFloat, as_path, validate

ENDINGS = (".svg", ".png")
MAX_ROWS = 13
LR = flag_of("optim", "lr")


@dataclass
class TuneLr(TrainingRequest):
    """Find a learning rate by a range test: train with a rising learning rate until the loss diverges.

    Flags and keys are those of vitrail train. No run is made or changed.

    vitrail tune-lr --data photos --model vit/nano
    vitrail tune-lr recipes/mini.toml --weight-decay 0.1
    """

    from_: Annotated[float, tyro.conf.arg(name="from")] = 1e-6
    """The lowest learning rate."""
    to: float = 1.0
    """The highest learning rate."""
    steps: int = 200
    """Number of steps, each with a higher learning rate."""
    plot: str = ""
    """Plot the losses into this file, .svg or .png (default: tune-lr.svg)."""


def tune_lr(words: list[str]) -> None:
    given, keys = read(VERB, words)
    if any(section == "optim" and "lr" in values for section, values in keys):
        raise UsageError(f"{LR} is what this command finds", "--from and --to are the lowest and the highest")
    recipe = build_recipe(given, sort_by_section(keys))
    device(given.device)
    for name, value in (("--from", given.from_), ("--to", given.to)):
        validate(value, PositiveFloat, name)
    file = plot_path(given.plot)
    from vitrail.engine.processes import world as worlds
    from vitrail.engine.processes.world import single_process
    from vitrail.report.plots.lr_range_test import plot_losses
    from vitrail.training.lr_range_test import LrRange, range_test

    lrs = LrRange(given.from_, given.to, given.steps)
    chosen_device = worlds.best_device() if given.device == "auto" else worlds.named_device(given.device)
    result, prepared = range_test(recipe, lrs, single_process(chosen_device), Console().progress("reading images"))
    plan = prepared.recipe.train
    print(f"{prepared.recipe.model.name}, {prepared.recipe.optim.name}, batch {plan.batch_size}, {plan.precision}")
    print("\n".join(format_rows(result.points)))
    if result.ended:
        print(f"ended at step {len(result.points)} of {given.steps}, lr {result.points[-1].lr:.2g}: {result.ended}")
    plot_losses(result, file)
    advice = result.advice
    print(f"\nthe loss falls fastest at {advice.steepest:.2g} and is least at {advice.lowest:.2g} ({file} shows it)")
    print(f"suggested: {LR} {advice.lr:.2g}\n  {advice.reason}")
    print(f"  {shlex.join(['vitrail', 'train', *as_training_options(words), LR, f'{advice.lr:.2g}'])}")


def as_training_options(words: list[str]) -> list[str]:
    """The same words without the options of the range test."""
    own, rest = ("--from", "--to", "--steps", "--plot"), list(words)
    for i in reversed(range(len(rest))):
        flag, equals, _ = rest[i].partition("=")
        if flag in own:
            del rest[i : i + (1 if equals else 2)]
    return rest


def plot_path(name: str) -> Path:
    """The file of the plot. Errors: `UsageError` where it cannot be written, or exists already."""
    if not name:
        number, path = 1, Path("tune-lr.svg")
        while path.exists():
            number += 1
            path = Path(f"tune-lr-{number}.svg")
        return path
    path = as_path(name)
    if path.suffix.lower() not in ENDINGS:
        raise UsageError(
            f"{name} is no image file that can be written", f"--plot takes a name that ends in {' or '.join(ENDINGS)}"
        )
    if path.exists():
        raise UsageError(f"{name} is there already and is never overwritten", "give another name, or leave --plot out")
    if not path.absolute().parent.is_dir():
        raise UsageError(f"there is no folder {path.parent}", "create it first, or give another name")
    return path


def format_rows(points: Sequence[Any]) -> list[str]:
    """The test as a table of at most `MAX_ROWS` rows, the last step among them."""
    places = sorted({round(i * (len(points) - 1) / (MAX_ROWS - 1)) for i in range(MAX_ROWS)})
    cells = [[f"{i + 1}", f"{points[i].lr:.2e}", f"{points[i].loss:.4f}", f"{points[i].smooth:.4f}"] for i in places]
    return table([Column("step"), Column("lr"), Column("loss"), Column("smoothed")], cells)


EXCLUDED = ("steps", "lr")  # --steps has its own meaning here; the learning rate is the result
VERB = Verb("tune-lr", TuneLr, tune_lr, tuple(flag for flag in KEYED if flag.name not in EXCLUDED), SECTIONS)
