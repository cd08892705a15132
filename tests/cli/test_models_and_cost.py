"""The catalogue as a table, a family's page, and how costs grow."""

import json
import re
import shlex
import tomllib
from pathlib import Path

import pytest
from places import must, vitrail
from quick import spread

import vitrail as house
from vitrail import catalog
from vitrail.analysis.cost import on_meta_device
from vitrail.cli.output import tables
from vitrail.cli.output.tables import Column, table

ROOT = Path(__file__).parents[2]
KNOWN = catalog.read_published()
ROWS = KNOWN["models"]
FAMILIES = catalog.list_modules("models")


def light(name):
    with on_meta_device():
        return house.create(name)


def test_every_variant_has_a_row_and_every_row_a_variant():
    assert list(ROWS) == catalog.list_names("models"), "python benchmarks/catalogue.py --write"
    assert list(KNOWN["families"]) == FAMILIES


def test_columns_are_those_that_the_file_explains():
    text = (ROOT / "vitrail/published.toml").read_text(encoding="utf-8")
    told = text.partition("[papers")[0]
    for name, row in ROWS.items():
        assert (
            {"parameters", "macs", "size"}
            <= set(row)
            <= {"parameters", "macs", "size", "top1", "at", "trained", "paper"}
        ), name
        assert ("top1" in row) == ("trained" in row), name
        assert "at" not in row or "top1" in row, name
        assert row.get("paper", "") in ("", *KNOWN["papers"]), name
        assert 50 < row.get("top1", 60) < 100, name
        assert all(re.search(rf"^#   {column} ", told, re.MULTILINE) for column in set(row) - {"size"}), name
    used = {number for papers in KNOWN["families"].values() for number in papers}
    assert used == set(KNOWN["papers"])


@pytest.mark.parametrize("name", spread(ROWS, 24))
def test_parameters_and_size_are_those_of_the_model(name):
    model = light(name)
    assert sum(p.numel() for p in model.parameters()) == ROWS[name]["parameters"]
    assert list(getattr(model, "backbone", model).config.size) == ROWS[name]["size"]


def test_the_whole_catalogue():
    head, *lines = must("models").splitlines()
    assert head.split("  ")[0] == "model"
    assert [line.split()[0] for line in lines] == list(ROWS)
    (base,) = (line for line in lines if line.startswith("vit/base "))
    assert base.split() == ["vit/base", "86.57", "17.56", "224x224", "83.97", "384x384", "IN-21k", "->", "IN-1k",
                            "Dosovitskiy",
                            "et", "al.", "2020"]  # fmt: skip
    assert all(line == line.rstrip() for line in lines)


def test_the_catalogue_for_machines():
    rows = {row["name"]: row for row in json.loads(must("models", "--json"))}
    assert list(rows) == list(ROWS)
    assert rows["vit/base"]["top1_size"] == [384, 384]
    assert rows["swin/tiny"] == {
        "name": "swin/tiny", "parameters": 28288354, "macs": 4490566656, "size": [224, 224], "top1": 81.2,
        "trained": "IN-1k", "top1_size": [224, 224], "paper": "2103.14030",
    }  # fmt: skip
    assert rows["vit/nano"]["top1"] is rows["vit/nano"]["paper"] is rows["vit/nano"]["top1_size"] is None


@pytest.mark.parametrize("family", FAMILIES)
def test_a_family_has_its_paper_a_few_sentences_and_its_variants(family):
    said = must("models", family)
    found = json.loads(must("models", family, "--json"))
    for paper in found["papers"]:
        assert f"arxiv.org/abs/{paper['arxiv']}" in said
        assert paper["title"].split()[0] in said
        assert ", ".join(paper["authors"][:2]) in said
    sentences = re.split(r"[.;] ", " ".join(found["about"]))
    assert 2 <= len(sentences) <= 9
    assert found["about"][0].split()[0] in said
    assert re.findall(rf"^{family}/\w+", said, re.MULTILINE) == [n for n in ROWS if n.startswith(f"{family}/")]
    assert f"vitrail models {family}/" in said
    headline = catalog.read_docstring("models", family)[0]
    assert f"arxiv.org/abs/{found['papers'][0]['arxiv']}" in headline, "the file's own first line names the same paper"


def test_one_model_has_its_row_and_its_settings():
    said = must("models", "swin/tiny")
    assert re.search(r"^swin/tiny +28\.29 +4\.49 ", said, re.MULTILINE)
    assert re.search(r"--model\.window +7 ", said)
    found = json.loads(must("models", "swin/tiny", "--json"))
    assert (found["parameters"], found["settings"]["window"]) == (28288354, 7)


def test_a_model_from_outside_the_house_has_settings_and_no_row(tmp_path, monkeypatch):
    page = (ROOT / "docs/add_a_family.md").read_text(encoding="utf-8")
    (tmp_path / "outside").mkdir()
    (tmp_path / "outside/pooled.py").write_text(re.findall(r"```python\n(.*?)```", page, re.DOTALL)[0])
    monkeypatch.syspath_prepend(tmp_path)
    said = must("models", "outside.pooled/tiny")
    assert "--model.width" in said
    assert "GMACs" not in said
    assert json.loads(must("models", "outside.pooled/tiny", "--json"))["parameters"] is None


