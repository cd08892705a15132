"""How a model is divided among processes: the formulas, the choice, and both against torch's fake process group."""

from math import prod

import pytest
import tiny
import torch
from test_models import small

from vitrail.analysis.block_values import count_block_values
from vitrail.analysis.cost import on_meta_device
from vitrail.assembly.prepare import prepare_run
from vitrail.assembly.run_directory import RunFolder
from vitrail.engine.processes.choice import Needs, choose_parallel
from vitrail.engine.processes.formulas import activation_bytes, padding, sharded_traffic, state_bytes
from vitrail.engine.processes.parallel import refuse_batch_norm
from vitrail.engine.processes.simulate import CPU, fake_group, shapes_of, simulate_step
from vitrail.engine.processes.world import World
from vitrail.errors import UsageError
from vitrail.training import build

GIANT = Needs(8, 8, 1_845_000_000, 0, 32, 257 * 1664 * 48, "none", 2, 68 * 10**9, False)


@pytest.mark.parametrize(
    ("processes", "shards", "precision"), [(8, 8, "bf16"), (8, 8, "fp32"), (64, 64, "bf16"), (1024, 8, "bf16")]
)
def test_the_formula_is_what_a_step_of_many_processes_moves(processes, shards, precision):
    with on_meta_device():
        net = small("vit")
    shapes = shapes_of(net)
    found = simulate_step(net, (torch.zeros(1, 3, 64, 64),), processes, shards, precision)
    assert found == sharded_traffic(shapes, shards, processes // shards, 2 if precision == "bf16" else 4)
    numbers = sum(prod(shape.sides) for shape in shapes)
    assert found.shard * shards == pytest.approx(padding(shapes, shards) * numbers)
    if (shards, precision) == (8, "bf16"):  # nothing is padded: what the paper model says
        assert found.all_gather == pytest.approx(4 * numbers, rel=0.01)
        assert found.reduce_scatter == pytest.approx(4 * numbers, rel=0.01)
        assert found.all_reduce == (0 if processes == shards else pytest.approx(4 * numbers / shards, rel=0.01))


def test_values_of_blocks_are_tokens_times_width_times_depth():
    assert count_block_values(small("vit")) == 65 * 32 * 2
    assert count_block_values(small("swin")) == 2 * sum(16 * 2**k * (16 // 2**k) ** 2 for k in range(4))


@pytest.mark.parametrize(
    ("changes", "name", "shards"),
    [
        ({}, "ddp", 1),  # 29.5 GB of state and 22 GB of activations
        ({"images": 128}, "fsdp", 8),
        ({"images": 128, "can_shrink": True}, "ddp", 1),  # the state is less than half
        ({"parameters": 8_000_000_000, "processes": 64}, "hsdp", 8),
        ({"parameters": 80_000_000_000, "processes": 64}, "fsdp", 64),  # a machine does not hold it
        ({"parameters": 8_000_000_000, "budget": 0}, "ddp", 1),
        ({"processes": 1, "parameters": 80_000_000_000}, "ddp", 1),
        ({"images": 128, "checkpointing": "full"}, "ddp", 1),
    ],
)
def test_auto_goes_by_memory(changes, name, shards):
    choice = choose_parallel("auto", GIANT._replace(**changes))
    assert (choice.name, choice.shards) == (name, shards)


def test_the_reason_has_the_numbers_of_the_formula():
    reason = choose_parallel("auto", GIANT._replace(images=128)).reason
    assert reason.startswith("ddp needs 16 B x 1,845.0 M = 29.52 GB and 89.3")
    assert "; fsdp needs 16 B x 1,845.0 M / 8 = 3.69 GB and" in reason
    assert "as set" in choose_parallel("fsdp", GIANT).reason
    assert state_bytes(1_845_000_000) == 29_520_000_000
    assert activation_bytes(257 * 1664 * 48) == 697_921_536


def test_what_cannot_be_is_refused_with_what_can():
    for machine in (8, 1, 3):
        with pytest.raises(UsageError) as caught:
            choose_parallel("hsdp", GIANT._replace(per_machine=machine))
        assert "--parallel fsdp" in caught.value.fix
    with pytest.raises(UsageError, match="batch norm") as caught:
        refuse_batch_norm(small("resnet"), "fsdp", "cpu")
    assert "--parallel ddp" in caught.value.fix
    refuse_batch_norm(small("resnet"), "fsdp", "cuda")
    refuse_batch_norm(small("hybrid"), "fsdp", "cpu")


def test_cores_and_memory_are_divided_among_the_processes_of_a_machine(tmp_path, monkeypatch):
    """Not among those of all machines, which would leave each with one worker."""
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "4")
    assert World(0, 1, CPU).per_machine == 1
    monkeypatch.setattr(build, "default_workers", lambda split, augmented, processes: processes)
    still = {"mixup": 0.0, "cutmix": 0.0}
    made = tiny.recipe(tiny.npz(tmp_path), augment=still, runtime={"workers": None, "micro_batch": None})
    prepared = prepare_run(made, tiny.ALONE)
    with fake_group(16):
        found = build.build_session(prepared.recipe, prepared.dataset, RunFolder(tmp_path / "run"), World(0, 16, CPU))
    assert found.workers == 4
    assert found.feed.per_process == 1
