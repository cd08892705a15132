"""Makes the files of the embedded set of emoji with captions from two packages of npm.

    npm pack emoji-datasource-google@16.0.0 emojibase-data@17.0.0
    python benchmarks/make_emoji.py emoji-datasource-google-16.0.0.tgz emojibase-data-17.0.0.tgz OUT_FOLDER

The same images and parts every time; with the same Pillow and zlib the same bytes too. Skin tones are left out,
components (letters of flags, hair), and copies of an image under another name (the flags of Norway and of Svalbard).
Colours are kept in 5 of 8 bits, which halves the file.
"""

import argparse
import hashlib
import io
import json
import tarfile
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from vitrail.datasets.emoji import COLUMNS, HEADER, SIDE, Emoji

TEST = 0.1  # of the concepts
COMPONENT = 2  # the group of parts of emoji
SIGNS = {"FE0F", "200D", "2640", "2642", "27A1"}  # variation selector, joiner, female, male, to the right
PERSONS = {"1F468": "person", "1F469": "person", "1F9D1": "person"}  # man, woman, person
NOTO = "package/img/google/64/"
CREDITS = """Images: Noto Emoji, Copyright Google Inc., https://github.com/googlefonts/noto-emoji, under the
Apache License 2.0, the text of which is below; flags are in the public domain, or otherwise exempt from copyright.
They were reduced to 64 pixels by emoji-datasource-google (Copyright (c) 2013 Cal Henderson, MIT licence), put on white
and reduced to 5 bits a channel.

"""


def read_json(archive: tarfile.TarFile, name: str) -> Any:
    file = archive.extractfile(name)
    assert file is not None
    return json.load(file)


def concept_of(code: str) -> str:
    """What emoji have in common that differ in sex or direction alone."""
    parts = [PERSONS.get(part, part) for part in code.split("-") if part not in SIGNS]
    return "-".join(parts)


def part_of(code: str) -> str:
    number = int.from_bytes(hashlib.sha256(concept_of(code).encode()).digest()[:8], "big")
    return "test" if number < TEST * 2**64 else "train"


def plain(code: str) -> str:
    return code.replace("-FE0F", "")


def read_images(archive: tarfile.TarFile, names: dict[str, str]) -> dict[str, Image.Image]:
    """The images by code. names: of the files."""
    images = {}
    for member in archive:
        if member.name.startswith(NOTO) and (code := names.get(member.name.removeprefix(NOTO))):
            file = archive.extractfile(member)
            assert file is not None
            image = Image.open(io.BytesIO(file.read())).convert("RGBA")
            assert image.size == (SIDE, SIDE)
            images[code] = image
    return images


def make(images: Path, names: Path, out: Path) -> None:
    """Writes images.png (a sprite of tiles on white), names.tsv and the licences."""
    out.mkdir(parents=True, exist_ok=True)
    with tarfile.open(names) as archive:
        english, russian = (read_json(archive, f"package/{language}/data.json") for language in ("en", "ru"))
        groups = read_json(archive, "package/meta/groups.json")["groups"]
        licence = archive.extractfile("package/LICENSE")
        assert licence is not None
        (out / "LICENSE.emojibase-data").write_bytes(licence.read())
    with tarfile.open(images) as archive:
        files = {one["image"]: plain(one["unified"]) for one in read_json(archive, "package/emoji.json")}
        pixels = read_images(archive, files)
        licence = archive.extractfile("package/LICENSE")
        assert licence is not None
        (out / "LICENSE.emoji-datasource").write_bytes(licence.read())
    apache = (Path(__file__).parent.parent / "LICENSE").read_text(encoding="utf-8")
    (out / "LICENSE.noto-emoji").write_text(CREDITS + apache, encoding="utf-8", newline="\n")
    other = {one["hexcode"]: one for one in russian}
    rows, seen = [], set()
    for one in english:
        code = plain(one["hexcode"])
        if one.get("group", COMPONENT) == COMPONENT or code not in pixels or pixels[code].tobytes() in seen:
            continue
        seen.add(pixels[code].tobytes())
        theirs, group = other[one["hexcode"]], groups[str(one["group"])].replace("-", " and ", 1)
        tags = [", ".join(own.get("tags", [])) for own in (one, theirs)]
        rows.append(Emoji(code, part_of(code), group, one["label"], tags[0], theirs["label"], tags[1]))
    lines = ["\t".join(HEADER), *("\t".join(row) for row in rows)]
    (out / "names.tsv").write_text("\n".join(lines) + "\n", encoding="utf-8", newline="\n")
    sprite = Image.new("RGBA", (COLUMNS * SIDE, -(-len(rows) // COLUMNS) * SIDE), (255, 255, 255, 255))
    for i, row in enumerate(rows):
        sprite.alpha_composite(pixels[row.code], (i % COLUMNS * SIDE, i // COLUMNS * SIDE))
    five = np.asarray(sprite.convert("RGB")) >> 3
    Image.fromarray(five << 3 | five >> 2).save(out / "images.png", optimize=True)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("images", type=Path, help="emoji-datasource-google-16.0.0.tgz")
    parser.add_argument("names", type=Path, help="emojibase-data-17.0.0.tgz")
    parser.add_argument("out", type=Path, help="folder to write to, normally vitrail/datasets/emoji")
    given = parser.parse_args()
    make(given.images, given.names, given.out)
