"""COCO's JSON files: read, and every entry validated."""

import json
import re
from collections import defaultdict
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from vitrail.data.annotations.pairs import read_text
from vitrail.data.annotations.rle import decode_region, polygon_points
from vitrail.data.decode import LIMIT
from vitrail.errors import DataError, many

LARGEST = 2**32  # bytes of a JSON
CROWD_TYPES, CROWD_VALUES = (int, float, bool, type(None)), (0, 1, None)
BOXLESS = "an annotation without bbox needs a segmentation around which its box is"
LAYOUT = 'a COCO file is {"images": [...], "annotations": [...], "categories": [...]}'


class Image(NamedTuple):
    """One image of a file. size: (height, width) in the file, 0 where it does not say; objects: its annotations,
    validated."""

    name: str
    size: tuple[int, int]
    objects: list[dict]


class CocoFile(NamedTuple):
    """What a file says. classes: names by id, of which two may be the same; used: ids of classes with an object."""

    path: Path
    images: list[Image]
    classes: dict[int, str]
    used: set[int]


def read(path: Path, need: str = "boxes") -> CocoFile:
    """What a file says. need: what its annotations must have, "boxes", "masks" or "captions". Errors: `DataError` with
    the position."""
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

    def validated(kind: str, fault: Callable[[dict], str]) -> list[dict]:
        for i, item in enumerate(whole.get(kind, [])):
            if wrong := fault(item) if isinstance(item, dict) else "it is a mapping of names to values":
                raise DataError(f"{path}: {kind}[{i}] is {shorten(item)}", wrong)
        return whole.get(kind, [])

    categories = validated("categories", category_fault)
    images = validated("images", image_fault)
    objects = validated("annotations", lambda item: object_fault(item, need))
    classes = {int(c["id"]): str(c["name"]) for c in categories}
    if len(classes) < len(categories):
        raise DataError(f"{path}: two categories have the same id", "give each an id of its own")
    by_id: dict[Any, list[dict]] = {image["id"]: [] for image in images}
    if len(by_id) < len(images):
        raise DataError(f"{path}: two images have the same id", "give each an id of its own")
    keys = (("category_id", classes, "category"), ("image_id", by_id, "image"))
    for i, item in enumerate(objects):
        for key, known, what in keys if need != "captions" else keys[1:]:
            if item[key] not in known:
                raise DataError(
                    f"{path}: annotations[{i}] has {key} {shorten(item[key])}, which is no {what}",
                    "correct or remove it",
                )
        by_id[item["image_id"]].append(item)
    found = [Image(plain_name(i["file_name"]), size_of(i), by_id[i["id"]]) for i in images]
    return CocoFile(path, found, classes, {int(item["category_id"]) for item in objects if need != "captions"})


def unite_classes(files: Sequence[CocoFile]) -> tuple[dict[int, str], list[str]]:
    """The classes of all files, and notes. Of several categories with one name those without objects are left out, such
    as the parent that Roboflow writes. Errors: `DataError` where the files differ, or two with one name have objects.
    """
    first = files[0]
    for file in files[1:]:
        if file.classes != first.classes:
            raise DataError(
                f"{file.path} has other categories than {first.path.name}", "give all files the same categories"
            )
    used = set().union(*(file.used for file in files))
    by_name: dict[str, list[int]] = defaultdict(list)
    for number, name in sorted(first.classes.items()):
        by_name[name].append(number)
    unused: list[str] = []
    for name, numbers in by_name.items():
        if len(own := [n for n in numbers if n in used]) > 1:
            raise DataError(
                f"{first.path}: two categories have the same name, {name[:60]!r}: ids {own[0]} and {own[1]}",
                "give each a name of its own",
            )
        kept = (own or numbers)[0]
        unused += [f"{name} (id {n})" for n in numbers if n != kept]
        by_name[name] = [kept]
    count = many(len(unused), "category", "categories")
    notes = [f"left out, as they have no object and another's name: {count}, {unused[0]}"] if unused else []
    return {numbers[0]: name for name, numbers in by_name.items()}, notes


def shorten(item: Any) -> str:
    """The beginning of an item as JSON."""
    try:
        return json.dumps(item)[:80]
    except (ValueError, RecursionError):  # lists in lists in lists
        return f"a {type(item).__name__}"


