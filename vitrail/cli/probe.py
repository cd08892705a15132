"""`vitrail probe`: evaluates the frozen features of a model by linear probe and k-NN."""

from dataclasses import dataclass
from typing import Annotated, Any

import tyro

from vitrail.cli.output.console import Console
from vitrail.cli.output.tables import Column, table
from vitrail.cli.syntax.arguments import device, read
from vitrail.cli.syntax.keys import keys_of
from vitrail.cli.syntax.verb import AsJson, OnDevice, Verb
from vitrail.errors import UsageError
from vitrail.recipe import Seed
from vitrail.storage.json_text import to_json
from vitrail.validation import Positive, UnitInterval, validate

METRICS = (("top1", "top-1"), ("top5", "top-5"), ("mAP", "mAP"), ("macro_f1", "macro F1"))


@dataclass
class Probe(OnDevice, AsJson):
    """Evaluate the frozen features of a model: linear probe and k nearest neighbours.

    vitrail probe runs/photos
    vitrail probe runs/photos --data other --labels 0.05
    vitrail probe vit/nano --data other
    """

    source: Annotated[str, tyro.conf.Positional, tyro.conf.arg(metavar="SOURCE")]
    """A run, a model folder, a .safetensors file; or a model such as vit/nano with random weights, for comparison."""
    data: str = ""
    """A data set with labels of any classes (default: that of the run)."""
    split: str = ""
    """test or val (default: test if there is one, else val)."""
    labels: float = 1.0
    """Fraction of the training labels to learn from."""
    k: tuple[int, ...] = (10, 20)
    """Numbers of neighbours; each is evaluated."""
    seed: int = 0
    """Seed of the choice of labels, and of random weights."""
    cache: str = ""
    """Folder of cached features (default: features/ in the run)."""


def probe(words: list[str]) -> None:
    given, keys = read(VERB, words)
    device(given.device)
    validate(given.labels, UnitInterval, "--labels")
    validate(given.seed, Seed, "--seed")
    if given.labels == 0:
        raise UsageError(
            "--labels is 0, and without labels there is nothing to learn from", "0.05 is one in twenty, 1 is all"
        )
    ks = tuple(dict.fromkeys(validate(k, Positive, "--k") for k in given.k))
    if not ks:
        raise UsageError("--k is empty", "--k 10, or several: --k 10 20")
    changes = keys_of("model", keys)
    from vitrail.engine.processes import world as worlds
    from vitrail.engine.processes.world import single_process
    from vitrail.evaluation.probe import ProbeRequest, run_probe

    chosen_device = worlds.best_device() if given.device == "auto" else worlds.named_device(given.device)
    request = ProbeRequest(given.source, given.data, given.split, given.labels, given.seed, ks, given.cache, changes)
    result = run_probe(request, single_process(chosen_device), Console(given.json).progress("reading images"))
    print(to_json(as_json(given, result)) if given.json else "\n".join(format_lines(given, result)))


def as_json(given: Probe, result: Any) -> dict[str, Any]:
    return {
        "source": given.source, "random_weights": result.random, "part": result.part, "count": result.count,
        "labelled": result.labelled,
        "features": result.width, "linear": {**result.linear, "l2": result.l2,
                                            "tried": {f"{k:g}": v for k, v in result.tried.items()}},
        "knn": {str(k): v for k, v in result.knn.items()}, "notes": list(result.notes),
    }  # fmt: skip


def format_lines(given: Probe, result: Any) -> list[str]:
    """The results as text."""
    kind = "random weights, a baseline to compare with" if result.random else "frozen"
    head = f"{given.source} ({kind}): {result.width} features, learned from {result.labelled:,} labels"
    rows = {
        f"linear probe, L2 {result.l2:g}": result.linear,
        **{f"{k} nearest neighbours": v for k, v in result.knn.items()},
    }
    metrics = [(key, title) for key, title in METRICS if any(key in row for row in rows.values())]
    columns = [Column("", right=False), *(Column(title) for _, title in metrics)]
    cells = [[name, *(f"{row[key]:.4f}" if key in row else "" for key, _ in metrics)] for name, row in rows.items()]
    return [head, f"{result.part}: {result.count:,} images", *(f"  {line}" for line in table(columns, cells)),
            *(f"  note: {note}" for note in result.notes)]  # fmt: skip


VERB = Verb("probe", Probe, probe, sections=("model",), changes="the features of a trained model")
