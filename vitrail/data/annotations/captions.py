"""Captions of images: cleaned, and read from files of text beside the images or from texts in memory."""

import ast
import codecs
import json
import os
import re
import unicodedata
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from vitrail.data.index.names import pack_names
from vitrail.errors import BadImage

LARGEST = 2**20  # bytes of a file with the captions of one image
LIST = re.compile(r"\[.*\]", re.DOTALL)  # a cell with several captions
LABELS = re.compile(r"\s*\d+(\s+[-+\d.eE]+){4,}\s*")  # lines of YOLO's: a class, and four numbers or more
CONTROL = re.compile("[\x00-\x1f\x7f-\x9f\u2028\u2029]+")  # the first of them are line breaks and tabs
NO_TEXT = re.compile("[\x00-\x08\x0e-\x1f]")  # in no text by themselves
MOST_CONTROL = 0.25  # share of a file that they may be: in UTF-16 read as UTF-8 they are half, or more
MARKS = (  # of encodings, the longer first: UTF-32 begins as UTF-16 does
    (codecs.BOM_UTF32_LE, "utf-32"), (codecs.BOM_UTF32_BE, "utf-32"),
    (codecs.BOM_UTF16_LE, "utf-16"), (codecs.BOM_UTF16_BE, "utf-16"),
)  # fmt: skip


def clean_caption(text: str) -> str:
    """One line without control characters: each run of them and of white space is one space; halves of surrogate
    pairs, which no file can hold, are U+FFFD. "" where nothing of it can be seen.

    >>> clean_caption("  a cat\\x00\\non a\\tmat ")
    'a cat on a mat'
    """
    if not text.isascii():
        text = text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")
    clean = " ".join(CONTROL.sub(" ", text).split())
    if not clean.isascii() and all(c.isspace() or unicodedata.category(c) == "Cf" for c in clean):
        return ""  # joiners and marks of direction alone
    return clean


def clean_captions(texts: Iterable[str]) -> tuple[str, ...]:
    """The captions of one image, cleaned, without empty and repeated ones."""
    return tuple(dict.fromkeys(text for one in texts if (text := clean_caption(one))))


def split_captions(text: str) -> tuple[str, ...]:
    """The captions in a text with one in each line."""
    return clean_captions(text.splitlines())


def join_captions(captions: Iterable[str]) -> str:
    """The text of which `split_captions` makes the captions."""
    return "\n".join(captions)


def is_label_text(text: str) -> bool:
    """Whether a text is YOLO's labels, a class and the corners of an object in each line, and no caption.

    >>> is_label_text("0 0.5 0.5 1 1"), is_label_text("2 cats"), is_label_text("7")
    (True, False, False)
    """
    lines = [line for line in text.splitlines() if line.strip()]
    return bool(lines) and all(LABELS.fullmatch(line) for line in lines)


@dataclass(frozen=True)
class CaptionReader:
    """The captions of image i from a text in memory with a caption in each line."""

    texts: Sequence[str]

    def __call__(self, index: int) -> tuple[str, ...]:
        return split_captions(self.texts[index])


def keep_captions(captions: Iterable[Iterable[str]]) -> CaptionReader:
    """The reader of the captions of images, packed as arrays."""
    return CaptionReader(pack_names([join_captions(own) for own in captions]))


@dataclass(frozen=True)
class CaptionFileReader:
    """Reads the captions of image i from the file `root / names[i]`, a caption in each line. Raises `BadImage`."""

    root: Path
    names: Sequence[str]

    def __call__(self, index: int) -> tuple[str, ...]:
        captions = read_caption_file(self.root, self.names[index])
        if all(map(is_label_text, captions)):
            raise BadImage(f"{self.names[index]} has labels of objects and no caption", "write one, or remove the file")
        return captions


def read_caption_file(root: Path, name: str) -> tuple[str, ...]:
    """The captions in a file of UTF-8 text, or of UTF-16 or UTF-32 with its mark. Raises `BadImage` for one without
    any."""
    try:
        with open(root / name, "rb") as file:
            data = file.read(LARGEST + 1)
    except OSError as error:
        raise BadImage(f"{name} cannot be read: {(error.strerror or str(error)).lower()}", "repair it") from None
    captions = decode_captions(data, name)
    if not captions:
        raise BadImage(f"{name} has no caption", "write one, or remove the file: the image is then left out")
    return captions


def decode_captions(data: bytes, name: str) -> tuple[str, ...]:
    """The captions in the bytes of a file, as `read_caption_file` reads them, or none. Raises `BadImage`."""
    if len(data) > LARGEST:
        raise BadImage(f"{name} is longer than the {LARGEST:,} bytes of a file of captions", "is it the right file?")
    encoding = next((one for mark, one in MARKS if data.startswith(mark)), "utf-8-sig")
    try:
        text = data.decode(encoding)
    except UnicodeDecodeError as error:
        raise BadImage(f"{name} is not UTF-8 text (byte {error.start:,})", "save it as UTF-8") from None
    captions = split_captions(text)
    if captions and len(NO_TEXT.findall(text)) > MOST_CONTROL * len(text):
        what = f"{name} is not UTF-8 text: more than a quarter of it are control characters, as in UTF-16"
        raise BadImage(what, "save it as UTF-8")
    return captions


def normalize_caption(text: str) -> str:
    """What two captions that say the same have in common: without case, accents' spelling and spaces."""
    return unicodedata.normalize("NFKC", text).casefold()


def captions_beside(root: Path, image: str) -> str:
    """The captions in NAME.txt beside an image, one in each line; "" for none, or numbers alone, as in label files."""
    name = os.path.splitext(image)[0] + ".txt"
    if not (root / name).is_file():
        return ""
    try:
        text = join_captions(read_caption_file(root, name))
    except BadImage:
        return ""
    return "" if is_label_text(text) else text


def captions_of_cell(text: str) -> tuple[str, ...]:
    """The captions in a cell of a table: one, or several that are written as a list.

    >>> captions_of_cell('["a cat", "un chat"]'), captions_of_cell("[a cat]")
    (('a cat', 'un chat'), ('[a cat]',))
    """
    if LIST.fullmatch(text):
        for parse in (json.loads, ast.literal_eval):
            try:
                value = parse(text)
            except (ValueError, SyntaxError, MemoryError, RecursionError, TypeError):
                continue
            if isinstance(value, list) and all(isinstance(one, str | None) for one in value):
                return clean_captions(one or "" for one in value)
    return clean_captions([text])
