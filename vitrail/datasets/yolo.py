"""YOLO's text files (Redmon et al. 2016, arXiv:1506.02640): `images/a.jpg` and `labels/a.txt`, and `data.yaml`.

A line is an object: class, centre x, centre y, width, height, relative to the image; or class and the corners of a
polygon, converted to its box. An image whose label file is missing or empty has no object.
"""

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from vitrail.data.annotations.boxes import BoxCleaner, as_boxes, read_size
from vitrail.data.annotations.detection import AnnotatedImage, DatasetSources, assemble_dataset
from vitrail.data.annotations.pairs import (
    IMAGE,
    STANDARD,
    classify_file,
    list_files,
    make_entry,
    match_pairs,
    note_unmatched,
    read_text,
)
from vitrail.data.dataset import Boxes, Dataset, Entry
from vitrail.data.files import list_images, resolve_folder, suggest_path
from vitrail.data.splits import find_part
from vitrail.errors import DataError, many
from vitrail.validation import Count, Fraction, NonNegative

SETTINGS = ("data.yaml", "data.yml", "dataset.yaml", "dataset.yml")
TABLES = ("classes.txt", "obj.names", "_darknet.labels", "labels/classes.txt", "train/_darknet.labels")
LARGEST = 2**24  # bytes of a text
MAX_OUTSIDE = 0.5  # how far, relative to the image, a box may extend before it is an error
LINE = "a line is: class, centre x, centre y, width, height, the last four relative to the image"


@dataclass(frozen=True)
class Config:
    path: str = ""
    channels: Count = 0  # 1, 3 or 4; 0: as the data
    split: tuple[NonNegative, ...] = ()  # fractions or counts of train, val, test if the data has none; empty: 0.8 0.2
    seed: Count = 0  # of the random split
    test: str | tuple[str, ...] = ()  # names of images that are held out as the test split
    tile: Count = 0  # side in pixels of the tiles that training images are cut into; 0: whole images
    overlap: Fraction = 0.25  # of neighbouring tiles, as a fraction of a tile
    empty: Literal["keep", "drop"] = "keep"  # training tiles without any box
    one_class: bool = False  # merges all classes into one
    classes: tuple[str, ...] = ()  # names of classes; empty: from data.yaml or classes.txt, else 0, 1, ...


def matches(path: str) -> bool:
    """A data.yaml, or a folder with one, or with labels/*.txt and images/, or with classes.txt and label files."""
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
    """Images with boxes in pixels. Raises `DataError` with file and line."""
    where = Path(config.path).expanduser()
    root = where.resolve().parent if where.is_file() else resolve_folder(config.path)
    settings = where.resolve() if where.is_file() else next((root / s for s in SETTINGS if (root / s).is_file()), None)
    data_yaml = read_settings(settings) if settings else {}
    table = next((root / name for name in TABLES if (root / name).is_file()), None)
    names = config.classes or tuple(data_yaml.get("names", ())) or (tuple(read_lines(table)) if table else ())
    root = resolve_base(root, data_yaml)
    contents = list_images(root)
    entries = contents.entries if not data_yaml else select_folders(root, settings, data_yaml, contents.entries)
    texts = [
        classify_file(e, STANDARD)[1]
        for e in list_files(root, (".txt",))
        if Path(e.name).name not in ("classes.txt", "train.txt", "val.txt")
    ]
    classified = [classify_file(e, STANDARD) for e in entries]
    images = [item for role, item in classified if role == IMAGE] or [item for _, item in classified]
    pairs, unlabelled, unused = match_pairs(images, texts, "label file")
    orphans = [t for t in unused if re.search(r"(^|/)labels?/", t.entry.name, re.IGNORECASE)]
    notes = note_unmatched(orphans, "label file", "an image")
    if unlabelled:
        count = many(len(unlabelled), "image")
        notes.append(f"without a label file, so without objects: {count}, the first {unlabelled[0].entry.name}")
    parts = parts_by_prefix(data_yaml)
    boxed, cleaner = [], BoxCleaner()
    annotated: list[tuple[Entry, Entry | None, str]] = [*pairs, *((item.entry, None, item.part) for item in unlabelled)]
    for image, text, part in sorted(annotated, key=lambda k: k[0]):
        size = read_size(root / image.name)
        boxes = read(root / text.name, size or (1, 1), len(names)) if text else as_boxes([], [], [])
        own = next((p for folder, p in parts.items() if image.name.startswith(folder)), part)
        boxed.append(AnnotatedImage(image.name, own, size, cleaner(image.name, boxes, size)))
    max_label = max((int(s.boxes.labels.max()) for s in boxed if len(s.boxes.labels)), default=-1)
    classes = names or tuple(str(i) for i in range(max_label + 1))
    files = [e for pair in annotated for e in pair[:2] if e] + [make_entry(root, f) for f in (settings, table) if f]
    return assemble_dataset("yolo", root, boxed, classes, config, DatasetSources(files, notes + cleaner.notes()))


