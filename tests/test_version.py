"""One version everywhere, with its section in the changelog."""

import re
from pathlib import Path

import vitrail

ROOT = Path(__file__).parents[1]


def test_the_version_has_its_section_of_the_changelog():
    text = (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")
    sections = re.findall(r"^## \[(.+?)\](?: - (\d{4}-\d\d-\d\d))?$", text, re.MULTILINE)
    assert sections[0] == ("Unreleased", "")
    assert sections[1][0] == vitrail.__version__
    assert all(date for _, date in sections[1:])


def test_the_package_says_that_it_is_typed():
    assert (ROOT / "vitrail" / "py.typed").read_bytes() == b""
