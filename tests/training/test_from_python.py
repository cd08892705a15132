"""`vitrail.train` is the command `vitrail train`: the same recipe, the same messages, the same result to the bit."""

import json
from pathlib import Path

import numpy as np
import places
import pytest
import torch

import vitrail
from vitrail.cli.from_python import command_of, parse_keywords
from vitrail.cli.syntax.arguments import read
from vitrail.cli.train import VERB, build_recipe, sort_by_section
from vitrail.errors import CheckpointError, DataError, UsageError

TINY = {"name": "vit/nano", "width": 32, "depth": 1, "heads": 2}
KEYS = {"steps": 2, "batch_size": 8, "img_size": 16, "precision": "fp32", "workers": 0, "augment": {"mixup": 0.2}}
WORDS = ["--model", "vit/nano", "--model.width", 32, "--model.depth", 1, "--model.heads", 2, "--steps", 2,
         "--batch-size", 8, "--img-size", 16, "--precision", "fp32", "--workers", 0,
         "--augment.mixup", 0.2]  # fmt: skip


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """One run by the command and one from Python, on the same images."""
    root = tmp_path_factory.mktemp("place")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(root)
        for name in ("wandb", "mlflow", "av"):
            patch.setitem(__import__("sys").modules, name, None)  # an import of one fails
        places.images(root / "good")
        places.must("train", "--data", "good", *WORDS, "--out", "command")
        torch.manual_seed(7)
        before = torch.get_rng_state()
        run = vitrail.train("good", TINY, out=Path("python"), quiet=True, **KEYS)
        assert torch.equal(torch.get_rng_state(), before)
    return root, run


@pytest.fixture
def run(place, monkeypatch):
    monkeypatch.chdir(place[0])
    return place[1]


def test_the_result_is_that_of_the_command_to_the_bit(run):
    assert isinstance(run, vitrail.Run)
    assert Path("python/model.safetensors").read_bytes() == Path("command/model.safetensors").read_bytes()
    assert Path("python/recipe.toml").read_bytes() == Path("command/recipe.toml").read_bytes()
    first, second = (json.loads(Path(name, "run.json").read_text()) for name in ("python", "command"))
    assert {key for key in first if first[key] != second[key]} == {"command"}
    assert first["command"][:4] == ["vitrail", "train", "--data", "good"]
    assert first["command"][-4:] == ["--augment.mixup", "0.2", "--out", "python"]


def test_a_run(run):
    part = next(Path("python/evaluation").glob("*.json"))
    saved = json.loads(part.read_text())
    assert run.metrics == {"part": part.stem, **saved}
    assert run.path == Path("python")
    assert run.report == Path("python/report.html")
    assert run.report.is_file()
    assert run.classes == ("ant", "bee")
    assert run.recipe.train.steps == 2
    assert [row["step"] for row in run.history if row["kind"] == "eval"][-1] == 2
    assert run.predictor("good").probabilities.shape[1] == 2
    assert run.predictor is run.predictor
    assert torch.equal(vitrail.load(run)("good").probabilities, vitrail.load("python")("good").probabilities)
    lines = repr(run).splitlines()
    assert len(lines) <= 5
    assert lines[0] == f"Run python: vit/nano on {run.recipe.data.keys['path']}, 2 steps"
    assert "top1" in repr(run)
    assert repr(vitrail.Run("python")) == repr(run)
    with pytest.raises(CheckpointError, match="no run nothere"):
        vitrail.Run("nothere")


def test_a_finished_run_can_be_resumed_and_none_is_overwritten(run, capsys):
    again = vitrail.train(resume=run)
    assert again.metrics["count"] == run.metrics["count"]
    with pytest.raises(UsageError, match="python is there already and is never overwritten"):
        vitrail.train("good", out="python")
    with pytest.raises(UsageError, match="--resume continues a run as it is"):
        vitrail.train(resume="python", out="other")
    assert "done: python" in capsys.readouterr().out


