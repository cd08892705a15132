"""What keeps Vision Transformer training stable: warm-up, gradient clipping, norm position, batch size and lr.

One small ViT is trained on the same images in the same order, each time with one setting changed. The results are the
loss and the gradient norm (before clipping) at every step, the final accuracy, and the step at which the training
diverged. The batch in micro-batches must give the curve of the whole batch: that row checks the code, not the idea.
"""

import math
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from vitrail.assembly.prepare import PreparedRun
from vitrail.engine.processes.world import World
from vitrail.recipe import Recipe
from vitrail.studies._bench.bench import Bench, Job, group_by_row
from vitrail.studies._bench.result import StudyResult, figure_svg
from vitrail.studies._bench.result import markdown_table as markdown
from vitrail.studies._bench.trial import evaluate_trial, run_trial, short_recipe
from vitrail.validation import Positive, PositiveFloat

SMOOTH = 5  # steps of the moving average of the loss that decides on divergence


@dataclass(frozen=True)
class Config:
    data: str = "mini"  # training data: "mini", or any data set that vitrail train accepts
    steps: Positive = 80  # of every row
    seeds: Positive = 1  # how often each row is trained, with seeds 0, 1, ...
    batch: Positive = 128  # images a step
    lr: PositiveFloat = 3e-3  # of every row but those with ten times as much
    depth: Positive = 12  # blocks of the model
    width: Positive = 64  # of its tokens; a multiple of 16
    patch: Positive = 7  # pixels


@dataclass(frozen=True)
class Row:
    """A training run. panel: its chart in the figure; changes: keys that differ from the plain recipe, by section."""

    name: str
    panel: str
    changes: dict[str, dict[str, Any]] = field(default_factory=dict)


@dataclass(frozen=True)
class Outcome:
    """A training run of a row. lost: the step from which the loss was at chance level or not finite; 0: never."""

    row: str
    seed: int
    losses: tuple[float, ...]
    norms: tuple[float, ...]
    accuracy: float
    lost: int
    reason: str = ""

    @property
    def final(self) -> float:
        """The mean of the last losses; infinite after a divergence."""
        return math.inf if self.reason else float(np.mean(self.losses[-SMOOTH:]))


