"""`kill_ranks.py` with three kills: one in a step, one in a save, one in an evaluation."""

import sys

import history
import kill_ranks
import pytest


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="finds processes in /proc")
def test_three_kills_end_in_the_same_bytes(tmp_path, monkeypatch):
    monkeypatch.setattr(kill_ranks, "append", lambda *given: history.append(*given, path=tmp_path / "rows.jsonl"))
    monkeypatch.setenv("PYTHONPATH", ":".join(sys.path))
    assert kill_ranks.main(["--kills", "3"])
    (row,) = history.read(tmp_path / "rows.jsonl")
    assert sum(row["figures"][moment] for moment in kill_ranks.MOMENTS) == 3
