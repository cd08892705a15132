"""Keys of a recipe among the words of a command line."""

import dataclasses
import re
from collections.abc import Sequence
from typing import Any, get_type_hints

from vitrail.cli.syntax.flags import Flag, changes_of, flag_of, kind_of
from vitrail.cli.syntax.former import renamed
from vitrail.errors import UsageError, choose
from vitrail.recipe import CHOICES, SECTIONS, Recipe
from vitrail.validation import RENAMED, describe_type, parse_value, validate

Given = list[tuple[str, dict[str, Any]]]


def take_keys(words: list[str], flags: Sequence[Flag] = ()) -> tuple[list[str], Given]:
    """Splits `words` into the keys of a recipe, `--section.key value ...` and those `flags` that are keys, in order by
    section, and the other words. Returns the words first.

    A key takes one value and all numbers that follow it (`--img-size 28 28`), a list of texts all words up to the next
    option (`--data.classes cat dog`); a key alone is true, `--augment.no-hflip` false.
    """
    by_name = {f.flag: f for f in flags}
    rest: list[str] = []
    given: Given = []
    names: set[str] = set()
    i = 0
    while i < len(words):
        head, equals, value = words[i].partition("=")
        i += 1
        flag = by_name.get(head.replace("_", "-"))
        match = re.fullmatch(r"--([\w-]+)\.([\w.-]+)", head)
        if flag is None and match is None:
            rest.append(words[i - 1])
            continue
        section, key = key_of(match[1], match[2]) if match else flag.key or ("", "")  # type: ignore[union-attr]
        values, texts = [value] if equals else [], False
        if not equals:
            while i < len(words) and (is_number(words[i]) if values else not words[i].startswith("--")):
                values.append(words[i])
                i += 1
            texts = bool(values) and match is not None and takes_texts(section, key)
            while texts and i < len(words) and (is_number(words[i]) or words[i][:1] != "-") and values[0][:1] != "[":
                values.append(words[i])
                i += 1
        name = flag_of(section, key.removeprefix("no_"))
        if name in names:
            raise UsageError(f"{name} is given twice", "give it once")
        names.add(name)
        if flag:
            given.append((section, changes_of(flag, flag_value(flag, values))))
        else:
            own = values if texts and values[0][:1] != "[" else parse_values(values)
            given.append((section, {key: own} if values else switch_value(section, key)))
    return rest, given


def takes_texts(section: str, key: str) -> bool:
    """Whether a key is a list of texts."""
    from vitrail import catalog

    return section in CHOICES and catalog.takes_texts(catalog.FLOORS[section], key)


def import_typed_names(keys: Given) -> None:
    """Imports the user's own modules that were typed as names of a model, a task or a data set; those that a recipe
    file or a run names are only looked up."""
    from vitrail import catalog

    for section, floor in catalog.FLOORS.items():
        for name in (values["name"] for given, values in keys if given == section and "name" in values):
            catalog.import_typed(name, floor)


def key_of(section: str, key: str) -> tuple[str, str]:
    """Section and key as recipes have them. Errors: `UsageError` for unknown sections, and keys by a former name."""
    key = key.replace("-", "_")
    fields = {f.name for f in dataclasses.fields(parts()[section])} if section in SECTIONS else set()
    may_be_former = section not in CHOICES or f"{section}.{key}" in RENAMED
    if may_be_former and key.removeprefix("no_") not in fields and (now := renamed(section, key)):
        raise UsageError(
            f"--{section}.{key.replace('_', '-')} is {now} now", "vitrail train --help all lists every key"
        )
    choose(section, SECTIONS, "section of a recipe", f"sections: {', '.join(SECTIONS)}")
    return section, key


def flag_value(flag: Flag, values: list[str]) -> Any:
    """The value of a flag that is a key of a recipe, validated under the name of the flag. Errors: `UsageError`."""
    if not values:
        raise UsageError(f"{flag.flag} needs a value", f"{flag.flag} {flag.takes}: {flag.about}")
    if values == [""]:
        raise UsageError(f"{flag.flag} is empty", "leave it out, or give it a value")
    assert flag.key
    kind = kind_of(flag.key)
    return values[0] if kind is str else validate(parse_values(values), kind, flag.flag)


def keys_of(section: str, given: Given) -> dict[str, Any]:
    """The keys of one section."""
    return {key: value for own, values in given if own == section for key, value in values.items()}


def parts() -> dict[str, Any]:
    return {f.name: getattr(Recipe(), f.name) for f in dataclasses.fields(Recipe)}


def is_number(word: str) -> bool:
    return re.fullmatch(r"[-+]?(\d+\.?\d*|\.\d+)([eE][-+]?\d+)?|nan|inf", word) is not None


def parse_values(values: list[str]) -> Any:
    if len(values) == 1:
        return parse_value(values[0])
    return [parse_value(v) for v in values]


def switch_value(section: str, key: str) -> dict[str, Any]:
    """A key without a value. Errors: `UsageError` where the key is no switch."""
    kinds = {} if section in CHOICES else get_type_hints(type(parts()[section]))
    name = key.removeprefix("no_")
    if name in kinds and "true" not in describe_type(kinds[name]):
        raise UsageError(f"--{section}.{key.replace('_', '-')} needs a value", f"it takes {describe_type(kinds[name])}")
    return {name: key == name}
