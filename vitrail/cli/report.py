"""`vitrail report`: the page of a run."""

from dataclasses import dataclass
from typing import Annotated

import tyro

from vitrail.cli.syntax.arguments import arguments


@dataclass
class Report:
    """Write the page that tells a run."""

    run: Annotated[str, tyro.conf.Positional, tyro.conf.arg(metavar="RUN")]
    """A run."""


ARGUMENTS: dict[str, type] = {"report": Report}


def report(words: list[str]) -> None:
    given = arguments(Report, words, "vitrail report")
    from vitrail.assembly.run_directory import find
    from vitrail.report.page.run_page import build

    print(build(find(given.run).path))
