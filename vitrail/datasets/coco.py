"""COCO's JSON (Lin et al. 2014, arXiv:1405.0312): `annotations/instances_train2017.json` and the images in `train2017/`.

Also one JSON beside its images, or one in each of train/, valid/ and test/. The objects are boxes; with `truth = "masks"` their
polygons and run lengths make a class for every pixel instead, smaller objects over larger ones, and "background" the first class.
"""

import json
import os
import re
from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np

from vitrail.data.annotations.boxes import BoxCleaner, as_boxes, read_size
from vitrail.data.annotations.detection import AnnotatedImage, DatasetSources, assemble_dataset
from vitrail.data.annotations.pairs import make_entry, read_text
from vitrail.data.annotations.rle import decode_region
from vitrail.data.dataset import Dataset, Entry, Split
from vitrail.data.decode import LIMIT, read_header
from vitrail.data.files import FileReader, detect_channels, suggest_path
from vitrail.data.splits import PARTS, assign_parts
from vitrail.data.subset import evenly_spaced
from vitrail.errors import BadImage, DataError, UsageError, many
from vitrail.validation import Count, Fraction, NonNegative

LARGEST = 2**32  # bytes of a JSON
LOOKED_AT = 256  # images whose headers are compared with the file
SNIFFED = 2**18  # bytes at either end of a JSON that tell what it is
KEYS = re.compile(rb'"(images|annotations|categories)"\s*:\s*\[')
LAYOUT = 'a COCO file is {"images": [...], "annotations": [...], "categories": [...]}'


@dataclass(frozen=True)
class Config:
    path: str = ""
    annotation: Literal["", "boxes", "masks"] = ""  # empty: boxes
    channels: Count = 0  # 1, 3 or 4; 0: as the data
    split: tuple[
        NonNegative, ...
    ] = ()  # shares or counts of train, val and test, where the files do not say; empty: 0.8 0.2
    seed: Count = 0  # of that choice
    test: str | tuple[str, ...] = ()  # names of images that are held out as the test part
    tile: Count = 0  # pixels: cuts training images into tiles of that height and width; 0: whole images
    overlap: Fraction = 0.25  # of a tile with the next
    empty: Literal["keep", "drop"] = "keep"  # training tiles without any box
    one_class: bool = False  # all objects count as of one class


class Image(NamedTuple):
    """One image of a file. size: (height, width) as the file says; objects: its annotations, checked."""

    name: str
    size: tuple[int, int]
    objects: list[dict]


@dataclass(frozen=True)
class Painter:
    """Paints the mask of image i, uint8 [H W]. regions: of each image (class, region, index for messages), larger ones first."""

    root: Path
    names: Sequence[str]
    sizes: Sequence[tuple[int, int]]
    regions: Sequence[Sequence[tuple[int, Any, Any]]]

    def __call__(self, index: int) -> np.ndarray:
        size, told = read_header(self.root / self.names[index]).size, self.sizes[index]
        if size != told:
            what = f"{self.names[index]} is {size[0]} x {size[1]} (height x width), and the JSON says {told[0]} x {told[1]}"
            raise BadImage(what, "was it turned since? correct height and width in the JSON, and the annotations")
        mask = np.zeros(self.sizes[index], np.uint8)
        for label, found, number in self.regions[index]:
            try:
                mask[decode_region(found, *self.sizes[index])] = label
            except ValueError as error:
                raise BadImage(
                    f"{self.names[index]}: annotation {number} {error}", "correct the JSON, or take it out"
                ) from None
        return mask


def matches(path: str) -> bool:
    """A JSON of COCO's form, or a folder with one in it, in annotations/, or in train/."""
    where = Path(path).expanduser()
    if where.is_file():
        return where.suffix.lower() == ".json"
    return where.is_dir() and bool(files(where))


