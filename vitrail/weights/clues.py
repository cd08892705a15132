"""What a table of names reads a model's config from: tensors by our names, their shapes, and the files beside them."""

import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

from torch import Tensor

from vitrail.errors import CheckpointError
from vitrail.weights.sidecars import Pixels, Sidecar


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

    def stated_size(self) -> tuple[int, int] | None:
        """(height, width) of the images, as typed or as a sidecar has it."""
        if "size" in self.given:
            return as_pair(self.given["size"])
        size = self.sidecar.get(Pixels | tuple[Pixels, Pixels], "image_size", "model_args.img_size", "sample_size")
        stated = self.sidecar.get(tuple[Pixels, Pixels, Pixels], "pretrained_cfg.input_size") if size is None else None
        return as_pair(size) if stated is None else as_pair(stated[1:])

    def check_activation(self, names: Iterable[str]) -> None:
        """Errors: `CheckpointError` where a sidecar names another activation than those, which the family has."""
        path, word = self.sidecar.find(str, ("hidden_act", "activation_fn", "model_args.act_layer"))
        if word is not None and word not in names:
            what = f"{self.sidecar.path_of(path)} is {word[:40]!r}, an activation that this model has not"
            raise CheckpointError(what, f"there is {', '.join(names)}")

    def stage_shapes(self, pattern: str, stages: int = 4) -> tuple[tuple[int, ...], ...]:
        """The shapes of a tensor of every stage, whose number stands for "{}"."""
        return tuple(self.shape(pattern.format(s)) for s in range(stages))


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


def likely_heads(widths: Sequence[int], variants: Iterable[Any], name: str = "widths") -> Any:
    """The heads of every stage: those of the variant with these widths, which are the value of the field `name`; else
    open."""
    own = [config.heads for config in variants if tuple(vars(config)[name]) == tuple(widths)]
    if own:
        return own[0]
    each = [tuple(width // d for width in widths) for d in (64, 32, 16) if all(width % d == 0 for width in widths)]
    return Open(tuple(each[:2]) or (tuple(1 for _ in widths),), "the numbers of attention heads")
