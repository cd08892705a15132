"""`vitrail check`: looks a data set over before anything is trained on it."""

from dataclasses import dataclass
from typing import Annotated

import tyro

from vitrail.cli.console import Console
from vitrail.cli.words import arguments


@dataclass
class Check:
    """Read every picture of a data set once and say what is there, what is wrong, and what to do."""

    path: Annotated[str, tyro.conf.Positional]
    """A folder, a .csv or .tsv, a folder of IDX files, a .npz, or "mini"."""


ARGUMENTS: dict[str, type] = {"check": Check}


def check(words: list[str]) -> int:
    """Exit code 3 where pictures cannot be read."""
    given = arguments(Check, words, "vitrail check")
    from vitrail import catalog
    from vitrail.data.survey import advice, render, survey

    module = catalog.module("datasets", catalog.layout(given.path))
    dataset = module.build(module.Config(path=given.path))
    found = survey(dataset, Console().progress("reading pictures"))
    print("\n".join(render(dataset, found)))
    told = advice(found)
    if told:
        print("\nwhat to do")
        print("\n".join(f"  - {line}" for line in told))
    print("\nsuggested\n" + "\n".join(f"  {line}" for line in suggestion(given.path, dataset, found)))
    return 3 if found.corrupt else 0


def suggestion(path: str, dataset: object, found: object) -> list[str]:
    """The command to train with, and what would be chosen and why."""
    import torch

    from vitrail.recipe import Choice, Recipe
    from vitrail.run.choose import fill
    from vitrail.run.prepare import facts

    gpu = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    _, reasons = fill(Recipe(data=Choice("", {"path": path})), facts(dataset, found, gpu))  # type: ignore[arg-type]
    shown = f'"{path}"' if " " in path else path
    return [f"vitrail train --data {shown}", *(f"  {reason}" for reason in reasons)]
