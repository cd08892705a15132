"""Requests to servers of weights: http and https alone, each redirect judged by a rule, busy servers asked again.

Proxies are those of the environment (http_proxy, https_proxy, no_proxy), as urllib reads them. A redirect stays on its
server or goes to the storage that belongs to it (`STORAGE`); an access token is sent to the server that it is for and
is not taken along.
"""

import http.client
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import urljoin, urlsplit

from vitrail.errors import CheckpointError
from vitrail.version import __version__

SILENCE_S = 20.0  # seconds without a byte
ATTEMPTS = 5  # for a server that is busy
UNREACHED = 3  # for one that does not answer at all
PAUSE_S = 0.5  # before the second attempt; doubled before each further one
LONGEST_PAUSE_S = 20.0  # also where a server asks for more
REDIRECTS = 5
BUSY = (408, 425, 429, 500, 502, 503, 504)
LOOPBACK = ("127.0.0.1", "localhost", "::1")
HUB = "huggingface.co"
STORAGE = {  # the hosts on which a server keeps its files: those that end so
    HUB: (".huggingface.co", ".hf.co"),
    "github.com": (".githubusercontent.com",),
    "download.pytorch.org": (".pytorch.org",),
}
HANDLERS = (  # neither files nor ftp; redirects are followed here, by rule
    urllib.request.ProxyHandler,
    urllib.request.HTTPHandler,
    urllib.request.HTTPSHandler,
    urllib.request.HTTPDefaultErrorHandler,
    urllib.request.HTTPErrorProcessor,
    urllib.request.UnknownHandler,
)


class StatusError(Exception):
    """A server's answer that is no success: its status and headers."""

    def __init__(self, status: int, headers: Mapping[str, str], url: str):
        super().__init__(f"{status} at {url}")
        self.status, self.headers, self.url = status, {k.lower(): v for k, v in headers.items()}, url


class UnreachedError(Exception):
    """No answer: the reason in a few words."""


@dataclass(frozen=True)
class Server:
    """Where requests go. token: sent to its own host only. is_hub: it speaks the hub's protocol, as mirrors do, so
    files may lie on the hub's storage."""

    url: str
    token: str = ""
    is_hub: bool = False
    sleep: Callable[[float], None] = field(default=time.sleep, compare=False)

    def headers_for(self, url: str) -> dict[str, str]:
        """The token is for one host, and for nobody between: over https, or on this machine."""
        to = urlsplit(url)
        is_private = to.scheme == "https" or to.hostname in LOOPBACK
        known = {"User-Agent": f"vitrail/{__version__}", "Accept-Encoding": "identity"}
        return known | (
            {"Authorization": f"Bearer {self.token}"} if self.token and self.owns(url) and is_private else {}
        )

    def owns(self, url: str) -> bool:
        return urlsplit(url).netloc.lower() == urlsplit(self.url).netloc.lower()

    def may_redirect(self, url: str, to: str) -> bool:
        """Whether a redirect stays on the server or leads to its storage, and never from https to http."""
        here, there = urlsplit(url), urlsplit(to)
        host = (there.hostname or "").lower()
        if there.scheme not in ("http", "https") or (here.scheme == "https" and there.scheme == "http"):
            return False
        if host == (here.hostname or "").lower() and (here.port == there.port or there.scheme != here.scheme):
            return True  # the same server, or the same over https
        servers = [(here.hostname or "").lower(), *([HUB] if self.is_hub else [])]
        if there.scheme != "https":
            return False
        return any(f".{host}".endswith(end) for name in servers for end in (*STORAGE.get(name, ()), f".{name}"))


def is_loopback(url: str) -> bool:
    return urlsplit(url).hostname in LOOPBACK


def request(server: Server, method: str, url: str, headers: Mapping[str, str], follow: bool = True) -> Any:
    """An open answer of the server, after redirects by the rule. follow: false stops at the first redirect to another
    host and returns its headers, which say what lies there. Errors: `StatusError`, `UnreachedError`; `CheckpointError`
    for a redirect that the rule forbids."""
    opener = urllib.request.OpenerDirector()
    for handler in HANDLERS:
        opener.add_handler(handler())
    for _ in range(REDIRECTS + 1):
        asked = urllib.request.Request(url, headers={**server.headers_for(url), **headers}, method=method)
        try:
            return opener.open(asked, timeout=SILENCE_S)
        except urllib.error.HTTPError as error:
            error.close()
            location = error.headers.get("Location")
            if error.code not in (301, 302, 303, 307, 308) or not location:
                raise StatusError(error.code, dict(error.headers), url) from None
            to = urljoin(url, location)
            if not server.may_redirect(url, to):
                raise redirect_error(url, to) from None
            if not follow and urlsplit(to).netloc != urlsplit(url).netloc:
                return error
            url = to
        except (OSError, ValueError, http.client.HTTPException) as error:
            raise UnreachedError(reason_of(error)) from None
    raise UnreachedError(f"more than {REDIRECTS} redirects")


def redirect_error(url: str, to: str) -> CheckpointError:
    here, there = urlsplit(url).netloc, urlsplit(to)
    return CheckpointError(
        f"{here} redirects to {there.scheme}://{there.netloc}, which is not its own storage; nothing was fetched there",
        f"if you trust {there.hostname}, give the address there itself, or download the file and give its path",
    )


def reason_of(error: Exception) -> str:
    inner = error.reason if isinstance(error, urllib.error.URLError) else error
    if isinstance(inner, TimeoutError):
        return f"no answer within {SILENCE_S:.0f} s"
    if isinstance(inner, OSError) and inner.strerror:
        return inner.strerror
    return " ".join(str(inner).split())[:120] or type(inner).__name__


def attempts(server: Server) -> Iterator["Attempt"]:
    """Attempts at one request: `for attempt in attempts(server): with attempt.patiently(): ...; break`."""
    for number in range(1, ATTEMPTS + 1):
        yield Attempt(server, number)


class Attempt:
    """One of several attempts, each after a longer pause."""

    def __init__(self, server: Server, number: int):
        self.server, self.number = server, number

    @contextmanager
    def patiently(self) -> Iterator[None]:
        """Waits after a failure that may pass; others, and the last one, are raised."""
        try:
            yield
        except StatusError as error:
            if error.status not in BUSY or self.number >= ATTEMPTS:
                raise
            self.pause(error.headers.get("retry-after", ""))
        except UnreachedError:
            if self.number >= UNREACHED:
                raise
            self.pause()

    def pause(self, asked: str = "") -> None:
        wanted = float(asked) if asked.isdecimal() else 0.0
        self.server.sleep(min(max(PAUSE_S * 2 ** (self.number - 1), wanted), LONGEST_PAUSE_S))


def ask(server: Server, method: str, url: str, follow: bool = True) -> tuple[dict[str, str], bytes]:
    """The headers, in lower case, and the body of a small answer. Errors: as `request`."""
    for attempt in attempts(server):
        with attempt.patiently(), request(server, method, url, {}, follow) as answer:
            try:
                body = answer.read(SMALL) if method == "GET" else b""
            except (OSError, http.client.HTTPException) as error:
                raise UnreachedError(reason_of(error)) from None
            return {k.lower(): v for k, v in answer.headers.items()}, body
    raise AssertionError("the last attempt raises")


SMALL = 32 * 2**20  # bytes of a listing
