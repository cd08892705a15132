"""`vitrail look` and `vitrail compare` from their words to what they leave behind."""

import csv
import re
import shutil

import numpy as np
import pytest
from PIL import Image
from places import SHORT, everything, images, must, npz, refused, vitrail

USAGE, DATA, CHECKPOINT = 2, 3, 4


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    root = tmp_path_factory.mktemp("place")
    images(root / "good")
    npz(root / "tiny.npz")
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (20, 33, 3), np.uint8)).save(root / "wide.png")
    (root / "broken.png").write_bytes(b"\x89PNG\r\n\x1a\n")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(root)
        must("train", "--data", "good", "--out", "run", "--quiet", *SHORT)
        must("train", "--data", "good", "--out", "other", "--quiet", *SHORT, "--seed", "1", "--lr", "0.01")
        must("train", "--data", "tiny.npz", "--out", "strange", "--quiet", *SHORT)
    return root


@pytest.fixture(autouse=True)
def here(place, monkeypatch):
    monkeypatch.chdir(place)


def test_images_become_overlays_arrays_and_a_sheet(place):
    said = must("look", "run", "wide.png", "--layers", "0", "--heads", "0", "1", "--out", "seen")
    assert "has softmax attention" in said
    assert "wide.png: " in said
    names = {"seen/wide-sheet.png", "seen/wide.npz", *(f"seen/wide/{n}.png" for n in
             ("blocks.0.attn-head-0", "blocks.0.attn-head-1", "rollout", "relevance"))}  # fmt: skip
    assert everything(place / "seen") | {"wide"} == {n.removeprefix("seen/") for n in names} | {"wide"}
    with Image.open("seen/wide/rollout.png") as drawn:
        assert drawn.size == (33, 20)
    with np.load("seen/wide.npz") as kept:
        assert set(kept) == {"blocks.0.attn-head-0", "blocks.0.attn-head-1", "rollout", "relevance"}
        assert kept["rollout"].shape == (3, 3)
        assert kept["rollout"].sum() == pytest.approx(1, abs=1e-4)
    refused(place, "look run wide.png --out seen", USAGE, "never overwritten")


def test_the_whole_model_is_told_in_words_figures_and_tables(place):
    said = must("look", "run", "--distance", "--positions", "--filters", "--tokens", "--cka", "other", "--gradients",
                "--count", "4",
                "--split", "train", "--out", "whole")  # fmt: skip
    for piece in (
        "Mean attention distance is",
        "direct neighbours",
        "components explains",
        "cosine of",
        "CKA of",
        "The gradient is",
    ):
        assert piece in said
    with open("whole/distance.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    assert [(row["layer"], row["head"]) for row in rows] == [("0", "0"), ("0", "1")]
    with np.load("whole/distance.npz") as kept:
        np.testing.assert_allclose(
            [float(r["distance_pixels"]) for r in rows], kept["distance:backbone.blocks.0.attn"], rtol=1e-4
        )
    for name in ("distance", "positions-position", "filters", "tokens", "tokens-image-0", "cka", "gradients"):
        with Image.open(f"whole/{name}.png") as drawn:
            assert drawn.size[0] > 100


def test_a_broken_image_does_not_cost_the_others(place):
    code, out, err = vitrail("look", "run", "broken.png", "wide.png", "--out", "most")
    assert code == DATA
    assert "wide.png: " in out
    assert "1 of 2 images could not be read" in err


def test_runs_side_by_side(place):
    said = must("compare", "run", "other", "--out", "both.html")
    for piece in (
        "optim.lr",
        "train.seed",
        "top1",
        "macro_f1",
        "parameters",
        "accurate than run",
        "Only run is correct on",
    ):
        assert piece in said
    assert "train.batch_size" not in said
    page = (place / "both.html").read_text()
    assert "//" not in re.sub(r"data:image/png;base64,[\w+/=]*", "", page)
    for key in ("metrics", "recipes", "curves", "disagree-1", "cost"):
        assert f'id="{key}"' in page
    assert page.count('class="line s0"') == page.count('class="line s1"') >= 1
    refused(place, "compare run other --out both.html", USAGE, "never overwritten")


def test_other_images_are_said_to_be_others(place, tmp_path):
    said = must("compare", "run", "strange")
    assert "not of the same images (their classes are not the same)" in said
    assert "accurate than" not in said
    shutil.copytree(place / "run", tmp_path / "moved")
    with np.load(tmp_path / "moved/evaluation/val.npz") as kept:
        found = dict(kept)
    np.savez(tmp_path / "moved/evaluation/val.npz", **{**found, "names": np.array(["x", "y"])})
    assert "the images of their val parts are not the same" in must("compare", "run", tmp_path / "moved")
    (tmp_path / "moved/evaluation/val.json").rename(tmp_path / "moved/evaluation/test.json")
    assert "different parts of the data (val; test)" in must("compare", "run", tmp_path / "moved")


WRONG = [
    ("look", USAGE, "needs RUN"),
    ("look run", USAGE, "nothing to inspect was given"),
    ("look nothere wide.png", CHECKPOINT, "there is no run nothere"),
    ("look run nothere.png", DATA, "there is no nothere.png"),
    ("look run wide.png --layers 7", USAGE, "there is no layer 7"),
    ("look run wide.png --layers blocks.9", USAGE, "unknown layer 'blocks.9'"),
    ("look run wide.png --heads 5", USAGE, "heads are 0 to 1"),
    ("look run wide.png --heads maen", USAGE, "did you mean 'mean'"),
    ("look run wide.png --heads mean 1", USAGE, "--heads cannot be"),
    ("look run wide.png --label ent", USAGE, "did you mean 'ant'"),
    ("look run --distance --split vla", USAGE, "did you mean 'val'"),
    ("look run --distance --count 0", USAGE, "more than 0"),
    ("look run --cka other strange", USAGE, "compares with one"),
    ("look run --cka strange --split train", USAGE, "differ in preprocessing"),
    ("look run --cka --split val", USAGE, "batch of 2 images"),
    ("look run --distnace", USAGE, "did you mean '--distance'"),
    ("compare", USAGE, "RUN"),
    ("compare run", USAGE, "one run cannot be compared"),
    ("compare run run", USAGE, "given twice"),
    ("compare run nothere", CHECKPOINT, "there is no run nothere"),
    ("compare run other --out no/where.html", USAGE, "there is no folder"),
]


@pytest.mark.parametrize(("words", "code", "piece"), WRONG, ids=[w for w, _, _ in WRONG])
def test_wrong_words(place, words, code, piece):
    refused(place, words, code, piece)
