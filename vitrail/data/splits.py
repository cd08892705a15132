"""Which images train, which judge: parts that a data set names itself, or that are drawn by name and seed. Shared by layouts."""

import hashlib
import os
from collections.abc import Sequence

import numpy as np

from vitrail.data.dataset import Dataset
from vitrail.errors import DataError, UsageError, many, nearest

PARTS = {
    "train": "train", "training": "train", "val": "val", "valid": "val", "validation": "val", "test": "test", "testing": "test",
}  # fmt: skip
ORDER = ("train", "val", "test")
DEFAULT_SPLIT = (0.8, 0.2)  # shares of train and val where nothing was said


def assign_parts(
    names: Sequence[str], parts: Sequence[str], split: tuple[float, ...], seed: int, test: str | tuple[str, ...] = ()
) -> tuple[dict[str, np.ndarray], list[str]]:
    """Places of the images of each part, and notes. `parts` are those that the data names, "" where it does not.

    A data set that names no "train" is divided anew. test: images to hold out as the test part, by their names or the ends of them.
    Errors: `UsageError` for shares that cannot be, `DataError` where nothing is left to train on.
    """
    test = (test,) if isinstance(test, str) else test
    have, notes = np.array(parts, dtype=object), []
    out = select_named(names, test)
    have[out] = "test"
    known = [p for p in ORDER if (have == p).any()]
    if "train" in known:
        if loose := int((have == "").sum()):
            notes.append(f"left out, as they belong to no part: {many(loose, 'image')}")
        if "val" not in known and (split or known == ["train"]):
            inner = [int(i) for i in np.flatnonzero(have == "train")]
            drawn, said = split_randomly([names[i] for i in inner], split or DEFAULT_SPLIT, seed, len(test) > 0)
            notes.append(said)
            have[inner] = ""
            for part, places in drawn.items():
                have[np.array(inner)[places]] = part
        elif split:
            fix = f"leave it out; there are {', '.join(known)}"
            raise UsageError("data.split is given, but the data names its parts itself", fix)
    else:
        if known and not test:
            notes.append(f"the data names {' and '.join(known)} but no train: all images were divided anew")
        rest = np.array([i for i in range(len(names)) if i not in set(out)], np.int64)
        drawn, said = split_randomly([names[i] for i in rest], split or DEFAULT_SPLIT, seed, len(test) > 0)
        have[:] = ""
        have[out] = "test"
        for part, places in drawn.items():
            have[rest[places]] = part
        notes.append(said)
    found = {p: places for p in ORDER if len(places := np.flatnonzero(have == p))}
    if "train" not in found:
        raise DataError("no image is left to train on", "hold out fewer")
    return found, notes


def select_named(names: Sequence[str], wanted: tuple[str, ...]) -> list[int]:
    """Places of the images that are called so: by the whole name, the file's name, or that without its suffix. Errors: `UsageError`."""
    ends: dict[str, list[int]] = {}
    for i, name in enumerate(names):
        file = name.rpartition("/")[2]
        for end in {name, file, os.path.splitext(file)[0]}:
            ends.setdefault(end, []).append(i)
    for name in wanted:
        if name not in ends:
            near = nearest(name, list(ends)[:5000])
            raise UsageError(
                f"no image is called {name!r}", f"did you mean {' or '.join(near)}?" if near else f"there is {names[0]}"
            )
    return sorted({i for name in wanted for i in ends[name]})


def split_randomly(
    names: Sequence[str], split: tuple[float, ...], seed: int, tested: bool
) -> tuple[dict[str, np.ndarray], str]:
    """Places of train, val and test, ascending, and a note. `split` are shares (all at most 1, in sum too) or counts.

    The choice hangs on seed and names alone. tested: a test part is there already. Every part with a share gets an image at least, and
    train one before all.
    """
    counts = part_sizes(len(names), split, tested)
    order = sorted(
        range(len(names)), key=lambda i: hashlib.blake2b(f"{seed}/{names[i]}".encode(errors="surrogateescape")).digest()
    )
    ends = np.cumsum(counts)
    start, found = 0, {}
    for part, end in zip(reversed(ORDER[: len(counts)]), np.cumsum(counts[::-1]), strict=True):
        found[part] = np.sort(np.array(order[start:end], np.int64))
        start = int(end)
    told = ", ".join(f"{len(found[p]):,} {p}" for p in ORDER if p in found and len(found[p]))
    left = f"; {len(names) - ends[-1]:,} are left out" if ends[-1] < len(names) else ""
    return found, f"divided by name with seed {seed}: {told} of {many(len(names), 'image')}{left}"


def part_sizes(count: int, split: tuple[float, ...], tested: bool) -> list[int]:
    """How many images go to each part. Errors: `UsageError`."""
    most = 2 if tested else 3
    if not 2 <= len(split) <= most or min(split) < 0 or split[0] == 0:
        raise UsageError(
            f"data.split is {' '.join(f'{x:g}' for x in split)}",
            f"it takes {'2' if tested else '2 or 3'} shares or counts, of train first: 0.8 0.2{'' if tested else ', or 200 50 50'}",
        )
    if max(split) <= 1:
        if sum(split) > 1 + 1e-6:
            raise UsageError(f"the shares of data.split make {sum(split):g}", "together they are at most 1")
        rest = [max(1, round(x * count)) if x else 0 for x in split[1:]]
        while sum(rest) >= count and any(rest):  # so few images that rounding up took them all
            rest[rest.index(max(rest))] -= 1
        whole = sum(split) > 1 - 1e-6
        return [count - sum(rest) if whole else max(1, min(count - sum(rest), round(split[0] * count))), *rest]
    if any(x != int(x) for x in split):
        raise UsageError(
            f"data.split is {' '.join(f'{x:g}' for x in split)}", "shares are at most 1 each, counts are whole numbers"
        )
    if sum(split) > count:
        raise UsageError(f"data.split asks for {sum(split):,.0f} images", f"there are {count:,}")
    return [int(x) for x in split]


def evaluation_part(dataset: Dataset, final: bool) -> str:
    """Which part judges the model: while it trains the validation part, at the end the test part; what there is of them."""
    order = ("test", "val") if final else ("val", "test")
    return next((name for name in order if name in dataset.splits), "train")
