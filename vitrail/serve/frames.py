"""Messages between the front process and a worker: a header in JSON and bytes, each with its length before it."""

import asyncio
import struct
from typing import Any, BinaryIO, NamedTuple

from vitrail.storage.json_text import from_json, to_json

LENGTHS = struct.Struct(">II")


class Frame(NamedTuple):
    header: dict[str, Any]
    body: bytes


def pack_frame(header: dict[str, Any], body: bytes = b"") -> bytes:
    return b"".join(frame_pieces(header, body))


def frame_pieces(header: dict[str, Any], body: bytes) -> tuple[bytes, bytes]:
    text = to_json(header).encode()
    return LENGTHS.pack(len(text), len(body)) + text, body


def read_frame(stream: BinaryIO) -> Frame | None:
    """The next message; None at the end of the stream, also where that is in the middle of one."""
    lengths = stream.read(LENGTHS.size)
    if len(lengths) < LENGTHS.size:
        return None
    header, body = LENGTHS.unpack(lengths)
    text, content = stream.read(header), stream.read(body)
    return Frame(from_json(text), content) if len(content) == body else None


async def receive_frame(stream: asyncio.StreamReader) -> Frame | None:
    """As `read_frame`, without blocking; None as well for what is no message."""
    try:
        header, body = LENGTHS.unpack(await stream.readexactly(LENGTHS.size))
        return Frame(from_json(await stream.readexactly(header)), await stream.readexactly(body))
    except (asyncio.IncompleteReadError, ConnectionError, ValueError):
        return None
