"""Makes the index of tar shards that are there already, of WebDataset or its like: every member is looked at once, and
nothing is taken out of a shard."""

import contextlib
import hashlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import groupby
from pathlib import Path
from typing import Any

import numpy as np

from vitrail.data.annotations.captions import clean_captions, decode_captions, join_captions
from vitrail.data.dataset import Boxes
from vitrail.data.decode import GREY, read_header
from vitrail.data.files import held_out_note, hold_out
from vitrail.data.index.arrays import map_arrays
from vitrail.data.shards.index import FORMAT, NAME, PackedPart, Placed, Shard, encode_part
from vitrail.data.shards.left_out import LeftOut
from vitrail.data.shards.parse import parse_boxes, parse_json, parse_label, parse_written
from vitrail.data.shards.tar import Member, as_data_error, list_members
from vitrail.data.shards.write import ENDINGS, Progress
from vitrail.data.splits import ORDER, find_part
from vitrail.errors import BadImage, DataError, many

MASK, HELD_OUT = "mask.png", 0.2
LABELS = ("cls", "json")
LARGEST_LABEL = 100_000


@dataclass
class Sample:
    """One sample of a shard. label: a number, a name, several numbers, or None; boxes: as the JSON has them."""

    name: str
    image: Placed
    mask: Placed | None = None
    label: Any = None
    boxes: Boxes | None = None
    text: str = ""  # captions, one in each line

    @property
    def is_labelled(self) -> bool:
        return self.label is not None or self.mask is not None or self.boxes is not None


@dataclass
class Scan:
    """What is in the shards of a folder, by part."""

    shards: list[Shard] = field(default_factory=list)
    parts: dict[str, list[Sample]] = field(default_factory=dict)
    names: dict[int, str] = field(default_factory=dict)  # of classes, as far as samples name them
    grey: bool = True
    left: LeftOut = field(default_factory=lambda: LeftOut(is_allowed=False))


def scan_shards(
    folder: Path, progress: Progress | None = None, skip: bool = False, max_errors: float = 0.0
) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
    """The table and the arrays of the index of a folder's shards. skip: leaves out samples, and whole shards, that
    cannot be read or should not be there, up to the fraction `max_errors` of each. Errors: `DataError` for these."""
    paths, scan, torn = sorted(folder.glob("*.tar")), Scan(left=LeftOut(skip)), LeftOut(skip, "shard")
    for number, path in enumerate(paths):
        part = find_part(path.name.partition("-")[0].partition("_")[0].partition(".")[0]) or "train"
        with torn.leave_out():
            scan.parts.setdefault(part, []).extend(scan_shard(path, len(scan.shards), scan))
        if progress:
            progress(number + 1, len(paths))
    torn.check(len(paths), max_errors)
    leave_unlabelled(folder, scan)
    scan.left.check(sum(map(len, scan.parts.values())) + len(scan.left.reasons), max_errors)
    scan.parts = {part: samples for part, samples in scan.parts.items() if samples}
    if not scan.parts:
        raise DataError(f"{folder} has no shards with images", "shards are .tar files with KEY.jpg and KEY.cls")
    about, arrays = finish(folder, scan)
    return about | {"notes": [*about["notes"], *torn.notes(), *scan.left.notes()]}, arrays


def scan_shard(path: Path, number: int, scan: Scan) -> list[Sample]:
    """The samples of one shard, which is read once from its beginning to its end. Errors: `DataError` for a shard that
    was cut short, and for what is in it where nothing may be left out."""
    members, found, seen = list(list_members(path, scan.left)), list[Sample](), set[str]()
    whole = hashlib.sha256()
    with as_data_error(path), open(path, "rb") as file:
        for key, group in groupby(members, key=lambda one: one.key):
            pieces: dict[str, tuple[Placed, bytes]] = {}
            for one in group:
                data = read_on(file, whole, one)
                pieces[one.ending] = Placed(number, one.offset, one.length, hashlib.sha256(data).digest()), data
            with scan.left.leave_out():
                if key in seen:
                    what = f"{path}: the files of {key[:120]!r} do not stand together"
                    raise DataError(what, "write the shard again")
                seen.add(key)
                found.append(sample_of(path, key, pieces, scan))
        while block := file.read(2**20):
            whole.update(block)
    scan.shards.append(Shard(path.name, path.stat().st_size, whole.hexdigest()))
    return found


