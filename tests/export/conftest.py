"""A tiny run, and its export, made once a file of tests."""

import numpy as np
import pytest

from vitrail.cli.main import main

MODEL = ["--model.width", "32", "--model.depth", "2", "--model.heads", "2", "--model.patch", "8"]


def train(folder, data, *words):
    """A run of two steps in `folder`/run."""
    out = folder / "run"
    words = ["--data", str(data), "--steps", "2", "--batch-size", "8", "--workers", "0", "--out", str(out), *words]
    assert main(["train", *words]) == 0
    return out


@pytest.fixture(scope="package")
def data(tmp_path_factory):
    """A MedMNIST-like file: three classes, 20 images to train on, 9 held out."""
    random = np.random.default_rng(0)
    arrays = {}
    for part, count in (("train", 20), ("test", 9)):
        arrays[f"{part}_images"] = random.integers(0, 256, (count, 32, 32, 3), np.uint8)
        arrays[f"{part}_labels"] = np.arange(count) % 3
    file = tmp_path_factory.mktemp("data") / "tiny.npz"
    np.savez(file, **arrays)
    return file


@pytest.fixture(scope="package")
def run(tmp_path_factory, data):
    return train(tmp_path_factory.mktemp("runs"), data, "--model", "vit/nano", *MODEL)
