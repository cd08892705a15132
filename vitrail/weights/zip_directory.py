"""Reads the directory of a zip unambiguously: what is checked here is what torch and numpy will open.

Own code, because zipfile and torch's C++ reader find different entries in one malicious file, and zipfile builds an
object for each of a million entries before they can be counted. Rejected: any bytes outside entries.
"""

import struct
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO, NamedTuple

from vitrail.errors import CheckpointError

MOST_ENTRIES = 100_000
LONGEST_NAME = 1_000
STORED, DEFLATED = 0, 8
END, END64, LOCATOR64, ENTRY, LOCAL = b"PK\x05\x06", b"PK\x06\x06", b"PK\x06\x07", b"PK\x01\x02", b"PK\x03\x04"
FULL = 0xFFFFFFFF
CHUNK = 2**20


class Entry(NamedTuple):
    name: str
    method: int
    crc: int
    packed: int  # bytes in the file
    size: int  # bytes when unpacked
    header: int  # where its local header begins


class LocatedEntry(NamedTuple):
    """An entry and the offset of its bytes."""

    entry: Entry
    start: int


def refused_error(path: Path, why: str) -> CheckpointError:
    return CheckpointError(f"{path} is rejected: {why}", "get the file from a trusted source")


def broken_error(path: Path, why: str) -> CheckpointError:
    return CheckpointError(f"{path} is not a complete file ({why})", "it may be truncated; copy it again")


def begins_as_zip(path: Path) -> bool:
    with path.open("rb") as file:
        return file.read(4) == LOCAL


def read_directory(path: Path, methods: tuple[int, ...]) -> list[LocatedEntry]:
    """Every entry of a zip. Errors: `CheckpointError` for entries that overlap, lie outside, are duplicate, encrypted,
    compressed by other than `methods` or more than 100,000; and for extra bytes at either end."""
    size = path.stat().st_size
    with path.open("rb") as file:
        if file.read(4) != LOCAL:
            raise broken_error(path, "it does not begin like a zip")
        count, start, length = read_end(file, size, path)
        entries = list(list_entries(file, path, count, start, length))
        located = [locate(file, path, entry, start) for entry in sorted(entries, key=lambda e: e.header)]
    names = {e.name.casefold() for e in entries}
    if len(names) != len(entries):
        raise refused_error(path, "it has entries of the same name")
    end = 0
    for entry, begin in located:
        if entry.header < end or (end == 0 and entry.header):
            raise refused_error(path, f"the entry {entry.name!r} overlaps another, or there are bytes before it")
        if entry.method not in methods:
            raise refused_error(path, f"the entry {entry.name!r} is compressed by an unexpected method")
        if entry.method == STORED and entry.packed != entry.size:
            raise refused_error(path, f"the entry {entry.name!r} has two different sizes")
        end = begin + entry.packed
    if end > start:
        raise refused_error(path, "its entries overlap its directory")
    return located


def read_end(file: BinaryIO, size: int, path: Path) -> tuple[int, int, int]:
    """The number of entries, and the offset and length of the directory."""
    if size < 22:
        raise broken_error(path, f"{size} bytes")
    file.seek(size - 22)
    mark, disk, first, here, count, length, start, comment = struct.unpack("<4s4H2IH", file.read(22))
    if mark != END:
        raise broken_error(path, "its end record is missing, or bytes follow it")
    if comment or disk or first or here != count:
        raise refused_error(path, "its end record is not as torch and numpy write it")
    end = size - 22
    if size >= 42:
        file.seek(size - 42)
        mark, _, at, _ = struct.unpack("<4sIQI", file.read(20))
        if mark == LOCATOR64:
            if at != size - 42 - 56:
                raise refused_error(path, "its end record is not at its stated offset")
            file.seek(at)
            mark, _, _, _, _, _, here64, count64, length64, start64 = struct.unpack("<4sQ2H2I4Q", file.read(56))
            if mark != END64 or here64 != count64:
                raise refused_error(path, "its end record is not at its stated offset")
            for short, long, full in ((count, count64, 0xFFFF), (length, length64, FULL), (start, start64, FULL)):
                if short not in (long, full):
                    raise refused_error(path, "it states two sizes of its directory")
            count, length, start, end = count64, length64, start64, at
    if count > MOST_ENTRIES:
        raise refused_error(path, f"it has {count:,} entries, more than the limit of {MOST_ENTRIES:,}")
    if start + length != end or not 46 * count <= length <= (46 + LONGEST_NAME + 64) * count:
        raise refused_error(path, "its directory is not at its stated offset or of its stated length")
    return count, start, length


