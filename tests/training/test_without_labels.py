"""Images without labels, from the command line: checked, learned from, resumed to the bit; what was learned is where
another training begins."""

import json
import signal

import numpy as np
import pytest
import tiny
import torch
from PIL import Image

from vitrail.assembly.data import open_data
from vitrail.assembly.load import load_bundle
from vitrail.cli.main import main
from vitrail.datasets import images
from vitrail.recipe import DataConfig
from vitrail.storage.tensors import unpack
from vitrail.tasks._features import FeatureTask
from vitrail.training import loop

SMALL = ["--model", "vit/nano", "--model.width", "32", "--model.heads", "2", "--model.depth", "2", "--model.patch", "8",
         "--batch-size", "8", "--workers", "0", "--precision", "fp32", "--runtime.log-every", "1"]  # fmt: skip


def draw(folder, count, first=0, side=32):
    """Images of two kinds: bright above, or bright below."""
    folder.mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng(first)
    for i in range(first, first + count):
        pixels = rng.integers(0, 90, (side, side, 3), dtype=np.uint8)
        pixels[: side // 2] += np.uint8(120 * (i % 2))
        Image.fromarray(pixels).save(folder / f"{i:03d}.png")


@pytest.fixture(scope="module")
def work(tmp_path_factory):
    """A folder with photos/ (flat), labelled/ (class folders), and the runs `whole` and `cut` of the same recipe."""
    root = tmp_path_factory.mktemp("work")
    draw(root / "photos", 24)
    for i in range(24):
        (root / "labelled" / "ab"[i % 2]).mkdir(parents=True, exist_ok=True)
        draw(root / "labelled" / "ab"[i % 2], 1, i)
    return root


@pytest.fixture(scope="module")
def run(work):
    words = ["train", "--data", str(work / "photos"), "--steps", "6", "--train.eval-every", "3", *SMALL]
    assert main([*words, "--runtime.save-every", "3", "--out", str(work / "whole")]) == 0
    return work / "whole"


def test_check_takes_a_flat_folder(work, capsys):
    assert main(["check", str(work / "photos")]) == 0
    text = capsys.readouterr().out
    assert "22 train, 2 val" in text
    assert "these images have no labels" in text
    assert "task = masked_autoencoding: the data has no labels" in text
    assert "class" not in text.partition("notes:")[0]


def test_a_run_and_its_report(run):
    metrics = json.loads((run / "evaluation" / "val.json").read_text())
    assert {"held_out_loss", "feature_std", "effective_rank"} < metrics.keys()
    assert "knn_top1" not in metrics
    page = (run / "report.html").read_text()
    assert "Reconstructions" in page
    assert "Variety of the features" in page
    assert not (run / "best").exists()


def test_it_resumes_to_the_bit(run, work, capsys):
    words = ["train", "--data", str(work / "photos"), "--steps", "6", "--train.eval-every", "3", *SMALL]
    real = loop.Saver.save

    def stop_after(self, *given, **named):
        yield from real(self, *given, **named)
        if self.session.state.step == 3:
            signal.raise_signal(signal.SIGTERM)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(loop.Saver, "save", stop_after)
        assert main([*words, "--runtime.save-every", "3", "--out", str(work / "cut")]) not in (0, 2)
    assert main(["train", "--resume", str(work / "cut")]) == 0
    assert tiny.digest(run / "model.safetensors") == tiny.digest(work / "cut" / "model.safetensors")


def test_labels_that_are_there_measure_the_features_and_change_no_weight(run, work):
    words = ["train", "--data", str(work / "labelled"), "--task", "masked_autoencoding", "--steps", "2", *SMALL]
    assert main([*words, "--out", str(work / "seen")]) == 0
    metrics = json.loads((work / "seen" / "evaluation" / "val.json").read_text())
    assert 0 <= metrics["knn_top1"] <= 1
    assert 0 <= metrics["probe_top1"] <= 1


def test_the_backbone_begins_a_training_on_labels_and_the_decoder_is_left_out(run, work, capsys):
    words = ["train", "--data", str(work / "labelled"), "--weights", str(run), "--steps", "1", "--optim.lr", "0"]
    assert main([*words, "--batch-size", "8", "--workers", "0", "--out", str(work / "tuned")]) == 0
    text = capsys.readouterr().out
    assert "decoder" in text
    ours, theirs = unpack(work / "tuned" / "model.safetensors")[0], unpack(run / "model.safetensors")[0]
    shared = [name for name in ours if name.startswith("backbone.")]
    assert shared
    assert all(torch.equal(ours[name], theirs[name]) for name in shared)
    assert not any("decoder" in name or "mask_token" in name for name in ours)
    assert load_bundle(work / "tuned")[0].classes == ("a", "b")


@pytest.mark.slow
def test_it_goes_on_from_its_own_weights_with_the_decoder(run, work):
    words = ["train", "--data", str(work / "photos"), "--weights", str(run), "--steps", "1", "--optim.lr", "0"]
    assert main([*words, "--batch-size", "8", "--workers", "0", "--out", str(work / "more")]) == 0
    ours, theirs = unpack(work / "more" / "model.safetensors")[0], unpack(run / "model.safetensors")[0]
    assert ours.keys() == theirs.keys()
    assert all(torch.equal(ours[name], theirs[name]) for name in ours)


def test_a_collapse_is_noted_once(work, monkeypatch, capsys):
    monkeypatch.setattr("vitrail.tasks._features.collapse_note", lambda values: "all the same")
    monkeypatch.setattr("vitrail.tasks._features.FEW", 2)  # images are held out here
    words = ["train", "--data", str(work / "photos"), "--steps", "4", "--train.eval-every", "1", *SMALL]
    assert main([*words, "--out", str(work / "flat")]) == 0
    assert capsys.readouterr().out.count("all the same") == 1
    assert "all the same" in (work / "flat" / "report.html").read_text()


def test_predict_prints_features(run, work, capsys):
    assert main(["predict", str(run), str(work / "photos" / "000.png"), "--json"]) == 0
    record = json.loads(capsys.readouterr().out)
    assert len(record["features"]) == 32
    assert main(["predict", str(run), str(work / "photos" / "000.png")]) == 0
    assert "32 features" in capsys.readouterr().out


def test_eval_and_probe(run, work, capsys):
    assert main(["eval", str(run), "--data", str(work / "labelled")]) == 0
    assert "knn_top1" in capsys.readouterr().out
    assert main(["probe", str(run), "--data", str(work / "labelled")]) == 0
    assert main(["probe", str(run)]) == 2
    assert "no labels" in capsys.readouterr().err


def test_look_shows_reconstructions(run, work, capsys):
    assert main(["look", str(run), str(work / "photos" / "001.png"), "--out", str(work / "look")]) == 0
    assert {path.name for path in (work / "look" / "001").iterdir()} >= {
        "visible.png",
        "reconstructed.png",
        "image.png",
    }


def test_a_page_that_shows_answers_refuses(run, capsys):
    assert main(["export", str(run), "--format", "html"]) == 2
    assert "gives features of an image" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("task", "needs"), [("classification", "classes"), ("segmentation", "masks"), ("detection", "boxes")]
)
def test_a_task_that_needs_labels_is_refused(task, needs, work, capsys):
    assert main(["train", "--data", str(work / "photos"), "--task", task, *SMALL]) == 2
    err = " ".join(capsys.readouterr().err.split())
    assert f"{task} learns from {needs}, and this data has no labels" in err
    assert "--task masked_autoencoding" in err


