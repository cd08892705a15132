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
    from vitrail.assembly.run_directory import find_run
    from vitrail.report.page.run_page import build_report

    print(build_report(find_run(given.run).path))


VERB = Verb("report", Report, report)
