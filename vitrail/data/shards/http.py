"""Shards in a store at http(s)://: pieces by Range requests, each held against its hash, asked for again where the
store fails, and kept on this machine. Redirects are refused; so are addresses of other kinds (pipe:, file:).

Pieces are kept in one sparse file a shard, at their own offsets; whether one is there is told by its hash, so a cache
that was cut short, shared or half written costs a request, never a wrong image.
"""

import contextlib
import hashlib
import http.client
import os
import random
import re
import ssl
import threading
import time
from collections.abc import Callable
from pathlib import Path
from urllib.parse import quote, urlsplit

from vitrail.data.index.arrays import map_arrays, read_beginning
from vitrail.data.shards.store import Store
from vitrail.errors import BadImage, DataError, UsageError
from vitrail.version import __version__

INDEX = "index.safetensors"
ATTEMPTS = 7
PAUSE_S, LONGEST_PAUSE_S = 0.02, 10.0  # before the second attempt, four times as long before each further one; at most
SILENCE_S = 20.0  # seconds without a byte
LEAST_PER_S = 10_000  # bytes a second of an answer, after that: a trickle is never silent, and never ends
LARGEST_INDEX = 2**33  # bytes
AT_ONCE = 2**18  # bytes of an answer that are asked for at a time
OTHERS = "its bytes are others than the index says (SHA-256)"
CHECK = "check the address, the network and the store"


class StoreFailureError(Exception):
    """An answer that may be another one next time: why, in a few words, and the seconds that the store asks for."""

    def __init__(self, why: str, wait_s: float = 0.0):
        super().__init__(why)
        self.wait_s = wait_s


def is_url(path: str) -> bool:
    return path.lower().startswith(("http://", "https://"))


