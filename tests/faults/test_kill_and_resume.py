"""Killed with SIGKILL at any moment, a run goes on and ends in the same bytes as one that nobody touched."""

import json
from pathlib import Path

import pytest
import tiny
from places import Process

SCRIPT = Path(__file__).parents[2] / "benchmarks" / "kill.py"


def kill(folder, *words):
    code, out, err = Process([SCRIPT, *words], folder / "stdout.txt", folder / "stderr.txt", command=tiny.script).end(
        timeout=900
    )
    assert out, err
    print(out)
    return code, json.loads(out.splitlines()[-1])


def test_a_few_kills_change_nothing(tmp_path):
    code, found = kill(tmp_path, "--kills", "2", "--seeds", "1", "--points", "rename")
    assert code == 0, found
    assert found["kills"] == 2
    assert found["equal"] == found["runs"] == 2


@pytest.mark.slow
def test_many_kills_and_one_in_every_step_of_saving_change_nothing(tmp_path):
    code, found = kill(tmp_path, "--kills", "20", "--seeds", "3")
    assert code == 0, found
    assert found["kills"] >= 55, "a kill that came after the end of the run does not count"
    assert found["equal"] == found["runs"] == 3 * 6
