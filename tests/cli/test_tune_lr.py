"""`vitrail tune-lr`: the curve, the advice, and its words."""

import math
import re
import shlex

import pytest
from places import SHORT, everything, images, must, refused

from vitrail.errors import RunError
from vitrail.training import lr_range_test
from vitrail.training.lr_range_test import DIVERGED, LrPoint, LrRange, has_diverged, smooth_losses, suggest_lr

USAGE, DATA = 2, 3
WORDS = ["--data", "good", "--steps", "12", *(w for w in SHORT if w not in ("--steps", "3"))]


@pytest.fixture
def place(own_folder):
    images(own_folder / "good")
    return own_folder


def curve(losses, rates=None):
    rates = rates or LrRange(1e-6, 1.0, len(losses))
    return tuple(
        LrPoint(rates.lr_at(i), loss, smooth)
        for i, (loss, smooth) in enumerate(zip(losses, smooth_losses(losses), strict=True))
    )


def test_rates_rise_geometrically_from_the_lowest_to_the_highest():
    rates = LrRange(1e-4, 1.0, 13)
    assert rates.lr_at(0) == pytest.approx(1e-4)
    assert rates.lr_at(12) == pytest.approx(1.0)
    assert {round(rates.lr_at(i + 1) / rates.lr_at(i), 9) for i in range(12)} == {round(10 ** (1 / 3), 9)}


def test_smoothing_is_a_weighted_mean_of_what_was_so_far():
    losses = [3.0, 1.0, 2.0]
    weights = [0.95**2, 0.95, 1.0]
    assert smooth_losses(losses)[-1] == pytest.approx(
        sum(w * v for w, v in zip(weights, losses, strict=True)) / sum(weights)
    )


def test_a_tenth_of_the_minimum_where_the_loss_rises_again():
    rates = LrRange(1e-6, 1.0, 601)
    losses = [2 + (math.log10(rates.lr_at(i)) + 2) ** 2 / 4 for i in range(601)]  # least at 1e-2
    told = suggest_lr(curve(losses, rates), "")
    assert told.lr == pytest.approx(told.lowest / 10)
    assert 1e-2 < told.lowest < 3e-2  # smoothing lags a little
    assert "a tenth" in told.reason


def test_the_steepest_fall_where_the_loss_falls_to_the_end():
    rates = LrRange(1e-6, 1e-3, 301)
    losses = [2 - 1 / (1 + math.exp(-6 * (math.log10(rates.lr_at(i)) + 4.5))) for i in range(301)]  # steepest at 3e-5
    told = suggest_lr(curve(losses, rates), "")
    assert told.lr == told.steepest
    assert 2e-5 < told.lr < 1e-4
    assert "falls fastest" in told.reason


def test_a_loss_that_never_fell_gives_no_advice():
    with pytest.raises(RunError, match="never fell"):
        suggest_lr(curve([2.0 + 0.01 * i for i in range(30)]), "")
    with pytest.raises(RunError, match="ended after 3 steps: the loss"):
        suggest_lr(curve([2.0, 1.0, 9.0], LrRange(1e-6, 1.0, 10)), "the loss is not finite")


def test_the_test_ends_where_the_loss_has_blown_up():
    assert not has_diverged([2.0, 1.9, 2.1])
    assert not has_diverged([0.02] * 5 + [0.019] * 5)
    assert has_diverged([2.0] * 10 + [2 * DIVERGED * 20] * 3)


def test_a_range_test_draws_and_touches_no_run(place):
    said = must("tune-lr", *WORDS, "--to", "0.1")
    assert said.startswith("vit/nano, muon, batch 4, fp32\n")
    assert re.search(r"\n +12 +1\.00e-01 ", said)
    rate = re.search(r"suggested: --lr (\S+)\n", said)[1]
    assert 1e-6 <= float(rate) <= 0.1
    assert everything(place) - {str(p.relative_to(place)) for p in (place / "good").rglob("*")} == {
        "good",
        "tune-lr.svg",
    }
    command = said.strip().splitlines()[-1].strip()
    assert command.endswith(f"--lr {rate}")
    must(*shlex.split(command)[1:], "--steps", "2", "--dry-run")
    first = (place / "tune-lr.svg").read_bytes()
    assert must("tune-lr", *WORDS, "--to", "0.1").replace("tune-lr-2.svg", "tune-lr.svg") == said
    assert (place / "tune-lr.svg").read_bytes() == first == (place / "tune-lr-2.svg").read_bytes()


def test_numbers_that_are_not_finite_end_the_test(place, monkeypatch):
    monkeypatch.setattr(lr_range_test, "has_diverged", lambda losses: False)
    words = [
        *WORDS,
        "--optim.name",
        "sgd",
        "--optim.clip-grad",
        "0",
        "--from",
        "1e-4",
        "--to",
        "1e38",
        "--plot",
        "a.png",
    ]
    words[words.index("--steps") + 1] = "60"
    assert re.search(r"ended at step \d+ of 60, lr \S+: the (loss|gradient) .* is not finite", must("tune-lr", *words))
    assert (place / "a.png").read_bytes().startswith(b"\x89PNG")


WRONG = [
    ("tune-lr", USAGE, "no data was given"),
    ("tune-lr --data nothere", DATA, "there is no file or folder nothere"),
    ("tune-lr --data good --lr 1", USAGE, "vitrail tune-lr has no --lr"),
    ("tune-lr --data good --optim.lr 1", USAGE, "--lr is what this command finds"),
    ("tune-lr --data good --from 1 --to 0.1", USAGE, "the smaller comes first"),
    ("tune-lr --data good --from 0", USAGE, "more than 0"),
    ("tune-lr --data good --to nan", USAGE, "not a finite number"),
    ("tune-lr --data good --to x", USAGE, "--to takes a number, not 'x'"),
    ("tune-lr --data good --steps 3", USAGE, "3 steps are too few for a range test"),
    ("tune-lr --data good --steps 2.5", USAGE, "--steps takes a whole number"),
    ("tune-lr --data good --plot a.txt", USAGE, "ends in .svg or .png"),
    ("tune-lr --data good --plot there.svg", USAGE, "never overwritten"),
    ("tune-lr --data good --plot no/a.svg", USAGE, "there is no folder no"),
    ("tune-lr --data good --modle vit/nano", USAGE, "did you mean '--model'"),
    ("tune-lr --data good --train.bacth 3", USAGE, "did you mean 'batch_size'"),
    ("tune-lr --data good --out x", USAGE, "vitrail tune-lr has no --out"),
    ("tune_lr --data good", USAGE, "did you mean 'tune-lr'"),
]


@pytest.mark.parametrize(("words", "code", "piece"), WRONG, ids=[w for w, _, _ in WRONG])
def test_wrong_words(place, words, code, piece):
    (place / "there.svg").write_text("mine")
    refused(place, words, code, piece)