def is_whole(value: Any) -> bool:
    """Whether a value is a whole number, written as 40 or 40.0."""
    return type(value) is int or (type(value) is float and value.is_integer())


def plain_name(name: str) -> str:
    """A file_name with forward slashes, below a folder: without a drive, a leading slash or "./"."""
    return re.sub(r"^([A-Za-z]:)?/*(\./+)*", "", name.replace("\\", "/"))


def size_of(item: dict) -> tuple[int, int]:
    """(height, width) of an image, (0, 0) where the file does not say, as with -1."""
    height, width = (int(item.get(key) or 0) for key in ("height", "width"))
    return (height, width) if height > 0 and width > 0 else (0, 0)


def category_fault(item: dict) -> str:
    """What is wrong with a category; "" where nothing is."""
    if not is_whole(item.get("id")):
        return f"its id is {shorten(item.get('id'))}, not a whole number"
    return "" if isinstance(item.get("name"), str | int) and item["name"] != "" else "its name is no text"


def image_fault(item: dict) -> str:
    """What is wrong with an image; "" where nothing is."""
    name = item.get("file_name")
    if not (is_whole(item.get("id")) or isinstance(item.get("id"), str)):
        return f"its id is {shorten(item.get('id'))}, neither a whole number nor a text"
    if not isinstance(name, str) or not plain_name(name) or "\0" in name:
        return "its file_name is no path of an image"
    if ".." in plain_name(name).split("/"):
        return "its file_name is not below the folder"
    for key in ("height", "width"):
        if not (item.get(key) is None or is_whole(item[key])):
            return f"its {key} is {shorten(item[key])}, not a whole number of pixels"
    height, width = size_of(item)
    return f"its height x width is more than {LIMIT:,} pixels" if height * width > LIMIT else ""


def object_fault(item: dict, need: str) -> str:
    """What is wrong with an annotation that must have "boxes", "masks" or "captions"; "" where nothing is."""
    if not (is_whole(item.get("image_id")) or isinstance(item.get("image_id"), str)):
        return f"its image_id is {shorten(item.get('image_id'))}, neither a whole number nor a text"
    if need == "captions":
        if "caption" not in item:
            return "it has no caption; COCO's are in captions_train2017.json"
        return "" if isinstance(item["caption"], str) else f"its caption is {shorten(item['caption'])}, not a text"
    if not is_whole(item.get("category_id")):
        return f"its category_id is {shorten(item.get('category_id'))}, not a whole number"
    if type(item.get("iscrowd")) not in CROWD_TYPES or item.get("iscrowd") not in CROWD_VALUES:
        return f"its iscrowd is {shorten(item['iscrowd'])}, not 0 or 1"
    box = item.get("bbox")
    if not box:
        return "" if need == "masks" or item.get("segmentation") else "it has neither bbox nor segmentation"
    if not isinstance(box, list) or len(box) != 4 or not all(is_coordinate(value) for value in box):
        return "its bbox is not [left, top, width, height], four numbers of pixels"
    return ""


def is_coordinate(value: Any) -> bool:
    """Whether a value is a finite number of pixels."""
    return type(value) in (int, float) and abs(value) < 1e7


def box_of(item: dict, where: str) -> list[float]:
    """Left, top, width and height of an object: its bbox, or around its segmentation. Errors: `DataError`."""
    if item.get("bbox"):
        return item["bbox"]
    region = item["segmentation"]
    try:
        if isinstance(region, dict):
            size = region.get("size")
            if not (isinstance(size, list) and len(size) == 2 and all(type(s) is int and s > 0 for s in size)):
                raise ValueError("has no size")
            if size[0] * size[1] > LIMIT:
                raise ValueError(f"has more than {LIMIT:,} pixels")
            rows, columns = np.nonzero(decode_region(region, *size))
            x, y = np.append(columns, columns + 1), np.append(rows, rows + 1)
        else:
            points = np.concatenate([polygon_points(polygon) for polygon in region])
            x, y = points[::2], points[1::2]
    except (ValueError, TypeError) as error:
        raise DataError(f"{where}: the segmentation of annotation {shorten(item.get('id'))} {error}", BOXLESS) from None
    return [float(x.min()), float(y.min()), float(np.ptp(x)), float(np.ptp(y))] if x.size else [0.0] * 4
