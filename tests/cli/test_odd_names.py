"""Names that are not UTF-8, and names with escapes for the terminal: every command works with them, and no escape
reaches the terminal or the page."""

import ast
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from PIL import Image
from places import SHORT, must, vitrail

from vitrail.cli.output.terminal import PrintableStream
from vitrail.storage.json_text import from_json, to_json
from vitrail.storage.printable import printable

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="names of bytes")
ODD = os.fsdecode(b"caf\xe9 \xff")
ESCAPES = ("\x1b]0;owned\x07", "\x1b[2J", "\u202e", "\x9b2J", "\r", "\x08")
RAW = "\x1b\x07\x08\x9b\u202e\r"


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """A folder, classes and images of odd names, and a run of odd name on them."""
    root = tmp_path_factory.mktemp("place") / ODD
    for k, name in enumerate((f"ant{''.join(ESCAPES)}", ODD, "<b>")):
        (root / "data" / name).mkdir(parents=True)
        for i in range(8):
            Image.new("RGB", (12, 12), (i * 9, 80 * k, 9)).save(root / "data" / name / f"{i}{ODD}{ESCAPES[i % 6]}.png")
    (root / "data" / "<b>" / f"bad{ODD}\x1b[2J.png").write_bytes(b"")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(root)
        out = must("train", "--data", "data", "--out", ODD, *SHORT)
    return root, out


def clean(text: str) -> str:
    assert not set(RAW) & set(text), ascii(text)
    text.encode()
    return text


def test_training_and_its_page(place):
    root, out = place
    assert "bad" in clean(out)
    page = (root / ODD / "report.html").read_bytes().decode()
    assert "ant\\x1b]0;owned\\x07" in clean(page)
    assert "caf\\xe9 \\xff" in page
    assert "<bdi>&lt;b&gt;</bdi>" in page


def test_every_command_reads_them(place, monkeypatch):
    root, _ = place
    monkeypatch.chdir(root)
    checked = clean(must("check", root / "data"))
    assert "bad" in checked
    line = next(line for line in checked.splitlines() if "vitrail train" in line)
    done = subprocess.run(["bash", "-c", line.replace("vitrail train --data", "printf %s")], capture_output=True)
    assert done.stdout == os.fsencode(root / "data")  # the command that it suggests, as a shell reads it
    clean(must("eval", ODD))
    metrics = json.loads(clean(must("eval", ODD, "--json")))
    assert metrics["part"] == "val"
    clean(must("train", "--resume", ODD, "--dry-run"))
    clean(must("report", ODD))
    clean(must("doctor", ODD))
    image = next(Path("data", ODD).iterdir())
    clean(must("predict", ODD, image))
    row = json.loads(clean(must("predict", ODD, image, "--json")))
    assert row["path"] == str(image)


def test_errors_spell_them_out(place, monkeypatch):
    monkeypatch.chdir(place[0])
    for words in (("train", "--data", "no\x1b[2J" + ODD), ("predict", ODD, "no\x1b]0;x\x07.png"), ("\x1b[2J",)):
        code, out, err = vitrail(*words)
        assert code != 0
        assert "unexpected" not in clean(out + err)
        assert "\\x1b" in err


def test_json_reads_back_the_bytes_of_a_name():
    value = {"name": ODD, "more": "é"}
    for is_ascii in (True, False):
        text = to_json(value, ensure_ascii=is_ascii)
        assert from_json(text.encode()) == value
    assert "é" in text


def test_only_one_place_makes_a_console_of_rich():
    """Whatever else printed escapes would print those of names too. The bar of a download is below the command line,
    and its only text is `printable`."""
    package = Path(sys.modules["vitrail"].__file__).parent
    for file in package.rglob("*.py"):
        names = {node.module for node in ast.walk(ast.parse(file.read_text())) if isinstance(node, ast.ImportFrom)}
        assert "rich.console" not in names or file.name in ("terminal.py", "progress.py"), file


def test_what_may_be_printed_stays():
    for text in ("é ü 漢字 👩‍👩‍👧 עברית", "tab\tand\nline", ""):
        assert printable(text) == text
    stream = PrintableStream(sys.stdout)
    assert (stream.isatty(), stream.write("\x1b"), stream.writable()) == (sys.stdout.isatty(), 1, True)
