"""The HTML report of a run: one self-contained page that needs no network."""

from pathlib import Path

from vitrail.assembly.run_directory import RunFolder
from vitrail.inference.page.assemble import read_part, script_source
from vitrail.report.page.markup import Section, escape_text, render_paragraphs
from vitrail.report.page.style import SCRIPT, STYLE
from vitrail.report.run_data import RunData, read_run
from vitrail.report.sections.headline import headline
from vitrail.report.sections.order import BY_OUTPUT, FIRST, LAST
from vitrail.storage.atomic import write_file


def build_report(run: Path) -> Path:
    """Writes RUN/report.html, replacing an older one, and returns its path. An unfinished run gets a partial report.

    Errors: `UsageError` or `CheckpointError` where `run` is not a run folder.
    """
    folder = RunFolder(Path(run))
    write_file(folder.report, render_page(read_run(folder)).encode("utf-8", errors="replace"))
    return folder.report


def render_page(run: RunData) -> str:
    """The whole page, top to bottom."""
    order = (*FIRST, *BY_OUTPUT[run.task.output], *LAST)
    sections = [section for make in order if (section := make(run)) is not None]
    links = " ".join(f'<a href="#{s.key}">{escape_text(s.title)}</a>' for s in sections)
    return (
        f"{render_head(run.recipe.model.name)}<body><main>{headline(run)}<nav>{links}</nav>"
        f"{''.join(map(render_section, sections))}</main><script>{SCRIPT}</script></body></html>\n"
    )


def render_section(section: Section) -> str:
    paragraphs = render_paragraphs(section.paragraphs)
    return f'<section id="{section.key}"><h2>{escape_text(section.title)}</h2>{paragraphs}{section.body}</section>\n'


def render_head(title: str) -> str:
    """The head of the page. Its content security policy forbids all requests and all scripts but the inline one."""
    style = read_part("theme.css") + STYLE
    policy = f"default-src 'none'; img-src data:; style-src 'unsafe-inline'; script-src {script_source(SCRIPT)}"
    return (
        '<!doctype html><html lang="en"><head><meta charset="utf-8">'
        f'<meta http-equiv="Content-Security-Policy" content="{policy}">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        '<meta name="color-scheme" content="light dark">'
        f'<link rel="icon" href="data:,"><title>{escape_text(title)}: report</title><style>{style}</style></head>'
    )
