"""What keeps a Vision Transformer's training stable: warm-up, clipping, where the norm stands, the batch and the rate.

One small ViT is trained on the same images in the same order, each time with one thing changed. Shown are the loss and the norm of
the gradient (before clipping) at every step, the accuracy at the end, and the step at which the training was lost. The batch in
small pieces must give the curve of the whole batch: that row checks the code, not the idea.
"""

import math
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from vitrail.assembly.prepare import PreparedRun
from vitrail.engine.world import World
from vitrail.recipe import Recipe
from vitrail.studies._bench.bench import Bench, Job, group_by_row
from vitrail.studies._bench.result import StudyResult, figure_svg
from vitrail.studies._bench.result import markdown_table as markdown
from vitrail.studies._bench.trial import evaluate_trial, run_trial, short_recipe
from vitrail.validation import Positive, PositiveFloat

SMOOTH = 5  # steps whose mean loss decides whether a training was lost


@dataclass(frozen=True)
class Config:
    data: str = "mini"  # what is learned: "mini", or any data set that vitrail train takes
    steps: Positive = 80  # of every row
    seeds: Positive = 1  # how often each row is trained, with seeds 0, 1, ...
    batch: Positive = 128  # images a step
    lr: PositiveFloat = 3e-3  # of every row but those with ten times as much
    depth: Positive = 12  # blocks of the model
    width: Positive = 64  # of its tokens; a multiple of 16
    patch: Positive = 7  # pixels


@dataclass(frozen=True)
class Row:
    """A training: the first of its panel's lines is the plain one. changes: by section of a recipe, what differs from it."""

    name: str
    panel: str
    changes: dict[str, dict[str, Any]] = field(default_factory=dict)


@dataclass(frozen=True)
class Outcome:
    """One training of a row. lost: the step from which the loss was that of guessing or worse, or not finite any more; 0: never."""

    row: str
    seed: int
    losses: tuple[float, ...]
    norms: tuple[float, ...]
    accuracy: float
    lost: int
    reason: str = ""

    @property
    def final(self) -> float:
        """The mean of the last losses; infinite where there is none any more."""
        return math.inf if self.reason else float(np.mean(self.losses[-SMOOTH:]))


