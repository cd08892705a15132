"""Help: one screen for each command, and on request every key of a recipe, from comments in the source."""

import ast
import inspect
import shutil
import sys
import textwrap
from collections.abc import Iterable
from typing import Any

from vitrail import catalog
from vitrail.cli.syntax.flags import FLAGS, flag_of
from vitrail.cli.syntax.keys import take_keys
from vitrail.cli.syntax.source import Option, Sources
from vitrail.cli.syntax.verb import Verb
from vitrail.errors import choose
from vitrail.recipe import CHOICES, Recipe, override
from vitrail.recipe import find as find_recipe
from vitrail.recipe import read as read_recipe
from vitrail.validation import as_path

FLOORS = {"model": "models", "data": "datasets", "task": "tasks"}
NARROWEST, WIDEST = 60, 120  # columns
KEY_COLUMN = 38  # where the meaning of a key begins
FLAG_COLUMN = 26  # largest column where the meaning of a flag begins
Rows = list[tuple[str, str]]


def print_help(verb: Verb[Any], words: list[str]) -> None:
    """One screen after --help alone; keys after "all" or a section of a recipe. Errors: `UsageError`."""
    at = next(i for i, word in enumerate(words) if word in ("-h", "--help"))
    topic = words[at + 1] if words[at + 1 :] and not words[at + 1].startswith("-") else ""
    if not topic or not verb.sections:
        lines = overview(verb)
    else:
        choose(
            topic, ("all", *verb.sections), "section", f"{verb.prog} --help SECTION: {', '.join(verb.sections)}, or all"
        )
        recipe = recipe_of(verb, words[:at] + words[at + 2 :])
        sections = verb.sections if topic == "all" else (topic,)
        whole = [*overview(verb), ""] if topic == "all" else []
        lines = [*whole, *(line for s in sections for line in section_lines(s, recipe)), SWITCHES]
    sys.stdout.write("\n".join(lines) + "\n")


SWITCHES = "A key of {true,false} alone means true; --SECTION.no-KEY means false."


def width() -> int:
    return max(NARROWEST, min(shutil.get_terminal_size().columns, WIDEST))


def overview(verb: Verb[Any]) -> list[str]:
    """One screen: what the command does, its flags, examples, where the rest is."""
    options = verb.options(Sources())
    arguments, own = [o for o in options if o.positional], [o for o in options if not o.positional]
    summary, examples, notes = documentation(verb)
    usage = " ".join([f"usage: {verb.prog}", *(o.positional for o in arguments), "[OPTIONS]"])
    lines = [
        usage,
        *textwrap.wrap(summary, width()),
        "",
        *format_rows(flag_rows(verb, arguments, own), FLAG_COLUMN),
    ]
    for note in notes:
        lines += ["", *textwrap.wrap(note, width())]
    if examples:
        lines += ["", "examples:", *(f"  {example}" for example in examples)]
    if verb.sections:
        keys = ", ".join(verb.sections)
        rows = [(f"{verb.prog} --help all", "every key: type, default, meaning")]
        rows += [(f"{verb.prog} --help SECTION", f"one of: {keys}")] if verb.sections[1:] else []
        lines += ["", "more:", *format_rows(rows, KEY_COLUMN)]
    return lines


def documentation(verb: Verb[Any]) -> tuple[str, list[str], list[str]]:
    """The docstring of a command: what it does, examples, notes."""
    module = Sources().module(verb.module) if verb.module else None
    text = ast.get_docstring(module.tree) if module else inspect.getdoc(verb.kind)
    first, *paragraphs = (text or "").split("\n\n")
    examples = [line.strip() for p in paragraphs for line in p.splitlines() if line.strip().startswith("vitrail ")]
    notes = [" ".join(p.split()) for p in paragraphs if not p.strip().startswith("vitrail ")]
    return " ".join(first.split()), examples, notes


def flag_rows(verb: Verb[Any], arguments: Iterable[Option], own: Iterable[Option]) -> Rows:
    """Positional arguments, then flags without a section, then the other options of the command."""
    arguments, own = ([o._replace(about=phrase(o.about)) for o in options] for options in (arguments, own))
    rows = [(o.positional, describe(o)) for o in arguments]
    mine, by_name = {o.flag: o for o in own}, {f.name: f for f in verb.flags}
    for flag in FLAGS:
        if option := mine.pop(flag.name, None):
            rows.append(
                (f"--{flag.name} {option.kind if option.kind.startswith('{') else flag.takes}", describe(option))
            )
        elif flag.name in by_name:
            rows.append((f"{f'-{flag.short}, ' if flag.short else ''}--{flag.name} {flag.takes}", flag.about))
    return rows + [
        (f"--{'' if o.kind or o.default != 'true' else 'no-'}{o.flag} {o.kind}".rstrip(), describe(o))
        for o in mine.values()
    ]


