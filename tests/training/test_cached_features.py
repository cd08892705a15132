"""Where the head alone learns, and nothing random stands before it, features are computed once and training reads
them."""

import dataclasses
import shutil
import sys
from pathlib import Path

import pytest
import torch

sys.path.insert(0, str(Path(__file__).parents[1] / "faults"))
import tiny

from vitrail.models import vit
from vitrail.recipe import AugmentConfig, Choice, InitConfig, OptimConfig
from vitrail.training import loop

PLAIN = AugmentConfig()
HEAD = OptimConfig(freeze="backbone", lr=1e-2)
STILL = {**tiny.MODEL, "dropout": 0.0, "drop_path": 0.0}


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return tiny.npz(tmp_path_factory.mktemp("data"))


@pytest.fixture
def passes(monkeypatch):
    """The sizes of the batches that a backbone is given."""
    sizes, forward = [], vit.ViT.forward

    def counted(self, images):
        sizes.append(len(images))
        return forward(self, images)

    monkeypatch.setattr(vit.ViT, "forward", counted)
    return sizes


def recipe(data, augment=PLAIN, optim=HEAD, **runtime):
    made = tiny.recipe(data, runtime={"micro_batch": None, **runtime}, train={"eval_every": 4})
    return dataclasses.replace(made, model=Choice("vit/nano", dict(STILL)), augment=augment, optim=optim)


def head(session):
    return torch.cat([p.detach().flatten() for p in session.state.model.heads.parameters()])


def reasons(out):
    from vitrail.assembly.run_directory import RunFolder

    return " ".join(RunFolder(out).about()["reasons"])


def test_the_backbone_sees_every_image_once_and_the_head_learns_as_from_images(data, tmp_path, passes):
    cached = tiny.begin(recipe(data), tmp_path / "cached")
    computed = sum(passes) - 4  # two images, twice, to see whether anything is random
    assert computed == 48 + 17
    assert "computed once" in " ".join(cached.notes)
    assert "augment.hflip = False: no flips, likewise" in reasons(tmp_path / "cached")
    del passes[:]
    tiny.finish(cached)
    assert sum(passes) == 17, "the last evaluation is of images"
    still = AugmentConfig(crop="none", hflip=False)
    plain = tiny.begin(recipe(data, still, cache_features=False), tmp_path / "plain")
    tiny.finish(plain)
    torch.testing.assert_close(head(cached), head(plain), rtol=1e-4, atol=1e-6)
    rows = [loop_rows(tmp_path / name) for name in ("cached", "plain")]
    assert [r["step"] for r in rows[0]] == [4, 8, 12, 12], "the last is of images"
    assert [r["top1"] for r in rows[0][:3]] == [r["top1"] for r in rows[1]]


def loop_rows(out):
    from vitrail.engine.log import read_rows

    return [row for row in read_rows(out / "log.jsonl") if row["kind"] == "eval"]


@pytest.mark.parametrize("lost", [False, True])
def test_a_run_broken_off_ends_in_the_same_bytes_also_where_its_features_are_lost(lost, data, tmp_path):
    made = recipe(data)
    tiny.finish(tiny.begin(made, tmp_path / "whole"))
    out = tmp_path / "broken"
    for event in loop.run_training(tiny.begin(made, out)):
        if event.kind == "train" and event.step == 7:
            break
    if lost:
        shutil.rmtree(out / "features")
    resumed = tiny.again(out)
    assert resumed.features is not None
    tiny.finish(resumed)
    assert tiny.digest(out / "model.safetensors") == tiny.digest(tmp_path / "whole" / "model.safetensors")


@pytest.mark.parametrize(
    ("augment", "model", "why"),
    [
        ({"hflip": True}, {}, "augment.hflip gives other features in every step"),
        ({"crop": "pad"}, {}, "augment.crop gives other features in every step"),
        ({"mixup": 0.2}, {}, "augment.mixup gives other features in every step"),
        ({}, {"drop_path": 0.1}, "model.drop_path gives other features in every step"),
    ],
)
def test_what_is_random_keeps_the_images_and_says_so(augment, model, why, data, tmp_path, passes):
    made = recipe(data, AugmentConfig(**augment))
    made = dataclasses.replace(made, model=Choice("vit/nano", {**STILL, **model}))
    session = tiny.begin(made, tmp_path / "run")
    assert session.features is None
    assert why in reasons(tmp_path / "run")
    del passes[:]
    next(event for event in loop.run_training(session) if event.kind == "train")
    assert passes, "images pass the backbone"


def test_what_cannot_be_cached_is_said_and_done_with_images(data, tmp_path):
    gradual = dataclasses.replace(HEAD, unfreeze_steps=(4,))
    session = tiny.begin(recipe(data, optim=gradual, cache_features=True), tmp_path / "gradual")
    assert "runtime.cache_features is ignored: the backbone learns" in session.notes
    assert session.features is None
    made = dataclasses.replace(recipe(data, cache_features=True), augment=AugmentConfig(hflip=True))
    assert tiny.begin(made, tmp_path / "flips").features is None


def test_a_backbone_with_randomness_of_its_own_is_found(data, tmp_path, monkeypatch):
    forward = vit.ViT.forward

    def noisy(self, images):
        return forward(self, images + torch.randn_like(images) if self.training else images)

    monkeypatch.setattr(vit.ViT, "forward", noisy)
    session = tiny.begin(recipe(data), tmp_path / "run")
    assert session.features is None
    assert any("gives an image other features in every step" in note for note in session.notes)


def test_the_head_starts_as_the_probe_of_the_same_features(data, tmp_path, passes):
    made = dataclasses.replace(recipe(data), init=InitConfig(), optim=OptimConfig(freeze="backbone"))
    session = tiny.begin(made, tmp_path / "run")
    assert sum(passes) == 48 + 17 + 4, "the fit needs no further pass"
    assert any("linear probe" in note for note in session.notes)
