"""Going on with a run under other settings or other data: what would change the result is refused by name, the rest is
taken."""

import os
import shutil

import pytest
import tiny
from quick import spread

from vitrail.assembly.run_directory import RunFolder
from vitrail.cli.main import main
from vitrail.errors import DataError, UsageError


@pytest.fixture(scope="module")
def begun(tmp_path_factory):
    """A run of three steps of twelve."""
    folder = tmp_path_factory.mktemp("refusals")
    running = tiny.begin(tiny.recipe(tiny.npz(folder / "data")), folder / "run")
    from vitrail.training import loop

    for event in loop.run_training(running):
        if event.kind == "saved":
            break
    return folder / "run"


@pytest.fixture(scope="module")
def plain(begun, tmp_path_factory):
    """The same run, gone on with to its end."""
    out = shutil.copytree(begun, tmp_path_factory.mktemp("plain") / "run")
    tiny.finish(tiny.again(out))
    return out


@pytest.fixture
def run(begun, tmp_path):
    shutil.copytree(begun, tmp_path / "run")
    return tmp_path / "run"


LOCKED = {  # flag: (its value when the run began, another)
    "model.depth": ("2", "3"),
    "model.dropout": ("0.1", "0.2"),
    "input.size": ("[12, 12]", "16 16"),
    "augment.mixup": ("0.3", "0.4"),
    "augment.randaugment_ops": ("0", "2"),
    "optim.lr": ("0.0011", "0.5"),
    "optim.weight-decay": ("0.05", "0.1"),
    "optim.ema_decay": ("0.9", "0.0"),
    "train.steps": ("12", "20"),
    "train.batch_size": ("16", "32"),
    "train.seed": ("0", "1"),
    "train.precision": ("fp32", "bf16"),
    "task.smoothing": ("", "0.2"),
}
FREE = {"micro_batch": 4, "workers": 1, "grad_checkpoint": True, "log_every": 5, "save_every": 2, "keep_checkpoints": 3}


@pytest.mark.parametrize("flag", LOCKED)
def test_a_setting_that_would_change_the_result_is_refused_by_name(flag, run, capsys):
    before = {p: p.read_bytes() for p in run.rglob("*") if p.is_file()}
    old, new = LOCKED[flag]
    assert main(["train", "--resume", str(run), "--device", "cpu", f"--{flag}", *new.split()]) == 2
    said = " ".join(capsys.readouterr().err.split())
    key = flag.replace("-", "_")
    assert f"{key}: {old}" in said or not old
    assert f"-> {new}" in said or flag == "input.size"
    assert f"--allow-change {key}" in said
    assert {p: p.read_bytes() for p in run.rglob("*") if p.is_file()} == before, "nothing was touched"


def test_another_model_or_data_set_is_refused(run, tmp_path, capsys):
    for words in (["--model", "vit/tiny"], ["--data", "mini"], ["--data", str(tiny.npz(tmp_path / "other", train=60))]):
        assert main(["train", "--resume", str(run), "--device", "cpu", *words]) == 2, words
        said = " ".join(capsys.readouterr().err.split())
        assert "would change the result" in said
        assert words[1].rpartition("/")[2] in said


@pytest.mark.parametrize("key", spread(FREE, 3))
def test_a_setting_of_the_machine_is_taken(key, run):
    """The run did not say what it costs: time and memory are the machine's affair."""
    running = tiny.again(run, [("runtime", {key: FREE[key]})])
    assert getattr(running.recipe.runtime, key) == FREE[key]
    assert running.state.step == 3
    assert running.changed == ()
    assert tiny.finish(running)[-1].kind == "done"


@pytest.mark.parametrize(
    "key", spread(["workers", "log_every", "grad_checkpoint", "keep_checkpoints", "save_every"], 3)
)
def test_a_setting_of_the_machine_leaves_the_result_as_it_is(key, run, plain):
    tiny.finish(tiny.again(run, [("runtime", {key: FREE[key]})]))
    assert tiny.digest(run / "model.safetensors") == tiny.digest(plain / "model.safetensors")


