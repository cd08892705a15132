"""Other tools' and earlier recipes' flags are answered with ours; flags without a section are keys of recipes."""

import json
import re
import tomllib

import pytest
from places import TINY, everything, images, must, vitrail

from vitrail.cli.main import COMMANDS, command
from vitrail.cli.syntax.arguments import own_flags, recipe_flags
from vitrail.cli.syntax.flags import FLAGS, flag_of
from vitrail.cli.syntax.former import renamed
from vitrail.cli.syntax.spellings import SPELLINGS
from vitrail.recipe import SECTIONS
from vitrail.validation import RENAMED

USAGE = 2
THEIRS = [(name, ours) for ours, names in SPELLINGS.items() for name in names.split()]
TYPICAL = [  # what one types in other tools: the flag that the answer names
    ("--imgsz 224", "--img-size"), ("--batch 64", "--batch-size"), ("--learning-rate 1e-3", "--lr"),
    ("--pretrained x", "--weights"), ("--image-size 224", "--img-size"), ("--num-epochs 3", "--epochs"),
    ("--optimizer sgd", flag_of("optim", "name")), ("--per_device_train_batch_size 8", "--batch-size"),
    ("--num_train_epochs 3", "--epochs"), ("--learning_rate 1", "--lr"), ("--output_dir x", "--out"),
    ("--data-path x", "--data"), ("--data-dir x", "--data"), ("--wd 0.1", "--weight-decay"),
    ("--max_epochs 3", "--epochs"), ("--ckpt_path x", "--resume"), ("--lr0 0.1", "--lr"), ("--project x", "--out"),
    ("--opt sgd", flag_of("optim", "name")),
]  # fmt: skip


KEYS = recipe_flags()  # reads every module's source, so once


def takes(name):
    verb = command(name)
    keys = (key for key in KEYS if key[2:].split(".")[0] in verb.sections)
    return {*own_flags(verb.kind), *(f.flag for f in verb.flags), *keys}


TAKES = {name: takes(name) for name in COMMANDS}


@pytest.mark.parametrize(("theirs", "ours"), THEIRS, ids=[name for name, _ in THEIRS])
def test_every_other_spelling_is_answered_with_a_flag_that_there_is(theirs, ours, monkeypatch):
    monkeypatch.setattr("vitrail.cli.syntax.arguments.recipe_flags", lambda: KEYS)
    flag = ours.split()[0]
    verbs = [name for name in COMMANDS if flag in TAKES[name] and f"--{theirs}" not in TAKES[name]]
    assert verbs, f"no command takes {flag}"
    for name in {verbs[0], "train"} & set(verbs):
        code, _, err = vitrail(name, f"--{theirs}", "1")
        assert code == USAGE
        assert f"unknown option --{theirs}; here it is {ours}" in " ".join(err.split())


def test_no_spelling_stands_twice_or_is_ours():
    names = [name for name, _ in THEIRS]
    assert len(names) == len(set(names))
    assert not {f"--{name}" for name in names} & TAKES["train"]


@pytest.mark.parametrize(("words", "flag"), TYPICAL)
def test_typical_spellings(words, flag):
    code, out, err = vitrail("train", "--data", "mini", *words.split())
    assert (code, out) == (USAGE, "")
    assert f"here it is {flag}" in err


@pytest.mark.parametrize(("old", "now"), [pair for pair in RENAMED.items() if "." in pair[0]])
def test_former_keys_are_answered_with_what_they_are_now(old, now):
    flag, ours = f"--{old}".replace("_", "-"), flag_of(*now.split("."))
    if flag in KEYS:
        pytest.skip("the key still has this name")
    assert renamed(*old.split(".")) == ours
    code, _, err = vitrail("train", "--data", "mini", flag, "1")
    assert code == USAGE
    assert f"{flag} is {ours} now" in " ".join(err.split())
    assert ours in {*KEYS, *(f.flag for f in FLAGS)}


def test_keys_that_only_changed_their_section():
    if "plan" in SECTIONS:
        pytest.skip("the section still has this name")
    assert renamed("plan", "epochs") == "--epochs"
    assert renamed("plan", "eval_every") == "--train.eval-every"
    assert renamed("plan", "batch_size") == "--batch-size"
    assert renamed("optim", "lr") == ""


def test_flags_without_a_section_are_keys_of_the_recipe(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    images(tmp_path / "good")
    words = ["--steps", "2", "-b", "4", "--lr", "1e-3", "--weight-decay", "0.1", "--img-size", "16", "--seed", "3",
             "--workers", "0", "--precision", "fp32", "--task", "classification"]  # fmt: skip
    must("train", "--data", "good", *TINY, *words, "--device", "cpu", "--out", "run", "--quiet")
    text = (tmp_path / "run" / "recipe.toml").read_text()
    lines = ["steps = 2", "lr = 0.001", "weight_decay = 0.1", "seed = 3", "workers = 0",
             'precision = "fp32"', 'name = "vit/nano"', 'name = "classification"']  # fmt: skip
    for line in lines:
        assert re.search(rf"^{re.escape(line)}$", text, re.MULTILINE), line
    assert re.search(r"^batch(_size)? = 4$", text, re.MULTILINE)
    recipe = tomllib.loads(text)
    assert recipe["input"]["size"] == [16, 16]
    assert recipe["data"]["path"].endswith("good")
    must("train", "--resume", "run", "--workers", "0", "--dry-run")
    other = must("eval", "run", "--img-size", "24", "--json")
    assert json.loads(other)["count"] == 2
    assert "at 16x16" in must("eval", "run", "--img-size", "24", "12")


def test_a_flag_and_its_key_are_the_same(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    key = next(f"--{f.key[0]}.{f.key[1]}".replace("_", "-") for f in FLAGS if f.name == "batch-size")
    code, _, err = vitrail("train", "--data", "mini", "--batch-size", "4", key, "4")
    assert code == USAGE
    assert "--batch-size is given twice" in err
    code, _, err = vitrail("train", "--data", "mini", "--batch-size", "four")
    assert "--batch-size takes a whole number, not 'four'" in err
    code, _, err = vitrail("train", "--data", "mini", "--img-size", "0")
    assert "--img-size takes 2 whole numbers" in err
    code, _, err = vitrail("train", "--data", "mini", "--epochs", "1", "--steps", "1")
    assert "--steps and --epochs are both given" in err
    assert not everything(tmp_path)
