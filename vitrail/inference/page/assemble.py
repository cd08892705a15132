"""The page as one text: its style, scripts, and data, with a policy that lets it do no more than it needs."""

import base64
import gzip
import hashlib
import html
import re
import zlib
from collections.abc import Mapping, Sequence
from importlib.resources import files
from typing import Any, NamedTuple

from vitrail.storage.json_text import from_json, to_json
from vitrail.storage.printable import printable
from vitrail.version import __version__

SHARED = ("resize.js", "answers.js", "read.js", "draw.js", "view.js")
WITH_MODEL = (*SHARED, "local.js", "local_start.js", "main.js")
OF_SERVER = (*SHARED, "server.js", "main.js")
STYLES = ("theme.css", "page.css")
# no request but to what is named; a blob is what the page unpacked of itself
POLICY = "default-src 'none'; img-src data: blob:; style-src 'unsafe-inline'; base-uri 'none'; form-action 'none'; "


class Fact(NamedTuple):
    """What is known of the model: a name, a value, and what is worth a second line."""

    name: str
    value: str
    more: str = ""


class Notice(NamedTuple):
    """A licence that the page keeps, of a part that is in it."""

    title: str
    text: str


def read_part(name: str) -> str:
    """A file of the page."""
    return (files("vitrail.inference.page") / name).read_text(encoding="utf-8")


def render_with_model(about: Mapping[str, Any], blocks: Mapping[str, bytes], notices: Sequence[Notice]) -> str:
    """The page with the model inside. about: of the model, as `describe_model` returns; blocks: "graph" (ONNX),
    "runtime" (its module) and "wasm", packed by gzip."""
    data = [render_json("page", {"model": about})]
    data += [render_block(name, content) for name, content in blocks.items()]
    policy = f"{POLICY}connect-src 'none'; script-src {{digest}} blob: 'wasm-unsafe-eval'"
    return fill(str(about["title"]), "\n".join(data), WITH_MODEL, policy, notices)


def render_for_server(title: str) -> str:
    """The page that asks the server from which it comes."""
    return fill(title, render_json("page", {}), OF_SERVER, f"{POLICY}connect-src 'self'; script-src {{digest}}", ())


def script_source(script: str) -> str:
    """An inline script in a content security policy: by its hash."""
    return f"'sha256-{base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()}'"


def fill(title: str, data: str, scripts: Sequence[str], policy: str, notices: Sequence[Notice]) -> str:
    script = '\n"use strict";\n(() => {\n' + "\n".join(read_part(name) for name in scripts) + "})();\n"
    values = {
        "title": escape(title), "version": escape(__version__), "style": "".join(map(read_part, STYLES)),
        "policy": policy.format(digest=script_source(script)), "data": data, "script": script,
        "foot": render_foot(notices),
    }  # fmt: skip
    return re.sub(r"\{\{(\w+)\}\}", lambda match: values[match[1]], read_part("index.html"))


def render_foot(notices: Sequence[Notice]) -> str:
    lines = "".join(
        f"<details><summary>{escape(one.title)}</summary><pre>{escape(one.text)}</pre></details>" for one in notices
    )
    return f"<p>Made with vitrail {escape(__version__)}.</p>{lines}"


def render_json(key: str, value: Any) -> str:
    """A value as a block that scripts read; no text in it can end the block."""
    text = to_json(value).replace("<", "\\u003c").replace("&", "\\u0026").replace("\u2028", "\\u2028")
    return f'<script type="application/json" id="{key}">{text}</script>'


def render_block(key: str, content: bytes) -> str:
    return f'<script type="application/octet-stream" id="{key}">{base64.b64encode(content).decode()}</script>'


def read_block(page: str, key: str) -> bytes:
    """A block of a page, unpacked. Errors: `ValueError` where there is none or it is damaged."""
    begin = f'<script type="application/octet-stream" id="{key}">'
    start = page.find(begin)
    if start < 0:
        raise ValueError(f"it has no block {key!r}")
    end = page.find("<", start + len(begin))
    try:
        return gzip.decompress(base64.b64decode(page[start + len(begin) : end], validate=True))
    except (OSError, EOFError, ValueError, zlib.error) as error:
        raise ValueError(f"its block {key!r} is damaged ({error})") from None


def replace_block(page: str, key: str, content: bytes, more: Fact) -> str:
    """The page with another block, and one more fact about the model. Errors: as `read_block`."""
    read_block(page, key)
    new, begin = render_block(key, content), f'<script type="application/octet-stream" id="{key}">'
    start = page.index(begin)
    page = page[:start] + new + page[page.index("</script>", start) + len("</script>") :]
    begin = '<script type="application/json" id="page">'
    start, end = page.index(begin), page.index("</script>", page.index(begin))
    data = from_json(page[start + len(begin) : end])
    data["model"]["facts"].append(more._asdict())
    return page[:start] + render_json("page", data) + page[end + len("</script>") :]


def pack(content: bytes) -> bytes:
    """Packed by gzip, the same bytes for the same content."""
    return gzip.compress(content, 9, mtime=0)


def escape(text: str) -> str:
    return html.escape(printable(text))
