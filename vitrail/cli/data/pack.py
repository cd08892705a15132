"""`vitrail pack`: writes a data set as tar shards with an index, or the index of shards that are there."""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import tyro

from vitrail.cli.output.console import Console
from vitrail.cli.syntax.arguments import read
from vitrail.cli.syntax.keys import keys_of
from vitrail.cli.syntax.verb import Verb
from vitrail.errors import UsageError, many
from vitrail.recipe import Recipe, override
from vitrail.storage.printable import printable, shell_word
from vitrail.validation import as_path


@dataclass
class Pack:
    """Write a data set as tar shards with an index (WebDataset's names), for millions of images, mounts and stores.

    Images keep their bytes; labels, masks, boxes and captions (NAME.txt) go with them. Without --out, DATA is a folder
    of .tar shards, and its index is written; --data.on-error skip leaves out what is refused otherwise.

    vitrail pack photos --out shards
    vitrail train --data shards
    vitrail pack downloaded-shards
    """

    path: Annotated[str, tyro.conf.Positional, tyro.conf.arg(metavar="DATA")]
    """What --data takes, or a folder of .tar shards."""
    out: Path | None = None
    """The new folder of the shards."""
    shard_mb: int = 256
    """Megabytes of a shard, about."""


def pack(words: list[str]) -> None:
    given, keys = read(VERB, words)
    if not 1 <= given.shard_mb <= 1_000_000:
        raise UsageError(f"--shard-mb is {given.shard_mb}", "--shard-mb takes 1 to 1,000,000; 256 is usual")
    choice = override(Recipe(), "data", {"path": given.path, **keys_of("data", keys)}).data
    progress = Console().progress("packing")
    from vitrail.assembly.opening.packing import index_shards, pack_data
    from vitrail.data.shards.http import is_url

    if given.out is None and is_url(given.path):
        fix = f"vitrail pack {shell_word(given.path)} --out SHARDS copies them; or vitrail pack FOLDER where they are"
        raise UsageError(f"{given.path} is an address, and an index is written beside its shards", fix)
    if given.out is None:
        skip = keys_of("data", keys).get("on_error") == "skip"  # only where it is typed: shards come from others
        report(index_shards(as_path(given.path), progress, skip, choice.max_errors), given.path)
    else:
        report(pack_data(choice, as_path(given.out), given.shard_mb * 10**6, progress), str(given.out))


def report(packed: Any, folder: str) -> None:
    """Says what was written, and the command that trains on it."""
    counted = ", ".join(f"{n:,} {part}" for part, n in packed.parts.items())
    size = sum(one.size for one in packed.shards)
    shards, classes = many(len(packed.shards), "shard"), many(len(packed.classes), "class", "classes")
    print(f"{shards}, {size / 1e6:,.1f} MB: {counted}; {classes}")
    for note in packed.notes:
        print(f"  note: {printable(note)}")
    print(f"  index: SHA-256 {packed.sha256}")
    print(f"vitrail train --data {shell_word(folder)}")


VERB = Verb("pack", Pack, pack, sections=("data",), changes="what a data set is")
