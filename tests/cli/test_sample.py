"""`vitrail sample`, and what else one does with a run that makes images, from the words to the end."""

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from places import images, must, refused

import vitrail
from vitrail.errors import UsageError
from vitrail.inference.sample import InterpolatedNoise
from vitrail.tasks.diffusion.guidance import NoiseStreams

USAGE, CHECKPOINT = 2, 4
SMALL = ["--model.depth", "2", "--model.width", "16", "--model.heads", "2"]
TINY = [*SMALL, "--steps", "4", "--batch-size", "4", "--train.eval-every", "2", "--precision", "fp32"]
QUIET = ["--quiet", "--workers", "0", "--optim.warmup-steps", "0", "--lr", "3e-3"]


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    root = tmp_path_factory.mktemp("place")
    images(root / "good", ("ant", "bee", "cat"), 30)
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(root)
        jit = ["--model.context", "2", "--model.context-start", "1"]
        must(
            "train",
            "--data",
            "good",
            "--model",
            "jit/nano",
            "--out",
            "jit",
            "--optim.ema-decay-2",
            "0.1",
            *TINY,
            *jit,
            *QUIET,
        )
        must("train", "--data", "good", "--model", "dit/nano", "--model.classes", "0", "--out", "dit", *TINY, *QUIET)
        must("train", "--data", "good", "--model", "vit/nano", "--out", "vit", *TINY, *QUIET)
    return root


@pytest.fixture(autouse=True)
def here(place, monkeypatch):
    monkeypatch.chdir(place)


def read(folder):
    return {p.name: np.asarray(Image.open(p)).astype(int) for p in Path(folder).glob("*.png")}


def test_images_grid_and_film(tmp_path):
    said = must(
        "sample",
        "jit",
        "--class",
        "bee",
        "--class",
        "0",
        "--count",
        "3",
        "--steps",
        "4",
        "--film",
        "--out",
        tmp_path / "a",
    )
    assert "6 images in" in said
    found = read(tmp_path / "a")
    assert sorted(found) == [*(f"{name}-0000{i}.png" for name in ("ant", "bee") for i in range(3)), "grid.png"]
    assert all(found[name].shape == (12, 12, 3) for name in found if name != "grid.png")
    assert found["grid.png"].shape == (2 * 14 + 2, 3 * 14 + 2, 3)
    np.testing.assert_array_equal(found["grid.png"][2:14, 16:28], found["bee-00001.png"])
    with Image.open(tmp_path / "a/film.webp") as film:
        assert film.n_frames == 4
    about = json.loads((tmp_path / "a/sampling.json").read_text())
    assert (about["seed"], about["sampling"]["guidance"], about["classes"]) == (0, 2.0, ["bee", "ant"])


def test_the_same_seed_gives_the_same_images_at_any_batch(tmp_path):
    words = ["sample", "jit", "--count", "3", "--steps", "4", "--out"]
    must(*words, tmp_path / "a")
    must(*words, tmp_path / "b", "--batch-size", "2")
    must(*words, tmp_path / "d", "--ema", "2")
    a, b, d = (read(tmp_path / name) for name in "abd")
    assert len(a) == 10
    assert all(np.abs(a[name] - b[name]).max() <= 1 for name in a)
    assert any(np.abs(a[name] - d[name]).max() > 0 for name in a), "another average of the weights"
    dit = vitrail.load("dit")  # chance is in every step of this one
    first, again, other = (
        dit.sample(count=3, steps=4, seed=seed, batch=batch).astype(int) for seed, batch in ((0, 3), (0, 1), (1, 3))
    )
    assert np.abs(first - again).max() <= 1
    assert np.abs(first - other).max() > 20
    library = vitrail.load("jit").sample(["ant", 2], count=3, steps=4)
    assert library.shape == (6, 12, 12, 3)
    assert np.abs(library[0] - a["ant-00000.png"]).max() <= 1
    assert np.abs(library[5] - a["cat-00002.png"]).max() <= 1


