"""Values into frozen dataclasses, each checked: unknown names get the nearest, wrong kinds and ranges are said plainly."""

import dataclasses
import json
import math
from typing import Annotated, Any, TypeVar, get_type_hints

from annotated_types import Ge, Gt, Lt

from vitrail.errors import UsageError, pick

Positive = Annotated[int, Gt(0)]
Count = Annotated[int, Ge(0)]
Amount = Annotated[float, Ge(0)]
Fraction = Annotated[float, Ge(0), Lt(1)]

T = TypeVar("T")


def update(config: T, keys: dict[str, Any], where: str) -> T:
    """`config` with the values of `keys`, each checked against the type of the field it lands in.

    >>> update(Point(x=1), {"x": 2}, "point")
    Point(x=2)

    `where` is what the user calls the config. Errors: `UsageError`.
    """
    kinds = get_type_hints(type(config), include_extras=True)
    fields = [f.name for f in dataclasses.fields(config)]  # type: ignore[arg-type]
    changes = {}
    for key, value in keys.items():
        name = pick(key.replace("-", "_"), fields, f"key in {where}", f"keys: {', '.join(fields)}")
        changes[name] = checked(value, kinds[name], f"{where}.{name}")
    return dataclasses.replace(config, **changes)  # type: ignore[type-var]


def checked(value: Any, kind: Any, where: str) -> Any:
    """`value` as `kind`, strictly: no text for a number, no boolean for an integer; a list becomes a tuple."""
    from pydantic import TypeAdapter, ValidationError

    if any(isinstance(v, float) and not math.isfinite(v) for v in (value if isinstance(value, list | tuple) else [value])):
        raise UsageError(f"{where} is {value}: a number that is not finite", f"{where} takes {spoken(kind)}")
    try:
        return TypeAdapter(kind).validate_json(json.dumps(value, default=str), strict=True)
    except ValidationError as error:
        if isinstance(value, str) and (options := literals(kind)):
            pick(value, options, f"value of {where}")
        bounds = [e["msg"].removeprefix("Input should be ") for e in error.errors() if "_than" in e["type"]]
        takes = f"a number {bounds[0]}" if bounds else spoken(kind)
        raise UsageError(f"{where} takes {takes}, not {value!r}") from None


def literals(kind: Any) -> list[str]:
    """The strings that a type allows, where it is a choice among strings."""
    import typing

    if typing.get_origin(kind) is typing.Literal:
        return [v for v in typing.get_args(kind) if isinstance(v, str)]
    return [v for inner in typing.get_args(kind) for v in literals(inner)]


def spoken(kind: Any) -> str:
    """A type in words: what a user may write."""
    import types
    import typing

    origin, args = typing.get_origin(kind), typing.get_args(kind)
    if origin is Annotated:
        return spoken(args[0])
    if origin in (typing.Union, types.UnionType):
        return " or ".join(spoken(a) for a in args if a is not type(None))
    if origin is typing.Literal:
        return "one of " + ", ".join(map(repr, args))
    if origin is tuple:
        return "a list" if args[-1] is ... else f"{len(args)} values"
    words = {int: "a whole number", float: "a number", bool: "true or false", str: "a text"}
    return words.get(kind, str(kind))


def parse(text: str) -> Any:
    """What a word on the command line means: a TOML value, or the bare text where it is not one."""
    import tomllib

    try:
        return tomllib.loads(f"x = {text}")["x"]
    except tomllib.TOMLDecodeError:
        return {"True": True, "False": False}.get(text, text)
