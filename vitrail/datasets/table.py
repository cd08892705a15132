"""A CSV or TSV file with an image and its label in every line: columns `path`, `label` and optionally `split`."""

import csv
import io
import os
import re
from collections import defaultdict
from dataclasses import dataclass
from difflib import get_close_matches
from pathlib import Path
from typing import NamedTuple

import numpy as np

from vitrail.data.dataset import Dataset, Entry, Split
from vitrail.data.files import FileReader, detect_channels, held_out_note, hold_out, natural_key, suggest_path
from vitrail.errors import DataError

IMAGE = ("path", "file", "filename", "file_name", "image", "image_path", "filepath")
LABEL = ("label", "class", "target", "labels", "classes")
SPLIT = ("split", "part", "set", "subset")
PARTS = {"train": "train", "val": "val", "valid": "val", "validation": "val", "test": "test"}
SPLIT_NAMES = set(PARTS.values())
WHOLE = re.compile(r"[+-]?\d+")


@dataclass(frozen=True)
class Config:
    path: str = ""
    channels: int = 0  # 1, 3 or 4; 0: as the data
    held_out: float = 0.2  # fraction held out as val if the table has no split column, or only train in it
    seed: int = 0  # of the random split
    image_column: str = ""  # column of the image paths; empty: detected by its name
    label_column: str = ""  # column of the labels; empty: detected by its name
    classes: tuple[str, ...] = ()  # names of classes 0, 1, ...; empty: the distinct labels, sorted


class Rows(NamedTuple):
    """The columns of a table; lines: line numbers in the file, for messages."""

    images: list[str]
    labels: list[str]
    parts: list[str]
    lines: list[int]


def matches(path: str) -> bool:
    """A file that ends in .csv or .tsv."""
    return path.lower().endswith((".csv", ".tsv")) and Path(path).expanduser().is_file()


def build(config: Config) -> Dataset:
    """The images of the table, relative to its folder. A label is a class name, a class number if all are numbers, or
    several joined by "|" or ";". Raises `DataError` with the line number of the first error.
    """
    path = Path(config.path).expanduser()
    rows = _read(path, config)
    unknown = [
        (n, f"split is {p!r}", "it is train, val or test")
        for n, p in zip(rows.lines, rows.parts, strict=True)
        if p not in SPLIT_NAMES
    ]
    _raise_first(path, unknown)
    labels, classes = _labels(path, rows, config.classes)
    distinct, notes = _distinct(path, rows, labels)
    root = path.resolve().parent
    names = [rows.images[i] for i in distinct]
    labels, parts = labels[distinct], np.array([rows.parts[i] for i in distinct])
    entries = _entries(path, root, names, [rows.lines[i] for i in distinct])
    channels = detect_channels(config.channels, root, names)
    if "train" not in parts:
        raise DataError(f"{path}: no line has the split train", "the split column is train, val or test")
    if set(parts) == {"train"} and config.held_out:
        is_held_out = hold_out(names, labels, config.held_out, config.seed)
        parts[is_held_out] = "val"
        notes.append(held_out_note(int((~is_held_out).sum()), int(is_held_out.sum()), config.seed))
    splits = {}
    for part in [p for p in ("train", "val", "test") if p in parts]:
        own = np.flatnonzero(parts == part)
        own_names = [names[i] for i in own]
        splits[part] = Split(own_names, labels[own], FileReader(root, own_names, channels))
    return Dataset("table", classes, splits, channels, entries, tuple(notes))


def _line_error(path: Path, line: int, what: str, fix: str = "") -> DataError:
    return DataError(f"{path}, line {line}: {what}", fix)


def _raise_first(path: Path, bad: list[tuple[int, str, str]]) -> None:
    """Raises the error of the first bad line, with the number of bad lines."""
    if bad:
        line, what, fix = bad[0]
        raise _line_error(path, line, what + (f" (and {len(bad) - 1:,} lines like it)" if bad[1:] else ""), fix)


