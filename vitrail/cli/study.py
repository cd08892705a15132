"""`vitrail study`: experiments that show what a part of training does."""

import dataclasses
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import tyro

from vitrail.checks import place, update
from vitrail.cli.words import arguments, device
from vitrail.errors import UsageError, pick


@dataclass(frozen=True)
class Words:
    """What every study takes."""

    out: str = ""
    """The folder for its results; by default a new one under studies/."""
    device: str = "auto"
    """"auto", "cpu", "cuda", "cuda:1", "mps"."""


@dataclass(frozen=True)
class Study(Words):
    """Run an experiment that shows what a part of training does: its table, figure and numbers go into a new folder.

    vitrail study                        lists the studies

    vitrail study stability --steps 200

    What else a study takes is said by its own help: vitrail study stability --help
    """

    name: Annotated[str, tyro.conf.Positional, tyro.conf.arg(metavar="[NAME]")] = ""
    """Which study. Left out: all are listed."""


ARGUMENTS: dict[str, type] = {"study": Study}


def study(words: list[str]) -> None:
    from vitrail import catalog

    if not words or words[0].startswith("-"):
        given = arguments(Study, words, "vitrail study")
        if given != Study():
            raise UsageError("the name of the study comes first", f"vitrail study {catalog.rooms('studies')[0]} {words[0]} ...")
        return overview()
    name = pick(words[0], catalog.rooms("studies"), "study", "vitrail study lists them")
    module = catalog.module("studies", name)
    given = arguments(joined(module), words[1:], f"vitrail study {name}")
    device(given.device)
    keys = {f.name: getattr(given, f.name) for f in dataclasses.fields(module.Config)}
    config = update(module.Config(), keys, name)
    conduct(name, module, config, given)
    return None


def overview() -> None:
    from vitrail import catalog

    for name in catalog.rooms("studies"):
        print(f"{name:<12} {catalog.about('studies', name)[0]}")
    print(f"\none of them:  vitrail study {catalog.rooms('studies')[0]}")


def joined(module: Any) -> type:
    """The settings of a study and the words that every study takes, as one class of arguments."""
    told = {"__doc__": module.__doc__, "__module__": module.__name__}  # where tyro looks for what is said of the settings
    return dataclasses.make_dataclass("Config", [], bases=(module.Config, Words), frozen=True, namespace=told)


def conduct(name: str, module: Any, config: Any, given: Any) -> None:
    """Runs the study and writes its folder, whole or not at all."""
    from vitrail.engine import world as worlds
    from vitrail.run import folder
    from vitrail.run.evaluate import alone
    from vitrail.weights.folder import write_folder

    out = place(given.out) if given.out else fresh(name)
    folder.check_writable(out)
    here = worlds.best_device() if given.device == "auto" else worlds.named_device(given.device)
    files = module.run(config, out, alone(here), say)
    try:
        write_folder(out, files)
    except OSError as error:
        raise folder.unwritable(out, error) from None
    print(f"written: {', '.join(str(out / file) for file in files)}")


def fresh(name: str) -> Path:
    """A folder under studies/ that is not there yet."""
    number, path = 1, Path("studies") / name
    while path.exists():
        number += 1
        path = Path("studies") / f"{name}-{number}"
    return path


def say(text: str) -> None:
    sys.stdout.write(f"{text}\n")
    sys.stdout.flush()
