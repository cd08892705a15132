"""Micro-batches that fit into memory are chosen before the first step, by what a machine has: the batch stays."""

import dataclasses

import pytest
import tiny
import torch

from vitrail.engine import memory
from vitrail.engine.memory import StepMemory, fit_images
from vitrail.engine.processes.formulas import ACTIVATIONS, kept_share
from vitrail.recipe import AugmentConfig, Choice
from vitrail.training import needs

STILL = {"dropout": 0.0, "drop_path": 0.0}


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return tiny.npz(tmp_path_factory.mktemp("data"))


@pytest.fixture
def machine(monkeypatch):
    """A machine of so many bytes, on which nothing is too small to be counted."""

    def has(count):
        monkeypatch.setattr(memory, "machine_memory", lambda: count)
        monkeypatch.setattr(needs, "SMALL_MODEL", 0)

    return has


def session(data, out, model=STILL, **sections):
    made = tiny.recipe(data, model=model, runtime={"micro_batch": None, **sections.pop("runtime", {})}, **sections)
    return tiny.begin(made, out)


def weights(running):
    return torch.cat([p.detach().flatten() for p in running.state.model.parameters()])


@pytest.mark.parametrize(
    ("images", "budget", "least", "size"),
    [
        (128, 10**6, 1, 128),
        (128, 740, 1, 64),
        (128, 739, 1, 43),
        (10, 150, 2, 4),
        (10, 0, 2, 2),
        (7, 0, 1, 1),
        (1, 0, 2, 1),
    ],
)
def test_equal_parts_as_large_as_fit(images, budget, least, size):
    assert fit_images(images, StepMemory(100, 10), budget, least) == size


def test_a_small_machine_takes_smaller_micro_batches_with_the_same_result(data, tmp_path, machine):
    whole = session(data, tmp_path / "whole")
    assert whole.feed.micro_batch == whole.feed.batch == 16
    tiny.finish(whole)
    step = needs.estimate_step(whole)
    machine(round((step.fixed + 5 * step.each) / memory.USABLE_CPU))
    parts = session(data, tmp_path / "parts")
    assert parts.feed.micro_batch == 4
    assert any(note.startswith("runtime.micro_batch = 4: 16 images at once need about") for note in parts.notes)
    assert parts.folder.recipe().runtime.micro_batch == 4, "a resumed run chooses nothing again"
    tiny.finish(parts)
    assert (weights(whole) - weights(parts)).norm() / weights(whole).norm() <= 1e-6


def test_the_limit_of_a_container_or_of_a_job_is_that_of_the_machine(tmp_path):
    root, membership = tmp_path / "cgroup", tmp_path / "membership"
    assert memory.group_limits(root, membership) == [], "no Linux"
    (root / "slurm" / "job7").mkdir(parents=True)
    (root / "memory" / "docker" / "a").mkdir(parents=True)
    (root / "memory.max").write_text("max\n")
    membership.write_text("4:cpu,memory:/docker/a\n0::/slurm/job7/step_0\n")
    (root / "slurm" / "job7" / "memory.max").write_text("700\n")
    assert memory.group_limits(root, membership) == [700]
    (root / "memory" / "docker" / "a" / "memory.limit_in_bytes").write_text("600\n")
    (root / "memory" / "memory.limit_in_bytes").write_text("9223372036854771712\n")
    assert sorted(memory.group_limits(root, membership)) == [600, 700, 9223372036854771712]
    membership.write_text("4:memory:/host/path/that/the/container/lacks\n")
    assert memory.group_limits(root, membership) == [9223372036854771712]


def test_what_is_given_stays(data, tmp_path, machine):
    machine(10)
    assert session(data, tmp_path / "given", runtime={"micro_batch": 8}).feed.micro_batch == 8
    assert session(data, tmp_path / "pairs").feed.micro_batch == 2, "MixUp pairs images"
    alone = session(data, tmp_path / "one", augment={"mixup": 0.0, "cutmix": 0.0})
    assert alone.feed.micro_batch == 1


def test_what_is_frozen_keeps_no_activations(data, tmp_path):
    steps = {}
    for name, optim in (
        ("all", {}),
        ("head", {"freeze": "backbone"}),
        ("gradual", {"freeze": 1, "unfreeze_steps": (3,)}),
    ):
        steps[name] = needs.estimate_step(session(data, tmp_path / name, optim=optim)).each
    assert steps["all"] == steps["gradual"]
    assert steps["head"] == round(steps["all"] / 2)


def test_checkpointing_keeps_the_share_that_the_formulas_have(data, tmp_path):
    each = {}
    for how in ("none", "selective", "full"):
        each[how] = needs.estimate_step(session(data, tmp_path / how, runtime={"grad_checkpoint": how})).each
    for how, found in each.items():
        assert found == pytest.approx(each["none"] * kept_share(how, 2), rel=1e-3)
    assert each["selective"] / each["none"] == pytest.approx(ACTIVATIONS["selective"] / 34 + 1 / 2, rel=1e-3)


def test_base_is_trained_on_any_laptop(tmp_path, machine, monkeypatch):
    """By the formula alone: nothing of that size is built."""
    import vitrail
    from vitrail.analysis.cost import cost

    with torch.device("meta"):
        model = vitrail.create("vit/base", classes=10)
    each = round(needs.KEPT * cost(model).activation_bytes)
    fixed = 4 * sum(p.numel() * 4 for p in model.parameters())
    assert fit_images(128, StepMemory(fixed, each), 2**33 // 2, 1) >= 8, "8 GB"
    assert fit_images(128, StepMemory(fixed, each), 2**32 // 2, 1) >= 1, "4 GB"


@pytest.mark.parametrize("holds", [5, 1])
def test_on_a_gpu_two_small_steps_are_measured(holds, data, tmp_path, monkeypatch):
    running = session(data, tmp_path / "run", augment={"mixup": 0.0, "cutmix": 0.0})
    before = weights(running).clone()
    measured = []

    def peak(running, images):
        measured.append(images)
        return 1000 + 100 * images

    monkeypatch.setattr(needs, "peak_of_step", peak)
    step = needs.measure_step(running, 1)
    own, _ = needs.state_bytes(running)
    kept = sum(p.numel() * 4 for p in running.state.model.parameters()) * 2
    assert measured == [2, 2, 4]
    assert step == StepMemory(1000 + own - kept, 100)
    assert fit_images(16, step, step.fixed + holds * 100, 1) == (4 if holds == 5 else 1)
    assert torch.equal(before, weights(running))


def test_a_measured_step_is_one_of_training(data, tmp_path, monkeypatch):
    """With the counters of a GPU replaced: the first images, all terms, no update, statistics as they were."""
    made = tiny.recipe(tiny.images(tmp_path / "data"), runtime={"micro_batch": None})
    made = dataclasses.replace(made, model=Choice("resnet/18", {"width": 8}), augment=AugmentConfig())
    running = tiny.begin(made, tmp_path / "run")
    before = [b.clone() for b in running.state.model.buffers()], weights(running).clone()
    monkeypatch.setattr(torch.cuda, "reset_peak_memory_stats", lambda device: None)
    monkeypatch.setattr(torch.cuda, "max_memory_allocated", lambda device: 7)
    assert needs.measure_step(running, 2).each == 1
    assert all(torch.equal(a, b) for a, b in zip(before[0], running.state.model.buffers(), strict=True))
    assert torch.equal(before[1], weights(running))
    assert all(p.grad is None for p in running.state.model.parameters())