def build(config: Config) -> tuple[Row, ...]:
    """The rows. The plain one has warm-up, clipping at 1, the norm before each branch, and a rate that suits it."""
    warm, clip, piece = {"warmup_steps": 0}, {"clip_grad": 0.0}, max(1, config.batch // 8)
    high = {"lr": 10 * config.lr}
    return (
        Row("plain", ""),
        Row("no warm-up", "warm-up and clipping", {"optim": warm}),
        Row("no clipping", "warm-up and clipping", {"optim": clip}),
        Row("neither", "warm-up and clipping", {"optim": warm | clip}),
        Row("norm after", "where the norm stands", {"model": {"norm_at": "post"}}),
        Row("norm after, no warm-up", "where the norm stands", {"model": {"norm_at": "post"}, "optim": warm}),
        Row("no norm", "where the norm stands", {"model": {"norm_at": "none"}}),
        Row(f"batch of {piece}", "the batch", {"train": {"batch_size": piece}}),
        Row(f"{config.batch} in pieces of {piece}", "the batch", {"runtime": {"micro_batch": piece}}),
        Row("rate x 10", "ten times the rate", {"optim": high}),
        Row("rate x 10, no warm-up", "ten times the rate", {"optim": high | warm}),
        Row("rate x 10, neither", "ten times the rate", {"optim": high | warm | clip}),
        Row("rate x 10, norm after", "ten times the rate", {"model": {"norm_at": "post"}, "optim": high}),
        Row("rate x 10, no norm", "ten times the rate", {"model": {"norm_at": "none"}, "optim": high}),
    )


def recipe(config: Config) -> Recipe:
    """The plain row. Nothing is augmented and nothing dropped, so that rows differ in one thing only."""
    model = {"name": "vit/nano", "stem": "patch", "patch": config.patch, "width": config.width, "depth": config.depth,
             "heads": max(1, config.width // 16), "position": "learned"}  # fmt: skip
    return short_recipe(config, model, warm=5)


def run(config: Config, bench: Bench) -> StudyResult:
    """Trains every row, one after another. Errors: those of preparing a run."""
    prepared = bench.prepare(recipe(config))
    rows = build(config)
    named = {row.name: row for row in rows}
    jobs = [Job(row.name, seed) for row in rows for seed in range(config.seeds)]
    values = bench.measure(jobs, lambda job: as_json(outcome(named[job.row], job.seed, prepared, bench.world)), line)
    found = [from_json(job, value) for job, value in zip(jobs, values, strict=True)]
    apart = difference(rows, found)
    note = f"Largest difference in loss between the whole batch and its pieces: {apart:.1e}."
    trainings = group_by_row(jobs, values)
    numbers = {
        "whole_and_pieces_differ": apart,
        "rows": [{"name": row.name, "changes": row.changes, "trainings": trainings[row.name]} for row in rows],
    }
    return StudyResult(numbers, [*table(rows, found), "", note], {"figure.svg": figure(rows, found)})


def outcome(row: Row, seed: int, prepared: PreparedRun, world: World) -> Outcome:
    """One training, and its judgement on the held-out part."""
    trial = run_trial(prepared, row.changes, seed, world)
    task, classes, losses = trial.session.bundle.task, prepared.dataset.classes, trial.losses
    lost = len(losses) + 1 if trial.reason else first_lost(losses, math.log(2 if task.multi_label else len(classes)))
    return Outcome(row.name, seed, tuple(losses), tuple(trial.norms), evaluate_trial(trial), lost, trial.reason)


def as_json(o: Outcome) -> dict[str, Any]:
    """A training as it is written down; a norm that is not finite is None."""
    return {
        "seed": o.seed, "final_loss": o.final if math.isfinite(o.final) else None, "accuracy": o.accuracy,
        "largest_grad_norm": max(filter(math.isfinite, o.norms), default=None), "diverged_at": o.lost or None, "reason": o.reason,
        "losses": list(o.losses), "grad_norms": [n if math.isfinite(n) else None for n in o.norms],
    }  # fmt: skip


def from_json(job: Job, text: dict[str, Any]) -> Outcome:
    norms = tuple(math.inf if n is None else n for n in text["grad_norms"])
    return Outcome(
        job.row, job.seed, tuple(text["losses"]), norms, text["accuracy"], text["diverged_at"] or 0, text["reason"]
    )


def line(job: Job, text: dict[str, Any]) -> str:
    o = from_json(job, text)
    return f"loss {o.final:.4f}  accuracy {o.accuracy:.4f}  {fate(o)}"


def first_lost(losses: list[float], guessing: float) -> int:
    """The step from which the loss, as a mean of `SMOOTH` steps, was never again clearly below that of guessing; 0 where it ends below."""
    mean = [float(np.mean(losses[max(0, i - SMOOTH + 1) : i + 1])) for i in range(len(losses))]
    below = [i for i, value in enumerate(mean) if value < 0.95 * guessing]
    if not below:
        return 1
    return 0 if below[-1] == len(losses) - 1 else below[-1] + 2


def fate(outcome: Outcome) -> str:
    """What became of a training that was lost, in words; "" where it was not."""
    if outcome.reason:
        return f"not finite at {outcome.lost}"
    return "never learned" if outcome.lost == 1 else f"lost from {outcome.lost}" if outcome.lost else ""


def difference(rows: tuple[Row, ...], found: list[Outcome]) -> float:
    """The largest difference in loss at any step between the plain row and the row that takes the same batch in pieces."""
    pieces = next(row.name for row in rows if "runtime" in row.changes)
    whole, cut = ([o.losses for o in found if o.row == name] for name in ("plain", pieces))
    return max(abs(a - b) for one, other in zip(whole, cut, strict=True) for a, b in zip(one, other, strict=False))


def table(rows: tuple[Row, ...], found: list[Outcome]) -> list[str]:
    """Markdown, a line a row: means over the seeds, the largest norm of all, and the fate of each seed that was lost."""
    cells = []
    for row in rows:
        mine = [o for o in found if o.row == row.name]
        loss, accuracy = np.mean([o.final for o in mine]), np.mean([o.accuracy for o in mine])
        norm = max((n for o in mine for n in o.norms if math.isfinite(n)), default=math.nan)
        told = ", ".join(fate(o) for o in mine if o.lost)
        ending = f"{loss:.3f}" if math.isfinite(loss) else "not finite"
        cells.append([row.name, ending, f"{accuracy:.1%}", f"{norm:.2g}", told or "-"])
    return markdown(["training", "final loss", "accuracy", "largest gradient norm", "diverged at step"], cells)


def figure(rows: tuple[Row, ...], found: list[Outcome]) -> bytes:
    """Loss above, gradient norm below, a column for each thing that was changed; the plain training in each. SVG."""
    from matplotlib.figure import Figure

    panels = list(dict.fromkeys(row.panel for row in rows if row.panel))
    made = Figure(figsize=(4.2 * len(panels), 6.4), layout="constrained")
    grid = made.subplots(2, len(panels), sharex=True, sharey="row")
    for column, panel in enumerate(panels):
        above, below = grid[0][column], grid[1][column]
        for number, row in enumerate(r for r in rows if r.panel in ("", panel)):
            for outcome in (o for o in found if o.row == row.name):
                style: Any = {"color": f"C{number - 1}" if number else "0.6", "linewidth": 1.2 if number else 3}
                style |= {
                    "linestyle": "--" if "pieces" in row.name else "-",
                    "label": row.name if not outcome.seed else None,
                }
                across = range(1, len(outcome.losses) + 1)
                above.plot(across, outcome.losses, **style)
                below.plot(across, outcome.norms, **style)
        above.set(title=panel, ylim=(0, 1.5 * max(o.losses[0] for o in found if o.losses)))
        above.legend(fontsize="small")
        below.set(xlabel="step", yscale="log")
    grid[0][0].set_ylabel("loss")
    grid[1][0].set_ylabel("norm of the gradient")
    return figure_svg(made)
