"""Words on the command line into a dataclass of arguments. tyro parses, helps and completes; keys of a recipe are taken out
first, so that a wrong one gets the same short answer as in a recipe file."""

import contextlib
import dataclasses
import io
import re
import sys
from collections.abc import Iterable
from typing import Any, TypeVar, get_type_hints

from vitrail.errors import SYNONYMS, UsageError, nearest, pick
from vitrail.recipe import CHOICES, SECTIONS, Recipe
from vitrail.validation import parse, spoken

T = TypeVar("T")
Given = list[tuple[str, dict[str, Any]]]


def arguments(kind: type[T], words: list[str], prog: str) -> T:
    """`words` as a `kind`. Errors: `UsageError`; `--help` prints and leaves."""
    import tyro

    if {"-h", "--help"} & set(words):
        tyro.cli(kind, args=["--help"], prog=prog)
    refuse(words, kind, prog)
    out, err = io.StringIO(), io.StringIO()
    try:
        with contextlib.redirect_stderr(err), contextlib.redirect_stdout(out):
            return tyro.cli(kind, args=words, prog=prog)
    except SystemExit as leave:
        if leave.code in (0, None):
            sys.stdout.write(out.getvalue())
            raise
        raise UsageError(condensed(err.getvalue(), kind, prog), f"{prog} --help shows every option") from None


def refuse(words: list[str], kind: type, prog: str) -> None:
    """Errors: `UsageError` for options that do not exist (with the nearest), come twice, or are empty."""
    flags = own_flags(kind)
    seen: set[str] = set()
    for i, word in enumerate(words):
        flag, equals, value = word.partition("=")
        flag = flag.replace("_", "-")
        if not word.startswith("-") or numeric(word) or word.startswith("--tyro"):
            continue
        if flag not in flags:
            propose(flag, flags, kind, prog)
        if flag in seen and flags[flag] != "many":
            raise UsageError(f"{flag} is given twice", "say it once")
        if flags[flag] != "switch" and (words[i + 1 : i + 2] == [""] or (equals and not value)):
            raise UsageError(f"{flag} is empty", f"leave it out, or give it a value; {prog} --help")
        seen.add(flag)


def own_flags(kind: type) -> dict[str, str]:
    """The options of a command, and whether each is a switch, takes one value, or many."""
    flags = {"--help": "switch"}
    for name, hint in get_type_hints(kind, include_extras=True).items():
        if (name in SECTIONS and name not in CHOICES) or tyro_marks(hint, "Positional"):
            continue
        flag = f"--{name.rstrip('_').replace('_', '-')}"
        flags[flag] = "switch" if hint is bool else "many" if tyro_marks(hint, "UseAppendAction") else "value"
        if hint is bool:
            flags[f"--no-{flag[2:]}"] = "switch"
    return flags


def tyro_marks(hint: Any, mark: str) -> bool:
    return any(mark in repr(m) for m in getattr(hint, "__metadata__", ()))


def propose(flag: str, flags: Iterable[str], kind: type, prog: str) -> None:
    """Errors: `UsageError` always, with what the option may have been meant to be, a key of a recipe included."""
    hint = f"{prog} --help shows every option"
    keys = recipe_flags() if "plan" in get_type_hints(kind) else []
    leaf = flag.lstrip("-").rpartition(".")[2].replace("-", "_")
    if section := [k for k in keys if k.startswith(f"{flag.rstrip('.')}.")]:
        raise UsageError(f"{flag} is a section of a recipe; did you mean one of its keys, {', '.join(section[:9])}?", hint)
    if len(flag) == 2 and (same := [f for f in flags if f.startswith(f"-{flag}")]):
        raise UsageError(f"unknown option {flag}; did you mean {' or '.join(same)}?", hint)
    for name in (leaf, *nearest(leaf, SYNONYMS)[:1]):
        meant = SYNONYMS.get(name, name).replace("_", "-")
        if same := [k for k in keys if k.endswith(f".{meant}")]:
            raise UsageError(f"unknown option {flag}; did you mean {' or '.join(same)}?", hint)
    pick(flag, [*flags, "--debug", *keys], "option", hint)


def recipe_flags() -> list[str]:
    """Every key of a recipe as an option, those of models, data sets and tasks included."""
    from vitrail import catalog

    found = [f"--{s}.{f.name}" for s, part in parts().items() if s not in CHOICES for f in dataclasses.fields(part)]
    for section, floor in (("model", "models"), ("data", "datasets"), ("task", "tasks")):
        found += dict.fromkeys(f"--{section}.{key}" for room in catalog.rooms(floor) for key in catalog.fields(floor, room))
    return [k.replace("_", "-") for k in found]