def _read(path: Path, config: Config) -> Rows:
    """The columns of images, labels and splits, stripped; paths normalised, known split names unified."""
    try:
        text = path.read_bytes().decode("utf-8-sig")
    except FileNotFoundError:
        raise DataError(f"{path}: there is no such file", suggest_path(path)) from None
    except UnicodeDecodeError as error:
        line = error.object[: error.start].count(b"\n") + 1
        raise _line_error(path, line, "not UTF-8 text", "save the table as UTF-8") from None
    except OSError as error:
        raise DataError(
            f"{path} cannot be read: {error.strerror}", "check that it is a file and that you may read it"
        ) from None
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=_delimiter(path, text))
    try:
        header = [h.strip().lower() for h in next(reader, [])]
        image, label = (
            _column(path, header, config.image_column, IMAGE),
            _column(path, header, config.label_column, LABEL),
        )
        split = next((header.index(s) for s in SPLIT if s in header), -1)
        table = [(row, reader.line_num) for row in reader if row]
    except csv.Error as error:
        raise _line_error(path, reader.line_num, str(error), "save the table again") from None
    if not table:
        raise DataError(f"{path} has no images", "below the header, each line has an image and its label")
    width = max(image, label, split) + 1
    _raise_first(path, [(n, f"{len(r)} columns, but {width} are needed", "") for r, n in table if len(r) < width])
    parts = ["train"] * len(table) if split < 0 else [PARTS.get(r[split].strip().lower(), r[split]) for r, _ in table]
    return Rows(
        _normalize_paths([r[image].strip() for r, _ in table]),
        [r[label].strip() for r, _ in table],
        parts,
        [n for _, n in table],
    )


def _normalize_paths(paths: list[str]) -> list[str]:
    """Normalised paths with forward slashes, so that an image has one name."""
    joined = "\n".join(paths) + "\n"
    # one search in the joined text: checking a million paths one by one takes longer than everything else
    if not any(odd in joined for odd in ("\\", "//", "./", "/\n")):
        return paths
    return [os.path.normpath(p.replace("\\", "/")) if p else "" for p in paths]


def _delimiter(path: Path, text: str) -> str:
    first = text[: text.find("\n")] if "\n" in text else text
    return "\t" if path.suffix.lower() == ".tsv" else max(",;\t", key=first.count)


def _column(path: Path, header: list[str], requested: str, names: tuple[str, ...]) -> int:
    for name in [requested.lower()] if requested else names:
        if name in header:
            return header.index(name)
    headings = ", ".join(header[:8]) or "nothing"
    raise _line_error(
        path,
        1,
        f"no column {requested or ' or '.join(names[:4])} (the columns are {headings})",
        "set image_column and label_column",
    )


def _labels(path: Path, rows: Rows, classes: tuple[str, ...]) -> tuple[np.ndarray, tuple[str, ...]]:
    """int64 [N] or uint8 [N K], and the names of the classes. Each distinct label is checked once, for speed."""
    distinct = set(rows.labels)
    split = {text: [p.strip() for p in re.split(r"[|;]", text)] for text in distinct}
    names = {name for parts in split.values() for name in parts}
    numbers = all(_number(n) for n in names)
    errors = {
        text: error
        for text, parts in split.items()
        if (error := next((w for p in parts if (w := _label_error(p, numbers, classes))), ""))
    }
    last = f" to {len(classes) - 1}" if classes else ""
    fix = f"labels are the names of classes, or all of them whole numbers from 0{last}"
    if errors:
        _raise_first(
            path,
            [(n, f"label {t!r} {errors[t]}", fix) for t, n in zip(rows.labels, rows.lines, strict=True) if t in errors],
        )
    if numbers:
        names_of_classes = classes or tuple(str(n) for n in sorted({int(n) for n in names}))
        index = {n: int(n) if classes else names_of_classes.index(str(int(n))) for n in names}
    else:
        names_of_classes = classes or tuple(sorted(names, key=natural_key))
        index = {n: names_of_classes.index(n) for n in names}
    if len(names_of_classes) < 2:
        raise DataError(
            f"{path}: all labels are {names_of_classes[0]!r}; classification takes two or more classes",
            "give images of at least two classes",
        )
    code = {text: i for i, text in enumerate(split)}
    targets = np.zeros((len(split), len(names_of_classes)), np.uint8)
    for text, parts in split.items():
        targets[code[text], [index[p] for p in parts]] = 1
    codes = np.fromiter((code[t] for t in rows.labels), np.int64, len(rows.labels))
    is_multi_label = any(len(parts) > 1 for parts in split.values())
    return (targets if is_multi_label else targets.argmax(1).astype(np.int64))[codes], names_of_classes


