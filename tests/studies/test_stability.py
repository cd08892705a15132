"""The study of stability at a size of seconds, and the words of `vitrail study`."""

import dataclasses
import json
import math
import shlex

import pytest
import tiny
from places import everything, must, npz, refused

from vitrail.assembly.prepare import prepare_run
from vitrail.recipe import override
from vitrail.studies import stability
from vitrail.training.build import build_session as session

USAGE, DATA = 2, 3
WORDS = "--steps 6 --batch 8 --depth 1 --width 16 --patch 4 --data tiny.npz"


@pytest.fixture
def place(own_folder):
    npz(own_folder / "tiny.npz")
    return own_folder


@pytest.mark.slow
def test_a_study_writes_its_table_its_figure_and_its_numbers(place):
    said = must("study", "stability", *shlex.split(WORDS), "--seeds", "2", "--out", "here")
    names = {"results.json", "table.md", "figure.svg", "manifest.json", "study.json", "journal.jsonl"}
    assert everything(place) == {"tiny.npz", "here", *(f"here/{name}" for name in names)}
    found = json.loads((place / "here" / "results.json").read_text())
    assert found["config"]["steps"] == 6
    rows = {row["name"]: row["trainings"] for row in found["rows"]}
    assert list(rows) == [row.name for row in stability.build(stability.Config(batch=8))]
    for name, trainings in rows.items():
        assert [t["seed"] for t in trainings] == [0, 1]
        for t in trainings:
            assert len(t["losses"]) == len(t["grad_norms"]) <= 6
            assert t["reason"] or len(t["losses"]) == 6
            assert f"| {name} |" in (place / "here" / "table.md").read_text()
    assert (place / "here" / "figure.svg").read_text().count("batch size 1") >= 1
    assert "written: here/results.json" in said


def test_pieces_of_a_batch_give_the_curve_of_the_batch_and_other_changes_another(place):
    must("study", "stability", *shlex.split(WORDS))
    found = json.loads((place / "studies" / "stability" / "results.json").read_text())
    losses = {row["name"]: row["trainings"][0]["losses"] for row in found["rows"]}
    assert losses["8 in micro-batches of 1"] == pytest.approx(losses["plain"], abs=1e-4)
    assert found["whole_and_pieces_differ"] <= 1e-4
    for name in set(losses) - {"plain", "8 in micro-batches of 1", "no clipping"}:
        assert losses[name] != pytest.approx(losses["plain"], abs=1e-4), name


def test_no_study_is_overwritten(place):
    words = shlex.split(WORDS.replace("--steps 6", "--steps 1"))
    must("study", "stability", *words)
    must("study", "stability", *words)
    assert {"studies/stability/table.md", "studies/stability-2/table.md"} <= everything(place)


def test_every_row_can_be_built_and_differs_from_the_plain_one(place):
    config = stability.Config(data="tiny.npz", steps=2, batch=8, depth=1, width=16, patch=4)
    prepared = prepare_run(stability.recipe(config), tiny.ALONE)
    rows = stability.build(config)
    assert len({row.name for row in rows}) == len(rows)
    for row in rows:
        made = prepared.recipe
        for section, keys in row.changes.items():
            made = override(made, section, keys)
        assert session(made, prepared.dataset, tiny.RunFolder(place), tiny.ALONE).recipe == made
        assert (made == prepared.recipe) == (row.name == "plain")


def test_numbers_that_are_not_finite_are_a_result(place):
    config = stability.Config(data="tiny.npz", steps=8, batch=8, depth=1, width=16, patch=4)
    prepared = prepare_run(stability.recipe(config), tiny.ALONE)
    row = stability.Row("wild", "", {"optim": {"name": "sgd", "lr": 1e30, "clip_grad": 0.0, "warmup_steps": 0}})
    found = stability.outcome(row, 0, prepared, tiny.ALONE)
    assert "not finite" in found.reason
    assert found.lost == len(found.losses) + 1 < 8
    assert math.isinf(found.final)
    assert "not finite" in "\n".join(stability.table((row,), [found]))
    said = json.loads(json.dumps(stability.as_json(found), allow_nan=False))
    assert said["final_loss"] is None
    assert stability.from_json(stability.Job("wild"), said) == found


def test_when_a_training_is_lost():
    guessing = math.log(10)
    assert stability.first_lost([2.3] * 20, guessing) == 1
    assert stability.first_lost([2.3] * 5 + [1.0] * 15, guessing) == 0
    assert 11 <= stability.first_lost([1.0] * 10 + [5.0] * 10, guessing) < 11 + stability.SMOOTH


def test_the_table_says_what_became_of_each_training():
    row = stability.Row("a", "")
    told = [
        stability.table((row,), [stability.Outcome("a", 0, (2.0,) * 20, (1.0,) * 20, 0.5, lost)])[2]
        for lost in (0, 1, 14)
    ]
    assert [line.split(" | ")[-1] for line in told] == ["- |", "never learned |", "diverged at 14 |"]


def test_the_list_of_studies_and_the_help_of_one():
    said = must("study")
    assert "\nstability " in f"\n{said}"
    helped = must("study", "stability", "--help")
    for f in dataclasses.fields(stability.Config):
        assert f"--{f.name}" in helped
    assert "of every row" in helped
    assert "--out" in helped


WRONG = [
    ("study stabilty", USAGE, "did you mean 'stability'"),
    ("study --steps 3", USAGE, "the name of the study comes first"),
    ("study --out x", USAGE, "the name of the study comes first"),
    ("study stability --steps 0", USAGE, "more than 0"),
    ("study stability --steps x", USAGE, "--steps takes a whole number, not 'x'"),
    ("study stability --lr nan", USAGE, "not a finite number"),
    ("study stability --stesp 3", USAGE, "did you mean '--steps'"),
    ("study stability --data nothere", DATA, "there is no file or folder nothere"),
    ("study stability --out tiny.npz", USAGE, "never overwritten"),
    ("study stability --out tiny.npz/x", DATA, "cannot be written"),
    ("study stability --device cdua", USAGE, "did you mean 'cuda'"),
    ("study stability more", USAGE, "unexpected argument 'more'"),
]


@pytest.mark.parametrize(("words", "code", "piece"), WRONG, ids=[w for w, _, _ in WRONG])
def test_wrong_words(place, words, code, piece):
    refused(place, words, code, piece)
