"""A whole run as data: read, overridden, written and read again; every recipe that is handed out."""

import dataclasses
import importlib.util
import math
import os
import subprocess
import sys
import tomllib
import zipfile
from pathlib import Path

import pytest

from vitrail import catalog
from vitrail.assembly.run_directory import to_toml
from vitrail.cli.syntax.keys import take_keys
from vitrail.errors import UsageError, choose, nearest
from vitrail.recipe import CHOICES, SECTIONS, Choice, Recipe, changes, find, from_tables, override, read, to_tables

RECIPES = sorted((Path(__file__).parents[1] / "recipes").glob("*.toml"))
OWN = [
    p for p in RECIPES if "\n# Source: " not in p.read_text(encoding="utf-8")
]  # test_recipes.py runs those of papers
FULL = {
    "model": {"name": "vit/nano", "depth": 2, "patch": [4, 2], "layer_scale": 0.1, "stem": "patch"},
    "data": {"name": "table", "path": 'a "quoted" path\\é.csv', "classes": ["a", "b # c"], "held_out": 0.1},
    "task": {"name": "classification", "smoothing": 0.0},
    "input": {
        "size": [28, 32],
        "channels": 1,
        "mean": [0.5],
        "std": [1e-3],
        "resize_mode": "crop",
        "background": [0, 1, 255],
    },
    "augment": {"crop": "none", "hflip": False, "scale": [0.1, 1.0], "mixup": 0.8},
    "optim": {"lr": 1e-30, "betas": [0.0, 0.99], "freeze": 3, "warmup_steps": 0},
    "train": {"steps": 10**9, "seed": 2**63 - 1, "precision": "bf16", "compile": True},
    "runtime": {"micro_batch": 1, "workers": 0},
}


def write(path, text):
    path.write_text(text, encoding="utf-8")
    return path


def test_a_recipe_to_toml_and_back_is_the_same(tmp_path):
    for recipe in (Recipe(), from_tables(FULL)):
        text = to_toml(recipe, ["a reason", "of two\r\nlines"])
        assert from_tables(tomllib.loads(text.replace("\nlines", "\n# lines"))) == recipe
        assert read(write(tmp_path / "r.toml", to_toml(recipe, []))) == recipe


def test_what_is_given_is_what_is_read():
    tables = to_tables(from_tables(FULL))
    for section, keys in FULL.items():
        for key, value in keys.items():
            assert tables[section][key] == value


def test_numbers_of_every_size_survive(tmp_path):
    for lr in (5e-324, 1e-8, 0.1, 1 / 3, math.pi, 1e300):
        recipe = override(Recipe(), "optim", {"lr": lr})
        assert read(write(tmp_path / "r.toml", to_toml(recipe, []))).optim.lr == lr


def test_override_leaves_the_old_recipe_alone_and_changes_only_what_is_said():
    old = from_tables(FULL)
    new = override(old, "optim", {"lr": 0.5})
    assert (old.optim.lr, new.optim.lr) == (1e-30, 0.5)
    assert dataclasses.replace(new, optim=old.optim) == old
    assert [c.key for c in changes(old, new)] == ["optim.lr"]
    assert changes(old, override(old, "runtime", {"workers": 7})) == []


def test_a_whole_number_is_a_number_but_not_the_other_way():
    assert override(Recipe(), "optim", {"lr": 1}).optim.lr == 1.0
    for section, key, value in (
        ("train", "batch_size", 1.0),
        ("train", "batch_size", True),
        ("optim", "lr", "1"),
        ("train", "compile", 1),
    ):
        with pytest.raises(UsageError, match=f"{section}.{key} takes"):
            override(Recipe(), section, {key: value})


def test_dashes_are_underscores():
    assert override(Recipe(), "train", {"eval-every": 3}).train.eval_every == 3
    assert override(Recipe(), "model", {"mlp-ratio": 3.0}).model.keys == {"mlp_ratio": 3.0}


