"""The table of `product.py`: rows of every file, ratios in rounds, and a page on which rows that did not run stay."""

import re

import product
import pytest
from product import Row, is_met, main, measure, processor_time, quartiles, write_page


def fixed(*values: float):
    return iter(values).__next__


def test_rows_of_all_files_have_names_and_aims_that_can_be_compared():
    rows = product.load_rows()
    assert {"decode", "survey", "train-photos", "train-small"} <= set(rows)
    for name, row in rows.items():
        assert re.fullmatch(r"[\w.-]+", name)
        assert is_met(row.aim, float(row.aim.split()[1]))
        assert "|" not in row.what


def test_a_round_gives_one_ratio_and_the_first_is_not_counted():
    row = Row("x", "a / b", "<= 2", lambda place: (fixed(9, 4, 6), fixed(1, 2, 2)), scale=0.5)
    assert measure(row, 2, None) == [1.0, 1.5]
    assert quartiles([1.0]) == (1.0, 1.0, 1.0)
    assert quartiles([1.0, 2.0, 3.0]) == (1.5, 2.0, 2.5)
    assert is_met("<= 2", 2.0)
    assert not is_met(">= 1.5", 1.49)
    assert processor_time(lambda: sum(range(1000)))() >= 0


def test_rows_that_did_not_run_stay_on_the_page(tmp_path):
    page = tmp_path / "page.md"
    page.write_text("# Results\n\ntext\n\n<!-- heads -->\nheads\n<!-- /heads -->\n")
    one, two = (Row(name, f"{name} / peer", "<= 1.1", lambda place: (fixed(), fixed())) for name in ("one", "two"))
    write_page({"one": (one, [1.0, 1.0]), "two": (two, [2.0, 2.0])}, page)
    write_page({"two": (two, [3.0])}, page)
    text = page.read_text()
    assert text.startswith("# Results\n\ntext\n\n<!-- heads -->\nheads\n<!-- /heads -->\n")
    assert "| `one` | one / peer | <= 1.1 | 1.00 | 1.00 to 1.00 | 2 |" in text
    assert "| **3.00** (missed) | 3.00 to 3.00 | 1 |" in text
    assert text.count("`two`") == text.count("<!-- product -->") == text.count("## What the program costs") == 1


def test_an_unknown_row_is_answered_with_those_there_are(capsys):
    with pytest.raises(SystemExit):
        main(["decodes"])
    assert f"no row decodes; there are {', '.join(product.load_rows())}" in capsys.readouterr().err