class HttpStore(Store):
    """The files below an address. cache: a folder, "" for the one of the user, "none" for none."""

    def __init__(self, url: str, cache: str = "", sleep: Callable[[float], None] = time.sleep):
        if not is_address(url):
            raise DataError(f"{url[:120]} is no address of a folder", "http(s)://HOST/PATH/, without a name or ?")
        self.url, self.cache, self.sleep = url, cache, sleep
        self.path = quote(urlsplit(url).path, safe="/%:@!$&'()*+,;=~")  # blanks and letters as they were typed
        self.process, self.lock = os.getpid(), threading.Lock()
        self.idle: list[http.client.HTTPConnection] = []  # each is used by one thread at a time
        self.random = random.Random(hashlib.sha256(url.encode()).digest())  # of pauses alone

    def __reduce__(self) -> tuple[type, tuple[str, str]]:
        return HttpStore, (self.url, self.cache)

    def describe(self, name: str) -> str:
        return self.url + name

    def read(self, name: str, offset: int, length: int, sha256: bytes) -> bytes:
        if not length:
            return b""  # an empty file: there is no range of no bytes, and without one a shard would come whole
        kept = self.kept_file(name)
        if kept and (data := read_piece(kept, offset, length)) is not None and hashlib.sha256(data).digest() == sha256:
            return data
        data = self.fetch(name, offset, length, lambda data: hashlib.sha256(data).digest() == sha256)
        if kept:
            keep_piece(kept, offset, data)
        return data

    def kept_file(self, name: str) -> Path | None:
        """The file in which the pieces of a shard are kept."""
        if self.cache == "none":
            return None
        home = Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache").expanduser() / "vitrail" / "shards"
        folder = Path(self.cache).expanduser() if self.cache else home
        return folder / hashlib.sha256(self.url.encode()).hexdigest()[:16] / name

    def fetch(
        self, name: str, offset: int, length: int, is_right: Callable[[bytes], bool], wrong: str = OTHERS
    ) -> bytes:
        """Some bytes of a file, all of it for a length of 0. Raises `BadImage` after `ATTEMPTS` failures. wrong: what
        is said of bytes that are not right."""
        why, waited = "", 0.0
        for attempt in range(ATTEMPTS):
            if attempt:
                pause = min(PAUSE_S * 4 ** (attempt - 1), LONGEST_PAUSE_S) * (0.5 + self.random.random())
                self.sleep(max(pause, min(waited, LONGEST_PAUSE_S)))
            try:
                data = self.ask(name, offset, length)
                if is_right(data):
                    return data
                why, waited = wrong, 0.0
            except StoreFailureError as error:
                why, waited = str(error), error.wait_s
        raise BadImage(f"{self.describe(name)} cannot be had, {ATTEMPTS} times: {why}", CHECK)

    def ask(self, name: str, offset: int, length: int) -> bytes:
        """One request. Errors: `StoreFailureError` for what may pass, `BadImage` for what does not."""
        headers = {"User-Agent": f"vitrail/{__version__}", "Accept-Encoding": "identity"}
        if length:
            headers["Range"] = f"bytes={offset}-{offset + length - 1}"
        connection = self.connect()
        try:
            connection.request("GET", self.path + name, headers=headers)
            answer = connection.getresponse()
            self.check(answer, name, bool(length))
            is_stated = "Content-Length" in answer.headers
            size = int(answer.headers.get("Content-Length", length or LARGEST_INDEX))
            if size > LARGEST_INDEX or (length and size != length):
                raise StoreFailureError(f"it answers with {size:,} bytes where {length:,} were asked for")
            data = receive(answer, size)
            if len(data) != size and is_stated:
                raise StoreFailureError(f"the answer was cut short: {len(data):,} bytes of {size:,}")
            if not is_stated:
                connection.close()  # more may follow, which would be taken for the next answer
        except (OSError, http.client.HTTPException, ValueError) as error:
            connection.close()
            raise StoreFailureError(reason_of(error)) from None
        except BaseException:
            connection.close()  # what is left of the answer is not read
            raise
        with self.lock:
            self.idle.append(connection)
        return data

    def check(self, answer: http.client.HTTPResponse, name: str, is_part: bool) -> None:
        """Errors: `StoreFailureError` for an answer that may be another one next time, `BadImage` for others."""
        status, where = answer.status, self.describe(name)
        if status == (206 if is_part else 200):
            return
        if status in (408, 425, 429) or status >= 500:
            asked = answer.headers.get("Retry-After", "")
            raise StoreFailureError(f"the store answers {status}", float(asked) if asked.isdecimal() else 0.0)
        if 300 <= status < 400:
            to = urlsplit(answer.headers.get("Location", "")).netloc or "another path"
            raise BadImage(f"{where} redirects to {to}, which is not followed", "give that address, if you trust it")
        if status == 200:
            raise BadImage(f"{where} comes whole: the store knows no Range requests", "copy the shards to a disk")
        raise BadImage(f"{where}: the store answers {status}", CHECK)

    def connect(self) -> http.client.HTTPConnection:
        """A connection that nobody else uses; those of the process that forked this one are its own."""
        if self.process != os.getpid():
            self.process, self.lock, self.idle = os.getpid(), threading.Lock(), []
        with self.lock:
            if self.idle:
                return self.idle.pop()
        parts = urlsplit(self.url)
        host, port = parts.hostname or "", parts.port
        if parts.scheme.lower() == "http":
            return http.client.HTTPConnection(host, port, timeout=SILENCE_S)
        return http.client.HTTPSConnection(host, port, timeout=SILENCE_S, context=ssl.create_default_context())

    def close(self) -> None:
        for connection in self.idle:
            connection.close()
        self.idle = []

    def __del__(self) -> None:
        if "idle" in vars(self):  # the address was one
            self.close()


def is_address(url: str) -> bool:
    """Whether an address has a host, and nothing but a path behind it."""
    try:
        parts = urlsplit(url)
        return bool(parts.hostname and parts.port != 0) and not (parts.username or parts.query or parts.fragment)
    except ValueError:  # a port, or an address in brackets, that cannot be
        return False


