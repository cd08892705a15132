"""`vitrail check`: examines a data set before training on it."""

from dataclasses import dataclass, replace
from typing import Annotated

import tyro

from vitrail.cli.output.console import Console
from vitrail.cli.syntax.arguments import read
from vitrail.cli.syntax.keys import keys_of
from vitrail.cli.syntax.verb import Verb
from vitrail.recipe import Recipe, override
from vitrail.storage.printable import shell_word


@dataclass
class Check:
    """Read every image of a data set once; report its classes, what is wrong with it, and what to do.

    vitrail check photos
    vitrail check table.csv --data.label-column kind
    """

    path: Annotated[str, tyro.conf.Positional, tyro.conf.arg(metavar="DATA")]
    """A folder, a .csv or .tsv, IDX files, a .npz, a COCO .json, or mini, shapes, shapes-boxes, emoji."""


def check(words: list[str]) -> int:
    """Exit code 3 where training on the data would be refused."""
    given, keys = read(VERB, words)
    choice = override(Recipe(), "data", {"path": given.path, **keys_of("data", keys)}).data
    from vitrail.assembly.data import open_data
    from vitrail.assembly.defaults import train_command
    from vitrail.assembly.opening.surveyed import keep_survey
    from vitrail.assembly.prepare import explain_settings
    from vitrail.data.survey.annotations import survey_annotations
    from vitrail.data.survey.assess import assess, broken_annotations
    from vitrail.data.survey.images import survey_images
    from vitrail.report.survey import annotations as annotation_report
    from vitrail.report.survey.images import render

    dataset, opened = open_data(choice)
    survey = survey_images(dataset, Console().progress("reading images"))
    annotations = None
    if dataset.is_annotated:
        annotations = survey_annotations(dataset, Console().progress(f"reading {dataset.kind}"))
    broken = broken_annotations(dataset, survey, annotations)
    keep_survey(dataset, opened.keys, survey, broken)
    listing = f"vitrail check {shell_word(choice.keys['path'])}"
    assessment = assess(dataset, survey, broken, choice.on_error, choice.max_errors, listing)
    print("\n".join(render(dataset, survey, assessment.notes)))
    if annotations:
        print("\n" + "\n".join(annotation_report.render(dataset, annotations)))
    if assessment.refusal:
        print(f"\nnot ready for training\n  {assessment.refusal.what}\n  -> {assessment.refusal.fix}")
        choice = replace(choice, **assessment.allowing)
        if not assessment.allowing:
            return 3
    lines = [
        train_command(choice),
        *(f"  {reason}" for reason in explain_settings(choice, dataset, survey, assessment.left_out)),
    ]
    print("\nsuggested\n" + "\n".join(f"  {line}" for line in lines))
    return 3 if assessment.refusal else 0


VERB = Verb("check", Check, check, sections=("data",), changes="what a data set is")