def test_what_is_allowed_to_change_changes_and_is_kept(run):
    folder = RunFolder(run)
    running = tiny.again(run, [("train", {"steps": 20})], ["train.steps"])
    assert running.steps == 20
    assert "train.steps: 12 -> 20" in running.notes
    tiny.finish(running)
    assert tiny.steps(run)[-1] == "step-00000020"
    assert folder.recipe().train.steps == 20
    assert folder.about()["changed"] == [{"step": 3, "key": "train.steps", "old": 12, "new": 20}]
    again = tiny.again(run)
    assert (again.steps, again.state.step) == (20, 20)


def test_allowing_one_change_does_not_allow_another(run):
    with pytest.raises(UsageError, match=r"train\.seed") as told:
        tiny.again(run, [("train", {"steps": 20, "seed": 5})], ["train.steps"])
    assert "train.steps" not in told.value.what


def test_fewer_steps_than_are_done_are_refused(run):
    with pytest.raises(UsageError, match=r"3 steps, more than train\.steps = 2"):
        tiny.again(run, [("train", {"steps": 2})], ["train.steps"])


def test_looking_at_a_change_without_running_keeps_nothing(run):
    before = (run / "recipe.toml").read_bytes()
    words = [
        "train",
        "--resume",
        str(run),
        "--steps",
        "20",
        "--allow-change",
        "train.steps",
        "--device",
        "cpu",
        "--dry-run",
    ]
    assert main(words) == 0
    assert (run / "recipe.toml").read_bytes() == before


def add(data):
    shutil.copy(data / "ant" / "000.png", data / "ant" / "new.png")
    return "added: ant/new.png"


def remove(data):
    (data / "bee" / "003.png").unlink()
    return "removed: bee/003.png"


def rename(data):
    os.rename(data / "bee" / "003.png", data / "bee" / "other.png")
    return "added: bee/other.png"


def move_to_another_class(data):
    os.rename(data / "bee" / "003.png", data / "ant" / "moved.png")
    return "added: ant/moved.png"


def grow(data):
    with (data / "ant" / "002.png").open("ab") as file:
        file.write(b"\0")
    return "resized: ant/002.png"


def rewrite(data):
    """Another pixel, the same number of bytes."""
    path = data / "ant" / "002.png"
    content = bytearray(path.read_bytes())
    content[-14] ^= 1
    path.write_bytes(content)
    return "touched"


def touch(data):
    os.utime(data / "ant" / "002.png")
    return "touched"


def folder_run(tmp_path, fingerprint):
    data = tiny.images(tmp_path / "data")
    tiny.finish(tiny.begin(tiny.recipe(data, train={"steps": 2}, data={"fingerprint": fingerprint}), tmp_path / "run"))
    return data, tmp_path / "run"


@pytest.mark.parametrize("harm", [add, remove, rename, move_to_another_class, grow, rewrite, touch])
def test_a_data_set_that_changed_is_refused_with_the_difference(harm, tmp_path, capsys):
    data, run = folder_run(tmp_path, "stat")
    wanted = harm(data)
    with pytest.raises(DataError, match="changed since the run started") as told:
        tiny.again(run)
    assert wanted in told.value.what
    assert main(["train", "--resume", str(run), "--device", "cpu"]) == 3
    assert "Traceback" not in capsys.readouterr().err


@pytest.mark.parametrize("harm", [add, remove, rename, move_to_another_class, rewrite])
def test_a_fingerprint_of_the_contents_notices_the_same(harm, tmp_path):
    data, run = folder_run(tmp_path, "content")
    harm(data)
    with pytest.raises(DataError):
        tiny.again(run)


def test_a_fingerprint_of_the_contents_does_not_mind_dates(tmp_path):
    data, run = folder_run(tmp_path, "content")
    touch(data)
    assert tiny.again(run).state.step == 2


def test_a_data_set_that_has_gone_is_named(tmp_path):
    data, run = folder_run(tmp_path, "stat")
    shutil.rmtree(data)
    with pytest.raises(DataError, match="data"):
        tiny.again(run)


def test_a_command_that_asks_for_nothing_new_is_no_change(run, monkeypatch):
    data = RunFolder(run).recipe().data.keys["path"]
    monkeypatch.chdir(os.path.dirname(data))
    assert (
        tiny.again(
            run, [("data", {"path": "tiny.npz"}), ("train", {"batch_size": 16}), ("model", {"depth": 2})]
        ).changed
        == ()
    )
