"""Values into frozen dataclasses, each checked: unknown names are answered with the nearest, wrong types and ranges
with what is valid."""

import dataclasses
import json
import math
import re
import types
import typing
from pathlib import Path
from typing import Annotated, Any, TypeVar, get_type_hints

from annotated_types import Ge, Gt, Le, Lt

from vitrail.errors import CheckpointError, UsageError, choose

Positive = Annotated[int, Gt(0)]
Count = Annotated[int, Ge(0)]
NonNegative = Annotated[float, Ge(0)]
PositiveFloat = Annotated[float, Gt(0)]
Fraction = Annotated[float, Ge(0), Lt(1)]
UnitInterval = Annotated[float, Ge(0), Le(1)]
Byte = Annotated[int, Ge(0), Le(255)]

LITERAL_WORDS = {"True": True, "False": False, "None": None}  # as help prints them

SURROGATE = re.compile("[\ud800-\udfff]")
SHIFT = 0x102000  # to characters that no text has

RENAMED = {  # recipe sections and keys by their former names: their names now
    "start": "init", "plan": "train", "machine": "runtime", "start.source": "init.format",
    "input.resize": "input.resize_mode", "augment.resize": "augment.scale_jitter", "augment.flip": "augment.hflip",
    "augment.flip_vertical": "augment.vflip", "augment.randaugment": "augment.randaugment_ops",
    "augment.policy": "augment.auto_augment", "augment.jitter": "augment.color_jitter",
    "augment.erase": "augment.random_erasing", "augment.mix_share": "augment.mix_prob",
    "augment.mix_switch": "augment.cutmix_prob", "augment.mix_each": "augment.mix_mode",
    "augment.repeats": "augment.repeated_aug", "optim.kind": "optim.name", "optim.warmup": "optim.warmup_steps",
    "optim.final": "optim.min_lr_ratio", "optim.clip": "optim.clip_grad", "optim.unfreeze": "optim.unfreeze_steps",
    "optim.ema": "optim.ema_decay", "optim.ema2": "optim.ema_decay_2", "plan.batch": "train.batch_size",
    "plan.grow_from": "train.start_size", "plan.grow_until": "train.full_size_at", "plan.share": "data.fraction",
    "plan.sampling": "data.sampler", "plan.bad": "data.on_error", "plan.bad_budget": "data.max_errors",
    "plan.fingerprint": "data.fingerprint", "machine.micro": "runtime.micro_batch",
    "machine.cache": "runtime.cache_images", "machine.latents": "runtime.latents_dir",
    "machine.keep": "runtime.keep_checkpoints", "machine.judge": "eval.features", "data.truth": "data.annotation",
    "task.nothing": "task.no_object_weight",
}  # fmt: skip

EDITED = "it was edited, or written by another version of vitrail"
T = TypeVar("T")


def check_renamed(section: str, key: str = "", where: str = "") -> None:
    """Errors: `UsageError` for a section or key by its former name."""
    full = f"{section}.{key.replace('-', '_')}" if key else section
    if full in RENAMED:
        raise UsageError(
            f"unknown {'key' if key else 'section'} {full}{where}; it is called {RENAMED[full]}",
            f"write {RENAMED[full]}",
        )
    if key:
        check_renamed(section, "", where)


