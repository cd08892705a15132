"""Evaluations while a run goes on and at its end; with `train.patience`, which was the best, and whether it is time to stop.

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
from vitrail.data.splits import evaluation_part
from vitrail.engine import checkpoint
from vitrail.engine.state import State
from vitrail.errors import CheckpointError
from vitrail.evaluation import evaluate
from vitrail.evaluation.generation import copying
from vitrail.evaluation.generation.frechet import FrechetMonitor
from vitrail.inference.sample import ACROSS, encode_sheet, sample_portrait
from vitrail.storage.atomic import write_file
from vitrail.storage.tensors import pack, unpack
from vitrail.training.events import Event
from vitrail.training.session import Session


def evaluate_session(session: Session, frechet: FrechetMonitor, final: bool = False) -> dict[str, Any]:
    """The numbers of the held-out part, and the seconds they took. At the end the judgement is kept."""
    start = time.perf_counter()
    part = evaluation_part(session.dataset, final)
    split = session.dataset.splits[part]
    for buffer in (
        session.state.best_model.buffers()
    ):  # of batch norms: every process has its own, and those that are saved are judged
        session.world.broadcast(buffer)
    bundle = model.ModelBundle(session.state.best_model, session.bundle.task, session.recipe, session.bundle.classes)
    found = evaluate.evaluate(
        bundle, split, session.world, session.evaluation_preprocess, session.workers, session.precision
    )
    if final and session.world.is_first:
        evaluate.write_evaluation(session.folder, part, found)
        if bundle.task.is_generative:
            write_samples(session, bundle)
    return {
        "part": part,
        **evaluate.scalar_metrics(found.metrics),
        **frechet.measure(bundle),
        "eval_s": round(time.perf_counter() - start, 3),
    }


def write_samples(session: Session, bundle: model.ModelBundle) -> None:
    """Keeps images of every class, and the training images nearest to them."""
    made, recipe = sample_portrait(bundle), session.recipe
    write_file(session.folder.samples, encode_sheet(made, ACROSS))
    seen = session.state.step * (recipe.train.batch_size or 1)
    found = copying.measure_by_pixels(
        made, session.images, session.preprocess, seen, bool(recipe.augment.hflip), session.world
    )
    copying.write_copying(session.folder.evaluation, "pixels", found)


class Evaluations:
    """When a run is judged, and what follows from it."""

    def __init__(self, session: Session):
        self.session, self.early_stopping = session, session.state.early_stopping
        kept = session.folder.path / "features"
        self.frechet = FrechetMonitor(session.recipe, session.bundle.task, session.images, kept, session.world)
        self.metric, self.sign = session.bundle.task.metric.name, session.bundle.task.metric.sign
        self.every, self.patience = session.recipe.train.eval_every or 0, session.recipe.train.patience

    @property
    def should_stop(self) -> bool:
        """Whether so many evaluations were no better that the run stops."""
        return 0 < self.patience <= self.early_stopping.evaluations_since

    def is_due(self, step: int) -> bool:
        """The last step is judged by `finish`, on the test part; with patience, its weights also compete with those before."""
        last = step == self.session.steps
        regular = bool(self.every) and step % self.every == 0
        return (regular or last) if self.patience else (regular and not last)

    def evaluate_missed(self) -> Iterator[Event]:
        """The evaluation of the step that a run goes on from, where a signal came before it and it counts."""
        step = self.session.state.step
        if self.patience and step and self.is_due(step) and self.early_stopping.evaluated_step < step:
            yield from self.evaluate()

    def evaluate(self) -> Iterator[Event]:
        """One evaluation, and with patience what it is worth; every process is told the same."""
        session, step, standing = self.session, self.session.state.step, self.early_stopping
        values = evaluate_session(session, self.frechet)
        yield Event("eval", step, values)
        if not self.patience:
            return
        value = session.world.on_rank_zero(lambda: self.sign * float(values[self.metric]))
        best = standing.is_better(value)
        refused = session.world.on_rank_zero(lambda: save_best(session, step)) if best else ""
        if refused:  # it neither counts as the best nor as one that was no better
            standing.evaluated_step = step
            yield Event("note", step, {"text": f"the best weights so far could not be kept: {refused}; going on"})
            return
        standing.record(step, value, best)
        remove_stale(session)

    def stop_message(self) -> Event:
        """That the run has stopped early."""
        standing, step = self.early_stopping, self.session.state.step
        best = None if standing.value is None else self.sign * standing.value
        known = (
            f"{self.metric} {best:.4f} at step {standing.step}" if best is not None else f"no number for {self.metric}"
        )
        text = f"stopped early at step {step} of {self.session.steps}: no better than {known} for {standing.evaluations_since} evaluations"
        return Event(
            "stopped",
            step,
            {"text": text, "best": best, "best_step": standing.step, "evaluations": standing.evaluations_since},
        )


def file_of(session: Session, step: int) -> Path:
    return session.folder.best / f"{checkpoint.checkpoint_name(step)}.safetensors"


def save_best(session: Session, step: int) -> str:
    """Writes the weights to judge by as the best of the run; returns why that was not possible, "" where it was."""
    try:
        session.folder.best.mkdir(exist_ok=True)
        write_file(file_of(session, step), pack(dict(session.state.best_model.state_dict()), {}))
        return ""
    except OSError as error:
        return error.strerror or str(error)


def remove_stale(session: Session) -> None:
    """Removes weights that were the best once and that no checkpoint can lead back to."""
    if not session.world.is_first or not session.folder.best.is_dir():
        return
    wanted = {
        session.state.early_stopping.step,
        *(step_of(path) for path in checkpoint.list_checkpoints(session.folder.checkpoints)),
    }
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


def restore_best(session: Session) -> None:
    """With patience, the best weights take the place of the last, on every process. Errors: `CheckpointError`."""
    if session.recipe.train.patience and session.state.early_stopping.step:
        path = file_of(session, session.state.early_stopping.step)
        State.load_strict(session.state.best_model, session.world.on_rank_zero(lambda: load_best(path)))


def load_best(path: Path) -> dict[str, Any]:
    try:
        return unpack(path)[0]
    except CheckpointError as error:
        fix = f"{error.fix}; or --train.patience 0 --allow-change train.patience finishes with the last weights"
        raise CheckpointError(f"the best weights of the run cannot be read: {error.what}", fix) from None
