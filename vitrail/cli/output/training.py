"""A training session to its end: a live display, then the report."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from vitrail.cli.output.console import Console
from vitrail.errors import VitrailError


def run_to_end(session: Any, console: Console, is_new: bool) -> Path:
    """Trains a session to its end with a live display, and writes the report. Returns the folder of the run."""
    from vitrail.training.start import run_session

    console.start(session)
    try:
        for event in stop_display_on_error(run_session(session, is_new), console):
            console.event(event)
    finally:
        console.stop()
    if session.world.is_first:
        console.finished(session, write_report(session, console))
    path: Path = session.folder.path
    return path


def stop_display_on_error(events: Iterator[Any], console: Console) -> Iterator[Any]:
    """Leaves the live display before an error is printed, so that neither is lost."""
    try:
        yield from events
    except VitrailError:
        console.stop()
        raise


def write_report(session: Any, console: Console) -> Path | None:
    """The report; None where it could not be written, which is printed and does not fail the run."""
    from vitrail.report.page.run_page import build_report

    try:
        return build_report(session.folder.path)
    except (OSError, VitrailError) as error:
        console.say(f"the report could not be written: {error}")
        return None
