"""Gradual unfreezing: what learns is a function of the step, alone and on several processes, broken off or not."""

import dataclasses
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import tiny
import torch
from quick import every_third

import vitrail
from vitrail import catalog
from vitrail.engine.freeze import (
    freeze,
    frozen_norms,
    parts_to_freeze,
    plan_unfreezing,
    set_train_mode,
    unfreeze_due,
)
from vitrail.engine.log import read_rows
from vitrail.errors import UsageError
from vitrail.recipe import Choice
from vitrail.training import loop

GRADUAL = {"freeze": "backbone", "unfreeze_steps": (4, 7), "ema_decay": 0.0, "warmup_steps": 0}


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return tiny.npz(tmp_path_factory.mktemp("data"))


def pieces(what, at, steps=100):
    model = vitrail.create("vit/nano", classes=3)
    backbone, blocks = model.backbone, list(model.backbone.blocks)
    return model, plan_unfreezing(parts_to_freeze(model, backbone, blocks, what), at, steps)


def learning(model):
    """The parts of the model in which something learns: blocks.0, patch_embed, head, ..."""
    names = [name.removeprefix("backbone.").split(".") for name, p in model.named_parameters() if p.requires_grad]
    return {".".join(n[:2]) if n[0] == "blocks" else n[0] for n in names} - {"tokens", "registers"}


def test_equal_parts_from_the_head_down():
    model, planned = pieces("backbone", (10, 20))
    freeze(parts_to_freeze(model, model.backbone, list(model.backbone.blocks), "backbone"))
    seen = []
    for step in (0, 9, 10, 19, 20):
        changed = unfreeze_due(planned, step)
        seen.append((changed, sorted(learning(model))))
    upper = ["blocks.1", "blocks.2", "heads", "norm"]
    everything = ["blocks.0", "blocks.1", "blocks.2", "heads", "norm", "patch_embed", "position"]
    assert [changed for changed, _ in seen] == [False, False, True, False, True]
    assert [names for _, names in seen] == [["heads"], ["heads"], upper, upper, everything]


def test_a_number_of_blocks_thaws_down_to_the_stem():
    model, planned = pieces(2, (1, 2, 3))
    freeze(parts_to_freeze(model, model.backbone, list(model.backbone.blocks), 2))
    assert "blocks.2" in learning(model)
    for step, newest in ((1, "blocks.1"), (2, "blocks.0"), (3, "patch_embed")):
        assert newest not in learning(model)
        unfreeze_due(planned, step)
        assert newest in learning(model)
    assert all(p.requires_grad for p in model.parameters())


