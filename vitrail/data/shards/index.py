"""The index of shards, index.safetensors: where each image is, its hash, label, name, mask, boxes and caption, and the
hash of each shard. From it a data set is opened without looking into a shard."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from vitrail.data.annotations.boxes import BoxReader
from vitrail.data.annotations.captions import CaptionReader
from vitrail.data.dataset import Boxes, Dataset, Entry, Split
from vitrail.data.index.arrays import map_arrays
from vitrail.data.index.names import Names, pack_names
from vitrail.data.shards.annotation import KINDS, choose_annotation, with_annotation
from vitrail.data.shards.reader import Pieces, ShardMaskReader, ShardReader
from vitrail.data.shards.store import Store
from vitrail.errors import DataError

NAME, FORMAT = "index.safetensors", "vitrail-shards-1"
AGAIN = "write it again: vitrail pack DATA --out NEW, or vitrail pack SHARDS for the index alone"
SHARD = re.compile(r"[\w.-]+\.tar")


class Shard(NamedTuple):
    """A tar file: its name, its bytes, and their SHA-256."""

    name: str
    size: int
    sha256: str


class Placed(NamedTuple):
    """Where a file is: the number of its shard, its first byte, its length and SHA-256."""

    shard: int
    offset: int
    length: int
    sha256: bytes


@dataclass
class PackedPart:
    """One part of a data set as it is packed. Lists are empty for what the data does not have."""

    names: Sequence[str]
    labels: np.ndarray
    images: list[Placed]
    masks: list[Placed] = field(default_factory=list)
    boxes: list[Boxes] = field(default_factory=list)
    texts: list[str] = field(default_factory=list)  # the captions of each image, one in each line

    def select(self, indices: np.ndarray) -> "PackedPart":
        """Some of the images; the boxes are those of these alone already."""
        images, masks, texts = (
            [own[i] for i in indices] if own else [] for own in (self.images, self.masks, self.texts)
        )
        return PackedPart([self.names[i] for i in indices], self.labels[indices], images, masks, self.boxes, texts)


def encode_part(name: str, part: PackedPart) -> dict[str, np.ndarray]:
    """The arrays of a part."""
    arrays = {f"{name}.labels": part.labels, **name_arrays(f"{name}.names", part.names)}
    arrays |= place_arrays(f"{name}.image", part.images)
    if part.masks:
        arrays |= place_arrays(f"{name}.mask", part.masks)
    if part.boxes:
        counts = [len(own.labels) for own in part.boxes]
        arrays[f"{name}.boxes.starts"] = np.concatenate([[0], np.cumsum(counts)]).astype(np.int64)
        arrays[f"{name}.boxes.corners"] = np.concatenate([own.boxes for own in part.boxes]).astype(np.float32)
        arrays[f"{name}.boxes.labels"] = np.concatenate([own.labels for own in part.boxes]).astype(np.int64)
        arrays[f"{name}.boxes.crowd"] = np.concatenate([own.crowd for own in part.boxes]).astype(np.uint8)
    return arrays | (name_arrays(f"{name}.texts", part.texts) if part.texts else {})


def name_arrays(key: str, names: Sequence[str]) -> dict[str, np.ndarray]:
    packed = pack_names(list(names))
    return {f"{key}.text": packed.text, f"{key}.starts": packed.starts, f"{key}.ends": packed.ends}


def place_arrays(key: str, places: Sequence[Placed]) -> dict[str, np.ndarray]:
    hashes = np.frombuffer(b"".join(one.sha256 for one in places), np.uint8).reshape(-1, 32)
    numbers = np.array([one[:3] for one in places], np.int64).reshape(-1, 3)
    return {
        f"{key}.shard": numbers[:, 0].astype(np.int32), f"{key}.sha256": hashes,
        f"{key}.offsets": numbers[:, 1], f"{key}.lengths": numbers[:, 2],
    }  # fmt: skip


def open_index(path: Path, store: Store, annotation: str = "") -> Dataset:
    """The data set of an index file. annotation: what is read of each image, of those that have it; "": what it was
    packed for. Errors: `DataError` for an index that is damaged, of another program, or without such annotations."""
    about, arrays = map_arrays(path)
    try:
        if about["format"] != FORMAT:
            raise ValueError(f"its format is {str(about['format'])[:40]!r}")
        shards = tuple(Shard(str(name), int(size), str(sha)) for name, size, sha in about["shards"])
        if bad := [one.name for one in shards if not SHARD.fullmatch(one.name)]:
            raise ValueError(f"it names a shard {bad[0][:60]!r}")
        classes = tuple(str(name) for name in about["classes"])
        kind = KINDS[about["kind"]]
        about["kind"] = wanted = choose_annotation(annotation, kind, classes, path.parent)
        splits = {str(part): open_part(str(part), about, arrays, shards, store) for part in about["parts"]}
        entries = [Entry(one.name, one.size, int(one.sha256[:15], 16)) for one in shards]
        notes = tuple(str(note) for note in about["notes"])
        check_labels(splits, classes)
        dataset = Dataset(
            "shards", classes, splits, int(about["channels"]), entries, notes, kind, origin=str(about["origin"])
        )
        return with_annotation(dataset, wanted, path.parent)
    except (KeyError, TypeError, ValueError, IndexError) as error:
        why = (str(error).splitlines() or [type(error).__name__])[0][:120]
        raise DataError(f"{path} is no index of shards: {why}", AGAIN) from None


def check_labels(splits: Mapping[str, Split], classes: Sequence[str]) -> None:
    """Errors: `ValueError` for labels that are none of the classes."""
    for split in splits.values():
        many = split.labels.ndim == 2
        fits = split.labels.shape[1] == len(classes) if many else split.labels.max(initial=0) < max(1, len(classes))
        if not fits or split.labels.min(initial=0) < 0:
            raise ValueError("it has labels that are none of its classes")
        if isinstance(split.annotation, BoxReader):
            check_boxes(split.annotation.all_boxes, len(classes))


def check_boxes(boxes: Boxes, classes: int) -> None:
    """Errors: `ValueError` for labels that are none of the classes, and for corners that are no numbers."""
    if len(boxes.labels) and not 0 <= int(boxes.labels.min()) <= int(boxes.labels.max()) < classes:
        raise ValueError("it has boxes whose labels are none of its classes")
    if boxes.boxes.shape[1:] != (4,) or not np.isfinite(boxes.boxes).all():
        raise ValueError("it has boxes whose corners are no numbers")
    if not len(boxes.boxes) == len(boxes.labels) == len(boxes.crowd):
        raise ValueError("its boxes and their labels have different lengths")


def open_part(
    part: str, about: Mapping[str, Any], arrays: Mapping[str, np.ndarray], shards: Sequence[Shard], store: Store
) -> Split:
    names = named(arrays, f"{part}.names")
    images = placed(arrays, f"{part}.image", shards, store, names)
    labels = np.array(arrays[f"{part}.labels"], subok=False)
    places = np.asarray(images.shard).astype(np.int64) << 40 | np.asarray(images.offsets)
    annotation: Any = None
    if about["kind"] == "masks":
        annotation = ShardMaskReader(placed(arrays, f"{part}.mask", shards, store, names))
    if about["kind"] == "boxes":
        corners, own, crowd = (arrays[f"{part}.boxes.{key}"] for key in ("corners", "labels", "crowd"))
        starts = arrays[f"{part}.boxes.starts"]
        if len(starts) != len(names) + 1 or (np.diff(starts) < 0).any() or starts[-1] != len(corners):
            raise ValueError("its boxes are not those of its images")
        annotation = BoxReader(Boxes(corners, own, np.asarray(crowd).astype(bool)), starts)
    texts = named(arrays, f"{part}.texts") if f"{part}.texts.text" in arrays else None
    if len({len(names), len(labels), len(images.offsets), len(names if texts is None else texts)}) != 1:
        raise ValueError(f"the lists of {part} have different lengths")
    read = ShardReader(images, int(about["channels"]), texts)
    if about["kind"] == "captions" and texts is not None:
        annotation = CaptionReader(texts)
    return Split(names, labels, read, annotation, places)


def named(arrays: Mapping[str, np.ndarray], key: str) -> Names:
    text, starts, ends = (arrays[f"{key}.{part}"] for part in ("text", "starts", "ends"))
    if (
        len(starts) != len(ends)
        or (starts > ends).any()
        or starts.min(initial=0) < 0
        or ends.max(initial=0) > len(text)
    ):
        raise ValueError("its names are damaged")
    return Names(text, starts, ends)


def placed(
    arrays: Mapping[str, np.ndarray], key: str, shards: Sequence[Shard], store: Store, names: Sequence[str]
) -> Pieces:
    """Errors: `ValueError` for a place outside of its shard."""
    shard, offsets, lengths, hashes = (arrays[f"{key}.{part}"] for part in ("shard", "offsets", "lengths", "sha256"))
    sizes = np.array([one.size for one in shards], np.int64)
    if not len(shard) == len(offsets) == len(lengths) == len(hashes) == len(names) or hashes.shape[1:] != (32,):
        raise ValueError(f"the lists of {key} have different lengths")
    if len(shard) and (shard.min() < 0 or shard.max() >= len(shards) or offsets.min() < 0 or lengths.min() < 0):
        raise ValueError("it has an image in no shard")
    if (np.asarray(offsets) + np.asarray(lengths) > sizes[np.asarray(shard)]).any():
        raise ValueError("it has an image beyond the end of its shard")
    return Pieces(store, tuple(one.name for one in shards), shard, offsets, lengths, hashes, names)
