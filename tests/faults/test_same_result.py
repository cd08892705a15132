"""What must not change a result does not: worker processes, prefetching, accumulation, recomputed activations."""

import shutil

import numpy as np
import pytest
import tiny
import torch
from torch.utils import data as torch_data

from vitrail.assembly.run_directory import RunFolder
from vitrail.data import loader
from vitrail.data.loader import Fetcher, TrainRequests, evaluation_requests, load_batches
from vitrail.data.sampling import SampleStream
from vitrail.engine.processes.parallel import LossModule
from vitrail.engine.train import accumulate_gradients
from vitrail.errors import DataError
from vitrail.training import loop
from vitrail.training.steps import loop_settings, remaining_batches

PLAIN_MODEL = {"dropout": 0.0, "drop_path": 0.0}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Images larger than the model's, so that crops have something to choose from."""
    return tiny.images(tmp_path_factory.mktemp("data") / "images", each=12, size=40)


@pytest.fixture
def data(tmp_path):
    return tiny.npz(tmp_path / "data")


AUGMENTS = {
    "pad": {"crop": "pad", "hflip": True},
    "random-crop": {"crop": "random", "hflip": True, "vflip": True},
    "randaugment": {"crop": "random", "randaugment_ops": 2, "random_erasing": 0.5},
}


def all_batches(running, workers):
    """Every batch of the run as it goes into the model, augmented and mixed, and what the loader says of it."""
    running.workers = workers
    out = []
    for step, pieces in enumerate(remaining_batches(running)):
        for piece in pieces:
            batch = running.feed.prepare(piece, step)
            out.append(
                (
                    batch.inputs,
                    batch.targets,
                    torch.from_numpy(piece.loaded.keys.ids),
                    torch.from_numpy(piece.loaded.keys.epochs),
                )
            )
    return out


@pytest.mark.filterwarnings("ignore:This DataLoader will create")
@pytest.mark.parametrize("augment", AUGMENTS)
def test_workers_change_no_pixel(augment, folder, tmp_path):
    made = tiny.recipe(folder, model={"size": [16, 16]}, augment=AUGMENTS[augment], train={"steps": 4})
    running = tiny.begin(made, tmp_path / "run")
    wanted = all_batches(running, 0)
    assert len(wanted) == 8
    assert len({float(inputs.sum()) for inputs, *_ in wanted}) == 8, "the batches differ from each other"
    for workers in (1, 4):
        torch.manual_seed(workers)  # what the main process draws must not matter
        found = all_batches(running, workers)
        for a, b in zip(wanted, found, strict=True):
            assert all(torch.equal(x, y) for x, y in zip(a, b, strict=True))


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:This DataLoader will create")
@pytest.mark.parametrize("persistent", [False, True])
@pytest.mark.parametrize("prefetch", [2, 8])
def test_prefetching_changes_no_pixel(prefetch, persistent, folder, tmp_path, monkeypatch):
    class Other(torch_data.DataLoader):
        def __init__(self, *given, **named):
            super().__init__(*given, **{**named, "prefetch_factor": prefetch, "persistent_workers": persistent})

    running = tiny.begin(tiny.recipe(folder, augment=AUGMENTS["randaugment"], train={"steps": 4}), tmp_path / "run")
    wanted = all_batches(running, 0)
    monkeypatch.setattr(loader, "DataLoader", Other)
    for workers in (1, 4):
        for a, b in zip(wanted, all_batches(running, workers), strict=True):
            assert all(torch.equal(x, y) for x, y in zip(a, b, strict=True))


@pytest.mark.parametrize("workers", [0, 2])
def test_an_image_is_augmented_alike_in_any_batch_and_on_any_process(workers, folder, tmp_path):
    running = tiny.begin(tiny.recipe(folder, augment=AUGMENTS["randaugment"]), tmp_path / "run")
    fetch = Fetcher(running.dataset.splits["train"], running.feed.transform)
    stream = SampleStream(0, len(running.dataset.splits["train"]), 12)
    whole = list(load_batches(fetch, TrainRequests(stream, 0, 3, 0, 1), 0))
    for world in (2, 3, 4):
        shares = [list(load_batches(fetch, TrainRequests(stream, 0, 3, rank, world), workers)) for rank in range(world)]
        for step in range(3):
            assert torch.equal(torch.cat([share[step].images for share in shares]), whole[step].images)


