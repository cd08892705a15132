"""Benchmarks keep what they gave."""

import ast
import json
import subprocess
import sys
from pathlib import Path

import history
import pytest
import table

BENCHMARKS = Path(history.__file__).parent
# what they are written with, what draws the embedded images, and what belongs to fuzz.py, identify.py and product.py
NONE = {"bare_loop.py", "fuzz_damage.py", "fuzz_seeds.py", "history.py", "identify_models.py", "make_emoji.py",
        "make_mini.py",
        "product_cost.py", "product_data.py", "race_peers.py", "serve_client.py", "table.py"}  # fmt: skip


def test_a_row_tells_what_was_measured_where(tmp_path):
    file = tmp_path / "history.jsonl"
    history.append("speed", {"vit": {"inference": 1.25}, "swin": 2}, {"batch": 8}, file)
    row = history.append("speed", {"vit": {"inference": 1.5}}, {"batch": 8}, file)
    assert history.read(file)[1] == row
    assert row["figures"] == {"vit inference": 1.5}
    assert row["settings"] == {"batch": 8}
    assert row["date"].endswith("+00:00")
    assert "cores" in row["machine"]
    assert "torch" in row["machine"]
    assert set(row) == {"benchmark", "date", "commit", "machine", "settings", "figures"}


def test_the_series_of_a_benchmark(tmp_path):
    rows = [
        {
            "benchmark": "speed",
            "date": f"2026-01-0{i}T00:00:00+00:00",
            "commit": f"abc{i}",
            "machine": m,
            "settings": {"batch": 8},
            "figures": f,
        }
        for i, (m, f) in enumerate(
            (("one", {"vit": 1.0}), ("one", {"vit": 1.23456, "swin": 2}), ("other", {"swin": 3})), start=1
        )
    ]
    lines = table.series(rows).splitlines()
    assert lines[0] == "| date | commit | on | vit | swin |"
    assert lines[2:5] == [
        "| 2026-01-01 | abc1 | 1 | 1 |  |",
        "| 2026-01-02 | abc2 | 1 | 1.235 | 2 |",
        "| 2026-01-03 | abc3 | 2 |  | 3 |",
    ]
    assert lines[-2:] == ["1: one; batch 8", "2: other; batch 8"]
    assert "swin" not in table.series(rows, ["vit"])
    assert table.overview(rows).splitlines()[-1] == "| speed | 3 | 2026-01-03 | abc3 |"


def test_the_command(tmp_path):
    file = tmp_path / "history.jsonl"
    history.append("speed", {"vit": 1.5}, path=file)

    def run(*words):
        command = [sys.executable, str(BENCHMARKS / "table.py"), *words]
        return subprocess.run(command, capture_output=True, text=True, env={"BENCHMARK_HISTORY": str(file), "PATH": ""})

    assert "| speed | 1 |" in run().stdout
    assert "| 1.5 |" in run("speed").stdout
    assert "speeed has no row; there are speed" in run("speeed").stderr


@pytest.mark.parametrize("path", sorted(p for p in BENCHMARKS.glob("*.py") if p.name not in NONE), ids=lambda p: p.stem)
def test_every_benchmark_appends_a_row_of_its_name(path):
    calls = [
        n for n in ast.walk(ast.parse(path.read_text())) if isinstance(n, ast.Call) and ast.unparse(n.func) == "append"
    ]
    assert calls
    assert {ast.literal_eval(n.args[0]) for n in calls} == {path.stem}


def test_what_was_kept_can_be_read():
    for line in (BENCHMARKS / "history.jsonl").read_text(encoding="utf-8").splitlines():
        assert json.loads(line)["benchmark"]
