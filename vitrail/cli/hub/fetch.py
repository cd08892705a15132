"""`vitrail fetch`: fetches weights by name, and makes a folder of them for machines without a network."""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro

from vitrail.cli.syntax.arguments import read
from vitrail.cli.syntax.verb import Verb
from vitrail.errors import UsageError
from vitrail.storage.printable import printable, shell_word
from vitrail.validation import as_path


@dataclass
class Fetch:
    """Fetch weights by name into the caches of the hub and of torch, or into a folder that can be carried.

    vitrail fetch vit/small vit/base:dinov2 --to weights
    VITRAIL_WEIGHTS=weights vitrail train --data photos --weights vit/small
    """

    names: Annotated[tuple[str, ...], tyro.conf.Positional, tyro.conf.arg(metavar="WEIGHTS...")] = ()
    """Names of weights (vitrail weights), hf:ORG/REPO, timm:NAME.TAG, torchvision:NAME or addresses."""
    to: Path | None = None
    """A folder for machines without a network; VITRAIL_WEIGHTS=FOLDER uses it there."""
    accept_licence: str = ""
    """Accept licences that restrict the use of weights, by their names, with commas."""


def fetch(words: list[str]) -> None:
    given, _ = read(VERB, words)
    if not given.names:
        raise UsageError(
            "there is nothing to fetch", "vitrail fetch vit/small --to FOLDER; vitrail weights lists names"
        )
    from vitrail.weights.locate import fetch_to
    from vitrail.weights.remote.names import parse_name

    for name in given.names:
        parse_name(name)  # misspelt ones are found before anything is fetched
    target = as_path(given.to) if given.to is not None else None
    for name in given.names:
        located = fetch_to(name, given.accept_licence, target)
        for reason in located.reasons:
            print(printable(reason))
        print(f"  {located.files}")
    if target is not None:
        print(f"to use them where there is no network: VITRAIL_WEIGHTS={shell_word(str(target.absolute()))}")


VERB = Verb("fetch", Fetch, fetch)
