"""The queue of requests and the workers that answer them: admitted, handed out, timed, and never retried."""

import asyncio
import itertools
import logging
import math
import time
from collections import deque
from collections.abc import Awaitable, Callable
from typing import Any

from vitrail.errors import CheckpointError, DataError, RunError, UsageError, VitrailError
from vitrail.serve.metrics import Metrics
from vitrail.serve.process import Answer, Ticket, WorkerProcess, start_worker
from vitrail.serve.refusal import Refused, busy, error_body
from vitrail.serve.settings import Settings

LOG = logging.getLogger("vitrail.serve")
ERRORS: dict[int, type[VitrailError]] = {e.code: e for e in (RunError, UsageError, DataError, CheckpointError)}
DIED = "the worker that had this request died; it is not tried again"
STOP_SECONDS = 3.0  # that a worker may take to end
RESTART_SECONDS = 2.0  # until a process that could not be started is tried again


class ClientGone(Exception):
    """Nobody waits for the answer any more."""


class WorkerPool:
    """`models` is what the workers say of theirs; `failure` why the server cannot go on, once `ended` is set."""

    def __init__(self, settings: Settings, metrics: Metrics):
        self.settings, self.metrics = settings, metrics
        self.queue: deque[Ticket] = deque()
        self.workers: list[WorkerProcess] = []
        self.processes: list[WorkerProcess] = []  # those that still open their models as well
        self.models: list[dict[str, Any]] = []
        self.files: list[list[Any]] = []  # their fingerprints when they were loaded
        self.batch = 1
        self.admitted = 0
        self.pace = 0.1  # seconds between two answers, about
        self.deaths: deque[float] = deque()
        self.failure: VitrailError | None = None
        self.ready, self.ended = asyncio.Event(), asyncio.Event()
        self.is_closing = False
        self.numbers = itertools.count(1)
        self.tasks: list[asyncio.Task[None]] = []

    def start(self) -> None:
        self.tasks = [asyncio.create_task(self.keep_worker()) for _ in range(self.settings.workers)]
        self.tasks.append(asyncio.create_task(self.watch()))
        for task in self.tasks:
            task.add_done_callback(self.note_end)

    def note_end(self, task: asyncio.Task[None]) -> None:
        """A mistake of ours in what keeps the workers ends the server: without it nothing would be answered."""
        if not task.cancelled() and (error := task.exception()) is not None:
            self.fail(RunError(f"the workers cannot be kept: {type(error).__name__}", "start the server again"))

    @property
    def slots(self) -> int:
        """Requests that may be here at a time: those that are predicted, and those that wait."""
        return self.settings.limits.queue + self.batch * self.settings.workers

    def check_room(self) -> None:
        """Errors: `Refused` (503) where a request would not be admitted."""
        if self.failure is not None or self.is_closing:
            raise busy("the server is stopping", 5)
        if not self.models:
            raise busy("the models are being opened", 5)
        if self.admitted >= self.slots:
            self.metrics.refused.labels("full").inc()
            raise busy("too many requests are waiting", max(1, math.ceil(self.pace * self.settings.limits.queue)))

    def find(self, name: str) -> str:
        """The name of a model; "" is that of the first. Errors: `Refused` (404)."""
        names = [row["name"] for row in self.models]
        if name and name not in names:
            raise Refused(
                404, "there is no such model", f"there {'are' if names[1:] else 'is'} {', '.join(names)}"[:500]
            )
        return name or names[0]

    async def ask(self, header: dict[str, Any], body: bytes, gone: Callable[[], Awaitable[Any]]) -> Answer:
        """The answer of a worker. gone: returns when the client has left.

        Errors: `Refused`: 503 at once where there is no room, and where its worker dies; 504 at the deadline.
        `ClientGone`.
        """
        self.check_room()
        timeout = self.settings.limits.timeout
        future: asyncio.Future[Answer] = asyncio.get_running_loop().create_future()
        ticket = Ticket(next(self.numbers), header, body, time.monotonic() + timeout, future)
        self.admitted += 1
        self.queue.append(ticket)
        self.hand_out()
        leaving = asyncio.ensure_future(gone())
        try:
            done, _ = await asyncio.wait({future, leaving}, timeout=timeout, return_when=asyncio.FIRST_COMPLETED)
            if future in done and (answer := future.result()).status != 504:
                return answer._replace(stages={**answer.stages, "queue": ticket.sent - ticket.queued})
            if leaving in done:
                raise ClientGone
            raise Refused(  # by this clock, or by that of the worker, whose answer to it is empty
                504, f"no answer within {timeout:g} s", "try again later, or with fewer requests at a time", 1
            )
        finally:
            leaving.cancel()
            self.release(ticket)

    def release(self, ticket: Ticket) -> None:
        """Frees the slot of a request, answered or not."""
        self.admitted -= 1
        if not ticket.future.done():
            ticket.future.cancel()
            if ticket.worker is not None:
                ticket.worker.drop(ticket)
        if ticket.worker is None and ticket in self.queue:
            self.queue.remove(ticket)
        self.show()

    def hand_out(self) -> None:
        """Gives the workers what waits, the one with the least first."""
        while self.queue and (free := [one for one in self.workers if one.has_room]):
            ticket = self.queue.popleft()
            if not ticket.future.done():
                min(free, key=lambda one: len(one.outstanding)).send(ticket)
        self.show()

    def show(self) -> None:
        self.metrics.queue.set(len(self.queue))
        self.metrics.admitted.set(self.admitted)
        self.metrics.workers.set(len(self.workers))

    async def keep_worker(self) -> None:
        """Starts a worker, and another one whenever it ends."""
        while not self.is_closing and self.failure is None:
            try:
                worker = await start_worker(self.settings)
            except OSError as failure:  # no memory, no process
                self.count_death(f"it cannot be started: {(failure.strerror or str(failure)).lower()}")
                await asyncio.sleep(RESTART_SECONDS)
                continue
            self.processes.append(worker)
            try:
                error = await self.open_models(worker)
                if error is None:
                    await self.listen(worker)
            finally:
                worker.kill()
                self.processes.remove(worker)
                self.lose(worker)
                await worker.process.wait()
            if self.is_closing or self.failure is not None:
                return
            if error is not None:
                LOG.error("a worker cannot open the models: %s", error.what)
                if self.workers:
                    return  # the others go on
                self.fail(error)
                return
            code = worker.process.returncode or 0
            self.count_death(f"signal {-code}" if code < 0 else f"exit code {code}")

    async def open_models(self, worker: WorkerProcess) -> VitrailError | None:
        """Waits until a worker has its models, which then has its share of the work; or why it has not."""
        frame = await worker.receive()
        if frame is None:
            if self.is_closing:
                return None
            return (
                None
                if self.models
                else RunError("a worker ended while it opened the models", "see what it printed above")
            )
        header = frame.header
        if header["type"] == "failed":
            what, fix, code = header["what"], header["fix"], header["code"]
            return ERRORS.get(code, RunError)(what, fix)
        if self.models and header["models"] != self.models:
            return CheckpointError("a model has changed on the disk since the server was started",
                                   "start the server again to serve the new one")  # fmt: skip
        worker.batch = self.batch = header["batch"]
        if not self.models:
            self.models, self.files = header["models"], header["files"]
        self.workers.append(worker)
        self.ready.set()
        self.hand_out()
        return None

    async def listen(self, worker: WorkerProcess) -> None:
        """Takes the answers of a worker until it ends."""
        while (frame := await worker.receive()) is not None:
            header, now = frame.header, time.monotonic()
            self.pace += 0.1 * (min(10.0, now - worker.active) / max(1, len(self.workers)) - self.pace)
            worker.active = now
            ticket = worker.outstanding.pop(header["id"], None)
            if ticket is not None and not ticket.future.done():
                ticket.future.set_result(Answer(header["status"], frame.body, header["stages"], header["batch"]))
            self.hand_out()

    def lose(self, worker: WorkerProcess) -> None:
        """Answers what a worker had when it ended. None of it is tried again: it may be what ended it."""
        if worker in self.workers:
            self.workers.remove(worker)
        for ticket in worker.outstanding.values():
            refuse(ticket, DIED)
        worker.outstanding.clear()
        self.show()

    def count_death(self, why: str) -> None:
        """Notes the end of a worker; too many within a minute end the server."""
        self.metrics.deaths.inc()
        LOG.error("a worker ended by itself (%s); another one is started", why)
        now = time.monotonic()
        self.deaths.append(now)
        while now - self.deaths[0] > self.settings.deaths_within:
            self.deaths.popleft()
        if len(self.deaths) >= self.settings.deaths:
            within = self.settings.deaths_within
            self.fail(RunError(f"{len(self.deaths)} workers ended within {within:g} s, the last with {why}",
                               "a model or an image that is too large for the memory does that"))  # fmt: skip

    async def watch(self) -> None:
        """Kills workers that have work and answer nothing."""
        longest = max(self.settings.hang, self.settings.limits.timeout)
        while True:
            await asyncio.sleep(min(1.0, longest / 4))
            for worker in list(self.workers):
                if worker.is_stuck(longest):
                    LOG.error("a worker hangs and is killed")
                    worker.kill()

    def fail(self, error: VitrailError) -> None:
        self.failure = error
        self.give_up("the server is stopping")
        self.ended.set()

    def give_up(self, what: str) -> int:
        """Answers all that waits with 503. Returns how many that were."""
        pending = [*self.queue, *(t for worker in self.workers for t in worker.outstanding.values())]
        return sum(refuse(ticket, what) for ticket in pending)

    async def close(self) -> None:
        """Ends the workers."""
        self.is_closing = True
        self.give_up("the server is stopping")
        await asyncio.gather(*(worker.stop(STOP_SECONDS) for worker in self.processes))
        self.tasks[-1].cancel()
        await asyncio.gather(*self.tasks, return_exceptions=True)


def refuse(ticket: Ticket, what: str) -> bool:
    """Answers a request with 503; False where it has an answer already."""
    if ticket.future.done():
        return False
    ticket.future.set_result(Answer(503, error_body(what, "try again in a moment"), {}, 0))
    return True
