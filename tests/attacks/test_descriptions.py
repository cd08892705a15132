"""What a file says of itself is data: names are looked up and never imported, every field has its type, nothing is
built before it matches the tensors, and weights that are not finite are refused by name."""

import contextlib
import io
import json
import random
import shutil
import sys

import descriptions as files
import numpy as np
import pytest
import tiny
import torch
from PIL import Image

import vitrail
from vitrail.cli.main import main
from vitrail.errors import CheckpointError, VitrailError
from vitrail.storage.tensors import unpack

MODULE = """
open({marker!r}, "w").close()
from vitrail.models import vit

Config, build = vit.Config, vit.build
VARIANTS = {{"base": vit.VARIANTS["nano"]}}
"""


@pytest.fixture(scope="module")
def honest(tmp_path_factory):
    return files.model_folder(tmp_path_factory.mktemp("honest") / "model") / "model.safetensors"


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    folder = tmp_path_factory.mktemp("finished")
    small = tiny.recipe(tiny.npz(folder / "data"), model={"depth": 1, "width": 8}, train={"steps": 2})
    tiny.finish(tiny.begin(small, folder / "run"))
    return folder / "run"


@pytest.fixture
def evil(tmp_path, monkeypatch):
    """A module that could be imported; the file that it writes when it is."""
    (tmp_path / "evil").mkdir()
    (tmp_path / "evil/mod.py").write_text(MODULE.format(marker=str(tmp_path / "marker")))
    monkeypatch.syspath_prepend(tmp_path)
    yield tmp_path / "marker"
    for name in ("evil", "evil.mod"):
        sys.modules.pop(name, None)


def image(folder):
    Image.new("L", (12, 12)).save(folder / "x.png")
    return str(folder / "x.png")


@pytest.mark.parametrize("section", ["model", "task", "data"])
def test_no_name_in_a_weights_file_is_imported(section, honest, evil, tmp_path):
    def change(about):
        about["recipe"][section]["name"] = "evil.mod/base" if section == "model" else "evil.mod"

    path = files.repack(honest, tmp_path / "x.safetensors", change)
    if section == "data":  # it has no part in predictions
        vitrail.load(path)
    else:
        with pytest.raises(CheckpointError, match="never imported"):
            vitrail.load(path)
    assert not evil.exists()


def test_no_name_in_a_run_or_a_recipe_is_imported(finished, evil, tmp_path, capsys):
    run = files.copy_run(finished, tmp_path / "run")
    recipe = (run / "recipe.toml").read_text()
    for old, new in (("vit/nano", "evil.mod/base"), ('"classification"', '"evil.mod"'), ('"npz"', '"evil.mod"')):
        assert old in recipe
        (run / "recipe.toml").write_text(recipe.replace(old, new))
        for words in (
            ["train", "--resume", run, "--train.steps", "9", "--allow-change", "train.steps"],
            ["train", run / "recipe.toml", "--out", tmp_path / "new"],
            ["report", run], ["doctor", run], ["eval", run], ["probe", run], ["predict", run, image(tmp_path)],
        ):  # fmt: skip
            main([*map(str, words)])
            assert "unexpected error" not in capsys.readouterr().err
        (run / "model.safetensors").unlink(
            missing_ok=True
        )  # then the model of its checkpoints is described by the recipe
    assert not evil.exists()


def test_no_study_is_imported(evil, tmp_path, capsys):
    head = {
        "study": "evil.mod",
        "command": [],
        "config": {},
        "versions": {},
        "data": None,
        "device": "cpu",
        "threads": 1,
    }
    for value in ("evil.mod", "../evil", "", 3, None):
        (tmp_path / "study.json").write_text(json.dumps({**head, "study": value}))
        assert main(["study", "--resume", str(tmp_path)]) in (2, 4)
        assert "unexpected error" not in capsys.readouterr().err
    assert not evil.exists()


