"""What leaves a model of images with texts: a classifier of named classes, embeddings with proof, its card."""

import json

import numpy as np
import pytest
from PIL import Image

import vitrail
from vitrail.cli.main import main
from vitrail.export.bench.table import Row, Table, explain, recommend
from vitrail.export.compare import compare_features

COLORS = {"red": (220, 30, 30), "green": (30, 200, 40), "blue": (40, 60, 220), "yellow": (230, 220, 40)}
LABELS = ["a red square", "a blue, or green one"]
TYPED = 'a red square,"a blue, or green one"'
TINY = [
    "--model", "vit/nano", "--model.width", "32", "--model.depth", "1", "--model.heads", "2", "--img-size", "16", "16",
    "--task.text-width", "32", "--task.text-depth", "1", "--task.text-heads", "2", "--batch-size", "8",
    "--workers", "0", "--steps", "2",
]  # fmt: skip


def run(*words):
    return main([str(word) for word in words]) or 0


@pytest.fixture(scope="module")
def photos(tmp_path_factory):
    root = tmp_path_factory.mktemp("pairs")
    draw = np.random.default_rng(0)
    for i in range(24):
        name = list(COLORS)[i % 4]
        pixels = draw.integers(0, 60, (16, 16, 3)).astype(np.uint8)
        pixels[4:12, 4:12] = COLORS[name]
        Image.fromarray(pixels).save(root / f"{i:02}.png")
        (root / f"{i:02}.txt").write_text(f"a {name} square")
    return root


@pytest.fixture(scope="module")
def trained(photos, tmp_path_factory):
    folder = tmp_path_factory.mktemp("runs") / "pairs"
    assert run("train", "--data", photos, "--out", folder, *TINY) == 0
    return folder


def test_labels_make_a_classifier_of_its_own(trained, photos, capsys):
    assert run("export", trained, "--labels", TYPED) == 0
    folder = trained / "export" / "onnx-labels"
    images = [photos / "00.png", photos / "05.png"]
    exported, own = vitrail.load(folder), vitrail.load(trained, labels=LABELS)
    assert exported.classes == tuple(LABELS)
    theirs, ours = exported.predict(images).probabilities, own.predict(images).probabilities
    assert np.allclose(theirs, ours, atol=1e-5)
    capsys.readouterr()
    assert run("predict", trained, images[0], "--engine", "onnx") == 2  # it is none of the run
    assert "has no export that onnx opens" in capsys.readouterr().err


def test_int8_of_named_classes_is_calibrated_on_the_run(trained, tmp_path):
    assert run("export", trained, "--labels", TYPED, "--int8", "--out", tmp_path / "file") == 0
    about = json.loads((tmp_path / "file" / "proof.json").read_text())["int8"]
    assert "training images" in about["calibration"]
    assert about["answers"] > 0


def test_int8_of_embeddings_says_what_was_not_measured(trained, tmp_path):
    assert run("export", trained, "--int8", "--out", tmp_path / "file") == 0
    about = json.loads((tmp_path / "file" / "proof.json").read_text())["int8"]
    assert about["evaluated"] == "retrieval needs the text tower, which an exported file has not"
    assert about["answers"] > 0


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("--labels", TYPED, "--format", "safetensors"), "writes weights alone, and labels are none"),
        (("--labels", "one"), "there is one label only"),
        (("--format", "html"), '--labels "a cat,a dog"'),
    ],
)
def test_what_labels_cannot_be_exported(trained, tmp_path, capsys, words, message):
    assert run("export", trained, *words, "--out", tmp_path / "file") == 2
    assert message in " ".join(capsys.readouterr().err.split())
    assert not (tmp_path / "file").exists()


def test_an_export_has_no_text_tower(trained, photos, tmp_path, capsys):
    assert run("export", trained, "--out", tmp_path / "file") == 0
    capsys.readouterr()
    assert run("predict", tmp_path / "file", photos / "00.png", "--labels", TYPED) == 2
    assert "without a text tower" in " ".join(capsys.readouterr().err.split())


def test_what_to_do_next_and_what_labels_are_for(photos, trained, tmp_path, capsys):
    assert run("train", "--data", photos, "--out", tmp_path / "run", *TINY) == 0
    assert f'vitrail search {tmp_path / "run"} FOLDER "a red car"' in capsys.readouterr().out
    assert run("predict", trained, photos / "00.png") == 0
    shown = capsys.readouterr()
    assert "32 features" in shown.out
    assert '--labels "a cat,a dog"' in shown.err
    assert run("compare", trained, tmp_path / "run") == 0
    assert "mean_recall" in capsys.readouterr().out


def test_the_card_says_how_it_is_asked(trained, capsys):
    assert run("push", trained, "hf:me/pairs") == 0
    card = capsys.readouterr().out
    assert 'pipeline_tag: "zero-shot-image-classification"' in card
    assert 'vitrail search hf:me/pairs FOLDER "a red car"' in card
    assert 'vitrail.load("hf:me/pairs", labels=["a cat", "a dog"])' in card
    assert "0 classes" not in card


def test_the_answer_of_an_embedding_is_its_nearest_image():
    theirs = np.array([[1, 0, 0], [0.9, 0.1, 0], [0, 0, 1], [0, 0.1, 0.9]], np.float32)
    ours = theirs.copy()
    assert compare_features({"features": ours}, {"features": theirs}, False)[1:] == (4, 0, 0)
    ours[0] = [0, 0, 2]  # of no other length is anything asked, of another direction it is
    assert compare_features({"features": ours}, {"features": theirs}, False)[1:] == (4, 4, 4)
    assert compare_features({"features": ours[:2]}, {"features": theirs[:2]}, False)[1:] == (0, 0, 0)


def row(name, cpu, changed):
    return Row(name, cpu, cpu, 1000 / cpu, cpu, None, 1, None, 32, changed, "x")


def test_what_changes_answers_is_not_recommended_where_no_accuracy_was_measured():
    base, onnx, int8 = row("torch fp32", 10, 0), row("onnx fp32", 8, 0), row("onnx int8", 4, 3)
    found = Table((base, onnx, int8), (), 16, 1, "a machine", "none", "run")
    assert recommend(found) is onnx
    assert "onnx int8 (9.4 % other answers) would be faster and lose more than 0.5 % of the answers" in explain(
        found, onnx
    )
