"""What the pages say of studies: their commands are ones that there are. None is run here at its own size."""

import re
import shlex
from pathlib import Path

import pytest

from vitrail import catalog
from vitrail.cli.study import Study, join_arguments, names
from vitrail.cli.syntax.arguments import parse_arguments

ROOT = Path(__file__).parents[2]
PAGES = [ROOT / "docs/studies.md", *sorted((ROOT / "docs/studies").glob("*.md"))]


def commands(page: Path) -> list[list[str]]:
    blocks = re.findall(r"```console\n(.*?)```", page.read_text(encoding="utf-8"), re.DOTALL)
    lines = [
        line[2:].partition("#")[0].strip() for block in blocks for line in block.splitlines() if line.startswith("$ ")
    ]
    return [shlex.split(line)[1:] for line in lines]


@pytest.mark.parametrize("page", PAGES, ids=lambda p: p.name)
def test_commands_of_a_page_can_be_read(page):
    found = commands(page)
    assert found
    for first, name, *words in found:
        assert first == "study"
        assert name in names()
        given = parse_arguments(
            join_arguments(catalog.load_module("studies", name.replace("-", "_"))), words, f"vitrail study {name}"
        )
        assert given.data


def test_every_study_has_a_page():
    told = " ".join(page.read_text(encoding="utf-8") for page in PAGES)
    for name in names():
        assert f"$ vitrail study {name}" in told


def test_the_figures_of_pages_are_small():
    for figure in (ROOT / "docs/studies").glob("*.svg"):
        assert figure.stat().st_size < 100_000, figure.name


def test_the_help_of_all_says_how_to_go_on():
    assert "--resume" in (Study.__doc__ or "")