def build(config: Config) -> Dataset:
    """Images with boxes, or with masks; classes in the order of their ids. Raises `DataError`."""
    where = Path(config.path).expanduser()
    if not where.exists():
        raise DataError(f"{where}: there is no such file or folder", suggest_path(where))
    where = where.resolve()
    found = files(where) if where.is_dir() else {"": where}
    if not found:
        raise DataError(f"{where} holds no COCO file", LAYOUT)
    root = where if where.is_dir() else where.parent
    classes: dict[int, str] = {}
    images: list[tuple[str, Image]] = []
    notes: list[str] = []
    entries: list[Entry] = [make_entry(root, path) for path in found.values()]
    for part, path in found.items():
        own, named = read(path)
        if classes and named != classes:
            raise DataError(
                f"{path} has other categories than {next(iter(found.values())).name}",
                "give all files the same categories",
            )
        classes = named
        there, said = present(root, path, own, entries)
        images += [(part, p) for p in there]
        notes += said
    labels = {number: i for i, number in enumerate(sorted(classes))}
    names = tuple(classes[number] for number in sorted(classes))
    notes += other_sizes(root, [p for _, p in images])
    if config.annotation == "masks":
        return paint_masks(root, images, names, labels, config, DatasetSources(entries, notes))
    boxed, tidy = [], BoxCleaner()
    for part, p in images:
        corners = [(x, y, x + w, y + h) for x, y, w, h in (o["bbox"] for o in p.objects)]
        boxes = as_boxes(
            corners, [labels[o["category_id"]] for o in p.objects], [bool(o.get("iscrowd", 0)) for o in p.objects]
        )
        size = p.size if min(p.size) else read_size(root / p.name)
        boxed.append(AnnotatedImage(p.name, part, size, tidy(p.name, boxes, size)))
    return assemble_dataset("coco", root, boxed, names, config, DatasetSources(entries, notes + tidy.notes()))


def other_sizes(root: Path, images: list[Image]) -> list[str]:
    """A note on images whose size is not what the file says, of some hundreds that are looked at."""
    sized = [p for p in images if min(p.size)]
    some = [sized[i] for i in evenly_spaced(len(sized), LOOKED_AT)]
    wrong = [(p, size) for p in some if (size := read_size(root / p.name)) not in (None, p.size)]
    if not wrong:
        return []
    (first, size), count = wrong[0], many(len(wrong), "image")
    told = f"{first.name}: {size[0]} x {size[1]}, not {first.size[0]} x {first.size[1]}" if size else ""
    return [
        f"of another size (height x width) than the file says: {count} of {len(some):,} looked at, the first {told}"
    ]


def paint_masks(
    root: Path,
    images: list[tuple[str, Image]],
    names: tuple[str, ...],
    labels: dict[int, int],
    config: Config,
    sources: DatasetSources,
) -> Dataset:
    """The data set with a mask for every image."""
    if config.tile:
        raise UsageError(
            "data.tile cuts images with boxes, and masks were asked for", "leave it out, or --data.annotation boxes"
        )
    if len(names) > 254:
        raise DataError(f"{root}: {len(names)} classes do not fit a mask of 8 bits", "--data.annotation boxes")
    called = [p.name for _, p in images]
    regions = []
    for _, p in images:
        own = [o for o in p.objects if o.get("segmentation")]
        own.sort(key=lambda o: -o["bbox"][2] * o["bbox"][3])
        regions.append([(1 + labels[o["category_id"]], o["segmentation"], o.get("id", "")) for o in own])
    if not any(regions):
        raise DataError(f"{root}: no object has a segmentation", "--data.annotation boxes")
    sizes = [p.size if min(p.size) else read_size(root / p.name) or (1, 1) for _, p in images]
    places, said = assign_parts(called, [part for part, _ in images], config.split, config.seed, config.test)
    channels = detect_channels(config.channels, root, called)
    splits = {}
    for part, chosen in places.items():
        mine = [called[i] for i in chosen]
        annotation = Painter(root, mine, [sizes[i] for i in chosen], [regions[i] for i in chosen])
        splits[part] = Split(mine, np.zeros(len(mine), np.int64), FileReader(root, mine, channels), annotation)
    entries = tuple(sorted(set(sources.entries)))
    return Dataset("coco", ("background", *names), splits, channels, entries, (*sources.notes, *said), "masks")


def files(root: Path) -> dict[str, Path]:
    """The COCO files below a folder by their part, "" for one that names none. Errors: `DataError` for two of one part."""
    inner = [
        root / name for name in os.listdir(root) if name.lower() in ("annotations", *PARTS) and (root / name).is_dir()
    ]
    there = sorted(
        p for folder in (root, *inner) for p in folder.glob("*.json") if p.is_file() and not p.name.startswith(".")
    )
    there = [p for p in there if sniffed(p)]
    if instances := [p for p in there if p.name.startswith("instances_")]:
        there = instances  # beside these, COCO publishes captions, key points and others of the same form
    found: dict[str, Path] = {}
    for path in there:
        words = [
            w
            for w in re.split(r"[^a-z]+", f"{path.parent.name if path.parent != root else ''} {path.stem}".lower())
            if w in PARTS
        ]
        part = PARTS[words[-1]] if words else ""
        if part in found:
            what = f"the part {part}" if part else "no part in their names"
            raise DataError(
                f"{root} holds two COCO files of {what}: {found[part].name} and {path.name}", "name one of the files"
            )
        found[part] = path
    return {part: found[part] for part in ("train", "val", "test", "") if part in found}


