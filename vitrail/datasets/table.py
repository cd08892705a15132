"""A CSV or TSV file that names an image and its label in every line: `path,label`, in a line of headings first, and maybe `split`."""

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
KNOWN = set(PARTS.values())
WHOLE = re.compile(r"[+-]?\d+")


@dataclass(frozen=True)
class Config:
    path: str = ""
    channels: int = 0  # 1, 3 or 4; 0: as the data
    held_out: float = 0.2  # share held out as val where the table has no split column, or none but train in it
    seed: int = 0  # of the choice of what is held out
    image_column: str = ""  # heading of the images' paths; empty: found by its name
    label_column: str = ""  # heading of the labels; empty: found by its name
    classes: tuple[str, ...] = ()  # names of classes 0, 1, ...; empty: the distinct labels, sorted


class Rows(NamedTuple):
    """The columns of a table; `lines` are line numbers of the file, for messages."""

    images: list[str]
    labels: list[str]
    parts: list[str]
    lines: list[int]


def matches(path: str) -> bool:
    """A file that ends in .csv or .tsv."""
    return path.lower().endswith((".csv", ".tsv")) and Path(path).expanduser().is_file()


def build(config: Config) -> Dataset:
    """The images that the table names, relative to its folder. A label is a class name, a class number where all are, or several joined
    by "|" or ";". Raises `DataError` with the number of the first line that cannot be used.
    """
    path = Path(config.path).expanduser()
    rows = _read(path, config)
    strange = [
        (n, f"split is {p!r}", "it is train, val or test")
        for n, p in zip(rows.lines, rows.parts, strict=True)
        if p not in KNOWN
    ]
    _refuse(path, strange)
    labels, classes = _labels(path, rows, config.classes)
    kept, notes = _distinct(path, rows, labels)
    root = path.resolve().parent
    names = [rows.images[i] for i in kept]
    labels, parts = labels[kept], np.array([rows.parts[i] for i in kept])
    entries = _entries(path, root, names, [rows.lines[i] for i in kept])
    channels = detect_channels(config.channels, root, names)
    if "train" not in parts:
        raise DataError(f"{path}: no line belongs to train", "the split column says train, val or test")
    if set(parts) == {"train"} and config.held_out:
        out = hold_out(names, labels, config.held_out, config.seed)
        parts[out] = "val"
        notes.append(held_out_note(int((~out).sum()), int(out.sum()), config.seed))
    splits = {}
    for part in [p for p in ("train", "val", "test") if p in parts]:
        own = np.flatnonzero(parts == part)
        mine = [names[i] for i in own]
        splits[part] = Split(mine, labels[own], FileReader(root, mine, channels))
    return Dataset("table", classes, splits, channels, entries, tuple(notes))


def _fail(path: Path, line: int, what: str, fix: str = "") -> DataError:
    return DataError(f"{path}, line {line}: {what}", fix)


def _refuse(path: Path, bad: list[tuple[int, str, str]]) -> None:
    """Stops at the first of the bad lines, and says how many there are."""
    if bad:
        line, what, fix = bad[0]
        raise _fail(path, line, what + (f" (and {len(bad) - 1:,} lines like it)" if bad[1:] else ""), fix)


def _read(path: Path, config: Config) -> Rows:
    """The wanted columns, stripped; paths normalised, parts under their own names where known."""
    try:
        text = path.read_bytes().decode("utf-8-sig")
    except FileNotFoundError:
        raise DataError(f"{path}: there is no such file", suggest_path(path)) from None
    except UnicodeDecodeError as error:
        line = error.object[: error.start].count(b"\n") + 1
        raise _fail(path, line, "not UTF-8 text", "save the table as UTF-8") from None
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
        raise _fail(path, reader.line_num, str(error), "save the table again") from None
    if not table:
        raise DataError(f"{path} names no images", "below the headings, each line names an image and its label")
    width = max(image, label, split) + 1
    _refuse(path, [(n, f"{len(r)} columns, but {width} are needed", "") for r, n in table if len(r) < width])
    parts = ["train"] * len(table) if split < 0 else [PARTS.get(r[split].strip().lower(), r[split]) for r, _ in table]
    return Rows(
        _tidy([r[image].strip() for r, _ in table]), [r[label].strip() for r, _ in table], parts, [n for _, n in table]
    )


def _tidy(paths: list[str]) -> list[str]:
    """Paths with forward slashes and without detours, so that one image has one name."""
    whole = "\n".join(paths) + "\n"
    if not any(
        odd in whole for odd in ("\\", "//", "./", "/\n")
    ):  # of a million paths, asking each takes longer than all the rest
        return paths
    return [os.path.normpath(p.replace("\\", "/")) if p else "" for p in paths]


