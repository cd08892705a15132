"""The report of runs of every kind: finished and not, with and without their data, from 2 to 1,000 classes."""

import dataclasses
import html
import io
import json
import re

import numpy as np
import pytest
import torch
from PIL import Image

from vitrail.assembly.run_directory import RunFolder, to_toml
from vitrail.errors import VitrailError
from vitrail.metrics.classification import multi_label, single_label
from vitrail.metrics.intervals import wilson_interval
from vitrail.recipe import Choice, DataConfig, InputConfig, Recipe, TrainConfig
from vitrail.report.page.charts import MOST, thin_points, ticks
from vitrail.report.page.markup import escape_text
from vitrail.report.page.run_page import build_report
from vitrail.report.page.words import THIN, format_duration, format_percent, format_short
from vitrail.report.run_data import read_run
from vitrail.report.sections.images import HEAVY, SIDE, png

ADDRESS = re.compile(
    r"https?:|ftp:|(?:src|href|action|srcset)\s*=\s*[\"']?\s*//|url\(|@import|xmlns|<!DOCTYPE svg", re.IGNORECASE
)
LIMIT = 2_000_000


def made(path, data, classes, multi=False, rows=5):
    """The folder of a run that has logged `rows` lines and is not finished."""
    recipe = Recipe(
        model=Choice("vit/nano", {"patch": 8}), data=DataConfig("imagefolder", {"path": str(data)}),
        input=InputConfig(size=(16, 16), channels=3, mean=(0.5,) * 3, std=(0.5,) * 3, resize_mode="stretch"),
        train=TrainConfig(steps=10 * rows, batch_size=8, precision="fp32"),
    )  # fmt: skip
    folder = RunFolder(path)
    about = {
        "format": 1, "classes": list(classes), "multi_label": multi,
        "command": ["vitrail", "train", "--data", "two words"],
        "reasons": ["optim.lr = 0.003: because it is so", "input.mean, input.std: measured"],
        "notes": ["from <b>http://a.b</b>"],
        "data": {"layout": "imagefolder", "parts": {"train": 40, "test": 40}, "channels": 3, "content": "ab" * 32,
                 "left_out": {}},
        "versions": {"vitrail": "0.1.0", "torch": "2", "python": "3"}, "processes": 1, "parameters": 123456,
    }  # fmt: skip
    path.mkdir()
    folder.recipe_file.write_text(to_toml(recipe, about["reasons"]), encoding="utf-8")
    folder.about_file.write_text(json.dumps(about), encoding="utf-8")
    lines = [
        {
            "kind": "train",
            "step": 10 * i,
            "loss": 3 / i,
            "lr": 0.01,
            "grad_norm": None if i == 2 else 1.0,
            "images_per_s": 40.0,
        }
        for i in range(1, rows + 1)
    ]
    lines += [
        {"kind": "eval", "step": 10, "part": "test", "mAP" if multi else "top1": 0.625, "count": 40, "eval_s": 1.5}
    ]
    folder.log.write_text("".join(json.dumps(line) + "\n" for line in lines) + '{"kind": "tra')
    return folder


def finish(folder, classes, count=40, multi=False, seed=0):
    """What the end of a run adds; returns the metrics."""
    chance = np.random.default_rng(seed)
    if multi:
        targets = torch.from_numpy(chance.integers(0, 2, (count, len(classes))))
        rows = torch.from_numpy(chance.random((count, len(classes)), np.float32)) * 0.5 + targets * 0.4
        metrics = multi_label(rows, targets)
    else:
        targets = torch.arange(count) % len(classes)
        noise = torch.from_numpy(chance.normal(size=(count, len(classes))).astype(np.float32))
        rows = (noise + 2 * torch.nn.functional.one_hot(targets, len(classes))).softmax(1)
        metrics = single_label(rows, targets)
    folder.evaluation.mkdir(exist_ok=True)
    names = np.array([f"test/{classes[i % len(classes)]}/{i}.png" for i in range(count)])
    np.savez_compressed(
        folder.evaluation / "test.npz", probabilities=rows.numpy(), targets=targets.numpy(), names=names
    )
    (folder.evaluation / "test.json").write_text(json.dumps(metrics))
    folder.weights.write_bytes(b"")
    return metrics


