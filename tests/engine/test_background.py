"""Checkpoints written while training goes on have the bytes of their step; a disk that refuses one is a note."""

import threading

import pytest
import tiny

from vitrail.engine import checkpoint
from vitrail.engine.processes.writer import CheckpointWriter
from vitrail.errors import RunError

LATER = {"async_checkpoint": True}


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return tiny.npz(tmp_path_factory.mktemp("data"))


def manifests(out):
    return {p.name: (p / "manifest.json").read_bytes() for p in checkpoint.list_checkpoints(out / "checkpoints")}


def test_steps_that_follow_do_not_change_what_is_saved(data, tmp_path, monkeypatch):
    """Copying begins late, while gradients are computed; writing waits until two more steps are done."""
    tiny.finish(tiny.begin(tiny.recipe(data, train={"steps": 8}), tmp_path / "sync"))
    running = tiny.begin(tiny.recipe(data, train={"steps": 8}, runtime=LATER), tmp_path / "later")
    save, behind = checkpoint.save, []

    def late(folder, parts, numbers, keep):
        while running.state.step < min(numbers["step"] + 2, 8):
            assert threading.current_thread() is not threading.main_thread()
            threading.Event().wait(0.01)
        behind.append(running.state.step - numbers["step"])
        return save(folder, parts, numbers, keep)

    copy = CheckpointWriter.copy_tensors

    def copy_late(self, parts):
        threading.Event().wait(0.1)
        return copy(self, parts)

    monkeypatch.setattr(checkpoint, "save", late)
    monkeypatch.setattr(CheckpointWriter, "copy_tensors", copy_late)
    events = tiny.finish(running)
    assert manifests(tmp_path / "later") == manifests(tmp_path / "sync")
    assert behind == [2, 2, 0], "the last one is waited for"
    assert [event.values["path"][-2:] for event in events if event.kind == "saved"] == ["03", "06", "08"]
    assert (tmp_path / "later" / "model.safetensors").read_bytes() == (
        tmp_path / "sync" / "model.safetensors"
    ).read_bytes()


def test_a_disk_that_refuses_is_said_at_the_next_save(data, tmp_path, monkeypatch):
    running = tiny.begin(tiny.recipe(data, train={"steps": 12}, runtime=LATER), tmp_path / "run")
    save = checkpoint.save

    def full(folder, parts, numbers, keep):
        if numbers["step"] == 3:
            raise OSError(28, "No space left on device")
        return save(folder, parts, numbers, keep)

    monkeypatch.setattr(checkpoint, "save", full)
    notes = [event.values["text"] for event in tiny.finish(running) if event.kind == "note"]
    assert notes[0].startswith("step 3 could not be saved: No space left on device at")
    assert sorted(manifests(tmp_path / "run")) == ["step-00000009", "step-00000012"]


def test_a_disk_that_refuses_again_and_again_ends_the_run(data, tmp_path, monkeypatch):
    running = tiny.begin(tiny.recipe(data, runtime={**LATER, "save_every": 1}), tmp_path / "run")

    def full(*given):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(checkpoint, "save", full)
    with pytest.raises(RunError, match="No space left"):
        tiny.finish(running)
    assert running.state.step == 4, "the third failure is known when the fourth save begins"
