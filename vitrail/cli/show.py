"""`vitrail models` and `vitrail cost`."""

import dataclasses
import json
import sys
from dataclasses import dataclass
from typing import Annotated, Any, get_type_hints

import tyro

from vitrail.checks import place, shown, spoken
from vitrail.cli.words import arguments, only, take_keys
from vitrail.errors import UsageError, nearest


@dataclass
class Models:
    """List the models, or the settings of one with their defaults."""

    name: Annotated[str, tyro.conf.Positional, tyro.conf.arg(metavar="[NAME]")] = ""
    """A family ("vit") or a model ("vit/base"). Left out: all of them."""


@dataclass
class CostOf:
    """What a model costs for one picture. Keys of the model go with it: vitrail cost vit/base --model.depth 6"""

    name: Annotated[str, tyro.conf.Positional, tyro.conf.arg(metavar="MODEL")]
    """A model such as vit/base, or a run."""
    size: tuple[int, int] | None = None
    """Height and width in pixels; by default the model's own."""
    classes: int = 1000
    """How many classes the head of a model by name tells apart."""
    json: bool = False
    """Print JSON."""


ARGUMENTS: dict[str, type] = {"models": Models, "cost": CostOf}


def models(words: list[str]) -> None:
    given = arguments(Models, words, "vitrail models")
    from vitrail import catalog

    if "/" not in given.name:
        print("\n".join(catalog.names("models", given.name or None)))
        return

    config = catalog.config("models", given.name)
    print(f"{given.name}: {(catalog.module('models', given.name).__doc__ or '').strip().splitlines()[0]}\n")
    kinds = get_type_hints(type(config), include_extras=True)
    for field in dataclasses.fields(config):
        print(f"  --model.{field.name.replace('_', '-'):<20} {shown(getattr(config, field.name)):<12} {spoken(kinds[field.name])}")


def cost(words: list[str]) -> None:
    rest, keys = take_keys(words)
    given = arguments(CostOf, rest, "vitrail cost")
    if given.size is not None and min(given.size) < 1:
        raise UsageError(f"a picture of {given.size[0]} x {given.size[1]} pixels cannot be", "--size HEIGHT WIDTH")
    from vitrail.analysis.cost import cost as count

    counted = count(named(given, only("model", keys, "what a model costs")), given.size)
    if given.json:
        sys.stdout.write(json.dumps(dataclasses.asdict(counted)) + "\n")
        return
    print("\n".join(counted.lines()))


def named(given: CostOf, keys: dict[str, Any]) -> Any:
    """A model by name (on the meta device: no memory for its weights), or the model of a run."""
    import torch

    from vitrail import catalog
    from vitrail.run import model
    from vitrail.run.predict import load

    if given.name.partition("/")[0] in catalog.rooms("models") and not place(given.name).exists():
        with torch.device("meta"):
            return model.create(given.name, given.classes, keys)
    if keys:
        raise UsageError("a run is as it is; keys go with a model by name", "vitrail cost vit/base --model.depth 6")
    if not place(given.name).exists() and (near := nearest(given.name, catalog.names("models"))):
        raise UsageError(f"{given.name} is neither a model nor a run", f"did you mean {' or '.join(near)}? vitrail models lists them all")
    return load(given.name).model
