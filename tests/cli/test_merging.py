"""`--merge` from its words: in predict, eval, look, export, and as a field of the model in training."""

import itertools
import json

import numpy as np
import pytest
import torch
from PIL import Image
from places import SHORT, everything, images, must, refused

import vitrail

USAGE = 2


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    root = tmp_path_factory.mktemp("place")
    images(root / "good")
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (20, 33, 3), np.uint8)).save(root / "wide.png")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(root)
        must("train", "--data", "good", "--out", "run", "--quiet", *SHORT)
        must("train", "--data", "good", "--out", "merged", "--quiet", *SHORT, "--model.merge", "half",
             "--runtime.grad-checkpoint")  # fmt: skip
    return root


@pytest.fixture(autouse=True)
def here(place, monkeypatch):
    monkeypatch.chdir(place)


def answers(*words):
    return [json.loads(line) for line in must("predict", *words, "--json").splitlines()]


def test_predictions_of_a_trained_model_with_fewer_tokens(place):
    plain, none, some = (answers("run", "wide.png", *words) for words in ((), ("--merge", "0"), ("--merge", "2")))
    assert plain == none
    assert plain != some
    assert vitrail.load("run", merge=2).recipe.model.keys["merge"] == 2
    half, share = (vitrail.load("run", merge=m).model for m in ("half", 0.5))
    x = torch.randn(2, 3, *vitrail.load("run").preprocess.size)
    assert torch.equal(half(x), share(x))


def test_an_evaluation_with_merging_is_not_that_of_the_run(place):
    kept = (place / "run/evaluation/val.json").read_bytes()
    said = json.loads(must("eval", "run", "--merge", "1", "--json"))
    assert 0 <= said["top1"] <= 1
    assert (place / "run/evaluation/val.json").read_bytes() == kept


def test_patches_that_became_one_are_drawn(place):
    said = must("look", "run", "wide.png", "--merge", "2", "--out", "seen")
    assert "wide.png: 9 patches become " in said
    assert {"wide-merged.png", "wide-merged.npz", "wide-sheet.png"} <= everything(place / "seen")
    with np.load("seen/wide-merged.npz") as kept:
        groups = [kept[name] for name in kept.files]
    assert all(g.shape == (3, 3) for g in groups)
    counts = [len(np.unique(g)) for g in groups]
    assert counts[0] == 7
    assert counts == sorted(counts, reverse=True)
    assert f"become {counts[-1]} tokens" in said
    for before, after in itertools.pairwise(groups):  # groups grow: what was one stays one
        assert all(len(np.unique(after[before == g])) == 1 for g in np.unique(before))
    with Image.open("seen/wide-merged.png") as drawn:
        assert min(drawn.size) > 200


def test_a_model_is_trained_with_merging_and_keeps_it(place):
    made = vitrail.load("merged")
    assert made.recipe.model.keys["merge"] == "half"
    x = torch.randn(2, 3, *made.preprocess.size)
    assert not torch.equal(made.model(x), vitrail.load("merged", merge=0).model(x))
    assert "patches become" in must("look", "merged", "wide.png", "--out", "of-its-own")


@pytest.mark.slow
def test_an_export_merges_as_it_was_written(place):
    must("export", "run", "--merge", "2", "--data", "good", "--split", "all")
    folder = "run/export/onnx-merge-2"
    (exported,), (torchs,) = answers(folder, "wide.png"), answers("run", "wide.png", "--merge", "2")
    assert exported["label"] == torchs["label"]
    a, b = vitrail.load(folder), vitrail.load("run", merge=2)
    image = np.asarray(Image.open("wide.png"))
    np.testing.assert_allclose(a.predict_pixels([image] * 3), b.predict_pixels([image] * 3), atol=1e-5)
    refused(place, f"predict {folder} wide.png --merge 4", USAGE, "merges tokens as it was written to")


@pytest.mark.parametrize(("words", "piece"), [
    ("predict run wide.png --merge 8.5", "--merge cannot be '8.5'"),
    ("predict run wide.png --merge -1", "--merge"),
    ("eval run --merge many", "--merge cannot be 'many'"),
    ("look run wide.png --merge 99999", "--merge cannot be '99999'"),
    ("export run --merge 1.0", "--merge cannot be '1.0'"),
])  # fmt: skip
def test_what_is_no_number_of_tokens_is_refused(place, words, piece):
    refused(place, words, USAGE, piece)


def test_families_without_such_blocks_are_refused(place):
    torch.manual_seed(0)
    model = vitrail.create("swin/tiny", classes=2, width=16, depths=(1, 1, 1, 1), heads=(1, 2, 4, 8), size=(32, 32))
    vitrail.save(model, "swin", ("a", "b"))
    refused(place, "predict swin wide.png --merge 2", USAGE, "swin/tiny cannot merge tokens")
    relative = vitrail.create("vit/nano", classes=2, width=32, depth=2, heads=2, size=(32, 32), position="relative")
    vitrail.save(relative, "relative", ("a", "b"))
    refused(place, "predict relative wide.png --merge 2", USAGE, "position 'relative' does not go with it")
