"""Text into HTML, and the few shapes that the page is made of."""

import html
from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

from vitrail.storage.printable import printable


class Section(NamedTuple):
    """A part of the page: `paragraphs` are sentences as HTML, `body` is HTML."""

    key: str
    title: str
    paragraphs: Sequence[str]
    body: str


def escape_text(value: Any) -> str:
    """Any value as text that cannot become markup, nor (colon and slashes spelt otherwise) an address, nor turn the
    text around it."""
    return html.escape(printable(str(value))).replace("://", "&#58;//").replace("//", "/&#47;")


def escape_name(value: Any) -> str:
    """A name from the data: isolated from the text around it, whatever the direction of its script."""
    return f"<bdi>{escape_text(value)}</bdi>"


def table(head: Sequence[str], rows: Iterable[Sequence[str]], kind: str = "") -> str:
    """A table in a box of its own that scrolls when it is too wide; cells are HTML, and the first of a row names it."""
    top = "".join(f'<th scope="col">{cell}</th>' for cell in head)
    body = "".join(
        f'<tr><th scope="row">{first}</th>{"".join(f"<td>{cell}</td>" for cell in rest)}</tr>' for first, *rest in rows
    )
    thead = f"<thead><tr>{top}</tr></thead>" if any(head) else ""
    return f'<div class="scroll {kind}" tabindex="0"><table class="{kind}">{thead}<tbody>{body}</tbody></table></div>'


def bar(share: float, text: str, kind: str = "") -> str:
    """A number with a bar as long as `share` in [0, 1] beside it."""
    return f'<span class="bar {kind}" style="--v:{min(max(share, 0.0), 1.0):.3f}">{escape_text(text)}</span>'


def render_paragraphs(sentences: Iterable[str]) -> str:
    return "".join(f"<p>{sentence}</p>" for sentence in sentences)
