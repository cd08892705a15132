"""YOLO's text files (Redmon et al. 2016, arXiv:1506.02640): `images/a.jpg` and `labels/a.txt`, classes in `data.yaml` or `classes.txt`.

A line is an object: class, centre x, centre y, width, height as shares of the image; or class and the corners of a polygon, whose box is
taken. An image whose text file is missing or empty holds no object.
"""

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from vitrail.data.annotations.boxes import BoxCleaner, as_boxes, read_size
from vitrail.data.annotations.detection import AnnotatedImage, DatasetSources, assemble_dataset
from vitrail.data.annotations.pairs import (
    IMAGE,
    WORDS,
    classify_file,
    list_files,
    make_entry,
    match_pairs,
    note_unmatched,
    read_text,
)
from vitrail.data.dataset import Boxes, Dataset, Entry
from vitrail.data.files import list_images, resolve_folder, suggest_path
from vitrail.data.splits import PARTS
from vitrail.errors import DataError, many
from vitrail.validation import Count, Fraction, NonNegative

SETTINGS = ("data.yaml", "data.yml", "dataset.yaml", "dataset.yml")
TABLES = ("classes.txt", "obj.names", "_darknet.labels", "labels/classes.txt", "train/_darknet.labels")
LARGEST = 2**24  # bytes of a text
BEYOND = 0.5  # how far, as a share of the image, a box may reach out before its numbers are no shares
LINE = "a line is: class, centre x, centre y, width, height, the last four as shares of the image"


@dataclass(frozen=True)
class Config:
    path: str = ""
    channels: Count = 0  # 1, 3 or 4; 0: as the data
    split: tuple[
        NonNegative, ...
    ] = ()  # shares or counts of train, val and test, where the folders do not say; empty: 0.8 0.2
    seed: Count = 0  # of that choice
    test: str | tuple[str, ...] = ()  # names of images that are held out as the test part
    tile: Count = 0  # pixels: cuts training images into tiles of that height and width; 0: whole images
    overlap: Fraction = 0.25  # of a tile with the next
    empty: Literal["keep", "drop"] = "keep"  # training tiles without any box
    one_class: bool = False  # all objects count as of one class
    classes: tuple[
        str, ...
    ] = ()  # names of classes 0, 1, ...; empty: as data.yaml or classes.txt says, else "0", "1", ...


def matches(path: str) -> bool:
    """A data.yaml, or a folder that holds one, or text files in labels/ and images in images/, or classes.txt and texts beside them."""
    where = Path(path).expanduser()
    if where.is_file():
        return where.suffix.lower() in (".yaml", ".yml") and b"names" in where.read_bytes()[:LARGEST]
    if not where.is_dir():
        return False
    if any((where / name).is_file() and b"names" in (where / name).read_bytes()[:LARGEST] for name in SETTINGS):
        return True
    inner = [p for p in where.iterdir() if p.is_dir()]
    for folder in (where, *inner):
        labels = folder / "labels"
        if (
            labels.is_dir()
            and (folder / "images").is_dir()
            and any(True for p in (labels, *labels.iterdir()) for _ in p.glob("*.txt"))
        ):
            return True
    return any((where / name).is_file() for name in TABLES) and any(p.name not in TABLES for p in where.glob("*.txt"))


def build(config: Config) -> Dataset:
    """Images with boxes in pixels. Raises `DataError` with the file and line of what cannot be used."""
    where = Path(config.path).expanduser()
    root = where.resolve().parent if where.is_file() else resolve_folder(config.path)
    settings = where.resolve() if where.is_file() else next((root / s for s in SETTINGS if (root / s).is_file()), None)
    said = read_settings(settings) if settings else {}
    table = next((root / name for name in TABLES if (root / name).is_file()), None)
    names = config.classes or tuple(said.get("names", ())) or (tuple(lines_of(table)) if table else ())
    root = base_of(root, said)
    found = list_images(root)
    entries = found.entries if not said else within(root, settings, said, found.entries)
    texts = [
        classify_file(e, WORDS)[1]
        for e in list_files(root, (".txt",))
        if Path(e.name).name not in ("classes.txt", "train.txt", "val.txt")
    ]
    placed = [classify_file(e, WORDS) for e in entries]
    images = [item for role, item in placed if role == IMAGE] or [item for _, item in placed]
    pairs, bare, spare = match_pairs(images, texts, "label file")
    lone = [t for t in spare if re.search(r"(^|/)labels?/", t.entry.name, re.IGNORECASE)]
    notes = note_unmatched(lone, "label file", "an image")
    if bare:
        notes.append(
            f"without a label file, so without objects: {many(len(bare), 'image')}, the first {bare[0].entry.name}"
        )
    parts = part_of(said)
    boxed, tidy = [], BoxCleaner()
    known: list[tuple[Entry, Entry | None, str]] = [*pairs, *((item.entry, None, item.part) for item in bare)]
    for image, text, part in sorted(known, key=lambda k: k[0]):
        size = read_size(root / image.name)
        boxes = read(root / text.name, size or (1, 1), len(names)) if text else as_boxes([], [], [])
        own = next((p for folder, p in parts.items() if image.name.startswith(folder)), part)
        boxed.append(AnnotatedImage(image.name, own, size, tidy(image.name, boxes, size)))
    most = max((int(s.boxes.labels.max()) for s in boxed if len(s.boxes.labels)), default=-1)
    classes = names or tuple(str(i) for i in range(most + 1))
    files = [e for pair in known for e in pair[:2] if e] + [make_entry(root, f) for f in (settings, table) if f]
    return assemble_dataset("yolo", root, boxed, classes, config, DatasetSources(files, notes + tidy.notes()))


