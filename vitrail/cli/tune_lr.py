"""`vitrail tune-lr`: which learning rate to train with, found by a range test."""

import shlex
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import tyro

from vitrail.cli.output.console import Console
from vitrail.cli.output.tables import Column, table
from vitrail.cli.syntax.arguments import arguments, device, take_keys
from vitrail.cli.train import Asked, asked, names
from vitrail.errors import UsageError
from vitrail.report.plots.lr_range_test import draw
from vitrail.validation import Above, checked, place

ENDINGS = (".svg", ".png")
ROWS = 13  # of the table


@dataclass
class TuneLr(Asked):
    """Find a learning rate: train through rates that rise from very low to very high, and see where the loss falls and where it breaks.

    vitrail tune-lr --data FOLDER --model vit/nano

    vitrail tune-lr recipes/mini.toml --optim.weight-decay 0.1

    Words and keys are those of `vitrail train`. No run is made or changed.
    """

    from_: Annotated[float, tyro.conf.arg(name="from")] = 1e-6
    """The lowest rate."""
    to: float = 1.0
    """The highest rate."""
    steps: int = 200
    """How many steps, each with a higher rate than the one before."""
    plot: str = ""
    """Draw the losses into this file, .svg or .png; by default tune-lr.svg here, or tune-lr-2.svg where that is there already."""


ARGUMENTS: dict[str, type] = {"tune-lr": TuneLr}


def tune_lr(words: list[str]) -> None:
    rest, keys = take_keys(words)
    given = arguments(TuneLr, rest, "vitrail tune-lr")
    if said := [key for section, values in keys if section == "optim" for key in values if key == "lr"]:
        raise UsageError(f"--optim.{said[0]} is what is looked for", "--from and --to say between which rates")
    recipe = asked(given, [*names(given), *keys])
    device(given.device)
    for name, value in (("--from", given.from_), ("--to", given.to)):
        checked(value, Above, name)
    file = picture(given.plot)
    from vitrail.engine import world as worlds
    from vitrail.engine.world import alone
    from vitrail.training.lr_range_test import Range, range_test

    rates = Range(given.from_, given.to, given.steps)
    here = worlds.best_device() if given.device == "auto" else worlds.named_device(given.device)
    found, prepared = range_test(recipe, rates, alone(here), Console().progress("reading pictures"))
    plan = prepared.recipe.plan
    print(f"{prepared.recipe.model.name}, {prepared.recipe.optim.kind}, batch {plan.batch}, {plan.precision}")
    print("\n".join(rows(found.points)))
    if found.ended:
        print(f"ended at step {len(found.points)} of {given.steps}, rate {found.points[-1].rate:.2g}: {found.ended}")
    draw(found, file)
    told = found.advice
    print(f"\nthe loss falls fastest at {told.steepest:.2g} and is least at {told.lowest:.2g} ({file} shows it)")
    print(f"suggested: --optim.lr {told.rate:.2g}\n  {told.why}")
    print(f"  {shlex.join(['vitrail', 'train', *like_training(words), '--optim.lr', f'{told.rate:.2g}'])}")


def like_training(words: list[str]) -> list[str]:
    """The same words without those that are the test's own."""
    own, kept = ("--from", "--to", "--steps", "--plot"), list(words)
    for i in reversed(range(len(kept))):
        flag, equals, _ = kept[i].partition("=")
        if flag in own:
            del kept[i : i + (1 if equals else 2)]
    return kept


def picture(name: str) -> Path:
    """Where to draw. Errors: `UsageError` where nothing can be drawn, or something is there already."""
    if not name:
        number, path = 1, Path("tune-lr.svg")
        while path.exists():
            number += 1
            path = Path(f"tune-lr-{number}.svg")
        return path
    path = place(name)
    if path.suffix.lower() not in ENDINGS:
        raise UsageError(f"{name} is no picture that can be drawn", f"--plot takes a name that ends in {' or '.join(ENDINGS)}")
    if path.exists():
        raise UsageError(f"{name} is there already and is never overwritten", "give another name, or leave --plot out")
    if not path.absolute().parent.is_dir():
        raise UsageError(f"there is no folder {path.parent}", "make it first, or give another name")
    return path


def rows(points: Sequence[Any]) -> list[str]:
    """The test as a table, of which only some rows are shown, the last one among them."""
    places = sorted({round(i * (len(points) - 1) / (ROWS - 1)) for i in range(ROWS)})
    cells = [[f"{i + 1}", f"{points[i].rate:.2e}", f"{points[i].loss:.4f}", f"{points[i].smooth:.4f}"] for i in places]
    return table([Column("step"), Column("rate"), Column("loss"), Column("smoothed")], cells)