def _delimiter(path: Path, text: str) -> str:
    first = text[: text.find("\n")] if "\n" in text else text
    return "\t" if path.suffix.lower() == ".tsv" else max(",;\t", key=first.count)


def _column(path: Path, header: list[str], wanted: str, names: tuple[str, ...]) -> int:
    for name in [wanted.lower()] if wanted else names:
        if name in header:
            return header.index(name)
    there = ", ".join(header[:8]) or "nothing"
    raise _fail(
        path,
        1,
        f"no column {wanted or ' or '.join(names[:4])} (the headings are {there})",
        "set image_column and label_column",
    )


def _labels(path: Path, rows: Rows, classes: tuple[str, ...]) -> tuple[np.ndarray, tuple[str, ...]]:
    """int64 [N] or uint8 [N K], and the names of the classes. Each distinct text is judged once: tables are long, classes few."""
    distinct = set(rows.labels)
    split = {text: [p.strip() for p in re.split(r"[|;]", text)] for text in distinct}
    names = {name for parts in split.values() for name in parts}
    numbers = all(_number(n) for n in names)
    wrong = {
        text: why
        for text, parts in split.items()
        if (why := next((w for p in parts if (w := _wrong(p, numbers, classes))), ""))
    }
    fix = f"labels are the names of classes, or all of them whole numbers from 0{f' to {len(classes) - 1}' if classes else ''}"
    if wrong:
        _refuse(
            path,
            [(n, f"label {t!r} {wrong[t]}", fix) for t, n in zip(rows.labels, rows.lines, strict=True) if t in wrong],
        )
    if numbers:
        found = classes or tuple(str(n) for n in sorted({int(n) for n in names}))
        index = {n: int(n) if classes else found.index(str(int(n))) for n in names}
    else:
        found = classes or tuple(sorted(names, key=natural_key))
        index = {n: found.index(n) for n in names}
    if len(found) < 2:
        raise DataError(
            f"{path}: all labels are {found[0]!r}; there is nothing to tell apart",
            "give images of at least two classes",
        )
    code = {text: i for i, text in enumerate(split)}
    many = np.zeros((len(split), len(found)), np.uint8)
    for text, parts in split.items():
        many[code[text], [index[p] for p in parts]] = 1
    picked = np.fromiter((code[t] for t in rows.labels), np.int64, len(rows.labels))
    several = any(len(parts) > 1 for parts in split.values())
    return (many if several else many.argmax(1).astype(np.int64))[picked], found


def _number(text: str) -> bool:
    try:
        float(text)
        return True
    except ValueError:
        return not text  # an empty label is refused for what it is, and does not turn the other numbers into names


def _wrong(name: str, numbers: bool, classes: tuple[str, ...]) -> str:
    """What is wrong with a label, or ""."""
    if not name:
        return "is empty"
    if name.lower() == "nan":
        return "is not a number: the table was written with a gap"
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
    """The first line of every image; an image that comes twice with different labels or parts is refused."""
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
    _refuse(path, bad)
    return np.array(list(first.values())), [f"{repeats:,} lines repeat an earlier line and were left out"]


def _entries(path: Path, root: Path, names: list[str], lines: list[int]) -> tuple[Entry, ...]:
    """The table and its images. Each folder is listed once: asking for a million files one by one takes minutes on a network disk."""
    wanted = defaultdict(list)
    for i, name in enumerate(names):
        wanted[os.path.dirname(name)].append(i)
    there: list[Entry | None] = [None] * len(names)
    for folder, own in wanted.items():
        try:
            files = {f.name: f for f in os.scandir(root / folder)}
        except OSError:
            files = {}
        for i in own:
            file = files.get(os.path.basename(names[i]))
            if file is not None and file.is_file():
                there[i] = Entry(names[i], (stat := file.stat()).st_size, stat.st_mtime_ns)
    lost = [(lines[i], names[i]) for i, entry in enumerate(there) if entry is None]
    if lost:
        line, name = min(lost)
        what = "the path of the image is empty" if not name else f"{name} does not exist in {root}"
        raise _fail(
            path,
            line,
            what + (f" (and {len(lost) - 1:,} lines like it)" if lost[1:] else ""),
            suggest_path(root / name) if name else "",
        )
    stat = path.stat()
    return (Entry(path.name, stat.st_size, stat.st_mtime_ns), *sorted(e for e in there if e is not None))
