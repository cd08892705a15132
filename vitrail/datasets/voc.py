"""Pascal VOC's boxes (Everingham et al. 2010, doi:10.1007/s11263-009-0275-4): an XML for every image.

Either `Annotations/*.xml`, `JPEGImages/*.jpg` and `ImageSets/Main/train.txt`, or every XML beside its image, optionally
below train/, valid/ and test/. Objects marked "difficult" are neither trained on nor evaluated, as in VOC's protocol.
"""

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, NamedTuple, NoReturn
from xml.etree import ElementTree

import numpy as np

from vitrail.data.annotations.boxes import BoxCleaner, as_boxes, read_size
from vitrail.data.annotations.detection import AnnotatedImage, DatasetSources, assemble_dataset
from vitrail.data.annotations.pairs import (
    Pair,
    classify_file,
    find_folder_words,
    list_files,
    make_entry,
    match_pairs,
    note_unmatched,
    read_text,
)
from vitrail.data.annotations.voc_lists import find_lists, read_lists
from vitrail.data.dataset import Boxes, Dataset
from vitrail.data.files import list_images, natural_key, resolve_folder
from vitrail.datasets import voc_masks
from vitrail.errors import DataError, UsageError, many, nearest
from vitrail.validation import Count, Fraction, NonNegative

LARGEST = 2**22  # bytes of an XML or a list
SNIFF_BYTES = 4096
FORM = "<annotation> has <object>s with <name> and <bndbox> of <xmin>, <ymin>, <xmax>, <ymax>"


@dataclass(frozen=True)
class Config:
    path: str = ""
    annotation: Literal["", "boxes", "masks"] = ""  # empty: boxes; masks: those of SegmentationClass
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
    classes: tuple[str, ...] = ()  # names of classes 0, 1, ...; empty: those in the data, in alphabetical order
    first: Literal["auto", "zero", "one"] = "auto"  # number of the first pixel; auto: one with JPEGImages/ and no zero


class Object(NamedTuple):
    """One object of an XML. box: left, top, right, bottom."""

    name: str
    box: tuple[float, float, float, float]
    difficult: bool


class SafeTreeBuilder(ElementTree.TreeBuilder):
    """Builds the tree of a document without DOCTYPE: entities can expand without limit, or refer to other files."""

    def doctype(self, name: str, public: str | None, system: str | None) -> NoReturn:
        """Errors: `ValueError`, always."""
        raise ValueError("it has a DOCTYPE, which annotations do not need")


def matches(path: str) -> bool:
    """A folder with annotation XMLs in it, in Annotations/ (or an equivalent), or in train/ beside the images."""
    root = Path(path).expanduser()
    if not root.is_dir():
        return False
    inner = [
        p
        for p in root.iterdir()
        if p.is_dir() and p.name.lower() in ("annotations", "annotation", "labels", "train", "xml", "xmls")
    ]
    deeper = [q for p in inner for q in p.iterdir() if q.is_dir()]
    for folder in (root, *inner, *deeper[:20]):
        first = next(iter(sorted(folder.glob("*.xml"))), None)
        if first is not None and first.is_file():
            with first.open("rb") as file:
                return b"<annotation" in file.read(SNIFF_BYTES)
    return False


def build(config: Config) -> Dataset:
    """Images with boxes, in pixels counted from 0 right and bottom exclusive. Raises `DataError`."""
    if config.annotation == "masks":
        if config.tile:
            raise UsageError(
                "data.tile works with boxes only, and data.annotation is masks", "remove it, or --data.annotation boxes"
            )
        return voc_masks.build(voc_masks.Config(config.path, config.channels, config.follow_links))
    root = resolve_folder(config.path)
    pairs, notes = find_annotations(root, config.follow_links)
    if not pairs:
        raise DataError(
            f"{root} has no image with an XML{' (' + notes[0] + ')' if notes else ''}", "give both the same name"
        )
    lists, list_notes = read_lists(root / "ImageSets" / "Main", [p.image.name for p in pairs])
    objects = [objects_of(root / p.annotation.name) for p in pairs]
    classes = config.classes or tuple(sorted({o.name for own in objects for o in own}, key=natural_key))
    shift = shift_of(root, objects, config.first)
    boxed, cleaner = [], BoxCleaner()
    for pair, own, part in zip(pairs, objects, lists or [p.part for p in pairs], strict=True):
        size = read_size(root / pair.image.name)
        boxes = cleaner(pair.image.name, convert_objects(root / pair.annotation.name, own, classes, shift), size)
        if config.crowds == "objects":
            boxes = boxes._replace(crowd=np.zeros_like(boxes.crowd))
        boxed.append(AnnotatedImage(pair.image.name, part, size, boxes))
    notes += [
        *list_notes,
        *(["the XMLs count pixels from 1; boxes were shifted to 0"] if shift else []),
        *cleaner.notes(),
    ]
    entries = [e for p in pairs for e in (p.image, p.annotation)]
    entries += [make_entry(root, path) for path in find_lists(root / "ImageSets" / "Main").values()]
    return assemble_dataset("voc", root, boxed, classes, config, DatasetSources(entries, notes))


