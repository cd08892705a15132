"""Values into frozen dataclasses, each checked: unknown names get the nearest, wrong kinds and ranges are said plainly."""

import dataclasses
import json
import math
import re
import types
import typing
from pathlib import Path
from typing import Annotated, Any, TypeVar, get_type_hints

from annotated_types import Ge, Gt, Le, Lt

from vitrail.errors import UsageError, choose

Positive = Annotated[int, Gt(0)]
Count = Annotated[int, Ge(0)]
NonNegative = Annotated[float, Ge(0)]
PositiveFloat = Annotated[float, Gt(0)]
Fraction = Annotated[float, Ge(0), Lt(1)]
UnitInterval = Annotated[float, Ge(0), Le(1)]
Byte = Annotated[int, Ge(0), Le(255)]

LITERAL_WORDS = {"True": True, "False": False, "None": None}  # as help prints them

T = TypeVar("T")


def update_config(config: T, keys: dict[str, Any], where: str) -> T:
    """`config` with the values of `keys`, each checked against the type of the field it lands in.

    >>> update(Point(x=1), {"x": 2}, "point")
    Point(x=2)

    `where` is what the user calls the config. Errors: `UsageError`.
    """
    kinds = get_type_hints(type(config), include_extras=True)
    fields = [f.name for f in dataclasses.fields(config)]  # type: ignore[arg-type]
    changes = {}
    for key, value in keys.items():
        name = choose(key.replace("-", "_"), fields, "key", f"keys: {', '.join(fields)}", f" in {where}")
        changes[name] = validate(value, kinds[name], f"{where}.{name}")
    return dataclasses.replace(config, **changes)  # type: ignore[type-var]


def validate(value: Any, kind: Any, where: str) -> Any:
    """`value` as `kind`, strictly: no text for a number, no boolean for an integer; a list becomes a tuple, and so does one number
    where any number of them may stand."""
    from pydantic import TypeAdapter, ValidationError

    if type(value) in (int, float) and takes_any_number(kind):
        value = [value]
    value = [as_plain(v) for v in value] if isinstance(value, list | tuple) else as_plain(value)
    if any(
        isinstance(v, float) and not math.isfinite(v) for v in (value if isinstance(value, list | tuple) else [value])
    ):
        raise UsageError(
            f"{where} is {format_value(value)}, which is not a finite number", f"{where} takes {describe_type(kind)}"
        )
    try:
        return TypeAdapter(kind).validate_json(json.dumps(value, default=str), strict=True)
    except ValidationError as error:
        if isinstance(value, str) and (options := literals(kind)):
            choose(value, options, "value", where=f" of {where}")
        limits = " and ".join(dict.fromkeys(shorten_limit(e["msg"]) for e in error.errors() if "_than" in e["type"]))
        each = ", each " if limits and isinstance(value, list | tuple) else " " if limits else ""
        raise UsageError(
            f"{where} takes {describe_type(kind)}{each}{limits}, not {format_value(value)}",
            suggest_example(kind, value),
        ) from None


def takes_any_number(kind: Any) -> bool:
    """Whether a type is a tuple of any length, and no single number will do."""
    options = typing.get_args(kind) if typing.get_origin(kind) in (typing.Union, types.UnionType) else (kind,)
    return any(typing.get_origin(o) is tuple and typing.get_args(o)[-1] is ... for o in options) and not {
        int,
        float,
    } & set(options)


def as_plain(value: Any) -> Any:
    """A number of numpy or torch as one of Python."""
    return value.item() if hasattr(value, "item") and getattr(value, "ndim", 1) == 0 else value


def shorten_limit(message: str) -> str:
    """A bound in fewer words than pydantic's."""
    for long, short in (
        ("greater than or equal to", "at least"),
        ("less than or equal to", "at most"),
        ("greater", "more"),
    ):
        message = message.replace(long, short)
    return message.removeprefix("Input should be ")


def literals(kind: Any) -> list[str]:
    """The strings that a type allows, where it is a choice among strings."""
    if typing.get_origin(kind) is typing.Literal:
        return [v for v in typing.get_args(kind) if isinstance(v, str)]
    return [v for inner in typing.get_args(kind) for v in literals(inner)]


def describe_type(kind: Any) -> str:
    """A type in words: what a user may write."""
    origin, args = typing.get_origin(kind), typing.get_args(kind)
    if origin is Annotated:
        return describe_type(args[0])
    if origin in (typing.Union, types.UnionType):
        return " or ".join(describe_type(a) for a in args if a is not type(None))
    if origin is typing.Literal:
        return ("one of " if args[1:] else "") + ", ".join(map(repr, args))
    if origin is tuple:
        one = describe_type(args[0]).removeprefix("a ") + "s"
        return f"a list of {one}" if args[-1] is ... else f"{len(args)} {one}"
    words = {int: "a whole number", float: "a number", bool: "true or false", str: "a text"}
    return words.get(kind, str(kind))


def format_value(value: Any) -> str:
    """A value as one would write it."""
    if isinstance(value, list | tuple):
        return " ".join(map(format_value, value)) if value[1:] else f"[{', '.join(map(format_value, value))}]"
    if isinstance(value, bool):
        return str(value).lower()
    text = repr(value) if isinstance(value, str) else str(value)
    return text if len(text) <= 80 else f"{text[:60]}... ({len(text):,} characters)"


def suggest_example(kind: Any, value: Any) -> str:
    """How to write what is meant, where a likely misunderstanding can be seen."""
    if isinstance(value, int | float) and not isinstance(value, bool) and describe_type(kind).startswith("2 "):
        return f"for example {value} {value}"
    if value is True and "true" not in describe_type(kind):
        return "on the command line, an option without a value means true"
    return ""


def as_path(path: Any) -> Path:
    """A path that a user gave, its ~ resolved. Errors: `UsageError` where no file can have such a name."""
    try:
        found = Path(path).expanduser()
        found.exists()
    except RuntimeError:
        raise UsageError(
            f"{format_value(str(path))} begins with the home folder of somebody unknown",
            "write the path from / or from here",
        ) from None
    except (OSError, ValueError, TypeError) as error:
        why = getattr(error, "strerror", None) or error
        raise UsageError(
            f"{format_value(str(path))} cannot be looked at: {why}", "check the path and its permissions"
        ) from None
    return found


def parse_value(text: str) -> Any:
    """What a word on the command line means: a TOML value, or the bare text where it is not one."""
    import tomllib

    try:
        return tomllib.loads(f"x = {text}")["x"]
    except tomllib.TOMLDecodeError:
        pass
    return (
        float(text)
        if re.fullmatch(r"[-+]?(\d+\.|\.\d+)(e[-+]?\d+)?", text, re.IGNORECASE)
        else LITERAL_WORDS.get(text, text)
    )
