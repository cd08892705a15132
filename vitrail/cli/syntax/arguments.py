"""Words on the command line into a dataclass of arguments and keys of a recipe. Keys are parsed first, so that a
wrong one gets the same short message as in a recipe file; tyro parses the rest."""

import contextlib
import dataclasses
import io
import re
from collections.abc import Iterable
from typing import Annotated, Any, TypeVar, get_args, get_origin, get_type_hints

from vitrail.cli.syntax.flags import BY_NAME, expand_short_flags
from vitrail.cli.syntax.help import print_help
from vitrail.cli.syntax.keys import Given, import_typed_names, is_number, parts, take_keys
from vitrail.cli.syntax.spellings import spelling
from vitrail.cli.syntax.verb import Verb
from vitrail.engine.trackers import check_trackers
from vitrail.errors import SYNONYMS, UsageError, choose, nearest
from vitrail.recipe import CHOICES, RuntimeConfig
from vitrail.validation import describe_type

T = TypeVar("T")
LITERAL = "--"  # as everywhere: a text or a file whose name begins with - stands behind it
MOST_MERGED = 4096  # tokens a block
NO_KEYS = {f"--{section}.{field}" for section in CHOICES for field in ("name", "keys")}


def read(verb: Verb[T], words: list[str]) -> tuple[T, Given]:
    """`words` as arguments of a command, and the keys of a recipe among them; where it takes a list, nothing behind a
    `--` alone is an option. Errors: `UsageError`; --help exits."""
    end = literal_at(verb.kind, words)
    words, behind = expand_short_flags(words[:end]), words[end:]
    if {"-h", "--help"} & set(words):
        print_help(verb, words)
        raise SystemExit(0)
    rest, keys = take_keys(words, verb.flags)
    given = parse_arguments(verb.kind, [*rest, *behind], verb.prog, verb)
    for section, values in keys:
        if section not in verb.sections:
            takes = " and ".join(f"--{s}" for s in verb.sections)
            key = f"--{section}.{next(iter(values))}".replace("_", "-")
            raise UsageError(
                f"{key} does not change {verb.changes or f'what {verb.prog} does'}",
                f"only {takes} keys go here" if takes else f"{verb.prog} takes no keys of a recipe",
            )
    import_typed_names(keys)
    return given, keys


def parse_arguments(kind: type[T], words: list[str], prog: str, verb: Verb[Any] | None = None) -> T:
    """`words` as a `kind`. `verb`: flags and keys to suggest beside its own options. Errors: `UsageError`."""
    import tyro

    check_options(words, kind, prog, verb)
    out, err = io.StringIO(), io.StringIO()
    try:
        with contextlib.redirect_stderr(err), contextlib.redirect_stdout(out):
            return tyro.cli(kind, args=words, prog=prog)
    except SystemExit:
        raise UsageError(
            condense_error(err.getvalue(), kind, prog, words), f"{prog} --help shows every option"
        ) from None


def check_options(words: list[str], kind: type, prog: str, verb: Verb[Any] | None) -> None:
    """Errors: `UsageError` for options that do not exist (with the nearest), come twice, or are empty."""
    flags = own_flags(kind)
    given: set[str] = set()
    words = words[: literal_at(kind, words)]
    for i, word in enumerate(words):
        flag, equals, value = word.partition("=")
        flag = flag.replace("_", "-")
        if not word.startswith("-") or is_number(word):
            continue
        if flag not in flags:
            raise_unknown(flag, flags, prog, verb)
        if flag in given and flags[flag] != "many":
            raise UsageError(f"{flag} is given twice", "give it once")
        if flags[flag] != "switch" and (words[i + 1 : i + 2] == [""] or (equals and not value)):
            raise UsageError(f"{flag} is empty", f"leave it out, or give it a value; {prog} --help")
        given.add(flag)


def own_flags(kind: type) -> dict[str, str]:
    """The options of a command, and whether each is a switch, takes one value, or many."""
    flags = {"--help": "switch"}
    for name, hint in get_type_hints(kind, include_extras=True).items():
        if has_mark(hint, "Positional"):
            continue
        flag = f"--{name.rstrip('_').replace('_', '-')}"
        flags[flag] = "switch" if hint is bool else "many" if has_mark(hint, "UseAppendAction") else "value"
        if hint is bool:
            flags[f"--no-{flag[2:]}"] = "switch"
    return flags


def takes_list(kind: type) -> bool:
    """Whether a command takes any number of arguments, such as texts or files."""
    hints = get_type_hints(kind, include_extras=True).values()
    return any(has_mark(hint, "Positional") and get_origin(get_args(hint)[0]) is tuple for hint in hints)


def literal_at(kind: type, words: list[str]) -> int:
    """The index of the `--` behind which no word is an option, or that of the end."""
    return words.index(LITERAL) if LITERAL in words and takes_list(kind) else len(words)


def has_mark(hint: Any, mark: str) -> bool:
    return get_origin(hint) is Annotated and any(mark in repr(m) for m in get_args(hint)[1:])


