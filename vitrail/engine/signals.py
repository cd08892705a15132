"""Signals that ask a run to stop: it finishes its step, saves and leaves; a second one within a second leaves at once."""

import signal
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType, TracebackType
from typing import Any

WATCHED = (signal.SIGINT, signal.SIGTERM, *((signal.SIGUSR1,) if hasattr(signal, "SIGUSR1") else ()))
AGAIN = (0.1, 1.0)  # seconds after the first signal in which a second one means: at once


class StopSignal:
    """While open, notes the first signal instead of dying from it; `is_requested()` tells.

    SIGUSR1 counts as SIGTERM: schedulers send it ahead of the time limit. `timeout` and job managers signal a process and
    then its whole group, so what comes within a tenth of a second is the same request. Only the main thread can watch
    signals; in any other this does nothing.
    """

    def __init__(self) -> None:
        self.number = 0
        self.when = 0.0
        self.is_immediate = False
        self.before: dict[int, Any] = {}

    def __enter__(self) -> "StopSignal":
        for number in WATCHED if threading.current_thread() is threading.main_thread() else ():
            self.before[number] = signal.signal(number, self.note)
        return self

    def __exit__(self, kind: type | None, error: BaseException | None, trace: TracebackType | None) -> None:
        for number, handler in self.before.items():
            signal.signal(number, handler)

    def note(self, number: int, frame: FrameType | None) -> None:
        now = time.monotonic()
        since = now - self.when
        if self.number and since < AGAIN[0]:
            return
        if self.number and since < AGAIN[1]:
            raise KeyboardInterrupt
        self.number, self.when = number, now
        if self.is_immediate:
            raise KeyboardInterrupt

    @contextmanager
    def interrupt_immediately(self) -> Iterator[None]:
        """Where nothing is left to be saved, the first signal is enough: it raises `KeyboardInterrupt`, as does one that came before."""
        self.is_immediate = True
        try:
            if self.number:
                raise KeyboardInterrupt
            yield
        finally:
            self.is_immediate = False

    def is_requested(self) -> bool:
        return bool(self.number)

    @property
    def exit_code(self) -> int:
        """The exit code: 130 after Ctrl-C, 143 after SIGTERM or SIGUSR1."""
        return 130 if self.number == signal.SIGINT else 143
