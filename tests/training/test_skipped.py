"""Images that turn out in mid-run to be unreadable: by the policy the run ends, or others stand in for them, the same
for any number of workers."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import tiny
from PIL import Image

from vitrail.assembly.opening import surveyed
from vitrail.cli.main import main
from vitrail.data.dataset import Split
from vitrail.data.loader import Fetcher, evaluation_requests, load_batches
from vitrail.data.sampling import Keys
from vitrail.data.survey import sample
from vitrail.data.survey.sample import choose_sample
from vitrail.data.survey.unreadable import StandIns
from vitrail.data.transforms.preprocess import Preprocess
from vitrail.datasets import imagefolder
from vitrail.errors import BadImage

pytestmark = pytest.mark.filterwarnings("ignore:This DataLoader will create")
PRE = Preprocess((8, 8), 3, (0.5,) * 3, (0.5,) * 3, "stretch", 1.0)
BROKEN = {3, 5, 11}
LOST = ("train/a/5.png", "train/b/9.png", "val/b/3.png")


def read(index):
    if index in BROKEN:
        raise BadImage(f"image-{index}.png is truncated")
    return np.full((8, 8, 3), index, np.uint8)


def split(count=16):
    return Split([f"image-{i}.png" for i in range(count)], np.arange(count) % 5, read)


@pytest.mark.parametrize("workers", [0, 2])
def test_others_stand_in_the_same_for_any_number_of_workers(workers):
    keys = evaluation_requests(split(), np.arange(16)[::-1].copy(), 4)
    batches = list(load_batches(Fetcher(split(), PRE, StandIns()), keys, workers))
    ids = np.concatenate([one.keys.ids for one in batches])
    assert not BROKEN & set(ids.tolist())
    assert [i for i, (a, b) in enumerate(zip(ids, np.arange(16)[::-1], strict=True)) if a != b] == [4, 10, 12]
    assert ids.tolist() == [StandIns(dict.fromkeys(BROKEN, "")).index(i, 16) for i in range(15, -1, -1)]
    np.testing.assert_array_equal(np.concatenate([one.images[:, 0, 0, 0] for one in batches]), ids)
    np.testing.assert_array_equal(np.concatenate([one.labels for one in batches]), ids % 5)
    lost = [(b, one.position, one.number) for b, batch in enumerate(batches) for one in batch.lost]
    assert lost == [(1, 0, 11), (2, 2, 5), (3, 0, 3)]
    assert batches[1].lost[0].reason == "image-11.png is truncated"


def test_without_a_policy_and_without_any_that_can_be_read_it_is_an_error():
    keys = Keys(np.zeros(2, np.int64), np.array([2, 3]))
    with pytest.raises(BadImage, match="image-3"):
        Fetcher(split(), PRE)(keys)
    none = Split(["a", "b"], np.zeros(2, np.int64), lambda _: read(3))
    with pytest.raises(BadImage, match="image-3"):
        Fetcher(none, PRE, StandIns())(Keys(np.zeros(2, np.int64), np.array([0, 1])))


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """80 images of two classes, of which a start looks at 8; two of train and one of val cannot be read."""
    for module in (sample, surveyed):
        monkeypatch.setattr(module, "SAMPLE", 8)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.chdir(tmp_path)
    for part, count in (("train", 30), ("val", 10)):
        for k, name in enumerate("ab"):
            (tmp_path / "d" / part / name).mkdir(parents=True)
            for i in range(count):
                pixels = np.random.default_rng(100 * k + i).integers(0, 256, (8, 8, 3), dtype=np.uint8)
                Image.fromarray(pixels).save(tmp_path / "d" / part / name / f"{i}.png")
    data = imagefolder.build(imagefolder.Config(str(tmp_path / "d")))
    looked_at = {data.splits[part].names[i] for part, own in choose_sample(data).items() for i in own}
    for name in LOST:
        assert name not in looked_at
        (tmp_path / "d" / name).write_bytes(b"no image")
    return tmp_path


SHORT = [*tiny.WORDS, "--batch-size", "8", "--precision", "fp32", "--runtime.log-every", "1", "--train.eval-every", "8"]


def train(out, *words, workers="0"):
    return main(["train", "--data", "d", *SHORT, "--steps", "16", "--workers", workers, "--out", out, *words])


def rows(out, kind="train"):
    lines = [json.loads(line) for line in (Path(out) / "log.jsonl").read_text().splitlines()]
    return [row for row in lines if row["kind"] == kind]


def losses(out):
    return [(row["step"], row["loss"]) for row in rows(out)]


def test_a_run_goes_on_and_is_the_same_when_it_is_resumed(folder, capsys):
    assert train("one") == 0
    said = " ".join(capsys.readouterr().out.split())
    assert "looked at 8 images of 80" in said
    assert said.count("another image stands in for one that cannot be read") == 2
    assert {name for name in ("5.png", "9.png") if name in said} == {"5.png", "9.png"}
    assert json.loads(Path("one/run.json").read_text())["data"]["left_out"] == {}
    evaluations = rows("one", "eval")
    assert [row["unreadable"] for row in evaluations] == [1, 1]
    with np.load("one/evaluation/val.npz") as file:
        assert len(file["names"]) == 19
        assert "val/b/3.png" not in file["names"]
    assert train("three", "--runtime.save-every", "5") == 0
    for late in (*Path("three/checkpoints").glob("step-*1[56]"), Path("three/model.safetensors")):
        shutil.rmtree(late) if late.is_dir() else late.unlink()
    assert main(["train", "--resume", "three"]) == 0
    assert dict(losses("three")) == dict(losses("one"))
    assert main(["eval", "one"]) == 0


@pytest.mark.slow
def test_a_run_with_workers_goes_on_the_same(folder, capsys):
    assert train("one") == train("two", workers="2") == 0
    assert losses("one") == losses("two")


def test_where_none_may_be_skipped_the_run_ends_and_the_way_out_works(folder, capsys):
    assert train("one", "--data.on-error", "fail") == 3
    said = " ".join(capsys.readouterr().err.split())
    assert "png is not an image" in said
    command = said.split("without them: vitrail ")[1].split()
    assert main([*command, "--quiet"]) == 0
    assert len(losses("one")) == 16


def test_more_than_the_recipe_allows_end_it(folder, capsys):
    for i in range(10, 20):
        (folder / "d" / "train" / "a" / f"{i}.png").write_bytes(b"no image")
    code = train("one")
    said = " ".join(capsys.readouterr().err.split())
    assert code == 3
    assert "4 images cannot be read, and 3 of 60 may be skipped (data.max_errors); the first: " in said


def test_what_check_has_read_is_left_out_from_the_start(folder, capsys):
    assert main(["check", "d"]) == 0
    capsys.readouterr()
    assert train("one") == 0
    said = " ".join(capsys.readouterr().out.split())
    assert "looked at" not in said
    assert "not readable: 3 images (3.75%)" in said
    left = json.loads(Path("one/run.json").read_text())["data"]["left_out"]
    assert {part: len(own) for part, own in left.items()} == {"train": 2, "val": 1}
    assert "stands in" not in said
