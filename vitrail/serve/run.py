"""The front process: listens, answers, and stops without losing a request."""

import asyncio
import contextlib
import functools
import logging
import os
import signal
import socket
import sys
import threading
from collections.abc import Callable
from typing import Any

import uvicorn

from vitrail.serve.app import build_app
from vitrail.serve.guard import Guard
from vitrail.serve.metrics import Metrics
from vitrail.serve.pool import WorkerPool
from vitrail.serve.protocol import GuardedProtocol
from vitrail.serve.settings import Limits, Settings, check_token, listen
from vitrail.storage.printable import printable

Announce = Callable[[list[dict[str, Any]], str], None]
LOG = logging.getLogger("vitrail.serve")
BACKLOG = 512
SPARE_FILES = 64  # descriptors that are no connections
LATE = 2.0  # seconds after the grace in which the last answers are written


class FrontServer(uvicorn.Server):
    """uvicorn's server, whose end is ours: first it says so on `/ready`, then it stops listening, then it waits."""

    def __init__(self, config: uvicorn.Config, settings: Settings, pool: WorkerPool, guard: Guard):
        super().__init__(config)
        self.settings, self.pool, self.guard = settings, pool, guard
        self.loop = asyncio.get_running_loop()
        self.stopping: asyncio.Task[None] | None = None
        self.unanswered = 0

    def handle_exit(self, sig: int, frame: Any) -> None:
        """A signal to stop. Ctrl-C does not drain, and twice it does not wait."""
        by_hand = sig == signal.SIGINT
        if not self.guard.is_draining:
            self.loop.call_soon_threadsafe(self.begin_stop, 0.0 if by_hand else self.settings.drain)
        elif by_hand:
            self.loop.call_soon_threadsafe(self.end_now)

    def begin_stop(self, drain: float) -> None:
        if not self.guard.is_draining:
            self.guard.is_draining = True
            self.stopping = self.loop.create_task(self.stop_listening(drain))

    def end_now(self) -> None:
        self.unanswered += self.pool.give_up("the server was stopped")
        self.should_exit = self.force_exit = True

    async def stop_listening(self, drain: float) -> None:
        await asyncio.sleep(drain)  # in which whoever balances load sees that this server is not ready any more
        self.should_exit = True
        await asyncio.sleep(max(0.0, self.settings.grace - drain))
        self.unanswered += self.pool.give_up("the server is stopping")


def build_server(settings: Settings, page: bytes) -> FrontServer:
    """A server that does not listen yet. An event loop is running."""
    metrics = Metrics()
    pool = WorkerPool(settings, metrics)
    guard = build_app(settings, pool, metrics, page)
    return FrontServer(uvicorn_config(guard, settings, metrics), settings, pool, guard)


async def run_server(server: FrontServer, sock: socket.socket, announce: Announce) -> int:
    """Serves until it is told to stop. Returns how many requests were given up. announce: is handed the models, once
    they are ready, and the address. Errors: the `VitrailError` of workers that cannot go on."""
    pool = server.pool
    pool.start()
    watching = asyncio.create_task(watch_pool(pool, server, lambda: announce(pool.models, address_of(sock))))
    try:
        await server.serve(sockets=[sock])
    finally:
        watching.cancel()
        if server.stopping is not None:
            server.stopping.cancel()
        await pool.close()
    if pool.failure is not None:
        raise pool.failure
    return server.unanswered


async def watch_pool(pool: WorkerPool, server: FrontServer, announce: Callable[[], None]) -> None:
    """Announces that the server is ready, and ends it where its workers cannot go on."""
    ready, ended = asyncio.create_task(pool.ready.wait()), asyncio.create_task(pool.ended.wait())
    await asyncio.wait({ready, ended}, return_when=asyncio.FIRST_COMPLETED)
    if ready.done():
        with contextlib.suppress(OSError):  # nobody reads what is printed
            announce()
    await ended
    server.should_exit = True


def uvicorn_config(app: Any, settings: Settings, metrics: Metrics) -> uvicorn.Config:
    limits = settings.limits
    protocol: Any = functools.partial(GuardedProtocol, allowed(limits), metrics)
    return uvicorn.Config(
        app, http=protocol, ws="none", lifespan="off", loop="asyncio", log_config=None, access_log=False,
        proxy_headers=False, server_header=False, backlog=BACKLOG, timeout_keep_alive=int(limits.keep_alive),
        timeout_graceful_shutdown=int(settings.grace + LATE), h11_max_incomplete_event_size=limits.header_bytes,
    )  # fmt: skip


def allowed(limits: Limits) -> Limits:
    """The limits, with no more connections than the process may have open files."""
    import dataclasses

    try:
        import resource

        files = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
    except ImportError:  # not on Windows
        return limits
    return dataclasses.replace(limits, connections=max(1, min(limits.connections, files - SPARE_FILES)))


def address_of(sock: socket.socket) -> str:
    host, port = sock.getsockname()[:2]
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"


class PrintableFormatter(logging.Formatter):
    """Lines without a character that a terminal obeys."""

    def format(self, record: logging.LogRecord) -> str:
        return printable(" ".join(f"{self.formatTime(record)} {record.getMessage()}".split("\n")))


def log_to_stderr(errors_only: bool) -> None:
    """One line a request and what goes wrong, or what goes wrong alone."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(PrintableFormatter())
    own = logging.WARNING if errors_only else logging.INFO
    for name, level in (("vitrail.serve", own), ("uvicorn", logging.ERROR)):
        logger = logging.getLogger(name)
        logger.handlers, logger.propagate = [handler], False
        logger.setLevel(level)


def stop_on_hangup(server: FrontServer) -> None:
    """A terminal that is closed stops the server as SIGTERM does, unless it was started to outlive it (nohup)."""
    if signal.getsignal(signal.SIGHUP) is signal.SIG_DFL:
        server.loop.add_signal_handler(signal.SIGHUP, server.handle_exit, signal.SIGTERM, None)


def serve(settings: Settings, page: bytes, announce: Announce) -> int:
    """Serves until a signal says to stop: 0, or 1 where requests were given up.

    Errors: `UsageError` for the address, or a token that is missing; those of the models and the workers.
    """
    check_token(settings.host, settings.token)

    async def main() -> int:
        server = build_server(settings, page)
        if os.name == "posix" and threading.current_thread() is threading.main_thread():
            stop_on_hangup(server)
        return await run_server(server, sock, announce)

    with listen(settings.host, settings.port) as sock:
        unanswered = asyncio.run(main())
    if unanswered:
        LOG.error("stopped with %d requests given up", unanswered)
    return 1 if unanswered else 0
