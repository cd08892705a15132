"""Writes tar shards as WebDataset names them: KEY.jpg with the bytes of the image as they were, KEY.cls, KEY.json,
KEY.mask.png, KEY.txt. Images lie in an order of their own, so that what a disk reads in one go has many classes; their
numbers stay those of the data set."""

import hashlib
import io
import os
import tarfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from PIL import Image

from vitrail.data.annotations.captions import join_captions
from vitrail.data.dataset import Boxes, Dataset, Split, find_reader
from vitrail.data.files import EncodedReader
from vitrail.data.sampling import epoch_order
from vitrail.data.shards.index import FORMAT, PackedPart, Placed, Shard, encode_part
from vitrail.data.shards.left_out import LeftOut
from vitrail.data.shards.tar import END
from vitrail.errors import BadImage, DataError

MODES = {1: "L", 3: "RGB", 4: "RGBA"}
ENDINGS = ("jpg", "jpeg", "png", "webp", "bmp", "gif", "tif", "tiff", "ppm", "pgm", "pbm", "avif", "heic", "heif")
Progress = Callable[[int, int], None]


class HashedFile:
    """A tar file that is hashed as it is written."""

    def __init__(self, file: BinaryIO):
        self.file, self.size, self.digest = file, 0, hashlib.sha256()

    def write(self, data: bytes) -> None:
        self.digest.update(data)
        self.size += len(data)
        self.file.write(data)

    def add(self, name: str, data: bytes) -> int:
        """Writes a member; returns the offset of its data."""
        info = tarfile.TarInfo(name)
        info.size, info.mode = len(data), 0o644
        self.write(info.tobuf(tarfile.USTAR_FORMAT))
        offset = self.size
        self.write(data)
        self.write(bytes(-len(data) % tarfile.BLOCKSIZE))
        return offset


@dataclass
class ShardWriter:
    """Writes samples into shards of about `limit` bytes in a folder, named after their part. to_text: a table as
    JSON."""

    folder: Path
    limit: int
    to_text: Callable[[Any], str]
    shards: list[Shard] = field(default_factory=list)

    def write_part(self, part: str, samples: Iterator[Mapping[str, bytes]]) -> Iterator[list[Placed]]:
        """The places of the files of each sample, in their order."""
        pending, number = next(samples, None), 0
        while pending is not None:
            name = f"{part}-{number:06d}.tar"
            with open(self.folder / name, "wb") as raw:
                out = HashedFile(raw)
                while pending is not None and (out.size < self.limit or out.size == 0):
                    shard = len(self.shards)
                    yield [
                        Placed(shard, out.add(file, data), len(data), hashlib.sha256(data).digest())
                        for file, data in pending.items()
                    ]
                    pending = next(samples, None)
                out.write(bytes(END))
                raw.flush()
                os.fsync(raw.fileno())  # the folder gets its name when all of it is on the disk
            self.shards.append(Shard(name, out.size, out.digest.hexdigest()))
            number += 1


def write_shards(
    dataset: Dataset, writer: ShardWriter, left: LeftOut, progress: Progress | None = None
) -> tuple[dict[str, object], dict[str, np.ndarray]]:
    """Writes the shards; returns the table and arrays of their index. left: gets the images that cannot be read.
    Errors: `DataError`, `BadImage`, `OSError`."""
    arrays, parts, done = dict[str, np.ndarray](), list[str](), 0
    total = sum(map(len, dataset.splits.values()))
    for part, split in dataset.splits.items():
        packed = PackedPart(split.names, split.labels, [EMPTY] * len(split))
        texts, written = [""] * len(split), list[int]()
        if dataset.kind == "masks":
            packed.masks = [EMPTY] * len(split)
        samples = read_samples(dataset, split, texts, writer.to_text, left, written)
        for number, places in enumerate(writer.write_part(part, samples)):
            i = written[number]  # in the order of the shards; the next one is read already
            packed.images[i] = places[0]
            if packed.masks:
                packed.masks[i] = places[1]
            done += 1
            if progress:
                progress(done, total)
        kept = np.sort(np.array(written, np.int64))
        if dataset.kind == "boxes" and split.annotation is not None:
            packed.boxes = [split.annotation(i) for i in kept.tolist()]
        packed.texts = texts if any(texts) else []
        if len(kept):
            arrays |= encode_part(part, packed.select(kept))
            parts.append(part)
    about = describe(dataset, writer.shards)
    return about | {"parts": parts, "notes": [*dataset.notes, *left.notes()]}, arrays


