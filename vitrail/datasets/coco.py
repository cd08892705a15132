"""COCO's JSON (Lin et al. 2014, arXiv:1405.0312): `annotations/instances_train2017.json` and the images in
`train2017/`.

Also one JSON beside its images, or one in each of train/, valid/ and test/. The objects are boxes; with
`annotation = "masks"` their polygons and run lengths give a class for every pixel instead, smaller objects over larger
ones; "background" is the first class.
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
SAMPLE_SIZE = 256  # images whose headers are compared with the file
SNIFF_BYTES = 2**18  # at either end of a JSON, to detect COCO's keys
KEYS = re.compile(rb'"(images|annotations|categories)"\s*:\s*\[')
LAYOUT = 'a COCO file is {"images": [...], "annotations": [...], "categories": [...]}'


@dataclass(frozen=True)
class Config:
    path: str = ""
    annotation: Literal["", "boxes", "masks"] = ""  # empty: boxes
    channels: Count = 0  # 1, 3 or 4; 0: as the data
    split: tuple[NonNegative, ...] = ()  # fractions or counts of train, val, test if the data has none; empty: 0.8 0.2
    seed: Count = 0  # of the random split
    test: str | tuple[str, ...] = ()  # names of images that are held out as the test split
    tile: Count = 0  # side in pixels of the tiles that training images are cut into; 0: whole images
    overlap: Fraction = 0.25  # of neighbouring tiles, as a fraction of a tile
    empty: Literal["keep", "drop"] = "keep"  # training tiles without any box
    one_class: bool = False  # merges all classes into one


class Image(NamedTuple):
    """One image of a file. size: (height, width) in the file; objects: its annotations, validated."""

    name: str
    size: tuple[int, int]
    objects: list[dict]


@dataclass(frozen=True)
class Painter:
    """Rasterises the mask of image i, uint8 [H W]. regions: of each image (class, region, index for messages), larger
    first."""

    root: Path
    names: Sequence[str]
    sizes: Sequence[tuple[int, int]]
    regions: Sequence[Sequence[tuple[int, Any, Any]]]

    def __call__(self, index: int) -> np.ndarray:
        size, expected = read_header(self.root / self.names[index]).size, self.sizes[index]
        if size != expected:
            what = f"{self.names[index]} is {size[0]} x {size[1]} (height x width), in the JSON {expected[0]} x {expected[1]}"
            raise BadImage(what, "was it rotated? correct height and width in the JSON, and the annotations")
        mask = np.zeros(self.sizes[index], np.uint8)
        for label, region, number in self.regions[index]:
            try:
                mask[decode_region(region, *self.sizes[index])] = label
            except ValueError as error:
                raise BadImage(
                    f"{self.names[index]}: annotation {number} {error}", "correct the JSON, or remove the annotation"
                ) from None
        return mask


def matches(path: str) -> bool:
    """A JSON of COCO's form, or a folder with one in it, in annotations/, or in train/."""
    where = Path(path).expanduser()
    if where.is_file():
        return where.suffix.lower() == ".json"
    return where.is_dir() and bool(find_json_files(where))


def build(config: Config) -> Dataset:
    """Images with boxes, or with masks; classes in the order of their ids. Raises `DataError`."""
    where = Path(config.path).expanduser()
    if not where.exists():
        raise DataError(f"{where}: there is no such file or folder", suggest_path(where))
    where = where.resolve()
    json_files = find_json_files(where) if where.is_dir() else {"": where}
    if not json_files:
        raise DataError(f"{where} has no COCO file", LAYOUT)
    root = where if where.is_dir() else where.parent
    classes: dict[int, str] = {}
    images: list[tuple[str, Image]] = []
    notes: list[str] = []
    entries: list[Entry] = [make_entry(root, path) for path in json_files.values()]
    for part, path in json_files.items():
        own, categories = read(path)
        if classes and categories != classes:
            raise DataError(
                f"{path} has other categories than {next(iter(json_files.values())).name}",
                "give all files the same categories",
            )
        classes = categories
        existing, missing = find_images(root, path, own, entries)
        images += [(part, p) for p in existing]
        notes += missing
    labels = {number: i for i, number in enumerate(sorted(classes))}
    names = tuple(classes[number] for number in sorted(classes))
    notes += note_size_mismatch(root, [p for _, p in images])
    if config.annotation == "masks":
        return paint_masks(root, images, names, labels, config, DatasetSources(entries, notes))
    boxed, cleaner = [], BoxCleaner()
    for part, p in images:
        corners = [(x, y, x + w, y + h) for x, y, w, h in (o["bbox"] for o in p.objects)]
        boxes = as_boxes(
            corners, [labels[o["category_id"]] for o in p.objects], [bool(o.get("iscrowd", 0)) for o in p.objects]
        )
        size = p.size if min(p.size) else read_size(root / p.name)
        boxed.append(AnnotatedImage(p.name, part, size, cleaner(p.name, boxes, size)))
    return assemble_dataset("coco", root, boxed, names, config, DatasetSources(entries, notes + cleaner.notes()))


