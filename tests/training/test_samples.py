"""What a denoiser's run keeps of its images: a few at moments of it, their nearest training images, and a distance by a
classifier."""

import dataclasses
import json

import numpy as np
import pytest
import tiny
import torch

from vitrail.errors import CheckpointError, UsageError
from vitrail.evaluation.generation import copying, frechet
from vitrail.inference import predictor
from vitrail.recipe import Choice, DataConfig, EvalConfig, OptimConfig, Recipe, RuntimeConfig, TrainConfig
from vitrail.report.page.run_page import build_report
from vitrail.training import loop as runs
from vitrail.training import samples

SMALL = {"width": 16, "depth": 2, "heads": 2, "context": 2, "context_start": 1, "bottleneck": 8, "dropout": 0.1}


def recipe(path, steps=8, batch=16, features="", **runtime):
    return Recipe(
        model=Choice("jit/nano", SMALL),
        data=DataConfig("", {"path": str(path)}),
        optim=OptimConfig(lr=3e-3, ema_decay=0.9, warmup_steps=0),
        train=TrainConfig(steps=steps, batch_size=batch, precision="fp32", eval_every=4),
        runtime=RuntimeConfig(**{"micro_batch": batch, "workers": 0, "save_every": 4, "log_every": 1, **runtime}),
        eval=EvalConfig(features),
    )


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return tiny.npz(tmp_path_factory.mktemp("data"), train=32, val=9)


@pytest.fixture
def roomy(monkeypatch):
    """As if a run of a few steps had time for every moment."""
    monkeypatch.setattr(samples, "SHARE", 100.0)


def files(run):
    return {p.name: tiny.digest(p) for p in (run / "evaluation/snapshots").glob("*")}


def test_moments_are_the_last_halves_that_there_is_time_for():
    def at(steps, batch):
        return samples.snapshot_steps(Recipe(train=TrainConfig(steps=steps, batch_size=batch)))

    assert at(6400, 128) == (200, 400, 800, 1600, 3200, 6400)
    assert at(20, 128) == ()
    assert at(30, 256) == (15, 30)
    for steps, batch in ((100, 16), (77, 128), (10_000, 32)):
        work = len(at(steps, batch)) * samples.WIDE * samples.STEPS * 2
        assert work <= samples.SHARE * 3 * steps * batch
    assert samples.snapshot_labels(3) == (0, 0, 0, 1, 1, 1, 2, 2)
    assert samples.snapshot_labels(0) == (0,) * 8
    assert (
        samples.snapshot_labels(100)[0],
        samples.snapshot_labels(100)[-1],
        len(set(samples.snapshot_labels(100))),
    ) == (0, 99, 8)


@pytest.mark.parametrize("cut", ["killed", "stopped at a moment"])
def test_images_at_moments_change_no_weight_and_resume_to_the_same(cut, data, tmp_path, roomy, monkeypatch):
    tiny.finish(tiny.begin(recipe(data), tmp_path / "whole"))
    whole = files(tmp_path / "whole")
    assert sorted(whole) == [f"step-{step:08d}.png" for step in (1, 2, 4, 8)]
    assert len(set(whole.values())) == 4, "they come about"
    running = tiny.begin(recipe(data), tmp_path / "cut")
    stepping = runs.run_training(running)
    if cut == "killed":
        next(e for e in stepping if e.kind == "saved")
    else:  # saved at step 4 by a signal that came before its images
        with monkeypatch.context() as without:
            without.setattr(samples.SampleSnapshots, "is_due", lambda self, step: step in (1, 2))
            next(e for e in stepping if e.kind == "saved")
    stepping.close()
    tiny.finish(tiny.again(tmp_path / "cut"))
    assert files(tmp_path / "cut") == whole
    assert tiny.digest(tmp_path / "cut/model.safetensors") == tiny.digest(tmp_path / "whole/model.safetensors")
    monkeypatch.setattr(samples, "SHARE", 0.0)
    tiny.finish(tiny.begin(recipe(data), tmp_path / "without"))
    assert not (tmp_path / "without/evaluation/snapshots").exists()
    assert tiny.digest(tmp_path / "without/model.safetensors") == tiny.digest(tmp_path / "whole/model.safetensors")


