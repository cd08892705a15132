"""Pascal VOC's masks (Everingham et al. 2010, doi:10.1007/s11263-009-0275-4): `JPEGImages/`, `SegmentationClass/` and
`ImageSets/Segmentation/train.txt`.

Twenty classes and the background as palette indices; borders of objects are 255, which is ignored. A labelmap.txt names
other classes, with their colours.
"""

import os
from dataclasses import dataclass
from pathlib import Path

from vitrail.data.annotations.mask_classes import fit_classes
from vitrail.data.annotations.masks import find_class_table, number_classes
from vitrail.data.annotations.pairs import Pair, make_entry
from vitrail.data.annotations.voc_lists import find_lists, read_lists
from vitrail.data.dataset import Dataset
from vitrail.data.files import list_images, resolve_folder
from vitrail.datasets import masks
from vitrail.errors import DataError, many
from vitrail.validation import Count

NAMES = (
    "background", "aeroplane", "bicycle", "bird", "boat", "bottle", "bus", "car", "cat", "chair", "cow", "diningtable",
    "dog", "horse", "motorbike", "person", "pottedplant", "sheep", "sofa", "train", "tvmonitor",
)  # fmt: skip
LACKING = ("left out, as the image or its mask does not exist", "name of the lists", "names of the lists")


@dataclass(frozen=True)
class Config:
    path: str = ""
    channels: Count = 0  # 1, 3 or 4; 0: as the data
    follow_links: bool = False  # symbolic links out of the folder too


def matches(path: str) -> bool:
    """A folder with JPEGImages/, SegmentationClass/ and ImageSets/Segmentation/."""
    root = Path(path).expanduser()
    return (
        (root / "ImageSets" / "Segmentation").is_dir()
        and (root / "SegmentationClass").is_dir()
        and (root / "JPEGImages").is_dir()
    )


def build(config: Config) -> Dataset:
    """The images in the lists train.txt, val.txt and test.txt that have masks. Raises `DataError`."""
    root = resolve_folder(config.path)
    lists = root / "ImageSets" / "Segmentation"
    images, masked = (list_images(root, name, config.follow_links) for name in ("JPEGImages", "SegmentationClass"))
    mask_of = {os.path.splitext(e.name)[0].partition("/")[2]: e for e in masked.entries}
    both = [e for e in images.entries if os.path.splitext(e.name)[0].partition("/")[2] in mask_of]
    parts, notes = read_lists(lists, [e.name for e in both], LACKING)
    pairs = [
        Pair(image, mask_of[os.path.splitext(image.name)[0].partition("/")[2]], part)
        for image, part in zip(both, parts, strict=False)
        if part
    ]
    if not pairs:
        raise DataError(
            f"{root}: no list in ImageSets/Segmentation has an image that exists with its mask",
            "download the set again",
        )
    if rest := sum(not part for part in parts):
        notes.append(f"left out, as they are in no list of ImageSets/Segmentation: {many(rest, 'image')} with a mask")
    if lacking := len(images.entries) - len(both):
        notes.append(f"left out, as they lack a mask: {many(lacking, 'image')}")
    entries = [make_entry(root, path) for path in find_lists(lists).values()]
    classes, table = number_classes(NAMES), find_class_table([root], 0)
    if table:
        classes, detected = fit_classes(table[0], [root / p.annotation.name for p in pairs], 0)
        notes, entries = notes + detected, [*entries, make_entry(root, table[1])]
    else:
        notes.append("255, the border of objects, is ignored")
    return masks.assemble_dataset(
        "voc_masks", root, pairs, classes, masks.Config(channels=config.channels), notes, tuple(entries)
    )
