"""Train, validation and test splits: those that a data set names itself, or random ones. Shared by layouts."""

import hashlib
import os
import re
from collections.abc import Sequence

import numpy as np

from vitrail.data.dataset import Dataset
from vitrail.errors import DataError, UsageError, many, nearest

PART_WORDS = {  # the one table of part names, for folders, lists of files, keys of data.yaml and columns of tables
    "train": ("train", "training", "trn", "trainval", "trainvalid", "trainvalidation", "traindev"),
    "val": ("val", "valid", "validate", "validation", "vali", "dev", "devel", "development", "eval", "evaluation",
            "minival"),
    "test": ("test", "testing", "tst", "testdev", "devtest", "holdout", "heldout"),
}  # fmt: skip
BY_WORD = {f"{word}{plural}": part for part, words in PART_WORDS.items() for word in words for plural in ("", "s")}
FILLERS = ("set", "sets", "data", "dataset", "split", "part", "subset", "image", "images", "img", "imgs")
ORDER = ("train", "val", "test")
DEFAULT_SPLIT = (0.8, 0.2)  # fractions of train and val by default


def find_part(name: str) -> str:
    """The part that a name stands for, "train", "val" or "test"; "" for a name of something else.

    >>> find_part("Training_Set"), find_part("VAL2017"), find_part("dev"), find_part("tests"), find_part("cat")
    ('train', 'val', 'val', 'test', '')

    Case, plurals, numbers after the name and words such as "set" make no difference.
    """
    word = "".join(re.split(r"[\W_]+", name.casefold())).rstrip("0123456789")
    for filler in ("", *FILLERS):
        stem = word.removesuffix(filler) if filler else word
        if stem in BY_WORD:
            return BY_WORD[stem]
    for filler in FILLERS:
        if word.startswith(filler) and word.removeprefix(filler) in BY_WORD:
            return BY_WORD[word.removeprefix(filler)]
    return ""


def assign_parts(
    names: Sequence[str], parts: Sequence[str], split: tuple[float, ...], seed: int, test: str | tuple[str, ...] = ()
) -> tuple[dict[str, np.ndarray], list[str]]:
    """Indices of the images of each split, and notes. `parts` are those that the data names, "" where it does not.

    A data set that names no "train" is split randomly, but for its test images: those are never trained on, and where
    there are no others, "test" is the only split. test: images to hold out as the test split, by their names or file
    names. Errors: `UsageError` for impossible fractions, `DataError` where no image is left to train on.
    """
    test = (test,) if isinstance(test, str) else test
    assigned, notes = np.array(parts, dtype=object), []
    assigned[select_named(names, test)] = "test"
    train, val, held, loose = (assigned == part for part in (*ORDER, ""))
    pool = np.zeros(len(names), bool)  # the images that are split randomly
    if train.any():
        if loose.any():
            notes.append(f"left out, as they belong to no split: {many(int(loose.sum()), 'image')}")
        if not val.any() and (split or not held.any()):
            pool = train
    elif loose.any() and val.any():
        assigned[loose] = "train"
        notes.append(f"the data names val but no train: the other {many(int(loose.sum()), 'image')} are train")
    elif loose.any():
        pool = loose
    elif val.any():
        pool = val
        notes.append(
            f"the data names val but no train: {'all' if not held.any() else 'its'} images were split randomly"
        )
    elif "test" not in parts:
        raise DataError("no image is left to train on", "hold out fewer")
    if sum(split[1:]) > 0 and not pool.any():  # 1 0 splits nothing: how data is evaluated whole
        fix = f"remove it; there are {', '.join(p for p in ORDER if p in parts)}"
        raise UsageError("data.split is given, but the data has splits of its own", fix)
    if pool.any():
        where = np.flatnonzero(pool)
        drawn, note = split_randomly([names[i] for i in where.tolist()], split or DEFAULT_SPLIT, seed, bool(held.any()))
        notes.append(note)
        assigned[where] = "left out"
        for part, chosen in drawn.items():
            assigned[where[chosen]] = part
    return {p: where for p in ORDER if len(where := np.flatnonzero(assigned == p))}, notes


