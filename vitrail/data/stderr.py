"""Keeps what Pillow and libtiff say of damaged files off the terminal: what cannot be read is listed by name."""

import contextlib
import logging
import os
import threading
import warnings
from collections.abc import Iterator

STDERR = 2  # the file descriptor: libtiff writes to it, not to `sys.stderr`


def silence_pillow() -> None:
    """No warning of damaged metadata, nor a line of its log; for a process of our own."""
    warnings.filterwarnings("ignore", module="PIL")
    logging.getLogger("PIL").setLevel(logging.CRITICAL)


class StderrGate:
    """Sends file descriptor 2 of the process nowhere as long as any thread is within `closed`."""

    def __init__(self) -> None:
        self.lock = threading.Lock()
        self.inside = 0
        self.saved = -1

    @contextlib.contextmanager
    def closed(self) -> Iterator[None]:
        self._enter()
        try:
            yield
        finally:
            self._leave()

    def _enter(self) -> None:
        with self.lock:
            self.inside += 1
            if self.inside > 1:
                return
            try:
                self.saved = os.dup(STDERR)
                nowhere = os.open(os.devnull, os.O_WRONLY)
                os.dup2(nowhere, STDERR)
                os.close(nowhere)
            except OSError:  # there is none
                self.saved = -1

    def _leave(self) -> None:
        with self.lock:
            self.inside -= 1
            if self.inside == 0 and self.saved >= 0:
                os.dup2(self.saved, STDERR)
                os.close(self.saved)
                self.saved = -1


GATE = StderrGate()
