"""Damage on disk: every flipped bit, cut or missing file is noticed, passed over with its reason, and never loaded."""

import json
import os
import random
import shutil
import struct

import pytest
import tiny

import vitrail
from vitrail.cli.main import main
from vitrail.engine import checkpoint
from vitrail.engine.log import read_rows
from vitrail.errors import CheckpointError
from vitrail.storage.tensors import pack, unpack

FLIPS = 200


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    folder = tmp_path_factory.mktemp("damage")
    tiny.finish(tiny.begin(tiny.recipe(tiny.npz(folder / "data"), model={"depth": 1, "width": 8}), folder / "run"))
    return folder / "run"


@pytest.fixture
def run(finished, tmp_path):
    shutil.copytree(finished, tmp_path / "run")
    return tmp_path / "run"


def flip(path, bit):
    """Turns one bit of a file around, in place."""
    with path.open("r+b") as file:
        file.seek(bit // 8)
        old = file.read(1)[0]
        file.seek(bit // 8)
        file.write(bytes([old ^ (1 << bit % 8)]))


def newest_files(run):
    return sorted(checkpoint.list_checkpoints(run / "checkpoints")[0].iterdir())


def test_a_flipped_bit_anywhere_in_a_checkpoint_is_noticed(run):
    files, chance = newest_files(run), random.Random(0)
    assert [p.name for p in files] == [
        "ema.safetensors",
        "manifest.json",
        "model.safetensors",
        "optimizer.safetensors",
        "state.json",
    ]
    sizes = [p.stat().st_size for p in files]
    flips = [(p, chance.randrange(8 * p.stat().st_size)) for p in files for _ in range(10)]  # every file, however small
    flips += [(p, chance.randrange(8 * p.stat().st_size)) for p in chance.choices(files, sizes, k=FLIPS - len(flips))]
    noticed = 0
    for path, bit in flips:
        flip(path, bit)
        saved, reasons = checkpoint.load_newest(run / "checkpoints")
        noticed += (
            saved is not None
            and saved.path.name == "step-00000009"
            and len(reasons) == 1
            and "step-00000012" in reasons[0]
        )
        flip(path, bit)
    assert noticed == len(flips) == FLIPS
    assert checkpoint.load_newest(run / "checkpoints")[1] == []


def test_every_bit_of_a_manifest_and_of_the_numbers_is_guarded(run):
    """All of them, since these files are small: whatever JSON makes of the damage."""
    for name in ("manifest.json", "state.json"):
        path = checkpoint.list_checkpoints(run / "checkpoints")[0] / name
        for bit in range(8 * path.stat().st_size):
            flip(path, bit)
            with pytest.raises(CheckpointError):
                checkpoint.load(path.parent)
            flip(path, bit)


def cut_short(path):
    os.truncate(path, path.stat().st_size - 1)


def empty(path):
    os.truncate(path, 0)


def a_folder_instead(path):
    path.unlink()
    path.mkdir()


@pytest.mark.parametrize(
    "name", ["ema.safetensors", "manifest.json", "model.safetensors", "optimizer.safetensors", "state.json"]
)
@pytest.mark.parametrize(
    "harm", [cut_short, empty, lambda path: path.unlink(), a_folder_instead], ids=["cut", "empty", "gone", "folder"]
)
def test_a_checkpoint_with_a_harmed_file_is_passed_over(name, harm, run):
    harm(checkpoint.list_checkpoints(run / "checkpoints")[0] / name)
    saved, reasons = checkpoint.load_newest(run / "checkpoints")
    assert saved is not None
    assert saved.numbers["step"] == 9
    assert len(reasons) == 1
    assert name in reasons[0]


def test_a_surplus_file_is_noticed(run):
    (checkpoint.list_checkpoints(run / "checkpoints")[0] / "extra.safetensors").write_bytes(b"?")
    saved, reasons = checkpoint.load_newest(run / "checkpoints")
    assert saved is not None
    assert saved.numbers["step"] == 9
    assert "extra.safetensors is not listed" in reasons[0]


def test_an_unfinished_folder_is_cleared_away_and_never_loaded(run):
    folder = run / "checkpoints"
    shutil.copytree(folder / "step-00000012", folder / ".step-00000015.tmp-77")
    (run / ".model.safetensors.tmp-77").write_bytes(b"half of the finished weights")
    (folder / ".step-00000018.tmp-77").write_bytes(b"a file")
    saved, reasons = checkpoint.load_newest(folder)
    assert saved is not None
    assert saved.numbers["step"] == 12
    assert reasons == []
    assert not list(folder.glob(".*"))
    tiny.again(run)
    assert not list(run.glob(".*"))


def test_a_run_goes_on_from_the_one_before_and_says_why(run, capsys):
    wanted = tiny.digest(run / "model.safetensors")
    flip(run / "checkpoints" / "step-00000012" / "model.safetensors", 80_000 % (8 * 2000))
    assert main(["train", "--resume", str(run), "--device", "cpu"]) == 0
    out = capsys.readouterr().out
    assert out.count("skipped: ") == 1
    assert "from step 9 of 12" in out
    assert tiny.digest(run / "model.safetensors") == wanted
    assert checkpoint.load_newest(run / "checkpoints")[1] == [], "the damaged one was written anew"


def test_a_run_whose_checkpoints_are_all_damaged_never_starts_over(run, capsys):
    before = sorted(p.relative_to(run) for p in run.rglob("*"))
    for path in checkpoint.list_checkpoints(run / "checkpoints"):
        flip(path / "ema.safetensors", 9_999)
    assert main(["train", "--resume", str(run), "--device", "cpu"]) == 4
    said = " ".join(capsys.readouterr().err.split())
    assert "all 2 checkpoints are damaged" in said
    assert "another folder" in said
    assert sorted(p.relative_to(run) for p in run.rglob("*")) == before


def test_a_flipped_bit_anywhere_in_finished_weights_is_noticed(run):
    path, chance, noticed = run / "model.safetensors", random.Random(1), 0
    for bit in (chance.randrange(8 * path.stat().st_size) for _ in range(FLIPS)):
        flip(path, bit)
        try:
            vitrail.load(path)
        except CheckpointError:
            noticed += 1
        flip(path, bit)
    assert noticed == FLIPS
    vitrail.load(path)


def test_every_bit_of_a_header_is_guarded(tmp_path):
    """Names, shapes, offsets, what the file says of itself, the padding: with a text in it that JSON can spell in two
    ways."""
    import torch

    content = pack(
        {"weight": torch.arange(6.0).view(2, 3), "none": torch.zeros(0, 4)}, {"classes": ["é", "1e-05"], "eps": 1e-05}
    )
    path = tmp_path / "w.safetensors"
    length = 8 + struct.unpack("<Q", content[:8])[0]
    missed = []
    for bit in range(8 * length):
        harmed = bytearray(content)
        harmed[bit // 8] ^= 1 << bit % 8
        path.write_bytes(harmed)
        try:
            about = unpack(path)[1]
        except CheckpointError:
            continue
        if (
            about
        ):  # a file without our own key is one that someone else wrote: `about` is empty and nothing loads it as ours
            missed.append((bit, bytes(harmed[8:length])))
    assert not missed


def test_a_log_that_was_harmed_does_not_stop_a_resume(run):
    with (run / "log.jsonl").open("ab") as file:
        file.write(b'\xff\xfe{"kind": "train", "st\x00\n{"kind": "train", "step": 12, "lo')
    tiny.finish(tiny.again(run))
    assert all("kind" in row for row in read_rows(run / "log.jsonl"))


def test_a_run_that_does_not_say_what_it_is_is_refused(run, capsys):
    for name, text in (
        ("run.json", "{"),
        ("run.json", ""),
        ("run.json", "[]"),
        ("entries.txt.gz", "?"),
        ("recipe.toml", "["),
    ):
        kept = (run / name).read_bytes()
        (run / name).write_text(text)
        code = main(["train", "--resume", str(run), "--device", "cpu"])
        said = capsys.readouterr().err
        assert code in (2, 3, 4), (name, text, said)
        assert name in said
        assert "unexpected error" not in said
        (run / name).write_bytes(kept)
    (run / "entries.txt.gz").unlink()
    assert main(["train", "--resume", str(run), "--device", "cpu"]) == 3, (
        "without it a changed data set would go unnoticed"
    )
    assert json.loads((run / "run.json").read_text())["classes"] == ["0", "1", "2"]
