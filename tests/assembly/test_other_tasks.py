"""Classifiers, segmenters and detectors begin with each other's weights: what fits is taken, the rest is new and
named."""

import dataclasses

import pytest
import torch
from quick import spread

from vitrail.assembly import pretrained
from vitrail.assembly.model import assemble_model
from vitrail.assembly.save import save_model
from vitrail.cli.main import main
from vitrail.errors import CheckpointError
from vitrail.recipe import Choice, InitConfig, InputConfig, Recipe

TASKS = {
    "classification": {}, "segmentation": {"width": 16},
    "detection": {"width": 16, "heads": 2, "queries": 5, "decoder": 1, "hidden": 16},
}  # fmt: skip
FAMILIES = {
    "vit/nano": {"depth": 4, "width": 16, "heads": 2, "patch": 8, "map_depths": [1, 2, 3, 4]},
    "resnet/18": {"width": 8},
}
CLASSES = (("a", "b"), ("c", "d"), ("a", "b", "c"))
SIZE, HALF = (64, 64), (0.5, 0.5, 0.5)


def bundle(family, task, classes):
    torch.manual_seed(len(classes))
    given = InputConfig(SIZE, 3, HALF, HALF, "stretch")
    return assemble_model(
        Recipe(Choice(family, FAMILIES[family]), task=Choice(task, TASKS[task]), input=given), classes
    )


@pytest.fixture(scope="module", params=FAMILIES)
def saved(request, tmp_path_factory):
    """The family, and the folder of a model of each task with classes a and b."""
    folder = tmp_path_factory.mktemp("saved")
    return request.param, {t: save_model(bundle(request.param, t, ("a", "b")), folder / t) for t in TASKS}


PAIRS = [
    ("classification", "detection", CLASSES[0]), ("detection", "segmentation", CLASSES[2]),
    ("segmentation", "classification", CLASSES[1]), *(("detection", "detection", c) for c in CLASSES),
    *(("segmentation", "segmentation", c) for c in CLASSES[1:]),
]  # fmt: skip


@pytest.mark.parametrize(("before", "after", "classes"), spread(PAIRS, 4))
def test_every_task_begins_with_the_weights_of_every_other(before, after, classes, saved):
    family, folders = saved
    made, start = bundle(family, after, classes), InitConfig(str(folders[before]))
    fresh = {name: t.clone() for name, t in made.model.state_dict().items()}
    origin = pretrained.find_weights(start)
    report = pretrained.load_origin(made, origin, start)
    state, theirs = made.model.state_dict(), origin.raw.tensors
    for name, tensor in state.items():
        taken = name not in report.new
        assert torch.equal(tensor, theirs[name] if taken else fresh[name]), name
        assert taken or not name.startswith("backbone."), name
    depends = pretrained.class_dependent(made)
    if before != after:
        assert set(report.new) == {name for name in state if not name.startswith("backbone.")}
    elif classes == ("a", "b"):
        assert report.new == ()
    else:
        assert set(report.new) == depends
        assert 0 < len(depends) <= 4
    assert set(report.left_out) == {name for name in theirs if name not in state or name in report.new}
    if report.new:
        assert any(line.startswith("new ") for line in report.lines())
        with pytest.raises(CheckpointError, match="the head in"):
            pretrained.load_origin(made, origin, dataclasses.replace(start, head="keep"))


def test_a_head_of_another_shape_is_taken_as_far_as_it_fits(saved):
    family, folders = saved
    made, start = bundle(family, "detection", ("a", "b")), InitConfig(str(folders["detection"]))
    recipe = dataclasses.replace(made.recipe, task=Choice("detection", {**TASKS["detection"], "hidden": 24}))
    wider = assemble_model(recipe, ("a", "b"))
    new = pretrained.load_origin(wider, pretrained.find_weights(start), start).new
    assert new
    assert len(new) < 10


def test_a_detector_begins_from_the_command_line(saved, tmp_path, monkeypatch, capsys):
    family, folders = saved
    monkeypatch.chdir(tmp_path)
    data = ["--data", "shapes", "--batch-size", "4", "--dry-run"]
    data += [f"--data.count-{part}={n}" for part, n in (("train", 8), ("val", 4), ("test", 4))]
    for before in ("classification", "detection"):
        words = ["train", *data, "--task", "detection", "--weights", str(folders[before])]
        assert main(words) == 0, capsys.readouterr().err
        assert "new " in " ".join(capsys.readouterr().out.split())
    assert family in FAMILIES
