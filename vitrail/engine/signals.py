"""Signals that stop a run: it finishes its step, saves and exits; a second signal within a second exits at once."""

import signal
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType, TracebackType
from typing import Any

NAMES = ("SIGINT", "SIGTERM", "SIGUSR1", "SIGBREAK")  # Windows has no SIGUSR1, and it alone has SIGBREAK
WATCHED = tuple(vars(signal)[name] for name in NAMES if name in vars(signal))
AGAIN = (0.1, 1.0)  # seconds after the first signal in which a second one exits at once


class StopSignal:
    """While open, records the first signal instead of raising; `is_requested()` returns whether there was one.

    SIGUSR1 counts as SIGTERM: schedulers send it ahead of the time limit. `timeout` and job managers signal a process
    and then its whole group, so signals within a tenth of a second are the same request. Only the main thread can
    handle signals; in any other this does nothing.
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
        """Where nothing is left to save, the first signal raises `KeyboardInterrupt`, as does an earlier one."""
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
        """The exit code: 130 after Ctrl-C, 143 after any other."""
        return 130 if self.number == signal.SIGINT else 143
