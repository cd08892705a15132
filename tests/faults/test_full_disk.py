"""A disk that is full, read-only or gone: found before the first step where it can be, told in plain words, and
survived for a while."""

import os
import shutil
import subprocess
from pathlib import Path

import pytest
import tiny
from places import Process

from vitrail.cli.main import main
from vitrail.engine import checkpoint
from vitrail.errors import RunError
from vitrail.training import loop


def mount(folder, options):
    """A small file system in memory; skips where that is not allowed."""
    folder.mkdir()
    done = subprocess.run(["mount", "-t", "tmpfs", "-o", options, "tmpfs", str(folder)], capture_output=True, text=True)
    if done.returncode:
        pytest.skip(f"no file system can be mounted here: {done.stderr.strip()}")


def unmount(folder):
    subprocess.run(["umount", "-l", str(folder)], check=True)


@pytest.fixture
def disk(tmp_path):
    """12 MB."""
    folder = tmp_path / "disk"
    mount(folder, "size=12m")
    yield folder
    unmount(folder)


@pytest.fixture
def data(tmp_path):
    return tiny.npz(tmp_path / "data")


def fill(folder: Path, leave: int = 0):
    """Takes all the space but `leave` bytes."""
    free = shutil.disk_usage(folder).free
    (folder / "filler").write_bytes(b"x" * max(0, free - leave))


def said(capsys):
    """What was printed about an error, on one line."""
    return " ".join(capsys.readouterr().err.split())


def watch(running, at):
    """All events of a run that fails, and the error; `at` maps a step to what happens after it."""
    events = []
    try:
        for event in loop.run_training(running):
            events.append(event)
            if event.kind == "train" and event.step in at:
                at[event.step]()
    except RunError as error:
        return events, error
    return events, None


@pytest.mark.parametrize("leave", [0, 8 << 10, 100 << 10], ids=["first-byte", "middle", "late"])
def test_a_full_disk_costs_saves_and_after_three_the_run(disk, data, leave):
    out = disk / "run"
    running = tiny.begin(tiny.recipe(data, train={"steps": 40}, runtime={"save_every": 5}), out)
    events, error = watch(running, {11: lambda: fill(disk, leave)})
    notes = [e.values["text"] for e in events if e.kind == "note"]
    assert [e.step for e in events if e.kind == "saved"] == [5, 10]
    assert [e.step for e in events if e.kind == "note"] == [15, 20]
    assert error is not None
    assert "step 25" in error.what
    for text in [*notes, error.what]:
        assert "No space left on device" in text
        assert "bytes needed" in text
        assert "free)" in text
        assert str(out) in text
        assert "unexpected pos" not in text
    assert f"--resume {out}" in error.fix
    saved, passed = checkpoint.load_newest(out / "checkpoints")
    assert saved is not None
    assert saved.numbers["step"] == 10
    assert passed == []
    assert not list((out / "checkpoints").glob(".*")), "nothing half-written stays behind"


def test_space_that_comes_back_saves_the_run(disk, data, tmp_path):
    made = tiny.recipe(data, train={"steps": 40}, runtime={"save_every": 5})
    running = tiny.begin(made, disk / "run")
    events, error = watch(running, {11: lambda: fill(disk), 21: lambda: (disk / "filler").unlink()})
    assert error is None
    assert [e.step for e in events if e.kind == "note"] == [15, 20]
    assert [e.step for e in events if e.kind == "saved"] == [5, 10, 25, 30, 35, 40]
    tiny.finish(tiny.begin(made, tmp_path / "other"))
    assert tiny.digest(disk / "run" / "model.safetensors") == tiny.digest(tmp_path / "other" / "model.safetensors")


def test_a_run_resumed_on_a_full_disk_says_so_and_loses_nothing(disk, data, capsys):
    out = disk / "run"
    watch(tiny.begin(tiny.recipe(data, train={"steps": 40}, runtime={"save_every": 5}), out), {11: lambda: fill(disk)})
    log = (out / "log.jsonl").read_bytes()
    assert main(["train", "--resume", str(out), "--device", "cpu"]) == 3
    assert "cannot be written: No space left on device" in said(capsys)
    assert (out / "log.jsonl").read_bytes() == log
    (disk / "filler").unlink()
    assert main(["train", "--resume", str(out), "--device", "cpu", "--quiet"]) == 0