@pytest.mark.parametrize(
    ("optim", "told"),
    [
        ({"unfreeze_steps": (3,)}, "nothing is frozen"),
        ({"freeze": "backbone", "unfreeze_steps": (5, 3)}, "do not increase"),
        ({"freeze": "backbone", "unfreeze_steps": (5, 5)}, "do not increase"),
        ({"freeze": "backbone", "unfreeze_steps": (5, 12)}, "ends at step 12"),
        ({"freeze": 1, "unfreeze_steps": (1, 2, 3)}, "3 steps for 2 frozen blocks"),
    ],
)
def step_losses_that_mean_nothing_are_refused_before_the_run(optim, told, data, tmp_path):
    with pytest.raises(UsageError, match=told):
        tiny.begin(tiny.recipe(data, optim=optim), tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_nothing_moves_what_is_frozen_and_everything_what_is_not(data, tmp_path):
    running = tiny.begin(tiny.recipe(data, model={"dropout": 0.0, "drop_path": 0.0}, optim=GRADUAL), tmp_path / "run")
    state, found = running.state, {}
    before = {name: p.detach().clone() for name, p in state.model.named_parameters()}
    for event in loop.run_training(running):
        if event.kind == "train":
            for name, p in state.model.named_parameters():
                if not torch.equal(p, before[name]):
                    found.setdefault(name, event.step)
                before[name] = p.detach().clone()
    assert found["heads.0.weight"] == 1
    assert found["backbone.blocks.1.attn.qkv.weight"] == found["backbone.norm.weight"] == 5
    assert found["backbone.patch_embed.proj.weight"] == 8
    assert set(found.values()) == {1, 5, 8}
    in_groups = {id(p) for g in state.optimizer.param_groups for p in g["params"]}
    assert in_groups == {id(p) for p in state.model.parameters()}


@pytest.mark.parametrize("kind", ["adamw", *(pytest.param(k, marks=pytest.mark.slow) for k in ("sgd", "lamb", "muon"))])
def test_a_run_broken_off_between_two_changes_ends_in_the_same_bytes(kind, data, tmp_path):
    recipe = tiny.recipe(data, optim={**GRADUAL, "name": kind, "ema_decay": 0.9})
    tiny.finish(tiny.begin(recipe, tmp_path / "whole"))
    for stop in (
        2,
        6,
        8,
    ):  # goes on from the beginning, from step 6 before the second change and from just before the third
        out = tmp_path / f"broken{stop}"
        for event in loop.run_training(tiny.begin(recipe, out)):
            if event.kind == "train" and event.step == stop + 1:
                break
        tiny.finish(tiny.again(out))
        assert tiny.digest(out / "model.safetensors") == tiny.digest(tmp_path / "whole" / "model.safetensors")


def two_processes(folder):
    """What torchrun runs: the whole run on each of two processes."""
    from vitrail.engine.processes import world as worlds
    from vitrail.training import create

    world = worlds.join("cpu", 60)
    recipe = tiny.recipe(folder / "tiny.npz", model={"dropout": 0.0, "drop_path": 0.0}, optim=GRADUAL)
    running, _ = create.create_session(recipe, folder / "two", world)
    for _ in loop.run_training(running):
        pass
    (folder / f"rank{world.rank}.json").write_text(
        json.dumps([float(p.double().sum()) for p in running.state.model.parameters()])
    )
    worlds.leave(world)


@pytest.mark.slow
def test_two_processes_do_what_one_does(tmp_path):
    data = tiny.npz(tmp_path)
    tiny.finish(
        tiny.begin(tiny.recipe(data, model={"dropout": 0.0, "drop_path": 0.0}, optim=GRADUAL), tmp_path / "one")
    )
    environment = {
        **os.environ,
        "OMP_NUM_THREADS": "1",
        "PYTHONPATH": os.pathsep.join([str(Path(tiny.__file__).parent), *sys.path]),
    }
    command = [
        sys.executable,
        "-m",
        "torch.distributed.run",
        "--standalone",
        "--nproc-per-node=2",
        __file__,
        str(tmp_path),
    ]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr[-3000:]
    ranks = [json.loads((tmp_path / f"rank{i}.json").read_text()) for i in (0, 1)]
    assert ranks[0] == ranks[1]
    one, two = (read_rows(tmp_path / name / "log.jsonl") for name in ("one", "two"))
    for a, b in zip(one, two, strict=True):
        assert a["step"] == b["step"]
        if a["kind"] == "train":
            assert a["loss"] == pytest.approx(b["loss"], abs=1e-3)
            assert a["grad_norm"] == pytest.approx(b["grad_norm"], rel=2e-2)


if __name__ == "__main__":
    two_processes(Path(sys.argv[1]))


class Affineless(torch.nn.Module):
    """Norms without parameters, as a family of somebody's own may have them."""

    def __init__(self):
        super().__init__()
        self.stem = torch.nn.Sequential(torch.nn.Conv2d(1, 4, 1), torch.nn.BatchNorm2d(4, affine=False))
        self.head = torch.nn.Sequential(torch.nn.BatchNorm2d(4, affine=False), torch.nn.Conv2d(4, 2, 1))


def test_norms_without_parameters_follow_what_they_are_in():
    model = Affineless()
    freeze([list(model.stem.parameters())])
    assert list(frozen_norms(model)) == [model.stem[1]]
    set_train_mode(model)
    assert (model.stem[1].training, model.head[0].training, model.stem[0].training) == (False, True, True)
    freeze([list(model.parameters())])
    assert list(frozen_norms(model)) == [model.stem[1], model.head[0]]


def statistics(model):
    return {name: b.clone() for name, b in model.named_buffers() if "running" in name or "tracked" in name}


@pytest.mark.parametrize(
    "name", every_third([n for n in catalog.list_modules("models") if catalog.model_kind(n) == "backbone"])
)
def test_a_frozen_backbone_of_any_family_keeps_its_statistics(name):
    """In one forward pass in training mode, frozen whole, and with all blocks frozen but the last."""
    torch.manual_seed(0)
    smallest = {"resnet": {"width": 8}}.get(name, {})
    model = vitrail.create(catalog.list_names("models", name)[0], classes=3, **smallest)
    backbone, blocks = model.backbone, list(model.backbone.blocks)
    if not statistics(model):
        assert not list(frozen_norms(model))
        return
    images = torch.randn(2, backbone.config.channels, *backbone.config.size)
    for what in ("backbone", len(blocks) - 1):
        model.requires_grad_(True)
        frozen = parts_to_freeze(model, backbone, blocks, what)
        freeze(frozen)
        before, silent = statistics(model), {id(p) for part in frozen for p in part}
        set_train_mode(model)
        with torch.no_grad():
            model(images)
        moved = {n for n, b in statistics(model).items() if not torch.equal(b, before[n])}
        norms = {n: m for n, m in model.named_modules() if isinstance(m, torch.nn.modules.batchnorm._NormBase)}
        learning = {n for n, m in norms.items() if id(m.weight) not in silent}
        assert {n.rpartition(".")[0] for n in moved} == learning
        assert bool(learning) == (what != "backbone")
        unfreeze_due(plan_unfreezing(frozen, (1,), 3), 1)
        set_train_mode(model)
        assert all(m.training for m in model.modules())  # unfrozen, its norms learn again


def test_a_run_with_a_frozen_backbone_leaves_its_features_as_they_were(tmp_path):
    data = tiny.npz(tmp_path / "data", size=32)
    whole = {"freeze": "backbone", "ema_decay": 0.9}
    recipe = dataclasses.replace(tiny.recipe(data, optim=whole), model=Choice("resnet/18", {"width": 8}))
    running = tiny.begin(recipe, tmp_path / "run")
    images = torch.randn(4, 1, 32, 32)
    with torch.no_grad():
        before = running.state.model.eval().backbone(images).summaries[0]
    for _ in loop.run_training(running):
        pass
    with torch.no_grad():
        after = vitrail.load(tmp_path / "run").model.backbone(images).summaries[0]
    assert torch.equal(before, after)
