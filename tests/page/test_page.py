"""The page as a text: whole, without requests, and with no text of anybody's read as markup."""

import base64
import gzip
import hashlib
import json
import re
from html.parser import HTMLParser
from pathlib import Path

import pytest

import vitrail.inference.page
from vitrail.assembly.resolve import Names
from vitrail.data.transforms.preprocess import Preprocess
from vitrail.errors import UsageError
from vitrail.inference.page.about import AttentionGrid, Example, Fact, describe_model, score_facts, shorten
from vitrail.inference.page.assemble import (
    Notice,
    pack,
    read_block,
    read_part,
    render_for_server,
    render_with_model,
    replace_block,
)
from vitrail.recipe import Choice, DataConfig, Recipe

FOLDER = Path(vitrail.inference.page.__file__).parent
PARTS = sorted(path.name for path in FOLDER.iterdir() if path.suffix in (".js", ".css", ".html"))
EVIL = "</script><script>alert(1)</script><img src=x onerror=alert(2)>\"'&amp;\u2028\u202e"
GREY = Preprocess((28, 28), 1, (0.3,), (0.3,))
BLOCKS = {"graph": pack(b"graph"), "runtime": pack(b"export default 1;"), "wasm": pack(b"\0asm")}


class Tags(HTMLParser):
    """The elements of a page, with the text of scripts and styles."""

    def __init__(self, page: str):
        super().__init__()
        self.tags, self.texts, self.open = list[tuple[str, dict]](), list[str](), ""
        self.feed(page)

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))
        self.open = tag
        self.texts += [""] if tag == "script" else []

    def handle_endtag(self, tag):
        self.open = ""

    def handle_data(self, data):
        if self.open == "script":
            self.texts[-1] += data


def describe(**changes):
    task = Names().task(Choice("classification"), 2)
    recipe = Recipe(model=Choice("vit/nano"), data=DataConfig(EVIL, {"path": f"/a/{EVIL.replace('/', '|')}"}))
    given = {
        "recipe": recipe, "task": task, "classes": (EVIL, "cat"), "pre": GREY, "facts": [Fact(EVIL, EVIL, EVIL)],
        "attention": AttentionGrid((7, 7), (28, 28)), "examples": [Example(EVIL, "image/png", "AAAA", EVIL, True)],
    }  # fmt: skip
    return describe_model(**{**given, **changes})


@pytest.fixture(scope="module")
def page():
    return render_with_model(describe(), BLOCKS, [Notice(EVIL, EVIL)])


def test_no_text_becomes_markup(page):
    found = Tags(page)
    assert [a.get("id") for tag, a in found.tags if tag == "script"] == ["page", "graph", "runtime", "wasm", None]
    assert not [tag for tag, _ in found.tags if tag in ("img", "iframe", "link", "object", "embed")][1:]  # the icon
    assert not [key for _, attributes in found.tags for key in attributes if key.startswith("on")]
    about = json.loads(found.texts[0])["model"]
    assert about["classes"][1] == "cat"
    assert "\u202e" not in page
    assert about["facts"][0]["name"].startswith("</script>")


def test_policy_allows_the_one_script_and_no_request(page):
    for text, more in ((page, "connect-src 'none'"), (render_for_server("vitrail"), "connect-src 'self'")):
        found = Tags(text)
        policy = next(a["content"] for tag, a in found.tags if a.get("http-equiv") == "Content-Security-Policy")
        digest = base64.b64encode(hashlib.sha256(found.texts[-1].encode()).digest()).decode()
        assert f"script-src 'sha256-{digest}'" in policy
        assert "default-src 'none'" in policy
        assert more in policy
        assert "unsafe-eval" not in policy.replace("'wasm-unsafe-eval'", "")


def test_nothing_is_asked_of_the_web(page):
    assert not re.findall(r"https?://|src=[\"']?//|@import|url\(", page)
    for name in PARTS:
        assert not re.search(r"https?://|innerHTML|outerHTML|insertAdjacent|document\.write|\beval\b", read_part(name))


def test_blocks_are_read_back(page):
    assert {key: read_block(page, key) for key in BLOCKS} == {key: gzip.decompress(v) for key, v in BLOCKS.items()}
    with pytest.raises(ValueError, match="no block 'other'"):
        read_block(page, "other")
    with pytest.raises(ValueError, match="its block 'graph' is damaged"):
        read_block(page.replace('id="graph">H4s', 'id="graph">AAA'), "graph")


def test_the_same_page_every_time():
    one, two = (render_with_model(describe(), BLOCKS, ()) for _ in range(2))
    assert one == two


@pytest.mark.parametrize("name", PARTS)
def test_files_of_the_page_keep_the_budget(name):
    lines = read_part(name).split("\n")
    assert len(lines) <= 300
    assert max(map(len, lines)) <= 120


def test_page_refuses_channels_that_no_browser_has():
    with pytest.raises(UsageError, match="1, 3 or 4 channels, and the model takes 12"):
        describe(pre=Preprocess((28, 28), 12, (0.3,) * 12, (0.3,) * 12))


def test_accuracy_is_given_with_its_interval():
    task = Names().task(Choice("classification"), 2)
    [fact] = score_facts(task, "test", {"top1": 0.9, "count": 100})
    assert fact == Fact("Accuracy", "90.0 %", "95 % interval 82.6 to 94.5 %, 100 test images")
    [fact] = score_facts(task, "val", {"top1": 0.9, "count": 50, "interval": {"low": 0.8, "high": 0.95}})
    assert fact.more == "95 % interval 80.0 to 95.0 %, 50 val images"
    assert score_facts(task, "val", {"count": 50}) == []


def test_counts_are_short():
    assert [shorten(n) for n in (12, 480_490, 22_050_664, 1_300_000_000)] == ["12", "480 k", "22.1 M", "1.3 G"]


def test_a_block_is_replaced_and_a_fact_added(page):
    changed = replace_block(page, "graph", pack(b"another"), Fact("Numbers", EVIL))
    assert read_block(changed, "graph") == b"another"
    assert read_block(changed, "wasm") == b"\0asm"
    found, about = Tags(changed), json.loads(Tags(changed).texts[0])["model"]
    assert [tag for tag, _ in found.tags] == [tag for tag, _ in Tags(page).tags]
    assert about["facts"][-1]["name"] == "Numbers"
    assert len(about["facts"]) == 2
    assert found.texts[-1] == Tags(page).texts[-1]
