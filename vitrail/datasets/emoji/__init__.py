"""The bundled data set of images with captions: 1,892 emoji of Google's Noto with their names in English and Russian.

Images from npm's `emoji-datasource-google` (Noto Emoji, Apache-2.0; code MIT, (c) Cal Henderson), names and tags from
`emojibase-data` (Unicode's CLDR; MIT, (c) Miles Johnson). `benchmarks/make_emoji.py` writes the files in this folder,
which also has the licences. A tenth of the concepts is the part "test": emoji that differ in sex or direction alone are
one concept. The classes are Unicode's groups.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Literal, NamedTuple

import numpy as np

from vitrail.data.annotations.captions import keep_captions
from vitrail.data.dataset import ArrayReader, Dataset, Split
from vitrail.data.decode import decode
from vitrail.errors import DataError, UsageError

SIDE, COLUMNS, COUNT = 64, 50, 1892  # pixels; images in a row of the sprite; images
SCRIPTS = ("en", "ru")
HEADER = ("code", "part", "group", "en", "en_tags", "ru", "ru_tags")
DAMAGED = "the images that come with vitrail are damaged"


@dataclass(frozen=True)
class Config:
    path: str = ""
    annotation: Literal["", "captions", "classes"] = ""  # "classes": Unicode's groups of emoji; empty: captions
    languages: tuple[str, ...] = ("en", "ru")  # of the captions: en, ru
    tags: bool = True  # a second caption of each image and language: its tags, such as "face, grin"


class Emoji(NamedTuple):
    """A line of names.tsv. code: its characters in hexadecimal; tags: with commas between them."""

    code: str
    part: str
    group: str
    en: str
    en_tags: str
    ru: str
    ru_tags: str


def matches(path: str) -> bool:
    """The word "emoji"."""
    return path == "emoji"


def build(config: Config) -> Dataset:
    """Splits "train" and "test", arrays [N 64 64 3], on white. `config.path` is ignored. Errors: `UsageError`."""
    if not config.languages or not set(config.languages) <= set(SCRIPTS):
        given = " ".join(config.languages) or "nothing"
        raise UsageError(f"data.languages is {given}", f"the captions are in en and ru: --data.languages {SCRIPTS[0]}")
    emoji, pixels = read_emoji(), read_pixels()
    groups = tuple(dict.fromkeys(one.group for one in emoji))
    splits = {}
    for part in ("train", "test"):
        own = [i for i, one in enumerate(emoji) if one.part == part]
        labels = np.array([groups.index(emoji[i].group) for i in own], np.int64)
        captions = keep_captions(captions_of(emoji[i], config) for i in own)
        splits[part] = Split(
            [f"{part}/{emoji[i].code}" for i in own],
            labels,
            ArrayReader(pixels[own]),
            None if config.annotation == "classes" else captions,
        )
    notes = (
        f"{COUNT:,} images of Noto Emoji, (c) Google, Apache License 2.0; names and tags of emojibase-data, (c) Miles "
        "Johnson, MIT licence",
    )
    return Dataset("emoji", groups, splits, 3, notes=notes, kind=config.annotation or "captions")


def captions_of(emoji: Emoji, config: Config) -> list[str]:
    """The name in each language, then the tags in each."""
    texts = {"en": (emoji.en, emoji.en_tags), "ru": (emoji.ru, emoji.ru_tags)}
    return [texts[language][i] for i in range(1 + config.tags) for language in config.languages]


def read_emoji() -> list[Emoji]:
    """The lines of names.tsv. Errors: `DataError` where it is damaged."""
    lines = (Path(__file__).parent / "names.tsv").read_text(encoding="utf-8").splitlines()
    rows = [line.split("\t") for line in lines]
    if not rows or tuple(rows[0]) != HEADER or len(rows) != COUNT + 1 or any(len(row) != len(HEADER) for row in rows):
        raise DataError(DAMAGED, "install vitrail again")
    return [Emoji(*row) for row in rows[1:]]


def read_pixels() -> np.ndarray:
    """uint8 [N 64 64 3], in the order of the names. Errors: `DataError` where the sprite is damaged."""
    sprite = decode(Path(__file__).parent / "images.png", channels=3)
    rows = -(-COUNT // COLUMNS)
    if sprite.shape[:2] != (rows * SIDE, COLUMNS * SIDE):
        raise DataError(DAMAGED, "install vitrail again")
    tiles = sprite.reshape(rows, SIDE, COLUMNS, SIDE, 3).swapaxes(1, 2)
    return tiles.reshape(rows * COLUMNS, SIDE, SIDE, 3)[:COUNT]
