"""Evaluations during a run and at its end, the best weights, and with `train.patience` early stopping.

The step of the best evaluation is in the checkpoints and not in the log, since a checkpoint is verified and the log may
lose a row to a full disk. The weights are in best/, a file a step, and are kept while any checkpoint has them as its
best: whichever a run is resumed from, its best weights exist. best.json names those that count now.
"""

import contextlib
import dataclasses
import json
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

from vitrail.assembly import model
from vitrail.data.splits import evaluation_part
from vitrail.engine import checkpoint
from vitrail.engine.precision import Precision
from vitrail.engine.state import State
from vitrail.errors import CheckpointError
from vitrail.evaluation import evaluate
from vitrail.evaluation.evaluate import Evaluation
from vitrail.evaluation.generation import copying
from vitrail.evaluation.generation.frechet import FrechetMonitor
from vitrail.inference.sample import ACROSS, encode_sheet, sample_portrait
from vitrail.storage.atomic import write_file
from vitrail.storage.json_text import to_json
from vitrail.storage.tensors import stream, unpack
from vitrail.training.events import Event
from vitrail.training.session import Session


class Measured(NamedTuple):
    """An evaluation of the weights after `step` steps, the values of its event, and what the evaluator notes."""

    step: int
    part: str
    precision: str
    evaluation: Evaluation
    values: dict[str, Any]
    notes: tuple[str, ...] = ()


def evaluate_session(session: Session, frechet: FrechetMonitor, final: bool = False) -> Measured:
    """The metrics of the held-out part, and the seconds they took. The final evaluation is in fp32 as those of
    `vitrail eval` and the predictions are, so that both give the same."""
    start = time.perf_counter()
    part = evaluation_part(session.dataset, final)
    split = session.dataset.splits[part]
    session.state.gather()
    for buffer in session.state.best_model.buffers():  # of batch norms: those of rank 0 are saved, so evaluate them
        session.world.broadcast(buffer)
    bundle, transform, cached = trained_bundle(session), session.evaluation_preprocess, session.features
    precision = Precision("fp32", session.world.device.type) if final else session.precision
    on_features = cached is not None and not final and part in cached.splits
    if cached is not None and on_features:
        split, transform = cached.splits[part], cached.transform
        bundle = dataclasses.replace(bundle, model=cached.classifier(session.state.best_model))
    lost = evaluate.most_unreadable(session.recipe.data, len(split))
    evaluation = evaluate.evaluate(bundle, split, session.world, transform, session.workers, precision, most_lost=lost)
    values = {
        "part": part,
        **evaluate.scalar_metrics(evaluation.metrics),
        **frechet.measure(bundle),
        "eval_s": round(time.perf_counter() - start, 3),
    }
    name = "features" if on_features else precision.name  # the final one is of images
    return Measured(session.state.step, part, name, evaluation, values, tuple(evaluation.metrics.get("notes", ())))


def write_final(session: Session, measured: Measured) -> dict[str, Any]:
    """Saves the evaluation of the finished weights, with the interval of its metric and the weights that it is of;
    returns its values with both."""
    are_best = session.selects_best and session.state.early_stopping.step > 0
    weights = session.folder.describe_weights(are_best)
    evaluation = evaluate.with_weights(evaluate.with_interval(measured.evaluation), weights)
    if session.world.is_first:
        evaluate.write_evaluation(session.folder, measured.part, evaluation)
        if session.bundle.task.is_generative:
            write_samples(session, trained_bundle(session))
    more = {key: evaluation.metrics[key] for key in ("interval", "weights") if key in evaluation.metrics}
    return {**measured.values, **more}