def read_samples(
    dataset: Dataset,
    split: Split,
    texts: list[str],
    to_text: Callable[[Any], str],
    left: LeftOut,
    written: list[int],
) -> Iterator[dict[str, bytes]]:
    """The files of each image that can be read, in the order of the shards. written: gets their indices."""
    for i in epoch_order(0, 0, len(split)).tolist():
        try:
            sample = sample_of(dataset, split, i, texts, to_text)
        except BadImage as error:
            left.add(error)
            continue
        written.append(i)
        yield sample


EMPTY = Placed(0, 0, 0, bytes(32))


def describe(dataset: Dataset, shards: Sequence[Shard]) -> dict[str, object]:
    """The table of an index."""
    return {
        "format": FORMAT, "classes": list(dataset.classes), "channels": dataset.channels, "kind": dataset.kind,
        "origin": dataset.origin or dataset.layout, "shards": [list(one) for one in shards],
    }  # fmt: skip


def sample_of(
    dataset: Dataset, split: Split, index: int, texts: list[str], to_text: Callable[[Any], str]
) -> dict[str, bytes]:
    """The files of image `index`, the image first, then its mask if it has one. texts: gets its captions."""
    key = f"{index:09d}"
    about: dict[str, Any] = {"name": split.names[index]}
    data, ending = image_bytes(split, index, dataset.channels)
    files = {f"{key}.{ending}": data}
    annotation = split.annotation(index) if split.annotation is not None else None
    if isinstance(annotation, Boxes):
        about |= {
            "boxes": annotation.boxes.tolist(), "labels": annotation.labels.tolist(), "crowd": annotation.crowd.tolist()
        }  # fmt: skip
    elif isinstance(annotation, np.ndarray):
        files[f"{key}.mask.png"] = encode_png(annotation, "L")
    elif split.labels.ndim == 2:
        about["labels"] = np.flatnonzero(split.labels[index]).tolist()
    elif dataset.classes:
        files[f"{key}.cls"] = b"%d" % split.labels[index]
        about["label"] = dataset.classes[int(split.labels[index])]
    if isinstance(annotation, tuple) and not isinstance(annotation, Boxes):
        texts[index] = join_captions(annotation)
    elif found := find_encoded(split, index):
        texts[index] = found[0].captions(found[1])
    if texts[index]:
        files[f"{key}.txt"] = texts[index].encode()
    return {**files, f"{key}.json": to_text(about).encode("ascii")}


def find_encoded(split: Split, index: int) -> tuple[EncodedReader, int] | None:
    """The reader that has the bytes of an image, and the index there; None where there are only pixels."""
    read, at = find_reader(split.read, index)
    return (read, at) if isinstance(read, EncodedReader) else None


def image_bytes(split: Split, index: int, channels: int) -> tuple[bytes, str]:
    """The bytes of an image as they are, or of its pixels as PNG, and their ending."""
    if found := find_encoded(split, index):
        read, at = found
        try:
            data = read.encoded(at)
        except OSError as error:
            raise BadImage(f"{split.names[index]} cannot be read: {error.strerror or error}", "repair it") from None
        ending = split.names[index].rpartition(".")[2].lower()
        return data, ending if ending in ENDINGS else "img"
    if channels not in MODES:
        raise DataError(f"images of {channels} channels cannot be packed", "images of 1, 3 or 4 channels can")
    return encode_png(split.read(index), MODES[channels]), "png"


def encode_png(pixels: np.ndarray, mode: str) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(np.ascontiguousarray(pixels.squeeze(-1) if pixels.ndim == 3 and mode == "L" else pixels)).save(
        buffer, "PNG"
    )
    return buffer.getvalue()
