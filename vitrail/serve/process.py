"""A worker process as the front process sees it: started, asked, killed."""

import asyncio
import contextlib
import os
import signal
import sys
import time
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from vitrail.serve.frames import Frame, frame_pieces, pack_frame, receive_frame
from vitrail.serve.settings import Settings

THREADS = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS")
SECRET = "VITRAIL_TOKEN"


class Answer(NamedTuple):
    status: int
    body: bytes
    stages: dict[str, Any]  # seconds by name
    batch: int


@dataclass(eq=False)
class Ticket:
    """A request that was admitted. deadline: on the monotonic clock, which all processes of a machine share."""

    number: int
    header: dict[str, Any]
    body: bytes
    deadline: float
    future: "asyncio.Future[Answer]"
    queued: float = field(default_factory=time.monotonic)
    sent: float = 0.0
    worker: "WorkerProcess | None" = None


class WorkerProcess:
    """`outstanding` are the tickets that it has and has not answered, by number."""

    def __init__(self, process: asyncio.subprocess.Process):
        assert process.stdin is not None
        assert process.stdout is not None
        self.process, self.source, self.target = process, process.stdout, process.stdin
        self.outstanding: dict[int, Ticket] = {}
        self.batch = 1
        self.active = time.monotonic()  # when it last began or answered something

    @property
    def window(self) -> int:
        """Tickets that it may have: a batch, and the next one, which is decoded meanwhile."""
        return 2 * self.batch

    @property
    def has_room(self) -> bool:
        return len(self.outstanding) < self.window

    def send(self, ticket: Ticket) -> None:
        if not self.outstanding:
            self.active = time.monotonic()
        ticket.sent, ticket.worker = time.monotonic(), self
        self.outstanding[ticket.number] = ticket
        header = {**ticket.header, "id": ticket.number, "deadline": ticket.deadline}
        self.target.writelines(frame_pieces(header, ticket.body))  # not joined: a body may be large
        ticket.body = b""

    def drop(self, ticket: Ticket) -> None:
        """Nobody waits for the answer; the worker says when it has let go of it."""
        if ticket.number in self.outstanding and not self.target.is_closing():
            self.target.write(pack_frame({"kind": "drop", "id": ticket.number}))

    async def receive(self) -> Frame | None:
        """Its next message; None when it has ended."""
        return await receive_frame(self.source)

    def is_stuck(self, seconds: float) -> bool:
        """Whether it has work and has answered nothing for so long."""
        return bool(self.outstanding) and time.monotonic() - self.active > seconds

    def kill(self) -> None:
        """Past asyncio's own `kill`, which may reap the process before its watcher does and lose its exit code."""
        if self.process.returncode is None and os.name == "posix":
            with contextlib.suppress(ProcessLookupError):
                os.kill(self.process.pid, signal.SIGKILL)
        elif self.process.returncode is None:
            self.process.kill()

    async def stop(self, seconds: float) -> None:
        """Ends its input, which ends it; kills it where that takes too long."""
        self.target.close()
        try:
            await asyncio.wait_for(self.process.wait(), seconds)
        except TimeoutError:
            self.kill()
            await self.process.wait()


async def start_worker(settings: Settings) -> WorkerProcess:
    """A worker that opens its models. It has a session of its own: Ctrl-C is for the front process, and no token."""
    threads = dict.fromkeys(THREADS, str(settings.worker_threads))
    environment = {key: value for key, value in os.environ.items() if key != SECRET} | threads
    environment["PYTHONPATH"] = os.pathsep.join(path or os.getcwd() for path in sys.path)  # it imports what we would
    process = await asyncio.create_subprocess_exec(
        *settings.command, stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.PIPE, env=environment,
        start_new_session=os.name == "posix",
    )  # fmt: skip
    worker = WorkerProcess(process)
    worker.target.write(pack_frame(settings.hello()))
    return worker
