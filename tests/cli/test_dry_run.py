"""`train --dry-run` finds what is wrong before anything is written, and says what the run will need."""

import re
import shlex
import shutil
from pathlib import Path
from typing import NamedTuple

import pytest
from places import images, must, npz, refused, table


class Usage(NamedTuple):
    total: int
    used: int
    free: int


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    folder = tmp_path_factory.mktemp("dry")
    images(folder / "good", each=8)
    images(folder / "one", classes=("ant",))
    (folder / "empty").mkdir()
    (folder / "file.txt").write_text("no data")
    npz(folder / "arrays.npz")
    (folder / "broken.toml").write_text("[train\n")
    (folder / "nan.toml").write_text("[optim]\nlr = nan\n")
    rows = [f"good/ant/{i}.png,{i % 2}" for i in range(6)]
    table(folder / "missing.csv", [*rows, "good/ant/none.png,1"])
    table(folder / "no-column.csv", ["a,b"], head="x,y")
    return folder


@pytest.mark.parametrize(
    ("words", "code", "piece"),
    [
        ("--data good --model vit/nanno", 2, "did you mean 'vit/nano'"),
        ("--data good --model vit/nano --model.heads 5", 2, "not divisible"),
        ("--data good --batch-size -4", 2, "batch"),
        ("--data good --lr nan", 2, "lr"),
        ("--data good --steps 4 --epochs 2", 2, "give one of them"),
        ("--data good --img-sise 32", 2, "unknown option --img-sise"),
        ("--data good --train.patience 3 --train.eval-every 0", 2, "patience"),
        ("--data good --precision int4", 2, "precision"),
        ("--data good --device cuda:77", 2, "no GPU"),
        ("--data good --out file.txt/run", 3, "cannot be written"),
        ("--data good --out good", 2, "never overwritten"),
        ("--data nowhere", 3, "nowhere"),
        ("--data empty", 3, "empty"),
        ("--data one", 3, "one class only"),
        ("--data file.txt", 3, "file.txt"),
        ("--data missing.csv", 3, "none.png"),
        ("--data no-column.csv", 3, "column"),
        ("--data good --weights nowhere", 4, "nowhere"),
        ("broken.toml", 2, "TOML"),
        ("nan.toml --data good", 2, "lr"),
    ],
)
def test_what_is_wrong_is_found_and_nothing_is_written(words, code, piece, place, monkeypatch):
    monkeypatch.chdir(place)
    refused(place, f"train {words} --dry-run", code, piece)


def test_memory_and_disk_are_estimated(place, monkeypatch):
    monkeypatch.chdir(place)
    said = must(*shlex.split("train --data good --model vit/nano --steps 3 --batch-size 4 --dry-run"))
    assert re.search(
        r"nothing was written; 3 steps would be done, in about [\d.]+ MiB of memory for weights, optimiser and micro-"
        r"batches of 4; [\d.]+ MiB of disk, [\d.,]+ GiB are free",
        said,
    )
    assert not Path("runs").exists()


def test_a_disk_that_is_too_small_is_found(place, monkeypatch):
    monkeypatch.chdir(place)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: Usage(2**20, 2**20 - 1000, 1000))
    refused(place, "train --data good --model vit/nano --steps 3 --dry-run", 3, "the checkpoints need about")
