"""The image in a body: its bytes, a form, base64 in JSON; what is none of them is a client's mistake."""

import base64
import contextlib
import gzip
import io
import random
import zlib

import pytest
from PIL import Image

from vitrail.serve.refusal import Refused
from vitrail.serve.uploads import SCANS, has_many_scans, read_upload

LIMIT = 100_000
IMAGE = b"\x89PNG\r\n\x1a\n" + bytes(range(256)) + b"\r\n--x\r\n"  # with line ends and what looks like a boundary


def form(*parts, boundary="xyz"):
    """A form of (header lines, content)."""
    lines = b"".join(b"--%s\r\n%s\r\n\r\n%s\r\n" % (boundary.encode(), head, content) for head, content in parts)
    return lines + b"--%s--\r\n" % boundary.encode(), f'multipart/form-data; boundary="{boundary}"'


FILE = b'Content-Disposition: form-data; name="image"; filename="a.png"\r\nContent-Type: image/png'
FIELD = b'Content-Disposition: form-data; name="note"'
NAME_FIELD = b'Content-Disposition: form-data; name="filename"'  # a text: no file, whatever it is called
ODD_NAME = 'Content-Disposition: form-data; name="x"; filename="../a;\\"b=\n.png"'.replace("\n", "é").encode()
UNICODE_NAME = b"Content-Disposition: form-data; name=\"x\"; filename*=UTF-8''%e2%82%ac%00.png"


@pytest.mark.parametrize(
    ("body", "kind"),
    [
        (IMAGE, "image/png"), (IMAGE, ""), (IMAGE, "text/html"), (IMAGE, "application/x-www-form-urlencoded"),
        form((FILE, IMAGE)), form((FIELD, b"words"), (FILE, IMAGE)), form((FILE, IMAGE), (FIELD, b"words")),
        form((FILE.replace(b"image", b"photo", 1), IMAGE)), form((FILE.replace(b"; filename=\"a.png\"", b""), IMAGE)),
        form((FILE, IMAGE), boundary="-" * 20),
        form((NAME_FIELD, b"a.png"), (FILE.replace(b"image", b"photo", 1), IMAGE)),
        form((ODD_NAME, IMAGE)), form((UNICODE_NAME, IMAGE)), (b"preamble\r\n" + form((FILE, IMAGE))[0], form()[1]),
        (b'{"image": "%s"}' % base64.b64encode(IMAGE), "application/json"),
        (b'{"image": "data:image/png;base64,%s"}' % base64.b64encode(IMAGE), "application/json; charset=utf-8"),
        (b'{"image": "%s"}' % base64.encodebytes(IMAGE).replace(b"\n", b"\\n"), "Application/JSON"),
    ],
)  # fmt: skip
def test_every_way_to_send_an_image(body, kind):
    assert read_upload(body, kind, "", LIMIT) == IMAGE
    assert read_upload(gzip.compress(body), kind, "gzip", LIMIT) == IMAGE
    assert read_upload(zlib.compress(body), kind, "deflate", LIMIT) == IMAGE