def test_between_seeds_and_between_classes(tmp_path):
    steps = ["--steps", "4"]
    must(
        "sample",
        "jit",
        "--class",
        "bee",
        "--interpolate-seeds",
        "0",
        "5",
        "--count",
        "4",
        "--out",
        tmp_path / "seeds",
        *steps,
    )
    must("sample", "jit", "--class", "bee", "--count", "1", "--out", tmp_path / "first", *steps)
    must("sample", "jit", "--class", "bee", "--count", "1", "--seed", "5", "--out", tmp_path / "last", *steps)
    seeds, first, last = (read(tmp_path / name) for name in ("seeds", "first", "last"))
    assert np.abs(seeds["bee-00000.png"] - first["bee-00000.png"]).max() <= 1
    assert np.abs(seeds["bee-00003.png"] - last["bee-00000.png"]).max() <= 1
    here, there = (NoiseStreams(seed, [0, 0, 0], (3, 12, 12)) for seed in (0, 5))
    between = InterpolatedNoise(here, there, (0.0, 0.5, 1.0))()
    np.testing.assert_allclose(between.std((1, 2, 3)), 1, atol=0.1, err_msg="noise between keeps its length")
    must("sample", "jit", "--interpolate-classes", "bee", "cat", "--count", "3", "--out", tmp_path / "classes", *steps)
    must("sample", "jit", "--class", "cat", "--count", "1", "--out", tmp_path / "cat", *steps)
    classes, cat = read(tmp_path / "classes"), read(tmp_path / "cat")
    assert np.abs(classes["bee-cat-00000.png"] - first["bee-00000.png"]).max() <= 1
    assert np.abs(classes["bee-cat-00002.png"] - cat["cat-00000.png"]).max() <= 1


def test_without_classes_and_by_another_way(tmp_path):
    must("sample", "dit", "--count", "2", "--steps", "3", "--sampler", "ddim", "--out", tmp_path / "a")
    assert sorted(read(tmp_path / "a")) == ["grid.png", "image-00000.png", "image-00001.png"]
    with pytest.raises(UsageError, match="so it has no guidance"):
        vitrail.load("dit").sample(guidance=3.0)
    with pytest.raises(UsageError, match="sample\\(\\) generates images"):
        vitrail.load("dit").predict(np.zeros((12, 12, 3), np.uint8))


def test_an_unfinished_run_gives_its_newest_checkpoint(tmp_path):
    import shutil

    shutil.copytree("jit", tmp_path / "cut")
    for name in ("model.safetensors", "ema2.safetensors"):
        (tmp_path / "cut" / name).unlink()
    for number in (1, 2):
        must(
            "sample",
            tmp_path / "cut",
            "--count",
            "1",
            "--steps",
            "2",
            "--ema",
            number,
            "--out",
            tmp_path / f"out{number}",
        )
        whole = vitrail.load("jit") if number == 1 else vitrail.load("jit/ema2.safetensors")
        assert (
            np.abs(whole.sample(["ant"], count=1, steps=2)[0] - read(tmp_path / f"out{number}")["ant-00000.png"]).max()
            <= 1
        )


REFUSED = [
    ("sample jit --class bea", USAGE, "did you mean 'bee'"),
    ("sample jit --class 3", USAGE, "numbered from 0 to 2"),
    ("sample vit", USAGE, "is not a generative model"),
    ("sample nowhere", CHECKPOINT, "there is no run nowhere"),
    ("sample dit --class ant", USAGE, "trained without classes"),
    ("sample dit --ema 2 --count 0", USAGE, "--count takes"),
    ("sample vit --ema 2", CHECKPOINT, "no second average"),
    ("sample jit --sampler ddpm", USAGE, "not for the flow objective"),
    ("sample dit --steps 2000", USAGE, "cannot be sampled in 2000"),
    ("sample jit --out good", USAGE, "never overwritten"),
    ("sample jit --interpolate-seeds 0 1 --interpolate-classes ant bee", USAGE, "not both"),
    ("sample jit --interpolate-classes ant bee --count 1", USAGE, "two ends"),
    ("sample jit --guidance -1", USAGE, "--guidance"),
    ("predict jit good", USAGE, "vitrail sample"),
    ("eval vit --features vit", USAGE, "is no generative model"),
    ("eval jit --features dit", USAGE, "no classifier"),
    ("eval jit --img-size 16 16", USAGE, "leave --img-size out"),
    ("eval jit --sweep-guidance 1 2", USAGE, "--features RUN names one"),
    ("eval jit --features vit --sweep-ema 1 2 --data good", USAGE, "leave --data out"),
    ("eval jit --vae good", CHECKPOINT, "trained on pixels"),
    ("sample jit --vae good", CHECKPOINT, "trained on pixels"),
    ("probe jit", USAGE, "without features to probe"),
]


@pytest.mark.parametrize(("words", "code", "piece"), REFUSED)
def test_what_cannot_be_is_told(words, code, piece):
    refused(Path(), words, code, piece)


def test_eval_tells_the_loss_of_held_out_images():
    said = json.loads(must("eval", "jit", "--json"))
    assert said["held_out_loss"] == pytest.approx(
        json.loads(Path(f"jit/evaluation/{said['part']}.json").read_text())["held_out_loss"]
    )
    assert "held_out_loss" in must("eval", "dit")


