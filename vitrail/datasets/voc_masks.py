"""Pascal VOC's masks (Everingham et al. 2010, doi:10.1007/s11263-009-0275-4): `JPEGImages/`, `SegmentationClass/` and
`ImageSets/Segmentation/train.txt`.

Twenty classes and the background as palette indices; borders of objects are 255, which is ignored.
"""

from dataclasses import dataclass
from pathlib import Path

from vitrail.data.annotations.masks import number_classes
from vitrail.data.annotations.pairs import Pair, make_entry, read_text
from vitrail.data.dataset import Dataset
from vitrail.data.files import resolve_folder
from vitrail.data.splits import ORDER
from vitrail.datasets import masks
from vitrail.errors import DataError, many
from vitrail.validation import Count

NAMES = (
    "background", "aeroplane", "bicycle", "bird", "boat", "bottle", "bus", "car", "cat", "chair", "cow", "diningtable",
    "dog", "horse", "motorbike", "person", "pottedplant", "sheep", "sofa", "train", "tvmonitor",
)  # fmt: skip
LARGEST = 2**24  # bytes of a list


@dataclass(frozen=True)
class Config:
    path: str = ""
    channels: Count = 0  # 1, 3 or 4; 0: as the data


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
    pairs, entries, unmatched = [], [], []
    for part in ORDER:
        path = root / "ImageSets" / "Segmentation" / f"{part}.txt"
        if not path.is_file():
            continue
        entries.append(make_entry(root, path))
        for stem in read_text(path, LARGEST).decode(errors="replace").split():
            image, mask = root / "JPEGImages" / f"{stem}.jpg", root / "SegmentationClass" / f"{stem}.png"
            if "/" in stem or not (image.is_file() and mask.is_file()):
                unmatched.append(stem)
                continue
            pairs.append(Pair(make_entry(root, image), make_entry(root, mask), part))
    if not pairs:
        raise DataError(
            f"{root}: no list in ImageSets/Segmentation has an image that exists with its mask",
            "download the set again",
        )
    notes = []
    if unmatched:
        count = f"{many(len(unmatched), 'name')} of the lists"
        notes = [f"left out, as the image or its mask does not exist: {count}, the first {unmatched[0]}"]
    return masks.assemble_dataset(
        "voc_masks", root, pairs, number_classes(NAMES), masks.Config(channels=config.channels), notes, tuple(entries)
    )
