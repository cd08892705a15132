"""What the page shows of the inside of a model, made from its weights at the end of a run."""

import re
import shutil

import pytest
from places import SHORT, images, must

from vitrail.assembly.run_directory import RunFolder
from vitrail.report.page.run_page import build_report
from vitrail.report.run_data import read_run
from vitrail.report.sections import inside


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    root = tmp_path_factory.mktemp("inside")
    images(root / "data", each=12)
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(root)
        must("train", "--data", "data", "--out", "run", "--quiet", *SHORT)
        must("train", "--data", "data", "--out", "cnn", "--quiet", "--model", "resnet/18", "--model.depths", "1", "1",
             "1", "1",
             "--model.width", "8", *SHORT[SHORT.index("--steps"):])  # fmt: skip
    return root


@pytest.mark.parametrize(("run", "way"), [("run", "attention rollout"), ("cnn", "gradient CAM")])
def test_images_with_where_the_answer_came_from(place, run, way):
    folder = RunFolder(place / run)
    section = inside.section(read_run(folder))
    count = read_run(folder).evaluation.metrics["count"]
    assert way in section.paragraphs[0]
    assert section.body.count("<figcaption><span class=") == min(inside.MOST, count)
    shown = re.findall(r'data:image/png;base64,([\w+/=]*)"', section.body)
    assert len(set(shown)) > count
    page = build_report(folder.path).read_text(encoding="utf-8")
    assert len(page) < 2_000_000
    assert "//" not in re.sub(r"data:image/png;base64,[\w+/=]*", "", page)
    assert 'id="inside"' in page
    assert ("Mean attention distance is" in page) == (run == "run")
    assert ("direct neighbours have a mean similarity" in page) == (run == "run")
    assert ("has no position encoding" in page) == (run == "cnn")


def test_what_cannot_be_looked_into_is_said_in_a_sentence(place, tmp_path, monkeypatch):
    monkeypatch.setattr(inside, "HEAVY", 1)
    found = inside.section(read_run(RunFolder(place / "run")))
    assert "too large" in found.paragraphs[0]
    assert not found.body
    monkeypatch.undo()
    shutil.copytree(place / "run", tmp_path / "run")
    folder = RunFolder(tmp_path / "run")
    folder.weights.write_bytes(folder.weights.read_bytes()[:200])
    assert "weights cannot be read" in inside.section(read_run(folder)).paragraphs[0]
    folder.weights.unlink()
    assert inside.section(read_run(folder)) is None
    assert 'id="inside"' not in build_report(folder.path).read_text(encoding="utf-8")


def test_images_that_are_gone_are_said_to_be(place, tmp_path):
    shutil.copytree(place / "run", tmp_path / "run")
    folder = RunFolder(tmp_path / "run")
    folder.recipe_file.write_text(folder.recipe_file.read_text().replace(str(place / "data"), str(place / "gone")))
    assert "not there any more" in inside.section(read_run(folder)).paragraphs[0]
