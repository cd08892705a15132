"""Killed with SIGKILL at any moment, a run goes on and ends in the same bytes as one that nobody touched."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

SCRIPT = Path(__file__).parents[2] / "benchmarks" / "kill.py"


def kill(*words):
    done = subprocess.run([sys.executable, str(SCRIPT), *words], capture_output=True, text=True, timeout=900)
    assert done.stdout, done.stderr
    print(done.stdout)
    return done.returncode, json.loads(done.stdout.splitlines()[-1])


def test_a_few_kills_change_nothing():
    code, found = kill("--kills", "3", "--seeds", "1", "--points", "rename")
    assert code == 0, found
    assert found["kills"] == 3
    assert found["equal"] == found["runs"] == 2


@pytest.mark.slow
def test_many_kills_and_one_in_every_step_of_saving_change_nothing():
    code, found = kill("--kills", "20", "--seeds", "3")
    assert code == 0, found
    assert found["kills"] >= 55, "a kill that came after the end of the run does not count"
    assert found["equal"] == found["runs"] == 3 * 6
