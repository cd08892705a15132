"""Pascal VOC's boxes (Everingham et al. 2010, doi:10.1007/s11263-009-0275-4): an XML for every image.

Either `Annotations/*.xml`, `JPEGImages/*.jpg` and `ImageSets/Main/train.txt`, or every XML beside its image, with or without train/,
valid/ and test/ above. Objects marked "difficult" are neither learned nor counted against a model, as VOC judges.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, NamedTuple, NoReturn
from xml.etree import ElementTree

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
from vitrail.data.dataset import Boxes, Dataset
from vitrail.data.files import list_images, natural_key, resolve_folder
from vitrail.data.splits import ORDER
from vitrail.datasets import voc_masks
from vitrail.errors import DataError, UsageError, many, nearest
from vitrail.validation import Count, Fraction, NonNegative

LARGEST = 2**24  # bytes of an XML
SNIFFED = 4096
FORM = "<annotation> holds <object>s with <name> and <bndbox> of <xmin>, <ymin>, <xmax>, <ymax>"


@dataclass(frozen=True)
class Config:
    path: str = ""
    annotation: Literal["", "boxes", "masks"] = ""  # empty: boxes; masks: those of SegmentationClass
    channels: Count = 0  # 1, 3 or 4; 0: as the data
    split: tuple[
        NonNegative, ...
    ] = ()  # shares or counts of train, val and test, where the data does not say; empty: 0.8 0.2
    seed: Count = 0  # of that choice
    test: str | tuple[str, ...] = ()  # names of images that are held out as the test part
    tile: Count = 0  # pixels: cuts training images into tiles of that height and width; 0: whole images
    overlap: Fraction = 0.25  # of a tile with the next
    empty: Literal["keep", "drop"] = "keep"  # training tiles without any box
    one_class: bool = False  # all objects count as of one class
    classes: tuple[str, ...] = ()  # names of classes 0, 1, ...; empty: those that occur, in alphabetical order
    first: Literal["auto", "zero", "one"] = (
        "auto"  # number of the first pixel; "auto": one beside JPEGImages/, unless a zero occurs
    )


class Object(NamedTuple):
    """One object as an XML says: left, top, right, bottom."""

    name: str
    box: tuple[float, float, float, float]
    difficult: bool


class Plain(ElementTree.TreeBuilder):
    """Builds a tree of a document that declares nothing: entities can blow up without end, or name other files."""

    def doctype(self, name: str, public: str | None, system: str | None) -> NoReturn:
        """Errors: `ValueError`, always."""
        raise ValueError("it has a DOCTYPE, which annotations do not need")


def matches(path: str) -> bool:
    """A folder with XMLs of annotations in it, in Annotations/ (or a folder of that meaning), or in train/ beside the images."""
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
                return b"<annotation" in file.read(SNIFFED)
    return False


def build(config: Config) -> Dataset:
    """Images with boxes, in pixels counted from 0 with the right and bottom edge beyond the last pixel. Raises `DataError`."""
    if config.annotation == "masks":
        if config.tile:
            raise UsageError(
                "data.tile cuts images with boxes, and masks were asked for", "leave it out, or --data.annotation boxes"
            )
        return voc_masks.build(voc_masks.Config(config.path, config.channels))
    root = resolve_folder(config.path)
    pairs, notes = find_annotations(root)
    if not pairs:
        raise DataError(
            f"{root} holds no image with an XML{' (' + notes[0] + ')' if notes else ''}", "both have the same name"
        )
    lists, said = list_stems(root, [Path(p.image.name).stem for p in pairs])
    objects = [objects_of(root / p.annotation.name) for p in pairs]
    classes = config.classes or tuple(sorted({o.name for own in objects for o in own}, key=natural_key))
    shift = shift_of(root, objects, config.first)
    boxed, tidy = [], BoxCleaner()
    for pair, own, part in zip(pairs, objects, lists or [p.part for p in pairs], strict=True):
        size = read_size(root / pair.image.name)
        boxes = tidy(pair.image.name, convert_objects(root / pair.annotation.name, own, classes, shift), size)
        boxed.append(AnnotatedImage(pair.image.name, part, size, boxes))
    notes += [*said, *(["pixels are counted from 1 in the XMLs; they were moved to 0"] if shift else []), *tidy.notes()]
    entries = [e for p in pairs for e in (p.image, p.annotation)]
    entries += [make_entry(root, root / "ImageSets" / "Main" / f"{p}.txt") for p in set(lists) if p]
    return assemble_dataset("voc", root, boxed, classes, config, DatasetSources(entries, notes))


def find_annotations(root: Path) -> tuple[list[Pair], list[str]]:
    """Images with their XMLs, and notes on what was left out."""
    words, found = find_folder_words(root), list_images(root)
    images = [
        classify_file(e, words)[1]
        for e in found.entries
        if not e.name.startswith(("SegmentationClass/", "SegmentationObject/"))
    ]
    annotations = [classify_file(e, words)[1] for e in list_files(root, (".xml",))]
    pairs, bare, spare = match_pairs(images, annotations, "XML")
    return pairs, note_unmatched(bare, "image", "an XML") + note_unmatched(spare, "XML", "an image")


def list_stems(root: Path, stems: Sequence[str]) -> tuple[list[str], list[str]]:
    """The part of each image as ImageSets/Main says; nothing where there are no lists. VOC 2007 has a test list, 2012 has none."""
    parts: dict[str, str] = {}
    for part in ORDER:
        path = root / "ImageSets" / "Main" / f"{part}.txt"
        if path.is_file():
            lines = read_text(path, LARGEST).decode(errors="replace").splitlines()
            parts |= {line.split()[0]: part for line in lines if line.strip()}
    lost = sorted(parts.keys() - set(stems))
    notes = [f"not there, but in the lists: {many(len(lost), 'image')}, the first {lost[0]}"] if lost else []
    return [parts.get(stem, "") for stem in stems] if parts else [], notes


def objects_of(path: Path) -> list[Object]:
    """What an XML says. Errors: `DataError`."""
    data = read_text(path, LARGEST)
    try:
        if b"<!ENTITY" in data.replace(b"\0", b"").upper():
            raise ValueError("it declares entities, which annotations do not need")
        tree = ElementTree.XML(data, ElementTree.XMLParser(target=Plain()))
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
    said = [(node.findtext(f"bndbox/{side}") or "").strip() for side in ("xmin", "ymin", "xmax", "ymax")]
    if not all(re.fullmatch(r"-?\d{1,7}(\.\d+)?(e-?\d{1,2})?", s) for s in said):
        raise ValueError(f"a box of {name[:40]!r} is {' '.join(s[:20] or '?' for s in said)}")
    left, top, right, bottom = map(float, said)
    return Object(name, (left, top, right, bottom), (node.findtext("difficult") or "0").strip() == "1")


def shift_of(root: Path, objects: list[list[Object]], first: str) -> int:
    """What to take from left and top: 1 where the first pixel is number 1 and the last one belongs to the box."""
    if first != "auto":
        return int(first == "one")
    lowest = min((min(o.box[:2]) for own in objects for o in own), default=0)
    return int((root / "JPEGImages").is_dir() and lowest >= 1)


def convert_objects(path: Path, objects: list[Object], classes: tuple[str, ...], shift: int) -> Boxes:
    for o in objects:
        if o.name not in classes:
            near = nearest(o.name, classes)
            raise DataError(
                f"{path}: {o.name!r} is not among the classes", f"did you mean {near[0]!r}?" if near else "name it"
            )
    corners = [(o.box[0] - shift, o.box[1] - shift, o.box[2], o.box[3]) for o in objects]
    return as_boxes(corners, [classes.index(o.name) for o in objects], [o.difficult for o in objects])