def test_another_name_empties_the_keys_of_the_old_one_but_no_name_keeps_them():
    named = override(Recipe(), "model", {"name": "vit/nano", "depth": 2})
    assert override(named, "model", {"width": 48}).model == Choice("vit/nano", {"depth": 2, "width": 48})
    assert override(named, "model", {"name": "vit/tiny"}).model == Choice("vit/tiny", {})
    open_name = override(Recipe(), "model", {"depth": 2})
    assert override(open_name, "model", {"name": "vit/nano"}).model == Choice("vit/nano", {"depth": 2})


NEAREST = {
    "optim": {"learning_rate": "lr", "lrr": "lr", "weigth_decay": "weight_decay", "beta": "betas",
              "sheduler": "schedule",
              "wd": "weight_decay"},
    "train": {"epoch": "epochs", "num_epochs": "epochs", "batch": "batch_size", "step": "steps",
              "bacth_size": "batch_size", "Precision": "precision"},
    "augment": {"mix_up": "mixup", "rand_augment_ops": "randaugment_ops", "cut_mix": "cutmix", "vflpi": "vflip"},
    "input": {"img_size": "size", "in_channels": "channels", "means": "mean", "interpolaton": "interpolation"},
    "runtime": {"num_workers": "workers", "log_evry": "log_every", "mirco_batch": "micro_batch",
                "gradcheckpoint": "grad_checkpoint"},
}  # fmt: skip


@pytest.mark.parametrize(
    ("section", "said", "meant"), [(s, a, b) for s, table in NEAREST.items() for a, b in table.items()]
)
def test_did_you_mean(section, said, meant):
    with pytest.raises(UsageError, match=f"unknown key '{said}' in {section}; did you mean '{meant}'"):
        from_tables({section: {said: 1}})


def test_sections_that_do_not_exist():
    for said, meant in (
        ("modle", "model"),
        ("optimizer", "optim"),
        ("augmentation", "augment"),
        ("Data", "data"),
        ("trian", "train"),
    ):
        with pytest.raises(UsageError, match=f"unknown section '{said}' in here.toml; did you mean '{meant}'"):
            from_tables({said: {}}, "here.toml")


def test_nothing_near_lists_what_there_is():
    assert nearest("qqqq", ["lr", "betas"]) == []
    with pytest.raises(UsageError, match="unknown key 'qqqq'; there are betas, lr"):
        choose("qqqq", ["lr", "", "betas"], "key")
    with pytest.raises(UsageError, match="there is lr"):
        choose("", ["lr"], "key")


def test_the_nearest_of_a_very_long_name_is_found_quickly():
    assert nearest("batch" + "x" * 100_000, ["batch", "steps"]) == []


def test_words_become_keys():
    words = [
        "--data",
        "d",
        "--input.size",
        "28",
        "32",
        "r.toml",
        "--augment.no-hflip",
        "--train.compile",
        "--optim.lr=1e-3",
        "--quiet",
    ]
    rest, keys = take_keys(
        [
            *words,
            "--data.classes",
            '["a", "b"]',
            "--optim.warmup-steps",
            "None",
            "--optim.betas",
            "0.9",
            ".99",
            "--optim.clip-grad",
            "1.",
        ]
    )
    assert rest == ["--data", "d", "r.toml", "--quiet"]
    assert keys == [
        ("input", {"size": [28, 32]}), ("augment", {"hflip": False}), ("train", {"compile": True}),
        ("optim", {"lr": 1e-3}),
        ("data", {"classes": ["a", "b"]}), ("optim", {"warmup_steps": None}), ("optim", {"betas": [0.9, 0.99]}),
        ("optim", {"clip_grad": 1.0}),
    ]  # fmt: skip
    recipe = Recipe()
    for section, values in keys:
        recipe = override(recipe, section, values)
    assert (recipe.input.size, recipe.augment.hflip, recipe.optim.warmup_steps) == ((28, 32), False, None)


@pytest.mark.parametrize("section", [s for s in SECTIONS if s not in CHOICES])
def test_every_default_is_allowed_and_every_key_is_checked(section):
    part = getattr(Recipe(), section)
    assert override(Recipe(), section, dataclasses.asdict(part)) == Recipe()
    for key in dataclasses.fields(part):
        with pytest.raises(UsageError, match=f"{section}.{key.name}"):
            override(Recipe(), section, {key.name: {"a": 1}})


def test_there_are_recipes():
    assert "mini.toml" in [p.name for p in RECIPES]


