"""`vitrail probe`: what the frozen features of a model are worth."""

import json
from dataclasses import dataclass
from typing import Annotated, Any

import tyro

from vitrail.cli.output.console import Console
from vitrail.cli.output.tables import Column, table
from vitrail.cli.syntax.arguments import arguments, device, only, take_keys
from vitrail.errors import UsageError
from vitrail.recipe import Seed
from vitrail.validation import Positive, Share, checked

SHOWN = (("top1", "top-1"), ("top5", "top-5"), ("mAP", "mAP"), ("macro_f1", "macro F1"))


@dataclass
class Probe:
    """Judge the frozen features of a model: a linear probe and k nearest neighbours.

    vitrail probe runs/a

    vitrail probe runs/a --data FOLDER --labels 0.05

    vitrail probe vit/nano --data FOLDER     a floor: the same with random weights
    """

    source: Annotated[str, tyro.conf.Positional, tyro.conf.arg(metavar="SOURCE")]
    """A run, a model folder, a .safetensors file, or a model such as vit/nano with random weights."""
    data: str = ""
    """The pictures and labels to probe with; by default those of the run. Their classes may be any."""
    split: str = ""
    """What to judge on: test or val; by default the test part, else the validation part."""
    labels: float = 1.0
    """Share of the training labels to learn from, of each class at least one."""
    k: tuple[int, ...] = (10, 20)
    """How many neighbours vote; several numbers are tried one by one."""
    seed: int = 0
    """Draws the labels, and random weights."""
    cache: str = ""
    """Folder in which features are kept; by default features/ in the folder of the run."""
    device: str = "auto"
    """"auto", "cpu", "cuda", "cuda:1", "mps"."""
    json: bool = False
    """Print JSON."""


ARGUMENTS: dict[str, type] = {"probe": Probe}


def probe(words: list[str]) -> None:
    rest, keys = take_keys(words)
    given = arguments(Probe, rest, "vitrail probe")
    device(given.device)
    checked(given.labels, Share, "--labels")
    checked(given.seed, Seed, "--seed")
    if given.labels == 0:
        raise UsageError("--labels is 0, and without labels there is nothing to learn", "0.05 is one in twenty, 1 is all")
    ks = tuple(dict.fromkeys(checked(k, Positive, "--k") for k in given.k))
    if not ks:
        raise UsageError("--k is empty", "--k 10, or several: --k 10 20")
    changes = only("model", keys, "what frozen features are worth")
    from vitrail.engine import world as worlds
    from vitrail.engine.world import alone
    from vitrail.evaluation.probe import Wish
    from vitrail.evaluation.probe import probe as probed

    place = worlds.best_device() if given.device == "auto" else worlds.named_device(given.device)
    wish = Wish(given.source, given.data, given.split, given.labels, given.seed, ks, given.cache, changes)
    found = probed(wish, alone(place), Console(given.json).progress("reading pictures"))
    print(json.dumps(as_json(given, found)) if given.json else "\n".join(lines(given, found)))


def as_json(given: Probe, found: Any) -> dict[str, Any]:
    return {
        "source": given.source, "random_weights": found.random, "part": found.part, "count": found.count, "labelled": found.labelled,
        "features": found.width, "linear": {**found.linear, "l2": found.l2, "tried": {f"{k:g}": v for k, v in found.tried.items()}},
        "knn": {str(k): v for k, v in found.knn.items()}, "notes": list(found.notes),
    }  # fmt: skip


def lines(given: Probe, found: Any) -> list[str]:
    """What was found, in words."""
    kind = "random weights, a floor to compare with" if found.random else "frozen"
    head = f"{given.source} ({kind}): {found.width} features, learned from {found.labelled:,} labels"
    rows = {f"linear probe, L2 {found.l2:g}": found.linear, **{f"{k} nearest neighbours": v for k, v in found.knn.items()}}
    shown = [(key, title) for key, title in SHOWN if any(key in row for row in rows.values())]
    columns = [Column("", right=False), *(Column(title) for _, title in shown)]
    cells = [[name, *(f"{row[key]:.4f}" if key in row else "" for key, _ in shown)] for name, row in rows.items()]
    return [head, f"{found.part}: {found.count:,} pictures", *(f"  {line}" for line in table(columns, cells)),
            *(f"  note: {note}" for note in found.notes)]  # fmt: skip
