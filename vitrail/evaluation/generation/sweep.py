"""Evaluates the samples of a run at several guidance scales and with both averages of its weights; each result is saved
at once.

A journal in the run's folder has a line for every evaluated point, with a hash over all that it depends on. A repeated,
extended or interrupted sweep computes only the points that are missing.
"""

import dataclasses
import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from vitrail.data.dataset import Dataset
from vitrail.data.fingerprint import fingerprint
from vitrail.engine.processes.world import World
from vitrail.errors import UsageError
from vitrail.evaluation.generation.quality import QualityReport, RealImages
from vitrail.inference.predictor import Predictor
from vitrail.inference.sample import Progress, default_sampling
from vitrail.storage import journal
from vitrail.storage.atomic import write_file
from vitrail.storage.json_text import to_json
from vitrail.storage.tensors import digest
from vitrail.tasks.diffusion import Sampling


@dataclass(frozen=True)
class SweepPoint:
    """One point of the sweep. is_new: evaluated now, not read from the journal."""

    average: int
    guidance: float
    quality: QualityReport
    is_new: bool


@dataclass(frozen=True)
class SweepRange:
    """The range of a sweep: guidance scales, and the models by their average."""

    guidances: tuple[float, ...]
    makers: dict[int, Predictor]
    count: int

    def __post_init__(self) -> None:
        if any(not 0 <= g < float("inf") for g in self.guidances):
            raise UsageError(
                f"the guidance scale cannot be {min(self.guidances):g}", "use numbers of at least 0; 1 is no guidance"
            )


def run_sweep(
    wanted: SweepRange,
    classifier: Predictor,
    dataset: Dataset,
    part: str,
    folder: Path,
    world: World,
    progress: Progress | None = None,
) -> list[SweepPoint]:
    """Every average at every guidance scale, in that order. folder: of the run. Errors: `UsageError`."""
    file, hashes = folder / "evaluation/sweep.jsonl", hash_inputs(wanted, classifier, dataset, part)
    settings = [
        (a, g, default_sampling(m.bundle, None, g))
        for a, m in wanted.makers.items()
        for g in dict.fromkeys(wanted.guidances)
    ]
    cached = read_points(file)
    missing = [point for point in settings if point_key(hashes, *point) not in cached]
    done: dict[str, QualityReport] = {}
    if missing:
        real = RealImages(
            next(iter(wanted.makers.values())), classifier, dataset, part, wanted.count, folder / "features", world
        )
        for i, (average, guidance, how) in enumerate(missing):
            name = point_key(hashes, average, guidance, how)
            report = real.compare(wanted.makers[average], how, scale_progress(progress, i, len(missing)))
            done[name] = report
            append_row(
                file, {"key": name, "average": average, "guidance": guidance, "quality": dataclasses.asdict(report)}
            )
    cached = read_points(file)
    points = []
    for average, guidance, how in settings:
        name = point_key(hashes, average, guidance, how)
        points.append(SweepPoint(average, guidance, done[name] if name in done else cached[name], name in done))
    return points


def hash_inputs(wanted: SweepRange, classifier: Predictor, dataset: Dataset, part: str) -> dict[str, Any]:
    """Hashes of all that every point depends on, and of the weights of each average."""
    return {
        "classifier": digest({k: v.cpu() for k, v in classifier.model.state_dict().items()}, {}),
        "preprocess": [dataclasses.asdict(classifier.preprocess)],
        "data": [fingerprint(dataset.entries), part, len(dataset.splits[part])],
        "count": wanted.count,
        "weights": {
            a: digest({k: v.cpu() for k, v in m.model.state_dict().items()}, {}) for a, m in wanted.makers.items()
        },
        "vae": next(iter(wanted.makers.values())).recipe.input.vae_hash,
    }


def point_key(hashes: dict[str, Any], average: int, guidance: float, how: Sampling) -> str:
    """The hash of a point; of the average its weights, not its number."""
    about = {**hashes, "weights": hashes["weights"][average], "how": dataclasses.asdict(how)}
    return hashlib.sha256(to_json(about, sort_keys=True).encode()).hexdigest()[:32]


def scale_progress(progress: Progress | None, number: int, count: int) -> Callable[[int, int], None] | None:
    """The progress of one point as part of all."""
    return None if progress is None else lambda done, of: progress(number * of + done, count * of)


def read_points(path: Path) -> dict[str, QualityReport]:
    """The points of a journal by their hashes."""
    points = {}
    for row in journal.read(path)[0]:
        try:
            points[str(row["key"])] = QualityReport(**{**row["quality"], "notes": tuple(row["quality"]["notes"])})
        except (KeyError, TypeError):  # of another version
            continue
    return points


def append_row(path: Path, row: dict[str, Any]) -> None:
    """Appends a line, flushed to the disk. Errors: `UsageError` where it cannot be written."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        journal.trim(path, journal.read(path)[1])
        journal.add(path, row)
    except OSError as error:
        raise UsageError(f"{path} cannot be written: {error.strerror or error}", "free the space it needs") from None


COLUMNS = {
    "frechet": "Fréchet distance",
    **{name: name for name in ("precision", "recall", "density", "coverage")},
}


def best_point(points: Sequence[SweepPoint]) -> SweepPoint:
    """The one with the least Fréchet distance."""
    return min(points, key=lambda p: p.quality.metrics["frechet"])


def table_cells(points: Sequence[SweepPoint]) -> tuple[list[str], list[list[str]]]:
    """The titles and the rows of a table; the last one has the metrics of real images of another split."""
    has_accuracy = any(p.quality.asked is not None for p in points)
    titles = ["average", "guidance", *COLUMNS.values(), *(["of its class"] if has_accuracy else [])]
    rows = [
        [str(p.average), f"{p.guidance:g}", *(f"{p.quality.metrics[key]:.4f}" for key in COLUMNS),
         *([f"{p.quality.asked:.4f}" if p.quality.asked is not None else "-"] if has_accuracy else [])]
        for p in points
    ]  # fmt: skip
    first = points[0].quality
    if first.metrics_of_real is not None:
        accuracy = "-" if first.asked_of_real is None else f"{first.asked_of_real:.4f}"
        rows.append(
            [
                "real",
                "-",
                *(f"{first.metrics_of_real[key]:.4f}" for key in COLUMNS),
                *([accuracy] if has_accuracy else []),
            ]
        )
    return titles, rows


def write_sweep(points: Sequence[SweepPoint], folder: Path, by: str) -> list[Path]:
    """sweep.json and sweep.md, anew each time. Errors: `UsageError`."""
    first, (titles, rows) = points[0].quality, table_cells(points)
    for row, point in zip(rows, points, strict=False):
        if point == best_point(points):
            row[2] = f"**{row[2]}**"
    head = (
        f"{first.made:,} generated images a row, {first.real:,} real ones of the split {first.part}, "
        f"{first.width} features of {by}."
    )
    lines = [head, "", *(f"| {' | '.join(row)} |" for row in (titles, ["---"] * len(titles), *rows)), ""]
    entries = [{"average": p.average, "guidance": p.guidance, **dataclasses.asdict(p.quality)} for p in points]
    text = to_json({"by": by, "points": entries}, indent=1, ensure_ascii=False) + "\n"
    files = {folder / "evaluation/sweep.json": text, folder / "evaluation/sweep.md": "\n".join(lines)}
    for path, content in files.items():
        try:
            write_file(path, content.encode())
        except OSError as error:
            raise UsageError(
                f"{path} cannot be written: {error.strerror or error}", "free the space it needs"
            ) from None
    return list(files)