@pytest.mark.parametrize(
    ("status", "piece", "body", "kind", "encoding"),
    [
        (400, "empty", b"", "image/png", ""),
        (400, "no boundary", IMAGE, "multipart/form-data", ""),
        (400, "truncated", form((FILE, IMAGE))[0][:-8], form()[1], ""),
        (400, "truncated", form((FILE, IMAGE))[0], "multipart/form-data; boundary=other", ""),
        (400, "no header", b"--xyz\r\nno blank line\r\n--xyz--", form()[1], ""),
        (400, "no header", form((b"X: " + b"y" * 5000, IMAGE))[0], form()[1], ""),
        (400, "no file", *form((FIELD, b"words")), ""),
        (400, "is empty", *form((FILE, b"")), ""),
        (413, "more than 16 parts", *form(*[(FIELD, b"x")] * 1001), ""),
        (400, "not JSON", b"{", "application/json", ""),
        (400, "not JSON", b"[" * 100_000, "application/json", ""),
        (400, "not JSON", b"\xff\xfe", "application/json", ""),
        (400, "not JSON", b"[" + b"[]," * 5000 + b"[]]", "application/json", ""),  # each list takes 64 bytes
        (400, "not JSON", b'{"image": "YQ==", "image": "YQ=="}', "application/json", ""),
        (400, "no text", b"[1]", "application/json", ""),
        (400, "no text", b'{"image": 3}', "application/json", ""),
        (400, "not base64", b'{"image": "\xc3\xa9\xc3\xa9\xc3\xa9\xc3\xa9"}', "application/json", ""),
        (400, "not base64", b'{"image": "abc"}', "application/json", ""),
        (400, "is empty", b'{"image": ""}', "application/json", ""),
        (400, "not fetched", b'{"image": "http://169.254.169.254/latest"}', "application/json", ""),
        (400, "not fetched", b'{"image": "file:///etc/passwd"}', "application/json", ""),
        (400, "not in base64", b'{"image": "data:text/plain,abc"}', "application/json", ""),
        (415, "without a file", b"image=abc", "application/x-www-form-urlencoded", ""),
        (415, "Content-Encoding", IMAGE, "image/png", "br"),
        (400, "claims", IMAGE, "image/png", "gzip"),
        (400, "follows", gzip.compress(IMAGE) + gzip.compress(IMAGE), "image/png", "gzip"),
        (400, "truncated", gzip.compress(IMAGE)[:-9], "image/png", "gzip"),
        (413, "unpacks to more", gzip.compress(bytes(10**7)), "image/png", "gzip"),
        (413, "unpacks to more", zlib.compress(bytes(LIMIT + 1)), "image/png", "deflate"),
    ],
)
def test_what_is_no_image_is_refused(status, piece, body, kind, encoding):
    with pytest.raises(Refused, match=piece) as error:
        read_upload(body, kind, encoding, LIMIT)
    assert error.value.status == status
    assert error.value.body.startswith(b'{"error"')


def progressive(scans):
    """A JPEG of 5000 x 5000 whose last scan stands there so many times: 42 bytes each, and 20 ms of decoding."""
    file = io.BytesIO()
    Image.new("L", (5000, 5000)).save(file, "JPEG", progressive=True, exif=b"Exif\0\0" + b"\xff\xda" * 500)
    whole = file.getvalue()
    return whole[:-2] + whole[whole.rindex(b"\xff\xda") : -2] * scans + b"\xff\xd9"


def test_a_jpeg_of_many_scans_is_none_that_an_encoder_writes():
    """Ten megabytes of them would be decoded for hours. What is in metadata, or behind the end, does not count."""
    plain = progressive(0)
    assert not has_many_scans(plain + b"\xff\xda" * 500)
    assert not has_many_scans(progressive(SCANS - 10))
    assert has_many_scans(progressive(SCANS))
    assert has_many_scans(plain[:-2] + b"\xff\xff\xff\xda\0\2 \xff\0 \xff\xd3" * 101)
    for content in (b"", b"\xff", b"\xff\xd8", b"\xff\xd8\xff", b"\xff\xd8\xff\xe1\xff", IMAGE):
        assert not has_many_scans(content)


def test_damaged_bodies_are_refused_or_read():
    """Nothing but `Refused` leaves the reader."""
    chance = random.Random(0)
    seeds = [form((FIELD, b"words"), (FILE, IMAGE)), (b'{"image": "%s"}' % base64.b64encode(IMAGE), "application/json")]
    for _ in range(1500):
        body, kind = chance.choice(seeds)
        damaged = bytearray(body)
        for _ in range(chance.randint(1, 6)):
            at = chance.randrange(len(damaged))
            damaged[at : at + chance.randint(0, 9)] = chance.randbytes(chance.randint(0, 4))
        with contextlib.suppress(Refused):
            read_upload(bytes(damaged), kind, chance.choice(["", "", "gzip"]), LIMIT)
