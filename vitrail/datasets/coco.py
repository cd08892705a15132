"""COCO's JSON (Lin et al. 2014, arXiv:1405.0312): `annotations/instances_train2017.json`, images in `train2017/`.

Also one JSON beside its images, or one in each of train/, valid/ and test/. The objects are boxes; with
`annotation = "masks"` their polygons and run lengths give a class for every pixel instead, smaller objects over larger
ones; "background" is the first class. `captions_train2017.json` has captions of the same images.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np

from vitrail.data.annotations.boxes import BoxCleaner, as_boxes, read_size
from vitrail.data.annotations.captions import clean_captions, keep_captions
from vitrail.data.annotations.coco_files import find_images, find_json_files, has_captions
from vitrail.data.annotations.coco_json import LAYOUT, Image, box_of, is_coordinate, read, unite_classes
from vitrail.data.annotations.detection import AnnotatedImage, DatasetSources, assemble_dataset
from vitrail.data.annotations.pairs import make_entry
from vitrail.data.annotations.rle import decode_region
from vitrail.data.dataset import Dataset, Entry, Split
from vitrail.data.decode import read_header
from vitrail.data.files import FileReader, detect_channels, list_images, suggest_path
from vitrail.data.splits import assign_parts
from vitrail.data.subset import evenly_spaced
from vitrail.errors import BadImage, DataError, UsageError, many
from vitrail.validation import Count, Fraction, NonNegative

SAMPLE_SIZE = 256  # images whose headers are compared with the file


@dataclass(frozen=True)
class Config:
    path: str = ""
    annotation: Literal["", "boxes", "masks", "captions"] = ""  # empty: boxes, or captions where they are all
    channels: Count = 0  # 1, 3 or 4; 0: as the data
    follow_links: bool = False  # symbolic links out of the folder too
    crowds: Literal["ignore", "objects"] = "ignore"  # boxes marked as crowds or difficult
    split: tuple[NonNegative, ...] = ()  # fractions or counts of train, val, test if the data has none; empty: 0.8 0.2
    seed: Count = 0  # of the random split
    test: str | tuple[str, ...] = ()  # names of images that are held out as the test split
    tile: Count = 0  # side in pixels of the tiles that training images are cut into; 0: whole images
    overlap: Fraction = 0.25  # of neighbouring tiles, as a fraction of a tile
    empty: Literal["keep", "drop"] = "keep"  # training tiles without any box
    one_class: bool = False  # merges all classes into one


@dataclass(frozen=True)
class Painter:
    """Rasterises the mask of image i, uint8 [H W]. regions: of each image (class, region, index), larger first."""

    root: Path
    names: Sequence[str]
    sizes: Sequence[tuple[int, int]]
    regions: Sequence[Sequence[tuple[int, Any, Any]]]

    def __call__(self, index: int) -> np.ndarray:
        size, expected = read_header(self.root / self.names[index]).size, self.sizes[index]
        if size != expected:
            actual = f"{size[0]} x {size[1]} (height x width)"
            what = f"{self.names[index]} is {actual}, in the JSON {expected[0]} x {expected[1]}"
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
    """Images with boxes, masks or captions; classes in the order of their ids. Raises `DataError`."""
    where = Path(config.path).expanduser()
    if not where.exists():
        raise DataError(f"{where}: there is no such file or folder", suggest_path(where))
    where = where.resolve()
    json_files = find_json_files(where, config.annotation) if where.is_dir() else {"": where}
    if not json_files:
        raise DataError(f"{where} has no COCO file", LAYOUT)
    root = where if where.is_dir() else where.parent
    if where.is_file() and root.name.lower() in ("annotation", "annotations"):
        root = root.parent  # the images are beside the folder of the annotations
    kind = config.annotation or ("captions" if all(map(has_captions, json_files.values())) else "boxes")
    files = {part: read(path, kind) for part, path in json_files.items()}
    classes, notes = unite_classes(list(files.values()))
    images: list[tuple[str, Image]] = []
    entries: list[Entry] = [make_entry(root, path) for path in json_files.values()]
    for part, file in files.items():
        existing, missing = find_images(root, file, entries, config.follow_links)
        images += [(part, p) for p in existing]
        notes += missing + ([] if file.images else [f"{file.path.name} names no images: it is as if it were not there"])
    if not images:
        raise DataError(f"{next(iter(json_files.values()))} names no images", LAYOUT)
    notes += note_unnamed(root, images, config.follow_links)
    labels = {number: i for i, number in enumerate(sorted(classes))}
    names = tuple(classes[number] for number in sorted(classes))
    notes += note_size_mismatch(root, [p for _, p in images])
    if kind == "captions":
        return caption_images(root, images, config, DatasetSources(entries, notes))
    if kind == "masks":
        return paint_masks(root, images, names, labels, config, DatasetSources(entries, notes))
    boxed, cleaner = [], BoxCleaner()
    boxless = 0
    for part, p in images:
        corners = [(x, y, x + w, y + h) for x, y, w, h in (box_of(o, p.name) for o in p.objects)]
        boxless += sum(not o.get("bbox") for o in p.objects)
        crowds = [bool(o.get("iscrowd")) and config.crowds == "ignore" for o in p.objects]
        boxes = as_boxes(corners, [labels[o["category_id"]] for o in p.objects], crowds)
        size = p.size if min(p.size) else read_size(root / p.name)
        boxed.append(AnnotatedImage(p.name, part, size, cleaner(p.name, boxes, size)))
    if boxless:
        notes.append(f"without bbox: {many(boxless, 'annotation')}; their boxes are those around their segmentations")
    return assemble_dataset("coco", root, boxed, names, config, DatasetSources(entries, notes + cleaner.notes()))


def caption_images(root: Path, images: list[tuple[str, Image]], config: Config, sources: DatasetSources) -> Dataset:
    """The data set with the captions of every image that has any."""
    if config.tile:
        what = "data.tile works with boxes only, and the annotations are captions"
        raise UsageError(what, "remove it, or --data.annotation boxes")
    captions = {p.name: clean_captions(o["caption"] for o in p.objects) for _, p in images}
    lacking = [name for name, own in captions.items() if not own]
    notes = (
        [f"left out, as they have no caption: {many(len(lacking), 'image')}, the first {lacking[0]}"] if lacking else []
    )
    kept = [(part, p.name) for part, p in images if captions[p.name]]
    if not kept:
        raise DataError(f"{root}: no image has a caption", "--data.annotation boxes, if it has boxes")
    names = [name for _, name in kept]
    parts, split_notes = assign_parts(names, [part for part, _ in kept], config.split, config.seed, config.test)
    channels = detect_channels(config.channels, root, names)
    splits = {}
    for part, chosen in parts.items():
        own = [names[i] for i in chosen]
        annotation = keep_captions(captions[name] for name in own)
        splits[part] = Split(own, np.zeros(len(own), np.int64), FileReader(root, own, channels), annotation)
    entries = tuple(sorted(set(sources.entries)))
    return Dataset("coco", (), splits, channels, entries, (*sources.notes, *notes, *split_notes), "captions")


def note_unnamed(root: Path, images: list[tuple[str, Image]], follow: bool) -> list[str]:
    """Notes on files below a folder that are in no JSON."""
    named = {p.name for _, p in images}
    contents = list_images(root, follow=follow)
    rest = [e.name for e in contents.entries if e.name not in named]
    notes = [f"left out, as no JSON names them: {many(len(rest), 'image')}, the first {rest[0]}"] if rest else []
    return contents.notes((".json",)) + notes


def note_size_mismatch(root: Path, images: list[Image]) -> list[str]:
    """A note on images whose size differs from the file, in a sample of at most 256."""
    with_size = [p for p in images if min(p.size)]
    sample = [with_size[i] for i in evenly_spaced(len(with_size), SAMPLE_SIZE)]
    wrong = [(p, size) for p in sample if (size := read_size(root / p.name)) not in (None, p.size)]
    if not wrong:
        return []
    (first, size), count = wrong[0], many(len(wrong), "image")
    example = f"{first.name}: {size[0]} x {size[1]}, not {first.size[0]} x {first.size[1]}" if size else ""
    checked = f"{count} of {len(sample):,} in a sample"
    return [f"of another size (height x width) than in the file: {checked}, the first {example}"]


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
    regions, bare = [], 0
    for _, p in images:
        own = [o for o in p.objects if o.get("segmentation")]
        bare += len(p.objects) - len(own)
        own.sort(key=lambda o: -area_of(o))
        regions.append([(1 + labels[o["category_id"]], o["segmentation"], o.get("id", "")) for o in own])
    if not any(regions):
        raise DataError(f"{root}: no object has a segmentation", "--data.annotation boxes")
    notes = [*sources.notes]
    if bare:
        notes.append(f"left out, as they have no segmentation: {many(bare, 'annotation')}")
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
    return Dataset("coco", ("background", *names), splits, channels, entries, (*notes, *split_notes), "masks")


def area_of(item: dict) -> float:
    """The area of an object in pixels, about: larger ones are painted first."""
    if box := item.get("bbox"):
        return float(box[2] * box[3])
    area, region = item.get("area", 0), item["segmentation"]
    if is_coordinate(area) and area:
        return float(area)
    parts = region if isinstance(region, list) else [region.get("size", [])] if isinstance(region, dict) else []
    return float(sum(len(part) for part in parts if isinstance(part, list)))