def test_a_module_of_the_users_own_is_named_again_for_its_weights(evil, tmp_path, capsys):
    """Typed for training it is imported; the files that come of it do not import it."""
    data = tiny.npz(tmp_path / "data")
    words = ["--data", str(data), "--steps", "1", "--batch-size", "8", "--workers", "0", "--quiet", "--img-size", "12"]
    model = ["--model", "evil.mod/base", "--model.depth", "1", "--model.width", "8", "--model.heads", "2"]
    assert main(["train", *words, *model, "--model.patch", "4", "--out", str(tmp_path / "run")]) == 0
    assert evil.exists()
    for name in ("evil", "evil.mod"):
        del sys.modules[name]
    evil.unlink()
    capsys.readouterr()
    predict = ["predict", str(tmp_path / "run"), image(tmp_path)]
    assert main(predict) == 4
    told = " ".join(capsys.readouterr().err.split())
    assert "--module evil.mod" in told
    assert not evil.exists()
    assert main([*predict, "--module", "evil.mod"]) == 0
    assert evil.exists()
    from vitrail.cli.from_python import parse_keywords

    for name in ("evil", "evil.mod"):
        del sys.modules[name]
    parse_keywords({"data": str(data), "model": "evil.mod/base"})  # as of vitrail.train
    assert "evil.mod" in sys.modules
    assert main([*predict, "--module=nobody.here"]) == 2
    assert main([*predict, "--module", "../evil"]) == 2


@pytest.mark.parametrize(
    ("field", "value", "told"),
    [
        (("recipe",), 3, "recipe in .* is not valid"),
        (("recipe",), object, "has no recipe"),
        (("classes",), -1, "classes in .* is not valid"),
        (("classes",), ["a", 3, "c"], "classes in .* is not valid"),
        (("classes",), ["a"], r"heads\.0\.weight is \[3, 16\] and should be \[1, 16\]"),
        (("multi_label",), [], "multi_label in .* is not valid"),
        (("format",), True, "has format True"),
        (("recipe", "model", "depth"), 2**40, "at most 1000"),
        (("recipe", "model", "depth"), 999, "does not fit|more than"),
        (("recipe", "model", "width"), 2**62, "at most 1,048,576"),
        (("recipe", "model", "width"), 2**20, "does not fit"),
        (("recipe", "input", "size"), [2**30, 2**30], "at most 16384"),
        (("recipe", "input", "channels"), 3, "3 channels"),
        (("recipe", "input", "mean"), [0.1, 0.2], "2 values for 1 channels"),
        (("recipe", "input", "std"), [0.0], "more than 0"),
        (("recipe", "task", "smoothing"), "x", "smoothing"),
        (("recipe", "no_such"), {}, "unknown section"),
    ],
)
def test_every_field_is_checked_before_anything_is_built(field, value, told, honest, tmp_path):
    path = files.repack(honest, tmp_path / "x.safetensors", lambda about: files.put(about, field, value))
    with pytest.raises(CheckpointError, match=told) as error:
        vitrail.load(path)
    assert str(path) in str(error.value)


def test_tables_that_are_no_tensors_of_the_file_are_counted_too(tmp_path):
    """A fixed position table is not in the file, so nothing in it limits its size."""
    made = vitrail.create(
        "vit/nano", classes=2, channels=1, size=12, patch=4, depth=1, width=16, heads=2, position="sincos2d"
    )
    path = vitrail.save(made, tmp_path / "model") / "model.safetensors"
    vitrail.load(path)

    def change(about):
        about["recipe"]["model"]["size"] = about["recipe"]["input"]["size"] = [16_384, 16_384]

    with pytest.raises(CheckpointError, match="bytes of tables"):
        vitrail.load(files.repack(path, tmp_path / "x.safetensors", change))


def test_weights_that_are_not_finite_are_refused_by_name(honest, finished, tmp_path, capsys):
    def spoil(tensors):
        return {**tensors, "heads.0.weight": tensors["heads.0.weight"] * float("nan")}

    path = str(files.repack(honest, tmp_path / "x.safetensors", lambda about: about, spoil))
    run = files.copy_run(finished, tmp_path / "run")
    for file in (run / "model.safetensors", *(run / "best").glob("*.safetensors")):
        files.repack(file, file, lambda about: about, spoil)
    data = str(finished.parent / "data/tiny.npz")
    for words in (
        ["predict", path, image(tmp_path), "--json"], ["eval", path, "--data", data], ["look", path, image(tmp_path)],
        ["train", "--data", data, "--weights", path, "--out", str(tmp_path / "new")],
        ["predict", str(run), image(tmp_path)],
    ):  # fmt: skip
        assert main(words) == 4, words
        out, err = capsys.readouterr()
        assert "heads.0.weight" in err
        assert "NaN" not in out
    assert not (tmp_path / "new").exists()


