"""Old checkpoints are removed, but at every instant a sound one is there."""

import shutil
import threading
import time

import pytest
import tiny

from vitrail.engine import checkpoint
from vitrail.errors import CheckpointError, UsageError


@pytest.fixture
def data(tmp_path):
    return tiny.npz(tmp_path / "data")


def sound(folder):
    found = []
    for path in checkpoint.list_checkpoints(folder):
        try:
            found.append(checkpoint.load(path).numbers["step"])
        except CheckpointError:
            continue
    return found


@pytest.mark.parametrize("keep", [2, 3])
def test_one_is_sound_whenever_another_is_removed(keep, data, tmp_path, monkeypatch):
    out, left, remove = tmp_path / "run", [], shutil.rmtree

    def watched(path, ignore_errors=False):
        if path.name.startswith("step-"):
            left.append(sound(out / "checkpoints"))
            (path / "manifest.json").unlink()  # as if it stopped half-way
            left.append(sound(out / "checkpoints"))
        remove(path, ignore_errors=ignore_errors)

    monkeypatch.setattr(shutil, "rmtree", watched)
    tiny.finish(
        tiny.begin(tiny.recipe(data, train={"steps": 10}, runtime={"save_every": 1, "keep_checkpoints": keep}), out)
    )
    assert len(left) == 2 * (10 - keep)
    assert all(len(steps) >= keep for steps in left)
    assert all(max(steps) == keep + 1 + i // 2 for i, steps in enumerate(left)), (
        "the newest is there before an old one goes"
    )
    assert sound(out / "checkpoints") == list(range(10, 10 - keep, -1))


def test_one_is_sound_at_every_moment_that_another_process_looks(data, tmp_path):
    out, seen, over = tmp_path / "run", [], threading.Event()

    def look():
        while not over.is_set():
            if steps := sound(out / "checkpoints"):
                seen.append(steps)
            elif seen:
                seen.append([])
            time.sleep(0.001)

    thread = threading.Thread(target=look)
    thread.start()
    tiny.finish(tiny.begin(tiny.recipe(data, train={"steps": 30}, runtime={"save_every": 1}), out))
    over.set()
    thread.join()
    assert len(seen) > 20
    assert all(seen)


def test_a_failed_save_removes_nothing(data, tmp_path, monkeypatch):
    out = tmp_path / "run"
    tiny.finish(tiny.begin(tiny.recipe(data), out))
    before = tiny.steps(out)
    saved = checkpoint.load(out / "checkpoints" / before[-1])

    def full(*given):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("vitrail.storage.atomic.write_through", full)
    with pytest.raises(OSError, match="No space left"):
        checkpoint.save(out / "checkpoints", saved.parts, {**saved.numbers, "step": 15})
    assert tiny.steps(out) == before
    assert sound(out / "checkpoints") == [12, 9]


def test_damaged_later_ones_do_not_push_out_what_is_sound(data, tmp_path):
    """After going on from an old checkpoint, what is written now counts, not the damaged ones with higher numbers."""
    out = tmp_path / "run"
    tiny.finish(tiny.begin(tiny.recipe(data, runtime={"keep_checkpoints": 4}), out))
    folder = out / "checkpoints"
    for step in ("step-00000009", "step-00000012"):
        (folder / step / "manifest.json").unlink()
    saved, reasons = checkpoint.load_newest(folder)
    assert saved is not None
    assert saved.numbers["step"] == 6
    assert len(reasons) == 2
    checkpoint.save(folder, saved.parts, {**saved.numbers, "step": 7}, 2)
    assert sound(folder) == [7, 6]
    checkpoint.save(folder, saved.parts, {**saved.numbers, "step": 8}, 2)
    assert sound(folder) == [8, 7]
    checkpoint.save(folder, saved.parts, {**saved.numbers, "step": 12}, 2)
    assert sound(folder)[0] == 12, "a damaged one of the same step is written anew"


@pytest.mark.parametrize("keep", [1, 0, -3])
def test_fewer_than_two_are_refused(keep, data, tmp_path):
    with pytest.raises(UsageError, match="fewer than 2"):
        tiny.begin(tiny.recipe(data, runtime={"keep_checkpoints": keep}), tmp_path / "run")
    assert not (tmp_path / "run").exists()
    tiny.begin(tiny.recipe(data), tmp_path / "run")
    with pytest.raises(UsageError, match="fewer than 2"):
        tiny.again(tmp_path / "run", [("runtime", {"keep_checkpoints": keep})])
