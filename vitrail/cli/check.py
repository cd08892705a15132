"""`vitrail check`: examines a data set before training on it."""

import shlex
from dataclasses import dataclass
from typing import Annotated, Any

import tyro

from vitrail.cli.output.console import Console
from vitrail.cli.syntax.arguments import read
from vitrail.cli.syntax.keys import keys_of
from vitrail.cli.syntax.verb import Verb
from vitrail.recipe import DataConfig
from vitrail.storage.json_text import to_json


@dataclass
class Check:
    """Read every image of a data set once; report its classes, what is wrong with it, and what to do.

    vitrail check photos
    vitrail check table.csv --data.label-column kind
    """

    path: Annotated[str, tyro.conf.Positional, tyro.conf.arg(metavar="DATA")]
    """A folder, a .csv or .tsv, IDX files, a .npz, a COCO .json, or mini, shapes, shapes-boxes."""


def check(words: list[str]) -> int:
    """Exit code 3 where images, or their masks or boxes, cannot be read."""
    given, keys = read(VERB, words)
    data_keys = keys_of("data", keys)
    from vitrail.assembly.data import open_data
    from vitrail.data.survey.annotations import survey_annotations
    from vitrail.data.survey.images import survey_images
    from vitrail.report.survey import annotations as annotation_report
    from vitrail.report.survey.images import render

    dataset, _ = open_data(DataConfig("", {"path": given.path, **data_keys}))
    survey = survey_images(dataset, Console().progress("reading images"))
    print("\n".join(render(dataset, survey)))
    broken = bool(survey.corrupt)
    if dataset.is_annotated:
        annotations = survey_annotations(dataset, Console().progress(f"reading {dataset.kind}"))
        print("\n" + "\n".join(annotation_report.render(dataset, annotations)))
        broken |= bool(annotations.broken)
    if len(survey.corrupt) == sum(map(len, dataset.splits.values())):
        return 3
    print(
        "\nsuggested\n"
        + "\n".join(f"  {line}" for line in suggest_command({"path": given.path, **data_keys}, dataset, survey))
    )
    return 3 if broken else 0


def suggest_command(keys: dict[str, Any], dataset: Any, survey: Any) -> list[str]:
    """The command to train with, and the settings that would be chosen, with their reasons."""
    import torch

    from vitrail.assembly.defaults import fill_recipe
    from vitrail.assembly.prepare import gather_facts
    from vitrail.assembly.resolve import Names
    from vitrail.assembly.task import choose_task
    from vitrail.recipe import Recipe

    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    names = Names()
    recipe, task, _ = choose_task(Recipe(data=DataConfig("", keys)), dataset, "", names)
    _, reasons = fill_recipe(recipe, gather_facts(dataset, survey, device, keys), task.defaults(), names.model_config)
    words = [
        f"--data.{key.replace('_', '-')} {shlex.quote(to_json(value))}" for key, value in keys.items() if key != "path"
    ]
    return [
        " ".join([f"vitrail train --data {shlex.quote(keys['path'])}", *words]),
        *(f"  {reason}" for reason in reasons),
    ]


VERB = Verb("check", Check, check, sections=("data",), changes="what a data set is")
