"""A CSV, TSV or JSONL file with an image and its label or caption in every line: columns `path`, `label` or `caption`,
and optionally `split`."""

import json
import os
import re
from collections import defaultdict
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np

from vitrail.data.annotations.caption_table import CAPTION, collect_captions, find_caption_columns
from vitrail.data.annotations.captions import keep_captions
from vitrail.data.dataset import AnnotationKind, Dataset, Entry, Split
from vitrail.data.files import FileReader, detect_channels, held_out_note, hold_out, list_images, suggest_path
from vitrail.data.labels import Targets, find_class_columns, read_class_columns, read_labels
from vitrail.data.sheet import JSON_LINES, Sheet, read_sheet
from vitrail.data.splits import find_part
from vitrail.datasets import imagefolder
from vitrail.storage.printable import shell_word

IMAGE = (
    *("path", "file", "filename", "file_name", "image", "image_path", "filepath", "img", "img_path", "image_name"),
    *("image_id", "id_code", "image_file", "images", "id", "name"),
)
LABEL = ("label", "class", "target", "labels", "classes", "category", "class_name", "label_name", "diagnosis", "tags")
SPLIT = ("split", "part", "set", "subset")
PARTS = ("train", "val", "test")
NONE = "none"  # as a name of a column: none is the split, though one is called so
ENDINGS = (".csv", ".tsv", *JSON_LINES)
TABLES = tuple(f"{name}{ending}" for name in ("metadata", "captions") for ending in (*ENDINGS, ".txt"))
LONGEST = 100_000  # characters of a first line
SOUGHT = 2000  # images among which one that a table names is looked for


@dataclass(frozen=True)
class Config:
    path: str = ""
    annotation: Literal["", "classes", "captions"] = (
        ""  # empty: classes, or captions where there is no column of labels
    )
    channels: int = 0  # 1, 3 or 4; 0: as the data
    held_out: float = 0.2  # fraction held out as val if the table has no split column, or only train in it
    seed: int = 0  # of the random split
    image_column: str = ""  # column of the image paths; empty: detected by its name
    label_column: str = ""  # column of the labels; empty: by its name, or a column a class with 0 and 1
    label_separator: str = ""  # of several labels in a cell; empty: | and ;, commas between known labels; or none
    caption_column: tuple[str, ...] = ()  # columns of captions; empty: detected by their names
    split_column: str = ""  # column of train, val and test; empty: detected by its name and values; or none
    folder: str = ""  # of the images, from the folder of the table
    suffix: str = ""  # of the images, where the table has names without it, such as .png
    whole: bool = False  # for evaluation: any classes, one is enough
    classes: tuple[str, ...] = ()  # names of classes 0, 1, ...; empty: the distinct labels, sorted


def matches(path: str) -> bool:
    """A file that ends in .csv, .tsv or .jsonl, a .txt whose first line names a column of images and one of captions,
    or a folder with such a table under a usual name."""
    file, name = Path(path).expanduser(), path.lower()
    if name.endswith(ENDINGS):
        return file.is_file()
    return find_table(file) is not None


def find_table(where: Path) -> Path | None:
    """The table with captions: a file itself, or in a folder; None where there is none."""
    files = [where] if where.is_file() else [where / name for name in TABLES]
    return next((file for file in files if file.suffix in (".txt", *ENDINGS) and names_captions(file)), None)


def names_captions(file: Path) -> bool:
    """Whether the first line of a table names a column of images and one of captions."""
    try:
        with file.open(encoding="utf-8-sig", errors="replace") as text:
            first = text.readline(LONGEST)
        header = list(json.loads(first)) if file.suffix in JSON_LINES else re.split("[,;|\t]", first)
    except (OSError, ValueError, TypeError, RecursionError):
        return False
    names = {str(name).strip().lower() for name in header}
    return bool({*IMAGE} & names) and bool({*CAPTION} & names)


