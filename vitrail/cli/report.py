"""`vitrail report`: the HTML report of a run."""

from dataclasses import dataclass
from typing import Annotated

import tyro

from vitrail.cli.syntax.arguments import read
from vitrail.cli.syntax.verb import Verb


@dataclass
class Report:
    """Write the HTML report of a run, one offline page.

    vitrail report runs/photos
    """

    run: Annotated[str, tyro.conf.Positional, tyro.conf.arg(metavar="RUN")]
    """A run."""


def report(words: list[str]) -> None:
    given, _ = read(VERB, words)
    from vitrail.report.build import build
    from vitrail.run.folder import find

    print(build(find(given.run).path))


VERB = Verb("report", Report, report)
