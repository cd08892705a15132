"""The recipes of papers: each is whole, names what there is, and runs when everything about it is made small."""

import dataclasses
import math
import re
from pathlib import Path
from typing import Any

import pytest
import tiny

from vitrail import catalog
from vitrail.assembly.resolve import Names
from vitrail.recipe import DataConfig, Recipe, override, read
from vitrail.training import create, loop
from vitrail.validation import update_config

ROOT = Path(__file__).parents[1]
PUBLISHED = [p for p in sorted((ROOT / "recipes").glob("*.toml")) if "\n# Source: " in p.read_text(encoding="utf-8")]
NAMED = [p.stem for p in PUBLISHED]
SHRUNK: dict[str, dict[str, Any]] = {  # by family: what makes its models small
    "vit": {"depth": 1, "width": 16, "heads": 2},
    "deit": {"depth": 1, "width": 16, "heads": 2},
    "swin": {"depths": [1, 1, 1, 1], "width": 8, "heads": [1, 1, 2, 2], "window": 4},
    "pvt_v2": {"depths": [1, 1, 1, 1], "widths": [8, 8, 16, 16], "heads": [1, 1, 2, 2]},
    "crossvit": {"depths": [1, 1], "widths": [16, 16], "heads": [2, 2], "stages": 1},
    "efficientvit": {"depths": [1, 1, 1, 1, 1], "widths": [4, 8, 8, 16, 16], "head_width": 8, "pre_logits": [16, 16]},
    "efficientvit_msra": {"depths": [1, 1, 1], "widths": [16, 16, 16], "heads": [2, 2, 2], "key_width": 4},
    "resnet": {"depths": [1, 1, 1, 1], "width": 8},
    "mobilevit": {"widths": [8, 8, 8, 16, 16], "token_widths": [16, 16, 16], "depths": [1, 1, 1], "summary_width": 16},
}
SIDE = {"crossvit": 60, "efficientvit_msra": 64}  # pixels; others take 32
CHOSEN = ("input.size", "input.mean", "input.std", "input.resize_mode", "augment.crop", "augment.hflip", "optim.lr",
          "optim.warmup_steps",
          "train.batch_size", "train.eval_every")  # fmt: skip


def small(recipe: Recipe, data: Path) -> Recipe:
    """The recipe with a tiny model of its family on tiny images, for two steps. What it says of training stays."""
    family = recipe.model.name.partition("/")[0]
    side = SIDE.get(family, 32)
    keys = dict(SHRUNK[family])
    if recipe.model.keys.get("pre_logits"):
        keys["pre_logits"] = 16
    recipe = override(recipe, "model", keys)
    recipe = dataclasses.replace(recipe, data=DataConfig("", {"path": str(data), "held_out": 0.2}))
    recipe = override(recipe, "input", {"size": [side, side]})
    recipe = override(recipe, "optim", {"warmup_steps": 1})
    recipe = override(
        recipe, "train", {"epochs": None, "steps": 2, "batch_size": 12, "eval_every": 0, "precision": "fp32"}
    )
    return override(recipe, "runtime", {"workers": 0, "log_every": 1, "save_every": 100})


@pytest.fixture(scope="module")
def images(tmp_path_factory):
    return tiny.images(tmp_path_factory.mktemp("recipes") / "images", each=10, size=40)


def trained(path: Path, data: Path, out: Path) -> list[loop.Event]:
    """Two steps of a small version of a recipe. One that starts from weights starts from those of another, small,
    first."""
    recipe = small(read(path), data)
    if recipe.init.weights:
        first = path.with_name(f"{Path(recipe.init.weights).name}.toml")
        trained(first, data, out / "first")
        recipe = override(recipe, "init", {"weights": str(out / "first" / "run")})
    if recipe.task.name == "distillation":
        trained(path.with_name("deit-small.toml"), data, out / "teacher")
        recipe = override(recipe, "task", {"teacher": str(out / "teacher" / "run")})
    return list(loop.run_training(create.create_session(recipe, out / "run", tiny.ALONE)[0]))


def test_there_are_recipes_of_every_family_that_was_promised():
    assert len(PUBLISHED) >= 23
    assert {read(p).model.name.partition("/")[0] for p in PUBLISHED} == set(SHRUNK)


@pytest.mark.parametrize("path", PUBLISHED, ids=NAMED)
def test_the_head_of_a_recipe_says_how_it_is_run_and_what_it_gave(path):
    head = [line for line in path.read_text(encoding="utf-8").partition("\n[")[0].splitlines() if line]
    assert head[0] == f"# vitrail train recipes/{path.name}"
    assert all(line.startswith("# ") for line in head)
    assert re.search(r"arXiv:\d{4}\.\d{5}", "\n".join(head))
    assert re.search(r"\d\d\.\d+ %", "\n".join(head)), "what the paper reports"
    assert re.search(r"epochs", "\n".join(head))


