"""Models divided among processes: the same losses and weights as in one process, as few collectives as there can be,
and checkpoints in pieces that any number of processes reads."""

import json
import shutil

import pytest
import sharded_jobs as jobs
import tiny
import torch
from processes import once, start

from vitrail.engine import checkpoint
from vitrail.engine.processes import pieces
from vitrail.errors import CheckpointError
from vitrail.storage.tensors import unpack

CLOSE = 2e-5


@pytest.fixture(scope="module")
def two(tmp_path_factory):
    return once(
        tmp_path_factory,
        "sharded-2",
        lambda folder: start(
            folder, ["steps", "count", "runs", "faults", "teacher", *jobs.names(jobs.CHEAP)], jobs.work
        ),
    )


def differences(folder, case):
    """The largest difference of each result between two processes and one."""
    many = torch.load(folder / f"{case.name}.pt", weights_only=True)
    one = jobs.train(case, tiny.ALONE, 1)
    assert one["weights"].keys() == many["weights"].keys()
    scale = {key: one[key].abs().clamp(min=1) for key in ("losses", "norms")}  # a norm of 400 has no seven digits more
    found = {key: ((one[key] - many[key]).abs() / scale[key]).max().item() for key in scale}
    for key in ("weights", "best", "task"):
        found[key] = max([0.0, *((one[key][n].float() - many[key][n].float()).abs().max().item() for n in one[key])])
    return found


@pytest.mark.parametrize("case", jobs.CHEAP, ids=lambda case: case.name)
def test_two_processes_are_as_one(two, case):
    assert max(differences(two, case).values()) <= CLOSE


def test_a_step_has_as_few_collectives_as_there_can_be(two):
    """L blocks: each is gathered for the forward and for the backward pass, the rest once; as many are reduced."""
    blocks, counted = 2, json.loads((two / "collectives.json").read_text())
    assert counted["_allgather_base_"] == (2 * blocks + 1) * jobs.STEPS
    assert counted["_reduce_scatter_base_"] == (blocks + 1) * jobs.STEPS


def equal(one, other):
    assert one.keys() == other.keys()
    for part in one:
        assert one[part].keys() == other[part].keys()
        for name in one[part]:
            assert torch.equal(one[part][name], other[part][name]), (part, name)


def parts(folder, run, step):
    return checkpoint.load(folder / run / "checkpoints" / checkpoint.checkpoint_name(step)).parts


def test_a_divided_run_goes_on_to_the_bit(two):
    equal(parts(two, "whole", 6), parts(two, "half", 6))


def test_a_divided_teacher_and_the_tensors_of_its_task_go_on_to_the_bit(two):
    one, other = parts(two, "taught", 4), parts(two, "taught-half", 4)
    equal(one, other)
    assert one["task"]["center"].abs().sum() > 0
    assert not all(torch.equal(one["ema"][name], one["model"][name]) for name in one["ema"])


def test_every_entry_is_loaded_by_two_processes_and_by_one(two):
    loaded = torch.load(two / "loaded.pt", weights_only=True)
    equal(loaded, parts(two, "alone", 4))
    assert all(loaded["optimizer"][name] == 4 for name in loaded["optimizer"] if name.endswith("|step"))


def test_a_checkpoint_is_read_by_each_process_or_sent_tensor_by_tensor(two):
    """Also to one that does not see its folder; in one pickled object it would be in memory several times."""
    equal(torch.load(two / "sent.pt", weights_only=True), parts(two, "damaged", 4))
    weights = sum(t.numel() * 4 for t in parts(two, "damaged", 4)["model"].values())
    assert 0 < json.loads((two / "objects-0.json").read_text()) < weights / 2


def test_what_is_saved_in_the_background_are_the_bytes_of_its_step(two):
    for step in (4, 6):
        one, other = (two / run / "checkpoints" / checkpoint.checkpoint_name(step) for run in ("whole", "background"))
        assert (one / "manifest.json").read_bytes() == (other / "manifest.json").read_bytes()


def test_a_divided_run_goes_on_in_one_process_and_with_whole_copies(two):
    resumed = tiny.again(two / "alone")
    assert resumed.state.step == 4
    tiny.finish(resumed)
    whole = parts(two, "whole", 6)
    for run in ("alone", "ddp"):
        others = parts(two, run, 6)
        assert max((whole["model"][n] - others["model"][n]).abs().max() for n in whole["model"]) <= CLOSE
    assert not checkpoint.is_sharded(two / "ddp" / "checkpoints" / "step-00000006")


def test_the_finished_weights_are_one_file_of_the_whole_model(two):
    tensors, about = unpack(two / "whole" / "model.safetensors")
    assert about["classes"]
    assert all(tensors[name].shape == t.shape for name, t in parts(two, "whole", 6)["model"].items())