def read(path: Path, size: tuple[int, int], classes: int) -> Boxes:
    """The boxes of a text, in pixels of an image of (height, width). classes: how many there are; 0: not known. Errors: `DataError`."""
    corners, labels = [], []
    for number, line in enumerate(read_text(path, LARGEST).decode(errors="replace").splitlines(), 1):
        if not (words := line.split()):
            continue
        spot = f"{path}, line {number}"
        try:
            label, values = int(words[0]), [float(w) for w in words[1:]]
        except ValueError:
            raise DataError(f"{spot}: {line.strip()[:60]!r} is not a class and numbers", LINE) from None
        if not (len(values) == 4 or (len(values) >= 6 and len(values) % 2 == 0)):
            raise DataError(f"{spot}: {len(values)} numbers follow the class", LINE)
        if label < 0 or (classes and label >= classes):
            raise DataError(
                f"{spot}: class {label} is out of range",
                f"there are {classes} classes" if classes else "they count from 0",
            )
        if len(values) == 4:
            x, y, w, h = values
            left, top, right, bottom = x - w / 2, y - h / 2, x + w / 2, y + h / 2
        else:
            left, top, right, bottom = min(values[::2]), min(values[1::2]), max(values[::2]), max(values[1::2])
        if (
            not -BEYOND <= min(left, top, right, bottom) <= max(left, top, right, bottom) <= 1 + BEYOND
        ):  # a NaN fails too
            raise DataError(f"{spot}: {' '.join(words[1:5])} are no shares of an image", LINE)
        corners.append((left * size[1], top * size[0], right * size[1], bottom * size[0]))
        labels.append(label)
    return as_boxes(corners, labels, [False] * len(labels))


def read_settings(path: Path) -> dict[str, list[str]]:
    """The keys path, train, val, test and names of a data.yaml, each as a list. Only as much of YAML as these files use.

    Errors: `DataError` with the number of a line.
    """
    found: dict[str, list[str]] = {}
    key = ""
    for number, line in enumerate(read_text(path, LARGEST).decode("utf-8", errors="replace").splitlines(), 1):
        text = re.sub(r"(^|\s)#.*", "", line).rstrip()
        if not text.strip() or text.startswith(("---", "...")):
            continue
        if top := re.fullmatch(r"(\w+)\s*:\s*(.*)", text):
            key, value = top[1], top[2].strip()
            if value[:1] in ("[", "{"):
                if value[-1] not in "]}":
                    raise DataError(
                        f"{path}, line {number}: the list does not end in this line",
                        "write it on one line, or an item a line",
                    )
                found[key] = [
                    bare(v.partition(":")[2] if value[0] == "{" else v) for v in value[1:-1].split(",") if v.strip()
                ]
            else:
                found[key] = [bare(value)] if value else []
        elif key and (item := re.fullmatch(r"\s*-\s+(.+)|\s+(\d+)\s*:\s*(.+)", text)):
            if item[2] and int(item[2]) != len(found[key]):
                raise DataError(
                    f"{path}, line {number}: class {item[2]} stands where {len(found[key])} should",
                    "number them 0, 1, 2, ...",
                )
            found[key].append(bare(item[1] or item[3]))
        elif not text[0].isspace():
            raise DataError(
                f"{path}, line {number}: {text[:60]!r} cannot be read", "the file has lines such as train: images/train"
            )
    if len(set(found.get("names", []))) < len(found.get("names", [])):
        raise DataError(f"{path}: two classes have the same name", "give each class a name of its own")
    return {k: v for k, v in found.items() if k in ("path", "train", "val", "valid", "test", "names")}


def bare(text: str) -> str:
    """A value without its quotation marks."""
    text = text.strip()
    return text[1:-1] if len(text) > 1 and text[0] == text[-1] and text[0] in "'\"" else text


def lines_of(path: Path) -> list[str]:
    return [
        line.strip()
        for line in read_text(path, LARGEST).decode("utf-8-sig", errors="replace").splitlines()
        if line.strip()
    ]


def base_of(root: Path, text: dict[str, list[str]]) -> Path:
    """The folder that the parts of a data.yaml are counted from: its own, or what `path` says where that is there."""
    for wanted in text.get("path", []):
        there = root / Path(wanted).expanduser()
        if there.is_dir():
            return there.resolve()
    return root


def part_of(text: dict[str, list[str]]) -> dict[str, str]:
    """The beginnings of the names of images, and the parts that a data.yaml puts them in."""
    parts = {}
    for key, folders in text.items():
        for folder in folders if key in PARTS else []:
            parts[re.sub(r"^(\.\.?/)+", "", folder).strip("/") + "/"] = PARTS[key]
    return dict(sorted(parts.items(), key=lambda p: -len(p[0])))


def within(root: Path, settings: Path | None, text: dict[str, list[str]], entries: list[Entry]) -> list[Entry]:
    """The images in the folders that a data.yaml names; all where it names none. Errors: `DataError` for a folder that is not there."""
    folders = part_of(text)
    for folder in folders:
        if not (root / folder).is_dir():
            raise DataError(
                f"{settings} names {folder.rstrip('/')}, and {root} has no such folder", suggest_path(root / folder)
            )
    return [e for e in entries if e.name.startswith(tuple(folders))] if folders else entries
