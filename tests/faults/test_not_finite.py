"""A number that is not finite: no update is made, the pictures are named, the last sound checkpoint stays."""

import pytest
import tiny
import torch

from vitrail.engine import checkpoint
from vitrail.errors import RunError
from vitrail.run import train
from vitrail.tasks.classification import Classification


@pytest.fixture
def data(tmp_path):
    return tiny.npz(tmp_path / "data")


def weights(running):
    state = running.state
    parts = [*state.tensors().values(), {} if state.ema is None else dict(state.ema.module.state_dict())]
    return [t.clone() for part in parts for t in part.values()]


def poison(monkeypatch, step, how):
    """From the `step`-th call of the loss on (two pieces a step), something is wrong with it."""
    loss, calls = Classification.loss, []

    def bad(self, model, batch):
        terms = loss(self, model, batch)
        calls.append(1)
        if len(calls) <= 2 * (step - 1):
            return terms
        if how == "gradient":  # a finite loss whose gradient is not
            name, value = next(iter(terms.items()))
            zero = sum(p.sum() for p in model.parameters()) * 0
            return {name: value + torch.sqrt(zero * zero)}
        return {name: value * float(how) for name, value in terms.items()}

    monkeypatch.setattr(Classification, "loss", bad)


@pytest.mark.parametrize("how", ["nan", "inf", "-inf", "gradient"])
@pytest.mark.parametrize("machine", [{"micro": 8}, {"micro": 8, "grad_checkpoint": True}], ids=["plain", "checkpointing"])
def test_nothing_is_learned_from_it(how, machine, data, tmp_path, monkeypatch):
    out = tmp_path / "run"
    running = tiny.begin(tiny.recipe(data, machine=machine), out)
    poison(monkeypatch, 8, how)
    before = []

    def watched():
        for event in train.run(running):
            if event.kind == "train":
                before[:] = weights(running)

    with pytest.raises(RunError) as told:
        watched()
    assert "not finite at step 8" in told.value.what
    assert ("gradient" if how == "gradient" else "loss") in told.value.what
    assert "step-00000006" in told.value.what
    assert told.value.fix
    assert running.state.step == 7
    assert all(torch.equal(a, b) for a, b in zip(before, weights(running), strict=True))
    assert tiny.steps(out) == ["step-00000003", "step-00000006"]
    assert not (out / "model.safetensors").exists()


def test_the_pictures_of_the_batch_are_named(data, tmp_path, monkeypatch):
    running = tiny.begin(tiny.recipe(data), tmp_path / "run")
    poison(monkeypatch, 1, "nan")
    with pytest.raises(RunError) as told:
        tiny.finish(running)
    from vitrail.data.sampling import Stream

    first = Stream(0, 48, 16).keys(0).ids
    for i in first[:4]:
        assert f"train/{i}," in told.value.what
    assert "there was no checkpoint yet" in told.value.what


def test_a_rate_far_too_large_is_met_before_it_is_saved_as_finished(data, tmp_path):
    running = tiny.begin(tiny.recipe(data, optim={"lr": 1e30, "warmup": 0, "clip": 0.0}), tmp_path / "run")
    with pytest.raises(RunError, match="not finite"):
        tiny.finish(running)
    assert not (tmp_path / "run" / "model.safetensors").exists()


def test_the_run_goes_on_from_its_last_checkpoint_when_the_cause_has_gone(data, tmp_path, monkeypatch):
    made = tiny.recipe(data)
    tiny.finish(tiny.begin(made, tmp_path / "untouched"))
    with monkeypatch.context() as patch:
        poison(patch, 8, "nan")
        with pytest.raises(RunError):
            tiny.finish(tiny.begin(made, tmp_path / "run"))
    tiny.finish(tiny.again(tmp_path / "run"))
    assert tiny.digest(tmp_path / "run" / "model.safetensors") == tiny.digest(tmp_path / "untouched" / "model.safetensors")


def test_an_overflow_of_scaled_gradients_skips_one_update(data, tmp_path):
    """fp16: the scaler halves its scale and leaves the update out; the weights of that step stay as they were."""
    running = tiny.begin(tiny.recipe(data, plan={"precision": "fp16", "steps": 4}, optim={"ema": 0.0}), tmp_path / "run")
    assert running.state.scaler is not None
    running.state.scaler = torch.amp.GradScaler("cpu", init_scale=2.0**60)
    before = [p.detach().clone() for p in running.state.model.parameters()]
    for event in train.run(running):
        if event.kind == "train" and event.step == 1:
            assert all(torch.equal(a, b) for a, b in zip(before, running.state.model.parameters(), strict=True))
            assert running.state.scaler.get_scale() == 2.0**59
    assert running.state.scaler.get_scale() == 2.0**56
    saved, _ = checkpoint.newest(tmp_path / "run" / "checkpoints")
    assert saved is not None
    assert saved.numbers["scaler"]["scale"] == 2.0**56


def test_a_gradient_that_no_scale_makes_finite_ends_the_run(data, tmp_path, monkeypatch):
    """fp16: otherwise every update would be left out to the end, and the run would look as if it learned."""
    running = tiny.begin(tiny.recipe(data, plan={"precision": "fp16", "steps": 60}, optim={"ema": 0.0}), tmp_path / "run")
    poison(monkeypatch, 3, "gradient")
    with pytest.raises(RunError, match=r"the gradient .* is not finite at step 3\d"):
        tiny.finish(running)


def test_pictures_of_one_colour_are_no_reason_to_stop(tmp_path):
    """Their standard deviation is zero, and nothing must be divided by it."""
    import numpy as np

    arrays = {f"{p}_images": np.full((n, 12, 12, 3), 255, np.uint8) for p, n in (("train", 24), ("val", 6))}
    np.savez(tmp_path / "flat.npz", **arrays, train_labels=np.arange(24) % 2, val_labels=np.arange(6) % 2)
    events = tiny.finish(tiny.begin(tiny.recipe(tmp_path / "flat.npz", plan={"steps": 2}), tmp_path / "run"))
    assert events[-1].kind == "done"
