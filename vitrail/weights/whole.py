"""Whole published models: a backbone with the head of a task, such as DETR or UPerNet.

`weights/heads/` has one file per model. Each looks at names, shapes and the sidecar alone and says what the model is;
the backbone's names are those of its family's table (`weights/tables/`), behind a prefix.
"""

from collections.abc import Mapping
from typing import Any, NamedTuple

from torch import Tensor

from vitrail import catalog
from vitrail.errors import CheckpointError
from vitrail.recipe import Choice, InputConfig
from vitrail.weights.preprocessing import Preprocessing
from vitrail.weights.report import list_names
from vitrail.weights.rules import Converted, Drop, Rule, convert
from vitrail.weights.sidecar_input import read_input
from vitrail.weights.sidecars import Sidecar
from vitrail.weights.variants import choose_variant

Tensors = Mapping[str, Tensor]
Table = tuple[Rule | Drop, ...]


class WholeModel(NamedTuple):
    """What a file holds: the model, the task whose head it has, its preprocessing, and its tensors in our names."""

    source: str  # such as "transformers"
    model: Choice
    task: Choice
    input: InputConfig
    classes: tuple[str, ...]
    tensors: dict[str, Tensor]  # as in the state dict of the model
    unknown: tuple[str, ...]  # names of theirs that ours has no counterpart for
    dropped: dict[str, str]  # names of theirs that are not needed, and why
    reasons: tuple[str, ...] = ()


def find_whole_model(tensors: Tensors, sidecar: Sidecar, given: Choice | None = None) -> WholeModel | None:
    """The whole model that a file's tensors are, or None where they are a backbone or a classifier. sidecar: what
    lies beside the file; given: the model, or keys of it, that a person typed, for what neither shows. Errors:
    `CheckpointError` for a model that is like one of ours and differs."""
    given = given or Choice()
    for name in catalog.list_modules("weights/heads"):
        try:
            found: WholeModel | None = catalog.load_module("weights/heads", name).recognise(tensors, sidecar, given)
        except (LookupError, ValueError, ArithmeticError) as error:  # a tensor is missing, or has other dimensions
            what = f"the file has names of {name}, and not all of its tensors ({error})"
            raise CheckpointError(what, "copy it again, or use another copy") from None
        if found is None:
            continue
        if found.unknown:
            names = list_names(found.unknown)
            raise CheckpointError(
                f"the file is like {name} of {found.source}, and ours has no counterpart of {names}",
                "it is a variation that vitrail does not have",
            )
        return found
    return None


def split_prefix(tensors: Tensors, prefix: str) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """The tensors whose names begin with a prefix, without it, and the others."""
    inside = {name.removeprefix(prefix): t for name, t in tensors.items() if name.startswith(prefix)}
    return inside, {name: t for name, t in tensors.items() if not name.startswith(prefix)}


def convert_backbone(tensors: Tensors, family: str) -> Converted:
    """The tensors of a backbone in our names, by the family's table that leaves the fewest of them unknown."""
    tables = catalog.load_module("weights/tables", family).SOURCES.values()
    return min((convert(tensors, rules) for rules in tables), key=lambda made: len(made.unknown))


def join(
    prefix: str, backbone: Converted, head: Converted
) -> tuple[dict[str, Tensor], tuple[str, ...], dict[str, str]]:
    """The tensors of both as in the state dict of the model, the unknown names and the dropped ones. prefix: of the
    backbone in the file."""
    tensors = {f"backbone.{name}": t for name, t in backbone.tensors.items()} | head.tensors
    dropped = {prefix + name: why for name, why in backbone.dropped.items()} | head.dropped
    return tensors, (*(prefix + name for name in backbone.unknown), *head.unknown), dropped


def name_model(family: str, fields: Mapping[str, Any]) -> Choice:
    """The variant of a family that is nearest to a config, with the keys that differ."""
    variant, keys = choose_variant(catalog.load_module("models", family).VARIANTS, fields)
    return Choice(f"{family}/{variant}", {k: list(v) if isinstance(v, tuple) else v for k, v in keys.items()})


def class_names(sidecar: Sidecar, count: int) -> tuple[str, ...]:
    """The names of classes that the sidecar has, else their numbers."""
    return sidecar.class_names(count) or tuple(map(str, range(count)))


def input_of(
    sidecar: Sidecar, usual: Preprocessing, size: tuple[int, int], channels: int, resize_mode: Any
) -> InputConfig:
    """The preprocessing of masks or boxes: whole images at a size of their own, with the sidecar's mean and standard
    deviation, if it has them."""
    stated = read_input(sidecar)
    mean, std = stated.get("mean", usual.mean), stated.get("std", usual.std)
    return InputConfig(size, channels, mean, std, resize_mode, None, stated.get("interpolation", usual.interpolation))


def count_blocks(tensors: Tensors, prefix: str) -> int:
    """The number of different indices behind a prefix: `blocks.0`, `blocks.1`, ..."""
    return len({name.removeprefix(prefix).partition(".")[0] for name in tensors if name.startswith(prefix)})
