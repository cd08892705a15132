"""Bodies of requests, counted while they are read, before anything else is done with them."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

from vitrail.serve.metrics import Metrics
from vitrail.serve.pool import ClientGone
from vitrail.serve.refusal import Refused, busy
from vitrail.serve.settings import Limits

Receive = Any  # ASGI's


class Bodies:
    """Reads bodies into memory: each at most `limits.body` bytes, all that are here `limits.memory`."""

    def __init__(self, limits: Limits, metrics: Metrics):
        self.limits, self.metrics = limits, metrics
        self.held = 0  # bytes

    @asynccontextmanager
    async def read(self, headers: list[tuple[bytes, bytes]], receive: Receive) -> AsyncIterator[bytes]:
        """The whole body, which counts as long as the context is open. Errors: `Refused`: 413 for one that is too long,
        by its header or by what comes; 408 for one that takes too long; 503; `ClientGone`."""
        stated = dict(headers).get(b"content-length", b"0")
        if stated.isdigit() and int(stated) > self.limits.body:
            raise self.too_long()
        pieces: list[bytes] = []
        try:
            await self.collect(pieces, receive)
            pieces[:] = [b"".join(pieces)]
            yield pieces[0]
        finally:
            self.held -= sum(map(len, pieces))

    async def collect(self, pieces: list[bytes], receive: Receive) -> None:
        size, more = 0, True
        try:
            async with asyncio.timeout(self.limits.body_timeout):
                while more:
                    message = await receive()
                    if message["type"] == "http.disconnect":
                        raise ClientGone
                    piece, more = message.get("body", b""), message.get("more_body", False)
                    pieces.append(piece)
                    size += len(piece)
                    self.held += len(piece)
                    self.metrics.body_bytes.inc(len(piece))
                    if size > self.limits.body:
                        raise self.too_long()
                    if self.held > self.limits.memory:
                        raise busy("too many requests are being read")
        except TimeoutError:
            what = f"the body did not come within {self.limits.body_timeout:g} s"
            raise Refused(408, what, "send it faster") from None

    def too_long(self) -> Refused:
        return Refused(413, f"the body is longer than {self.limits.body:,} bytes", "send a smaller image")
