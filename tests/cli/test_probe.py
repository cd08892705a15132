"""`vitrail probe` from its words to its end."""

import json

import numpy as np
import pytest
from PIL import Image
from places import SHORT, TINY, everything, images, must, npz, refused

USAGE, DATA, CHECKPOINT = 2, 3, 4


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    root = tmp_path_factory.mktemp("place")
    images(root / "good")
    images(root / "alone", ("ant",))
    npz(root / "tiny.npz")
    random = np.random.default_rng(0)
    several = {
        f"{part}_images": random.integers(0, 256, (n, 12, 12), np.uint8) for part, n in (("train", 24), ("test", 9))
    }
    several |= {f"{part}_labels": random.integers(0, 2, (n, 3)) for part, n in (("train", 24), ("test", 9))}
    np.savez(root / "several.npz", **several)
    np.savez(root / "bare.npz", **{k: v for k, v in several.items() if k.startswith("train")})
    (root / "file.txt").write_text("hello\n")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(root)
        must("train", "--data", "good", "--out", "run", "--quiet", *SHORT)
        (root / "weights.safetensors").write_bytes((root / "run" / "model.safetensors").read_bytes())
        from safetensors.torch import save_file
        from torch import zeros

        save_file({"a": zeros(3)}, "foreign.safetensors")
    return root


@pytest.fixture(autouse=True)
def here(place, monkeypatch):
    monkeypatch.chdir(place)


def test_a_run_in_words_and_as_json(place):
    said = must("probe", "run", "--k", "1", "3")
    assert said.startswith("run (frozen): 32 features, learned from 10 labels\nval: 2 images\n")
    for piece in (
        "linear probe, L2 ",
        "note: L2 ",
        " in cross-validation",
        "1 nearest neighbours",
        "3 nearest neighbours",
        "top-1",
        "features cached in run/features/",
    ):
        assert piece in said
    found = json.loads(must("probe", "run", "--json", "--k", "3", "--device", "cpu"))
    assert (found["part"], found["count"], found["labelled"], found["features"]) == ("val", 2, 10, 32)
    assert list(found["knn"]) == ["3"]
    assert 0 <= found["linear"]["top1"] <= 1
    assert any(note.startswith("features from run/features/") for note in found["notes"])


def test_a_file_on_other_data_with_other_classes_and_channels(place, tmp_path):
    found = json.loads(
        must(
            "probe",
            "weights.safetensors",
            "--data",
            "tiny.npz",
            "--labels",
            "0.5",
            "--cache",
            tmp_path / "kept",
            "--json",
        )
    )
    assert (found["part"], found["count"], found["labelled"]) == ("test", 9, 12)
    assert len(everything(tmp_path / "kept")) == 2


def test_random_weights_are_told_to_be_a_floor(tmp_path):
    said = must("probe", "vit/nano", *TINY[2:], "--data", "tiny.npz")
    assert said.startswith("vit/nano (random weights, a baseline to compare with): 32 features")
    assert "k = 10" not in said


def test_more_neighbours_than_images_all_vote():
    assert "k = 20 of 10 labelled images: all of them are used" in must("probe", "run")


def test_several_classes_an_image():
    said = must("probe", "vit/nano", *TINY[2:], "--data", "several.npz")
    assert "mAP" in said
    assert "there is no k-NN" in said


WRONG = [
    ("probe", USAGE, "needs SOURCE"),
    ("probe nothere", CHECKPOINT, "there is no run nothere"),
    ("probe vit/nono --data good", USAGE, "did you mean 'vit/nano'"),
    ("probe vti/nano --data good", USAGE, "did you mean vit/nano"),
    ("probe vit --data good", USAGE, "not the whole name"),
    ("probe vit/nano", USAGE, "has no data of its own"),
    ("probe weights.safetensors", USAGE, "does not know its data"),
    ("probe foreign.safetensors --data good", CHECKPOINT, "name its model"),
    ("probe file.txt --data good", CHECKPOINT, "not a whole .safetensors file"),
    ("probe good --data good", CHECKPOINT, "not the folder of a run"),
    ("probe run --data nothere", DATA, "there is no file or folder nothere"),
    ("probe run --data alone", DATA, "one class only"),
    ("probe run --split vla", USAGE, "did you mean 'val'"),
    ("probe run --split train", USAGE, "what the probe learns from"),
    ("probe run --labels 0", USAGE, "nothing to learn"),
    ("probe run --labels 2", USAGE, "at most 1, not 2"),
    ("probe run --labels nan", USAGE, "not a finite number"),
    ("probe run --labels x", USAGE, "--labels takes a number, not 'x'"),
    ("probe run --k 0", USAGE, "more than 0, not 0"),
    ("probe run --k", USAGE, "--k"),
    ("probe run --k x", USAGE, "--k takes a list of whole numbers, not 'x'"),
    ("probe run --seed -1", USAGE, "at least 0"),
    ("probe run --device cdua", USAGE, "did you mean 'cuda'"),
    ("probe run --cache file.txt", USAGE, "is a file"),
    ("probe run --cahce x", USAGE, "did you mean '--cache'"),
    ("probe run --model.depth 2", USAGE, "not for trained weights"),
    ("probe vit/nano --data good --model.dpth 2", USAGE, "did you mean 'depth'"),
    ("probe vit/nano --data good --lr 2", USAGE, "vitrail probe has no --lr"),
    ("probe vit/nano --data good --optim.eps 2", USAGE, "does not change the features"),
    ("probe run good", USAGE, "unexpected argument 'good'"),
]


@pytest.mark.parametrize(("words", "code", "piece"), WRONG, ids=[w for w, _, _ in WRONG])
def test_wrong_words(place, words, code, piece):
    refused(place, words, code, piece)


def test_labels_of_images_are_read_beside_captions_and_not_out_of_masks(place, tmp_path):
    images(tmp_path / "both")
    for image in (tmp_path / "both").rglob("*.png"):
        image.with_suffix(".txt").write_text(f"caption of {image.name}")
    assert "learned from 10 labels" in must("probe", "run", "--data", tmp_path / "both", "--k", "1")
    for i in range(8):
        for name, pixels in (("images", np.full((12, 12, 3), 9 * i)), ("masks", np.eye(12) * (i % 2 + 1))):
            (tmp_path / "dense" / name).mkdir(parents=True, exist_ok=True)
            Image.fromarray(pixels.astype(np.uint8)).save(tmp_path / "dense" / name / f"{i}.png")
    refused(place, f"probe run --data {tmp_path}/dense", USAGE, "the images have no labels")