def read_on(file: Any, whole: Any, member: Member) -> bytes:
    """The bytes of a member; all up to its end goes through `whole`."""
    while (gap := member.offset - file.tell()) > 0 and (block := file.read(min(gap, 2**20))):
        whole.update(block)
    data: bytes = file.read(member.length)
    whole.update(data)
    return data


def sample_of(path: Path, key: str, pieces: Mapping[str, tuple[Placed, bytes]], scan: Scan) -> Sample:
    where = f"{path}: sample {key[:120]!r}"
    images = [ending for ending in pieces if ending in (*ENDINGS, "img")]
    if len(images) != 1:
        what = f"has {len(images)} images ({', '.join(images)})" if images else "has no image"
        raise DataError(f"{where} {what}", f"a sample is one KEY.jpg with KEY.cls; there is {', '.join(pieces)}")
    image, data = pieces[images[0]]
    if scan.grey:
        with contextlib.suppress(BadImage):  # met again where it is read, by the policy for such images
            scan.grey = read_header(data).mode in GREY
    about = parse_json(where, pieces["json"][1]) if "json" in pieces else {}
    sample = Sample(str(about.get("name", key)), image)
    if MASK in pieces:
        sample.mask = pieces[MASK][0]
    if "boxes" in about:
        sample.boxes = parse_boxes(where, about)
    elif "cls" in pieces:
        sample.label = parse_label(where, pieces["cls"][1].decode(errors="replace").strip())
        if isinstance(sample.label, int) and isinstance(about.get("label"), str):
            scan.names[sample.label] = about["label"]
    else:
        sample.label = parse_written(where, about.get("labels", about.get("cls", about.get("label"))))
    if isinstance(written := about.get("captions", about.get("caption")), str | list):
        texts = [one for one in ([written] if isinstance(written, str) else written) if isinstance(one, str)]
        sample.text = join_captions(clean_captions(texts))
    if "txt" in pieces:
        try:
            sample.text = join_captions(decode_captions(pieces["txt"][1], f"{key[:120]}.txt"))
        except BadImage as error:
            if sample.label is None:  # else it may be that nobody asks for captions
                raise DataError(f"{path}: {error.what}", error.fix) from None
    return sample


def finish(folder: Path, scan: Scan) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
    """The index: classes from the samples, or from the index that was there; a held-out part where none is named."""
    before = former(folder)
    every = [one for own in scan.parts.values() for one in own]
    if len({one.name for one in every}) < len(every):  # keys count anew in each shard
        for one in every:
            one.name = f"{Path(scan.shards[one.image.shard].name).stem}/{one.name}"
    kind, labelled = kind_of(folder, every, str(before.get("kind", "")))
    classes = classes_of(folder, scan, every, before, kind) if labelled else []
    index, arrays, notes = {name: i for i, name in enumerate(classes)}, dict[str, np.ndarray](), []
    if set(scan.parts) == {"train"} and kind in ("classes", "captions", "none"):
        own = scan.parts["train"]
        labels = targets_of(own, classes, index, kind)
        held = hold_out([one.name for one in own], labels, HELD_OUT, 0)
        if held.any():
            scan.parts = {"train": select_samples(own, ~held), "val": select_samples(own, held)}
            notes.append(held_out_note(int((~held).sum()), int(held.sum()), 0))
    for part in sorted(scan.parts, key=ORDER.index):
        samples = scan.parts[part]
        packed = PackedPart(
            [s.name for s in samples], targets_of(samples, classes, index, kind), [s.image for s in samples],
            [s.mask for s in samples if s.mask is not None], [s.boxes for s in samples if s.boxes is not None],
            [s.text for s in samples] if any(s.text for s in samples) else [],
        )  # fmt: skip
        arrays |= encode_part(part, packed)
    about = {
        "format": FORMAT, "classes": classes, "channels": before.get("channels", 1 if scan.grey else 3), "kind": kind,
        "origin": before.get("origin", "shards"), "parts": sorted(scan.parts, key=ORDER.index), "notes": notes,
        "shards": [list(one) for one in scan.shards],
    }  # fmt: skip
    return about, arrays


