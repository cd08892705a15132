"""The images of a run judged at several strengths of guidance and by both averages of its weights; what is found is kept at once.

A journal in the run's folder has a line for every point that was judged, with a hash over all that it depends on. Whoever asks again, or
for more, or after a break, has only those points computed that are not in it.
"""

import dataclasses
import hashlib
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from vitrail.data.dataset import Dataset
from vitrail.data.fingerprint import fingerprint
from vitrail.engine.world import World
from vitrail.errors import UsageError
from vitrail.evaluation.generation.quality import QualityReport, RealImages
from vitrail.inference.predictor import Predictor
from vitrail.inference.sample import Progress, default_sampling
from vitrail.storage import journal
from vitrail.storage.atomic import write_file
from vitrail.storage.tensors import digest
from vitrail.tasks.diffusion import Sampling


@dataclass(frozen=True)
class SweepPoint:
    """One place of the sweep. fresh: judged now, not taken from the journal."""

    average: int
    guidance: float
    quality: QualityReport
    is_new: bool


@dataclass(frozen=True)
class SweepRange:
    """What is gone through: guidances, and the models by their average."""

    guidances: tuple[float, ...]
    makers: dict[int, Predictor]
    count: int

    def __post_init__(self) -> None:
        if any(not 0 <= g < float("inf") for g in self.guidances):
            raise UsageError(f"guidance cannot be {min(self.guidances):g}", "numbers from 0 on; 1 is none")


def run_sweep(wanted: SweepRange, classifier: Predictor, dataset: Dataset, part: str, folder: Path, world: World,
          progress: Progress | None = None) -> list[SweepPoint]:  # fmt: skip
    """Every average at every guidance, in that order. folder: of the run. Errors: `UsageError`."""
    file, known = folder / "evaluation/sweep.jsonl", hashes(wanted, classifier, dataset, part)
    places = [
        (a, g, default_sampling(m.bundle, None, g))
        for a, m in wanted.makers.items()
        for g in dict.fromkeys(wanted.guidances)
    ]
    kept = read(file)
    missing = [place for place in places if named(known, *place) not in kept]
    done: dict[str, QualityReport] = {}
    if missing:
        real = RealImages(
            next(iter(wanted.makers.values())), classifier, dataset, part, wanted.count, folder / "features", world
        )
        for i, (average, guidance, how) in enumerate(missing):
            name = named(known, average, guidance, how)
            made = real.compare(wanted.makers[average], how, along(progress, i, len(missing)))
            done[name] = made
            append(file, {"key": name, "average": average, "guidance": guidance, "quality": dataclasses.asdict(made)})
    kept = read(file)
    found = []
    for average, guidance, how in places:
        name = named(known, average, guidance, how)
        found.append(SweepPoint(average, guidance, done[name] if name in done else kept[name], name in done))
    return found


def hashes(wanted: SweepRange, classifier: Predictor, dataset: Dataset, part: str) -> dict[str, Any]:
    """All that every point depends on, and the weights of each average."""
    return {
        "judge": digest({k: v.cpu() for k, v in classifier.model.state_dict().items()}, {}),
        "prepared": [dataclasses.asdict(classifier.preprocess)],
        "data": [fingerprint(dataset.entries), part, len(dataset.splits[part])],
        "count": wanted.count,
        "weights": {
            a: digest({k: v.cpu() for k, v in m.model.state_dict().items()}, {}) for a, m in wanted.makers.items()
        },
        "vae": next(iter(wanted.makers.values())).recipe.input.vae_hash,
    }


def named(known: dict[str, Any], average: int, guidance: float, how: Sampling) -> str:
    """The hash of a point; the average counts by its weights, not by its number."""
    said = {**known, "weights": known["weights"][average], "how": dataclasses.asdict(how)}
    return hashlib.sha256(json.dumps(said, sort_keys=True).encode()).hexdigest()[:32]


def along(progress: Progress | None, number: int, count: int) -> Callable[[int, int], None] | None:
    """The progress of one point as part of all."""
    return None if progress is None else lambda done, of: progress(number * of + done, count * of)


def read(path: Path) -> dict[str, QualityReport]:
    """The points of a journal by their hashes."""
    found = {}
    for row in journal.read(path)[0]:
        try:
            found[str(row["key"])] = QualityReport(**{**row["quality"], "notes": tuple(row["quality"]["notes"])})
        except (KeyError, TypeError):  # of another version
            continue
    return found


def append(path: Path, row: dict[str, Any]) -> None:
    """A line more, on the disk before this returns. Errors: `UsageError` where it cannot be written."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        journal.trim(path, journal.read(path)[1])
        journal.add(path, row)
    except OSError as error:
        raise UsageError(f"{path} cannot be written: {error.strerror or error}", "free the space it needs") from None


COLUMNS = {
    "frechet": "Fréchet distance", "precision": "precision", "recall": "recall", "density": "density", "coverage": "coverage",
}  # fmt: skip


def best_point(points: Sequence[SweepPoint]) -> SweepPoint:
    """The one with the least Fréchet distance."""
    return min(points, key=lambda p: p.quality.metrics["frechet"])


def table_cells(points: Sequence[SweepPoint]) -> tuple[list[str], list[list[str]]]:
    """The titles and the rows of a table; the last one says what real images of another part have."""
    asked = any(p.quality.asked is not None for p in points)
    titles = ["average", "guidance", *COLUMNS.values(), *(["of its class"] if asked else [])]
    rows = [
        [str(p.average), f"{p.guidance:g}", *(f"{p.quality.metrics[key]:.4f}" for key in COLUMNS),
         *([f"{p.quality.asked:.4f}" if p.quality.asked is not None else "-"] if asked else [])]
        for p in points
    ]  # fmt: skip
    first = points[0].quality
    if first.metrics_of_real is not None:
        known = "-" if first.asked_of_real is None else f"{first.asked_of_real:.4f}"
        rows.append(
            ["real", "-", *(f"{first.metrics_of_real[key]:.4f}" for key in COLUMNS), *([known] if asked else [])]
        )
    return titles, rows


def write_sweep(points: Sequence[SweepPoint], folder: Path, by: str) -> list[Path]:
    """sweep.json and sweep.md, anew each time. Errors: `UsageError`."""
    first, (titles, rows) = points[0].quality, table_cells(points)
    for row, point in zip(rows, points, strict=False):
        if point == best_point(points):
            row[2] = f"**{row[2]}**"
    head = f"{first.made:,} made images a row, {first.real:,} real ones of the part {first.part}, {first.width} features of {by}."
    lines = [head, "", *(f"| {' | '.join(row)} |" for row in (titles, ["---"] * len(titles), *rows)), ""]
    points_said = [{"average": p.average, "guidance": p.guidance, **dataclasses.asdict(p.quality)} for p in points]
    text = json.dumps({"by": by, "points": points_said}, indent=1, ensure_ascii=False) + "\n"
    files = {folder / "evaluation/sweep.json": text, folder / "evaluation/sweep.md": "\n".join(lines)}
    for path, content in files.items():
        try:
            write_file(path, content.encode())
        except OSError as error:
            raise UsageError(
                f"{path} cannot be written: {error.strerror or error}", "free the space it needs"
            ) from None
    return list(files)
