"""A start that fails leaves nothing and takes no name; what a killed one left is cleared by the next."""

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from vitrail.assembly.run_directory import RunFolder, check_writable
from vitrail.cli.main import main
from vitrail.storage.atomic import write_folder
from vitrail.storage.litter import OLD, clear_litter

SHORT = ["--model", "vit/nano", "--model.depth", "1", "--steps", "1", "--batch-size", "4", "--workers", "0"]


@pytest.fixture
def data(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name in "ab":
        Path("data", name).mkdir(parents=True)
        for i in range(4):
            pixels = np.random.default_rng(i).integers(0, 256, (8, 8, 3), np.uint8)
            Image.fromarray(pixels).save(f"data/{name}/{i}.png")
    return ["train", "--data", "data", *SHORT]


def test_a_start_that_fails_at_its_first_step_takes_no_name(data, monkeypatch, capsys):
    with monkeypatch.context() as patch:

        def fail(*given):
            raise RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 9 bytes.")
            yield

        patch.setattr("vitrail.training.loop.train_steps", fail)
        for out in ([], ["--out", "deep/run"]):
            assert main([*data, *out]) == 1
            assert "out of memory" in capsys.readouterr().err
    assert [p.name for p in Path().iterdir() if p.name != "deep"] == ["data"]
    assert not list(Path("deep").iterdir())
    assert main([*data, "--out", "deep/run", "--dry-run"]) == 0


@pytest.fixture(scope="module")
def gone() -> int:
    """The number of a process that is no more."""
    done = subprocess.Popen([sys.executable, "-c", ""])
    done.wait()
    return done.pid


@pytest.mark.skipif(os.name != "posix", reason="elsewhere litter is cleared by its age")
def test_litter_of_a_killed_start_is_cleared_by_the_next(tmp_path, gone):
    for place in (f".run.tmp-{gone}", f".other.tmp-{gone}", f".run.tmp-{os.getppid()}"):
        (tmp_path / place).mkdir()
        (tmp_path / place / "run.json").write_text("{}")
    (tmp_path / f".vitrail-{gone}").write_bytes(bytes(9))
    (tmp_path / ".mine.tmp-x").write_text("of the user")
    (tmp_path / f".link.tmp-{gone}").symlink_to(tmp_path / "kept")
    check_writable(tmp_path / "run")
    left = {p.name for p in tmp_path.iterdir()}
    # of another name it may be at work, and so may a process that runs; links and other names are the user's
    assert left == {f".other.tmp-{gone}", f".run.tmp-{os.getppid()}", ".mine.tmp-x", f".link.tmp-{gone}"}
    os.utime(tmp_path / f".other.tmp-{gone}", (1, 1))
    assert clear_litter(tmp_path / "run") == [tmp_path / f".other.tmp-{gone}"]
    (tmp_path / f".model.tmp-{gone}").mkdir()
    write_folder(tmp_path / "model", {"a": b"1"})
    assert not (tmp_path / f".model.tmp-{gone}").exists()
    assert OLD >= 3600


def test_a_run_with_a_checkpoint_is_never_discarded(tmp_path):
    folder = RunFolder(tmp_path / "run")
    (folder.checkpoints / "step-00000001").mkdir(parents=True)
    folder.discard()
    assert folder.path.is_dir()