def test_a_checkpoint_that_is_not_finite_is_skipped_with_its_reason(finished, tmp_path, capsys):
    run = files.copy_run(finished, tmp_path / "run")
    (newest,) = (run / "checkpoints").iterdir()
    (run / "model.safetensors").unlink()
    part = newest / "model.safetensors"
    tensors, about = unpack(part)
    tensors["heads.0.bias"][0] = float("inf")
    part.write_bytes(files.pack(tensors, about))
    files.rewrite(newest / "state.json", lambda numbers: numbers)
    assert main(["train", "--resume", str(run), "--steps", "3", "--allow-change", "train.steps"]) == 4
    assert "heads.0.bias" in capsys.readouterr().err


def test_what_stands_in_run_json_has_its_type(finished, tmp_path, capsys):
    run = files.copy_run(finished, tmp_path / "run")
    good = (run / "run.json").read_text()
    for field, value in ((("data",), None), (("classes",), 3), (("metric",), []), (("data", "left_out"), [1]),
                         (("data", "parts"), {"train": "x"}), (("parameters",), "x"), (("reasons",), {})):  # fmt: skip
        files.rewrite(run / "run.json", lambda about, at=field, new=value: files.put(about, at, new))
        for words in (["report", str(run)], ["train", "--resume", str(run)]):
            assert main(words) == 4, (field, words)
            assert field[-1] in capsys.readouterr().err
        (run / "run.json").write_text(good)


def test_a_recipe_of_another_model_is_told_before_it_is_built(finished, tmp_path, capsys):
    run = files.copy_run(finished, tmp_path / "run")
    recipe = (run / "recipe.toml").read_text()
    for depth, told in ((2**40, "at most 1000"), (900, "does not fit|more than")):
        (run / "recipe.toml").write_text(recipe.replace("depth = 1\n", f"depth = {depth}\n"))
        assert main(["train", "--resume", str(run)]) in (2, 4)
        err = " ".join(capsys.readouterr().err.split())
        assert any(part in err for part in told.split("|")), err


# A small part of a fuzz that runs for minutes elsewhere: every reader, seeded, and only our errors leave.


def only_ours(work):
    """Runs it; any error but ours fails the test."""
    with contextlib.suppress(VitrailError):
        work()


def test_fuzzed_fields_of_a_weights_file(honest, tmp_path):
    about, pixels = unpack(honest)[1], np.zeros((20, 30), np.uint8)
    jobs = [(at, new) for at in files.places(about) for new in (*files.ODD, object)]
    for at, new in random.Random(0).sample(jobs, 60):
        path = files.repack(honest, tmp_path / "x.safetensors", lambda a, at=at, new=new: files.put(a, at, new))
        only_ours(lambda path=path: vitrail.load(path).predict(pixels))


def test_fuzzed_bytes_of_files_of_weights(honest, tmp_path):
    tensors = {name: t.numpy() for name, t in unpack(honest)[0].items()}
    packed, pickled = io.BytesIO(), io.BytesIO()
    np.savez_compressed(packed, **tensors)
    torch.save(unpack(honest)[0], pickled)
    model, chance = vitrail.load(honest).model, random.Random(1)
    for suffix, content in (
        (".safetensors", honest.read_bytes()),
        (".npz", packed.getvalue()),
        (".pth", pickled.getvalue()),
    ):
        for _ in range(30):
            changed = bytearray(content)
            for _ in range(chance.choice((1, 1, 3, 30))):
                changed[chance.randrange(min(len(changed), chance.choice((64, 4096, 10**9))))] = chance.randrange(256)
            path = tmp_path / f"x{suffix}"
            path.write_bytes(changed[: chance.choice((None, None, None, chance.randrange(len(changed))))])
            only_ours(lambda path=path: vitrail.load_weights(model, path))
            if suffix == ".safetensors":
                only_ours(lambda path=path: vitrail.load(path))


def test_fuzzed_fields_of_a_run_folder(finished, tmp_path):
    run, chance = files.copy_run(finished, tmp_path / "run"), random.Random(2)
    (checkpoint,) = (run / "checkpoints").iterdir()
    (run / "model.safetensors").unlink()
    shutil.rmtree(run / "best", ignore_errors=True)
    for file, count in ((run / "run.json", 10), (checkpoint / "state.json", 8)):
        good = json.loads(file.read_text())
        jobs = [(at, new) for at in files.places(good) for new in (*files.ODD, object)]
        for at, new in chance.sample(jobs, count):
            files.rewrite(file, lambda a, at=at, new=new: files.put(a, at, new))
            only_ours(lambda: vitrail.load(run))
            only_ours(lambda: tiny.again(run))
            files.rewrite(file, lambda _, old=good: old)