@pytest.mark.parametrize(
    ("files", "fits"),
    [
        (["a.png"], True),
        (["train/a.png", "val/b.png"], True),
        (["train/a.png"], True),
        (["test/a.png"], False),
        (["cat/a.png", "dog/b.png"], False),
        (["train/cat/a.png", "train/dog/b.png"], False),
        (["a.png", "cat/b.png"], False),
        (["a.png", "notes/readme.md"], True),
        (["notes.md"], False),
    ],
)
def test_which_folders_have_no_labels(files, fits, tmp_path):
    for name in files:
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_bytes(b"")
    assert images.matches(str(tmp_path)) is fits


def test_named_as_the_layout_it_reads_class_folders_without_their_labels(work):
    dataset, _ = open_data(DataConfig("images", {"path": str(work / "labelled"), "held_out": 0.0}))
    assert (dataset.kind, dataset.classes) == ("none", ())
    assert {name: len(split) for name, split in dataset.splits.items()} == {"train": 24}


def test_shards_without_labels(work, tmp_path, capsys):
    out = tmp_path / "shards"
    assert main(["pack", str(work / "photos"), "--out", str(out)]) == 0
    dataset, _ = open_data(DataConfig("", {"path": str(out)}))
    assert (dataset.kind, dataset.classes) == ("none", ())
    assert sum(map(len, dataset.splits.values())) == 24
    assert main(["check", str(out)]) == 0
    for file in out.glob("index*"):
        file.unlink()
    assert main(["pack", str(out)]) == 0
    again, _ = open_data(DataConfig("", {"path": str(out)}))
    assert (again.kind, sum(map(len, again.splits.values()))) == ("none", 24)


def test_the_task_is_one_of_features(run):
    bundle, _ = load_bundle(run)
    assert isinstance(bundle.task, FeatureTask)
    assert bundle.classes == ()