def _number(text: str) -> bool:
    try:
        float(text)
        return True
    except ValueError:
        return not text  # an empty label is an error of its own, and the other labels stay numbers


def _label_error(name: str, numbers: bool, classes: tuple[str, ...]) -> str:
    """The error of a label, or ""."""
    if not name:
        return "is empty"
    if name.lower() == "nan":
        return "is not a number: the table has a missing value"
    if numbers:
        if not WHOLE.fullmatch(name):
            return "is not a whole number"
        if int(name) < 0:
            return "is negative"
        return f"is out of range: there are {len(classes)} classes" if classes and int(name) >= len(classes) else ""
    if classes and name not in classes:
        close = get_close_matches(name, classes, n=1, cutoff=0.6)
        return "is not among the classes" + (f"; did you mean {close[0]!r}?" if close else "")
    return ""


def _distinct(path: Path, rows: Rows, labels: np.ndarray) -> tuple[np.ndarray, list[str]]:
    """The first line of every image; repeated images with different labels or splits are an error."""
    if len(set(rows.images)) == len(rows.images):
        return np.arange(len(rows.images)), []
    first: dict[str, int] = {}
    bad, repeats = [], 0
    for i, name in enumerate(rows.images):
        j = first.setdefault(name, i)
        if j == i:
            continue
        repeats += 1
        for what, differs in (("label", (labels[i] != labels[j]).any()), ("split", rows.parts[i] != rows.parts[j])):
            if differs:
                bad.append(
                    (rows.lines[i], f"{name} has another {what} than in line {rows.lines[j]}", "keep one of the lines")
                )
                break
    _raise_first(path, bad)
    return np.array(list(first.values())), [f"{repeats:,} lines repeat an earlier line and were left out"]


def _entries(path: Path, root: Path, names: list[str], lines: list[int]) -> tuple[Entry, ...]:
    """The table and its images. Each folder is listed once: a million `stat` calls take minutes on a network disk."""
    by_folder = defaultdict(list)
    for i, name in enumerate(names):
        by_folder[os.path.dirname(name)].append(i)
    entries: list[Entry | None] = [None] * len(names)
    for folder, own in by_folder.items():
        try:
            files = {f.name: f for f in os.scandir(root / folder)}
        except OSError:
            files = {}
        for i in own:
            file = files.get(os.path.basename(names[i]))
            if file is not None and file.is_file():
                entries[i] = Entry(names[i], (stat := file.stat()).st_size, stat.st_mtime_ns)
    missing = [(lines[i], names[i]) for i, entry in enumerate(entries) if entry is None]
    if missing:
        line, name = min(missing)
        what = "the path of the image is empty" if not name else f"{name} does not exist in {root}"
        raise _line_error(
            path,
            line,
            what + (f" (and {len(missing) - 1:,} lines like it)" if missing[1:] else ""),
            suggest_path(root / name) if name else "",
        )
    stat = path.stat()
    return (Entry(path.name, stat.st_size, stat.st_mtime_ns), *sorted(e for e in entries if e is not None))
