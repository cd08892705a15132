"""The progress of a download, on a terminal: a bar that goes away at the end."""

import sys
from collections.abc import Iterator
from contextlib import contextmanager

from vitrail.storage.printable import printable
from vitrail.weights.remote.download import Progress


@contextmanager
def download_bar(label: str, size: int) -> Iterator[Progress | None]:
    """A bar on stderr where that is a terminal, else nothing. size: bytes, 0 where that is not known."""
    terminal = sys.__stderr__  # what the command prints through spells escapes out, and a bar is made of them
    if terminal is None or not terminal.isatty() or not sys.stderr.isatty():
        yield None
        return
    from rich.console import Console
    from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TimeRemainingColumn, TransferSpeedColumn

    columns = (TextColumn("{task.description}", markup=False), BarColumn(), DownloadColumn(), TransferSpeedColumn(),
               TimeRemainingColumn())  # fmt: skip
    with Progress(*columns, console=Console(file=terminal), transient=True) as bar:
        task = bar.add_task(printable(label), total=size or None)
        yield lambda here, total: bar.update(task, completed=here, total=total or None)
