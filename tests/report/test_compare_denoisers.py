"""Denoisers side by side: paired losses with an interval, what cannot be compared, and the quality of their images."""

import dataclasses
import json
import shutil

import pytest
import tiny

from vitrail.recipe import Choice, DataConfig, OptimConfig, Recipe, RuntimeConfig, TrainConfig
from vitrail.report.compare import compare_page
from vitrail.report.compare.comparison import compare_runs, describe_comparison

SMALL = {"width": 16, "depth": 2, "heads": 2, "context": 2, "context_start": 1, "bottleneck": 8}


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    folder = tmp_path_factory.mktemp("runs")
    data = tiny.npz(folder / "data", train=32, val=9)
    base = Recipe(
        model=Choice("jit/nano", SMALL), data=DataConfig("", {"path": str(data)}),
        optim=OptimConfig(lr=3e-3, ema_decay=0.5, warmup_steps=0),
        train=TrainConfig(steps=4, batch_size=16, precision="fp32", eval_every=2),
        runtime=RuntimeConfig(micro_batch=16, workers=0),
    )  # fmt: skip
    changed = {
        "a": base,
        "b": dataclasses.replace(base, optim=OptimConfig(lr=1e-2, ema_decay=0.5, warmup_steps=0)),
        "eps": dataclasses.replace(base, task=Choice("diffusion", {"loss_space": "eps"})),
    }
    for name, recipe in changed.items():
        tiny.finish(tiny.begin(recipe, folder / name))
    return folder


def test_losses_of_the_same_images_are_compared_pair_by_pair(runs):
    found = compare_runs([runs / "a", runs / "b"])
    (row,) = [row for name, row in found.metrics if name == "held_out_loss"]
    for interval, known in zip(row, found.runs, strict=True):
        assert interval.value == pytest.approx(
            json.loads((known.folder.evaluation / "val.json").read_text())["held_out_loss"]
        )
        assert interval.low < interval.value < interval.high
    (said,) = [s for s in describe_comparison(found) if "held-out loss" in s]
    assert f"The held-out loss of b is {row[1].value - row[0].value:+.4f} against that of a" in said
    assert "over the same 9 images" in said
    page = compare_page.render_page(found)
    assert "Held-out loss" in page
    assert ", held-out</b>" not in page


def test_losses_that_measure_other_things_are_not_compared(runs):
    (said,) = [s for s in describe_comparison(compare_runs([runs / "a", runs / "eps"])) if "held-out" in s]
    assert said == "Their held-out losses measure different things and cannot be compared (task.loss_space)."


def test_quality_stands_beside_each_other_where_it_was_measured_alike(runs, tmp_path):
    for name, distance in (("a", 3.0), ("b", 2.0)):
        shutil.copytree(runs / name, tmp_path / name)
        said = {"by": "judge", "part": "val", "real": 9, "made": 9, "metrics": {"frechet": distance, "recall": 0.5}}
        (tmp_path / name / "evaluation/quality.json").write_text(json.dumps(said))
    rows = dict(compare_runs([tmp_path / "a", tmp_path / "b"]).metrics)
    assert [i.value for i in rows["frechet"]] == [3.0, 2.0]
    assert "Fréchet distance" in compare_page.render_page(compare_runs([tmp_path / "a", tmp_path / "b"]))
    (tmp_path / "b/evaluation/quality.json").write_text(json.dumps({**said, "by": "another"}))
    assert "frechet" not in dict(compare_runs([tmp_path / "a", tmp_path / "b"]).metrics)