def raise_unknown(flag: str, flags: Iterable[str], prog: str, verb: Verb[Any] | None) -> None:
    """Errors: `UsageError` always, with the nearest option or key of a recipe."""
    hint = f"{prog} --help shows every option"
    if (" " in flag or flag[:2] != "--") and verb and takes_list(verb.kind):
        hint = f"{prog} ... {LITERAL} WORD, since behind {LITERAL} nothing is an option; {hint}"
    keys = [k for k in recipe_flags() if verb and k[2:].partition(".")[0] in verb.sections]
    options = [*(f.flag for f in (verb.flags if verb else ())), *flags, *keys]
    leaf = flag.lstrip("-").rpartition(".")[2].replace("-", "_")
    if (ours := spelling(flag)) and ours.split()[0] in options:
        raise UsageError(f"unknown option {flag}; here it is {ours}", hint)
    if section := [k for k in keys if k.startswith(f"{flag.rstrip('.')}.")]:
        raise UsageError(f"{flag} is a section of a recipe; did you mean one of its keys, {', '.join(section[:9])}?",
                         f"{prog} --help {flag.strip('-.')} lists them all")  # fmt: skip
    if len(flag) == 2 and (same := [f for f in options if f.startswith(f"-{flag}") and "." not in f]):
        raise UsageError(f"unknown option {flag}; did you mean {' or '.join(same)}?", hint)
    if flag in BY_NAME:
        raise UsageError(f"{prog} has no {flag}", hint)
    for name in (leaf, *nearest(leaf, SYNONYMS)[:1]):
        key = SYNONYMS.get(name, name).replace("_", "-")
        if same := [k for k in keys if k.endswith(f".{key}")]:
            raise UsageError(f"unknown option {flag}; did you mean {' or '.join(same)}?", hint)
    choose(flag, [*options, "--debug"], "option", hint)


def recipe_flags() -> list[str]:
    """Every key of a recipe as an option, those of models, data sets and tasks included."""
    from vitrail import catalog

    flags = [f"--{s}.{f.name}" for s, part in parts().items() for f in dataclasses.fields(part)]
    flags = [flag for flag in flags if flag not in NO_KEYS]
    for section, floor in (("model", "models"), ("data", "datasets"), ("task", "tasks")):
        flags += dict.fromkeys(
            f"--{section}.{key}" for room in catalog.list_modules(floor) for key in catalog.config_fields(floor, room)
        )
    return [k.replace("_", "-") for k in flags]


def device(name: str) -> str:
    """`name` if it can be a device here. Errors: `UsageError`."""
    kind = re.fullmatch(r"(auto|cpu|mps|cuda)|cuda:(\d+)", name)
    if not kind:
        choose(name, ("auto", "cpu", "cuda", "mps"), "device", "--device 1 is the second GPU")
    if name.startswith("cuda"):
        import torch

        count = torch.cuda.device_count() if torch.cuda.is_available() else 0
        if count <= int(kind[2] or 0 if kind else 0):
            available = f"only {count}, counted from 0" if count else "none that torch can use"
            raise UsageError(
                f"there is no GPU {name!r} here: {available}", "leave --device out; vitrail doctor lists the devices"
            )
    return name


def check_machine(name: str, runtime: RuntimeConfig) -> None:
    """Errors: `UsageError` for a device or a library that a run asks for and that is not here."""
    device(name)
    check_trackers(runtime)


def condense_error(box: str, kind: type, prog: str, words: list[str]) -> str:
    """The error that tyro prints in a box, in one sentence."""
    inside = (
        re.sub(r"^[│|╭╰─+\s-]+|[│|╮╯─+\s-]+$", "", line) if "│" in line or "─" in line else line
        for line in box.splitlines()
    )
    text = re.sub(r"[─-]{3,}", "", " ".join(line.strip() for line in inside if line.strip()))
    text = " ".join(text.partition("For full helptext")[0].split())
    if match := re.search(r"Missing value for argument '\s*([\w-]+)'", text):
        return f"{match[1]} needs a value"
    if match := re.search(r"Unrecognized options: (.*)", text):
        return f"unexpected argument {match[1][:100]!r}: {prog} takes no more"
    if match := re.search(r"Missing from .*?: (\S+) (.*) \(required\)", text):
        return f"{prog} needs {match[1]}: {match[2]}"
    if match := re.search(
        r"Error parsing --([\w-]+): .*?(?:(?:from|arguments:) \[(.*?)\]|base 10: ('.*?')|: ('.*?'))", text
    ):
        hint = get_type_hints(kind).get(match[1].replace("-", "_"), str)
        return f"--{match[1]} takes {describe_type(hint)}, not {match[2] or match[3] or match[4] or 'nothing'}"
    return f"{prog} cannot use {' '.join(words)[:120]!r}" if words else f"{prog}: an argument is missing"


def merging(text: str) -> Any:
    """The value of --merge; None where it is not given. Errors: `UsageError`."""
    if text in ("", "half"):
        return text or None
    if text.isdecimal() and int(text) <= MOST_MERGED:
        return int(text)
    if not re.fullmatch(r"0?\.\d{1,9}", text):
        raise UsageError(
            f"--merge cannot be {text[:40]!r}",
            "the tokens that each block merges, as in --merge 8; half; or a share below 1, as in --merge 0.4",
        )
    return float(text)