@pytest.fixture
def images(tmp_path):
    """A folder of noise, which compresses worst, in 2 classes and 2 parts, under the names that `finish` gives."""

    def write(classes, count=40, side=120):
        chance = np.random.default_rng(0)
        for part in ("train", "test"):
            for i in range(count):
                path = tmp_path / "data" / part / classes[i % len(classes)] / f"{i}.png"
                path.parent.mkdir(parents=True, exist_ok=True)
                Image.fromarray(chance.integers(0, 256, (side, side, 3), np.uint8)).save(path)
        return tmp_path / "data"

    return write


def read(folder):
    """The page, checked for what holds of every page."""
    path = build_report(folder.path)
    assert path == folder.report
    assert path.stat().st_size < LIMIT
    page = path.read_text(encoding="utf-8")
    assert not ADDRESS.search(page), ADDRESS.search(page)
    assert "//" not in re.sub(r"data:image/png;base64,[\w+/=]*", "", page)
    assert page.count("<section") == page.count("</section>")
    text = re.sub(r"<[^>]*>", " ", page)
    assert not re.search(r"\b(told|said|judg\w*|hired?|lay_up|thaw\w*)\b", text, re.IGNORECASE), "the field's words"
    assert not list(folder.path.glob(".*tmp*"))
    return page


def test_finished_run(tmp_path, images):
    classes = ["cat", "dog"]
    folder = made(tmp_path / "run", images(classes), classes)
    metrics = finish(folder, classes)
    page = read(folder)
    assert f"<b>{format_percent(metrics['top1'])}</b>" in page
    low, high = wilson_interval(metrics["top1"], 40)
    assert f"{100 * low:.1f} to {format_percent(high)}" in page
    for value in metrics["per_class"]["recall"]:
        assert f">{value:.3f}<" in page
    for row in metrics["confusion"]:
        for count in row:
            assert f"{count}</td>" in page
    assert all(f"<bdi>{name}</bdi>" in page for name in classes)
    assert f"{metrics['calibration_error']:.3f}" in page
    assert "vitrail train --data &#x27;two words&#x27;" in page
    assert f"vitrail predict {folder.path}" in page
    assert "because it is so" in page
    assert page.count(">measured<") == 2
    assert "not finished" not in page
    wrong = sum(metrics["confusion"][i][1 - i] for i in (0, 1))
    assert page.count("data:image/png") == min(16, wrong) + min(16, 40 - wrong) + min(8, wrong)
    assert format_duration(50 * 8 / 40 + 1.5) in page


def test_again_replaces_the_page(tmp_path):
    folder = made(tmp_path / "run", tmp_path / "gone", ["a", "b"])
    first = read(folder)
    finish(folder, ["a", "b"])
    assert read(folder) != first


def test_unfinished_run(tmp_path):
    page = read(made(tmp_path / "run", tmp_path / "gone", ["a", "b"], rows=1))
    assert "not finished" in page
    assert f"<b>{format_percent(0.625)}</b>" in page
    assert "vitrail train --resume" in page
    assert 'id="curves"' in page
    for section in ("confusion", "classes", "mistakes", "samples", "calibration"):
        assert f'id="{section}"' not in page


def test_run_that_has_logged_nothing(tmp_path):
    folder = made(tmp_path / "run", tmp_path / "gone", ["a", "b"])
    folder.log.unlink()
    page = read(folder)
    assert "no step is logged yet" in page
    assert "Not evaluated yet" in page


def test_missing_data_is_said(tmp_path):
    folder = made(tmp_path / "run", tmp_path / "gone", ["a", "b"])
    finish(folder, ["a", "b"])
    page = read(folder)
    assert "The images are not shown" in page
    assert "<img" not in page


def test_images_that_became_unreadable_are_passed_over(tmp_path, images):
    classes = ["cat", "dog"]
    folder = made(tmp_path / "run", images(classes), classes)
    finish(folder, classes)
    for path in (tmp_path / "data" / "test").rglob("*.png"):
        path.write_bytes(path.read_bytes()[:200])
    assert "none of them can be found or read" in read(folder)


def test_damaged_evaluation_is_left_out(tmp_path):
    folder = made(tmp_path / "run", tmp_path / "gone", ["a", "b"])
    finish(folder, ["a", "b"])
    (folder.evaluation / "test.npz").write_bytes(b"PK\x03\x04 cut short")
    assert "were not saved" in read(folder)
    (folder.evaluation / "test.json").write_text("{")
    assert 'id="classes"' not in read(folder)