def list_entries(file: BinaryIO, path: Path, count: int, start: int, length: int) -> Iterator[Entry]:
    """The entries that the directory lists."""
    file.seek(start)
    used = 0
    for _ in range(count):
        fixed = file.read(46)
        if len(fixed) != 46 or fixed[:4] != ENTRY:
            raise refused_error(path, "its directory is damaged")
        _, _, _, flags, method, _, _, crc, packed, size, names, extras, notes, disk, _, _, header = struct.unpack(
            "<4s6H3I5H2I", fixed
        )
        raw, extra = file.read(names), file.read(extras)
        used += 46 + names + extras + notes
        if flags & ~(0x8 | 0x800 | 0x6) or disk or notes or not 0 < names <= LONGEST_NAME or used > length:
            raise refused_error(path, "it has an entry that is encrypted, split over files or has an invalid name")
        packed, size, header = read_64bit_sizes(extra, packed, size, header, path)
        yield Entry(decode_name(raw, path), method, crc, packed, size, header)
    if used != length:
        raise refused_error(path, "its directory is longer than stated")


def read_64bit_sizes(extra: bytes, packed: int, size: int, header: int, path: Path) -> tuple[int, int, int]:
    """Sizes and offset, from their 64-bit fields where the 32-bit ones are full."""
    i = 0
    while i + 4 <= len(extra):
        kind, n = struct.unpack_from("<2H", extra, i)
        body = extra[i + 4 : i + 4 + n]
        i += 4 + n
        if kind != 1:
            continue
        values = list(struct.unpack(f"<{len(body) // 8}Q", body[: len(body) // 8 * 8]))
        try:
            size = values.pop(0) if size == FULL else size
            packed = values.pop(0) if packed == FULL else packed
            header = values.pop(0) if header == FULL else header
        except IndexError:
            raise refused_error(path, "the 64-bit size of an entry is incomplete") from None
        break
    return packed, size, header


def decode_name(raw: bytes, path: Path) -> str:
    try:
        name = raw.decode("utf-8")
    except UnicodeDecodeError:
        raise refused_error(path, "the name of an entry is not UTF-8") from None
    if name.startswith("/") or "\\" in name or ".." in name.split("/") or not name.isprintable() or ":" in name[:2]:
        raise refused_error(path, f"the entry {name!r} has an unsafe path")
    return name


def locate(file: BinaryIO, path: Path, entry: Entry, end: int) -> LocatedEntry:
    """The offset of an entry's bytes; its local header must agree with the directory."""
    file.seek(min(entry.header, end))
    fixed = file.read(30)
    if entry.header >= end or len(fixed) != 30 or fixed[:4] != LOCAL:
        raise refused_error(path, f"the entry {entry.name!r} is not at the offset in the directory")
    _, _, flags, method, _, _, _, _, _, names, extras = struct.unpack("<4s5H3I2H", fixed)
    if method != entry.method or flags & 1 or file.read(names) != entry.name.encode():
        raise refused_error(path, f"the entry {entry.name!r} has another name or method in its local header")
    begin = entry.header + 30 + names + extras
    if begin + entry.packed > end:
        raise refused_error(path, f"the entry {entry.name!r} extends beyond the file")
    return LocatedEntry(entry, begin)


def check_sums(path: Path, located: list[LocatedEntry]) -> None:
    """Errors: `CheckpointError` for a stored entry whose CRC-32 does not match: a flipped bit."""
    with path.open("rb") as file:
        for entry, offset in located:
            file.seek(offset)
            remaining, crc = entry.packed, 0
            while remaining:
                chunk = file.read(min(CHUNK, remaining))
                if not chunk:
                    raise broken_error(path, f"{entry.name} is truncated")
                crc, remaining = zlib.crc32(chunk, crc), remaining - len(chunk)
            if crc != entry.crc:
                raise CheckpointError(
                    f"{path} is damaged: {entry.name} does not match its checksum", "copy it again, or use another copy"
                )