def read(path: Path, size: tuple[int, int], classes: int) -> Boxes:
    """The boxes of a label file, in pixels of an image of (height, width). classes: their number; 0: unknown.

    Errors: `DataError`.
    """
    corners, labels = [], []
    for number, line in enumerate(read_text(path, LARGEST).decode(errors="replace").splitlines(), 1):
        if not (words := line.split()):
            continue
        spot = f"{path}, line {number}"
        try:
            label, values = int(words[0]), [float(w) for w in words[1:]]
        except ValueError:
            raise DataError(f"{spot}: {line.strip()[:60]!r} is not a class followed by numbers", LINE) from None
        if not (len(values) == 4 or (len(values) >= 6 and len(values) % 2 == 0)):
            raise DataError(f"{spot}: {len(values)} numbers follow the class", LINE)
        if label < 0 or (classes and label >= classes):
            raise DataError(
                f"{spot}: class {label} is out of range",
                f"there are {classes} classes" if classes else "classes count from 0",
            )
        if len(values) == 4:
            x, y, w, h = values
            left, top, right, bottom = x - w / 2, y - h / 2, x + w / 2, y + h / 2
        else:
            left, top, right, bottom = min(values[::2]), min(values[1::2]), max(values[::2]), max(values[1::2])
        # a NaN fails too
        if not -MAX_OUTSIDE <= min(left, top, right, bottom) <= max(left, top, right, bottom) <= 1 + MAX_OUTSIDE:
            raise DataError(f"{spot}: {' '.join(words[1:5])} are not relative to the image", LINE)
        corners.append((left * size[1], top * size[0], right * size[1], bottom * size[0]))
        labels.append(label)
    return as_boxes(corners, labels, [False] * len(labels))


def read_settings(path: Path) -> dict[str, list[str]]:
    """The keys path, train, val, test and names of a data.yaml, each as a list. Parses a subset of YAML.

    Errors: `DataError` with the line number.
    """
    settings: dict[str, list[str]] = {}
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
                        f"{path}, line {number}: the list does not end on this line",
                        "write it on one line, or one item a line",
                    )
                settings[key] = [
                    unquote(v.partition(":")[2] if value[0] == "{" else v) for v in value[1:-1].split(",") if v.strip()
                ]
            else:
                settings[key] = [unquote(value)] if value else []
        elif key and (item := re.fullmatch(r"\s*-\s+(.+)|\s+(\d+)\s*:\s*(.+)", text)):
            if item[2] and int(item[2]) != len(settings[key]):
                raise DataError(
                    f"{path}, line {number}: class {item[2]} is listed instead of {len(settings[key])}",
                    "number them 0, 1, 2, ...",
                )
            settings[key].append(unquote(item[1] or item[3]))
        elif not text[0].isspace():
            raise DataError(
                f"{path}, line {number}: {text[:60]!r} cannot be read", "the file has lines such as train: images/train"
            )
    if len(set(settings.get("names", []))) < len(settings.get("names", [])):
        raise DataError(f"{path}: two classes have the same name", "give each class a name of its own")
    return {k: v for k, v in settings.items() if k in ("path", "train", "val", "valid", "test", "names")}


def unquote(text: str) -> str:
    """A value without its quotation marks."""
    text = text.strip()
    return text[1:-1] if len(text) > 1 and text[0] == text[-1] and text[0] in "'\"" else text


def read_lines(path: Path) -> list[str]:
    return [
        line.strip()
        for line in read_text(path, LARGEST).decode("utf-8-sig", errors="replace").splitlines()
        if line.strip()
    ]


def resolve_base(root: Path, text: dict[str, list[str]]) -> Path:
    """The root of the folders in a data.yaml: `path` if it exists, else its own folder."""
    for path in text.get("path", []):
        folder = root / Path(path).expanduser()
        if folder.is_dir():
            return folder.resolve()
    return root


def parts_by_prefix(text: dict[str, list[str]]) -> dict[str, str]:
    """Path prefixes of images, and their splits in a data.yaml."""
    parts = {}
    for key, folders in text.items():
        for folder in folders if find_part(key) else []:
            parts[re.sub(r"^(\.\.?/)+", "", folder).strip("/") + "/"] = find_part(key)
    return dict(sorted(parts.items(), key=lambda p: -len(p[0])))


def select_folders(root: Path, settings: Path | None, text: dict[str, list[str]], entries: list[Entry]) -> list[Entry]:
    """The images in the folders of a data.yaml; all if it has none. Errors: `DataError` for a missing folder."""
    folders = parts_by_prefix(text)
    for folder in folders:
        if not (root / folder).is_dir():
            raise DataError(
                f"{settings} names {folder.rstrip('/')}, and {root} has no such folder", suggest_path(root / folder)
            )
    return [e for e in entries if e.name.startswith(tuple(folders))] if folders else entries