def test_the_report_shows_what_it_makes():
    assert Path("jit/evaluation/samples.png").is_file()
    with Image.open("jit/evaluation/samples.png") as made:
        assert made.size == (6 * 14 + 2, 3 * 14 + 2)
    for run, told in (("jit", "guidance scale 2"), ("dit", "no guidance")):
        page = Path(run, "report.html").read_text()
        assert told in page
        assert "Held-out loss" in page
        assert "Most confident errors" not in page
        assert f"vitrail sample {run}" in page
        assert Path(must("report", run).strip()) == Path(run, "report.html")
    assert "vitrail sample jit" not in Path("vit/report.html").read_text()


def test_the_doctor_has_nothing_strange_to_say():
    assert "Traceback" not in must("doctor", "jit")


def test_made_images_are_compared_with_real_ones_by_features():
    words = ["eval", "jit", "--features", "vit", "--count", "12", "--split", "train", "--json"]
    made = json.loads(must(*words))["made"]
    assert made["made"] == 12
    assert made["real"] > 12
    assert made["metrics"]["frechet"] > 0
    assert all(0 <= made["metrics"][key] <= 1 for key in ("precision", "recall", "coverage"))
    assert 0 <= made["asked"] <= 1
    assert set(made["metrics_of_real"]) == set(made["metrics"])
    assert made["metrics_of_real"]["frechet"] < made["metrics"]["frechet"], (
        "real images are nearer to real ones than those of six steps"
    )
    again = json.loads(must(*words))["made"]
    assert "features from" in again["notes"][0], "those of real images are kept"
    assert again["metrics"] == pytest.approx(made["metrics"], rel=1e-4, abs=1e-6)
    assert "Fréchet distance" in Path(must("report", "jit").strip()).read_text()
    assert "of its class" in must("eval", "jit", "--features", "vit", "--count", "12", "--split", "train")


@pytest.mark.slow
def test_a_sweep_is_a_table_and_a_figure_and_is_taken_up_where_it_was_left():
    words = ["eval", "jit", "--features", "vit", "--count", "12", "--split", "train"]
    first = json.loads(must(*words, "--sweep-guidance", "1", "2", "--json"))["sweep"]
    assert [(p["average"], p["guidance"]) for p in first] == [(1, 1.0), (1, 2.0)]
    assert first[1]["metrics"] == pytest.approx(
        json.loads(must(*words, "--json"))["made"]["metrics"], rel=1e-4, abs=1e-6
    )
    assert first[0]["metrics"] != first[1]["metrics"]
    journal = Path("jit/evaluation/sweep.jsonl")
    journal.write_bytes(journal.read_bytes()[:-9])
    said = must(*words, "--sweep-guidance", "1", "2", "--sweep-ema", "1", "2")
    assert "1 of 4 rows were there already" in said
    assert "lowest Fréchet distance: average" in said
    kept = json.loads(Path("jit/evaluation/sweep.json").read_text())["points"]
    assert [(p["average"], p["guidance"]) for p in kept] == [(1, 1.0), (1, 2.0), (2, 1.0), (2, 2.0)]
    assert all(
        a["metrics"] == pytest.approx(b["metrics"], rel=1e-4, abs=1e-6) for a, b in zip(kept, first, strict=False)
    )
    assert kept[2]["metrics"] != kept[0]["metrics"]
    assert "4 of 4 rows" in must(*words, "--sweep-guidance", "1", "2", "--sweep-ema", "1", "2")
    drawn, rows = Path("jit/evaluation/sweep.svg").read_text(), Path("jit/evaluation/sweep.md").read_text().splitlines()
    assert all(text in drawn for text in ("average 1", "average 2", "precision and recall"))
    assert len([row for row in rows if row.startswith("| ") and "---" not in row]) == 6
    assert rows[-1].startswith("| real | - |")
    assert sum("**" in row for row in rows) == 1
    assert "0 of 1 rows" not in must(*words[:-3], "13", "--split", "train", "--sweep-guidance", "1"), (
        "another count is another row"
    )


def test_what_a_denoiser_looks_at_is_drawn_at_times(tmp_path):
    image = next(Path("good").rglob("*.png"))
    said = must(
        "look", "jit", image, "--times", "0.3", "0.9", "--layers", "-1", "--positions", "--out", tmp_path / "seen"
    )
    assert "at several times" in said
    names = np.load(tmp_path / "seen" / f"{image.stem}.npz").files
    assert [name.split("-")[0] for name in names] == ["0.3", "0.9"]
    refused(Path(), "look jit --gradients", USAGE, "is a generative model")
