"""Cells of a table -> targets: class names or numbers, several in a cell, or a column a class."""

import ast
import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from difflib import get_close_matches

import numpy as np

from vitrail.data.files import natural_key
from vitrail.data.sheet import Sheet
from vitrail.errors import DataError

NUMBER = re.compile(r"[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d+)?")
WHOLE = re.compile(r"[+-]?\d{1,18}(\.0*)?")
ZEROS = re.compile(r"0\d+")  # a code, such as 007, rather than a count
LIST = re.compile(r"\[.*\]", re.DOTALL)
ON_OFF = {"0": 0, "1": 1, "0.0": 0, "1.0": 1, "false": 0, "true": 1, "": 0}
SEPARATORS = re.compile(r"[|;]")
LARGEST = 2**31  # cells of a table of targets
MANY = 1000  # classes beyond which a class for every second image is taken for a column of names of images


@dataclass
class Targets:
    """values: int64 [N] class numbers, or uint8 [N K] for several classes an image."""

    values: np.ndarray
    classes: tuple[str, ...]
    notes: list[str] = field(default_factory=list)


def read_labels(sheet: Sheet, column: int, classes: tuple[str, ...], separator: str, whole: bool = False) -> Targets:
    """The targets of one column. Each distinct cell is looked at once, for speed. whole: one class is enough.

    Errors: `DataError` with the first line that cannot be read."""
    cells = sheet.cells(column)
    counts = Counter(cells)
    parts, notes = _split_cells(counts, classes, separator)
    is_multi = any(len(own) != 1 for own in parts.values())  # [] is a list of none
    without = [text for text, own in parts.items() if own in ([], [""])] if is_multi else []
    if empty := sum(counts[text] for text in without):
        parts |= {text: [] for text in without}
        notes.append(f"{empty:,} lines without a label are images of none of the classes")
    names = list(dict.fromkeys(name for own in parts.values() for name in own))
    index, names_of_classes = _number_classes(sheet, cells, parts, names, classes)
    if len(names_of_classes) > max(MANY, len(cells) // 2) and not classes:
        raise DataError(
            f"{sheet.path}: column {sheet.header[column]} has {len(names_of_classes):,} different labels for "
            f"{len(cells):,} images, as names of images have",
            f"--data.label-column takes the column of the labels (the columns are {sheet.list_columns()})",
        )
    if len(names_of_classes) < 2 and not whole:
        raise DataError(
            f"{sheet.path}: all labels are {names_of_classes[0]!r}; classification takes two or more classes",
            "give images of at least two classes",
        )
    code = {text: i for i, text in enumerate(parts)}
    codes = np.fromiter((code[text] for text in cells), np.int64, len(cells))
    if not is_multi:
        return Targets(np.array([index[own[0]] for own in parts.values()], np.int64)[codes], names_of_classes, notes)
    check_size(sheet, len(cells), len(names_of_classes))
    targets = np.zeros((len(parts), len(names_of_classes)), np.uint8)
    for text, own in parts.items():
        targets[code[text], [index[name] for name in own]] = 1
    return Targets(targets[codes], names_of_classes, notes)


def read_class_columns(sheet: Sheet, columns: Sequence[int]) -> Targets:
    """The targets of a column a class, with 0 or 1 in each: class numbers where every image has exactly one."""
    check_size(sheet, len(sheet.rows), len(columns))
    values = np.zeros((len(sheet.rows), len(columns)), np.uint8)
    for k, column in enumerate(columns):
        cells = [cell.lower() for cell in sheet.cells(column)]
        bad = [i for i, cell in enumerate(cells) if cell not in ON_OFF]
        sheet.raise_first(
            bad,
            lambda i, c=column: f"column {sheet.header[c]} is {sheet.rows[i][c]!r}",  # type: ignore[misc]
            lambda _: "a column of a class has 0 or 1 in every line",
        )
        values[:, k] = [ON_OFF[cell] for cell in cells]
    classes = tuple(sheet.header[c] for c in columns)
    listed = ", ".join(classes[:5]) + (", ..." if classes[5:] else "")
    notes = [f"a column a class: {len(columns):,} columns of 0 and 1 are the classes {listed}"]
    if (values.sum(1) == 1).all():
        return Targets(values.argmax(1).astype(np.int64), classes, notes)
    return Targets(values, classes, notes)


def find_class_columns(sheet: Sheet, taken: Sequence[int], classes: tuple[str, ...]) -> list[int]:
    """The columns, beside those `taken`, that have 0 or 1 only; or those with the names `classes`, in that order."""
    if classes:
        found = [sheet.find([name.lower()]) for name in classes]
        return found if min(found) >= 0 else []
    found = [c for c in range(len(sheet.header)) if c not in taken and sheet.header[c]]
    if min(map(len, sheet.rows)) < len(sheet.header):
        return []
    found = [c for c in found if {row[c].strip().lower() for row in sheet.rows} <= ON_OFF.keys()]
    found = [c for c in found if any(row[c].strip() for row in sheet.rows)]
    return found if len(found) > 1 else []


def check_size(sheet: Sheet, count: int, classes: int) -> None:
    if count * classes > LARGEST:
        raise DataError(
            f"{sheet.path}: {count:,} lines with {classes:,} classes are more than fit into memory",
            "--data.label-column takes the column of the labels",
        )


def _split_cells(
    counts: Counter[str], classes: tuple[str, ...], separator: str
) -> tuple[dict[str, list[str]], list[str]]:
    """Each distinct cell -> its labels, and notes on how cells were split."""
    if separator:
        by = re.compile(re.escape(separator) if separator.strip() else r"\s+")
        return {text: _strip(by.split(text) if separator != "none" else [text]) for text in counts}, []
    parts = {text: _labels_of(text) for text in counts}
    notes = []
    if lists := [text for text in counts if LIST.fullmatch(text)]:
        notes.append(f"cells written as lists are several labels: {lists[0]} is {' and '.join(parts[lists[0]])}")
    for sign, word in ((",", "commas"), (" ", "blanks"), ("/", "slashes"), ("+", "plus signs"), ("&", "&")):
        joined = {t: _strip(t.split(sign)) for t, own in parts.items() if len(own) == 1 and own[0] == t and sign in t}
        if not joined:
            continue
        text, several = next(iter(joined.items()))
        known = {name for t, own in parts.items() if t not in joined for name in own} | set(classes)
        shared = Counter(name for own in joined.values() for name in own)
        is_list = not (set(joined) & set(classes)) and all(
            len(own) > 1 and all(n in known or shared[n] > 1 for n in own) for own in joined.values()
        )
        if sign == "," and is_list and known & shared.keys():
            parts |= joined
            notes.append(
                f"labels are split at commas: {text!r} is {' and '.join(several)}; "
                "--data.label-separator none takes such labels as one"
            )
        elif not classes and (sign == "," or (len(several) > 1 and set(several) <= known)):
            notes.append(
                f"labels with {word} are taken as one class each, such as {text!r}; "
                f"--data.label-separator {sign if sign.strip() and sign != '&' else repr(sign)} splits them"
            )
    return parts, notes


def _strip(names: Sequence[str]) -> list[str]:
    """Without blanks around them; the labels of a cell that are not empty, or one empty label."""
    return [name for n in names if (name := n.strip())] or [""]


def _labels_of(text: str) -> list[str]:
    if LIST.fullmatch(text):
        try:
            value = ast.literal_eval(text)
        except (ValueError, SyntaxError, MemoryError, RecursionError, TypeError):
            value = [word.strip("'\"") for word in re.split(r"[,\s]+", text[1:-1]) if word]
        if isinstance(value, list | tuple | set | frozenset):
            return [str(item).strip() for item in value if not isinstance(item, list | tuple | set | dict)]
    return _strip(SEPARATORS.split(text)) if text.strip(" ,;|") else [""]


def _number_classes(
    sheet: Sheet, cells: list[str], parts: dict[str, list[str]], names: list[str], classes: tuple[str, ...]
) -> tuple[dict[str, int], tuple[str, ...]]:
    """The class number of each label, and the names of the classes."""
    numbers = all(NUMBER.fullmatch(n) or n.lower() in ("", "nan") for n in names) and not set(names) <= set(classes)
    known = set(classes)
    errors = {
        text: error
        for text, own in parts.items()
        if (error := next((e for name in own if (e := _label_error(name, numbers, classes, known))), ""))
    }
    last = f" to {len(classes) - 1}" if classes else ""
    fix = f"labels are the names of classes, or all of them whole numbers from 0{last}"
    sheet.raise_first(
        [i for i, text in enumerate(cells) if text in errors] if errors else [],
        lambda i: f"label {cells[i]!r} {errors[cells[i]]}{_suggest(parts[cells[i]], classes, numbers)}",
        lambda _: fix,
    )
    if not numbers:
        ordered = classes or tuple(sorted(names, key=natural_key))
        at = {name: i for i, name in enumerate(ordered)}
        return {name: at[name] for name in names}, ordered
    value = {name: int(name.partition(".")[0]) for name in names}
    if classes:
        return value, classes
    spellings: dict[int, set[str]] = {}
    for name, number in value.items():
        spellings.setdefault(number, set()).add(name)
    at_number = {number: i for i, number in enumerate(sorted(spellings))}
    # 007 keeps its zeros, unless the same class is written 7 too
    shown = (next(iter(s)) if len(s) == 1 and ZEROS.fullmatch(min(s)) else str(n) for n, s in sorted(spellings.items()))
    return {name: at_number[number] for name, number in value.items()}, tuple(shown)


def _label_error(name: str, numbers: bool, classes: tuple[str, ...], known: set[str]) -> str:
    """The error of a label, or ""."""
    if not name:
        return "is empty"
    if name.lower() == "nan" and name not in known:
        return "is not a number: the table has a missing value"
    if numbers:
        if not WHOLE.fullmatch(name):
            return "is not a whole number"
        number = int(name.partition(".")[0])
        if number < 0:
            return "is negative"
        return f"is out of range: there are {len(classes)} classes" if classes and number >= len(classes) else ""
    return "is not among the classes" if known and name not in known else ""


def _suggest(names: list[str], classes: tuple[str, ...], numbers: bool) -> str:
    unknown = [name for name in names if name not in classes]
    close = get_close_matches(unknown[0][:200], classes, n=1, cutoff=0.6) if unknown and classes and not numbers else []
    return f"; did you mean {close[0]!r}?" if close else ""