@pytest.mark.filterwarnings("ignore:This DataLoader will create")
def test_training_with_workers_gives_the_same_weights(folder, tmp_path):
    found = set()
    for workers in (0, 1, 3):
        made = tiny.recipe(
            folder, augment=AUGMENTS["randaugment"], train={"steps": 6, "eval_every": 2}, runtime={"workers": workers}
        )
        tiny.finish(tiny.begin(made, tmp_path / str(workers)))
        found.add(tiny.digest(tmp_path / str(workers) / "model.safetensors"))
    assert len(found) == 1


def test_an_image_that_breaks_while_training_is_named_by_workers_too(tmp_path):
    """One that could be read before the first step and cannot be any more."""
    told = []
    for workers in (0, 2):
        data = tiny.images(tmp_path / f"data{workers}")
        made = tiny.recipe(data, runtime={"workers": workers}, data={"on_error": "fail"})
        running = tiny.begin(made, tmp_path / f"run{workers}")
        (data / "bee" / "003.png").write_bytes(b"no image")
        with pytest.raises(DataError) as error:
            tiny.finish(running)
        told.append(str(error.value))
        assert "003.png" in told[-1]
        assert "Traceback" not in told[-1]
    assert told[0].replace("data0", "data2").replace("run0", "run2") == told[1]


def grads(running, micro):
    """The gradient of the first step, with a batch cut into pieces of `micro`."""
    feed = running.feed.__class__(**{**vars(running.feed), "micro_batch": micro})
    running.feed = feed
    pieces = next(iter(remaining_batches(running)))
    assert len(pieces) == 16 // micro
    running.state.model.train()
    running.state.optimizer.zero_grad(set_to_none=True)
    stop = type("Never", (), {"is_requested": lambda self: False})()
    terms = accumulate_gradients(
        running.state, LossModule(running.state.model, running.bundle.task), pieces, loop_settings(running, stop)
    )
    vector = torch.cat([p.grad.flatten() for p in running.state.model.parameters() if p.grad is not None])
    return vector.clone(), sum(float(t) for t in terms.values())


@pytest.mark.parametrize("micro", [8, 4, 2])
@pytest.mark.parametrize("loss", ["cross_entropy", "bce"])
def test_accumulated_gradients_are_those_of_the_whole_batch(micro, loss, data, tmp_path):
    from dataclasses import replace

    from vitrail.recipe import Choice

    made = replace(tiny.recipe(data, model=PLAIN_MODEL), task=Choice("classification", {"loss": loss}))
    running = tiny.begin(made, tmp_path / "run")
    whole, wanted = grads(running, 16)
    parts, found = grads(running, micro)
    assert ((parts - whole).norm() / whole.norm()).item() <= 1e-6
    assert abs(found - wanted) <= 1e-6 * wanted


def test_a_batch_that_does_not_divide_into_pieces_is_still_the_whole_batch(data, tmp_path):
    """16 in pieces of 6: 6, 6 and 4, each weighed by its size."""
    running = tiny.begin(tiny.recipe(data, model=PLAIN_MODEL), tmp_path / "run")
    whole, _ = grads(running, 16)
    running.feed = running.feed.__class__(**{**vars(running.feed), "micro_batch": 6})
    assert [len(p.loaded.images) for p in next(iter(remaining_batches(running)))] == [6, 6, 4]
    stop = type("Never", (), {"is_requested": lambda self: False})()
    pieces = next(iter(remaining_batches(running)))
    running.state.optimizer.zero_grad(set_to_none=True)
    accumulate_gradients(
        running.state, LossModule(running.state.model, running.bundle.task), pieces, loop_settings(running, stop)
    )
    parts = torch.cat([p.grad.flatten() for p in running.state.model.parameters() if p.grad is not None])
    assert ((parts - whole).norm() / whole.norm()).item() <= 1e-6