def trained_bundle(session: Session) -> model.ModelBundle:
    """The weights of the session that are evaluated: the averaged ones, where it averages."""
    return dataclasses.replace(session.bundle, model=session.state.best_model, recipe=session.recipe)


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
        self.selects = session.selects_best
        self.newest: Measured | None = None
        self.noted: set[str] = set()
        self.record_best()  # a resumed run may have lost the evaluations after its checkpoint

    @property
    def should_stop(self) -> bool:
        """Whether the run stops early."""
        return 0 < self.patience <= self.early_stopping.evaluations_since

    def is_due(self, step: int) -> bool:
        """The last step is evaluated at the end, on the test split; where the best weights are kept, also here, since
        it may be the best."""
        last = step == self.session.steps
        regular = bool(self.every) and step % self.every == 0
        return (regular or last) if self.selects else (regular and not last)

    def evaluate_missed(self) -> Iterator[Event]:
        """The evaluation of the step that a run is resumed from, where a signal came before it; needed to keep the
        best weights."""
        step = self.session.state.step
        if self.selects and step and self.is_due(step) and self.early_stopping.evaluated_step < step:
            yield from self.evaluate()

    def evaluate(self) -> Iterator[Event]:
        """One evaluation, and whether it is the best, the same on every process. Of equally good ones the newest
        counts, which has learned longer; not where patience waits for something better."""
        try:
            yield from self.evaluate_now()
        finally:
            self.session.state.release()

    def evaluate_now(self) -> Iterator[Event]:
        session, step, stopping = self.session, self.session.state.step, self.early_stopping
        self.newest = evaluate_session(session, self.frechet)
        values = self.newest.values
        yield Event("eval", step, values)
        yield from self.new_notes(self.newest)
        if not self.selects:
            return
        value = session.world.on_rank_zero(lambda: self.sign * float(values[self.metric]))
        best = stopping.is_better(value, or_equal=not self.patience)
        failure = session.world.on_rank_zero(lambda: save_best(session, step)) if best else ""
        if failure:  # it counts neither as the best nor as no improvement
            stopping.evaluated_step = step
            if self.patience:  # else the next checkpoint reports the full disk, and the last weights are as good an end
                text = f"the best weights so far could not be saved: {failure}; the run continues"
                yield Event("note", step, {"text": text})
            return
        stopping.record(step, value, best)
        remove_stale(session)
        self.record_best()

    def evaluate_finished(self) -> Iterator[Event]:
        """The evaluation of the finished weights, saved, and its values under "done". Where it would be that of the
        last step once more, that is taken."""
        session, step = self.session, self.session.state.step
        wanted = (step, evaluation_part(session.dataset, final=True), "fp32")
        known = self.newest
        if known and known[:3] == wanted and self.early_stopping.step in (0, step):
            values = write_final(session, known)
        else:
            self.newest = evaluate_session(session, self.frechet, final=True)
            values = write_final(session, self.newest)
            yield Event("eval", step, {key: value for key, value in values.items() if not isinstance(value, dict)})
            yield from self.new_notes(self.newest)
        yield Event("done", step, values)

    def new_notes(self, measured: Measured) -> Iterator[Event]:
        """What an evaluator has to say that it has not said before."""
        new = [text for text in measured.notes if text not in self.noted]
        self.noted.update(new)
        yield from (Event("note", measured.step, {"text": text}) for text in new)

    def record_best(self) -> None:
        """Writes or removes best.json, by the best evaluation so far."""
        session, step = self.session, self.early_stopping.step
        if not session.world.is_first or not session.folder.best.is_dir():
            return
        with contextlib.suppress(OSError):  # the weights are there, and the next evaluation or the end writes it
            if self.selects and step and best_file(session, step).is_file():
                write_file(session.folder.best_about, to_json(self.best_evaluation(), indent=1).encode())
            else:
                session.folder.best_about.unlink(missing_ok=True)

    def best_evaluation(self) -> dict[str, Any]:
        """The best evaluation so far, for best.json and for people; empty before the first."""
        best, part = self.early_stopping, evaluation_part(self.session.dataset, final=False)
        if best.value is None:
            return {}
        return {
            "step": best.step,
            "metric": self.metric,
            "value": self.sign * best.value,
            "part": part,
            "count": len(self.session.dataset.splits[part]),
            "file": best_file(self.session, best.step).name,
        }

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
        about = model.describe_bundle(trained_bundle(session))
        write_file(best_file(session, step), stream(dict(session.state.best_model.state_dict()), about))
        return ""
    except OSError as error:
        return error.strerror or str(error)


def remove_stale(session: Session) -> None:
    """Removes former best weights that no checkpoint refers to."""
    if not session.world.is_first or not session.folder.best.is_dir():
        return
    needed = {
        session.state.early_stopping.step,
        *session.saving,
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


def restore_best(session: Session) -> str:
    """Replaces the last weights by the best, on every process, where a run keeps them; returns why it could not.

    Errors: `CheckpointError` with patience, whose result they are.
    """
    step = session.state.early_stopping.step
    if not session.selects_best or not step or step == session.state.step:
        return ""
    path, read = best_file(session, step), load_best if session.recipe.train.patience else try_best
    tensors, failure = session.world.broadcast_tensors(lambda: read(path))
    if not failure:
        State.load_strict(session.state.learned_model, tensors)
    return failure


def try_best(path: Path) -> tuple[dict[str, Any], str]:
    try:
        return unpack(path)[0], ""
    except CheckpointError as error:
        path.parent.with_name("best.json").unlink(missing_ok=True)
        return {}, f"the best weights cannot be read ({error.what}): the last weights are used"


def load_best(path: Path) -> tuple[dict[str, Any], str]:
    try:
        return unpack(path)[0], ""
    except CheckpointError as error:
        fix = f"{error.fix}; or --train.patience 0 --allow-change train.patience finishes with the last weights"
        raise CheckpointError(f"the best weights of the run cannot be read: {error.what}", fix) from None
