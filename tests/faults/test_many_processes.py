"""Two processes: the same gradients as one, repeatable, every image judged once, and all of one mind."""

import json

import pytest
import ranks
import tiny
import torch
from processes import once, start

from vitrail.engine import checkpoint

DIFFERING = ("train.seed", "optim.lr", "torch", "the data set")


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """All jobs in one launch."""
    return once(tmp_path_factory, "ranks", launch)


def launch(folder):
    tiny.npz(folder)
    for name, val in (("17", 17), ("33", 33), ("1", 1)):
        tiny.npz(folder / f"data{name}", val=val)
    tiny.npz(folder / "datamulti", val=1, multi=True)
    for job in (ranks.one_gradient, ranks.judgements):
        job(folder, tiny.ALONE)
    ranks.whole_run(folder, tiny.ALONE, "alone", ranks.STILL)
    jobs = ["gradient", "run:first", "run:finished", "still:still", "judge", "nan", "denoise:made"]
    jobs += ["wait", "half:half", "other-half:half"]
    start(folder, [*jobs, *(f"differ:{key}" for key in DIFFERING), "resume", "stop"], ranks.work)


def test_gradients_are_those_of_one_process(folder):
    one, two = (torch.load(folder / f"gradient{n}.pt", weights_only=True) for n in (1, 2))
    error = ((one - two).norm() / one.norm()).item()
    print(json.dumps({"gradient": "two processes against one", "relative_l2": error}))
    assert error <= 1e-6


def test_weights_after_a_run_are_those_of_one_process(folder):
    one, two = (checkpoint.load_newest(folder / name / "checkpoints")[0] for name in ("alone", "still"))
    assert one is not None
    assert two is not None
    pairs = [(one.parts["model"][name], two.parts["model"][name]) for name in one.parts["model"]]
    worst = max((a - b).abs().max().item() for a, b in pairs if a.numel())
    print(json.dumps({"weights": "two processes against one, 12 steps", "largest_difference": worst}))
    assert worst <= 5e-4


def test_two_runs_are_equal_to_the_bit(folder):
    """Dropout, averaged weights, accumulation and mixing on."""
    assert tiny.digest(folder / "first" / "model.safetensors") == tiny.digest(folder / "finished" / "model.safetensors")
    assert tiny.steps(folder / "first") == ["step-00000009", "step-00000012"]


def test_denoisers_learn_keep_their_images_and_are_judged_once(folder):
    rows = [json.loads(line) for line in (folder / "made" / "log.jsonl").read_text().splitlines()]
    found = [row["frechet"] for row in rows if row["kind"] == "eval"]
    assert len(found) == 2
    assert all(distance > 0 for distance in found)
    kept = folder / "made" / "evaluation"
    assert sorted(p.name for p in (kept / "snapshots").iterdir()) == [f"step-{step:08d}.png" for step in (1, 2, 4)]
    assert (kept / "copying-pixels.json").is_file()


@pytest.mark.slow
def test_denoisers_make_the_same_images_again(folder):
    start(folder, ["denoise:again"], ranks.work)
    for file in ("model.safetensors", "evaluation/samples.png", "evaluation/snapshots/step-00000004.png"):
        assert tiny.digest(folder / "made" / file) == tiny.digest(folder / "again" / file)


@pytest.mark.parametrize("name", ["17", "33", "1", "multi"])
def test_every_image_is_judged_once_whatever_their_number(name, folder):
    one = json.loads((folder / f"judged{name}-1-0.json").read_text())
    rows, targets = torch.load(folder / f"judged{name}-1-0.pt", weights_only=True)
    for rank in (0, 1):
        said = json.loads((folder / f"judged{name}-2-{rank}.json").read_text())
        assert said["count"] == one["count"] == (1 if name == "multi" else int(name))
        exact = ("mAP", "macro_f1") if name == "multi" else ("top1", "top5", "macro_f1")
        assert {k: said[k] for k in exact if k in one} == {k: one[k] for k in exact if k in one}
        found, true = torch.load(folder / f"judged{name}-2-{rank}.pt", weights_only=True)
        torch.testing.assert_close(found, rows)
        assert torch.equal(true, targets), "in the order of the images"


@pytest.mark.parametrize("key", DIFFERING)
def test_processes_that_were_started_differently_are_refused_by_name(key, folder):
    for rank in (0, 1):
        said = (folder / f"refused-{key}-{rank}.txt").read_text()
        assert said.startswith(f"process 1 has {key} = "), said
    assert not (folder / "differing").exists()


def test_processes_that_resume_differently_are_refused_by_name(folder):
    assert (folder / "refused-resume-0.txt").read_text().startswith("process 1 has optim.lr = 0.5")


def test_a_number_that_is_not_finite_in_one_stops_all_before_the_update(folder):
    for rank in (0, 1):
        assert "not finite at step 5" in (folder / f"refused-nan-{rank}.txt").read_text()
        assert json.loads((folder / f"nan-{rank}.json").read_text()) == {"same": True, "step": 4}
    assert tiny.steps(folder / "poisoned") == ["step-00000003"]


def test_a_signal_to_one_stops_all_at_the_same_step_and_none_before_it_is_saved(folder):
    """A launcher kills the others when one has left: whoever saves must have finished by then."""
    for rank in (0, 1):
        said = json.loads((folder / f"stopped-{rank}.json").read_text())
        assert said == {"code": 143, "step": 4, "saved": True}


def largest_difference(folder, one, other):
    a, b = (checkpoint.load_newest(folder / name / "checkpoints")[0].parts["model"] for name in (one, other))
    return max((a[name] - b[name]).abs().max().item() for name in a if a[name].numel())


def test_a_run_of_two_processes_goes_on_with_two_to_the_same_bits_and_with_one_to_the_same_weights(folder):
    assert tiny.digest(folder / "half" / "model.safetensors") == tiny.digest(folder / "still" / "model.safetensors")
    saved, _ = checkpoint.load_newest(folder / "half-1" / "checkpoints")
    resumed = tiny.again(folder / "half-1")
    assert saved is not None
    assert resumed.state.step == saved.numbers["step"] == 6
    state = dict(resumed.state.model.state_dict())
    assert all(torch.equal(state[name], tensor) for name, tensor in saved.parts["model"].items())
    tiny.finish(resumed)
    assert largest_difference(folder, "half-1", "still") <= 5e-4


@pytest.mark.slow
def test_a_run_of_two_processes_goes_on_with_four(folder):
    start(folder, ["other-half:half-4"], ranks.work, processes=4)
    assert largest_difference(folder, "half-4", "still") <= 5e-4


def test_no_process_waits_inside_a_collective_for_the_disk_of_another(folder):
    """The disk of process 0, and then that of process 1, takes its time. (That a busy process may be so for hours:
    test_lost_processes.py.)"""
    for rank in (0, 1):
        said = json.loads((folder / f"waited-{rank}.json").read_text())
        assert said == {"found": "read", "broadcast_object_list": True, "all_gather_object": True}