def test_a_disk_that_refuses_costs_a_message(data, tmp_path, roomy, monkeypatch):
    running = tiny.begin(recipe(data, steps=1), tmp_path / "run")

    def full(path, content):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(samples, "write_file", full)
    notes = [e.values["text"] for e in tiny.finish(running) if e.kind == "note"]
    assert notes == ["the images of step 1 could not be saved: No space left on device; the run continues"]


def coloured(count=40, size=8, seed=0):
    """Images that differ much, as arrays [N H W 3]."""
    return np.random.default_rng(seed).integers(0, 256, (count, size, size, 3), np.uint8)


def split_of(images, part):
    from vitrail.data.dataset import ArrayReader, Split

    return Split([f"{part}/{i}" for i in range(len(images))], np.zeros(len(images), np.int64), ArrayReader(images))


def test_copies_are_found_by_pixels_mirrored_too(tmp_path):
    from vitrail.data.dataset import Dataset
    from vitrail.data.transforms.preprocess import Preprocess

    train, held = coloured(), coloured(20, seed=1)
    dataset = Dataset("mine", ("a",), {"train": split_of(train, "train"), "val": split_of(held, "val")}, 3)
    pre = Preprocess((8, 8), 3, (0.5,) * 3, (0.5,) * 3)
    made = np.concatenate([train[[7, 30]], train[[12, 3]][:, :, ::-1]])
    plain = copying.measure_by_pixels(made, dataset, pre, 0, False, tiny.ALONE)
    both = copying.measure_by_pixels(made, dataset, pre, 0, True, tiny.ALONE)
    assert [row["names"][0] for row in plain.report.rows][:2] == ["train/7", "train/30"]
    assert plain.report.nearer == 2
    assert [row["names"][0] for row in both.report.rows] == ["train/7", "train/30", "train/12", "train/3"]
    assert both.report.relative < 1e-6
    assert both.report.closer == 1.0
    assert (both.images[0, 0] == both.images[0, 1]).all()
    assert "are closer to training images than held-out ones are" in copying.describe_copying(both.report)
    assert "4 are closer than any held-out one" in copying.describe_copying(both.report)
    copying.write_copying(tmp_path / "evaluation", "pixels", both)
    (again,) = copying.read_copying(tmp_path / "evaluation")
    assert copying.describe_copying(again.report) == copying.describe_copying(both.report)
    assert np.array_equal(again.images, both.images)
    (tmp_path / "evaluation/copying-pixels.npz").write_bytes(b"torn")
    assert copying.read_copying(tmp_path / "evaluation") == []
    alone = dataclasses.replace(dataset, splits={"train": dataset.splits["train"]})
    assert copying.measure_by_pixels(made, alone, pre, 0, False, tiny.ALONE) is None


def test_large_images_are_made_smaller_before_they_are_compared():
    images = torch.randint(0, 256, (2, 3, 200, 130), dtype=torch.uint8)
    assert copying.flatten_images(images).shape == (2, 3 * 50 * 33)
    assert float(
        torch.cdist(copying.flatten_images(images * 0), copying.flatten_images(images * 0 + 255))[0, 1]
    ) == pytest.approx(2, rel=1e-4)


@pytest.fixture(scope="module")
def judge(data, tmp_path_factory):
    out = tmp_path_factory.mktemp("judge") / "run"
    tiny.finish(tiny.begin(tiny.recipe(data, train={"steps": 2, "eval_every": 0}), out))
    return out


