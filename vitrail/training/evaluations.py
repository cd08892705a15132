"""Evaluations during a run and at its end; with `train.patience`, early stopping and the best weights.

The step of the best evaluation is in the checkpoints and not in the log, since a checkpoint is verified and the log may
lose a row to a full disk. The weights are in best/, a file a step, and are kept while any checkpoint has them as its
best: whichever a run is resumed from, its best weights exist.
"""

import json
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from vitrail.assembly import model
from vitrail.data.splits import evaluation_part
from vitrail.engine import checkpoint
from vitrail.engine.precision import Precision
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
    """The metrics of the held-out split, and the seconds they took. The final evaluation is saved; it is in fp32 as
    those of `vitrail eval` and the predictions are, so that both give the same."""
    start = time.perf_counter()
    part = evaluation_part(session.dataset, final)
    split = session.dataset.splits[part]
    for buffer in session.state.best_model.buffers():  # of batch norms: those of rank 0 are saved, so evaluate them
        session.world.broadcast(buffer)
    bundle = model.ModelBundle(session.state.best_model, session.bundle.task, session.recipe, session.bundle.classes)
    precision = Precision("fp32", session.world.device.type) if final else session.precision
    evaluation = evaluate.evaluate(
        bundle, split, session.world, session.evaluation_preprocess, session.workers, precision
    )
    if final and session.world.is_first:
        evaluate.write_evaluation(session.folder, part, evaluation)
        if bundle.task.is_generative:
            write_samples(session, bundle)
    return {
        "part": part,
        **evaluate.scalar_metrics(evaluation.metrics),
        **frechet.measure(bundle),
        "eval_s": round(time.perf_counter() - start, 3),
    }


def write_samples(session: Session, bundle: model.ModelBundle) -> None:
    """Saves generated images of every class, and the training images nearest to them."""
    generated, recipe = sample_portrait(bundle), session.recipe
    write_file(session.folder.samples, encode_sheet(generated, ACROSS))
    samples_seen = session.state.step * (recipe.train.batch_size or 1)
    copies = copying.measure_by_pixels(
        generated, session.images, session.preprocess, samples_seen, bool(recipe.augment.hflip), session.world
    )
    copying.write_copying(session.folder.evaluation, "pixels", copies)


class Evaluations:
    """The evaluations of a run, and early stopping."""

    def __init__(self, session: Session):
        self.session, self.early_stopping = session, session.state.early_stopping
        cache_dir = session.folder.path / "features"
        self.frechet = FrechetMonitor(session.recipe, session.bundle.task, session.images, cache_dir, session.world)
        self.metric, self.sign = session.bundle.task.metric.name, session.bundle.task.metric.sign
        self.every, self.patience = session.recipe.train.eval_every or 0, session.recipe.train.patience

    @property
    def should_stop(self) -> bool:
        """Whether the run stops early."""
        return 0 < self.patience <= self.early_stopping.evaluations_since

    def is_due(self, step: int) -> bool:
        """The last step is evaluated at the end, on the test split; with patience, also here, since it may be the
        best."""
        last = step == self.session.steps
        regular = bool(self.every) and step % self.every == 0
        return (regular or last) if self.patience else (regular and not last)

    def evaluate_missed(self) -> Iterator[Event]:
        """The evaluation of the step that a run is resumed from, where a signal came before it; needed with
        patience."""
        step = self.session.state.step
        if self.patience and step and self.is_due(step) and self.early_stopping.evaluated_step < step:
            yield from self.evaluate()

    def evaluate(self) -> Iterator[Event]:
        """One evaluation, and with patience whether it is the best, the same on every process."""
        session, step, stopping = self.session, self.session.state.step, self.early_stopping
        values = evaluate_session(session, self.frechet)
        yield Event("eval", step, values)
        if not self.patience:
            return
        value = session.world.on_rank_zero(lambda: self.sign * float(values[self.metric]))
        best = stopping.is_better(value)
        failure = session.world.on_rank_zero(lambda: save_best(session, step)) if best else ""
        if failure:  # it counts neither as the best nor as no improvement
            stopping.evaluated_step = step
            yield Event(
                "note", step, {"text": f"the best weights so far could not be saved: {failure}; the run continues"}
            )
            return
        stopping.record(step, value, best)
        remove_stale(session)

    def stop_message(self) -> Event:
        """The event of stopping early."""
        stopping, step = self.early_stopping, self.session.state.step
        best = None if stopping.value is None else self.sign * stopping.value
        record = f"{self.metric} {best:.4f} at step {stopping.step}" if best is not None else f"no {self.metric} yet"
        text = (
            f"stopped early at step {step} of {self.session.steps}: no better than {record} "
            f"for {stopping.evaluations_since} evaluations"
        )
        return Event(
            "stopped",
            step,
            {"text": text, "best": best, "best_step": stopping.step, "evaluations": stopping.evaluations_since},
        )


def best_file(session: Session, step: int) -> Path:
    return session.folder.best / f"{checkpoint.checkpoint_name(step)}.safetensors"


def save_best(session: Session, step: int) -> str:
    """Saves the weights as the best of the run; returns the reason of a failure, or ""."""
    try:
        session.folder.best.mkdir(exist_ok=True)
        write_file(best_file(session, step), pack(dict(session.state.best_model.state_dict()), {}))
        return ""
    except OSError as error:
        return error.strerror or str(error)


def remove_stale(session: Session) -> None:
    """Removes former best weights that no checkpoint refers to."""
    if not session.world.is_first or not session.folder.best.is_dir():
        return
    needed = {
        session.state.early_stopping.step,
        *(best_step(path) for path in checkpoint.list_checkpoints(session.folder.checkpoints)),
    }
    names = {best_file(session, step).name for step in needed}
    for path in session.folder.best.glob("step-*.safetensors"):
        if path.name not in names:
            path.unlink(missing_ok=True)


def best_step(path: Path) -> int:
    """The step of the best evaluation in a checkpoint; 0 where it has none or cannot be read."""
    try:
        return int(json.loads((path / "state.json").read_bytes())["early_stopping"]["step"])
    except (OSError, ValueError, KeyError, TypeError):
        return 0


def restore_best(session: Session) -> None:
    """With patience, replaces the last weights by the best, on every process. Errors: `CheckpointError`."""
    if session.recipe.train.patience and session.state.early_stopping.step:
        path = best_file(session, session.state.early_stopping.step)
        State.load_strict(session.state.best_model, session.world.on_rank_zero(lambda: load_best(path)))


def load_best(path: Path) -> dict[str, Any]:
    try:
        return unpack(path)[0]
    except CheckpointError as error:
        fix = f"{error.fix}; or --train.patience 0 --allow-change train.patience finishes with the last weights"
        raise CheckpointError(f"the best weights of the run cannot be read: {error.what}", fix) from None
