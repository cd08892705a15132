"""What a server is started with, and its limits. Nothing heavy is imported: the front process has no torch."""

import ipaddress
import os
import socket
import sys
from dataclasses import dataclass
from typing import Any, NamedTuple

from vitrail.errors import UsageError

SHORTEST_TOKEN = 16  # characters: less can be tried through
WORKER = (sys.executable, "-P", "-m", "vitrail.serve.worker")  # -P: nothing is imported from the working folder


class ModelSource(NamedTuple):
    """A model to serve. name: in requests and answers, never a path. source: what a person typed."""

    name: str
    source: str


@dataclass(frozen=True)
class Limits:
    """What a client may ask for. Seconds, bytes, pixels, counts."""

    body: int = 10 * 2**20  # bytes of a request's body, also of what it unpacks to
    pixels: int = 25_000_000  # of an image, as its header says, before any is decoded
    queue: int = 64  # requests that wait; beyond those being predicted
    memory: int = 256 * 2**20  # bytes of all bodies that are in the front process
    connections: int = 1000
    timeout: float = 30.0  # of an answer, from the end of the request on: 504
    header_timeout: float = 5.0
    body_timeout: float = 15.0
    write_timeout: float = 15.0
    keep_alive: float = 5.0
    header_bytes: int = 16 * 1024


@dataclass(frozen=True)
class Settings:
    """How the models are run, and where the server listens."""

    models: tuple[ModelSource, ...] = ()
    host: str = "127.0.0.1"
    port: int = 8000
    token: str = ""  # or several, with commas between them
    quota: float = 0.0  # predictions a second for each token; 0: no limit
    engine: str = "auto"
    precision: str = "fp32"
    device: str = "auto"
    checkpoint: str = "best"
    threads: int = 0  # of one worker; 0: the cores divided by the workers
    workers: int = 1
    batch: int = 0  # images at a time; 0: 1 on a CPU, 16 on a GPU
    delay: float = 0.002  # seconds that a batch waits for more images, where batches are larger than 1
    decoders: int = 0  # threads that decode images in a worker; 0: two, on a GPU four
    drain: float = 1.0  # seconds between the signal to stop and the end of listening
    grace: float = 30.0  # seconds from the signal to stop until what still runs is given up
    hang: float = 60.0  # seconds without an answer after which a worker that has work is killed
    deaths: int = 5  # of workers within `deaths_within` seconds, which end the server
    deaths_within: float = 60.0
    modules: tuple[str, ...] = ()  # of the user's, imported in the workers
    command: tuple[str, ...] = WORKER
    limits: Limits = Limits()
    merge: float | str | None = None  # how tokens are merged; None: as the models were trained

    @property
    def worker_threads(self) -> int:
        return self.threads or max(1, (os.cpu_count() or 1) // self.workers)

    @property
    def tokens(self) -> tuple[str, ...]:
        return tuple(self.token.split(",")) if self.token else ()

    def hello(self) -> dict[str, Any]:
        """What a worker is told of its work, as JSON."""
        limits = {"body": self.limits.body, "pixels": self.limits.pixels}
        return {
            "models": [one._asdict() for one in self.models], "engine": self.engine, "device": self.device,
            "precision": self.precision,
            "checkpoint": self.checkpoint, "threads": self.worker_threads, "batch": self.batch, "delay": self.delay,
            "decoders": self.decoders, "modules": list(self.modules), "limits": limits,
            "merge": self.merge,
        }  # fmt: skip


def check_token(host: str, token: str) -> None:
    """Errors: `UsageError` for an address that others can reach without a token, and for a token that is none."""
    weak = [
        t for t in token.split(",") if len(t) < SHORTEST_TOKEN or not t.isascii() or not t.isprintable() or " " in t
    ]
    if token and weak:
        raise UsageError(
            f"a token has at least {SHORTEST_TOKEN} printable ASCII characters and no spaces",
            "VITRAIL_TOKEN=$(openssl rand -hex 16) vitrail serve ...",
        )
    if not token and not is_loopback(host):
        raise UsageError(
            f"--host {host} can be reached from other machines, and no token protects it",
            "VITRAIL_TOKEN=$(openssl rand -hex 16) vitrail serve ..., or leave --host out",
        )


def is_loopback(host: str) -> bool:
    """Whether an address is reached from this machine alone. Errors: `UsageError` for one that there is not."""
    addresses = {row[4][0] for row in resolve(host, 0)}
    return all(ipaddress.ip_address(str(address).partition("%")[0]).is_loopback for address in addresses)


def resolve(host: str, port: int) -> list[Any]:
    try:
        return socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
    except (OSError, UnicodeError):
        raise UsageError(f"--host {host!r} is no address of this machine", "--host 0.0.0.0 is all of them") from None


def listen(host: str, port: int) -> socket.socket:
    """A bound socket. Errors: `UsageError` where the port is in use or not allowed."""
    family, kind, protocol, _, address = resolve(host, port)[0]
    sock = socket.socket(family, kind, protocol)
    try:
        if os.name == "posix":
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        sock.bind(address)
        sock.listen(1)  # a second server that may share the address is refused here at the latest
    except OSError as error:
        sock.close()
        why = (error.strerror or str(error)).lower()
        raise UsageError(
            f"cannot listen on {host}, port {port}: {why}", f"--port {port + 1 if port else 8000}"
        ) from None
    return sock