def test_a_judge_measures_at_every_evaluation_and_changes_nothing(data, judge, tmp_path, roomy):
    plain = tiny.finish(tiny.begin(recipe(data), tmp_path / "plain"))
    events = tiny.finish(tiny.begin(recipe(data, features=str(judge)), tmp_path / "run"))
    found = [e.values["frechet"] for e in events if e.kind == "eval"]
    assert len(found) == 2
    assert found[0] != found[1]
    assert not any("frechet" in e.values for e in plain)
    assert tiny.digest(tmp_path / "run/model.safetensors") == tiny.digest(tmp_path / "plain/model.safetensors")
    maker = predictor.load_predictor(tmp_path / "run")
    session = tiny.again(tmp_path / "run")
    again = frechet.FrechetMonitor(session.recipe, session.bundle.task, session.dataset, tmp_path / "kept", tiny.ALONE)
    assert again.measure(maker.bundle)["frechet"] == pytest.approx(found[1], rel=1e-6)
    assert frechet.count_images(session.recipe) == frechet.LEAST
    assert (
        frechet.count_images(Recipe(train=TrainConfig(steps=20_000, batch_size=128, eval_every=2000))) == frechet.MOST
    )
    page = build_report(tmp_path / "run").read_text()
    for said in ("Fréchet distance", "Samples during training", "step 4", "Memorisation", "held-out images (val)"):
        assert said in page
    assert len(page) < 2e6


def test_a_judge_that_is_none_is_told_before_a_folder_is_made(data, judge, tmp_path):
    with pytest.raises(CheckpointError, match="nowhere"):
        tiny.begin(recipe(data, features="nowhere"), tmp_path / "run")
    with pytest.raises(UsageError, match=r"eval\.features is for generative models"):
        tiny.begin(tiny.recipe(data, eval={"features": str(judge)}), tmp_path / "run")
    tiny.finish(tiny.begin(recipe(data, steps=1), tmp_path / "maker"))
    with pytest.raises(UsageError, match="is no classifier"):
        tiny.begin(recipe(data, features=str(tmp_path / "maker")), tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_features_find_neighbours_too(data, judge, tmp_path):
    from vitrail.cli.main import main

    tiny.finish(tiny.begin(recipe(data, steps=2), tmp_path / "run"))
    assert main(["eval", str(tmp_path / "run"), "--features", str(judge), "--count", "9", "--split", "val"]) == 0
    pixels, features = copying.read_copying(tmp_path / "run/evaluation")
    assert (pixels.report.by, features.report.by) == ("pixels", str(judge))
    assert (features.report.made, features.report.held_out, features.report.train) == (9, 9, 32)
    assert features.images.shape == (6, 4, 12, 12, 1)
    assert (
        json.loads((tmp_path / "run/evaluation/quality.json").read_text())["copied"]["relative"]
        == features.report.relative
    )
    assert copying.describe_copying(features.report).startswith(f"By the features of {judge}, generated images are")
    assert "copies" in build_report(tmp_path / "run").read_text()


def test_the_page_stays_small_whatever_the_size_of_the_images(tmp_path):
    """Noise is the hardest to pack: a portrait of ten classes of 256 pixels, six moments, and twice the neighbours."""
    from vitrail.inference.sample import encode_sheet
    from vitrail.report.sections import generated

    noise = np.random.default_rng(0).integers(0, 256, (60, 256, 256, 3), np.uint8)
    (tmp_path / "portrait.png").write_bytes(encode_sheet(noise, 6))
    (tmp_path / "moment.png").write_bytes(encode_sheet(noise[:8], 8))
    portrait, moment = (len(generated.embed_file(tmp_path / f"{name}.png")) for name in ("portrait", "moment"))
    beside = len(generated.image(noise[0]))
    assert portrait + 6 * moment + 48 * beside < 1_600_000
    small = generated.embed_file(tmp_path / "nothing.png")
    assert small == ""
    (tmp_path / "small.png").write_bytes(encode_sheet(noise[:1, :28, :28], 1))
    assert generated.embed_file(tmp_path / "small.png").startswith("data:image/png;base64,")