def parts() -> dict[str, Any]:
    return {f.name: getattr(Recipe(), f.name) for f in dataclasses.fields(Recipe)}


def device(name: str) -> str:
    """`name` if it can be a device here. Errors: `UsageError`."""
    kind = re.fullmatch(r"(auto|cpu|mps|cuda)|cuda:(\d+)", name)
    if not kind:
        pick(name, ("auto", "cpu", "cuda", "mps"), "device", "cuda:1 is the second GPU")
    if name.startswith("cuda"):
        import torch

        there = torch.cuda.device_count() if torch.cuda.is_available() else 0
        if there <= int(kind[2] or 0 if kind else 0):
            found = f"only {there}, counted from cuda:0" if there else "none that torch can use"
            raise UsageError(f"there is no GPU {name!r} here: {found}", "leave --device out; vitrail doctor says what there is")
    return name


def take_keys(words: list[str]) -> tuple[list[str], Given]:
    """Takes `--section.key value ...` out of `words`: what is left, and the keys by section in the order they stand.

    A key takes one value and whatever numbers follow it (`--input.size 28 28`); a key alone is true, `--augment.no-flip` false.
    """
    rest: list[str] = []
    given: Given = []
    seen: set[str] = set()
    i = 0
    while i < len(words):
        match = re.fullmatch(r"--([\w-]+)\.([\w.-]+?)(?:=(.*))?", words[i], re.DOTALL)
        i += 1
        if not match:
            rest.append(words[i - 1])
            continue
        section, key, value = match.groups()
        pick(section, SECTIONS, "section of a recipe", f"sections: {', '.join(SECTIONS)}")
        values = [value] if value is not None else []
        if value is None:
            while i < len(words) and (numeric(words[i]) if values else not words[i].startswith("--")):
                values.append(words[i])
                i += 1
        key = key.replace("-", "_")
        name = f"{section}.{key.removeprefix('no_')}"
        if name in seen:
            raise UsageError(f"--{name.replace('_', '-')} is given twice", "say it once")
        seen.add(name)
        given.append((section, {key: meaning(values)} if values else switch(section, key)))
    return rest, given


def only(section: str, given: Given, what: str) -> dict[str, Any]:
    """The keys of one section. Errors: `UsageError` for keys of any other."""
    for other, values in given:
        if other != section:
            raise UsageError(f"--{other}.{next(iter(values)).replace('_', '-')} does not change {what}", f"only --{section} keys go here")
    return {key: value for _, values in given for key, value in values.items()}


def numeric(word: str) -> bool:
    return re.fullmatch(r"[-+]?(\d+\.?\d*|\.\d+)([eE][-+]?\d+)?|nan|inf", word) is not None


def meaning(values: list[str]) -> Any:
    if len(values) == 1:
        return parse(values[0])
    return [parse(v) for v in values]


def switch(section: str, key: str) -> dict[str, Any]:
    """A key without a value. Errors: `UsageError` where the key is no switch."""
    kinds = {} if section in CHOICES else get_type_hints(type(parts()[section]))
    name = key.removeprefix("no_")
    if name in kinds and "true" not in spoken(kinds[name]):
        raise UsageError(f"--{section}.{key.replace('_', '-')} needs a value", f"it takes {spoken(kinds[name])}")
    return {name: key == name}


def condensed(box: str, kind: type, prog: str) -> str:
    """What tyro says in its box, in one sentence."""
    inside = (re.sub(r"^[│|╭╰─+\s-]+|[│|╮╯─+\s-]+$", "", line) if "│" in line or "─" in line else line for line in box.splitlines())
    text = re.sub(r"[─-]{3,}", "", " ".join(line.strip() for line in inside if line.strip()))
    text = " ".join(text.partition("For full helptext")[0].split())
    if match := re.search(r"Missing value for argument '\s*([\w-]+)'", text):
        return f"{match[1]} needs a value"
    if match := re.search(r"Unrecognized options: (.*)", text):
        return f"what is {match[1][:100]!r} for? {prog} cannot use it"
    if match := re.search(r"Missing from .*?: (\S+) (.*) \(required\)", text):
        return f"{prog} needs {match[1]}: {match[2]}"
    if match := re.search(r"Error parsing --([\w-]+): .*?(?:(?:from|arguments:) \[(.*?)\]|base 10: ('.*?')|: ('.*?'))", text):
        hint = get_type_hints(kind).get(match[1].replace("-", "_"), str)
        return f"--{match[1]} takes {spoken(hint)}, not {match[2] or match[3] or match[4] or 'nothing'}"
    return text[:240] or "the command is not complete"
