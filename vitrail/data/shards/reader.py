"""Reads images and masks from shards by their places in the index."""

import hashlib
import io
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from PIL import Image

from vitrail.data.decode import Header, decode, read_header
from vitrail.data.files import EncodedReader
from vitrail.data.shards.store import Store
from vitrail.errors import BadImage

CHANGED = "the shard is another than the one that was packed, or torn: copy it again, or vitrail pack DATA --out NEW"


@dataclass(frozen=True)
class Pieces:
    """Places of files in shards. shards: their names; shard: int32 [N]; offsets, lengths: int64 [N]; hashes: SHA-256,
    uint8 [N 32]; names: what is said of each in messages."""

    store: Store
    shards: tuple[str, ...]
    shard: np.ndarray
    offsets: np.ndarray
    lengths: np.ndarray
    hashes: np.ndarray
    names: Sequence[str]

    def __call__(self, index: int) -> bytes:
        """The bytes of file `index`, as they were packed. Raises `BadImage`."""
        shard, wanted = self.shards[int(self.shard[index])], bytes(self.hashes[index])
        data = self.store.read(shard, int(self.offsets[index]), int(self.lengths[index]), wanted)
        if hashlib.sha256(data).digest() != wanted:
            where = self.store.describe(shard)
            raise BadImage(f"{self.names[index]} in {where} is not what the index says: its SHA-256 differs", CHANGED)
        return data


@dataclass(frozen=True)
class ShardReader(EncodedReader):
    """Reads image i: uint8 [H W channels]. Raises `BadImage`. texts: the captions of each, one in each line. least: as
    in `decode`."""

    pieces: Pieces
    channels: int
    texts: Sequence[str] | None = None
    least: int = 0

    def __call__(self, index: int) -> np.ndarray:
        data = self.pieces(index)
        try:
            return decode(data, self.channels, least=self.least)
        except BadImage as error:
            raise BadImage(error.what.replace("the input", self.pieces.names[index], 1), error.fix) from None

    def encoded(self, index: int) -> bytes:
        return self.pieces(index)

    def header(self, index: int) -> Header:
        return read_header(self.pieces(index))

    def captions(self, index: int) -> str:
        return "" if self.texts is None else self.texts[index]

    def reduced(self, least: int) -> EncodedReader:
        return replace(self, least=least)


@dataclass(frozen=True)
class ShardMaskReader:
    """Reads the mask of image i: uint8 [H W] of class indices. Raises `BadImage`."""

    pieces: Pieces

    def __call__(self, index: int) -> np.ndarray:
        data = self.pieces(index)
        try:
            with Image.open(io.BytesIO(data), formats=["PNG"]) as image:
                if image.mode != "L":
                    raise ValueError(f"its pixels are {image.mode}, not L")
                return np.array(image)
        except Exception as error:  # Pillow raises many kinds
            why = (str(error).splitlines() or [type(error).__name__])[0][:120]
            raise BadImage(f"the mask of {self.pieces.names[index]} cannot be read: {why}", "pack it again") from None