def build(config: Config) -> tuple[Row, ...]:
    """The rows. The plain one has warm-up, clipping at 1, pre-norm, and a suitable learning rate."""
    warm, clip, micro_batch = {"warmup_steps": 0}, {"clip_grad": 0.0}, max(1, config.batch // 8)
    high = {"lr": 10 * config.lr}
    return (
        Row("plain", ""),
        Row("no warm-up", "warm-up and clipping", {"optim": warm}),
        Row("no clipping", "warm-up and clipping", {"optim": clip}),
        Row("neither", "warm-up and clipping", {"optim": warm | clip}),
        Row("post-norm", "position of the norm", {"model": {"norm_at": "post"}}),
        Row("post-norm, no warm-up", "position of the norm", {"model": {"norm_at": "post"}, "optim": warm}),
        Row("no norm", "position of the norm", {"model": {"norm_at": "none"}}),
        Row(f"batch size {micro_batch}", "batch size", {"train": {"batch_size": micro_batch}}),
        Row(
            f"{config.batch} in micro-batches of {micro_batch}", "batch size", {"runtime": {"micro_batch": micro_batch}}
        ),
        Row("lr x 10", "ten times the lr", {"optim": high}),
        Row("lr x 10, no warm-up", "ten times the lr", {"optim": high | warm}),
        Row("lr x 10, neither", "ten times the lr", {"optim": high | warm | clip}),
        Row("lr x 10, post-norm", "ten times the lr", {"model": {"norm_at": "post"}, "optim": high}),
        Row("lr x 10, no norm", "ten times the lr", {"model": {"norm_at": "none"}, "optim": high}),
    )


def recipe(config: Config) -> Recipe:
    """The plain row, without augmentation or dropout, so that rows differ in one setting only."""
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
    outcomes = [from_json(job, value) for job, value in zip(jobs, values, strict=True)]
    gap = difference(rows, outcomes)
    note = f"Largest difference in loss between the whole batch and micro-batches: {gap:.1e}."
    trainings = group_by_row(jobs, values)
    numbers = {
        "whole_and_pieces_differ": gap,
        "rows": [{"name": row.name, "changes": row.changes, "trainings": trainings[row.name]} for row in rows],
    }
    return StudyResult(numbers, [*table(rows, outcomes), "", note], {"figure.svg": figure(rows, outcomes)})


def outcome(row: Row, seed: int, prepared: PreparedRun, world: World) -> Outcome:
    """One training run, and its evaluation on the held-out part."""
    trial = run_trial(prepared, row.changes, seed, world)
    task, classes, losses = trial.session.bundle.task, prepared.dataset.classes, trial.losses
    lost = len(losses) + 1 if trial.reason else first_lost(losses, math.log(2 if task.multi_label else len(classes)))
    return Outcome(row.name, seed, tuple(losses), tuple(trial.norms), evaluate_trial(trial), lost, trial.reason)


def as_json(o: Outcome) -> dict[str, Any]:
    """A training run as JSON; a norm that is not finite is None."""
    return {
        "seed": o.seed, "final_loss": o.final if math.isfinite(o.final) else None, "accuracy": o.accuracy,
        "largest_grad_norm": max(filter(math.isfinite, o.norms), default=None), "diverged_at": o.lost or None,
        "reason": o.reason,
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
    """The step from which the mean loss of `SMOOTH` steps stays at chance level or above; 0 if it ends below."""
    mean = [float(np.mean(losses[max(0, i - SMOOTH + 1) : i + 1])) for i in range(len(losses))]
    below = [i for i, value in enumerate(mean) if value < 0.95 * guessing]
    if not below:
        return 1
    return 0 if below[-1] == len(losses) - 1 else below[-1] + 2


def fate(outcome: Outcome) -> str:
    """How a training run failed, in words; "" if it did not."""
    if outcome.reason:
        return f"not finite at {outcome.lost}"
    return "never learned" if outcome.lost == 1 else f"diverged at {outcome.lost}" if outcome.lost else ""


def difference(rows: tuple[Row, ...], outcomes: list[Outcome]) -> float:
    """The largest difference in loss at any step between the plain row and the row with micro-batches."""
    split_row = next(row.name for row in rows if "runtime" in row.changes)
    whole, split = ([o.losses for o in outcomes if o.row == name] for name in ("plain", split_row))
    return max(abs(a - b) for one, other in zip(whole, split, strict=True) for a, b in zip(one, other, strict=False))


def table(rows: tuple[Row, ...], results: list[Outcome]) -> list[str]:
    """Markdown, a line per row: means over seeds, the largest gradient norm, and how each failed seed diverged."""
    cells = []
    for row in rows:
        outcomes = [o for o in results if o.row == row.name]
        loss, accuracy = np.mean([o.final for o in outcomes]), np.mean([o.accuracy for o in outcomes])
        norm = max((n for o in outcomes for n in o.norms if math.isfinite(n)), default=math.nan)
        failures = ", ".join(fate(o) for o in outcomes if o.lost)
        ending = f"{loss:.3f}" if math.isfinite(loss) else "not finite"
        cells.append([row.name, ending, f"{accuracy:.1%}", f"{norm:.2g}", failures or "-"])
    return markdown(["training", "final loss", "accuracy", "largest gradient norm", "diverged at step"], cells)


def figure(rows: tuple[Row, ...], outcomes: list[Outcome]) -> bytes:
    """Loss above, gradient norm below, a column per kind of change, the plain run in each. SVG."""
    from matplotlib.figure import Figure

    panels = list(dict.fromkeys(row.panel for row in rows if row.panel))
    chart = Figure(figsize=(4.2 * len(panels), 6.4), layout="constrained")
    grid = chart.subplots(2, len(panels), sharex=True, sharey="row")
    for column, panel in enumerate(panels):
        above, below = grid[0][column], grid[1][column]
        for number, row in enumerate(r for r in rows if r.panel in ("", panel)):
            for outcome in (o for o in outcomes if o.row == row.name):
                style: Any = {"color": f"C{number - 1}" if number else "0.6", "linewidth": 1.2 if number else 3}
                style |= {
                    "linestyle": "--" if "runtime" in row.changes else "-",
                    "label": row.name if not outcome.seed else None,
                }
                across = range(1, len(outcome.losses) + 1)
                above.plot(across, outcome.losses, **style)
                below.plot(across, outcome.norms, **style)
        above.set(title=panel, ylim=(0, 1.5 * max(o.losses[0] for o in outcomes if o.losses)))
        above.legend(fontsize="small")
        below.set(xlabel="step", yscale="log")
    grid[0][0].set_ylabel("loss")
    grid[1][0].set_ylabel("gradient norm")
    return figure_svg(chart)
