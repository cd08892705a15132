"""YOLO's text files (Redmon et al. 2016, arXiv:1506.02640): `images/a.jpg` and `labels/a.txt`, and `data.yaml`.

A line is an object: class, centre x, centre y, width, height, relative to the image; or class and the corners of a
polygon, converted to its box. An image whose label file is missing or empty has no object. data.yaml names the classes,
and for every part folders of images or lists of files.
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
    Item,
    classify_file,
    list_files,
    make_entry,
    match_pairs,
    note_unmatched,
    read_text,
)
from vitrail.data.annotations.yolo_sources import Sources, find_sources, label_names
from vitrail.data.annotations.yolo_yaml import read_settings
from vitrail.data.dataset import Boxes, Dataset, Entry
from vitrail.data.files import resolve_folder
from vitrail.data.splits import find_part
from vitrail.errors import DataError, many
from vitrail.validation import Count, Fraction, NonNegative

SETTINGS = ("data.yaml", "data.yml", "dataset.yaml", "dataset.yml")
TABLES = ("classes.txt", "obj.names", "_darknet.labels", "labels/classes.txt", "train/_darknet.labels")
LARGEST = 2**24  # bytes of a text
MOST_CLASSES = 100_000  # of data that does not name them
MAX_OUTSIDE = 0.5  # how far, relative to the image, a box may extend before it is an error
LINE = "a line is: class, centre x, centre y, width, height, the last four relative to the image"


@dataclass(frozen=True)
class Config:
    path: str = ""
    channels: Count = 0  # 1, 3 or 4; 0: as the data
    follow_links: bool = False  # symbolic links out of the folder too
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
            and any(True for p in (labels, *labels.iterdir()) if p.is_dir() for _ in p.glob("*.txt"))
        ):
            return True
    return any((where / name).is_file() for name in TABLES) and any(p.name not in TABLES for p in where.glob("*.txt"))


def build(config: Config) -> Dataset:
    """Images with boxes in pixels. Raises `DataError` with file and line."""
    where = Path(config.path).expanduser()
    folder, settings = (where.resolve().parent, where.resolve()) if where.is_file() else find_settings(config.path)
    data_yaml = read_settings(settings) if settings else {}
    table = next((folder / name for name in TABLES if (folder / name).is_file()), None)
    names = config.classes or tuple(data_yaml.get("names", ())) or (tuple(read_lines(table)) if table else ())
    sources = find_sources(folder, settings, data_yaml, config.follow_links)
    annotated, notes = find_labels(sources, config.follow_links)
    keypoints = bool(data_yaml.get("kpt_shape"))
    boxed, cleaner = [], BoxCleaner()
    for image, text, part in sorted(annotated, key=lambda k: k[0]):
        size = read_size(sources.root / image.name)
        boxes = as_boxes([], [], [])
        if text:
            boxes = read(sources.root / text.name, size or (1, 1), len(names), keypoints)
        own = sources.parts[image.name] if sources.parts else part
        boxed.append(AnnotatedImage(image.name, own, size, cleaner(image.name, boxes, size)))
    max_label = max((int(s.boxes.labels.max()) for s in boxed if len(s.boxes.labels)), default=-1)
    classes = names or tuple(str(i) for i in range(max_label + 1))
    notes = [*sources.notes, *note_count(settings, data_yaml), *notes, *cleaner.notes()]
    files = [e for pair in annotated for e in pair[:2] if e]
    files += [make_entry(sources.root, f) for f in (settings, table, *sources.lists) if f]
    return assemble_dataset("yolo", sources.root, boxed, classes, config, DatasetSources(files, notes))


def find_settings(path: str) -> tuple[Path, Path | None]:
    """A folder, resolved, and the data.yaml in it, if any. Errors: `DataError`."""
    folder = resolve_folder(path)
    return folder, next((folder / name for name in SETTINGS if (folder / name).is_file()), None)


def note_count(settings: Path | None, data_yaml: dict[str, list[str]]) -> list[str]:
    """A note where the number of classes in a data.yaml is not that of its names."""
    count, names = "".join(data_yaml.get("nc", [])), data_yaml.get("names", [])
    if not settings or not count or not names or count == str(len(names)):
        return []
    return [f"{settings.name} says nc: {count[:20]} and names {many(len(names), 'class', 'classes')}: the names count"]


def find_labels(sources: Sources, follow: bool) -> tuple[list[tuple[Entry, Entry | None, str]], list[str]]:
    """Every image with its label file, if any, and the part that its path names; and notes.

    The label file of images/a.jpg is labels/a.txt or beside it, as YOLO has it; else folders and names are compared.
    """
    below = [""] if sources.is_whole else sorted({f for e in sources.images for f in sources.label_folders(e.name)})
    texts = {e.name: e for folder in below for e in list_files(sources.root, (".txt",), folder, follow)}
    lists = {make_entry(sources.root, path).name for path in sources.lists}
    texts = {name: e for name, e in texts.items() if name not in lists and is_label_file(name)}
    found: list[tuple[Entry, Entry | None, str]] = []
    rest: list[Item] = []
    classified = [classify_file(e, STANDARD) for e in sources.images]
    chosen = [item for role, item in classified if role == IMAGE or sources.parts]
    others = [item for role, item in classified if not (role == IMAGE or sources.parts)] if chosen else []
    for item in chosen or [item for _, item in classified]:
        text = next((texts[name] for name in label_names(item.entry.name) if name in texts), None)
        if text is None:
            rest.append(item)
        else:
            found.append((item.entry, text, item.part or classify_file(text, STANDARD)[1].part))
    used = {text.name for _, text, _ in found if text}
    pairs, unlabelled, unused = match_pairs(
        rest, [classify_file(e, STANDARD)[1] for e in texts.values() if e.name not in used], "label file"
    )
    notes = note_unmatched(
        [t for t in unused if re.search(r"(^|/)labels?/", t.entry.name, re.I)], "label file", "an image"
    )
    if unlabelled:
        count = many(len(unlabelled), "image")
        notes.append(f"without a label file, so without objects: {count}, the first {unlabelled[0].entry.name}")
    notes += note_unmatched(others, "image", "a folder of images")
    return [*found, *pairs, *((item.entry, None, item.part) for item in unlabelled)], notes


def is_label_file(name: str) -> bool:
    """Whether a text is no list of classes or of images, by its name."""
    file = name.rpartition("/")[2].lower()
    return not (file in TABLES or file.startswith("readme") or (find_part(file[:-4]) and "label" not in name.lower()))


def read(path: Path, size: tuple[int, int], classes: int, keypoints: bool = False) -> Boxes:
    """The boxes of a label file, in pixels of an image of (height, width). classes: their number; 0: unknown.
    keypoints: they follow the box.

    Errors: `DataError`.
    """
    corners, labels = [], []
    for number, line in enumerate(read_text(path, LARGEST).decode("utf-8-sig", errors="replace").splitlines(), 1):
        if not (words := line.split()):
            continue
        spot = f"{path}, line {number}"
        if not re.fullmatch(r"-?[0-9]+(\.0*)?", words[0]) or "_" in line:
            raise DataError(f"{spot}: {line.strip()[:60]!r} is not a class followed by numbers", LINE)
        try:
            label, values = int(words[0].partition(".")[0]), [float(w) for w in words[1:]]
        except ValueError:
            raise DataError(f"{spot}: {line.strip()[:60]!r} is not a class followed by numbers", LINE) from None
        values = values[:4] if keypoints else values
        if not (len(values) == 4 or (len(values) >= 6 and len(values) % 2 == 0)):
            raise DataError(f"{spot}: {len(values)} numbers follow the class", LINE)
        if not 0 <= label < (classes or MOST_CLASSES):
            most = f"there are {classes} classes" if classes else f"classes count from 0 to {MOST_CLASSES - 1:,}"
            raise DataError(f"{spot}: class {words[0][:30]} is out of range", most)
        box = corners_of(values)
        # a NaN fails too
        if not -MAX_OUTSIDE <= min(box) <= max(box) <= 1 + MAX_OUTSIDE:
            raise DataError(f"{spot}: {' '.join(words[1:5])[:80]} are not relative to the image", LINE)
        corners.append((box[0] * size[1], box[1] * size[0], box[2] * size[1], box[3] * size[0]))
        labels.append(label)
    return as_boxes(corners, labels, [False] * len(labels))


def corners_of(values: list[float]) -> tuple[float, float, float, float]:
    """Left, top, right, bottom of a box by its centre and size, or of a polygon."""
    if len(values) > 4:
        return min(values[::2]), min(values[1::2]), max(values[::2]), max(values[1::2])
    x, y, w, h = values
    return x - w / 2, y - h / 2, x + w / 2, y + h / 2


def read_lines(path: Path) -> list[str]:
    return [
        line.strip()
        for line in read_text(path, LARGEST).decode("utf-8-sig", errors="replace").splitlines()
        if line.strip()
    ]
