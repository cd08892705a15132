"""Which processes of a run are alive, and how far each is.

Every process gives a sign of life a second through the store of the launcher, outside of any collective, and watches
the others. So a collective needs no time-out: one process may read its disk for hours while the others wait for it, and
a process that has stopped, or waits for what will never come, still ends the run within a stated time, by name.
"""

import atexit
import contextlib
import multiprocessing
import os
import signal
import socket
import sys
import textwrap
import threading
import time
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any, NamedTuple

import torch.distributed as dist

from vitrail.engine.processes.flight import dump_collectives
from vitrail.errors import RunError, VitrailError
from vitrail.storage.atomic import write_file
from vitrail.storage.json_text import from_json, to_json

BEAT = 1.0  # seconds between two signs of life
PAUSED = 5.0  # seconds without a look after which this process was itself stopped, and starts to count anew
NEAREST = 8  # the following ranks that a process watches: all watching all would be too much for the store
START_S = 600  # seconds in which every process must have started
FIRST_STEP = 10  # times the limit: a first step may compile
GRACE = 5.0  # seconds in which a process whose collectives were aborted ends by itself
LOST_S = 5.0  # seconds in which a process that lost a connection finds out to whom
MISSED = 2.5  # beats without a sign after which a lost process is told from one that is late
STEP, WAIT = "step", "wait"  # where a process cannot go on without the others


class Sign(NamedTuple):
    """A sign of life. `serial` counts what the process has begun; `step`: the steps that it has done."""

    beat: int
    serial: int
    step: int
    doing: str
    pid: int
    host: str


class Watch(NamedTuple):
    """The newest sign of a process, when it came, and since when its `serial` is the same."""

    sign: Sign
    heard: float
    unchanged: float


