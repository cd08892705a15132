"""Where memory does not suffice a step is taken again in smaller micro-batches; the batch of a step never changes."""

import contextlib

import pytest
import tiny
import torch

from vitrail.engine import train as engine
from vitrail.engine.memory import is_out_of_memory
from vitrail.errors import RunError
from vitrail.evaluation import evaluate
from vitrail.training import loop

STILL = {"dropout": 0.0, "drop_path": 0.0}
GPU = torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB")
CPU_WORDS = "[enforce fail at alloc_cpu.cpp:124] err == 0. DefaultCPUAllocator: can't allocate memory: you tried to ..."


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return tiny.npz(tmp_path_factory.mktemp("data"))


@pytest.fixture
def memory(monkeypatch):
    """A memory that holds so many images; `memory(4, step)` from a step on."""

    def holds(images, error=GPU, step=1):
        forward = engine.LossModule.forward
        steps = []
        update = engine.update_weights

        def small(self, batch):
            found = forward(self, batch)
            if len(batch.inputs) > images and len(steps) >= step:
                raise error
            return found

        def counted(*given):
            steps.append(1)
            return update(*given)

        monkeypatch.setattr(engine.LossModule, "forward", small)
        monkeypatch.setattr(engine, "update_weights", counted)

    return holds


def run(data, out, steps=3, micro=16, **sections):
    made = tiny.recipe(data, model=STILL, train={"steps": steps}, runtime={"micro_batch": micro}, **sections)
    running = tiny.begin(made, out)
    return running, tiny.finish(running)


def weights(running):
    return torch.cat([p.detach().flatten() for p in running.state.model.parameters()])


@pytest.mark.parametrize(
    "error", [torch.OutOfMemoryError("CUDA out of memory"), RuntimeError(CPU_WORDS), MemoryError()]
)
def test_out_of_memory_is_recognised(error):
    assert is_out_of_memory(error)
    assert not is_out_of_memory(RuntimeError("mat1 and mat2 shapes cannot be multiplied"))


@pytest.mark.parametrize("step", [1, 3])
def test_a_step_that_does_not_fit_is_taken_in_smaller_micro_batches_of_the_same_batch(step, data, tmp_path, memory):
    wanted, _ = run(data, tmp_path / "wanted")
    memory(5, step=step)
    found, events = run(data, tmp_path / "found")
    told = [e.values["text"] for e in events if e.kind == "note"]
    assert told == [
        f"out of memory at step {step}: micro-batches of 8 images from here on, not 16; the batch stays 16",
        f"out of memory at step {step}: micro-batches of 4 images from here on, not 8; the batch stays 16",
    ]
    difference = (weights(wanted) - weights(found)).norm() / weights(wanted).norm()
    assert difference <= 1e-6
    assert found.folder.recipe().runtime.micro_batch == 4, "a resumed run need not find out again"
    assert found.folder.recipe().train.batch_size == 16


def test_the_gradient_is_that_of_the_whole_batch(data, tmp_path, memory):
    gradients = []
    for name in ("whole", "halves"):
        running = tiny.begin(tiny.recipe(data, model=STILL, runtime={"micro_batch": 16}), tmp_path / name)
        settings = loop.loop_settings(running, type("Never", (), {"is_requested": lambda self: False})())
        loss_of = engine.LossModule(running.state.model, running.bundle.task)
        if name == "halves":
            memory(4, RuntimeError(CPU_WORDS), step=0)
        pieces = next(iter(loop.remaining_batches(running)))
        engine.fit_gradients(running.state, loss_of, pieces, settings)
        gradients.append(torch.cat([p.grad.flatten() for p in running.state.model.parameters() if p.grad is not None]))
    assert (gradients[0] - gradients[1]).norm() / gradients[0].norm() <= 1e-6


def test_running_statistics_are_those_of_one_forward_pass(tmp_path, memory):
    """A forward pass that failed half-way leaves no trace in a batch norm."""
    made = tiny.recipe(tiny.images(tmp_path / "data"), augment={"mixup": 0.0, "cutmix": 0.0}, train={"steps": 1})
    made = made.__class__(**{**vars(made), "model": made.model.__class__("resnet/18", {"width": 8})})
    both = []
    for name, micro in (("wanted", 4), ("found", 8)):
        given = made.__class__(**{**vars(made), "runtime": made.runtime.__class__(micro_batch=micro, workers=0)})
        if name == "found":
            memory(4)
        running = tiny.begin(given, tmp_path / name)
        notes = [e.values["text"] for e in loop.run_training(running) if e.kind == "note"]
        both.append(dict(running.state.model.named_buffers()))
    assert "statistics of batch norm are now those of fewer images" in notes[0]
    assert all(torch.equal(values, both[1][name]) for name, values in both[0].items())


@pytest.mark.parametrize("least", [1, 2])
def test_what_cannot_be_smaller_is_told_with_sizes_and_remedies(least, data, tmp_path, memory):
    memory(0)
    mixing = {} if least == 2 else {"mixup": 0.0, "cutmix": 0.0}
    with pytest.raises(RunError) as told:
        run(data, tmp_path / "run", augment=mixing)
    assert f"out of memory at step 1: vit/nano, batch 16, micro-batches of {least} images of" in told.value.what
    assert told.value.fix == "--runtime.grad-checkpoint, a smaller --img-size, or a smaller --model"


def test_of_several_processes_none_goes_on_alone(data, tmp_path):
    from vitrail.engine.processes.world import World
    from vitrail.training.steps import shrink_micro_batches

    running = tiny.begin(tiny.recipe(data, runtime={"micro_batch": 16}), tmp_path / "run")
    pieces = next(iter(loop.remaining_batches(running)))
    running.world = World(0, 2, torch.device("cpu"))
    with pytest.raises(RunError, match="micro-batches of 16 images") as told:
        shrink_micro_batches(running, pieces)
    assert told.value.fix.startswith("--runtime.micro-batch 8 (same batch), ")


def test_an_evaluation_that_does_not_fit_is_made_in_halves_with_the_same_rows(data, tmp_path, monkeypatch):
    running = tiny.begin(tiny.recipe(data), tmp_path / "run")
    split, world = running.dataset.splits["val"], running.world
    wanted = evaluate.evaluate(running.bundle, split, world, running.preprocess, 0)
    predict = running.bundle.task.__class__.predict

    def small(self, model, images):
        if len(images) > 3:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return predict(self, model, images)

    monkeypatch.setattr(running.bundle.task.__class__, "predict", small)
    found = evaluate.evaluate(running.bundle, split, world, running.preprocess, 0)
    torch.testing.assert_close(found.predictions.rows, wanted.predictions.rows)
    with contextlib.suppress(KeyError):
        assert found.metrics["top1"] == wanted.metrics["top1"]
