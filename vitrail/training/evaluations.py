"""Evaluations while a run goes on and at its end; with `plan.patience`, which was the best, and whether it is time to stop.

Where the best was lies in the checkpoints and not in the log, since a checkpoint is verified and the log may lose a row to a full disk.
The weights lie in best/, a file a step, and stay while any checkpoint that is kept counts them the best: whichever a run goes on from, it
finds its own.
"""

import json
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from vitrail.assembly import model
from vitrail.data.splits import held_out
from vitrail.engine import checkpoint
from vitrail.engine.state import State
from vitrail.errors import CheckpointError
from vitrail.evaluation import evaluate
from vitrail.evaluation.generation import copying
from vitrail.evaluation.generation.frechet import Frechet
from vitrail.inference.sample import ACROSS, portrayed, sheet
from vitrail.storage.atomic import write_file
from vitrail.storage.tensors import pack, unpack
from vitrail.training.events import Event
from vitrail.training.session import Session


def judged(session: Session, frechet: Frechet, final: bool = False) -> dict[str, Any]:
    """The numbers of the held-out part, and the seconds they took. At the end the judgement is kept."""
    start = time.perf_counter()
    part = held_out(session.dataset, final)
    split = session.dataset.splits[part]
    for buffer in session.state.best.buffers():  # of batch norms: every process has its own, and those that are saved are judged
        session.world.share(buffer)
    described = model.Described(session.state.best, session.described.task, session.recipe, session.described.classes)
    found = evaluate.evaluate(described, split, session.world, session.judging, session.workers, session.precision)
    if final and session.world.first:
        evaluate.keep(session.folder, part, found)
        if described.task.is_generative:
            portray(session, described)
    return {"part": part, **evaluate.scalars(found.metrics), **frechet.measured(described), "eval_s": round(time.perf_counter() - start, 3)}


def portray(session: Session, described: model.Described) -> None:
    """Keeps pictures of every class, and the training pictures nearest to them."""
    made, recipe = portrayed(described), session.recipe
    write_file(session.folder.samples, sheet(made, ACROSS))
    seen = session.state.step * (recipe.plan.batch or 1)
    found = copying.by_pixels(made, session.pictures, session.preprocess, seen, bool(recipe.augment.flip), session.world)
    copying.write(session.folder.evaluation, "pixels", found)


class Evaluations:
    """When a run is judged, and what follows from it."""

    def __init__(self, session: Session):
        self.session, self.standing = session, session.state.standing
        kept = session.folder.path / "features"
        self.frechet = Frechet(session.recipe, session.described.task, session.pictures, kept, session.world)
        self.metric, self.sign = session.described.task.metric.name, session.described.task.metric.sign
        self.every, self.patience = session.recipe.plan.eval_every or 0, session.recipe.plan.patience

    @property
    def enough(self) -> bool:
        """Whether so many evaluations were no better that the run stops."""
        return 0 < self.patience <= self.standing.since

    def due(self, step: int) -> bool:
        """The last step is judged by `finish`, on the test part; with patience, its weights also compete with those before."""
        last = step == self.session.steps
        regular = bool(self.every) and step % self.every == 0
        return (regular or last) if self.patience else (regular and not last)

    def missed(self) -> Iterator[Event]:
        """The evaluation of the step that a run goes on from, where a signal came before it and it counts."""
        step = self.session.state.step
        if self.patience and step and self.due(step) and self.standing.judged < step:
            yield from self.judge()

    def judge(self) -> Iterator[Event]:
        """One evaluation, and with patience what it is worth; every process is told the same."""
        session, step, standing = self.session, self.session.state.step, self.standing
        values = judged(session, self.frechet)
        yield Event("eval", step, values)
        if not self.patience:
            return
        value = session.world.once(lambda: self.sign * float(values[self.metric]))
        best = standing.better(value)
        refused = session.world.once(lambda: keep(session, step)) if best else ""
        if refused:  # it neither counts as the best nor as one that was no better
            standing.judged = step
            yield Event("note", step, {"text": f"the best weights so far could not be kept: {refused}; going on"})
            return
        standing.note(step, value, best)
        tidy(session)

    def told(self) -> Event:
        """That the run has stopped early."""
        standing, step = self.standing, self.session.state.step
        best = None if standing.value is None else self.sign * standing.value
        known = f"{self.metric} {best:.4f} at step {standing.step}" if best is not None else f"no number for {self.metric}"
        text = f"stopped early at step {step} of {self.session.steps}: no better than {known} for {standing.since} evaluations"
        return Event("stopped", step, {"text": text, "best": best, "best_step": standing.step, "evaluations": standing.since})


def file_of(session: Session, step: int) -> Path:
    return session.folder.best / f"{checkpoint.name_of(step)}.safetensors"


def keep(session: Session, step: int) -> str:
    """Writes the weights to judge by as the best of the run; returns why that was not possible, "" where it was."""
    try:
        session.folder.best.mkdir(exist_ok=True)
        write_file(file_of(session, step), pack(dict(session.state.best.state_dict()), {}))
        return ""
    except OSError as error:
        return error.strerror or str(error)


def tidy(session: Session) -> None:
    """Removes weights that were the best once and that no checkpoint can lead back to."""
    if not session.world.first or not session.folder.best.is_dir():
        return
    wanted = {session.state.standing.step, *(step_of(path) for path in checkpoint.listed(session.folder.checkpoints))}
    names = {file_of(session, step).name for step in wanted}
    for path in session.folder.best.glob("step-*.safetensors"):
        if path.name not in names:
            path.unlink(missing_ok=True)


def step_of(path: Path) -> int:
    """The step of the best evaluation as a checkpoint has it; 0 where it has none or cannot be read."""
    try:
        return int(json.loads((path / "state.json").read_bytes())["standing"]["step"])
    except (OSError, ValueError, KeyError, TypeError):
        return 0


def restore(session: Session) -> None:
    """With patience, the best weights take the place of the last, on every process. Errors: `CheckpointError`."""
    if session.recipe.plan.patience and session.state.standing.step:
        path = file_of(session, session.state.standing.step)
        State.load_strict(session.state.best, session.world.once(lambda: kept(path)))


def kept(path: Path) -> dict[str, Any]:
    try:
        return unpack(path)[0]
    except CheckpointError as error:
        fix = f"{error.fix}; or --plan.patience 0 --allow-change plan.patience finishes with the last weights"
        raise CheckpointError(f"the best weights of the run cannot be read: {error.what}", fix) from None
