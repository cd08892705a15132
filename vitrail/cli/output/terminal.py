"""The terminal: everything that the command prints goes through `PrintableStream`, but for what rich draws."""

import contextlib
import io
import logging
import sys
import warnings
from collections.abc import Iterator
from typing import Any, TextIO

from vitrail.data.stderr import silence_pillow
from vitrail.storage.printable import printable


class PrintableStream(io.TextIOBase):
    """Writes to another stream; what a terminal would obey, such as an escape in the name of a file, is spelt out."""

    def __init__(self, stream: TextIO):
        self.stream = stream

    def write(self, text: str) -> int:
        self.stream.write(printable(text))
        return len(text)

    def flush(self) -> None:
        self.stream.flush()

    def isatty(self) -> bool:
        return self.stream.isatty()

    def fileno(self) -> int:
        return self.stream.fileno()

    def writable(self) -> bool:
        return True

    @property
    def encoding(self) -> str:  # type: ignore[override]
        return self.stream.encoding or "utf-8"

    @property
    def errors(self) -> str | None:  # type: ignore[override]
        return self.stream.errors

    @property
    def buffer(self) -> Any:
        return self.stream.buffer

    def close(self) -> None:
        """The stream belongs to whoever opened it."""


@contextlib.contextmanager
def printable_streams() -> Iterator[None]:
    """Within it, `sys.stdout` and `sys.stderr` print no escape of another's making, and Pillow says nothing of damaged
    metadata: what cannot be read is listed by name."""
    pillow = logging.getLogger("PIL")
    level = pillow.level
    with (
        warnings.catch_warnings(),
        contextlib.redirect_stdout(PrintableStream(unwrap(sys.stdout))),
        contextlib.redirect_stderr(PrintableStream(unwrap(sys.stderr))),
    ):
        silence_pillow()
        try:
            yield
        finally:
            pillow.setLevel(level)


def unwrap(stream: Any) -> Any:
    """The stream that a `PrintableStream` writes to."""
    return stream.stream if isinstance(stream, PrintableStream) else stream


def rich_console(stderr: bool = False, notebook: bool | None = None) -> Any:
    """A console of rich, the only one that may send escapes to the terminal; texts with names go through
    `printable` first. notebook: whether it prints as in one, None: where it runs in one."""
    from rich.console import Console

    return Console(file=unwrap(sys.stderr if stderr else sys.stdout), force_jupyter=notebook)
