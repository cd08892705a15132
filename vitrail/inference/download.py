"""Images at addresses that a person typed: http and https alone, limited in size and time, nothing kept on disk."""

import http.client
import time
import urllib.error
import urllib.request
from urllib.parse import urlsplit

from vitrail.errors import BadImage
from vitrail.version import __version__

LARGEST = 64 * 2**20  # bytes
SILENCE_S = 10.0  # seconds without a byte
LONGEST_S = 60.0  # seconds in all
PIECE = 2**16
HANDLERS = (  # neither files nor ftp, also after a redirect
    urllib.request.ProxyHandler,
    urllib.request.HTTPHandler,
    urllib.request.HTTPSHandler,
    urllib.request.HTTPRedirectHandler,
    urllib.request.HTTPDefaultErrorHandler,
    urllib.request.HTTPErrorProcessor,
    urllib.request.UnknownHandler,
)


def is_url(name: str) -> bool:
    """Whether a text is an address of the web.

    >>> is_url("https://example.org/cat.jpg"), is_url("C:/cats")
    (True, False)
    """
    return name.lower().startswith(("http://", "https://"))


def download(url: str) -> bytes:
    """The bytes at an address. Errors: `BadImage` with the reason."""
    opener = urllib.request.OpenerDirector()
    for handler in HANDLERS:
        opener.add_handler(handler())
    until = time.monotonic() + LONGEST_S
    try:
        request = urllib.request.Request(url, headers={"User-Agent": f"vitrail/{__version__}", "Accept": "image/*,*/*"})
        with opener.open(request, timeout=SILENCE_S) as answer:
            return read_limited(answer, url, until)
    except urllib.error.HTTPError as error:
        error.close()
        raise failure(url, f"the server answers {error.code} ({error.reason})") from None
    except (OSError, ValueError, http.client.HTTPException) as error:
        reason = error.reason if isinstance(error, urllib.error.URLError) else error
        raise failure(url, " ".join(str(reason).split())[:120] or type(error).__name__) from None


def read_limited(answer: http.client.HTTPResponse, url: str, until: float) -> bytes:
    """The body of an answer. Errors: `BadImage` where it is larger or slower than the limits."""
    data = bytearray()
    while piece := answer.read1(PIECE):
        data += piece
        if len(data) > LARGEST:
            raise failure(url, f"it is larger than {LARGEST >> 20} MB")
        if time.monotonic() > until:
            raise failure(url, f"it takes longer than {LONGEST_S:.0f} s")
    return bytes(data)


def failure(url: str, why: str) -> BadImage:
    host = urlsplit(url).hostname or "the server"
    return BadImage(f"{url} cannot be read: {why}", f"check the address; can a browser here reach {host}?")
