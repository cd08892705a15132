"""One thread that works on what other threads hand it, several at a time where they are of one kind."""

import threading
import time
from collections import deque
from collections.abc import Callable
from typing import Any, Generic, Protocol, TypeVar


class Keyed(Protocol):
    @property
    def key(self) -> Any: ...


T = TypeVar("T", bound=Keyed)


class Lane(Generic[T]):
    """work: takes up to `batch` things of one key, in the order they came. delay: seconds that a batch which is not
    full waits for more; none where a batch is one."""

    def __init__(self, work: Callable[[list[T]], None], batch: int, delay: float):
        self.work, self.batch, self.delay = work, batch, delay if batch > 1 else 0.0
        self.waiting: deque[T] = deque()
        self.changed = threading.Condition()
        threading.Thread(target=self.run, daemon=True).start()

    def put(self, thing: T) -> None:
        with self.changed:
            self.waiting.append(thing)
            self.changed.notify()

    def run(self) -> None:
        while True:
            self.work(self.take())

    def take(self) -> list[T]:
        """The next batch."""
        with self.changed:
            while not self.waiting:
                self.changed.wait()
            key, until = self.waiting[0].key, time.monotonic() + self.delay
            while True:
                same = [thing for thing in self.waiting if thing.key == key][: self.batch]
                left = until - time.monotonic()
                if len(same) >= self.batch or left <= 0:
                    break
                self.changed.wait(left)
            chosen = {id(thing) for thing in same}
            self.waiting = deque(thing for thing in self.waiting if id(thing) not in chosen)
            return same
