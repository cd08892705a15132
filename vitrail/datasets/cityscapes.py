"""Cityscapes (Cordts et al. 2016, arXiv:1604.01685): `leftImg8bit/<split>/<city>/`, `gtFine/<split>/<city>/`.

The 19 classes of the benchmark, from `*_labelTrainIds.png` or, where these do not exist, from `*_labelIds.png`. The
masks of the test split are not published.
"""

from dataclasses import dataclass
from pathlib import Path

from vitrail.data.annotations.masks import UNKNOWN, MaskClasses, number_classes
from vitrail.data.annotations.pairs import Pair
from vitrail.data.dataset import IGNORE, Dataset
from vitrail.data.files import list_images, resolve_folder
from vitrail.data.splits import find_part
from vitrail.datasets import masks
from vitrail.errors import DataError, many
from vitrail.validation import Count

TRAIN_IDS = {  # id of a class in labelIds -> its name, in the order of their train ids; all other ids are ignored
    7: "road", 8: "sidewalk", 11: "building", 12: "wall", 13: "fence", 17: "pole", 19: "traffic light",
    20: "traffic sign", 21: "vegetation", 22: "terrain", 23: "sky", 24: "person", 25: "rider", 26: "car", 27: "truck",
    28: "bus", 31: "train", 32: "motorcycle", 33: "bicycle",
}  # fmt: skip
IDS = 34  # ids of all classes
LEFT, FINE = "_leftImg8bit", "_gtFine"


@dataclass(frozen=True)
class Config:
    path: str = ""
    channels: Count = 0  # 1, 3 or 4; 0: as the data
    follow_links: bool = False  # symbolic links out of the folder too


def matches(path: str) -> bool:
    """A folder with leftImg8bit/ and gtFine/."""
    root = Path(path).expanduser()
    return (root / "leftImg8bit").is_dir() and (root / "gtFine").is_dir()


def build(config: Config) -> Dataset:
    """Splits "train" and "val", as far as they exist. Raises `DataError`."""
    root = resolve_folder(config.path)
    images, gt = (list_images(root, name, config.follow_links) for name in ("leftImg8bit", "gtFine"))
    mask_entries = {e.name: e for e in gt.entries}
    kinds = {kind: f"{FINE}_{kind}.png" for kind in ("labelTrainIds", "labelIds")}
    kind = next((k for k, ending in kinds.items() if any(name.endswith(ending) for name in mask_entries)), "labelIds")
    pairs, unmatched, other_parts = [], [], []
    for entry in images.entries:
        folder, _, rest = entry.name.removeprefix("leftImg8bit/").partition("/")
        part = find_part(folder)
        name = f"gtFine/{folder}/{rest.rpartition('.')[0].removesuffix(LEFT)}{kinds[kind]}"
        if part not in ("train", "val"):
            other_parts.append(entry.name)
        elif name in mask_entries:
            pairs.append(Pair(entry, mask_entries[name], part))
        else:
            unmatched.append(entry.name)
    if not pairs:
        raise DataError(
            f"{root} has no image with a mask such as x{kinds[kind]}",
            "unpack leftImg8bit and gtFine into the same folder",
        )
    notes = images.notes((".json", ".txt"))
    if unmatched:
        notes.append(f"left out, as they lack a mask: {many(len(unmatched), 'image')}, the first {unmatched[0]}")
    if other_parts:
        count = f"{many(len(other_parts), 'image')}, the first {other_parts[0]}"
        notes.append(f"left out, as the masks of their part are not published: {count}")
    notes.append("ignored, as in the benchmark: the pixels of all but 19 classes")
    return masks.assemble_dataset(
        "cityscapes", root, pairs, classes_of(kind), masks.Config(channels=config.channels), notes
    )


def classes_of(kind: str) -> MaskClasses:
    """The classes of the values of a kind of mask."""
    names = tuple(TRAIN_IDS.values())
    if kind == "labelTrainIds":
        return number_classes(names)
    codes = number_classes(()).codes
    codes[:IDS] = IGNORE
    codes[list(TRAIN_IDS)] = range(len(names))
    assert codes[IDS] == UNKNOWN
    return MaskClasses(names, codes)
