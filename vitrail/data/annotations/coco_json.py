"""COCO's JSON files: found below a folder, read, validated, and their images located."""

import json
import os
import re
from collections import defaultdict
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

from vitrail.data.annotations.pairs import read_text
from vitrail.data.dataset import Entry
from vitrail.data.decode import LIMIT
from vitrail.data.splits import find_part
from vitrail.errors import DataError, many

LARGEST = 2**32  # bytes of a JSON
SNIFF_BYTES = 2**18  # at either end of a JSON, to detect COCO's keys
KEYS = re.compile(rb'"(images|annotations|categories)"\s*:\s*\[')
FOLDERS = ("annotations", "annotation", "labels", "images")  # and those named as parts
LAYOUT = 'a COCO file is {"images": [...], "annotations": [...], "categories": [...]}'


class Image(NamedTuple):
    """One image of a file. size: (height, width) in the file; objects: its annotations, validated."""

    name: str
    size: tuple[int, int]
    objects: list[dict]


def find_json_files(root: Path) -> dict[str, Path]:
    """The COCO files below a folder by split, "" for one without. Errors: `DataError` for two of one split."""
    folders = [
        root / name
        for name in sorted(os.listdir(root))
        if (name.lower() in FOLDERS or find_part(name)) and (root / name).is_dir()
    ]
    paths = sorted(
        p for folder in (root, *folders) for p in folder.glob("*.json") if p.is_file() and not p.name.startswith(".")
    )
    paths = [p for p in paths if is_coco(p)]
    if instances := [p for p in paths if p.name.startswith("instances_")]:
        paths = instances  # COCO also publishes captions, keypoints and others in this form
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
    with path.open("rb") as file:
        ends = file.read(SNIFF_BYTES)
        file.seek(max(0, path.stat().st_size - SNIFF_BYTES))
        ends += file.read(SNIFF_BYTES)
    return len(set(KEYS.findall(ends))) >= 2


def read(path: Path) -> tuple[list[Image], dict[int, str]]:
    """The images of a file with their objects, and the category names by id. Errors: `DataError` with the position."""
    try:
        whole = json.loads(read_text(path, LARGEST))
    except (ValueError, RecursionError) as error:
        raise DataError(
            f"{path} is truncated or not JSON: {str(error)[:100]}", "download or create the file again"
        ) from None
    if not isinstance(whole, dict) or not all(
        isinstance(whole.get(k, []), list) for k in ("images", "annotations", "categories")
    ):
        raise DataError(f"{path} is not a COCO file", LAYOUT)

    def validated(kind: str, test: Callable[[Any], bool], required: str) -> list[dict]:
        for i, item in enumerate(whole.get(kind, [])):
            if not isinstance(item, dict) or not test(item):
                raise DataError(f"{path}: {kind}[{i}] is {json.dumps(item)[:80]}", f"it has {required}")
        return whole.get(kind, [])

    categories = validated(
        "categories", lambda c: whole_number(c.get("id")) and isinstance(c.get("name"), str), "a number id, a text name"
    )
    images = validated(
        "images", is_image, "a number id, a text file_name below the folder, and numbers height and width if any"
    )
    objects = validated(
        "annotations", is_object, "numbers image_id and category_id, and bbox: [left, top, width, height]"
    )
    classes = {c["id"]: c["name"] for c in categories}
    if len(set(classes.values())) < len(categories):
        raise DataError(
            f"{path}: two categories have the same id or the same name", "give each an id and a name of its own"
        )
    by_id: dict[int, list[dict]] = {image["id"]: [] for image in images}
    if len(by_id) < len(images):
        raise DataError(f"{path}: two images have the same id", "give each an id of its own")
    for i, item in enumerate(objects):
        if item["category_id"] not in classes:
            raise DataError(
                f"{path}: annotations[{i}] has category_id {item['category_id']}, which is no category",
                "correct or remove it",
            )
        if item["image_id"] not in by_id:
            raise DataError(
                f"{path}: annotations[{i}] has image_id {item['image_id']}, which is no image", "correct or remove it"
            )
        by_id[item["image_id"]].append(item)
    return [Image(i["file_name"], (i.get("height") or 0, i.get("width") or 0), by_id[i["id"]]) for i in images], classes


def whole_number(value: Any) -> bool:
    return type(value) is int


def is_image(item: dict) -> bool:
    name = item.get("file_name")
    sizes = [item.get(k) or 0 for k in ("height", "width")]
    is_safe_name = (
        isinstance(name, str)
        and name
        and not name.startswith(("/", "\\"))
        and ".." not in name.split("/")
        and "\0" not in name
    )
    is_valid_size = all(whole_number(s) and s >= 0 for s in sizes) and sizes[0] * sizes[1] <= LIMIT
    return whole_number(item.get("id")) and bool(is_safe_name) and is_valid_size


def is_object(item: dict) -> bool:
    box = item.get("bbox")
    numbers = isinstance(box, list) and len(box) == 4 and all(type(v) in (int, float) and abs(v) < 1e7 for v in box)
    return (
        numbers
        and whole_number(item.get("image_id"))
        and whole_number(item.get("category_id"))
        and item.get("iscrowd", 0) in (0, 1)
    )


def find_images(root: Path, path: Path, images: list[Image], entries: list[Entry]) -> tuple[list[Image], list[str]]:
    """The images that exist, named below `root`, and a note on the others; their files are appended to `entries`."""
    stem = re.sub(r"^.*?_", "", path.stem)
    part = part_of_file(stem)
    below = dict.fromkeys(["", stem, part, "images", f"images/{stem}", f"images/{part}", "JPEGImages"])
    folders = [path.parent, *(root / name for name in below)]
    first = [p.name for p in images[:50]]
    best = max(folders, key=lambda f: sum((f / name).is_file() for name in first))
    listings: dict[str, dict[str, os.DirEntry]] = defaultdict(dict)
    for folder in {os.path.dirname(p.name) for p in images}:
        if (best / folder).is_dir():
            listings[folder] = {e.name: e for e in os.scandir(best / folder)}
    existing, missing = [], []
    for p in images:
        file = listings[os.path.dirname(p.name)].get(os.path.basename(p.name))
        if file is None or not file.is_file():
            missing.append(p.name)
            continue
        name = os.path.relpath(file.path, root).replace(os.sep, "/")
        entries.append(Entry(name, (stat := file.stat()).st_size, stat.st_mtime_ns))
        existing.append(p._replace(name=name))
    if not existing:
        what = (
            f"{path}: none of its {len(images):,} images exists, such as {first[0]}"
            if first
            else f"{path} names no images"
        )
        raise DataError(what, f"put them into {path.parent} or {root / (stem or 'images')}")
    return existing, [
        f"left out, as they do not exist: {many(len(missing), 'image')} in {path.name}, the first {missing[0]}"
    ] if missing else []
