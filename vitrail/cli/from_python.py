"""`vitrail.train`: keyword arguments as the options and keys of `vitrail train`, checked by the same code."""

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from vitrail.cli.output.console import Console
from vitrail.cli.output.terminal import printable_streams
from vitrail.cli.syntax.arguments import recipe_flags
from vitrail.cli.syntax.flags import KEYED, Flag, changes_of, flag_of, kind_of
from vitrail.cli.syntax.keys import Given, import_typed_names, key_of
from vitrail.cli.syntax.spellings import spelling
from vitrail.cli.train import Train, run
from vitrail.errors import UsageError, choose
from vitrail.recipe import SECTIONS
from vitrail.storage.json_text import to_json
from vitrail.validation import as_plain, validate

OWN = {  # options of the command alone, and their types
    "recipe": str, "out": str, "resume": str, "device": str, "allow_change": tuple[str, ...], "quiet": bool,
    "resume_if_there": bool,
}  # fmt: skip
FLAGS = {flag.name.replace("-", "_"): flag for flag in KEYED}
LAUNCHING = ("gpus", "nproc", "max_restarts")  # options that start other processes
HINT = "keywords are the flags of vitrail train, such as img_size=224, and sections, such as augment={'mixup': 0.2}"


def train(keywords: Mapping[str, Any]) -> Path:
    """Trains as `vitrail train` with the same options. Returns the folder of the run. torch's random numbers and
    threads are left as they were. Errors: those of the command, as exceptions."""
    given, keys = parse_keywords(keywords)
    if not (given.resume or given.recipe or any(section == "data" for section, _ in keys)):
        raise UsageError("there is nothing to train on", "vitrail.train(data=FOLDER)")
    import torch

    before, threads = torch.get_rng_state(), torch.get_num_threads()
    try:
        with printable_streams():
            folder = run(given, keys, Console(quiet=given.quiet), command_of(given, keys))
    finally:
        torch.set_rng_state(before)
        torch.set_num_threads(threads)
    assert folder is not None
    return folder


def parse_keywords(keywords: Mapping[str, Any]) -> tuple[Train, Given]:
    """The options of the command, and the keys of a recipe. None is as if it were not given. Errors: `UsageError`."""
    own: dict[str, Any] = {}
    keys: Given = []
    names: set[str] = set()
    for keyword, value in keywords.items():
        name = keyword.replace("-", "_")
        if value is None:
            continue
        if name in OWN:
            own[name] = validate(as_text(name, value), OWN[name], name)
            continue
        for section, changes in read_keyword(name, value):
            for key in changes:
                flag = flag_of(section, key)
                if flag in names and key != "name":
                    raise UsageError(f"{flag} is given twice", "give it once")
                names.add(flag)
            keys.append((section, changes))
    if "out" in own:
        own["out"] = Path(own["out"])
    import_typed_names(keys)
    return Train(**own), keys


def read_keyword(name: str, value: Any) -> Given:
    """The keys of a recipe that a keyword sets: a flag, a section as a table, or "section.key". Errors:
    `UsageError`."""
    if name in SECTIONS and isinstance(value, Mapping):
        return [changed(name, key, item) for key, item in value.items()]
    if flag := FLAGS.get(name):
        assert flag.key
        return [(flag.key[0], changes_of(flag, flag_value(flag, name, value)))]
    if name in SECTIONS:
        raise UsageError(f"{name} is a section of a recipe and takes a dict of its keys, not {value!r}",
                         f"{name}={{'key': value}}; vitrail train --help {name} lists the keys")  # fmt: skip
    if name in LAUNCHING:
        fix = "vitrail train --gpus 2 in a shell; or torchrun --nproc-per-node 2 with your own script"
        raise UsageError(f"{name} starts processes, which the command does: a program is one process", fix)
    section, dot, key = name.partition(".")
    if dot:
        return [changed(section, key, value)]
    if ours := spelling(name):
        option = ours.split()[0].lstrip("-")
        section, _, key = option.partition(".")
        ours = f"{section}={{'{key.replace('-', '_')}': ...}}" if key else option.replace("-", "_")
        raise UsageError(f"unknown keyword {name!r}; here it is {ours}", HINT)
    if same := [flag[2:] for flag in recipe_flags() if flag.endswith(f".{name.replace('_', '-')}")]:
        examples = (f"{s}={{'{k.replace('-', '_')}': ...}}" for s, _, k in (one.partition(".") for one in same))
        raise UsageError(f"unknown keyword {name!r}; did you mean {' or '.join(examples)}?", HINT)
    choose(name, [*FLAGS, *OWN, *SECTIONS], "keyword", HINT)
    return []


def changed(section: str, key: Any, value: Any) -> tuple[str, dict[str, Any]]:
    """One key of a section, both as recipes have them. Errors: `UsageError` for unknown sections and former names."""
    section, key = key_of(section, str(key))
    return section, {key: as_text(key, value)}


def flag_value(flag: Flag, name: str, value: Any) -> Any:
    """The value of a flag, validated under its name. Errors: `UsageError`."""
    assert flag.key
    value = as_plain(as_text(name, value))
    if name == "img_size" and isinstance(value, int):
        value = (value, value)
    if value == "":
        raise UsageError(f"{name} is empty", "leave it out, or give it a value")
    return validate(value, kind_of(flag.key), name)


def as_text(name: str, value: Any) -> Any:
    """A path as its text, a device as its name; anything else as it is."""
    if name == "device":
        plain = as_plain(value)
        return f"cuda:{plain}" if isinstance(plain, int) and not isinstance(plain, bool) else str(plain)
    return os.fspath(value) if isinstance(value, os.PathLike) else value


def command_of(given: Train, keys: Given) -> list[str]:
    """The same as words of the command."""
    words = ["vitrail", "train", *([given.recipe] if given.recipe else [])]
    for section, changes in keys:
        named = {k: v for k, v in changes.items() if not (section == "data" and k == "name" and v == "")}
        for key, value in named.items():
            values = list(value) if isinstance(value, list | tuple) else [value]
            words += [flag_of(section, key), *(as_word(v) for v in values)]
    words += ["--out", str(given.out)] if given.out else []
    return words + (["--device", given.device] if given.device != "auto" else [])


def as_word(value: Any) -> str:
    return str(value) if isinstance(value, str) else to_json(as_plain(value))
