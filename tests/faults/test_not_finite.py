"""A number that is not finite: no update is made, the images are named, the last sound checkpoint stays."""

import json

import pytest
import tiny
import torch
from quick import spread

from vitrail.cli.main import print_error
from vitrail.engine import checkpoint
from vitrail.engine.log import read_rows
from vitrail.errors import RunError
from vitrail.storage.tensors import unpack
from vitrail.tasks.classification import Classification
from vitrail.training import loop
from vitrail.training.steps import remaining_batches


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


@pytest.mark.parametrize("how", spread(["nan", "inf", "-inf", "gradient"], 2))
@pytest.mark.parametrize(
    "machine", [{"micro_batch": 8}, {"micro_batch": 8, "grad_checkpoint": True}], ids=["plain", "checkpointing"]
)
def test_nothing_is_learned_from_it(how, machine, data, tmp_path, monkeypatch):
    out = tmp_path / "run"
    running = tiny.begin(tiny.recipe(data, runtime=machine), out)
    poison(monkeypatch, 8, how)
    before = []

    def watched():
        for event in loop.run_training(running):
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


def test_the_images_of_the_batch_are_named(data, tmp_path, monkeypatch):
    running = tiny.begin(tiny.recipe(data), tmp_path / "run")
    poison(monkeypatch, 1, "nan")
    with pytest.raises(RunError) as told:
        tiny.finish(running)
    from vitrail.data.sampling import SampleStream

    first = SampleStream(0, 48, 16).keys(0).ids
    for i in first[:4]:
        assert f"train/{i}," in told.value.what
    assert "there was no checkpoint yet" in told.value.what


def test_a_rate_far_too_large_is_met_before_it_is_saved_as_finished(data, tmp_path):
    running = tiny.begin(tiny.recipe(data, optim={"lr": 1e30, "warmup_steps": 0, "clip_grad": 0.0}), tmp_path / "run")
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
    assert tiny.digest(tmp_path / "run" / "model.safetensors") == tiny.digest(
        tmp_path / "untouched" / "model.safetensors"
    )


def test_an_overflow_of_scaled_gradients_skips_one_update(data, tmp_path):
    """fp16: the scaler halves its scale and leaves the update out; the weights of that step stay as they were."""
    running = tiny.begin(
        tiny.recipe(data, train={"precision": "fp16", "steps": 4}, optim={"ema_decay": 0.0}), tmp_path / "run"
    )
    assert running.state.scaler is not None
    running.state.scaler = torch.amp.GradScaler("cpu", init_scale=2.0**60)
    before = [p.detach().clone() for p in running.state.model.parameters()]
    for event in loop.run_training(running):
        if event.kind == "train" and event.step == 1:
            assert all(torch.equal(a, b) for a, b in zip(before, running.state.model.parameters(), strict=True))
            assert running.state.scaler.get_scale() == 2.0**59
    assert running.state.scaler.get_scale() == 2.0**56
    saved, _ = checkpoint.load_newest(tmp_path / "run" / "checkpoints")
    assert saved is not None
    assert saved.numbers["scaler"]["scale"] == 2.0**56


def test_a_gradient_that_no_scale_makes_finite_ends_the_run(data, tmp_path, monkeypatch):
    """fp16: otherwise every update would be left out to the end, and the run would look as if it learned."""
    running = tiny.begin(
        tiny.recipe(data, train={"precision": "fp16", "steps": 60}, optim={"ema_decay": 0.0}), tmp_path / "run"
    )
    poison(monkeypatch, 3, "gradient")
    with pytest.raises(RunError, match=r"the gradient .* is not finite at step 3\d"):
        tiny.finish(running)


def test_images_of_one_colour_are_no_reason_to_stop(tmp_path):
    """Their standard deviation is zero, and nothing must be divided by it."""
    import numpy as np

    arrays = {f"{p}_images": np.full((n, 12, 12, 3), 255, np.uint8) for p, n in (("train", 24), ("val", 6))}
    np.savez(tmp_path / "flat.npz", **arrays, train_labels=np.arange(24) % 2, val_labels=np.arange(6) % 2)
    events = tiny.finish(tiny.begin(tiny.recipe(tmp_path / "flat.npz", train={"steps": 2}), tmp_path / "run"))
    assert events[-1].kind == "done"


def divergence(out, step):
    """The batch and the finding as they were kept."""
    place = out / "divergence" / checkpoint.checkpoint_name(step)
    tensors, about = unpack(place.with_suffix(".safetensors"))
    assert about == {"step": step}
    return tensors, json.loads(place.with_suffix(".json").read_text())


def test_the_batch_is_kept_as_it_entered_the_model(data, tmp_path, monkeypatch):
    running = tiny.begin(tiny.recipe(data), tmp_path / "run")
    poison(monkeypatch, 8, "nan")
    with pytest.raises(RunError, match=r"the batch is in divergence/step-00000008\.safetensors"):
        tiny.finish(running)
    tensors, said = divergence(tmp_path / "run", 8)
    again = tiny.begin(tiny.recipe(data), tmp_path / "other")
    pieces = list(remaining_batches(again))[7]
    batches = [again.feed.prepare(piece, 7) for piece in pieces]
    assert torch.equal(tensors["inputs"], torch.cat([b.inputs for b in batches]))
    assert torch.equal(tensors["targets"], torch.cat([b.targets for b in batches]))
    assert len(said["images"]) == 16
    assert said["finding"] == {"kind": "loss", "message": said["finding"]["message"], "where": ["cross_entropy"]}
    assert said["lr"] == pytest.approx(
        [e for e in read_rows(tmp_path / "run" / "log.jsonl") if e["kind"] == "train"][-1]["lr"], rel=0.5
    )
    assert [row["step"] for row in said["history"]] == [1, 2, 3, 4, 5, 6, 7]