class Peers:
    """The other processes of a run, as this one hears of them. `limit`: seconds without a sign of life, or past the
    longest step without progress, after which the run ends."""

    def __init__(self, store: Any, rank: int, size: int, limit: float):
        self.rank, self.size, self.limit, self.store = rank, size, limit, store
        self.meeting = dist.PrefixStore("vitrail", store)
        self.signs = dist.PrefixStore("vitrail", store.clone())  # its own connection: the other one may be waiting
        self.beat = self.serial = self.step = self.meetings = 0
        self.doing, self.since, self.longest = "", 0.0, -1.0  # the longest step in seconds; below 0 before the first
        self.watches: dict[int, Watch] = {}
        self.answered = time.monotonic()  # when the store last did
        self.finding = ""
        self.is_writing = False
        self.records: Path | None = None  # the folder for `keep_record`
        self.speaks: bool | None = None  # whether this process says why the run ends; None: nobody has asked
        self.closed = threading.Event()
        self.threads = [threading.Thread(target=work, daemon=True) for work in (self.give_signs, self.look_around)]

    # what the main thread says and asks

    def start(self) -> None:
        """Begins to give signs, when every process is there. Errors: `RunError` where one has not started."""
        self.give_sign()
        self.meet(START_S)
        for thread in self.threads:
            thread.start()
        atexit.register(self.close)  # a thread that is still in the store when Python ends would crash it

    def close(self) -> None:
        self.closed.set()
        for thread in self.threads:
            if thread.is_alive() and thread is not threading.current_thread():
                thread.join(2 * BEAT)

    @contextlib.contextmanager
    def blocked(self, doing: str) -> Iterator[None]:
        """While inside, this process cannot go on without the others."""
        if self.doing:  # a wait inside a step is part of it
            yield
            return
        self.serial, self.since, self.doing = self.serial + 1, time.monotonic(), doing
        try:
            yield
        finally:
            spent = time.monotonic() - self.since
            self.serial, self.doing = self.serial + 1, ""
            if doing == STEP:
                self.longest = max(self.longest, spent)

    def meet(self, seconds: float | None = None) -> None:
        """Waits, outside of any collective, until every process is here. Errors: `RunError` after so many seconds."""
        self.meetings += 1
        place, began = f"meeting/{self.meetings}", time.monotonic()
        if self.meeting.add(f"{place}/came", 1) == self.size:
            self.meeting.set(f"{place}/all", "1")
        while True:
            try:
                self.meeting.wait([f"{place}/all"], timedelta(seconds=1))
                self.forget_meeting(self.meetings - 1)
                return
            except RuntimeError as error:  # DistStoreError: not yet
                if self.finding:
                    raise RunError(self.finding, "") from None
                if "timeout" not in str(error).lower() and "timed out" not in str(error).lower():
                    raise
                if seconds is not None and time.monotonic() - began > seconds:
                    came = int(self.meeting.add(f"{place}/came", 0))
                    what = f"only {came} of {self.size} processes have started after {seconds:.0f} s"
                    raise RunError(
                        what, "start all of them with the same MASTER_ADDR, MASTER_PORT and WORLD_SIZE"
                    ) from None

    def forget_meeting(self, number: int) -> None:
        """Removes what a meeting left in the store, of one before that at which all are now: nobody waits for it."""
        with contextlib.suppress(RuntimeError):
            for key in ("came", "all") if self.rank == 0 and number else ():
                self.meeting.delete_key(f"meeting/{number}/{key}")

    def open_store(self, name: str) -> Any:
        """A connection to the store for a thread, where it is alone with what it keeps under a name."""
        return dist.PrefixStore(f"vitrail/{name}", self.store.clone())

    def say_last_words(self, text: str) -> None:
        """Leaves the reason why this process ends, for the others."""
        with contextlib.suppress(RuntimeError):
            self.meeting.set(f"end/{self.rank}", text[:1000])

    def is_speaker(self) -> bool:
        """Whether this process is to say why the run ends: the first that asks, so that it is said once."""
        if self.speaks is None:
            self.speaks = os.environ.get("LOCAL_RANK", "0") == "0"  # of each machine, where the store is gone
            if time.monotonic() - self.answered <= self.limit:
                with contextlib.suppress(RuntimeError):
                    self.speaks = int(self.meeting.add("speakers", 1)) == 1
        return self.speaks

    def keep_record(self) -> str:
        """Writes the last collectives of this process, as torch's flight recorder has them. Returns where, in words."""
        if self.records is None:
            return ""
        try:
            self.records.mkdir(exist_ok=True)
            write_file(self.records / f"process-{self.rank}.json", dump_collectives())
        except (OSError, RuntimeError, TypeError):
            return ""
        return f"; the last collectives of each process are in {self.records}"

    def explain_loss(self) -> str:
        """Why a collective failed: which process is gone, and with what words."""
        until = time.monotonic() + LOST_S
        while not self.finding and time.monotonic() < until:
            with contextlib.suppress(RuntimeError):
                for rank in range(self.size):
                    if rank != self.rank and self.meeting.check([f"end/{rank}"]):
                        return f"process {rank} ended: {self.meeting.get(f'end/{rank}').decode()}"
                if self.find_silent(time.monotonic()):
                    break
            time.sleep(0.2)
        if self.finding:
            return self.finding
        now = time.monotonic()
        if now - self.answered > PAUSED:  # nobody is heard then
            return f"the store of the launcher does not answer: is it gone? {self.step} steps are done"
        return self.find_silent(now) or "the connection to another process was lost"

    def find_silent(self, now: float) -> str:
        """Which process gives no sign while the store answers; "" where none is missed."""
        for rank, watch in sorted(self.watches.items()):
            if self.answered - watch.heard > MISSED * BEAT and now - self.answered < 2 * BEAT:
                return f"process {rank} is gone; the last step that it had done is {watch.sign.step}"
        return ""

    # what the threads do

    def give_signs(self) -> None:
        while not self.closed.wait(BEAT):
            try:
                self.give_sign()
                self.hear()
            except RuntimeError:  # the store is gone: `look_around` finds that it does not answer
                continue

    def give_sign(self) -> None:
        self.beat += 1
        sign = Sign(self.beat, self.serial, self.step, self.doing, os.getpid(), socket.gethostname())
        self.signs.set(f"sign/{self.rank}", to_json(sign))

    def hear(self) -> None:
        near = {(self.rank + k) % self.size for k in range(1, min(self.size, NEAREST + 1))}
        ranks = sorted((set(range(self.size)) if self.is_late(time.monotonic()) else near | {0}) - {self.rank})
        texts = self.signs.multi_get([f"sign/{rank}" for rank in ranks])
        now = time.monotonic()
        self.answered = now
        for rank, text in zip(ranks, texts, strict=True):
            sign, old = Sign(*from_json(text)), self.watches.get(rank)
            heard = old.heard if old and old.sign.beat == sign.beat else now
            unchanged = old.unchanged if old and old.sign.serial == sign.serial else now
            self.watches[rank] = Watch(sign, heard, unchanged)

    def look_around(self) -> None:
        last = time.monotonic()
        while not self.closed.wait(BEAT):
            now = time.monotonic()
            if now - last > PAUSED:  # this process was stopped, or its machine asleep: nobody else is late for that
                self.answered = now
                self.watches.clear()
            last = now
            if what := self.find_fault(now):
                return self.give_up(what)

    def find_fault(self, now: float) -> str:
        """What is wrong, "" where nothing is."""
        if now - self.answered > self.limit:  # nobody is heard then
            return f"the store of the launcher has not answered for {self.limit:.0f} s, at step {self.step + 1}"
        for rank, watch in sorted(self.watches.items()):
            if now - watch.heard > self.limit:
                done = f"the last step that it had done is {watch.sign.step}, here it is {self.step}"
                return f"process {rank} has given no sign of life for {self.limit:.0f} s; {done}"
        if not self.is_late(now) or len(self.watches) < self.size - 1:
            return ""
        if all(w.sign.doing and now - w.unchanged > self.limit for w in self.watches.values()):
            signs = {self.rank: self.step, **{rank: watch.sign.step for rank, watch in self.watches.items()}}
            least = min(signs, key=lambda rank: (signs[rank], rank))
            most = max(signs, key=lambda rank: (signs[rank], -rank))
            where = f"process {least} waits in step {signs[least] + 1}"
            further = f", process {most} in step {signs[most] + 1}"
            where += further if signs[most] > signs[least] else " as the others do"
            return f"no process has gone on for {now - self.since:.0f} s: {where}"
        return ""

    def is_late(self, now: float) -> bool:
        """Whether this process has waited longer than any step took, and the limit."""
        allowed = self.limit * FIRST_STEP if self.longest < 0 else self.limit + self.longest
        return bool(self.doing) and now - self.since > allowed

    def give_up(self, what: str) -> None:
        """Ends the main thread's collective; where the backend cannot, this process."""
        self.finding = what
        where = self.keep_record()
        with contextlib.suppress(Exception):
            dist.group.WORLD.abort()  # type: ignore[union-attr]
        self.closed.wait(GRACE)
        while self.is_writing and not self.closed.is_set():
            time.sleep(BEAT)
        if self.closed.is_set():
            return
        self.say_last_words(what)
        if self.is_speaker():
            print_error(RunError(what, f"the checkpoints are kept; --runtime.timeout SECONDS waits longer{where}"))
        for child in multiprocessing.active_children():  # they read images, and would outlive this process
            child.kill()
        self.wake_stopped()
        os._exit(1)

    def wake_stopped(self) -> None:
        """A stopped process obeys no signal but this one: on this machine it goes on, to find that the run is over."""
        wake = vars(signal).get("SIGCONT")
        now = time.monotonic()
        for watch in self.watches.values():
            if wake and now - watch.heard > self.limit and watch.sign.host == socket.gethostname():
                with contextlib.suppress(OSError):
                    os.kill(watch.sign.pid, wake)


def print_error(error: VitrailError) -> None:
    """An error as the command prints it, from a thread: the main one is inside a library."""
    lines = [
        line
        for lead, text in (("vitrail: ", error.what), ("  -> ", error.fix))
        for line in textwrap.wrap(text, 96, initial_indent=lead, subsequent_indent=" " * len(lead))
    ]
    with contextlib.suppress(OSError, ValueError):
        sys.stderr.write("\n".join(lines) + "\n")
        sys.stderr.flush()


def is_lost_connection(error: RuntimeError) -> bool:
    """Whether a library reports that another process is gone."""
    text = str(error).lower()
    return isinstance(error, dist.DistError) or any(word in text for word in ("gloo", "nccl", "connection closed"))
