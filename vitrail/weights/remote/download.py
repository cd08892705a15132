"""One file of the web onto the disk. Nothing has the file's name before its SHA-256 is right.

huggingface_hub's own downloader verifies nothing, begins anew after a cut and gives up on a busy server, so this is
ours; what it writes is the same. A half file beside the target, of ours or of that library, is taken up again.
"""

import contextlib
import errno
import hashlib
import http.client
import os
import shutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from vitrail.errors import CheckpointError
from vitrail.storage.hashing import hash_file
from vitrail.weights.remote.web import (
    ATTEMPTS,
    BUSY,
    UNREACHED,
    Attempt,
    Server,
    StatusError,
    UnreachedError,
    reason_of,
    request,
)

LARGEST = 32 * 2**30  # bytes; the largest vision model published, DINOv3 of 7 billion weights, has 27
SPARE = 16 * 2**20  # bytes that stay free
PIECE = 2**20
HALF = ".incomplete"  # the ending of half files, as huggingface_hub has it
Progress = Callable[[int, int], None]  # bytes here, bytes in all (0: unknown)


@dataclass(frozen=True)
class RemoteFile:
    """A file and what is known of it. expected: its SHA-256, or the first digits; git_hash: of a small file that the
    hub keeps in git, the SHA-1 of git's blob."""

    url: str
    name: str  # for messages
    size: int = 0  # bytes; 0: unknown
    expected: str = ""
    git_hash: str = ""


def git_hash_of(path: Path) -> str:
    content = path.read_bytes()
    return hashlib.sha1(b"blob %d\0" % len(content) + content, usedforsecurity=False).hexdigest()


def download(server: Server, remote: RemoteFile, target: Path, progress: Progress | None = None) -> str:
    """Fetches a file to `target` and returns its SHA-256. What arrives damaged is fetched once more.

    Errors: `CheckpointError` for a file that is wrong (removed), too large, or does not fit on the disk; `StatusError`,
    `UnreachedError` after the last attempt; then what has arrived stays beside the target for the next time.
    """
    check_size(remote, target)
    half = target.with_name(target.name + HALF)
    with disk_errors(target, remote):
        target.parent.mkdir(parents=True, exist_ok=True)
        for is_last in (False, True):
            receive(server, remote, half, progress)
            digest = hash_file(half)
            wrong = describe_difference(remote, half, digest)
            if not wrong:
                os.replace(half, target)
                return digest
            half.unlink()
            if is_last:
                raise CheckpointError(
                    f"{remote.name} arrived damaged twice and was removed: {wrong}",
                    "try again later, or download it elsewhere and give its path",
                )
    raise AssertionError("the second time is the last")


def describe_difference(remote: RemoteFile, path: Path, digest: str) -> str:
    """What is wrong with a file that has arrived; "" where nothing is."""
    if not digest.startswith(remote.expected):
        return f"its SHA-256 is {digest}, expected {remote.expected}"
    if remote.git_hash and (own := git_hash_of(path)) != remote.git_hash:
        return f"its hash in git is {own}, expected {remote.git_hash}"
    return ""


def check_size(remote: RemoteFile, target: Path) -> None:
    """Errors: `CheckpointError` for a file that is too large for us, or for the disk, before a byte is fetched."""
    if remote.size > LARGEST:
        raise CheckpointError(
            f"{remote.name} has {remote.size / 2**30:,.1f} GB, more than the {LARGEST >> 30} GB that are fetched",
            "is it the right file? download it yourself and give its path",
        )
    folder = next((p for p in target.absolute().parents if p.is_dir()), Path("/"))
    half = target.with_name(target.name + HALF)
    missing = remote.size - (half.stat().st_size if half.is_file() else 0)
    free = shutil.disk_usage(folder).free
    if missing + SPARE > free:
        raise full_error(remote, folder, f"{missing / 2**20:,.0f} MB are missing, {free / 2**20:,.0f} MB are free")


