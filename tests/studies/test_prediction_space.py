"""The study of what a denoiser says, at a size of seconds."""

import json
import shlex

import pytest
import tiny
import torch
from places import must, npz

from vitrail.assembly.prepare import prepare_run
from vitrail.metrics.generation import frechet
from vitrail.studies import prediction_space as study
from vitrail.studies._bench.trial import run_trial

WORDS = "--steps 2 --batch 8 --depth 1 --width 16 --side 12 --small 3 --count 8 --data tiny.npz"


@pytest.fixture
def place(own_folder):
    npz(own_folder / "tiny.npz")
    return own_folder


def settings(**changes):
    tiny_ones = {
        "data": "tiny.npz",
        "steps": 2,
        "batch": 8,
        "depth": 1,
        "width": 16,
        "side": 12,
        "small": 3,
        "count": 8,
    }
    return study.Config(**{**tiny_ones, **changes})


def test_every_cell_is_trained_judged_and_drawn(place):
    must("study", "prediction-space", *shlex.split(WORDS), "--out", "here")
    found = json.loads((place / "here/results.json").read_text())
    assert [(row["patch"], row["prediction"], row["loss"]) for row in found["rows"]] == [
        (patch, said, loss) for patch in (3, 12) for said in ("x", "eps", "v") for loss in ("x", "eps", "v")
    ]
    for row in found["rows"]:
        (one,) = row["trainings"]
        assert one["frechet"] > 0
        assert one["x_loss"] > 0
        assert "images" not in one
    table, drawn = (place / "here/table.md").read_text(), (place / "here/figure.svg").read_text()
    assert table.count("\n| eps |") == 2
    assert "Patch 12, 144 dimensions at a width of 16" in table
    assert drawn.count("<image") == 18
    assert (place / "here/report.html").stat().st_size < 2e6


def test_rows_differ_in_patch_prediction_and_loss_alone_and_share_one_measure(place):
    config = settings(seeds=1)
    prepared = prepare_run(study.recipe(config), tiny.ALONE)
    row = study.Row(12, "eps", "v")
    trial = run_trial(prepared, row.changes, 0, tiny.ALONE)
    made = trial.session
    given = made.bundle.task.config
    assert (made.bundle.model.config.patch, given.prediction, given.loss_space) == (12, "eps", "v")
    assert given.noise_scale == 1.0
    bundle = study.ModelBundle(made.state.best_model, made.bundle.task, made.recipe, made.bundle.classes)
    split = made.dataset.splits["test"]
    images = torch.from_numpy(split.array.transpose(0, 3, 1, 2).copy()).float() / 127.5 - 1
    ids, labels = torch.arange(len(split)).numpy(), torch.from_numpy(split.labels)
    with torch.no_grad():
        same = study.Diffusion(study.dataclasses.replace(given, loss_space="x"))
        wanted = float(same.held_out_loss(made.state.best_model.eval(), images, labels, ids).mean())
        own = float(made.bundle.task.held_out_loss(made.state.best_model, images, labels, ids).mean())
    assert study.x_loss(bundle, trial) == pytest.approx(wanted, rel=1e-5)
    assert abs(own - wanted) > 0.01 * wanted


def test_training_images_are_the_measure_of_the_measure(place):
    config = settings(count=6)
    known = study.load_real(config, prepare_run(study.recipe(config), tiny.ALONE))
    assert known.images.shape[1] == 144
    assert float(known.images.max()) <= 1
    assert 0 < known.floor < frechet(known.images, torch.zeros(6, 144, dtype=torch.float64))


def test_what_is_not_finite_is_told_and_fails():
    row = {"frechet": None, "x_loss": None, "final_loss": None, "reason": "the loss is not finite", "images": ""}
    fine = {"frechet": 2.0, "x_loss": 0.1, "final_loss": 0.1, "reason": "", "images": ""}
    config = settings()
    cells = {r: [row if (r.prediction, r.patch) == ("eps", 12) else fine] for r in study.build(config)}
    assert study.line(study.Job("a"), row) == "the loss is not finite"
    assert study.cell_rows(config, cells, "frechet")[1] == ("eps", "2", "2", "2", *["not finite"] * 3)
    small, large, floor = study.sentences(config, cells, study.Real(torch.zeros(2, 144), 0.5))
    assert "none fails" in small
    assert "eps fails" in large
    assert floor.endswith("0.5 from the held-out ones.")
    assert b"<svg" in study.figure(config, cells)
