"""HTTP/1.1 as uvicorn speaks it, with deadlines for headers and for answers that nobody reads, and a limit of
connections; uvicorn has none of them."""

import asyncio
import contextlib
import socket
import struct
from typing import Any

import h11
from uvicorn.protocols.http.h11_impl import H11Protocol

from vitrail.serve.metrics import Metrics
from vitrail.serve.refusal import error_body
from vitrail.serve.settings import Limits

READ = 32 * 1024  # bytes at a time: what is read beyond a limit before it is noticed
MOST_DISCARDED = 64 * 1024  # bytes that are read and forgotten after the last answer
LINGER = 1.0  # seconds


class GuardedProtocol(H11Protocol):
    """Closes a connection whose headers are not complete, or whose answer is not taken, in time."""

    def __init__(
        self, limits: Limits, metrics: Metrics, config: Any, server_state: Any, app_state: Any, _loop: Any = None
    ):
        super().__init__(config, server_state, app_state, _loop)
        self.limits, self.metrics = limits, metrics
        self.header_timer: asyncio.TimerHandle | None = None
        self.write_timer: asyncio.TimerHandle | None = None
        self.is_ending, self.discarded = False, 0

    def connection_made(self, transport: Any) -> None:
        super().connection_made(transport)
        self.metrics.connections.set(len(self.connections))
        transport.set_write_buffer_limits(high=0)  # then `pause_writing` says that the client does not read
        transport.max_size = READ
        if len(self.connections) > self.limits.connections:
            self.write_error(503, "too many connections are open", b"Retry-After: 1\r\n")
            return
        self.watch_headers()

    def connection_lost(self, exc: Exception | None) -> None:
        self.stop_timers()
        super().connection_lost(exc)
        self.metrics.connections.set(len(self.connections))

    def data_received(self, data: bytes) -> None:
        if self.is_ending:
            self.discarded += len(data)
            if self.discarded > MOST_DISCARDED:
                self.transport.pause_reading()
            return
        super().data_received(data)
        self.watch_headers()

    def watch_headers(self) -> None:
        """From the first byte of a request on its headers have to be complete in time; so has the first request."""
        if self.cycle is not None and not self.cycle.response_complete:
            if self.header_timer is not None:
                self.header_timer.cancel()
                self.header_timer = None
        elif self.header_timer is None:
            self.header_timer = self.loop.call_later(self.limits.header_timeout, self.abort)

    def on_response_complete(self) -> None:
        if self.cycle.more_body and not self.transport.is_closing():
            self.end()  # the rest of a body that was refused is not read
            return
        super().on_response_complete()

    def pause_writing(self) -> None:
        super().pause_writing()
        if self.write_timer is None:
            self.write_timer = self.loop.call_later(self.limits.write_timeout, self.reset)

    def resume_writing(self) -> None:
        super().resume_writing()
        if self.write_timer is not None and not self.is_ending:
            self.write_timer.cancel()
            self.write_timer = None

    def end(self) -> None:
        """Ends a connection whose client still sends. Were it closed at once, what is on its way would be answered with
        a reset, and the client might never see the answer."""
        self.is_ending = True
        self.stop_timers()
        self.transport.write_eof()
        self.write_timer = self.loop.call_later(LINGER, self.abort)

    def reset(self) -> None:
        """Closes a connection whose client does not read. Without a reset the kernel would go on holding what was
        written."""
        sock = self.transport.get_extra_info("socket")
        with contextlib.suppress(OSError):
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.abort()

    def abort(self) -> None:
        self.transport.abort()

    def stop_timers(self) -> None:
        for timer in (self.header_timer, self.write_timer):
            if timer is not None:
                timer.cancel()
        self.header_timer = self.write_timer = None

    def shutdown(self) -> None:
        """The server stops: a request that has begun to come is still answered, within the time for its headers."""
        begun = self.header_timer is not None and bool(self.conn.trailing_data[0])
        if not begun or self.transport.is_closing():
            super().shutdown()

    def send_400_response(self, msg: str) -> None:
        """What is no HTTP gets JSON, as everything does, unless an answer to it is on its way."""
        if self.cycle is not None and not self.cycle.response_complete:
            self.cycle.disconnected = True
            self.cycle.message_event.set()
        if self.conn.our_state in (h11.IDLE, h11.SEND_RESPONSE):
            self.write_error(400, "this is no valid HTTP request")
        else:
            self.transport.close()

    def write_error(self, status: int, what: str, extra: bytes = b"") -> None:
        """An answer past h11, whose state may not allow one, and the end of the connection."""
        body = error_body(what)
        reason = {400: b"Bad Request", 503: b"Service Unavailable"}[status]
        self.transport.write(
            b"HTTP/1.1 %d %s\r\nContent-Type: application/json\r\nConnection: close\r\n%sContent-Length: %d\r\n\r\n"
            % (status, reason, extra, len(body)) + body
        )  # fmt: skip
        self.end()