def phrase(sentence: str) -> str:
    """A sentence as an entry of a list: no capital, no full stop."""
    return (
        sentence[:1].lower() + sentence[1:] if sentence[1:2].islower() or sentence[1:2] == " " else sentence
    ).removesuffix(".")


def describe(option: Option, unset: str = "") -> str:
    """The meaning of an option, and its default where there is one. `unset`: what None stands for."""
    default = unset if option.default == "None" else option.default
    is_complete = not default or "default" in option.about or not option.kind
    return option.about if is_complete else f"{option.about} (default: {default})".strip()


def format_rows(rows: Rows, column: int) -> list[str]:
    """Two columns, the second wrapped; a long entry of the first is on its own line."""
    at = min(column, max((len(head) for head, _ in rows), default=0) + 4)
    lines = []
    for head, text in rows:
        body = textwrap.wrap(text, width() - at, break_on_hyphens=False) or [""]
        if len(head) + 4 > at:
            lines.append(f"  {head}")
            lines += [f"{'':{at}}{line}" for line in body if line]
        else:
            lines.append(f"  {head}".ljust(at) + body[0])
            lines += [f"{'':{at}}{line}" for line in body[1:]]
    return [line.rstrip() for line in lines]


def recipe_of(verb: Verb[Any], words: list[str]) -> Recipe:
    """The recipe of a command line, with the model, data and task that it names: their keys are listed."""
    rest, keys = take_keys(words, verb.flags)
    recipe = Recipe()
    for word in (w for w in rest if not w.startswith("-")):
        if word.endswith(".toml") and "model" in verb.sections:
            recipe = read_recipe(find_recipe(as_path(word)))
        elif word.partition("/")[0] in catalog.list_modules("models") and "model" in verb.sections:
            recipe = override(recipe, "model", {"name": word})
        elif verb.sections == ("data",):
            recipe = override(recipe, "data", {"path": word})
    for section, values in keys:
        if section in CHOICES:
            recipe = override(recipe, section, values)
    return recipe


def section_lines(section: str, recipe: Recipe) -> list[str]:
    """Every key of a section of a recipe."""
    sources, part = Sources(), getattr(recipe, section)
    about = inspect.getdoc(type(part)) or ""
    common = sources.options(type(part).__module__, type(part).__name__)
    if section in CHOICES:
        common, about = [o for o in common if o.name not in ("name", "keys")], ""
    title = "" if about.startswith(f"{type(part).__name__}(") else f"  {' '.join(about.split())}"
    lines = [
        *textwrap.wrap(f"[{section}]{title}", width()),
        *format_rows(key_rows(section, common, "chosen from your data"), KEY_COLUMN),
    ]
    if section in CHOICES:
        for heading, options in options_of_choice(section, part, sources):
            lines += [*textwrap.wrap(heading, width(), initial_indent="  ", subsequent_indent="  "),
                      *format_rows(key_rows(section, options, "none"), KEY_COLUMN)]  # fmt: skip
    return [*lines, ""]


def options_of_choice(section: str, choice: Any, sources: Sources) -> list[tuple[str, list[Option]]]:
    """The keys of the module that a section names, or of every module that it could name."""
    floor, name = FLOORS[section], choice.name
    if section == "data" and not name and (path := choice.keys.get("path")):
        name = catalog.detect_layout(str(path))
    room, _, variant = name.partition("/")
    if "." in room.strip("."):
        return [(name, sources.options(room, variant=variant))]
    if name:
        catalog.check_name(floor, name)
        if variant:
            choose(name, catalog.list_names(floor, room), section)
    rooms = [room] if name else catalog.list_modules(floor)
    return [
        (
            f"{name or r}: {catalog.read_docstring(floor, r)[0]}",
            sources.options(f"vitrail.{floor}.{r}", variant=variant),
        )
        for r in rooms
    ]


def key_rows(section: str, options: Iterable[Option], unset: str) -> Rows:
    """`unset`: what None stands for where the comment does not explain it."""
    rows = []
    for option in options:
        flag, key = flag_of(section, option.name), f"--{section}.{option.flag}"
        names = key if flag == key or (section, option.name) == ("data", "path") else f"{flag}, {key}"
        about = option.about or next((f.about for f in FLAGS if f.flag == flag), "")
        whole = option._replace(kind=option.kind or "{true,false}", about=about)
        rows.append((f"{names} {whole.kind}", describe(whole, unset)))
    return rows
