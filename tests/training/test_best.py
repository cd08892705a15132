"""The best weights are kept by default beside the last, chosen on a validation part, and used unless the last are asked
for; the same whether the run was broken off or not."""

import json

import numpy as np
import pytest
import tiny
import torch
from quick import the_first

from vitrail.assembly.load import load_bundle
from vitrail.assembly.run_directory import RunFolder
from vitrail.assembly.validation_part import choose_val_fraction, with_val_part
from vitrail.cli.main import main
from vitrail.data.dataset import ArrayReader, Dataset, Split
from vitrail.errors import CheckpointError, UsageError
from vitrail.report.page.run_page import render_page
from vitrail.report.run_data import read_run
from vitrail.storage.tensors import unpack
from vitrail.tasks import classification
from vitrail.training import evaluations, loop

SCORES = {2: 0.5, 4: 0.7, 6: 0.6, 8: 0.7, 10: 0.1, 11: 0.2}  # of equally good ones the newer counts: step 8
PLAN = {"steps": 11, "eval_every": 2}


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return tiny.npz(tmp_path_factory.mktemp("data"))


@pytest.fixture(autouse=True)
def scores(monkeypatch):
    table = dict(SCORES)
    tiny.score(monkeypatch, table)
    return table


def run(data, out, **train):
    """The events, and the weights after every step."""
    session, events, seen = tiny.begin(tiny.recipe(data, train={**PLAN, **train}), out), [], {}
    for event in loop.run_training(session):
        events.append(event)
        if event.kind == "train":
            seen[event.step] = {name: t.clone() for name, t in session.state.best_model.state_dict().items()}
    return events, seen


def same(path, weights):
    tensors = unpack(path)[0] if not isinstance(path, dict) else path
    return all(torch.equal(tensors[name], weights[name]) for name in weights)


def test_the_best_are_kept_beside_the_last_and_used(data, tmp_path, capsys):
    out = tmp_path / "run"
    events, seen = run(data, out)
    assert same(out / "model.safetensors", seen[11]), "the last weights"
    about = json.loads((out / "best.json").read_text())
    assert about == {"step": 8, "metric": "top1", "value": 0.7, "part": "val", "count": 17,
                     "file": "step-00000008.safetensors"}  # fmt: skip
    assert same(out / "best" / about["file"], seen[8])
    for source in (out, out / "best", out / "best" / about["file"]):
        assert same(load_bundle(source)[0].model.state_dict(), seen[8]), source
    assert same(load_bundle(out, weights="last")[0].model.state_dict(), seen[11])
    assert same(load_bundle(out / "model.safetensors")[0].model.state_dict(), seen[11])
    kept = json.loads((out / "evaluation" / "val.json").read_text())
    assert (kept["weights"]["checkpoint"], kept["weights"]["step"]) == ("best", 8)
    assert events[-1].values["weights"]["step"] == 8
    found = evaluated(capsys, out)
    assert found["top1"] == pytest.approx(kept["top1"])
    assert found["chosen_on"]
    assert "the best weights were chosen on them" in found["evaluated"]
    last = evaluated(capsys, out, "--checkpoint", "last")
    assert last["weights"] == {"checkpoint": "last"}
    assert json.loads((out / "evaluation" / "val.json").read_text()) == kept, "the record is that of the best"


def evaluated(capsys, *words):
    capsys.readouterr()
    assert main(["eval", *map(str, words), "--json", "--device", "cpu"]) == 0
    return json.loads(capsys.readouterr().out.splitlines()[-1])


@pytest.mark.parametrize("stop", the_first([8, 3, 10]))
def test_a_run_broken_off_anywhere_keeps_the_same_best(stop, data, tmp_path):
    run(data, tmp_path / "whole")
    for event in loop.run_training(tiny.begin(tiny.recipe(data, train=PLAN), tmp_path / "run")):
        if event.step >= stop:
            break
    tiny.finish(tiny.again(tmp_path / "run"))
    for name in ("model.safetensors", "best.json", "best/step-00000008.safetensors"):
        assert tiny.digest(tmp_path / "run" / name) == tiny.digest(tmp_path / "whole" / name), name


def test_best_weights_of_a_lost_stretch_do_not_count(data, tmp_path, scores):
    """After the checkpoint of step 3 the fourth was the best; a resumed run begins with that of step 2."""
    scores[4] = 0.9
    for event in loop.run_training(tiny.begin(tiny.recipe(data, train=PLAN), tmp_path / "run")):
        if event.kind == "train" and event.step == 5:
            break
    folder = RunFolder(tmp_path / "run")
    assert folder.best_evaluation()["step"] == 4
    steps = loop.run_training(tiny.again(tmp_path / "run"))
    next(steps)
    assert folder.best_evaluation()["step"] == 2
    assert load_bundle(tmp_path / "run")[1].name == "step-00000002.safetensors"