def full_error(remote: RemoteFile, folder: Path, why: str) -> CheckpointError:
    return CheckpointError(
        f"{remote.name} does not fit on the disk of {folder}: {why}",
        "free some space, or set HF_HOME (and TORCH_HOME) to a larger disk; what has arrived is taken up again",
    )


@contextlib.contextmanager
def disk_errors(target: Path, remote: RemoteFile) -> Iterator[None]:
    """What a disk refuses, in words."""
    try:
        yield
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise full_error(remote, target.parent, error.strerror or "it is full") from None
        raise CheckpointError(
            f"{target} cannot be written: {error.strerror or error}",
            "set HF_HOME (and TORCH_HOME) to a folder of yours",
        ) from None


@contextlib.contextmanager
def locked(path: Path, remote: RemoteFile) -> Iterator[None]:
    """One process at a time: the others find the file when it is their turn. Errors: `CheckpointError` where the disk
    refuses."""
    from filelock import FileLock

    lock = FileLock(path)
    with disk_errors(path, remote):
        path.parent.mkdir(parents=True, exist_ok=True)
        lock.acquire()
    try:
        yield
    finally:
        lock.release()


def receive(server: Server, remote: RemoteFile, half: Path, progress: Progress | None) -> None:
    """Fetches what is missing of a half file. A connection that got further than any before may break, as often as it
    likes."""
    failures = furthest = 0
    while True:
        before = half.stat().st_size if half.is_file() else 0
        if before > (remote.size or LARGEST):
            half.unlink()  # of another file
            before = 0
        if remote.size and before == remote.size:
            return
        try:
            receive_once(server, remote, half, before, progress)
            return
        except StatusError as error:
            if error.status == 416 and before:
                half.unlink()
            elif error.status not in BUSY or failures + 1 >= ATTEMPTS:
                raise
            failures += 1
            Attempt(server, failures).pause(error.headers.get("retry-after", ""))
        except UnreachedError:
            here = half.stat().st_size if half.is_file() else 0
            failures = 0 if here > max(before, furthest) else failures + 1
            furthest = max(here, furthest)
            if failures >= UNREACHED:
                raise
            Attempt(server, max(failures, 1)).pause()


def receive_once(server: Server, remote: RemoteFile, half: Path, before: int, progress: Progress | None) -> None:
    """One connection. Where the server ignores Range, the file begins anew. Errors: `StatusError`, `UnreachedError`."""
    with request(server, "GET", remote.url, {"Range": f"bytes={before}-"} if before else {}) as answer:
        here = before if answer.status == 206 and starts_at(answer.headers.get("Content-Range", "")) == before else 0
        if answer.status == 206 and here != before:
            raise StatusError(416, dict(answer.headers), remote.url)
        total = remote.size or whole_size(answer, here)
        most = remote.size or LARGEST
        with half.open("ab" if here else "wb") as file:
            while piece := read_piece(answer):
                here += len(piece)
                if here > most:
                    half.unlink()
                    raise CheckpointError(
                        f"{remote.name} is larger than the {most:,} bytes that were announced; it was removed",
                        "is it the right address? download it yourself and give its path",
                    )
                file.write(piece)
                if progress is not None:
                    progress(here, total)
    if total and here < total:
        raise UnreachedError(f"the connection broke after {here:,} of {total:,} bytes")


def read_piece(answer: http.client.HTTPResponse) -> bytes:
    try:
        return answer.read1(PIECE)
    except http.client.IncompleteRead as error:
        raise UnreachedError(f"the connection broke after {len(error.partial):,} bytes") from None
    except (OSError, http.client.HTTPException) as error:
        raise UnreachedError(reason_of(error)) from None


def starts_at(content_range: str) -> int:
    """The first byte of a part: 100 of "bytes 100-199/200"; -1 where it does not say."""
    first = content_range.removeprefix("bytes ").partition("-")[0]
    return int(first) if first.isdecimal() else -1


def whole_size(answer: http.client.HTTPResponse, here: int) -> int:
    length = answer.headers.get("Content-Length", "")
    return here + int(length) if length.isdecimal() else 0