def broken(name):
    """Makes what a layer gives infinite from the fifth step on."""

    def spoil(running):
        layer = running.state.model.get_submodule(name)
        layer.register_forward_hook(lambda module, given, out: out * float("inf") if running.state.step >= 4 else out)

    return spoil


def spoilt_gradient(running):
    weight = running.state.model.get_parameter("backbone.blocks.1.mlp.fc1.weight")
    weight.register_hook(lambda g: g * float("nan") if running.state.step >= 4 else g)


def spoilt_weight(running):
    """What an update that went wrong would leave."""
    layer = running.state.model.get_submodule("backbone.blocks.0")

    def spoil(module, given):
        if running.state.step == 4:
            module.attn.qkv.weight.data[0, 0] = float("nan")

    layer.register_forward_pre_hook(spoil)


def spoilt_images(running):
    prepare = running.feed.prepare

    class Feed(type(running.feed)):
        def prepare(self, piece, step):
            batch = prepare(piece, step)
            return batch._replace(inputs=batch.inputs / 0) if step >= 4 else batch

    running.feed = Feed(**vars(running.feed))


@pytest.mark.parametrize(
    ("spoil", "kind", "where", "told"),
    [
        (
            broken("backbone.blocks.1.attn.proj"),
            "forward",
            "backbone.blocks.1.attn.proj",
            "first in the output of backbone.blocks.1.attn.proj",
        ),
        (
            spoilt_gradient,
            "gradient",
            "backbone.blocks.1.mlp.fc1.weight",
            "the loss is finite; first in the gradient of",
        ),
        (
            spoilt_weight,
            "weights",
            "backbone.blocks.0.attn.qkv.weight",
            "the weights themselves are not finite any more",
        ),
        (spoilt_images, "images", None, "the images that entered the model are not finite"),
    ],
    ids=["forward", "gradient", "weights", "images"],
)
def test_where_it_began_is_found(spoil, kind, where, told, data, tmp_path, capsys):
    running = tiny.begin(tiny.recipe(data), tmp_path / "run")
    spoil(running)
    with pytest.raises(RunError) as error:
        tiny.finish(running)
    assert told in error.value.what
    assert "not finite at step 5" in error.value.what
    _, said = divergence(tmp_path / "run", 5)
    assert said["finding"]["kind"] == kind
    assert (said["finding"]["where"] or [None])[0] == where
    assert 1 <= len(said["suggestions"]) <= 2
    if kind == "forward":
        assert "qk-norm" in error.value.fix
    print_error(error.value.what, error.value.fix)
    assert len(capsys.readouterr().err.splitlines()) <= 5


def history(losses, norms):
    return [
        {"step": 10 * i, "loss": a, "grad_norm": b, "lr": 0.1}
        for i, (a, b) in enumerate(zip(losses, norms, strict=True), 1)
    ]


def test_rising_and_sudden_are_told_apart():
    from vitrail.training.divergence import describe_trend

    calm = [2.0, 1.9, 1.8, 1.7, 1.7, 1.6, 1.6, 1.5]
    assert describe_trend([]) == "no steps were logged before it"
    assert describe_trend(history(calm, [1.0] * 8)).startswith("sudden, after loss 1.5, gradient norm 1 at step 80")
    assert describe_trend(history([2.0, 1.9, 1.8, 1.7, 2.5, 3.5, 4.0, 9.0], [1.0] * 8)).startswith(
        "rising since step 50"
    )
    assert describe_trend(history(calm, [1, 1, 1, 1, 10, 40, 80, 300])).startswith("rising since step 50")
    assert describe_trend(history(calm[:2], [1.0, 1.0])).startswith("before it")


def test_a_gradient_far_above_the_usual_is_told_once(data, tmp_path):
    running = tiny.begin(tiny.recipe(data, train={"steps": 40}), tmp_path / "run")
    running.state.model.get_parameter("heads.0.weight").register_hook(
        lambda g: g * 1e4 if running.state.step in (30, 31) else g
    )
    notes = [e for e in tiny.finish(running) if e.kind == "note"]
    assert len(notes) == 1
    assert notes[0].step == 31
    assert "the gradient norm was" in notes[0].values["text"]


def test_a_disk_that_is_full_costs_the_batch_and_not_the_reason(data, tmp_path, monkeypatch):
    from vitrail.training import divergence as divergences

    def full(*given):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(divergences, "write_file", full)
    running = tiny.begin(tiny.recipe(data), tmp_path / "run")
    poison(monkeypatch, 2, "nan")
    with pytest.raises(RunError, match=r"not finite at step 2.*could not be written"):
        tiny.finish(running)