def receive(answer: http.client.HTTPResponse, most: int) -> bytes:
    """The bytes of an answer, up to `most`, in memory for those that came. Errors: `StoreFailureError` for one that
    comes too slowly to be waited for."""
    parts, count, began = list[bytes](), 0, time.monotonic()
    while count < most and (part := answer.read1(min(most - count, AT_ONCE))):
        parts.append(part)
        count += len(part)
        if time.monotonic() - began > SILENCE_S + count / LEAST_PER_S:
            raise StoreFailureError(f"it sends fewer than {LEAST_PER_S:,} bytes a second")
    if answer.length == 0:
        answer.read()  # nothing: it ends the answer, and frees the connection for the next one
    return b"".join(parts)


def reason_of(error: Exception) -> str:
    if isinstance(error, TimeoutError):
        return f"no byte within {SILENCE_S:.0f} s"
    text = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
    return " ".join(text.split())[:120] or type(error).__name__


def read_piece(path: Path, offset: int, length: int) -> bytes | None:
    try:
        with open(path, "rb") as file:
            file.seek(offset)
            return file.read(length)
    except OSError:
        return None


def keep_piece(path: Path, offset: int, data: bytes) -> None:
    """Writes a piece at its offset; a disk that is full or read-only keeps nothing."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        handle = os.open(path, os.O_RDWR | os.O_CREAT, 0o644)
        try:
            os.lseek(handle, offset, os.SEEK_SET)
            os.write(handle, data)
        finally:
            os.close(handle)
    except OSError:
        return


def fetch_index(store: HttpStore, sha256: str) -> Path:
    """The index of a store, as a file on this machine: that of an earlier start where the store's begins like it, with
    the SHA-256 of all that follows; else all of it. Errors: `DataError`."""
    kept = store.kept_file(INDEX) or HttpStore(store.url).kept_file(INDEX)
    assert kept is not None
    pin = pinned(sha256)
    if same := find_same(store, kept, pin):
        return same
    try:
        is_right = lambda data: not pin or hashlib.sha256(data).hexdigest() == pin  # noqa: E731
        data = store.fetch(INDEX, 0, 0, is_right, f"it is not the index with SHA-256 {pin[:16]}...")
    except BadImage as error:
        raise DataError(error.what, error.fix) from None
    path = kept.with_name(f"{hashlib.sha256(data).hexdigest()[:16]}-{INDEX}")
    try:
        if not path.is_file() or path.read_bytes() != data:
            path.parent.mkdir(parents=True, exist_ok=True)
            temporary = path.with_name(f".{path.name}.tmp-{os.getpid()}")
            temporary.write_bytes(data)
            os.replace(temporary, path)
    except OSError as error:
        what = f"{path} cannot be written: {error.strerror or error}"
        raise DataError(what, "--data.cache FOLDER keeps it elsewhere") from None
    return path


def find_same(store: HttpStore, kept: Path, pin: str) -> Path | None:
    """The newest index that is kept of a store, if it is whole and the store's is the same: one of a million images has
    more than 100 MB."""
    paths = sorted(kept.parent.glob(f"*-{kept.name}"), key=lambda p: p.stat().st_mtime_ns, reverse=True)
    for path in paths[:1]:
        with contextlib.suppress(OSError, DataError, StoreFailureError):  # then all of it is asked for
            map_arrays(path)
            begin = read_beginning(path)
            if (not pin or hash_file(path) == pin) and store.ask(INDEX, 0, len(begin)) == begin:
                return path
    return None


def hash_file(path: Path) -> str:
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def pinned(sha256: str) -> str:
    """The hash that an index is held against. Errors: `UsageError` for what is no SHA-256."""
    text = sha256.strip().lower()
    if text and not re.fullmatch("[0-9a-f]{64}", text):
        fix = "vitrail pack prints it: 64 digits from 0 to f"
        raise UsageError(f"--data.sha256 {sha256[:80]} is no SHA-256 of an index", fix)
    return text


def check_pin(path: Path, sha256: str) -> None:
    """Errors: `DataError` where an index is not the one that is pinned; `UsageError`."""
    pin = pinned(sha256)
    if pin and hash_file(path) != pin:
        what = f"{path} is not the index with SHA-256 {pin[:16]}..."
        raise DataError(what, "copy it again, or leave the hash out")
