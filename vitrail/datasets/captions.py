"""Images with their captions in .txt files beside them: `photos/cat.jpg` and `photos/cat.txt`, a caption in each line.

Optionally below train/, val/ and test/. Folders have no other meaning; `annotation = "classes"` reads them as classes
instead, without the captions. `annotation = "none"` reads all images, with a caption or not, and no captions.
"""

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np

from vitrail.data.annotations.captions import CaptionFileReader, is_label_text, read_caption_file
from vitrail.data.annotations.pairs import list_files
from vitrail.data.dataset import AnnotationKind, Dataset, Entry, Split
from vitrail.data.files import FileReader, detect_channels, is_hidden, list_images, resolve_folder
from vitrail.data.formats import image_suffixes
from vitrail.data.splits import assign_parts, find_part
from vitrail.datasets import imagefolder
from vitrail.errors import BadImage, DataError, many
from vitrail.validation import Count, NonNegative

LAYOUT = "put a .txt with the caption beside each image: photos/cat.jpg and photos/cat.txt"
SAMPLE = 32  # images by which a folder is recognised
DEEPEST = 1000  # folders that are looked into for an image
SHORT = 64  # bytes up to which a file of captions is read at once, to see whether it has any


@dataclass(frozen=True)
class Config:
    path: str = ""
    annotation: Literal["", "captions", "classes", "none"] = ""  # classes: of the folders; empty: captions
    channels: Count = 0  # 1, 3 or 4; 0: as the data
    follow_links: bool = False  # symbolic links out of the folder too
    split: tuple[NonNegative, ...] = ()  # fractions or counts of train, val, test if the data has none; empty: 0.8 0.2
    seed: Count = 0  # of the random split
    test: str | tuple[str, ...] = ()  # names of images that are held out as the test split


def matches(path: str) -> bool:
    """A folder in which at least half of the first images have a .txt beside them that is a text."""
    root = Path(path).expanduser()
    if not root.is_dir():
        return False
    try:
        names = find_images(str(root))
        texts = list(filter(None, map(find_text, names)))
        return bool(texts) and 2 * len(texts) >= len(names) and any(map(is_text, texts))
    except OSError:
        return False


def find_text(image: str) -> str:
    """The path of the text beside an image, one of them where a file system tells .txt from .TXT; "" without any."""
    stem = os.path.splitext(image)[0]
    return next((stem + ending for ending in (".txt", ".TXT") if os.path.isfile(stem + ending)), "")


def find_images(folder: str) -> list[str]:
    """The paths of some images of the first folder, from the top down, that has any."""
    waiting, visited = [folder], 0
    while waiting and visited < DEEPEST:
        own, below = [], []
        with os.scandir(waiting.pop(0)) as found:
            items = list(found)
        for item in items:
            if os.path.splitext(item.name)[1].lower() in image_suffixes() and not is_hidden(item.name):
                own.append(item.path)
                if len(own) == SAMPLE:
                    return own
            elif not is_hidden(item.name) and item.is_dir(follow_symlinks=False):
                below.append(item.path)
        if own:
            return own
        waiting, visited = [*sorted(below), *waiting], visited + 1
    return []


def is_text(path: str) -> bool:
    """Whether a file has a caption, maybe one that cannot be read, and no labels of YOLO."""
    try:
        captions = read_caption_file(Path(path).parent, Path(path).name)
    except BadImage:
        with open(path, "rb") as file:
            return bool(file.read(SHORT).strip(b" \t\r\n\0"))
    return not all(is_label_text(caption) for caption in captions)


def build(config: Config) -> Dataset:
    """The images that have a caption; of no annotation all images. Raises `DataError`."""
    if config.annotation == "classes":
        return imagefolder.build(imagefolder.Config(config.path, config.channels, follow_links=config.follow_links))
    root = resolve_folder(config.path)
    contents = list_images(root, follow=config.follow_links)
    if config.annotation == "none" and contents.entries:
        notes = [*contents.notes((".txt",)), "the texts beside the images are not read"]
        return assemble_dataset(root, list(contents.entries), (), config, notes)
    texts = {os.path.splitext(e.name)[0]: e for e in list_files(root, (".txt",), "", config.follow_links)}
    pairs, empty, lacking, used = list[tuple[Entry, Entry]](), list[tuple[Entry, Entry]](), list[str](), set[str]()
    for entry in contents.entries:
        text = texts.get(os.path.splitext(entry.name)[0])
        if text is None:
            lacking.append(entry.name)
            continue
        used.add(text.name)
        (pairs if has_caption(root, text) else empty).append((entry, text))
    if not pairs:
        why = "no caption in any" if empty else "no two of one name"
        what = f"{many(len(contents.entries), 'image')}, {many(len(texts), '.txt file')}, and {why}"
        raise DataError(f"{root} has no image with a caption ({what})", LAYOUT)
    alone = [e.name for e in texts.values() if e.name not in used]
    notes = [
        f"left out, as {why}: {many(len(names), noun)}, the first {names[0]}"
        for names, noun, why in (
            (lacking, "image", "they have no .txt with a caption"),
            ([image.name for image, _ in empty], "image", "their .txt has no caption"),
            (alone, ".txt file", "there is no image of their name"),
        )
        if names
    ]
    images, own = map(list, zip(*pairs, strict=True))
    return assemble_dataset(root, images, own, config, [*contents.notes((".txt",)), *notes, *note_folders(pairs)])


def note_folders(pairs: list[tuple[Entry, Entry]]) -> list[str]:
    """A note on folders that may be classes."""
    folders = sorted({os.path.basename(os.path.dirname(image.name)) for image, _ in pairs})
    names = [name for name in folders if name and not find_part(name) and not name.isdecimal()]
    if len(names) < 2 or len(names) < len(folders):
        return []
    listed = ", ".join(names[:5]) + (", ..." if names[5:] else "")
    return [f"captions were read, not the folders as classes ({listed}); --data.annotation classes reads those"]


def has_caption(root: Path, text: Entry) -> bool:
    """Whether a file of captions has any, as far as its size says; short ones are read, and labels of YOLO are none.
    What cannot be read is found where it is used."""
    if text.size > SHORT:
        return True
    try:
        content = (root / text.name).read_bytes().decode("utf-8-sig", errors="replace").strip()
        return bool(content) and not is_label_text(content)
    except OSError:
        return True


def assemble_dataset(
    root: Path, images: Sequence[Entry], texts: Sequence[Entry], config: Config, notes: list[str]
) -> Dataset:
    """The data set of images and their files of captions, if any, in the splits that their folders name or that the
    config sets."""
    names = [image.name for image in images]
    named = [next(filter(None, map(find_part, name.split("/")[:-1])), "") for name in names]
    parts, split_notes = assign_parts(names, named, config.split, config.seed, config.test)
    channels = detect_channels(config.channels, root, names)
    splits = {}
    for part, chosen in parts.items():
        own = [names[i] for i in chosen]
        captions = CaptionFileReader(root, [texts[i].name for i in chosen]) if texts else None
        splits[part] = Split(own, np.zeros(len(own), np.int64), FileReader(root, own, channels), captions)
    entries = tuple(sorted({*images, *texts}))
    kind: AnnotationKind = "captions" if texts else "none"
    return Dataset("captions", (), splits, channels, entries, (*notes, *split_notes), kind)