def note_size_mismatch(root: Path, images: list[Image]) -> list[str]:
    """A note on images whose size differs from the file, in a sample of at most 256."""
    with_size = [p for p in images if min(p.size)]
    sample = [with_size[i] for i in evenly_spaced(len(with_size), SAMPLE_SIZE)]
    wrong = [(p, size) for p in sample if (size := read_size(root / p.name)) not in (None, p.size)]
    if not wrong:
        return []
    (first, size), count = wrong[0], many(len(wrong), "image")
    example = f"{first.name}: {size[0]} x {size[1]}, not {first.size[0]} x {first.size[1]}" if size else ""
    return [
        f"of another size (height x width) than in the file: {count} of {len(sample):,} in a sample, the first {example}"
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
            "data.tile works with boxes only, and data.annotation is masks", "remove it, or --data.annotation boxes"
        )
    if len(names) > 254:
        raise DataError(f"{root}: {len(names)} classes do not fit an 8-bit mask", "--data.annotation boxes")
    image_names = [p.name for _, p in images]
    regions = []
    for _, p in images:
        own = [o for o in p.objects if o.get("segmentation")]
        own.sort(key=lambda o: -o["bbox"][2] * o["bbox"][3])
        regions.append([(1 + labels[o["category_id"]], o["segmentation"], o.get("id", "")) for o in own])
    if not any(regions):
        raise DataError(f"{root}: no object has a segmentation", "--data.annotation boxes")
    sizes = [p.size if min(p.size) else read_size(root / p.name) or (1, 1) for _, p in images]
    part_indices, split_notes = assign_parts(
        image_names, [part for part, _ in images], config.split, config.seed, config.test
    )
    channels = detect_channels(config.channels, root, image_names)
    splits = {}
    for part, chosen in part_indices.items():
        own_names = [image_names[i] for i in chosen]
        annotation = Painter(root, own_names, [sizes[i] for i in chosen], [regions[i] for i in chosen])
        splits[part] = Split(
            own_names, np.zeros(len(own_names), np.int64), FileReader(root, own_names, channels), annotation
        )
    entries = tuple(sorted(set(sources.entries)))
    return Dataset("coco", ("background", *names), splits, channels, entries, (*sources.notes, *split_notes), "masks")


def find_json_files(root: Path) -> dict[str, Path]:
    """The COCO files below a folder by split, "" for one without. Errors: `DataError` for two of one split."""
    folders = [
        root / name for name in os.listdir(root) if name.lower() in ("annotations", *PARTS) and (root / name).is_dir()
    ]
    paths = sorted(
        p for folder in (root, *folders) for p in folder.glob("*.json") if p.is_file() and not p.name.startswith(".")
    )
    paths = [p for p in paths if is_coco(p)]
    if instances := [p for p in paths if p.name.startswith("instances_")]:
        paths = instances  # COCO also publishes captions, keypoints and others in this form
    by_part: dict[str, Path] = {}
    for path in paths:
        words = [
            w
            for w in re.split(r"[^a-z]+", f"{path.parent.name if path.parent != root else ''} {path.stem}".lower())
            if w in PARTS
        ]
        part = PARTS[words[-1]] if words else ""
        if part in by_part:
            what = f"the split {part}" if part else "no split in their names"
            raise DataError(
                f"{root} has two COCO files of {what}: {by_part[part].name} and {path.name}", "rename one of the files"
            )
        by_part[part] = path
    return {part: by_part[part] for part in ("train", "val", "test", "") if part in by_part}


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

    def checked(kind: str, test: Callable[[Any], bool], wanted: str) -> list[dict]:
        for i, item in enumerate(whole.get(kind, [])):
            if not isinstance(item, dict) or not test(item):
                raise DataError(f"{path}: {kind}[{i}] is {json.dumps(item)[:80]}", f"it has {wanted}")
        return whole.get(kind, [])

    categories = checked(
        "categories", lambda c: whole_number(c.get("id")) and isinstance(c.get("name"), str), "a number id, a text name"
    )
    images = checked(
        "images", is_image, "a number id, a text file_name below the folder, and numbers height and width if any"
    )
    objects = checked(
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
    part = next((w for w in re.split(r"[^a-z]+", stem.lower()) if w in PARTS), "")
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