@pytest.mark.parametrize("path", RECIPES, ids=lambda p: p.name)
def test_the_keys_of_a_recipe_exist(path):
    from vitrail.assembly.resolve import Names
    from vitrail.validation import update_config

    recipe = read(path)
    assert path.read_text().startswith("# vitrail train recipes/"), "its first line is the command"
    assert path.read_text().splitlines()[0].split()[3] == f"recipes/{path.name}"
    Names().model_config(recipe.model)
    layouts = [recipe.data.name] if recipe.data.name else catalog.list_modules("datasets")
    known = [{f.name for f in dataclasses.fields(catalog.load_module("datasets", layout).Config)} for layout in layouts]
    assert any(set(recipe.data.keys) <= fields for fields in known)
    update_config(catalog.load_module("tasks", recipe.task.name).Config(), recipe.task.keys, recipe.task.name)


@pytest.mark.parametrize("path", OWN, ids=lambda p: p.name)
def test_a_recipe_runs(path, tmp_path, monkeypatch):
    """Two small steps, on the embedded images where its own are not here."""
    from vitrail.cli.main import main

    monkeypatch.chdir(path.parents[1])
    recipe = read(path)
    small = ["--steps", "2", "--batch-size", "8", "--precision", "fp32", "--workers", "0"]
    if recipe.model.name.startswith("vit/"):
        small += ["--model.depth", "1", "--model.width", "32", "--model.heads", "2"]
    if recipe.optim.freeze not in ("none", "backbone"):
        small += ["--optim.freeze", "1"]
    data = str(recipe.data.keys.get("path", ""))
    if data != "mini" and not Path(data).exists():
        small += ["--data", "mini"]
    assert main(["train", str(path), "--out", str(tmp_path / "run"), "--quiet", *small]) == 0
    assert (tmp_path / "run" / "model.safetensors").is_file()


def test_one_number_stands_for_a_list_of_one():
    assert override(Recipe(), "optim", {"unfreeze_steps": 5}).optim.unfreeze_steps == (5,)
    assert override(Recipe(), "input", {"mean": 0.5}).input.mean == (0.5,)
    with pytest.raises(UsageError, match="2 "):
        override(Recipe(), "input", {"size": 28})


def test_recipes_that_come_along_are_found_from_anywhere(own_folder):
    for name in ("recipes/mini.toml", "mini.toml"):
        assert find(Path(name)).read_text() == (RECIPES[0].parent / "mini.toml").read_text()
    own_folder.joinpath("mini.toml").write_text("")
    assert find(Path("mini.toml")) == Path("mini.toml"), "one's own goes first"
    for elsewhere in ("runs/mini.toml", "nothere.toml", str(own_folder / "recipes" / "mini.toml")):
        assert find(Path(elsewhere)) == Path(elsewhere)


def test_the_command_finds_recipes_that_come_along(own_folder):
    from vitrail.cli.train import Train, build_recipe

    assert build_recipe(Train(recipe="recipes/mini.toml"), []).data.keys["path"] == "mini"


@pytest.mark.slow
def test_a_wheel_holds_the_recipes_and_what_else_is_read(tmp_path):
    """Built from the repository, unpacked, and run from there: a recipe is found, and nothing of the repository is
    needed."""
    root = Path(__file__).parents[1]
    uv = [sys.executable, "-m", "uv"] if importlib.util.find_spec("uv") else ["uv"]
    subprocess.run([*uv, "build", "-q", "--wheel", "--out-dir", str(tmp_path), str(root)], check=True)
    (wheel,) = tmp_path.glob("*.whl")
    with zipfile.ZipFile(wheel) as file:
        names = set(file.namelist())
        file.extractall(tmp_path / "site")
    assert {f"vitrail/recipes/{p.name}" for p in RECIPES} <= names
    assert {"vitrail/py.typed", "vitrail/published.toml", "vitrail/datasets/mini/train.png"} <= names
    command = [sys.executable, "-m", "vitrail", "train", "recipes/mini.toml", "--dry-run"]
    env = {**os.environ, "PYTHONPATH": str(tmp_path / "site")}
    done = subprocess.run(command, cwd=tmp_path, env=env, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "nothing was written" in done.stdout