def find_annotations(root: Path, follow: bool = False) -> tuple[list[Pair], list[str]]:
    """Images with their XMLs, and notes on what was left out."""
    words, contents = find_folder_words(root), list_images(root, follow=follow)
    images = [
        classify_file(e, words)[1]
        for e in contents.entries
        if not e.name.startswith(("SegmentationClass/", "SegmentationObject/"))
    ]
    annotations = [classify_file(e, words)[1] for e in list_files(root, (".xml",), follow=follow)]
    pairs, unmatched, unused = match_pairs(images, annotations, "XML")
    notes = contents.notes((".xml", ".txt")) + note_unmatched(unmatched, "image", "an XML")
    notes += note_unmatched(unused, "XML", "an image")
    return pairs, notes + note_masks(len(contents.entries) - len(images))


def note_masks(count: int) -> list[str]:
    """A note on the masks of a published VOC, which are another annotation of its images."""
    return [f"left out: {many(count, 'mask')}; --data.annotation masks reads them instead of boxes"] if count else []


def objects_of(path: Path) -> list[Object]:
    """The objects of an XML. Errors: `DataError`."""
    data = read_text(path, LARGEST)
    try:
        if b"<!ENTITY" in data.replace(b"\0", b"").upper():
            raise ValueError("it declares entities, which annotations do not need")
        tree = ElementTree.XML(data, ElementTree.XMLParser(target=SafeTreeBuilder()))
        if tree.tag != "annotation":
            raise ValueError(f"it is a <{tree.tag[:40]}>, not an <annotation>")
        return [object_of(node) for node in tree.findall("object")]
    except (ElementTree.ParseError, ValueError, LookupError, RecursionError) as error:
        raise DataError(f"{path} cannot be used: {str(error)[:120]}", FORM) from None


def object_of(node: ElementTree.Element) -> Object:
    """Errors: `ValueError`."""
    name = (node.findtext("name") or "").strip()
    if not name:
        raise ValueError("an object has no <name>")
    sides = [(node.findtext(f"bndbox/{side}") or "").strip() for side in ("xmin", "ymin", "xmax", "ymax")]
    if not all(re.fullmatch(r"-?\d{1,7}(\.\d+)?(e-?\d{1,2})?", s) for s in sides):
        raise ValueError(f"a box of {name[:40]!r} is {' '.join(s[:20] or '?' for s in sides)}")
    left, top, right, bottom = map(float, sides)
    return Object(name, (left, top, right, bottom), (node.findtext("difficult") or "0").strip() == "1")


def shift_of(root: Path, objects: list[list[Object]], first: str) -> int:
    """Subtracted from left and top: 1 where pixels count from 1 and the last one belongs to the box."""
    if first != "auto":
        return int(first == "one")
    lowest = min((min(o.box[:2]) for own in objects for o in own), default=0)
    return int((root / "JPEGImages").is_dir() and lowest >= 1)


def convert_objects(path: Path, objects: list[Object], classes: tuple[str, ...], shift: int) -> Boxes:
    for o in objects:
        if o.name not in classes:
            similar = nearest(o.name, classes)
            raise DataError(
                f"{path}: {o.name!r} is not among the classes",
                f"did you mean {similar[0]!r}?" if similar else "add it to classes",
            )
    corners = [(o.box[0] - shift, o.box[1] - shift, o.box[2], o.box[3]) for o in objects]
    return as_boxes(corners, [classes.index(o.name) for o in objects], [o.difficult for o in objects])