def test_a_narrow_terminal_loses_columns_and_nothing_breaks(monkeypatch):
    columns = [Column("model", right=False), Column("size", spare=1), Column("paper", right=False, spare=2)]
    rows = [["vit/base", "224x224", "Dosovitskiy et al. 2020"], ["vit/nano", "28x28", ""]]
    assert len(table(columns, rows)[1]) == 42
    for wide, titles in ((42, ["model", "size", "paper"]), (41, ["model", "size"]), (10, ["model"]), (1, ["model"])):
        monkeypatch.setattr(tables, "room", lambda wide=wide: wide)
        lines = table(columns, rows)
        assert lines[0].split() == titles
        assert max(map(len, lines)) <= max(wide, len("vit/base"))
        assert all(tables.paragraph("some words that go on for a while"))
    assert table(columns[:1], []) == ["model"]


def words_of(size):
    return json.loads(must("cost", "vit/nano", "--json", "--img-size", *size))


@pytest.mark.slow
def test_every_way_to_say_a_size():
    assert words_of(["28"])["size"] == words_of(["28", "28"])["size"] == words_of(["28x28"])["size"] == [28, 28]
    assert words_of(["28", "56"])["size"] == words_of(["28x56"])["size"] == [28, 56]
    assert json.loads(must("cost", "--img-size", "28", "56", "vit/nano", "--json"))["size"] == [28, 56]
    assert json.loads(must("cost", "--img-size=28", "56", "vit/nano", "--json"))["size"] == [28, 56]
    assert [entry["size"] for entry in words_of(["28,28x56,84"])] == [[28, 28], [28, 56], [84, 84]]
    assert words_of(["28,28"])["size"] == [28, 28]


def test_several_sizes_in_words_and_for_machines():
    said = must("cost", "swin/tiny", "--img-size", "224,448")
    assert re.search(r"^ 448x448 +17\.960 G +4\.00 +33\.41 MiB +4\.00 ", said, re.MULTILINE)
    assert said.rstrip().endswith("attention weights grow as pixels^1.0: windows or linear")
    found = json.loads(must("cost", "swin/tiny", "--img-size", "224,448", "--json"))
    assert [(e["model"], e["size"]) for e in found] == [("swin/tiny", [224, 224]), ("swin/tiny", [448, 448])]
    assert found[1]["attention_bytes"] == 4 * found[0]["attention_bytes"]
    assert found[0]["grows_as_pixels_to"]["attention_bytes"] == pytest.approx(1)


def test_models_side_by_side_take_the_same_keys():
    said = must("cost", "vit/nano", "vit/tiny", "--model.depth", "1").splitlines()
    assert [line.split()[:2] for line in said] == [["model", "size"], ["vit/nano", "28x28"], ["vit/tiny", "224x224"]]
    code, _, err = vitrail("cost", "vit/nano", "swin/tiny", "--model.depth", "1")
    assert (code, "unknown key 'depth' in swin/tiny" in err) == (2, True)


def test_parts_and_batch():
    said = must("cost", "swin/tiny", "--parts", "--batch-size", "4", "--img-size", "224,448")
    rows = re.findall(r"^layers\.\d .*|^heads .*|^patch_embed .*|^all .*", said, re.MULTILINE)
    assert [row.split()[0] for row in rows] == [
        "patch_embed",
        "layers.0",
        "layers.1",
        "layers.2",
        "layers.3",
        "heads",
        "all",
    ]
    assert "memory is that of 4 images" in said
    assert "33.41 MiB if written out, 4 images" in must("cost", "swin/tiny", "--batch-size", "4")


@pytest.mark.parametrize(
    ("ending", "begin"), [pytest.param("svg", b"<?xml", marks=pytest.mark.slow), ("png", b"\x89PNG")]
)
def test_a_plot_is_drawn_once_and_never_over_another(tmp_path, ending, begin):
    words = ("cost", "vit/nano", "efficientvit/b0", "--img-size", "28,56x28,56", "--plot")
    first, second = tmp_path / f"a.{ending}", tmp_path / f"b.{ending}"
    for file in (first, second):
        must(*words, file)
    assert first.read_bytes() == second.read_bytes()
    assert first.read_bytes().startswith(begin)
    if ending == "svg":
        assert all(
            label in first.read_text()
            for label in ("vit/nano", "efficientvit/b0: none", "multiply-adds of one image, G")
        )
    code, _, err = vitrail(*words, first)
    assert (code, "there is already" in err) == (2, True)


@pytest.mark.slow
def test_the_page_about_costs_says_what_the_commands_print(tmp_path, monkeypatch):
    """Each command of docs/cost.md, to the last figure, and its plot the one that stands there."""
    monkeypatch.chdir(tmp_path)
    page = (ROOT / "docs/cost.md").read_text(encoding="utf-8")
    blocks = re.findall(r"```console\n\$ vitrail (.*)\n((?:.*\n)*?)```", page)
    assert len(blocks) >= 5
    for words, said in blocks:
        assert must(*shlex.split(words)) == said, words
    drawn, kept = ((folder / "cost.svg").read_text(encoding="utf-8") for folder in (tmp_path, ROOT / "docs"))
    points = [re.findall(r'<path d="(M [^"]+)" clip-path', text) for text in (drawn, kept)]
    assert points[0] == points[1] != []


def test_the_file_of_the_catalogue_can_be_written_again(monkeypatch):
    """What the command writes for a row is what stands there."""
    import importlib.util

    spec = importlib.util.spec_from_file_location("catalogue", ROOT / "benchmarks/catalogue.py")
    made = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(made)
    text = made.FILE.read_text(encoding="utf-8")
    rows = "".join(made.row(name, cells) for name, cells in ROWS.items())
    assert text == text[: text.index(made.HEADING) + len(made.HEADING)] + rows
    assert tomllib.loads(text) == KNOWN
    assert made.counted("vit/nano") == {key: ROWS["vit/nano"][key] for key in ("parameters", "macs", "size")}
