"""What a table of names reads a model's config from: tensors by our names, their shapes, and the files beside them."""

import re
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from torch import Tensor

from vitrail.weights.sidecars import Sidecar


class Clues(NamedTuple):
    """A file as one source's table converts it. tensors: by our names, on any device; raw: by theirs; given: keys of
    the model that a person typed, which hold whatever the file says."""

    tensors: Mapping[str, Tensor]
    raw: Mapping[str, Tensor]
    source: str
    sidecar: Sidecar
    given: Mapping[str, Any]

    def shape(self, name: str) -> tuple[int, ...]:
        """The shape of a tensor of ours; () where there is none."""
        tensor = self.tensors.get(name)
        return () if tensor is None else tuple(tensor.shape)

    def has(self, name: str) -> bool:
        return name in self.tensors

    def count(self, before: str, after: str = "") -> int:
        """How many numbers stand between the two parts of names, from 0 up: `count("blocks.")` for the depth. -1 where
        they leave one out."""
        pattern = re.compile(rf"{re.escape(before)}(\d{{1,6}}){re.escape(after or '.')}")
        numbers = {int(found[1]) for name in self.tensors if (found := pattern.match(name))}
        return len(numbers) if numbers == set(range(len(numbers))) else -1


class Open(NamedTuple):
    """A field that nothing in the file decides: its likely values, and what it is."""

    values: tuple[Any, ...]
    what: str


def ratio(hidden: int, width: int) -> float:
    """hidden / width, such that width times it is `hidden` again, rounded to the nearest or down."""
    exact = hidden / width
    return exact if int(width * exact) == hidden else (hidden + 0.25) / width


def square(cells: int) -> tuple[int, int] | None:
    """The sides of a square grid of so many cells; None where there is none."""
    side = round(cells**0.5)
    return (side, side) if cells > 0 and side * side == cells else None


def as_pair(value: Sequence[int] | int | None) -> tuple[int, int] | None:
    """(height, width) of a number or two."""
    if value is None:
        return None
    return (value, value) if isinstance(value, int) else (value[0], value[1])
