"""Neither the seed of Python's hashes nor the order in which a disk lists its files decides what a data set is, or
what is learned from it."""

import os
import subprocess
import sys
from pathlib import Path

import dense_data
import numpy as np
import pytest
import tiny
from places import images, table

LISTING = Path(__file__).parent / "listing.py"


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A data set of every layout that lists files."""
    base = tmp_path_factory.mktemp("listing")
    images(base / "folders", classes=("bee", "ant", "wasp"), each=5)
    for part in ("train", "val"):
        images(base / "parts" / part, each=4)
    images(base / "table" / "good", each=6)
    rows = [f"good/{name}/{i}.png,{name}" for name in ("bee", "ant") for i in range(6)]
    table(base / "table" / "labels.csv", rows)
    dense_data.coco(base / "coco")
    for part in ("train", "val"):
        for i in range(4):
            dense_data.make_image(base / "yolo" / "images" / part / f"{i}.jpg", i)
            label = base / "yolo" / "labels" / part / f"{i}.txt"
            label.parent.mkdir(parents=True, exist_ok=True)
            label.write_text(f"{i % 2} 0.5 0.5 0.25 0.25\n")
    (base / "yolo" / "data.yaml").write_text("train: images/train\nval: images/val\nnames: [cat, dog]\n")
    for i in range(6):
        dense_data.make_image(base / "voc" / "JPEGImages" / f"{i}.jpg", i)
        dense_data.xml(base / "voc" / "Annotations" / f"{i}.xml", [(("cat", "dog")[i % 2], 2, 3, 9, 12)])
        dense_data.make_image(base / "masks" / "images" / f"{i}.jpg", i)
        dense_data.mask(base / "masks" / "masks" / f"{i}.png", dense_data.halves(i % 2, 1))
    np.savez(base / "arrays.npz", train_images=np.zeros((6, 4, 4), np.uint8), train_labels=np.arange(6) % 2)
    return base


def python(seed, *words, **more):
    environment = {**os.environ, "PYTHONHASHSEED": str(seed), "PYTHONPATH": os.pathsep.join(sys.path)}
    done = subprocess.run([sys.executable, *map(str, words)], env=environment, capture_output=True, text=True, **more)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_every_layout_is_read_the_same_whatever_the_hash_seed_and_the_order_of_a_folder(folder):
    found = [python(seed, LISTING, folder, seed).splitlines() for seed in (0, 1, 2)]
    assert [line.split()[:2] for line in found[0]] == [
        ["arrays.npz", "npz"], ["coco", "coco"], ["folders", "imagefolder"], ["masks", "masks"],
        ["parts", "imagefolder"], ["labels.csv", "table"], ["voc", "voc"], ["yolo", "yolo"],
    ]  # fmt: skip
    assert found[0] == found[1] == found[2]


@pytest.mark.slow
def test_the_same_command_gives_the_same_weights_whatever_the_hash_seed(folder, tmp_path):
    words = (
        "-m vitrail train --model vit/nano --model.depth 1 --model.width 32 --model.heads 2 --steps 4 --batch-size 4"
    )
    digests = set()
    for seed in (0, 1, 2):
        out = tmp_path / f"run{seed}"
        python(seed, *words.split(), "--data", folder / "folders", "--out", out, "--device", "cpu", "--quiet")
        digests.add(tiny.digest(out / "model.safetensors"))
    assert len(digests) == 1