RECIPES = [  # keywords, words: the same recipe
    ({"data": "mini", "model": "vit/nano", "epochs": 3}, "--data mini --model vit/nano --epochs 3"),
    ({"data": Path("mini"), "lr": 1e-3, "weight_decay": 0}, "--data mini --lr 1e-3 --weight-decay 0"),
    ({"data": "mini", "img_size": (32, 48)}, "--data mini --img-size 32 48"),
    ({"data": "mini", "img_size": np.int64(32), "lr": np.float32(0.5)}, "--data mini --img-size 32 --lr 0.5"),
    ({"model": {"depth": 2, "name": "vit/nano"}, "data": {"path": "mini", "fraction": 0.5}},
     "--data.path mini --data.fraction 0.5 --model.depth 2 --model vit/nano"),
    ({"data": "mini", "augment": {"mixup": 0.2, "hflip": False}, "optim": {"betas": (0.9, 0.99), "freeze": "backbone"}},
     "--data mini --augment.mixup 0.2 --augment.no-hflip --optim.betas 0.9 0.99 --optim.freeze backbone"),
    ({"data": "mini", "augment.mixup": 0.2, "train.patience": 3}, "--data mini --augment.mixup 0.2 --train.patience 3"),
    ({"recipe": "recipes/mini.toml", "steps": 5, "train": {"compile": True}},
     "recipes/mini.toml --steps 5 --train.compile"),
    ({"data": "mini", "weights": "runs/a", "task": "distillation", "epochs": None, "batch-size": 4},
     "--data mini --weights runs/a --task distillation --batch-size 4"),
]  # fmt: skip


@pytest.mark.parametrize(("keywords", "words"), RECIPES, ids=[w for _, w in RECIPES])
def test_keywords_are_the_words_of_the_command(keywords, words):
    given, keys = parse_keywords(keywords)
    made = build_recipe(given, sort_by_section(keys))
    given_by_words, by_words = read(VERB, words.split())
    assert made == build_recipe(given_by_words, sort_by_section(by_words))
    again, keys_again = read(VERB, command_of(given, keys)[2:])
    assert build_recipe(again, sort_by_section(keys_again)) == made


WRONG = [
    ({}, "nothing to train on"),
    ({"data": 3}, "data takes a text, not 3"),
    ({"data": "mini", "lr": "x"}, "lr takes .* not 'x'"),
    ({"data": "mini", "epochs": -1}, "epochs takes a number more than 0, not -1"),
    ({"data": "mini", "img_size": (1, 2, 3)}, "img_size takes"),
    ({"data": "mini", "learning_rate": 1}, "unknown keyword 'learning_rate'; here it is lr"),
    ({"data": "mini", "imgsz": 1}, "here it is img_size"),
    ({"data": "mini", "label_smoothing": 0.1}, r"here it is task=\{'smoothing': ...\}"),
    ({"data": "mini", "mixup": 0.2}, r"did you mean augment=\{'mixup': ...\}"),
    ({"data": "mini", "epocs": 1}, "unknown keyword 'epocs'; did you mean 'epochs'"),
    ({"data": "mini", "augment": {"mixupp": 1}}, "unknown key 'mixupp' in augment; did you mean 'mixup'"),
    ({"data": "mini", "augment.mixup": -1}, "augment.mixup takes a number at least 0, not -1"),
    ({"data": "mini", "augment": 0.2}, "augment is a section of a recipe and takes a dict"),
    ({"data": "mini", "agment.mixup": 1}, "unknown section of a recipe 'agment'; did you mean 'augment'"),
    ({"data": "mini", "lr": 1, "optim": {"lr": 2}}, "--lr is given twice"),
    ({"data": "mini", "epochs": 1, "steps": 1}, "--steps and --epochs are both given"),
    ({"data": "mini", "model": "resnet50"}, "resnet50 is resnet/50 here"),
    ({"data": "mini", "device": "gpu"}, "device 'gpu'; did you mean 'cuda'"),
    ({"data": "mini", "quiet": "yes"}, "quiet takes"),
    ({"data": "mini", "dry_run": True}, "unknown keyword 'dry_run'"),
]


@pytest.mark.parametrize(("keywords", "piece"), WRONG, ids=[p for _, p in WRONG])
def test_wrong_keywords_are_answered_as_by_the_command(own_folder, keywords, piece):
    with pytest.raises(UsageError, match=piece) as refused:
        vitrail.train(**keywords)
    assert len(str(refused.value).splitlines()) <= 5
    assert list(own_folder.iterdir()) == []


def test_data_that_is_not_there(own_folder):
    with pytest.raises(DataError, match="no file or folder nothere"):
        vitrail.train("nothere", quiet=True)
    assert list(own_folder.iterdir()) == []
