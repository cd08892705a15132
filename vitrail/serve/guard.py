"""What every request passes first and last: who may ask, what is logged and counted, headers of every answer."""

import hmac
import ipaddress
import logging
import math
import time
from collections.abc import Callable
from typing import Any

from vitrail.serve.metrics import Metrics
from vitrail.serve.refusal import Refused, error_body
from vitrail.serve.settings import Settings
from vitrail.storage.printable import printable

LOG = logging.getLogger("vitrail.serve")
ROUTES = ("/", "/predict", "/attention", "/models", "/live", "/ready", "/metrics", "/openapi.json")
OPEN = ("/", "/live", "/ready")  # without a token: nothing in them is worth one
PREDICTING = ("/predict", "/attention")
PROBES = ("/live", "/ready", "/metrics")  # asked every few seconds: no line a time
POLICY = (  # the page has one that is stricter, with the hash of its script
    "default-src 'none'; script-src 'unsafe-inline'; style-src 'unsafe-inline'; img-src blob: data:; "
    "connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)
HEADERS = [
    (b"x-content-type-options", b"nosniff"), (b"cache-control", b"no-store"), (b"referrer-policy", b"no-referrer"),
    (b"content-security-policy", POLICY.encode()),
]  # fmt: skip
LONGEST = 200  # characters of a path in the log


class Guard:
    """An ASGI application around another."""

    def __init__(self, app: Any, settings: Settings, metrics: Metrics, check_room: Callable[[], None]):
        """check_room: raises `Refused` where no prediction would be admitted; asked before a request costs anything."""
        self.app, self.metrics, self.check_room = app, metrics, check_room
        self.tokens = [token.encode() for token in settings.tokens]
        self.quotas = {token: Quota(settings.quota) for token in self.tokens or [b""]}
        self.is_draining = False

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] != "http":
            return
        start, sent = time.monotonic(), Sent()

        async def send_guarded(message: Any) -> None:
            if message["type"] == "http.response.start":
                sent.status = message["status"]
                closing = [(b"connection", b"close")] if self.is_draining else []
                message = {**message, "headers": [*message.get("headers", ()), *HEADERS, *closing]}
            await send(message)

        try:
            token = self.check(scope)
            if scope["path"] in PREDICTING and scope["method"] == "POST":
                self.check_room()
                self.quotas[token].take()
            as_get = scope["method"] == "HEAD"  # whose body uvicorn leaves out
            await self.app({**scope, "method": "GET"} if as_get else scope, receive, send_guarded)
        except Refused as error:
            if error.status < 500:
                self.metrics.refused.labels("quota" if error.status == 429 else "not allowed").inc()
            await answer_refused(error, send_guarded)
        except Exception as error:  # of the application, which has answered it, or not
            LOG.error("%s while a request was answered", type(error).__name__)
            if not sent.status:
                await answer_refused(Refused(500, "the server could not answer"), send_guarded)
        finally:
            route = scope["path"] if scope["path"] in ROUTES else "other"
            self.metrics.requests.labels(route, str(sent.status)).inc()
            self.metrics.seconds.labels(route).observe(time.monotonic() - start)
            level = logging.DEBUG if scope["path"] in PROBES and sent.status < 400 else logging.INFO
            LOG.log(level, "%s", access_line(scope, sent.status, time.monotonic() - start))

    def check(self, scope: Any) -> bytes:
        """The token of who asks, if the server has any. Errors: `Refused`. Without one only pages of this machine may
        ask: no page of another site, and none whose name was made to lead here (DNS rebinding)."""
        headers = dict(scope["headers"])
        if self.tokens:
            token = self.find_token(headers.get(b"authorization", b""))
            if scope["path"] not in OPEN and not token:
                raise Refused(401, "a token is needed, and this is none", "Authorization: Bearer TOKEN")
            return token
        if not is_local(headers.get(b"host", b"").decode("latin-1")):
            raise Refused(
                403, "this server is for its own machine alone", "ask http://127.0.0.1, or start it with --host"
            )
        origin = headers.get(b"origin", b"").decode("latin-1")  # browsers before 2023 send no more than that
        is_foreign = bool(origin) and not is_local(origin.partition("://")[2] or origin)
        if is_foreign or headers.get(b"sec-fetch-site", b"") == b"cross-site":
            raise Refused(403, "a page of another site may not ask this server", "start it with --host and a token")
        return b""

    def find_token(self, authorization: bytes) -> bytes:
        """The one that is sent, or nothing. Compared in a time that does not depend on where they differ."""
        kind, _, token = authorization.partition(b" ")
        same = [one for one in self.tokens if hmac.compare_digest(token.strip(), one)]
        return same[0] if same and kind.lower() == b"bearer" else b""


class Quota:
    """So many predictions a second (0: any number), of which those of a second may come at once: a token bucket."""

    def __init__(self, quota: float, clock: Callable[[], float] = time.monotonic):
        self.quota, self.clock = quota, clock
        self.most = self.left = max(1.0, quota)
        self.since = clock()

    def take(self) -> None:
        """Errors: `Refused` (429) where there is none left."""
        if not self.quota:
            return
        now = self.clock()
        self.left, self.since = min(self.most, self.left + (now - self.since) * self.quota), now
        if self.left < 1:
            wait = math.ceil((1 - self.left) / self.quota)
            raise Refused(429, f"more than {self.quota:g} predictions a second", "ask less often", wait)
        self.left -= 1


def is_local(host: str) -> bool:
    """Whether a Host header names this machine by a name that only it has, or is empty."""
    name = host.rpartition("]")[0].removeprefix("[") if host.startswith("[") else host.partition(":")[0]
    try:
        return ipaddress.ip_address(name).is_loopback
    except ValueError:
        return name.lower() in ("", "localhost")


class Sent:
    """The status of an answer, once it has begun."""

    status = 0


async def answer_refused(error: Refused, send: Any) -> None:
    headers = [(b"content-type", b"application/json"), *refusal_headers(error)]
    body = error_body(error.what, error.fix)
    await send({"type": "http.response.start", "status": error.status,
                "headers": [*headers, (b"content-length", str(len(body)).encode())]})  # fmt: skip
    await send({"type": "http.response.body", "body": body})


def refusal_headers(error: Refused) -> list[tuple[bytes, bytes]]:
    found = [(b"retry-after", str(error.retry).encode())] if error.retry else []
    return [*found, (b"www-authenticate", b"Bearer")] if error.status == 401 else found


def access_line(scope: Any, status: int, seconds: float) -> str:
    """Method, path, status and time: no query, no header, nothing of a body, and no character that a terminal obeys."""
    path = printable(scope["path"][:LONGEST].replace("\n", "\\n").replace("\t", "\\t"))
    return f"{printable(scope['method'][:20])} {path} {status or 'no answer'} {1000 * seconds:.1f} ms"
