"""JSON that every reader takes, written and read."""

import json
import math

import numpy as np
import pytest

from vitrail.engine.log import Log, read_rows
from vitrail.storage import journal
from vitrail.storage.json_text import from_json, to_json

BAD = {"a": float("nan"), "b": [1, -math.inf, (2.5, np.float32("inf"))], "c": {"d": np.float64("nan")}}


def strict(text):
    return json.loads(text, parse_constant=lambda name: pytest.fail(f"{name} in JSON"))


def test_numbers_that_are_not_finite_are_null():
    assert strict(to_json(BAD)) == {"a": None, "b": [1, None, [2.5, None]], "c": {"d": None}}
    assert strict(to_json({"n": np.int64(3), "x": np.float32(0.5), "t": True, "s": "NaN"})) == {
        "n": 3, "x": 0.5, "t": True, "s": "NaN",
    }  # fmt: skip


def test_what_was_written_before_reads_the_same():
    plain = {"b": [1, 2.5, None, "ü"], "a": {"x": True}}
    for keys in ({}, {"indent": 1}, {"sort_keys": True}, {"ensure_ascii": False}):
        assert to_json(plain, **keys) == json.dumps(plain, **keys)


def test_logs_and_journals_have_none(tmp_path):
    log = Log(tmp_path / "log.jsonl")
    log.write("eval", 3, {"loss": math.inf, "per_class": [math.nan, 0.5]})
    log.close()
    assert strict((tmp_path / "log.jsonl").read_text()) == read_rows(tmp_path / "log.jsonl")[0]
    journal.add(tmp_path / "journal.jsonl", {"row": "a", "value": math.nan})
    assert journal.read(tmp_path / "journal.jsonl")[0] == [{"row": "a", "value": None}]


@pytest.mark.parametrize("text", ['{"a": NaN}', "[Infinity]", '{"a": 1, "a": 2}', "[" * 100_000, b"\xff", "{"])
def test_what_is_no_json_is_a_value_error(text):
    with pytest.raises(ValueError):  # noqa: PT011
        from_json(text)