def select_named(names: Sequence[str], requested: tuple[str, ...]) -> list[int]:
    """Indices of images by the whole name, the file's name, or the file's name without suffix. Errors: `UsageError`."""
    by_name: dict[str, list[int]] = {}
    for i, name in enumerate(names):
        file = name.rpartition("/")[2]
        for end in {name, file, os.path.splitext(file)[0]}:
            by_name.setdefault(end, []).append(i)
    for name in requested:
        if name not in by_name:
            similar = nearest(name, list(by_name)[:5000])
            raise UsageError(
                f"there is no image {name!r}",
                f"did you mean {' or '.join(similar)}?" if similar else f"there is {names[0]}",
            )
    return sorted({i for name in requested for i in by_name[name]})


def split_randomly(
    names: Sequence[str], split: tuple[float, ...], seed: int, has_test: bool
) -> tuple[dict[str, np.ndarray], str]:
    """Indices of train, val and test, ascending, and a note. `split`: fractions (sum at most 1) or counts.

    The choice depends on seed and names only. has_test: there is a test split already. Every split with a fraction gets
    at least one image, train first.
    """
    counts = part_sizes(len(names), split, has_test)
    order = sorted(
        range(len(names)), key=lambda i: hashlib.blake2b(f"{seed}/{names[i]}".encode(errors="surrogateescape")).digest()
    )
    ends = np.cumsum(counts)
    start, parts = 0, {}
    for part, end in zip(reversed(ORDER[: len(counts)]), np.cumsum(counts[::-1]), strict=True):
        parts[part] = np.sort(np.array(order[start:end], np.int64))
        start = int(end)
    counted = ", ".join(f"{len(parts[p]):,} {p}" for p in ORDER if p in parts and len(parts[p]))
    left = f"; {len(names) - ends[-1]:,} are left out" if ends[-1] < len(names) else ""
    return parts, f"split by name with seed {seed}: {counted} of {many(len(names), 'image')}{left}"


def part_sizes(count: int, split: tuple[float, ...], has_test: bool) -> list[int]:
    """The number of images of each split. Errors: `UsageError`."""
    most = 2 if has_test else 3
    if not 2 <= len(split) <= most or min(split) < 0 or split[0] == 0:
        raise UsageError(
            f"data.split is {' '.join(f'{x:g}' for x in split)}",
            f"it takes {'2' if has_test else '2 or 3'} fractions or counts, train first: 0.8 0.2"
            + ("" if has_test else ", or 200 50 50"),
        )
    if max(split) <= 1:
        if sum(split) > 1 + 1e-6:
            raise UsageError(f"the fractions of data.split sum to {sum(split):g}", "their sum is at most 1")
        rest = [max(1, round(x * count)) if x else 0 for x in split[1:]]
        while sum(rest) >= count and any(rest):  # so few images that rounding up leaves none to train
            rest[rest.index(max(rest))] -= 1
        whole = sum(split) > 1 - 1e-6
        return [count - sum(rest) if whole else max(1, min(count - sum(rest), round(split[0] * count))), *rest]
    if any(x != int(x) for x in split):
        raise UsageError(
            f"data.split is {' '.join(f'{x:g}' for x in split)}",
            "fractions are at most 1 each, counts are whole numbers",
        )
    if sum(split) > count:
        raise UsageError(f"data.split asks for {sum(split):,.0f} images", f"there are {count:,}")
    return [int(x) for x in split]


def evaluation_part(dataset: Dataset, final: bool) -> str:
    """The split for evaluation: validation during training, test at the end, as far as they exist, else train."""
    order = ("test", "val") if final else ("val", "test")
    return next((name for name in order if name in dataset.splits), "train")
