"""Mutated files of every reader of data: only errors of ours leave.

`benchmarks/fuzz.py` holds their time and memory."""

import gzip
import io
import random
import struct

import numpy as np
import pytest
from fuzz_damage import damage
from PIL import Image

from vitrail.data.files import natural_key
from vitrail.datasets import idx, npz, table
from vitrail.errors import UsageError, VitrailError
from vitrail.recipe import read as read_recipe
from vitrail.validation import parse_value

RECIPE = b'[data]\npath = "x"\n[optim]\nlr = 1e-3\nbetas = [0.9, 0.999]\n[train]\nsteps = 3\n[input]\nsize = [32, 32]\n'


def saved(save, **arrays) -> bytes:
    buffer = io.BytesIO()
    save(buffer, **arrays)
    return buffer.getvalue()


def seeds(kind: str) -> list[bytes]:
    noise = np.random.default_rng(0)
    if kind == "idx":
        plain = struct.pack(">IIII", 0x803, 6, 8, 8) + noise.integers(0, 256, 384, np.uint8).tobytes()
        return [plain, gzip.compress(plain)]
    if kind == "npz":
        bytes_ = {"train_images": noise.integers(0, 256, (6, 8, 8, 3), np.uint8), "train_labels": np.arange(6) % 3}
        wide = {
            "train_images": noise.integers(0, 65536, (6, 8, 8)).astype(np.uint16),
            "train_labels": np.eye(6, 3, dtype=np.int8),
        }
        return [saved(np.savez, **bytes_), saved(np.savez_compressed, **bytes_), saved(np.savez, **wide)]
    if kind == "csv":
        heads = ("path,label", "path,label,split", "path,cat,dog", "id;tags")
        cells = ("{i}.png,{k}", "{i}.png,00{k},train", "{i}.png,{k},1", "{i};['a','{k}']")
        return [
            "\n".join([h, *(c.format(i=i, k=i % 2) for i in range(6))]).encode()
            for h, c in zip(heads, cells, strict=True)
        ]
    return [RECIPE]


@pytest.mark.parametrize(("kind", "name"), [("idx", "a"), ("npz", "a.npz"), ("csv", "a.csv"), ("recipe", "a.toml")])
def test_only_our_errors_leave(tmp_path, kind, name):
    for i in range(6):
        Image.new("RGB", (8, 8), (i, 9, 9)).save(tmp_path / f"{i}.png")
    path, chance, originals, refused = tmp_path / name, random.Random(5), seeds(kind), 0
    reader = {
        "idx": lambda: idx.read(path, 3),
        "npz": lambda: npz.build(npz.Config(str(path))),
        "csv": lambda: table.build(table.Config(str(path))),
        "recipe": lambda: read_recipe(path),
    }[kind]
    for i in range(250):
        path.write_bytes(damage(originals[i % len(originals)], chance))
        try:
            reader()
        except VitrailError:
            refused += 1
    assert refused > 50


def test_numbers_of_thousands_of_digits(tmp_path):
    """Python refuses to convert them, by a `ValueError` of its own."""
    long = "9" * 5000
    assert sorted(["b", long, "10", "9", "09", "a"], key=natural_key) == ["09", "9", "10", long, "a", "b"]
    assert parse_value(long) == long
    (tmp_path / "a.toml").write_text(f"[train]\nsteps = {long}\n")
    with pytest.raises(UsageError, match="is not TOML"):
        read_recipe(tmp_path / "a.toml")
