"""A CSV, TSV or JSONL file as text: its columns by name, its rows with their line numbers."""

import csv
import io
import json
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from itertools import islice
from pathlib import Path

from vitrail.data.files import suggest_path
from vitrail.errors import DataError, nearest

JSON_LINES = (".jsonl", ".ndjson", ".jsonlines")
TOO_LONG, UNCLOSED = "field limit", "unexpected end"  # in the messages of the csv module


@dataclass(frozen=True)
class Sheet:
    """header: names of the columns as they stand there. rows: cells; lines: their line numbers in the file. structured:
    of JSON what the values of some cells (row, column) are, that are no texts, numbers or lists of texts."""

    path: Path
    header: list[str]
    rows: list[list[str]]
    lines: list[int]
    structured: Mapping[tuple[int, int], str] = field(default_factory=dict)

    @cached_property
    def names(self) -> list[str]:
        """The columns in lower case."""
        return [name.lower() for name in self.header]

    def find(self, names: Sequence[str]) -> int:
        """The first column that has one of the names, in their order; -1 where there is none."""
        return next((self.names.index(name) for name in names if name in self.names), -1)

    def require(self, name: str, flag: str) -> int:
        """The column of a name that the user typed. Errors: `DataError` with the columns that there are."""
        at = self.find([name.lower()])
        if at < 0:
            near = nearest(name, self.header)
            raise self.error(
                1,
                f"no column {name} (the columns are {self.list_columns()})",
                f"{flag} {near[0]}" if near else f"{flag} takes the name of a column",
            )
        return at

    def cells(self, column: int) -> list[str]:
        """One column, stripped."""
        return [row[column].strip() for row in self.rows]

    def list_columns(self) -> str:
        return ", ".join(self.header[:8]) + (", ..." if self.header[8:] else "") or "nothing"

    def error(self, line: int, what: str, fix: str = "") -> DataError:
        return DataError(f"{self.path}, line {line}: {what}", fix)

    def raise_first(self, bad: Sequence[int], what: Callable[[int], str], fix: Callable[[int], str]) -> None:
        """Raises the error of the first bad row, with the number of them. bad: indices of rows."""
        if bad:
            more = f" (and {len(bad) - 1:,} lines like it)" if bad[1:] else ""
            raise self.error(self.lines[bad[0]], what(bad[0]) + more, fix(bad[0]))


def read_sheet(path: Path) -> Sheet:
    """The table in a UTF-8 file: CSV, or with an object of JSON in each line; rows without cells are left out. Errors:
    `DataError` with the line."""
    try:
        text = path.read_bytes().decode("utf-8-sig")
    except FileNotFoundError:
        raise DataError(f"{path}: there is no such file", suggest_path(path)) from None
    except UnicodeDecodeError as error:
        line = error.object[: error.start].count(b"\n") + 1
        raise DataError(f"{path}, line {line}: not UTF-8 text", "save the table as UTF-8") from None
    except OSError as error:
        raise DataError(
            f"{path} cannot be read: {error.strerror}", "check that it is a file and that you may read it"
        ) from None
    if path.suffix.lower() in JSON_LINES:
        return read_json_lines(path, text)
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=_delimiter(path, text))
    try:
        header = [name.strip() for name in next(reader, [])]
        below = reader.line_num
        table = [(row, reader.line_num) for row in reader if any(cell.strip() for cell in row)]
    except csv.Error as error:
        is_long = TOO_LONG in str(error)
        what = f"a cell has more than {csv.field_size_limit():,} characters" if is_long else error
        fix = "shorten it, or close the quote before it if that is open" if is_long else "save the table again"
        raise DataError(f"{path}, line {reader.line_num}: {what}", fix) from None
    if not table:
        raise DataError(f"{path} has no images", "below the header, each line has an image and its label")
    check_quotes(path, text, table[-2][1] if len(table) > 1 else below, reader.dialect.delimiter)
    return Sheet(path, header, [row for row, _ in table], [line for _, line in table])


def check_quotes(path: Path, text: str, first: int, delimiter: str) -> None:
    """Errors: `DataError` where a quote in the last record, which begins behind line `first`, is not closed: all lines
    below it are one cell then."""
    try:
        for _ in csv.reader(islice(io.StringIO(text, newline=""), first, None), delimiter=delimiter, strict=True):
            pass
    except csv.Error as error:
        if UNCLOSED in str(error):
            what = f"{path}, line {first + 1}: a quote is not closed, so all lines below are in its cell"
            raise DataError(what, "close it, or write it twice where it is part of the text") from None


def _delimiter(path: Path, text: str) -> str:
    first = text[: text.find("\n")] if "\n" in text else text
    return "\t" if path.suffix.lower() == ".tsv" else max(",;\t|", key=first.count)


def read_json_lines(path: Path, text: str) -> Sheet:
    """The table of a file with an object in each line: the columns are the keys. Errors: `DataError` with the line."""
    rows, lines, columns = list[dict[str, str]](), list[int](), dict[str, None]()
    structured = dict[tuple[int, str], str]()
    for number, line in enumerate(text.split("\n"), 1):
        if not line.strip():
            continue
        try:
            item = json.loads(line)
        except (ValueError, RecursionError) as error:
            what = f"{path}, line {number}: no JSON ({str(error)[:80]})"
            raise DataError(what, 'each line is an object, such as {"image": "a.jpg", "caption": "a cat"}') from None
        if not isinstance(item, dict):
            what = f"{path}, line {number}: a {type(item).__name__} and no object"
            raise DataError(what, 'each line is an object, such as {"image": "a.jpg", "caption": "a cat"}')
        columns |= dict.fromkeys(item)
        structured |= {(len(rows), key): kind for key, value in item.items() if (kind := structure_of(value))}
        rows.append({key: as_cell(value) for key, value in item.items()})
        lines.append(number)
    if not rows:
        raise DataError(f"{path} has no images", "each line has an image and its label or caption")
    places = {key: i for i, key in enumerate(columns)}
    odd = {(row, places[key]): kind for (row, key), kind in structured.items()}
    return Sheet(path, list(columns), [[row.get(key, "") for key in columns] for row in rows], lines, odd)


def structure_of(value: object) -> str:
    """What a value of JSON is that is no text, number, null or list of texts; "" for these."""
    if isinstance(value, dict | bool):
        return "an object" if isinstance(value, dict) else str(value).lower()
    is_odd = isinstance(value, list) and not all(isinstance(one, str | None) for one in value)
    return "a list of other things than texts" if is_odd else ""


def as_cell(value: object) -> str:
    """A value of JSON as a cell: texts as they are, nothing for null and NaN, a list as Python writes it."""
    if value is None or isinstance(value, str):
        return value or ""
    if isinstance(value, float) and math.isnan(value):
        return ""
    return str(value).lower() if isinstance(value, bool) else str(value)
