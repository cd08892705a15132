"""Signals that ask a run to stop: it finishes its step, saves and leaves; a second one within a second leaves at once."""

import signal
import time
from types import FrameType, TracebackType
from typing import Any

WATCHED = (signal.SIGINT, signal.SIGTERM, *((signal.SIGUSR1,) if hasattr(signal, "SIGUSR1") else ()))


class Stop:
    """While open, notes the first signal instead of dying from it; `asked()` tells.

    SIGUSR1 counts as SIGTERM: schedulers send it ahead of the time limit.
    """

    def __init__(self) -> None:
        self.number = 0
        self.when = 0.0
        self.before: dict[int, Any] = {}

    def __enter__(self) -> "Stop":
        for number in WATCHED:
            self.before[number] = signal.signal(number, self.note)
        return self

    def __exit__(self, kind: type | None, error: BaseException | None, trace: TracebackType | None) -> None:
        for number, handler in self.before.items():
            signal.signal(number, handler)

    def note(self, number: int, frame: FrameType | None) -> None:
        now = time.monotonic()
        if self.number and now - self.when < 1.0:
            raise KeyboardInterrupt
        self.number, self.when = number, now

    def asked(self) -> bool:
        return bool(self.number)

    @property
    def code(self) -> int:
        """The exit code: 130 after Ctrl-C, 143 after SIGTERM or SIGUSR1."""
        return 130 if self.number == signal.SIGINT else 143
