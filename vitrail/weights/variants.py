"""The variant of a family that a config is nearest to, and the keys that differ from it."""

import math
from collections.abc import Mapping
from typing import Any

from vitrail.weights.clues import Open, as_pair

SHAPE = (
    "width",
    "widths",
    "depth",
    "depths",
    "stages",
    "stem_width",
    "token_widths",
    "block",
    "plan",
)  # what a size is
GEOMETRY = ("size", "patch", "channels", "classes")  # what weights of one size may differ in
GIVEN = 1000.0  # one differing field of `SHAPE` counts as much as so many others


def choose_variant(variants: Mapping[str, Any], fields: Mapping[str, Any]) -> tuple[str, dict[str, Any]]:
    """The name of the nearest variant, and the fields that differ from it; open ones are left to the variant."""
    name = min(variants, key=lambda n: distance(differing(variants[n], fields)))
    return name, differing(variants[name], fields)


def differing(config: Any, fields: Mapping[str, Any]) -> dict[str, Any]:
    """The fields that differ from a config."""
    own = vars(config)
    return {k: v for k, v in fields.items() if k in own and not isinstance(v, Open) and not same_value(k, v, own[k])}


def distance(keys: Mapping[str, Any]) -> float:
    return sum(GIVEN if key in SHAPE else 1.0 for key in keys)


def same_value(name: str, a: Any, b: Any) -> bool:
    """Whether two values of a field build the same model. Of LayerScale only that it is there: the file has its values;
    a ratio that rounds to the same width is the same."""
    if name == "layer_scale":
        return (a is None) == (b is None)
    if isinstance(a, float) and isinstance(b, int | float):
        return math.isclose(a, b, rel_tol=1e-6)
    if isinstance(a, list | tuple) and isinstance(b, list | tuple):
        return len(a) == len(b) and all(same_value("", x, y) for x, y in zip(a, b, strict=True))
    if isinstance(a, list | tuple) != isinstance(b, list | tuple) and isinstance(a, int | tuple) and name == "patch":
        return as_pair(a) == as_pair(b)
    return bool(a == b)
