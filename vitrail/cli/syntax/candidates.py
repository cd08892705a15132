"""Completions of the last word of a command line. Nothing heavy is imported."""

from collections.abc import Iterable
from pathlib import Path
from typing import Any

from vitrail import catalog
from vitrail.cli.syntax.flags import BY_NAME, SHORT
from vitrail.cli.syntax.help import options_of_choice, recipe_of
from vitrail.cli.syntax.source import Option, Sources
from vitrail.cli.syntax.verb import Verb
from vitrail.errors import VitrailError
from vitrail.recipe import CHOICES, SECTIONS, Recipe

DEVICES = ("auto", "cpu", "cuda", "mps")


def candidates(words: list[str]) -> list[str]:
    """Completions of the last of `words` (those after `vitrail`); none where it can only be a file."""
    from vitrail.cli.main import COMMANDS, command

    last = words[-1] if words else ""
    if len(words) < 2:
        return with_prefix(last, [*COMMANDS, "--help", "--version"])
    if words[0] == "help" and len(words) == 2:
        return with_prefix(last, COMMANDS)
    if words[0] not in COMMANDS:
        return []
    verb = command(words[0])
    if words[0] == "study" and len(words) > 2 and not words[1].startswith("-"):
        from vitrail.cli.study import verb_of

        verb = verb_of(words[1])
    try:
        return with_prefix(last, list_candidates(verb, words[1:]))
    except VitrailError:  # an earlier word is wrong: running the command reports it
        return []


def list_candidates(verb: Verb[Any], words: list[str]) -> Iterable[str]:
    *before, last = words
    flag = SHORT.get(before[-1], before[-1]) if before else ""
    options = verb.options(Sources())
    if flag in ("--help", "-h") and verb.sections and not last.startswith("-"):
        return ["all", *verb.sections]
    if last.startswith("-"):
        return list_flags(verb, options, before, last)
    if flag.startswith("--") and (values := list_values(verb, options, before, flag)) is not None:
        return values
    positionals = [o.positional.strip("[].") for o in options if o.positional]
    if verb.name == "study":
        return [room.replace("_", "-") for room in catalog.list_modules("studies")]
    return [name for positional in positionals for name in POSITIONALS.get(positional, tuple)()]


def list_flags(verb: Verb[Any], options: list[Option], before: list[str], last: str) -> list[str]:
    """Flags of a command, and either its sections or, once one is typed, the keys of that one."""
    section, dot, _ = last.removeprefix("--").partition(".")
    if dot and section in verb.sections:
        keys = [f"--{section}.{o.flag}" for o in section_options(verb, section, before)]
        switches = [f"--{section}.no-{o.flag}" for o in section_options(verb, section, before) if not o.kind]
        return list(dict.fromkeys([*keys, *(s for s in switches if last.startswith(f"--{section}.no"))]))
    own = [f"--{o.flag}" for o in options if not o.positional]
    return [*own, *(f.flag for f in verb.flags), *(f"--{s}." for s in verb.sections), "--help"]


def section_options(verb: Verb[Any], section: str, before: list[str]) -> list[Option]:
    """The keys of a section; of model, data and task those of the chosen one."""
    sources = Sources()
    part = getattr(recipe_of(verb, before) if section in CHOICES else Recipe(), section)
    common = sources.options(type(part).__module__, type(part).__name__)
    if section not in CHOICES:
        return common
    own = [option for _, options in options_of_choice(section, part, sources) for option in options]
    return [*(option for option in common if option.name not in ("name", "keys")), *own]


def list_values(verb: Verb[Any], options: list[Option], before: list[str], flag: str) -> Iterable[str] | None:
    """The values of a flag; empty where only files are possible, None for a switch."""
    option = next((o for o in options if f"--{o.flag}" == flag), None)
    if flag in VALUES:
        return VALUES[flag]()
    section, _, key = flag.removeprefix("--").partition(".")
    if flag in BY_NAME and (recipe_key := BY_NAME[flag].key) and not option:
        section, key = recipe_key
    if section in SECTIONS and section in verb.sections:
        option = next((o for o in section_options(verb, section, before[:-1]) if o.flag == key.replace("_", "-")), None)
    if option is None or not option.kind:
        return None
    return [value for part in option.kind.split("|") if part.startswith("{") for value in part.strip("{}").split(",")]


def with_prefix(last: str, names: Iterable[str]) -> list[str]:
    return [name for name in dict.fromkeys(names) if name.startswith(last)]


def runs() -> list[str]:
    """Folders of runs: those in runs/, and those in the working directory."""
    files = [*Path("runs").glob("*/run.json"), *Path().glob("*/run.json")]
    return sorted(str(file.parent) for file in files)


def weights() -> list[str]:
    """Published weights by name: models that have some, then all."""
    from vitrail.weights.remote.table import read_table

    return [*(row.model for row in read_table() if row.recommended), *(row.name for row in read_table())]


def recipes() -> list[str]:
    return sorted(
        str(file)
        for pattern in ("*.toml", "recipes/*.toml")
        for file in Path().glob(pattern)
        if file.name != "pyproject.toml"
    )


POSITIONALS = {  # candidates by the name of a positional argument
    "RUN": runs,
    "MODEL": lambda: [*catalog.list_names("models"), *runs()],
    "SOURCE": lambda: [*runs(), *catalog.list_names("models")],
    "NAME": lambda: [*catalog.list_modules("models"), *catalog.list_names("models")],
    "WEIGHTS": weights,
    "RECIPE": recipes,
    "DATA": lambda: catalog.WORDS,
    "SHELL": lambda: ("bash", "zsh", "fish"),
}
VALUES = {
    "--model": lambda: catalog.list_names("models"),
    "--task": lambda: catalog.list_modules("tasks"),
    "--data": lambda: catalog.WORDS,
    "--weights": lambda: [*runs(), *weights()],
    "--resume": runs,
    "--features": runs,
    "--cka": runs,
    "--device": lambda: DEVICES,
    "--split": lambda: ("train", "val", "test"),
}