def leave_unlabelled(folder: Path, scan: Scan) -> None:
    """Leaves out the samples without a label where others have one; of captions alone that is counted where they are
    read. Errors: `DataError` where nothing may be left out."""
    every = [one for own in scan.parts.values() for one in own]
    if not any(one.is_labelled for one in every):
        return
    fix = "add KEY.cls with the number or the name of its class, or KEY.txt with a caption, or remove it"
    for one in every:
        if not (one.is_labelled or one.text):
            scan.left.add(DataError(f"{folder}: sample {one.name[:120]!r} has neither a label nor a caption", fix))
    scan.parts = {part: [one for one in own if one.is_labelled or one.text] for part, own in scan.parts.items()}


def kind_of(folder: Path, every: Sequence[Sample], before: str) -> tuple[str, bool]:
    """What the samples are annotated with, and whether they have classes. before: what the index that is there says.
    Errors: `DataError` where some lack what others have."""
    counts = {
        "boxes": sum(s.boxes is not None for s in every), "masks": sum(s.mask is not None for s in every),
        "classes": sum(s.label is not None for s in every), "captions": sum(bool(s.text) for s in every),
    }  # fmt: skip
    kind = next((name for name, count in counts.items() if count), "none")
    if kind not in counts:
        return kind, False
    if kind in ("classes", "captions") and "captions" in (kind, before):
        return "captions", counts["classes"] == len(every)
    if counts[kind] != len(every):
        lacking = len(every) - counts[kind]
        raise DataError(
            f"{folder}: {many(lacking, 'sample')} of {len(every):,} have no {kind}", "remove or complete them"
        )
    return kind, True


def select_samples(samples: Sequence[Sample], chosen: np.ndarray) -> list[Sample]:
    return [samples[i] for i in np.flatnonzero(chosen).tolist()]


def former(folder: Path) -> dict[str, Any]:
    """The table of the index that is there, if it can be read: the names of classes are in it alone."""
    try:
        about, _ = map_arrays(folder / NAME)
        return about if about.get("format") == FORMAT else {}
    except DataError:
        return {}


def classes_of(folder: Path, scan: Scan, every: Sequence[Sample], before: Mapping[str, Any], kind: str) -> list[str]:
    """The names of the classes. Errors: `DataError` where numbers and names are mixed."""
    if before.get("classes"):
        return [str(name) for name in before["classes"]]
    labels = [one for s in every for one in flat(s, kind)]
    if all(isinstance(one, int) for one in labels):
        count = max(labels, default=-1) + 1 if kind != "masks" else 256
        if count > LARGEST_LABEL or min(labels, default=0) < 0:
            raise DataError(
                f"{folder}: the labels go from {min(labels):,} to {count - 1:,}", "classes are 0, 1, 2, ..."
            )
        return [scan.names.get(i, str(i)) for i in range(count)]
    if not all(isinstance(one, str) for one in labels):
        raise DataError(f"{folder}: some labels are numbers and others are names", "write all of them in one way")
    return sorted(set(labels))


def flat(sample: Sample, kind: str) -> Iterator[Any]:
    if kind == "boxes" and sample.boxes is not None:
        yield from sample.boxes.labels.tolist()
    elif isinstance(sample.label, list):
        yield from sample.label
    elif sample.label is not None:
        yield sample.label


def targets_of(samples: Sequence[Sample], classes: Sequence[str], index: Mapping[str, int], kind: str) -> np.ndarray:
    """int64 [N], or uint8 [N K] where a sample has several classes; zeros where there are none. Errors: `DataError` for
    an unknown class."""
    if kind == "masks" or not classes:
        return np.zeros(len(samples), np.int64)
    own = [list(flat(sample, kind)) for sample in samples]
    numbers = [[index.get(x, -1) if isinstance(x, str) else x for x in labels] for labels in own]
    for sample, labels in zip(samples, numbers, strict=True):
        if any(not isinstance(x, int) or not 0 <= x < len(classes) for x in labels):
            what = f"sample {sample.name[:120]!r} has a label that is none of the {len(classes):,} classes"
            raise DataError(what, "write the shard again, or remove the index to take the classes from the samples")
    if kind == "boxes":
        return np.zeros(len(samples), np.int64)
    if all(not isinstance(sample.label, list) for sample in samples):
        return np.array([labels[0] for labels in numbers], np.int64)
    targets = np.zeros((len(samples), len(classes)), np.uint8)
    for row, labels in zip(targets, numbers, strict=True):
        row[labels] = 1
    return targets
