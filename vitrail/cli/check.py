"""`vitrail check`: looks a data set over before anything is trained on it."""

import json
import shlex
from dataclasses import dataclass
from typing import Annotated, Any

import tyro

from vitrail.cli.output.console import Console
from vitrail.cli.syntax.arguments import arguments, only, take_keys
from vitrail.recipe import Choice


@dataclass
class Check:
    """Read every picture of a data set once and say what is there, what is wrong, and what to do.

    Keys of the data set go with it: vitrail check table.csv --data.label-column kind
    """

    path: Annotated[str, tyro.conf.Positional, tyro.conf.arg(metavar="DATA")]
    """A folder, a .csv or .tsv, a folder of IDX files, a .npz, a COCO .json, "mini", "shapes" or "shapes-boxes"."""


ARGUMENTS: dict[str, type] = {"check": Check}


def check(words: list[str]) -> int:
    """Exit code 3 where pictures, or their masks or boxes, cannot be read."""
    rest, keys = take_keys(words)
    given = arguments(Check, rest, "vitrail check")
    own = only("data", keys, "what a data set is")
    from vitrail.assembly.data import open_data
    from vitrail.data.survey import annotations
    from vitrail.data.survey.images import survey
    from vitrail.report.survey import annotations as survey_annotations
    from vitrail.report.survey.images import render

    dataset, _ = open_data(Choice("", {"path": given.path, **own}))
    found = survey(dataset, Console().progress("reading pictures"))
    print("\n".join(render(dataset, found)))
    broken = bool(found.corrupt)
    if dataset.is_annotated:
        seen = annotations.look(dataset, Console().progress(f"reading {dataset.kind}"))
        print("\n" + "\n".join(survey_annotations.render(dataset, seen)))
        broken |= bool(seen.broken)
    if len(found.corrupt) == sum(map(len, dataset.splits.values())):
        return 3
    print("\nsuggested\n" + "\n".join(f"  {line}" for line in suggestion({"path": given.path, **own}, dataset, found)))
    return 3 if broken else 0


def suggestion(keys: dict[str, Any], dataset: Any, found: Any) -> list[str]:
    """The command to train with, and what would be chosen and why."""
    import torch

    from vitrail.assembly.defaults import fill
    from vitrail.assembly.prepare import facts, purpose
    from vitrail.assembly.resolve import Names
    from vitrail.recipe import Recipe

    gpu = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    names = Names()
    recipe, task, _ = purpose(Recipe(data=Choice("", keys)), dataset, "", names)
    _, reasons = fill(recipe, facts(dataset, found, gpu, keys), task.defaults(), names.model_config)
    words = [f"--data.{key.replace('_', '-')} {shlex.quote(json.dumps(value))}" for key, value in keys.items() if key != "path"]
    return [" ".join([f"vitrail train --data {shlex.quote(keys['path'])}", *words]), *(f"  {reason}" for reason in reasons)]
