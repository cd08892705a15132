"""Lists of names of large data sets, of masks and boxes too, as arrays in a file of the cache that every worker process
maps: a process that is started anew is sent its place, not a copy of a million names."""

import dataclasses
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np

from vitrail.data.dataset import Dataset
from vitrail.data.index.arrays import MappedArray, digest_of, encode_arrays, map_arrays
from vitrail.data.index.names import Names, pack_names
from vitrail.errors import VitrailError
from vitrail.storage.cache_folder import cache_folder, keep_file, touch

LEAST = 2048  # names of a list from which on it is mapped
NEWEST = 12  # files of names that are kept
PARTS = ("text", "starts", "ends")


def with_mapped_names(dataset: Dataset) -> Dataset:
    """The data set with every long list of names in its splits and readers mapped; in memory, as arrays, where the
    cache cannot be written."""
    lists = {id(names): names for split in dataset.splits.values() for names in find_lists(split)}
    if not lists:
        return dataset
    packed = {key: pack_names(names) for key, names in lists.items()}
    found = dict(zip(packed, map_names(list(packed.values())), strict=True))
    splits = {part: replace_lists(split, found) for part, split in dataset.splits.items()}
    return dataclasses.replace(dataset, splits=splits)


def is_long(value: Any) -> bool:
    """Whether a value is a list of names that is not mapped yet."""
    if isinstance(value, Names):
        return len(value) > LEAST and not isinstance(value.text, MappedArray)
    return type(value) in (list, tuple) and len(value) > LEAST and all(type(one) is str for one in value)


def find_lists(value: Any) -> Iterator[Any]:
    """The long lists in the fields of a split, of its readers, and of the readers inside those."""
    if is_long(value):
        yield value
    elif type(value) is tuple:
        for one in value[:LEAST]:
            yield from find_lists(one)
    elif dataclasses.is_dataclass(value) and not isinstance(value, type):
        for own in fields_of(value).values():
            yield from find_lists(own)


def fields_of(value: Any) -> dict[str, Any]:
    return {field.name: vars(value)[field.name] for field in dataclasses.fields(value)}


def replace_lists(value: Any, found: Mapping[int, Names]) -> Any:
    """The same with the lists replaced, by their identity."""
    if id(value) in found:
        return found[id(value)]
    if type(value) is tuple:
        return tuple(replace_lists(one, found) for one in value[:LEAST]) + value[LEAST:]
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        before = fields_of(value)
        after = {name: replace_lists(own, found) for name, own in before.items()}
        changed = {name: own for name, own in after.items() if own is not before[name]}
        return dataclasses.replace(value, **changed) if changed else value
    return value


def map_names(lists: list[Names]) -> list[Names]:
    """The lists, mapped from a file of the cache; as they are where that cannot be written."""
    arrays = {
        f"{number}.{part}": np.ascontiguousarray(array)
        for number, names in enumerate(lists)
        for part, array in zip(PARTS, (names.text, names.starts, names.ends), strict=True)
    }
    path = cache_folder() / "data" / f"{digest_of('{}', arrays)[:32]}.names"
    try:
        if path.is_file():
            touch(path)
        elif not keep_file(path, encode_arrays("{}", arrays), NEWEST):
            return lists
        _, mapped = map_arrays(path)
    except (VitrailError, OSError):  # damaged, or another process has removed it
        return lists
    return [Names(*(mapped[f"{number}.{part}"] for part in PARTS)) for number in range(len(lists))]