def sniffed(path: Path) -> bool:
    """Whether a JSON looks like COCO's, by its two ends: a large one is not read for that."""
    with path.open("rb") as file:
        ends = file.read(SNIFFED)
        file.seek(max(0, path.stat().st_size - SNIFFED))
        ends += file.read(SNIFFED)
    return len(set(KEYS.findall(ends))) >= 2


def read(path: Path) -> tuple[list[Image], dict[int, str]]:
    """The images of a file with their objects, and the names of its categories by id. Errors: `DataError` with the place."""
    try:
        whole = json.loads(read_text(path, LARGEST))
    except (ValueError, RecursionError) as error:
        raise DataError(
            f"{path} is cut short or not JSON: {str(error)[:100]}", "fetch or make the file again"
        ) from None
    if not isinstance(whole, dict) or not all(
        isinstance(whole.get(k, []), list) for k in ("images", "annotations", "categories")
    ):
        raise DataError(f"{path} is not a COCO file", LAYOUT)

    def checked(kind: str, test: Callable[[Any], bool], wanted: str) -> list[dict]:
        for i, item in enumerate(whole.get(kind, [])):
            if not isinstance(item, dict) or not test(item):
                raise DataError(f"{path}: {kind}[{i}] is {json.dumps(item)[:80]}", f"it has {wanted}")
        return whole.get(kind, [])

    categories = checked(
        "categories", lambda c: whole_number(c.get("id")) and isinstance(c.get("name"), str), "a number id, a text name"
    )
    images = checked(
        "images", image_like, "a number id, a text file_name below the folder, and numbers height and width if any"
    )
    objects = checked(
        "annotations", object_like, "numbers image_id and category_id, and bbox: [left, top, width, height]"
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


def image_like(item: dict) -> bool:
    name = item.get("file_name")
    sizes = [item.get(k) or 0 for k in ("height", "width")]
    inside = (
        isinstance(name, str)
        and name
        and not name.startswith(("/", "\\"))
        and ".." not in name.split("/")
        and "\0" not in name
    )
    sound = all(whole_number(s) and s >= 0 for s in sizes) and sizes[0] * sizes[1] <= LIMIT
    return whole_number(item.get("id")) and bool(inside) and sound


def object_like(item: dict) -> bool:
    box = item.get("bbox")
    numbers = isinstance(box, list) and len(box) == 4 and all(type(v) in (int, float) and abs(v) < 1e7 for v in box)
    return (
        numbers
        and whole_number(item.get("image_id"))
        and whole_number(item.get("category_id"))
        and item.get("iscrowd", 0) in (0, 1)
    )


def present(root: Path, path: Path, images: list[Image], entries: list[Entry]) -> tuple[list[Image], list[str]]:
    """The images that exist, named below `root`, and a note on the others; their files are added to `entries`."""
    stem = re.sub(r"^.*?_", "", path.stem)
    part = next((w for w in re.split(r"[^a-z]+", stem.lower()) if w in PARTS), "")
    below = dict.fromkeys(["", stem, part, "images", f"images/{stem}", f"images/{part}", "JPEGImages"])
    folders = [path.parent, *(root / name for name in below)]
    first = [p.name for p in images[:50]]
    best = max(folders, key=lambda f: sum((f / name).is_file() for name in first))
    listed: dict[str, dict[str, os.DirEntry]] = defaultdict(dict)
    for folder in {os.path.dirname(p.name) for p in images}:
        if (best / folder).is_dir():
            listed[folder] = {e.name: e for e in os.scandir(best / folder)}
    kept, lost = [], []
    for p in images:
        file = listed[os.path.dirname(p.name)].get(os.path.basename(p.name))
        if file is None or not file.is_file():
            lost.append(p.name)
            continue
        name = os.path.relpath(file.path, root).replace(os.sep, "/")
        entries.append(Entry(name, (stat := file.stat()).st_size, stat.st_mtime_ns))
        kept.append(p._replace(name=name))
    if not kept:
        what = (
            f"{path}: none of its {len(images):,} images is there, such as {first[0]}"
            if first
            else f"{path} names no images"
        )
        raise DataError(what, f"put them into {path.parent} or {root / (stem or 'images')}")
    return kept, [
        f"left out, as they do not exist: {many(len(lost), 'image')} that {path.name} names, the first {lost[0]}"
    ] if lost else []