@pytest.mark.parametrize("path", PUBLISHED, ids=NAMED)
def test_what_a_recipe_names_is_there(path):
    recipe = read(path)
    room, _, variant = recipe.model.name.partition("/")
    assert recipe.model.name in catalog.list_names("models", room)
    assert variant
    Names().model_config(recipe.model)
    update_config(catalog.load_module("tasks", recipe.task.name).Config(), recipe.task.keys, recipe.task.name)
    update_config(catalog.load_module("datasets", "imagefolder").Config(), recipe.data.keys, "data")


@pytest.mark.parametrize("path", PUBLISHED, ids=NAMED)
def test_a_recipe_leaves_nothing_to_be_chosen_from_the_data(path):
    """Everything that a run would choose by itself is said, so that what is trained is what the paper trained."""
    recipe = read(path)
    assert [
        key for key in CHOSEN if getattr(getattr(recipe, key.partition(".")[0]), key.partition(".")[2]) is None
    ] == []
    assert (recipe.train.epochs is None) != (recipe.train.steps is None)
    assert recipe.input.channels == len(recipe.input.mean) == len(recipe.input.std) == 3
    assert recipe.optim.warmup_steps < (recipe.train.steps or recipe.train.epochs * 1_281_167 / recipe.train.batch_size)


@pytest.mark.parametrize("path", PUBLISHED, ids=NAMED)
def test_a_recipe_trains(path, images, tmp_path):
    events = trained(path, images, tmp_path)
    losses = [e.values["loss"] for e in events if e.kind == "train"]
    assert len(losses) == 2
    assert all(math.isfinite(loss) and loss > 0 for loss in losses)
    assert (tmp_path / "run" / "model.safetensors").is_file()


def test_rates_that_grow_with_the_batch_are_said_for_the_batch_that_is_said():
    """Where the comment gives the rule, the rate follows it."""
    rules = 0
    for path in PUBLISHED:
        said = re.search(r"^lr = (\S+) +# (\S+) x batch / (\d+)$", path.read_text(encoding="utf-8"), re.MULTILINE)
        if said:
            rate, base, per = map(float, said.groups())
            assert rate == pytest.approx(base * read(path).train.batch_size / per), path.name
            rules += 1
    assert rules >= 6


def test_warm_up_counts_steps_as_its_comment_says():
    counted = 0
    for path in PUBLISHED:
        said = re.search(
            r"^warmup_steps = (\d+) +# (\d+) epochs of ([\d,]+) steps$", path.read_text(encoding="utf-8"), re.MULTILINE
        )
        if said:
            warmup, epochs, each = (int(word.replace(",", "")) for word in said.groups())
            assert each == math.ceil(1_281_167 / read(path).train.batch_size), path.name
            assert warmup == epochs * each, path.name
            counted += 1
    assert counted >= 10


def test_the_page_lists_every_recipe_with_its_figures():
    page = (ROOT / "docs/recipes.md").read_text(encoding="utf-8")
    rows = {m[1]: m[0] for m in re.finditer(r"^\| \[(\S+?)\]\(\.\./recipes/\S+\) \|.*$", page, re.MULTILINE)}
    assert set(rows) == set(NAMED)
    for path in PUBLISHED:
        recipe, row = read(path), rows[path.stem]
        cells = [cell.strip() for cell in row.strip("|").split("|")]
        assert f"../recipes/{path.name}" in cells[0]
        assert cells[1] == recipe.model.name
        assert cells[3] == (f"{recipe.train.epochs:g}" if recipe.train.epochs else f"{recipe.train.steps:,} steps")
        assert cells[4] == str(recipe.train.batch_size)
        assert cells[5] == "not printed" or f"{cells[5].split()[0]} %" in path.read_text(encoding="utf-8")


def test_the_commands_of_the_page_are_understood(images, tmp_path, monkeypatch):
    """As they stand, on other images and weights, up to the first step."""
    from vitrail.cli.main import main

    monkeypatch.chdir(ROOT)
    page = (ROOT / "docs/recipes.md").read_text(encoding="utf-8")
    for name in set(re.findall(r"--weights runs/(\S+)", page)):
        trained(ROOT / f"recipes/{name}.toml", images, tmp_path / name)
    commands = re.findall(r"^\$ vitrail (train .*?)(?:  +#.*)?$", page, re.MULTILINE)
    assert len(commands) >= 4
    for command in commands:
        words = re.sub(r"--data \S+", f"--data {images}", command)
        words = re.sub(r"--weights runs/(\S+)", rf"--weights {tmp_path}/\1/run", words)
        assert main([*words.split(), "--dry-run"]) == 0, command
