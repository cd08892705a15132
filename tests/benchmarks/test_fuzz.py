"""What `benchmarks/fuzz.py` runs for minutes, for a few cases a reader: only the library's own errors leave."""

import shutil
from types import SimpleNamespace

import fuzz
import fuzz_seeds
import pytest


@pytest.mark.parametrize("name", fuzz_seeds.READERS)
def test_only_our_errors_leave_a_reader(name, tmp_path, capsys):
    reader = fuzz_seeds.READERS[name]
    (tmp_path / "good").mkdir()
    reader.make(tmp_path / "good")
    shutil.copytree(tmp_path / "good", tmp_path / "data")
    seeds = sorted(p for p in (tmp_path / "good").rglob("*") if p.is_file() and reader.damages(p))
    outcomes = [fuzz.run_case(reader, seeds, tmp_path, case, seed=0) for case in range(16)]
    assert {o.kind for o in outcomes} <= {"read", "refused", "too slow"}, outcomes  # no test is timed
    assert any(o.kind == "refused" for o in outcomes) or name == "run"


def test_a_fault_is_found_and_named(tmp_path, capsys, monkeypatch):
    """A reader with a defect that is planted."""

    def read(folder, damaged):
        if damaged.read_bytes() != b"[1, 2, 3]":
            raise KeyError("planted")

    def make(folder):
        (folder / "numbers.json").write_text("[1, 2, 3]")

    monkeypatch.setitem(fuzz_seeds.READERS, "planted", fuzz_seeds.Reader("planted", make, read))
    options = SimpleNamespace(seconds=60, cases=5, memory=2, seed=0, keep=None)
    outcomes = fuzz.fuzz(fuzz_seeds.READERS["planted"], options)
    assert len(outcomes) == 5
    assert any(o.kind.startswith("KeyError at test_fuzz.py") for o in outcomes)
