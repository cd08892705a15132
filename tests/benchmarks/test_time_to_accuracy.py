"""The race in small: that both learn. Who is faster is for the benchmark itself to say."""

import importlib.util
from pathlib import Path

import pytest

pytest.importorskip("timm")


@pytest.fixture(scope="module")
def race():
    spec = importlib.util.spec_from_file_location(
        "time_to_accuracy", Path(__file__).parents[2] / "benchmarks" / "time_to_accuracy.py"
    )
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.slow
def test_both_learn(race):
    running, mine = race.ours("mini", epochs=3, turn=23, share=0.1)
    found = race.race({"ours": mine, "timm": race.theirs(running, epochs=6, turn=21, patch=7)}, target=101.0)
    assert found["ours"][1].accuracy > 50, "chance is 10"
    assert found["timm"][1].accuracy > 12, "its recipe begins slowly"
    assert all(first is None and last.seconds > 0 for first, last in found.values())


@pytest.mark.slow
def test_the_peer_is_as_large(race):
    running, _ = race.ours("mini", epochs=1, turn=10, share=0.01)
    own = sum(p.numel() for p in running.state.model.parameters())
    for patch in (4, 7):
        assert sum(p.numel() for p in race.peer(own, patch).parameters()) == pytest.approx(own, rel=0.03)
