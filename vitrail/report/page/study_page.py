"""What a study has found -> one page that needs no network, no script of its own and nothing beside it."""

import base64
from collections.abc import Sequence

from vitrail.report.page.markup import Section, table, text
from vitrail.report.page.run_page import shown, top
from vitrail.report.page.style import SCRIPT
from vitrail.studies._bench.result import Part, Told


def page(told: Told, command: Sequence[str]) -> bytes:
    """The whole page, top to bottom. command: the words that the study was begun with."""
    sections = [section(number, part, told) for number, part in enumerate(told.parts, 1)]
    links = " ".join(f'<a href="#{s.key}">{text(s.title)}</a>' for s in sections)
    head = f"<header><h1>{text(told.title)}</h1><pre>$ {text(' '.join(command))}</pre></header>"
    body = f"<body><main>{head}<nav>{links}</nav>{''.join(map(shown, sections))}</main><script>{SCRIPT}</script></body></html>\n"
    return (top(told.title) + body).encode("utf-8", errors="replace")


def section(number: int, part: Part, told: Told) -> Section:
    """A part with its figure, which is a picture in the page, and its table."""
    body = picture(told.figures[part.figure], part.title) if part.figure else ""
    if part.rows:
        body += table([text(cell) for cell in part.head], [[text(cell) for cell in row] for row in part.rows], "facts")
    return Section(f"part-{number}", part.title, [text(words) for words in part.words], body)


def picture(svg: bytes, title: str) -> str:
    """A drawing that keeps its white ground in a dark page."""
    data = base64.b64encode(svg).decode()
    style = "width:100%;max-width:1100px;height:auto;background:#fff;border-radius:8px"
    return f'<img alt="{text(title)}" style="{style}" src="data:image/svg+xml;base64,{data}">'