def test_damaged_best_weights_name_the_way_out_and_end_no_run(data, tmp_path, capsys):
    out = tmp_path / "run"
    for event in loop.run_training(tiny.begin(tiny.recipe(data, train=PLAN), out)):
        if event.kind == "train" and event.step == 10:
            break
    file = out / "best" / "step-00000008.safetensors"
    file.write_bytes(file.read_bytes()[:100])
    with pytest.raises(CheckpointError) as told:
        load_bundle(out)
    assert "--checkpoint last" in told.value.fix
    load_bundle(out, weights="last")
    events = tiny.finish(tiny.again(out))
    assert any("the last weights are used" in e.values.get("text", "") for e in events)
    assert events[-1].values["weights"] == {"checkpoint": "last"}
    assert load_bundle(out)[1] == out
    assert evaluated(capsys, out)["weights"] == {"checkpoint": "last"}


def test_with_patience_the_last_are_in_the_checkpoint(data, tmp_path):
    out = tmp_path / "run"
    _, seen = run(data, out, patience=2)
    assert same(out / "model.safetensors", seen[4])
    assert same(load_bundle(out)[0].model.state_dict(), seen[4])
    assert same(load_bundle(out, weights="last")[0].model.state_dict(), seen[8])


def test_an_evaluation_that_fails_after_the_last_step_ends_no_run(data, tmp_path, monkeypatch):
    def broken(*_, **__):
        raise ValueError("Expected more than 1 value per channel")

    monkeypatch.setattr(evaluations, "write_final", broken)
    events, seen = run(data, tmp_path / "run")
    assert [e.kind for e in events][-2:] == ["note", "done"]
    assert "vitrail eval" in events[-2].values["text"]
    assert same(tmp_path / "run" / "model.safetensors", seen[11])


def dataset(parts, classes=2):
    read = ArrayReader(np.zeros((max(parts.values()), 1, 1, 1), np.uint8))
    splits = {name: Split([f"{name}/{i}" for i in range(n)], np.arange(n) % classes, read) for name, n in parts.items()}
    return Dataset("npz", ("a", "b"), splits, 1)


TASK = classification.build(classification.Config(classes=2))


@pytest.mark.parametrize(
    ("parts", "train", "given", "fraction", "reason"),
    [
        ({"train": 50_000, "val": 9}, {}, None, 0.0, ""),
        ({"train": 20_000, "test": 9}, {}, None, 0.05, "5% of the 20,000 training images are held out"),
        ({"train": 19_980, "test": 9}, {}, None, 0.0, "fewer than 1,000: the last weights are used"),
        ({"train": 100, "test": 9}, {}, 0.1, 0.1, ""),
        ({"train": 50_000, "test": 9}, {}, 0.0, 0.0, ""),
        ({"train": 100, "test": 9}, {"patience": 3}, None, 0.1, "early stopping needs a val part"),
        ({"train": 50_000, "test": 9}, {"eval_every": 0}, None, 0.0, ""),
    ],
)
def test_the_rule_of_the_part_to_choose_on(parts, train, given, fraction, reason, tmp_path):
    made = tiny.recipe(tmp_path, train=train, data={"val_fraction": given})
    whole = dataset(parts)
    chosen, reasons = choose_val_fraction(made, whole, TASK)
    assert chosen.data.val_fraction == fraction
    assert reason in " ".join(reasons)
    assert bool(reason) == bool(reasons)
    split = with_val_part(whole, chosen)
    assert split.splits.get("test") is whole.splits.get("test"), "a test part is never chosen on"
    if fraction:
        held = len(split.splits["val"])
        assert held == pytest.approx(fraction * parts["train"], abs=2)
        assert len(split.splits["train"]) == parts["train"] - held
        assert not set(split.splits["train"].names) & set(split.splits["val"].names)
        assert list(split.splits) == ["train", "test", "val"]


def test_what_cannot_be_chosen_on_is_refused(tmp_path):
    made = tiny.recipe(tmp_path, train={"patience": 3}, data={"val_fraction": 0.0})
    with pytest.raises(UsageError, match="a test part is never used for it") as told:
        choose_val_fraction(made, dataset({"train": 50, "test": 9}), TASK)
    assert "--data.val-fraction 0.1" in told.value.fix
    with pytest.raises(UsageError, match="has a val part"):
        choose_val_fraction(tiny.recipe(tmp_path, data={"val_fraction": 0.1}), dataset({"train": 9, "val": 9}), TASK)


def test_without_a_val_part_nothing_is_chosen_on_the_test_part(tmp_path):
    folder = tmp_path / "data"
    folder.mkdir()
    arrays = {f"{part}_images": np.zeros((12, 12, 12, 1), np.uint8) for part in ("train", "test")}
    arrays |= {f"{part}_labels": np.arange(12) % 3 for part in ("train", "test")}
    np.savez(folder / "few.npz", **arrays)
    session = tiny.begin(tiny.recipe(folder / "few.npz", train={**PLAN, "steps": 3}), tmp_path / "run")
    assert any("the last weights are used" in reason for reason in session.folder.about()["reasons"])
    tiny.finish(session)
    assert not (tmp_path / "run" / "best").exists()
    assert json.loads((tmp_path / "run" / "evaluation" / "test.json").read_text())["weights"] == {"checkpoint": "last"}


def test_a_page_never_calls_a_number_of_the_selection_part_a_test_result(data, tmp_path):
    run(data, tmp_path / "run")
    page = render_page(read_run(RunFolder(tmp_path / "run")))
    assert "The weights are those of step 8, the best on the val part: they were chosen on these images" in page
    assert "interval" in page
    assert "on the test part" not in page
