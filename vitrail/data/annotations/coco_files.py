"""COCO's JSON files and the images that they name, found below a folder."""

import os
import re
from collections import defaultdict
from pathlib import Path

from vitrail.data.annotations.coco_json import CocoFile, Image
from vitrail.data.dataset import Entry
from vitrail.data.files import is_inside
from vitrail.data.splits import find_part
from vitrail.errors import DataError, many

SNIFF_BYTES = 2**18  # at either end of a JSON, to detect COCO's keys
KEYS = re.compile(rb'"(images|annotations|categories)"\s*:\s*\[')
CAPTION, BOX = re.compile(rb'"caption"\s*:'), re.compile(rb'"(bbox|segmentation)"\s*:')
FOLLOW = "; --data.follow-links follows them"
FOLDERS = ("annotations", "annotation", "labels", "images")  # and those named as parts


def find_json_files(root: Path, annotation: str = "") -> dict[str, Path]:
    """The COCO files below a folder by split, "" for one without. annotation: "captions" prefers files of captions.
    Errors: `DataError` for two of one split."""
    folders = [
        root / name
        for name in sorted(os.listdir(root))
        if (name.lower() in FOLDERS or find_part(name)) and (root / name).is_dir()
    ]
    paths = sorted(
        p for folder in (root, *folders) for p in folder.glob("*.json") if p.is_file() and not p.name.startswith(".")
    )
    paths = [p for p in paths if is_coco(p)]
    names = ("captions_", "instances_") if annotation == "captions" else ("instances_", "captions_")
    # COCO publishes captions, keypoints and others in this form too
    paths = next((own for name in names if (own := [p for p in paths if p.name.startswith(name)])), paths)
    by_part: dict[str, Path] = {}
    for path in paths:
        part = part_of_file(path.stem) or (part_of_file(path.parent.name) if path.parent != root else "")
        if part in by_part:
            what = f"the split {part}" if part else "no split in their names"
            raise DataError(
                f"{root} has two COCO files of {what}: {by_part[part].name} and {path.name}", "rename one of the files"
            )
        by_part[part] = path
    return {part: by_part[part] for part in ("train", "val", "test", "") if part in by_part}


def part_of_file(stem: str) -> str:
    """The part that a file's name names, as instances_val2017 does; "" for none. Of two, test counts before the
    others."""
    words = re.split(r"[^a-z]+", stem.lower())
    parts = [part for part in (find_part(stem), *map(find_part, words)) if part]
    return "test" if "test" in parts else parts[0] if parts else ""


def is_coco(path: Path) -> bool:
    """Whether a JSON is COCO's, by its first and last bytes: a large file is not read for this."""
    ends = read_ends(path)
    found = set(KEYS.findall(ends))
    return len(found) >= 2 or (b"images" in found and CAPTION.search(ends) is not None)


def has_captions(path: Path) -> bool:
    """Whether the annotations of a file of COCO's form are captions, by its first and last bytes."""
    ends = read_ends(path)
    return CAPTION.search(ends) is not None and BOX.search(ends) is None


def read_ends(path: Path) -> bytes:
    with path.open("rb") as file:
        ends = file.read(SNIFF_BYTES)
        file.seek(max(0, path.stat().st_size - SNIFF_BYTES))
        return ends + file.read(SNIFF_BYTES)


def find_images(
    root: Path, file: CocoFile, entries: list[Entry], follow: bool = False
) -> tuple[list[Image], list[str]]:
    """The images that exist, named below `root`, and notes on the others; their files are appended to `entries`.

    Errors: `DataError` where none exists.
    """
    path, images = file.path, file.images
    stem = re.sub(r"^.*?_", "", path.stem)
    part = part_of_file(stem)
    below = dict.fromkeys(["", stem, part, "images", f"images/{stem}", f"images/{part}", "JPEGImages"])
    folders = [path.parent, *(root / name for name in below)]
    first = [p.name for p in images[:50]]
    places = [(folder, cut) for cut in (str, os.path.basename) for folder in folders]  # other paths than here, at last
    best, cut = max(places, key=lambda place: sum((place[0] / place[1](name)).is_file() for name in first))
    listings: dict[str, dict[str, os.DirEntry]] = defaultdict(dict)
    for folder in {os.path.dirname(cut(p.name)) for p in images}:
        if (best / folder).is_dir():
            listings[folder] = {e.name: e for e in os.scandir(best / folder)}
    top, existing, missing, outside = os.path.realpath(root), [], [], []
    for p in images:
        item = listings[os.path.dirname(cut(p.name))].get(os.path.basename(p.name))
        if item is None or not item.is_file():
            missing.append(p.name)
        elif not follow and not is_inside(os.path.realpath(item.path), top):
            outside.append(p.name)
        else:
            name = os.path.relpath(item.path, root).replace(os.sep, "/")
            entries.append(Entry(name, (stat := item.stat()).st_size, stat.st_mtime_ns))
            existing.append(p._replace(name=name))
    notes = [
        f"left out, as they {why}: {many(len(names), 'image')} in {path.name}, the first {names[0]}{fix}"
        for names, why, fix in ((missing, "do not exist", ""), (outside, "are links out of the folder", FOLLOW))
        if names
    ]
    if not existing and images:
        what = f"{path}: none of its {len(images):,} images exists, such as {first[0]}"
        fix = f"put them into {path.parent} or {root / (stem or 'images')}"
        raise DataError(f"{path}: {notes[-1]}" if outside else what, "" if outside else fix)
    return existing, notes