def test_finished_weights_that_do_not_fit_are_told(disk, data):
    out = disk / "run"
    running = tiny.begin(tiny.recipe(data), out)

    def late():
        for event in loop.run_training(running):
            yield event
            if event.kind == "saved" and event.step == running.steps:
                fill(disk)

    with pytest.raises(RunError, match="No space left on device") as told:
        list(late())
    assert f"--resume {out}" in told.value.fix
    (disk / "filler").unlink()
    tiny.finish(tiny.again(out))
    assert (out / "model.safetensors").exists()


def test_a_file_size_limit_is_met_like_a_full_disk(data, tmp_path):
    """No right to mount is needed for this one."""
    keys = [
        "--model.depth",
        "1",
        "--model.width",
        "32",
        "--model.heads",
        "2",
        "--steps",
        "12",
        "--runtime.save-every",
        "3",
    ]
    words = [
        "train",
        "--data",
        str(data),
        "--model",
        "vit/nano",
        "--out",
        str(tmp_path / "run"),
        "--device",
        "cpu",
        *keys,
    ]
    code, out, err = Process(words, tmp_path / "stdout.txt", tmp_path / "stderr.txt", command=tiny.limited).end()
    assert code == 1, err
    assert "File too large" in err
    assert "bytes needed" in err
    assert out.count("going on") == 2
    assert "Traceback" not in err


@pytest.mark.parametrize("where", ["read-only", "below-a-file", "proc"])
def test_a_place_that_cannot_be_written_is_found_before_the_first_step(where, data, tmp_path, capsys):
    out, folder = tmp_path / "plain", tmp_path / "locked"
    if where == "read-only":
        mount(folder, "ro,size=1m")
        out = folder / "run"
    elif where == "below-a-file":
        folder.write_text("a file")
        out = folder / "run"
    else:
        out = Path("/proc/nothing/run")
    try:
        assert main(["train", "--data", str(data), "--out", str(out), "--steps", "3", "--device", "cpu"]) == 3
    finally:
        if where == "read-only":
            unmount(folder)
    printed = capsys.readouterr()
    assert "cannot be written" in " ".join(printed.err.split())
    assert "step" not in printed.out


def test_a_run_that_became_read_only_is_found_before_the_first_step(disk, data, capsys):
    out = disk / "run"
    tiny.finish(tiny.begin(tiny.recipe(data), out))
    subprocess.run(["mount", "-o", "remount,ro", str(disk)], check=True)
    assert main(["train", "--resume", str(out), "--device", "cpu"]) == 3
    assert "cannot be written" in said(capsys)


def test_a_folder_deleted_while_running_is_not_made_again_without_its_recipe(data, tmp_path):
    """A checkpoint without the recipe beside it would be of no use, and look as if all were well."""
    out = tmp_path / "run"
    running = tiny.begin(tiny.recipe(data, train={"steps": 40}, runtime={"save_every": 5}), out)
    events, error = watch(running, {11: lambda: shutil.rmtree(out)})
    assert [e.step for e in events if e.kind == "note"] == [15, 20]
    assert error is not None
    assert "No such file or directory" in error.what
    assert not out.exists()


def test_a_deleted_checkpoint_folder_is_made_again(data, tmp_path):
    out = tmp_path / "run"
    running = tiny.begin(tiny.recipe(data), out)
    events, error = watch(running, {5: lambda: shutil.rmtree(out / "checkpoints")})
    assert error is None
    assert not [e for e in events if e.kind == "note"]
    assert tiny.steps(out) == ["step-00000009", "step-00000012"]


def test_a_folder_moved_while_running_leaves_the_old_checkpoints_sound(data, tmp_path):
    out = tmp_path / "run"
    running = tiny.begin(tiny.recipe(data, train={"steps": 40}, runtime={"save_every": 5}), out)
    _, error = watch(running, {11: lambda: os.rename(out, tmp_path / "moved")})
    assert error is not None
    tiny.finish(tiny.again(tmp_path / "moved"))