def build(config: Config) -> Dataset:
    """The images of the table, relative to its folder. A label is a class name, a class number if all are numbers, or
    several of them; or there is a column a class. Raises `DataError` with the line number of the first error.
    """
    where = Path(config.path).expanduser()
    if where.is_dir() and config.annotation == "classes":  # those of its folders: the table has captions
        return imagefolder.build(imagefolder.Config(config.path, config.channels, config.held_out, config.seed))
    path = find_table(where) or where
    sheet = read_sheet(path)
    image, label, split = _columns(sheet, config)
    captions = _caption_columns(sheet, config, (image, label, split))
    parts, notes = _parts(sheet, split, config.split_column)
    root = (path.resolve().parent / Path(config.folder).expanduser()).resolve()
    images = _names(sheet, image, config.suffix)
    if captions:
        distinct, texts, repeats = collect_captions(sheet, images, parts, captions)
        targets = Targets(np.zeros(len(images), np.int64), ())
        if not len(distinct):
            what = f"no image has a caption: {', '.join(sheet.header[i] for i in captions)} is empty in all lines"
            raise sheet.error(sheet.lines[0], what, f"--data.caption-column takes one of {sheet.list_columns()}")
    else:
        targets = _targets(sheet, (image, label, split), config)
        distinct, repeats = _distinct(sheet, images, targets.values, parts)
        if not config.annotation and find_caption_columns(sheet, (), (image, label, split)):
            repeats.append("the labels were read; --data.annotation captions reads the captions")
    notes = [
        *targets.notes,
        *notes,
        *repeats,
        *_unused(sheet, (image, -1 if captions else label, split, *captions), targets),
    ]
    names, labels, parts = [images[i] for i in distinct], targets.values[distinct], parts[distinct]
    entries = _entries(sheet, root, names, [sheet.lines[i] for i in distinct], config)
    channels = detect_channels(config.channels, root, names)
    if set(parts) == {"train"} and config.held_out:
        is_held_out = hold_out(names, labels, config.held_out, config.seed)
        parts[is_held_out] = "val"
        notes.append(held_out_note(int((~is_held_out).sum()), int(is_held_out.sum()), config.seed))
    splits = {}
    for part in [p for p in PARTS if p in parts]:
        own = np.flatnonzero(parts == part)
        own_names = [names[i] for i in own]
        annotation = keep_captions(texts[i] for i in own) if captions else None
        splits[part] = Split(own_names, labels[own], FileReader(root, own_names, channels), annotation)
    kind: AnnotationKind = "captions" if captions else "classes"
    return Dataset("table", targets.classes, splits, channels, entries, tuple(notes), kind)


def _columns(sheet: Sheet, config: Config) -> tuple[int, int, int]:
    """The columns of the images, the labels (-1: a column a class) and the split (-1: none). Errors: `DataError`."""
    image = sheet.require(config.image_column, "--data.image-column") if config.image_column else sheet.find(IMAGE)
    label = (
        sheet.require(config.label_column, "--data.label-column")
        if config.label_column
        else sheet.find([name for name in LABEL if sheet.find([name]) != image])
    )
    split = -1 if config.split_column == NONE else sheet.find(SPLIT)
    if config.split_column not in ("", NONE):
        split = sheet.require(config.split_column, "--data.split-column")
    if image < 0:
        fix = "the first line names the columns, as in path,label; or --data.image-column NAME --data.label-column NAME"
        raise sheet.error(1, f"no column {' or '.join(IMAGE[:4])} (the columns are {sheet.list_columns()})", fix)
    has_captions = config.annotation == "captions" or find_caption_columns(sheet, config.caption_column, (image, split))
    if label < 0 and not has_captions and not find_class_columns(sheet, (image, split), config.classes):
        what = f"no column {' or '.join(LABEL[:4])} or caption, nor a column of 0 and 1 a class (the columns are "
        raise sheet.error(1, f"{what}{sheet.list_columns()})", "--data.label-column NAME or --data.caption-column NAME")
    width = max(image, label, split) + 1
    sheet.raise_first(
        [i for i, row in enumerate(sheet.rows) if len(row) < width],
        lambda i: f"{len(sheet.rows[i])} columns, but {width} are needed",
        lambda _: "a comma in a name needs quotes around the name",
    )
    return image, label, split


def _caption_columns(sheet: Sheet, config: Config, columns: tuple[int, int, int]) -> list[int]:
    """The columns of captions, where captions are the annotation; none otherwise. Errors: `DataError`."""
    found = find_caption_columns(sheet, config.caption_column, [c for c in columns if c >= 0])
    labelled = columns[1] >= 0 or bool(find_class_columns(sheet, columns[::2], config.classes))
    if config.annotation == "classes" and not labelled:
        fix = "--data.label-column NAME"
        raise sheet.error(1, f"no column {' or '.join(LABEL[:4])} (the columns are {sheet.list_columns()})", fix)
    if config.annotation == "captions" and not found:
        fix = "--data.caption-column NAME"
        raise sheet.error(1, f"no column {' or '.join(CAPTION[:4])} (the columns are {sheet.list_columns()})", fix)
    wanted = config.annotation or ("captions" if config.caption_column or not labelled else "classes")
    return found if wanted == "captions" else []


def _targets(sheet: Sheet, columns: tuple[int, int, int], config: Config) -> Targets:
    image, label, split = columns
    if label < 0:
        return read_class_columns(sheet, find_class_columns(sheet, (image, split), config.classes))
    return read_labels(sheet, label, config.classes, config.label_separator, config.whole)