@pytest.mark.parametrize("ema", [0.0, 0.9])
def test_recomputed_activations_give_the_same_bits(ema, data, tmp_path):
    """Dropout and stochastic depth included: the second pass draws what the first drew."""
    found = []
    for again in (False, True):
        out = tmp_path / str(again)
        tiny.finish(tiny.begin(tiny.recipe(data, optim={"ema_decay": ema}, runtime={"grad_checkpoint": again}), out))
        found.append(tiny.digest(out / "model.safetensors"))
    assert found[0] == found[1]


def test_judging_does_not_change_training(data, tmp_path):
    found = []
    for every in (0, 1, 5):
        out = tmp_path / str(every)
        tiny.finish(tiny.begin(tiny.recipe(data, train={"eval_every": every}), out))
        found.append(
            [
                tiny.digest(out / "checkpoints" / "step-00000012" / f"{part}.safetensors")
                for part in ("model", "ema", "optimizer")
            ]
        )
    assert found[0] == found[1] == found[2]


def test_judging_in_other_batches_gives_the_same_numbers(data, tmp_path):
    from vitrail.evaluation.evaluate import evaluate

    running = tiny.begin(tiny.recipe(data), tmp_path / "run")
    split = running.dataset.splits["val"]
    results = [evaluate(running.bundle, split, tiny.ALONE, running.preprocess, 0, batch=b) for b in (1, 5, 17, 256)]
    for metrics, found, _ in results:
        assert metrics["top1"] == results[0][0]["top1"]
        assert metrics["count"] == 17
        torch.testing.assert_close(found.rows, results[0][1].rows)
        assert torch.equal(found.targets, torch.from_numpy(split.labels))
    assert [len(k.ids) for k in evaluation_requests(split, np.arange(17), 5)] == [5, 5, 5, 2]


def test_a_run_goes_on_with_the_number_of_threads_that_it_began_with(data, tmp_path, monkeypatch):
    """The number decides in which order sums are added, and so the last bits."""
    torch.set_num_threads(2)
    whole, stopped = (tiny.begin(tiny.recipe(data), tmp_path / name) for name in ("whole", "stopped"))
    assert whole.folder.recipe().runtime.threads == 2
    tiny.finish(whole)
    for event in loop.run_training(stopped):
        if event.kind == "saved":
            break
    torch.set_num_threads(1)
    resumed = tiny.again(tmp_path / "stopped")
    assert torch.get_num_threads() == 2
    tiny.finish(resumed)
    assert tiny.digest(tmp_path / "stopped" / "model.safetensors") == tiny.digest(
        tmp_path / "whole" / "model.safetensors"
    )
    about = resumed.folder.about()
    monkeypatch.setattr(RunFolder, "about", lambda self: {**about, "processes": 4})
    torch.set_num_threads(1)
    tiny.again(tmp_path / "stopped")
    assert torch.get_num_threads() == 1, "other processes, other threads"


def test_threads_change_no_pixel(folder, tmp_path):
    """A worker has one thread, a process that reads by itself may have many."""
    found = []
    for number in (1, 2):
        torch.set_num_threads(number)
        made = tiny.recipe(folder, augment=AUGMENTS["randaugment"], train={"steps": 2})
        found.append(all_batches(tiny.begin(made, tmp_path / f"run{len(found)}"), 0))
    assert all(torch.equal(a[0], b[0]) for a, b in zip(*found, strict=True))


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("g++") is None, reason="compiling needs a compiler")
def test_compiled_blocks_have_the_losses_of_plain_ones(data, tmp_path):
    losses = []
    for compiled in (False, True):
        made = tiny.recipe(data, model=PLAIN_MODEL, train={"steps": 3, "compile": compiled, "eval_every": 0})
        events = tiny.finish(tiny.begin(made, tmp_path / str(compiled)))
        losses.append([e.values["loss"] for e in events if e.kind == "train"])
    assert losses[0] == pytest.approx(losses[1], rel=1e-4)
