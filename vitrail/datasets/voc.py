"""Pascal VOC's boxes (Everingham et al. 2010, doi:10.1007/s11263-009-0275-4): an XML for every picture.

Either `Annotations/*.xml`, `JPEGImages/*.jpg` and `ImageSets/Main/train.txt`, or every XML beside its picture, with or without train/,
valid/ and test/ above. Objects marked "difficult" are neither learned nor counted against a model, as VOC judges.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, NamedTuple, NoReturn
from xml.etree import ElementTree

from vitrail.data.annotations.boxes import Tidy, boxes_of, size_of
from vitrail.data.annotations.detection import Boxed, Told, assembled
from vitrail.data.annotations.pairs import Pair, alone, entry_of, files_below, paired, place, text_of, words_of
from vitrail.data.dataset import Boxes, Dataset
from vitrail.data.files import folder_at, natural, walk
from vitrail.data.splits import ORDER
from vitrail.datasets import voc_masks
from vitrail.errors import DataError, UsageError, many, nearest
from vitrail.validation import Amount, Count, Fraction

LARGEST = 2**24  # bytes of an XML
SNIFFED = 4096
FORM = "<annotation> holds <object>s with <name> and <bndbox> of <xmin>, <ymin>, <xmax>, <ymax>"


@dataclass(frozen=True)
class Config:
    path: str = ""
    truth: Literal["", "boxes", "masks"] = ""  # empty: boxes; masks: those of SegmentationClass
    channels: Count = 0  # 1, 3 or 4; 0: as the data
    split: tuple[Amount, ...] = ()  # shares or counts of train, val and test, where the data does not say; empty: 0.8 0.2
    seed: Count = 0  # of that choice
    test: str | tuple[str, ...] = ()  # names of pictures that are held out as the test part
    tile: Count = 0  # pixels: cuts training pictures into tiles of that height and width; 0: whole pictures
    overlap: Fraction = 0.25  # of a tile with the next
    empty: Literal["keep", "drop"] = "keep"  # training tiles without any box
    one_class: bool = False  # all objects count as of one class
    classes: tuple[str, ...] = ()  # names of classes 0, 1, ...; empty: those that occur, in alphabetical order
    first: Literal["auto", "zero", "one"] = "auto"  # number of the first pixel; "auto": one beside JPEGImages/, unless a zero occurs


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
    """A folder with XMLs of annotations in it, in Annotations/ (or a folder of that meaning), or in train/ beside the pictures."""
    root = Path(path).expanduser()
    if not root.is_dir():
        return False
    inner = [p for p in root.iterdir() if p.is_dir() and p.name.lower() in ("annotations", "annotation", "labels", "train", "xml", "xmls")]
    deeper = [q for p in inner for q in p.iterdir() if q.is_dir()]
    for folder in (root, *inner, *deeper[:20]):
        first = next(iter(sorted(folder.glob("*.xml"))), None)
        if first is not None and first.is_file():
            with first.open("rb") as file:
                return b"<annotation" in file.read(SNIFFED)
    return False


def build(config: Config) -> Dataset:
    """Pictures with boxes, in pixels counted from 0 with the right and bottom edge beyond the last pixel. Raises `DataError`."""
    if config.truth == "masks":
        if config.tile:
            raise UsageError("data.tile cuts pictures with boxes, and masks were asked for", "leave it out, or --data.truth boxes")
        return voc_masks.build(voc_masks.Config(config.path, config.channels))
    root = folder_at(config.path)
    pairs, notes = find(root)
    if not pairs:
        raise DataError(f"{root} holds no picture with an XML{' (' + notes[0] + ')' if notes else ''}", "both have the same name")
    lists, said = listed(root, [Path(p.picture.name).stem for p in pairs])
    objects = [objects_of(root / p.truth.name) for p in pairs]
    classes = config.classes or tuple(sorted({o.name for own in objects for o in own}, key=natural))
    shift = shift_of(root, objects, config.first)
    boxed, tidy = [], Tidy()
    for pair, own, part in zip(pairs, objects, lists or [p.part for p in pairs], strict=True):
        size = size_of(root / pair.picture.name)
        boxes = tidy(pair.picture.name, as_boxes(root / pair.truth.name, own, classes, shift), size)
        boxed.append(Boxed(pair.picture.name, part, size, boxes))
    notes += [*said, *(["pixels are counted from 1 in the XMLs; they were moved to 0"] if shift else []), *tidy.notes()]
    entries = [e for p in pairs for e in (p.picture, p.truth)]
    entries += [entry_of(root, root / "ImageSets" / "Main" / f"{p}.txt") for p in set(lists) if p]
    return assembled("voc", root, boxed, classes, config, Told(entries, notes))


def find(root: Path) -> tuple[list[Pair], list[str]]:
    """Pictures with their XMLs, and notes on what was left out."""
    words, found = words_of(root), walk(root)
    pictures = [place(e, words)[1] for e in found.entries if not e.name.startswith(("SegmentationClass/", "SegmentationObject/"))]
    truths = [place(e, words)[1] for e in files_below(root, (".xml",))]
    pairs, bare, spare = paired(pictures, truths, "XML")
    return pairs, alone(bare, "picture", "an XML") + alone(spare, "XML", "a picture")


def listed(root: Path, stems: Sequence[str]) -> tuple[list[str], list[str]]:
    """The part of each picture as ImageSets/Main says; nothing where there are no lists. VOC 2007 has a test list, 2012 has none."""
    parts: dict[str, str] = {}
    for part in ORDER:
        path = root / "ImageSets" / "Main" / f"{part}.txt"
        if path.is_file():
            lines = text_of(path, LARGEST).decode(errors="replace").splitlines()
            parts |= {line.split()[0]: part for line in lines if line.strip()}
    lost = sorted(parts.keys() - set(stems))
    notes = [f"not there, but in the lists: {many(len(lost), 'picture')}, the first {lost[0]}"] if lost else []
    return [parts.get(stem, "") for stem in stems] if parts else [], notes


def objects_of(path: Path) -> list[Object]:
    """What an XML says. Errors: `DataError`."""
    data = text_of(path, LARGEST)
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


def as_boxes(path: Path, objects: list[Object], classes: tuple[str, ...], shift: int) -> Boxes:
    for o in objects:
        if o.name not in classes:
            near = nearest(o.name, classes)
            raise DataError(f"{path}: {o.name!r} is not among the classes", f"did you mean {near[0]!r}?" if near else "name it")
    corners = [(o.box[0] - shift, o.box[1] - shift, o.box[2], o.box[3]) for o in objects]
    return boxes_of(corners, [classes.index(o.name) for o in objects], [o.difficult for o in objects])