def update_config(config: T, keys: dict[str, Any], where: str) -> T:
    """`config` with the values of `keys`, each checked against the type of its field.

    >>> update_config(Point(x=1), {"x": 2}, "point")
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
    """`value` as `kind`, strictly: no text for a number, no boolean for an integer; a list becomes a tuple, and so does
    one number or text where any number of them may stand."""
    from pydantic import TypeAdapter, ValidationError

    if (type(value) in (int, float) and takes_any_number(kind)) or (isinstance(value, str) and kind == tuple[str, ...]):
        value = [value]
    value = [as_plain(v) for v in value] if isinstance(value, list | tuple) else as_plain(value)
    if any(
        isinstance(v, float) and not math.isfinite(v) for v in (value if isinstance(value, list | tuple) else [value])
    ):
        raise UsageError(
            f"{where} is {format_value(value)}, which is not a finite number", f"{where} takes {describe_type(kind)}"
        )
    try:
        text = json.dumps(value, default=str, ensure_ascii=False)
        checked = TypeAdapter(kind).validate_json(SURROGATE.sub(lambda m: chr(ord(m[0]) + SHIFT), text), strict=True)
        return restore_surrogates(checked) if SURROGATE.search(text) else checked
    except ValidationError as error:
        if isinstance(value, str) and (options := literals(kind)):
            choose(value, options, "value", where=f" of {where}")
        limits = " and ".join(dict.fromkeys(shorten_limit(e["msg"]) for e in error.errors() if "_than" in e["type"]))
        each = ", each " if limits and isinstance(value, list | tuple) else " " if limits else ""
        raise UsageError(
            f"{where} takes {describe_type(kind)}{each}{limits}, not {format_value(value)}",
            suggest_example(kind, value),
        ) from None


def restore_surrogates(value: Any) -> Any:
    """The value with the bytes of names that are no UTF-8, which pydantic does not take, as Python keeps them."""
    if isinstance(value, str):
        return "".join(chr(code - SHIFT) if (code := ord(ch)) >= 0xD800 + SHIFT else ch for ch in value)
    return type(value)(map(restore_surrogates, value)) if isinstance(value, list | tuple) else value


def check_fields(values: dict[str, Any], kinds: dict[str, Any], where: str) -> None:
    """Checks the types of fields that a file has. `kinds`: the type of each by its name; other fields are left alone.
    Errors: `CheckpointError` for the first that is missing or of another type."""
    from pydantic import TypeAdapter, ValidationError

    for name, kind in kinds.items():
        try:
            TypeAdapter(kind).validate_python(replace_surrogates(values[name]), strict=True)
        except KeyError:
            raise CheckpointError(f"{where} has no {name}", EDITED) from None
        except (ValidationError, RecursionError) as error:
            why = error.errors()[0]["msg"] if isinstance(error, ValidationError) else "it is nested too deeply"
            raise CheckpointError(f"{name} in {where} is not valid: {why[:160]}", EDITED) from None


def replace_surrogates(value: Any) -> Any:
    """The value without the bytes of names that are no UTF-8, which pydantic does not take."""
    if isinstance(value, str):
        return value.encode("utf-8", "replace").decode()
    if isinstance(value, dict):
        return {replace_surrogates(key): replace_surrogates(item) for key, item in value.items()}
    return [replace_surrogates(item) for item in value] if isinstance(value, list) else value


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
    """A type in words: the values that are valid."""
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
    words = {int: "a whole number", float: "a number", bool: "true or false", str: "a text", dict: "an object"}
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
    """An example of a valid value, for common mistakes."""
    if isinstance(value, int | float) and not isinstance(value, bool) and describe_type(kind).startswith("2 "):
        return f"for example {value} {value}"
    if value is True and "true" not in describe_type(kind):
        return "on the command line, an option without a value means true"
    return ""


def as_path(path: Any) -> Path:
    """A path that a user gave or that a file names, its ~ resolved; one that was written on Windows is read here too.
    Errors: `UsageError` where no file can have such a name."""
    try:
        resolved = Path(path).expanduser()
        if not resolved.exists() and "\\" in str(path):
            slashed = Path(str(path).replace("\\", "/")).expanduser()
            resolved = slashed if slashed.exists() else resolved
    except RuntimeError:
        raise UsageError(
            f"{format_value(str(path))} begins with the home folder of an unknown user",
            "write the path from / or from here",
        ) from None
    except (OSError, ValueError, TypeError) as error:
        why = getattr(error, "strerror", None) or error
        raise UsageError(
            f"{format_value(str(path))} cannot be accessed: {why}", "check the path and its permissions"
        ) from None
    return resolved


def parse_value(text: str) -> Any:
    """The value of a word on the command line: as TOML, or the bare text where it is not valid TOML."""
    import tomllib

    try:
        return tomllib.loads(f"x = {text}")["x"]
    except (ValueError, RecursionError):  # TOMLDecodeError, or a number of thousands of digits
        pass
    return (
        float(text)
        if re.fullmatch(r"[-+]?(\d+\.|\.\d+)(e[-+]?\d+)?", text, re.IGNORECASE)
        else LITERAL_WORDS.get(text, text)
    )