def _parts(sheet: Sheet, column: int, requested: str) -> tuple[np.ndarray, list[str]]:
    """The part of every image, and notes. A column that is only called like a split has other values."""
    if column < 0:
        return np.full(len(sheet.rows), "train"), []
    cells = sheet.cells(column)
    part = {cell: find_part(cell) for cell in set(cells)}
    if not requested and not any(part.values()):
        values = ", ".join(sorted(part)[:3]) + (", ..." if len(part) > 3 else "")
        return np.full(len(cells), "train"), [
            f"the column {sheet.header[column]} is not taken for the split: its values are {values}"
        ]
    sheet.raise_first(
        [i for i, cell in enumerate(cells) if not part[cell]],
        lambda i: f"{sheet.header[column]} is {cells[i]!r}",
        lambda _: "it is train, val or test; --data.split-column none leaves the column out",
    )
    return np.array([part[cell] for cell in cells]), []


def _unused(sheet: Sheet, columns: tuple[int, ...], targets: Targets) -> list[str]:
    """A note on the columns that are not read."""
    used = {*columns, *(sheet.find([name.lower()]) for name in targets.classes if columns[1] < 0)}
    others = [name for i, name in enumerate(sheet.header) if i not in used and name]
    listed = ", ".join(others[:5]) + (", ..." if others[5:] else "")
    return [f"columns that are not read: {listed}"] if others else []


def _names(sheet: Sheet, column: int, suffix: str) -> list[str]:
    """Normalised paths with forward slashes, so that an image has one name."""
    ending = f".{suffix.removeprefix('.')}" if suffix else ""
    paths = [p if not p or p.lower().endswith(ending.lower()) else p + ending for p in sheet.cells(column)]
    joined = "\n".join(paths) + "\n"
    # one search in the joined text: checking a million paths one by one takes longer than everything else
    if not any(odd in joined for odd in ("\\", "//", "./", "/\n")):
        return paths
    return [os.path.normpath(p.replace("\\", "/")) if p else "" for p in paths]


def _distinct(sheet: Sheet, images: list[str], labels: np.ndarray, parts: np.ndarray) -> tuple[np.ndarray, list[str]]:
    """The first line of every image; repeated images with different labels or splits are an error."""
    if len(set(images)) == len(images):
        return np.arange(len(images)), []
    first: dict[str, int] = {}
    differing: dict[int, str] = {}
    for i, name in enumerate(images):
        j = first.setdefault(name, i)
        if j == i:
            continue
        for what, differs in (("label", (labels[i] != labels[j]).any()), ("split", parts[i] != parts[j])):
            if differs:
                differing.setdefault(i, what)
    sheet.raise_first(
        list(differing),
        lambda i: f"{images[i]} has another {differing[i]} than in line {sheet.lines[first[images[i]]]}",
        lambda _: "keep one of the lines; several labels of an image stand in one cell, as cat|dog",
    )
    return np.array(list(first.values())), [
        f"{len(images) - len(first):,} lines repeat an earlier line and were left out"
    ]


def _entries(sheet: Sheet, root: Path, names: list[str], lines: list[int], config: Config) -> tuple[Entry, ...]:
    """The table and its images. Each folder is listed once: a million `stat` calls take minutes on a network disk."""
    by_folder = defaultdict(list)
    for i, name in enumerate(names):
        by_folder[os.path.dirname(name)].append(i)
    entries: list[Entry | None] = [None] * len(names)
    for folder, own in by_folder.items():
        try:
            files = {f.name: f for f in os.scandir(root / folder)}
        except (OSError, ValueError):  # no such folder, or a name that none can have
            files = {}
        for i in own:
            file = files.get(os.path.basename(names[i]))
            if file is not None and file.is_file():
                entries[i] = Entry(names[i], (stat := file.stat()).st_size, stat.st_mtime_ns)
    missing = [i for i, entry in enumerate(entries) if entry is None]
    if missing:
        i = missing[0]
        what = f"{names[i]} does not exist in {root}" if names[i] else "the path of the image is empty"
        more = f" (and {len(missing) - 1:,} lines like it)" if missing[1:] else ""
        raise sheet.error(lines[i], what + more, _suggest_place(sheet.path, root, names[i], config))
    stat = sheet.path.stat()
    return (Entry(sheet.path.name, stat.st_size, stat.st_mtime_ns), *sorted(e for e in entries if e is not None))


def _suggest_place(path: Path, root: Path, name: str, config: Config) -> str:
    """Where an image that does not exist may be: in another folder, with another suffix, or under a similar name."""
    if not name or "\0" in name:
        return "every line has the path of an image"
    top = path.resolve().parent
    stem = os.path.splitext(os.path.basename(name))[0] if not config.suffix else os.path.basename(name)
    for entry in list_images(top).entries[:SOUGHT]:
        folder, base = os.path.split(entry.name)
        if base == os.path.basename(name) or base.startswith(f"{stem}."):
            inside = os.path.dirname(name)
            above = folder.removesuffix(inside).rstrip("/") if inside and folder.endswith(inside) else folder
            words = f"--data.folder {shell_word(above)}" if above else ""
            words += "" if base == os.path.basename(name) else f" --data.suffix {base[len(stem) :]}"
            return f"there is {entry.name}: {words.strip()}" if words else f"there is {entry.name}"
    return suggest_path(root / name)