@pytest.mark.parametrize("harm", ["missing", "flipped", "cut", "another"])
def test_the_checkpoint_before_is_used_where_a_piece_is_damaged(two, harm, tmp_path):
    folder = shutil.copytree(two / "damaged" / "checkpoints", tmp_path / "checkpoints")
    newest, before = checkpoint.list_checkpoints(folder)[:2]
    piece = newest / "shard-00002-model-00001-of-00001.safetensors"
    content = bytearray(piece.read_bytes())
    if harm == "missing":
        piece.unlink()
    elif harm == "another":
        (newest / "shard-00003-model-00001-of-00001.safetensors").write_bytes(content)
    else:
        content[len(content) // 2] ^= 1
        piece.write_bytes(content[: -4 if harm == "cut" else None])
    saved, reasons = checkpoint.load_newest(folder, pieces=harm == "flipped")
    assert saved.path == before
    assert len(reasons) == 1
    assert "shard-0000" in reasons[0]


def test_pieces_that_do_not_fit_are_refused_whatever_the_manifest_says(two, tmp_path):
    path = shutil.copytree(two / "damaged" / "checkpoints" / "step-00000004", tmp_path / "step-00000004")
    (path / "shard-00002-model-00001-of-00001.safetensors").unlink()
    with pytest.raises(CheckpointError, match="numbers of"):
        pieces.read_layout(path)


def test_what_goes_wrong_in_one_process_is_said_by_all_and_nothing_is_lost(two):
    for rank in (0, 1):
        facts = json.loads((two / f"faults-{rank}.json").read_text())
        assert facts["nan"].startswith("the loss (cross_entropy = nan) is not finite at step 3: the model's output is")
        assert facts["folder"].startswith("process 1 does not see")
    note = json.loads((two / "faults-0.json").read_text())["notes"][0]
    assert note.startswith("step 2 could not be saved: no space left at")
    assert sorted(p.name for p in (two / "full" / "checkpoints").iterdir()) == ["step-00000004", "step-00000006"]


@pytest.fixture(scope="module")
def rest(tmp_path_factory):
    return once(
        tmp_path_factory, "sharded-all", lambda folder: start(folder, ["steps", *jobs.names(jobs.REST)], jobs.work)
    )


@pytest.mark.slow
@pytest.mark.parametrize("case", jobs.REST, ids=lambda case: case.name)
def test_every_family_and_task_is_as_in_one_process(rest, case):
    assert max(differences(rest, case).values()) <= CLOSE


@pytest.fixture(scope="module")
def four(tmp_path_factory):
    machine = {"LOCAL_WORLD_SIZE": 2}
    return once(
        tmp_path_factory, "sharded-4", lambda folder: start(folder, ["hybrid"], jobs.work, processes=4, env=machine)
    )


@pytest.mark.slow
def test_copies_of_divided_models_are_as_one_process(four):
    assert max(differences(four, jobs.Case("vit", ema=0.5)).values()) <= CLOSE


@pytest.mark.slow
def test_a_run_changes_between_kinds_of_division(four):
    straight, changing = parts(four, "straight", 6), parts(four, "changing", 6)
    for part in straight:
        assert max((straight[part][n].float() - changing[part][n].float()).abs().max() for n in straight[part]) <= CLOSE
    files = sorted(p.name for p in (four / "straight" / "checkpoints" / "step-00000006").glob("shard-*"))
    assert [name[:11] for name in files] == ["shard-00001", "shard-00002"], "one copy writes"


@pytest.fixture(scope="module")
def wide(two, tmp_path_factory):
    def go_on(folder):
        shutil.copytree(two / "damaged", folder / "wide")
        return start(folder, ["widen"], jobs.work, processes=4)

    return once(tmp_path_factory, "sharded-wide", go_on)


@pytest.mark.slow
def test_what_two_processes_saved_goes_on_in_four(two, wide):
    """Every entry is loaded, the run ends as it would have, and its pieces are read by one process again."""
    equal(torch.load(wide / "loaded.pt", weights_only=True), parts(two, "damaged", 4))
    before, after = parts(two, "whole", 6), parts(wide, "wide", 6)
    for part in before:
        assert max((before[part][n].float() - after[part][n].float()).abs().max() for n in before[part]) <= CLOSE
    files = list((wide / "wide" / "checkpoints" / "step-00000006").glob("shard-*"))
    assert len(files) == 4


@pytest.fixture(scope="module")
def low(tmp_path_factory):
    return once(tmp_path_factory, "sharded-low", lambda folder: start(folder, ["exactness"], jobs.work))


@pytest.mark.slow
@pytest.mark.parametrize("case", jobs.LOW, ids=lambda case: case.name)
def test_16_bits_are_those_of_one_process(low, case):
    """With fp16 the gradients are scaled."""
    assert max(differences(low, case).values()) <= CLOSE


@pytest.mark.slow
def test_compiled_blocks_are_as_the_others(low):
    """In one graph each, with what FSDP does around them outside."""
    assert max(differences(low, jobs.COMPILED).values()) <= CLOSE