def test_names_cannot_become_markup(tmp_path):
    classes = ["<script>alert(1)</script>", '"><img src=x onerror=y>', "https://evil.example//x", "a\udcffb & c"]
    folder = made(tmp_path / "run", tmp_path / "<i>gone</i>", [c.replace("\udcff", "?") for c in classes])
    finish(folder, ["p", "q", "r", "s"])
    path = build_report(folder.path)
    page = path.read_text(encoding="utf-8")
    assert page.count("<script>") == 1
    assert "<img" not in page
    assert "<i>" not in page
    assert "<b>http" not in page
    assert "&lt;script&gt;alert(1)" in page
    assert "https://" not in page  # the slashes are spelt otherwise, the eye sees no difference
    assert html.unescape(escape_text(classes[2])) == classes[2]


def test_many_labels(tmp_path):
    classes = ["red", "green", "blue"]
    folder = made(tmp_path / "run", tmp_path / "gone", classes, multi=True)
    metrics = finish(folder, classes, multi=True)
    page = read(folder)
    assert f"<b>{format_percent(metrics['mAP'])}</b>" in page
    assert "Mean average precision" in page
    assert 'class="matrix"' not in page
    assert 'id="calibration"' not in page
    for value in metrics["per_class"]["average_precision"]:
        assert f">{value:.3f}<" in page


@pytest.mark.slow
def test_a_thousand_classes_with_heavy_images(tmp_path, images):
    classes = [f"class number {i:04d}" for i in range(1000)]
    folder = made(tmp_path / "run", images(["cat", "dog"], count=60), classes)
    finish(folder, classes, count=3000)
    arrays = dict(np.load(folder.evaluation / "test.npz"))
    there = read_run(folder).dataset.splits["test"].names
    arrays["names"] = np.array([there[i % len(there)] for i in range(3000)])
    np.savez_compressed(folder.evaluation / "test.npz", **arrays)
    page = read(folder)
    assert all(f"<bdi>{name}</bdi>" in page for name in classes)
    matrix = page[page.index('class="matrix"') :]
    assert matrix[: matrix.index("</table>")].count("<tr>") == 31
    assert page.count("data:image/png") == 40


def test_what_is_no_run_is_refused(tmp_path):
    with pytest.raises(VitrailError):
        build_report(tmp_path)


def test_thumbnails_are_small():
    noise = np.random.default_rng(0).integers(0, 256, (300, 200, 5), np.uint8)
    for channels in (1, 2, 3, 4, 5):
        data, tiny = png(noise[:, :, :channels])
        image = Image.open(io.BytesIO(data))
        assert max(image.size) == SIDE
        assert len(data) < HEAVY
        assert not tiny
    assert png(noise[:28, :28, :1])[1]


def test_words():
    assert format_percent(0.8734) == f"87.3{THIN}%"
    assert format_percent(1.0) == f"100.0{THIN}%"
    assert format_percent(0.99999).startswith(">")
    assert format_percent(0.00001).startswith("<")
    assert format_percent(0.99999, 0).startswith(">")
    assert [format_duration(s) for s in (1.25, 61, 7260, 90000)] == ["1.2 s", "1 min 01 s", "2 h 01 min", "1 day 1 h"]
    assert [format_short(n) for n in (7, 1234, 480490, 12.3e6)] == ["7", "1.23k", "480k", "12.3M"]
    low, high = wilson_interval(0.5, 10)
    assert (low, high) == pytest.approx(
        (0.2366, 0.7634), abs=1e-4
    )  # Wilson's formula by hand: (5 + z2/2 ± ...) / (10 + z2)


def test_axes():
    assert ticks(0, 1, 4)[0] <= 0
    assert ticks(0, 1, 4)[-1] >= 1
    low, *_, high = ticks(3, 3, 4)
    assert low < 3 < high
    many = [(i, float(i)) for i in range(10_000)]
    assert len(thin_points(many)) == MOST
    assert thin_points(many)[-1][0] == 9999


def test_known_time_counts_resumptions(tmp_path):
    known = read_run(made(tmp_path / "run", tmp_path / "gone", ["a", "b"]))
    assert known.seconds == pytest.approx(50 * 8 / 40 + 1.5)
    assert dataclasses.replace(known, training=[]).seconds == 1.5
