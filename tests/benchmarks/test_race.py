"""The race in small, within this process: rivals learn, a table that was broken off goes on, and cells that were not
run are named. Who is first is for the benchmark itself to say."""

import contextlib
import io
import re

import numpy as np
import pytest
import race
import race_peers
import torch

from vitrail.cli.main import main as command
from vitrail.datasets import mini


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """BloodMNIST's place with 300 embedded images of clothes."""
    root = tmp_path_factory.mktemp("race")
    (root / "medmnist").mkdir()
    dataset, arrays = mini.build(mini.Config()), {}
    for part, count in (("train", 300), ("test", 100)):
        split = dataset.splits[part]
        arrays[f"{part}_images"] = np.stack([split.read(i) for i in range(count)])[..., 0]
        arrays[f"{part}_labels"] = split.labels[:count]
    np.savez(root / "medmnist" / "bloodmnist.npz", **arrays)
    return root


@pytest.fixture
def launched(monkeypatch, tmp_path):
    """Commands that the race runs, in this process instead of their own; a step takes 0.3 s, the start a second."""
    commands = []

    def launch(words):
        commands.append(words)
        output, steps = io.StringIO(), int(words[words.index("--steps") + 1])
        with contextlib.redirect_stdout(output):
            if words[1] == "-m":
                assert not command(words[3:])
            else:
                race_peers.main(words[2:])
        return output.getvalue(), 1 + 0.3 * steps

    page = tmp_path / "results.md"
    page.write_text("before\n<!-- race -->\nold\n<!-- /race -->\nafter\n")
    monkeypatch.setattr(race, "launch", launch)
    monkeypatch.setattr(race, "PAGE", page)
    monkeypatch.setattr(race, "append", lambda *row: commands.append(row))
    return commands, page


def test_a_table_goes_on_where_it_stopped(folder, tmp_path, launched):
    commands, _ = launched
    words = ["--data", str(folder), "--runs", str(tmp_path / "runs"), "--sets", "bloodmnist", "--budgets", "45"]
    words += ["--rounds", "1", "--probe", "0.001"]
    race.main([*words, "--only", "linear", "--seeds", "0"])
    steps = [words[words.index("--steps") + 1] for words in commands[:-1]]
    assert steps == ["1", "4", "150"], "start, start and steps, and as many as take 45 s"
    assert commands[-1][1]["bloodmnist/45/linear"] > 50, "the row of history; chance is 10"
    race.main([*words, "--only", "linear", "--seeds", "0", "1"])
    assert len(commands) == 6, "the other seed, its row of history, and nothing twice"
    race.main([*words, "--only", "linear", "--seeds", "0", "--again", "linear"])
    assert len(commands) == 10, "calibrated and run anew"
    kept = tmp_path / "runs" / "race.json"
    kept.write_text(re.sub(r'("seconds": )[\d.]+', r"\g<1>60.0", kept.read_text()))
    race.main([*words, "--only", "linear", "--seeds", "0", "--tolerance", "0.5"])
    assert len(commands) == 10, "a third more than the budget was allowed"
    race.main([*words, "--only", "linear", "--seeds", "0", "--tolerance", "0.15"])
    again = [words[words.index("--steps") + 1] for words in commands[10:] if "--steps" in words]
    assert again in (["112"], ["113"]), "what took 60 s in 150 steps gets 45 s"


def test_ours_runs_and_what_was_not_run_is_named(folder, tmp_path, launched, monkeypatch):
    _, page = launched
    monkeypatch.setattr(race, "BUDGETS", (3, 600))
    words = ["--data", str(folder), "--runs", str(tmp_path / "runs"), "--sets", "bloodmnist", "--budgets", "3"]
    words += ["--rounds", "1", "--probe", "0.02", "--only", "ours", "linear", "--seeds", "0"]
    race.main([*words, "--ours", "--model.width 32 --model.depth 1 --model.heads 2 --batch-size 8"])
    text = page.read_text()
    assert text.startswith("before\n<!-- race -->\n### BloodMNIST")
    assert text.endswith("<!-- /race -->\nafter\n")
    assert "| 3 s | **vitrail train** |" in text
    assert "| 3 s | linear model of pixels | 7,850 |" in text
    assert "| 10 | 3 (4) |" in text, "steps, seconds, seconds with the start"
    assert "\nOurs at 3 s is " in text
    assert "BloodMNIST at 3 s: vitrail train (1 seed), timm ViT (no seed)" in text
    assert "OrganAMNIST at 600 s: everyone (no seed)" in text


def test_the_sentence_about_ours():
    def standing(rival, right):
        return race.Standing(rival, [{"right": right, "images": 1000}])

    ours = standing("ours", 900)
    assert race.verdict(ours, ours) == "is first"
    assert race.verdict(ours, standing("yolo", 910)) == "is within its interval, 1.0 points behind yolo11n-cls"
    assert race.verdict(ours, standing("yolo", 950)) == "is 5.0 points behind yolo11n-cls"


def test_steps_of_the_schedule():
    factors = [race_peers.lr_factor(step, 100) for step in range(101)]
    assert factors[:6] == pytest.approx([0.2, 0.4, 0.6, 0.8, 1, 1]), "warm-up of five steps"
    assert factors[100] == pytest.approx(0)
    assert factors == factors[:5] + sorted(factors[5:], reverse=True)


def test_augmentation_flips_and_shifts():
    images = torch.arange(2 * 3 * 4 * 4, dtype=torch.uint8).reshape(2, 3, 4, 4).repeat(8, 1, 1, 1)
    plain = race_peers.CHOSEN["vit"]
    flipped = race_peers.augment(images, plain, 0, torch.Generator().manual_seed(0))
    kept = [torch.equal(new, old) for new, old in zip(flipped, images, strict=True)]
    assert any(kept)
    assert not all(kept)
    assert all(torch.equal(new.flip(-1), old) for new, old, same in zip(flipped, images, kept, strict=True) if not same)
    moved = race_peers.augment(images, plain, 1, torch.Generator().manual_seed(0))
    assert moved.shape == images.shape
    inner = moved[:, :, 1:3, 1:3].flatten(1).tolist()  # the inner pixels of every image come from that image
    assert all(set(new) <= set(old) for new, old in zip(inner, images.flatten(1).tolist(), strict=True))


@pytest.mark.parametrize(("side", "channels"), [(28, 1), (32, 3)])
def test_the_peer_is_as_large(side, channels):
    pytest.importorskip("timm")
    with torch.device("meta"):
        made = race_peers.build_vit(side, 8, channels, 10)
    assert sum(p.numel() for p in made.parameters()) == pytest.approx(race_peers.PARAMETERS, rel=0.03)


@pytest.mark.parametrize("name", ["resnet", "resnet-small-stem", "vit"])
def test_rivals_have_a_logit_for_every_class(name):
    pytest.importorskip("timm")
    with torch.device("meta"):
        made = race_peers.build(name, race_peers.CHOSEN[name], (3, 28, 28), 7)
        assert made(torch.zeros(2, 3, 28, 28)).shape == (2, 7)
