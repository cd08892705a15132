"""The HTML report of a study: one self-contained page that needs no network."""

import base64
from collections.abc import Sequence

from vitrail.report.page.markup import Section, escape_text, table
from vitrail.report.page.run_page import render_head, render_section
from vitrail.report.page.style import SCRIPT
from vitrail.studies._bench.result import ResultPart, StudyResult


def render_page(result: StudyResult, command: Sequence[str]) -> bytes:
    """The whole page, top to bottom. command: the command line that started the study."""
    sections = [section(number, part, result) for number, part in enumerate(result.parts, 1)]
    links = " ".join(f'<a href="#{s.key}">{escape_text(s.title)}</a>' for s in sections)
    head = f"<header><h1>{escape_text(result.title)}</h1><pre>$ {escape_text(' '.join(command))}</pre></header>"
    body = (
        f"<body><main>{head}<nav>{links}</nav>{''.join(map(render_section, sections))}</main>"
        f"<script>{SCRIPT}</script></body></html>\n"
    )
    return (render_head(result.title) + body).encode("utf-8", errors="replace")


def section(number: int, part: ResultPart, result: StudyResult) -> Section:
    """A part with its figure, embedded in the page, and its table."""
    body = image(result.figures[part.figure], part.title) if part.figure else ""
    if part.rows:
        body += table(
            [escape_text(cell) for cell in part.head],
            [[escape_text(cell) for cell in row] for row in part.rows],
            "facts",
        )
    return Section(f"part-{number}", part.title, [escape_text(sentence) for sentence in part.sentences], body)


def image(svg: bytes, title: str) -> str:
    """An embedded SVG that keeps its white background in a dark page."""
    data = base64.b64encode(svg).decode()
    style = "width:100%;max-width:1100px;height:auto;background:#fff;border-radius:8px"
    return f'<img alt="{escape_text(title)}" style="{style}" src="data:image/svg+xml;base64,{data}">'
