"""Pascal VOC's masks (Everingham et al. 2010, doi:10.1007/s11263-009-0275-4): `JPEGImages/`, `SegmentationClass/` and
`ImageSets/Segmentation/train.txt`.

Twenty classes and the background as palette indices; borders of objects are 255, which is ignored.
"""

from dataclasses import dataclass
from pathlib import Path

from vitrail.data.annotations.masks import numbered
from vitrail.data.annotations.pairs import Pair, entry_of, text_of
from vitrail.data.dataset import Dataset
from vitrail.data.files import folder_at
from vitrail.data.splits import ORDER
from vitrail.datasets import masks
from vitrail.errors import DataError, many
from vitrail.validation import Count

NAMES = (
    "background", "aeroplane", "bicycle", "bird", "boat", "bottle", "bus", "car", "cat", "chair", "cow", "diningtable", "dog", "horse",
    "motorbike", "person", "pottedplant", "sheep", "sofa", "train", "tvmonitor",
)  # fmt: skip
LARGEST = 2**24  # bytes of a list


@dataclass(frozen=True)
class Config:
    path: str = ""
    channels: Count = 0  # 1, 3 or 4; 0: as the data


def matches(path: str) -> bool:
    """A folder with JPEGImages/, SegmentationClass/ and the lists of segmentation."""
    root = Path(path).expanduser()
    return (root / "ImageSets" / "Segmentation").is_dir() and (root / "SegmentationClass").is_dir() and (root / "JPEGImages").is_dir()


def build(config: Config) -> Dataset:
    """The pictures that the lists train.txt, val.txt and test.txt name, as far as they have masks. Raises `DataError`."""
    root = folder_at(config.path)
    pairs, entries, bare = [], [], []
    for part in ORDER:
        path = root / "ImageSets" / "Segmentation" / f"{part}.txt"
        if not path.is_file():
            continue
        entries.append(entry_of(root, path))
        for stem in text_of(path, LARGEST).decode(errors="replace").split():
            picture, mask = root / "JPEGImages" / f"{stem}.jpg", root / "SegmentationClass" / f"{stem}.png"
            if "/" in stem or not (picture.is_file() and mask.is_file()):
                bare.append(stem)
                continue
            pairs.append(Pair(entry_of(root, picture), entry_of(root, mask), part))
    if not pairs:
        raise DataError(f"{root}: no list in ImageSets/Segmentation names a picture that is there with its mask", "is the set whole?")
    notes = (
        [f"left out, as the picture or its mask is not there: {many(len(bare), 'name')} of the lists, the first {bare[0]}"] if bare else []
    )
    return masks.assembled("voc_masks", root, pairs, numbered(NAMES), masks.Config(channels=config.channels), notes, tuple(entries))
