"""`vitrail cost`: parameters, multiply-adds and memory of models."""

import json
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, Any

import tyro

from vitrail.analysis.cost_growth import Grown
from vitrail.cli.output.cost_tables import growth_lines, parts_lines, side_by_side, sizes, with_joined_size
from vitrail.cli.syntax.arguments import arguments, only, take_keys
from vitrail.errors import UsageError, nearest
from vitrail.validation import place

ENDINGS = (".svg", ".png")


@dataclass
class CostOf:
    """What models cost for one picture, or for several sizes of it: vitrail cost vit/base swin/base --size 224,384,512

    Keys of the model go with it: vitrail cost vit/base --model.depth 6"""

    names: Annotated[tuple[str, ...], tyro.conf.Positional, tyro.conf.arg(metavar="MODEL...")]
    """A model such as vit/base, or a run; several are compared."""
    size: str = ""
    """Pixels: 224 (a square), 224x320 (height x width; 224 320 is the same), or several, 224,384x512; by default the model's own."""
    batch: int = 1
    """How many pictures memory is counted for; multiply-adds are always those of one."""
    parts: bool = False
    """Show which part of the model takes how many of the multiply-adds."""
    plot: str = ""
    """Draw what several sizes cost into this file, .svg or .png."""
    classes: int = 1000
    """How many classes the head of a model by name tells apart."""
    json: bool = False
    """Print JSON."""


ARGUMENTS: dict[str, type] = {"cost": CostOf}


def cost(words: list[str]) -> None:
    rest, keys = take_keys(words)
    given = arguments(CostOf, with_joined_size(rest), "vitrail cost")
    if not given.names:
        raise UsageError("vitrail cost needs MODEL: a model such as vit/base, or a run", "vitrail models lists them all")
    if given.batch < 1:
        raise UsageError(f"memory cannot be counted for {given.batch} pictures", "--batch takes a number from 1 up")
    wanted = sizes(given.size)
    changes = only("model", keys, "what a model costs")
    if given.plot:
        may_draw(given.plot, wanted)
    counted = []
    for name in dict.fromkeys(given.names):
        model = named(name, given.classes, changes)
        counted.append(Grown(name, [count(name, model, size, given.batch) for size in wanted or (None,)]))
    if given.plot:
        from vitrail.report.plots.cost import draw

        draw(counted, given.plot)
    alone = len(counted) == 1 and len(counted[0].costs) == 1
    if given.json:
        found = [entry for grown in counted for entry in grown.entries()]
        sys.stdout.write(json.dumps(found[0] if alone else found) + "\n")
        return
    lines = counted[0].costs[0].lines() if alone else growth_lines(counted) if len(wanted) > 1 else side_by_side(counted)
    print("\n".join(lines + (parts_lines(counted) if given.parts else [])))


def count(name: str, model: Any, size: tuple[int, int] | None, batch: int) -> Any:
    """The cost of a picture. Errors: `UsageError` for a size that the model cannot take."""
    from vitrail.analysis.cost import cost as counted

    try:
        return counted(model, size, batch)
    except (RuntimeError, OverflowError) as error:
        if size is None:
            raise
        why = "too many numbers to count" if "overflow" in str(error) else (str(error).splitlines() or [""])[0]
        raise UsageError(f"{name} cannot take a picture of {size[0]} x {size[1]} pixels: {why}", "try another --size") from None


def named(name: str, classes: int, keys: dict[str, Any]) -> Any:
    """A model by name (on the meta device: no memory for its weights), or the model of a run."""
    from vitrail import catalog
    from vitrail.analysis.cost import weightless
    from vitrail.assembly import model
    from vitrail.inference.predictor import load

    if name.partition("/")[0] in catalog.rooms("models") and not place(name).exists():
        with weightless():
            return model.create(name, classes, keys)
    if keys:
        raise UsageError("a run is as it is; keys go with a model by name", "vitrail cost vit/base --model.depth 6")
    if not place(name).exists() and (near := nearest(name, catalog.names("models"))):
        raise UsageError(f"{name} is neither a model nor a run", f"did you mean {' or '.join(near)}? vitrail models lists them all")
    return load(name).model


def may_draw(file: str, sizes: Sequence[tuple[int, int]]) -> None:
    """Errors: `UsageError` where nothing can be drawn, or not there."""
    path = place(file)
    if path.suffix.lower() not in ENDINGS:
        raise UsageError(f"{file} is no picture that can be drawn", f"--plot takes a name that ends in {' or '.join(ENDINGS)}")
    if len({h * w for h, w in sizes}) < 2:
        raise UsageError("one size makes no line", "give several with --plot: --size 224,384,512")
    if path.exists():
        raise UsageError(f"there is already a {file}", "give another name, or move it away")
    if not path.absolute().parent.is_dir():
        raise UsageError(f"there is no folder {path.parent}", "make it first, or give another name")
