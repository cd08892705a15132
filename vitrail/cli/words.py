"""Words on the command line into a dataclass of arguments. tyro parses, helps and completes; keys of a recipe are taken out
first, so that a wrong one gets the same short answer as in a recipe file."""

import contextlib
import dataclasses
import io
import re
import sys
from typing import Any, TypeVar

from vitrail.checks import parse
from vitrail.errors import UsageError, pick
from vitrail.recipe import SECTIONS

T = TypeVar("T")
Given = list[tuple[str, dict[str, Any]]]


def arguments(kind: type[T], words: list[str], prog: str) -> T:
    """`words` as a `kind`. Errors: `UsageError`; `--help` prints and leaves."""
    import tyro

    for word in words:
        if word.startswith("--") and not word.startswith("--tyro"):
            known(word.split("=")[0], kind, prog)
    if {"-h", "--help"} & set(words):
        tyro.cli(kind, args=["--help"], prog=prog)
    out, err = io.StringIO(), io.StringIO()
    try:
        with contextlib.redirect_stderr(err), contextlib.redirect_stdout(out):
            return tyro.cli(kind, args=words, prog=prog)
    except SystemExit as leave:
        if leave.code in (0, None):
            sys.stdout.write(out.getvalue())
            raise
        raise UsageError(condensed(err.getvalue()), f"{prog} --help shows every option") from None


def known(flag: str, kind: type, prog: str) -> None:
    """Errors: `UsageError` with the nearest flags for one that does not exist."""
    flags = ["--help", "--debug", *(f"--{f.name.replace('_', '-')}" for f in dataclasses.fields(kind) if f.name not in SECTIONS)]
    flags += [f"--no-{f.name.replace('_', '-')}" for f in dataclasses.fields(kind) if f.type is bool]
    flags += [f"--{name}" for name in ("model", "data", "task") if any(f.name == name for f in dataclasses.fields(kind))]
    if flag.replace("_", "-") not in flags:
        keys = recipe_flags() if any(f.name == "plan" for f in dataclasses.fields(kind)) else []
        leaf = flag.lstrip("-").split(".")[-1]
        near = [k for k in keys if k.endswith(f".{leaf}")]
        if near:
            raise UsageError(f"unknown option {flag}; did you mean {', '.join(near)}?", f"{prog} --help shows every option")
        pick(flag, [*flags, *keys], "option", f"{prog} --help shows every option")


def recipe_flags() -> list[str]:
    from vitrail.recipe import CHOICES, Recipe

    parts = {f.name: getattr(Recipe(), f.name) for f in dataclasses.fields(Recipe)}
    return [f"--{s}.{f.name.replace('_', '-')}" for s, part in parts.items() if s not in CHOICES for f in dataclasses.fields(part)]


def take_keys(words: list[str]) -> tuple[list[str], Given]:
    """Takes `--section.key value ...` out of `words`: what is left, and the keys by section in the order they stand.

    A key takes one value and whatever numbers follow it (`--input.size 28 28`); a key alone is true, `--augment.no-flip` false.
    """
    rest: list[str] = []
    given: Given = []
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
        given.append((section, {key: meaning(values)} if values else switch(key)))
    return rest, given


def numeric(word: str) -> bool:
    return re.fullmatch(r"[-+]?(\d+\.?\d*|\.\d+)([eE][-+]?\d+)?|nan|inf", word) is not None


def meaning(values: list[str]) -> Any:
    if len(values) == 1:
        return parse(values[0])
    return [parse(v) for v in values]


def switch(key: str) -> dict[str, Any]:
    return {key[3:]: False} if key.startswith("no-") else {key: True}


def condensed(box: str) -> str:
    """tyro's boxed message without its box: the first sentence."""
    lines = [re.sub(r"^[│|╭╰─\s]+|[│|╮╯─\s]+$", "", line) for line in box.splitlines()]
    text, seen = [], False
    for line in lines[1:]:
        if not line and seen:
            break
        if line:
            text.append(line)
            seen = True
    sentence = " ".join(text) or "the command is not complete"
    return sentence[:240]
