"""The image in the body of a request: the bytes themselves, a form (multipart/form-data), or base64 in JSON.

Nothing is written to disk, and no address is fetched. The parser of forms is our own: those of web frameworks spool a
file to disk before its size is known, and here the whole body is in memory, counted, already.
"""

import base64
import binascii
import re
import zlib
from email.message import Message

from vitrail.serve.refusal import Refused
from vitrail.storage.json_text import from_json

PARTS = 16  # of a form
PART_HEADER = 4096  # bytes
MARKS = 1000  # brackets and commas of JSON: 10 MB of empty lists would take 200 MB
SCANS = 100  # of a JPEG, as in libtiff; an encoder writes about ten. A scan of 42 bytes takes 20 ms at 25 megapixels
MARKER = re.compile(rb"\xff[^\x00\xd0-\xd7\xff]")  # in the data of a scan, what is neither stuffed nor a restart
FIELDS = ("image", "file")  # of a form; otherwise the first part that has a file name
HOW = 'send the bytes of an image file, a form with a file, or JSON {"image": base64}'


def read_upload(body: bytes, content_type: str, encoding: str, limit: int) -> bytes:
    """The bytes of the image. limit: bytes that a packed body may unpack to. Errors: `Refused`, 400, 413 or 415."""
    body = unpack_body(body, encoding, limit)
    if not body:
        raise Refused(400, "the body is empty", HOW)
    header = Message()
    header["content-type"] = content_type[:1000] or "application/octet-stream"
    kind = header.get_content_type()
    if kind == "multipart/form-data":
        boundary = header.get_param("boundary", "")
        return read_form(body, boundary if isinstance(boundary, str) else "")
    if kind == "application/json":
        return read_json(body)
    if kind == "application/x-www-form-urlencoded" and not looks_like_file(body):
        raise Refused(415, "a form without a file holds no image", "send it as multipart/form-data")
    return body


def has_many_scans(content: bytes) -> bool:
    """Whether an image is a JPEG of so many scans that decoding it would not end: each goes over all pixels."""
    at, scans = 2, 0
    while content[:2] == b"\xff\xd8" and scans <= SCANS and (found := MARKER.search(content, at)):
        kind, at = content[found.start() + 1], found.end()
        scans += kind == 0xDA
        if kind == 0xD9:  # what follows its end is not decoded
            break
        at += int.from_bytes(content[at : at + 2]) if kind not in (0xD8, 0x01) else 0  # the length of the segment
    return scans > SCANS


def looks_like_file(body: bytes) -> bool:
    """Whether bytes are no text: `curl --data-binary` calls any file a form."""
    return not body[:64].isascii() or body[:64].translate(None, bytes(range(32, 127)) + b"\r\n\t") != b""


def unpack_body(body: bytes, encoding: str, limit: int) -> bytes:
    """The body without its Content-Encoding. Errors: `Refused`: 413 as soon as it is longer than the limit."""
    kind = encoding.strip().lower()
    if kind in ("", "identity"):
        return body
    if kind not in ("gzip", "x-gzip", "deflate"):
        raise Refused(415, "a body with this Content-Encoding is not read", "send it as it is, or with gzip")
    unpacker = zlib.decompressobj(47 if kind != "deflate" else 15)
    try:
        whole = unpacker.decompress(body, limit + 1)
    except zlib.error:
        raise Refused(400, "the body is not what its Content-Encoding claims", "send it as it is") from None
    if len(whole) > limit:
        raise Refused(413, f"the body unpacks to more than {limit:,} bytes", "send a smaller image")
    if not unpacker.eof:
        raise Refused(400, "the packed body is truncated", "send all of it")
    if unpacker.unused_data:
        raise Refused(400, "something follows the packed body", "pack it in one piece")
    return whole


def read_form(body: bytes, boundary: str) -> bytes:
    """The file in a form (RFC 7578). Errors: `Refused`."""
    if not re.fullmatch(r"[ -~]{1,70}", boundary):
        raise Refused(400, "the form names no boundary", HOW)
    mark = b"--" + boundary.encode()
    if body.count(mark) > PARTS + 1:
        raise Refused(413, f"the form has more than {PARTS} parts", "send one file")
    pieces = (b"\r\n" + body).split(b"\r\n" + mark)
    if len(pieces) < 3 or not pieces[-1].startswith(b"--"):
        raise Refused(400, "the form is truncated, or has other boundaries than it names", HOW)
    files = []
    for piece in pieces[1:-1]:
        head, blank, content = piece.partition(b"\r\n\r\n")
        if not blank or len(head) > PART_HEADER:
            raise Refused(400, "a part of the form has no header, or one that is too long", HOW)
        name, is_file = read_disposition(head)
        if name in FIELDS or is_file:
            files.append((name not in FIELDS, content))
    if not files:
        raise Refused(400, "the form holds no file", "name its field image: curl -F image=@cat.jpg")
    content = min(files, key=lambda row: row[0])[1]
    if not content:
        raise Refused(400, "the file in the form is empty", HOW)
    return content


def read_disposition(head: bytes) -> tuple[str, bool]:
    """The name of a part's field, and whether it is a file. Its file name is read by nobody."""
    for line in head.split(b"\r\n"):
        key, _, value = line.partition(b":")
        if key.strip().lower() == b"content-disposition":
            header = Message()
            header["content-disposition"] = value.decode("latin-1").strip()
            name = header.get_param("name", "", "content-disposition")
            is_file = header.get_param("filename", None, "content-disposition") is not None
            return name if isinstance(name, str) else "", is_file
    return "", False


def read_json(body: bytes) -> bytes:
    """The image in {"image": base64}; a data: URL is base64 too. Errors: `Refused`."""
    try:
        value = from_json(body if sum(map(body.count, b"[{,")) <= MARKS else b"")
    except (ValueError, UnicodeError):
        raise Refused(400, "the body is not JSON", 'send {"image": "<base64>"}') from None
    text = value.get("image") if isinstance(value, dict) else None
    if not isinstance(text, str):
        raise Refused(400, 'the JSON has no text "image"', 'send {"image": "<base64>"}')
    if re.match(r"\s*[a-z][a-z0-9+.-]*://", text[:40], re.IGNORECASE):
        raise Refused(400, "addresses are not fetched", "send the image itself, in base64")
    if text[:5].lower() == "data:":
        head, _, text = text.partition(",")
        if not head.endswith(";base64"):
            raise Refused(400, "the data: URL is not in base64", 'send {"image": "<base64>"}')
    try:
        content = base64.b64decode(text.encode("ascii").translate(None, b" \t\r\n"), validate=True)
    except (binascii.Error, ValueError):
        raise Refused(400, 'the text "image" is not base64', "send standard base64 with its padding") from None
    if not content:
        raise Refused(400, 'the text "image" is empty', HOW)
    return content
