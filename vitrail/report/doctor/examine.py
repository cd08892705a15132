"""Diagnoses a run: problems, their evidence and advice. Nothing is read or changed here."""

from collections.abc import Iterator
from typing import Any

import numpy as np

from vitrail.errors import many
from vitrail.metrics.intervals import wilson_interval
from vitrail.report.doctor.files import RunFiles
from vitrail.report.doctor.finding import Finding, list_some
from vitrail.report.doctor.learning_curve import examine_curves
from vitrail.report.run_data import RunData

UNEVEN = 10  # times as many training images of one class as of another
LEAST_FREE = 2**30  # bytes
SEEN = 4  # images of a class: a model that finds a little more than half misses all of fewer by chance
SAVES = 3  # checkpoints that must fit on the disk


def examine_run(run: RunData, disk: RunFiles) -> list[Finding]:
    """All findings, the grave ones first."""
    findings = [*files(run, disk), *data(run, disk), *examine_curves(run), *predictions(run)]
    return sorted(findings, key=lambda finding: not finding.grave)


def describe_state(run: RunData, disk: RunFiles) -> str:
    """The state of the run, in a word or two."""
    if disk.worker:
        return f"running ({disk.worker})"
    return "finished" if is_complete(run, disk) else "stopped"


def is_complete(run: RunData, disk: RunFiles) -> bool:
    """Whether the run is complete. Final weights are not enough: its number of steps may have been raised since."""
    done = max(run.steps_done, int(disk.newest.rpartition("-")[2] or 0))
    return run.is_finished and (done >= run.steps or run.recipe.train.patience > 0)


def resume_command(run: RunData) -> str:
    return f"vitrail train --resume {run.folder.path}"


def files(run: RunData, disk: RunFiles) -> Iterator[Finding]:
    failed = [facts for facts in disk.divergences if facts["step"] > run.steps_done]  # the run has passed the others
    if failed and not disk.worker:
        yield divergence(run, failed[-1])
    elif not disk.worker:
        yield from interruption(run, disk)
    yield from damage(run, disk)
    need = max(LEAST_FREE, SAVES * disk.need)
    if disk.free < need:
        yield Finding(
            "disk", not is_complete(run, disk), "the disk is nearly full",
            f"{disk.free / 2**30:.2f} GiB are free at {run.folder.path}; "
            f"a checkpoint takes {disk.need / 2**30:.2f} GiB",
            "free some space; --runtime.keep-checkpoints 2 keeps fewer checkpoints",
        )  # fmt: skip


def divergence(run: RunData, facts: dict[str, Any]) -> Finding:
    message, images = facts.get("finding", {}).get("message", ""), [str(name) for name in facts.get("images", [])]
    where = f"; {message}" if message else ""
    return Finding(
        "diverged", True, "the run diverged: a value was not finite, and the run ended there",
        f"{facts.get('what', '')}{where}; {facts.get('trend', '')}; images: {list_some(images, 3)}; "
        f"more in {run.folder.divergence}",
        "; ".join(facts.get("suggestions", []))
        or f"{resume_command(run)} --lr X --allow-change optim.lr, with a lower learning rate",
    )  # fmt: skip


def interruption(run: RunData, disk: RunFiles) -> Iterator[Finding]:
    """An unfinished run without a running process."""
    if is_complete(run, disk):
        if run.evaluation is None:
            yield Finding(
                "not_evaluated", False, "the final weights have not been evaluated",
                f"there is nothing in {run.folder.evaluation}",
                f"vitrail eval {run.folder.path}",
            )  # fmt: skip
        return
    if not disk.newest and disk.checkpoints:
        return  # reported as damage
    progress = f"step {run.steps_done:,} of {run.steps:,} is logged"
    if disk.newest:
        yield Finding(
            "interrupted", True, "the run was interrupted",
            f"{progress}; the newest intact checkpoint is {disk.newest}; no process is working on it",
            f"{resume_command(run)} resumes it, with the same result as without the interruption",
        )  # fmt: skip
    else:
        lost = run.steps_done >= run.recipe.runtime.save_every
        yield Finding(
            "interrupted", True,
            f"the run was interrupted{', and its checkpoints are gone' if lost else ' before its first checkpoint'}",
            f"{progress}; {run.folder.checkpoints} has none, "
            f"and one is saved every {many(run.recipe.runtime.save_every, 'step')}",
            f"{resume_command(run)} starts again at step 0"
            + ("" if lost else "; --runtime.save-every saves more often"),
        )  # fmt: skip


def damage(run: RunData, disk: RunFiles) -> Iterator[Finding]:
    if disk.weights:
        advice = (
            f"{resume_command(run)} writes them again from {disk.newest}"
            if disk.newest
            else "no checkpoint is left to write them from"
        )
        yield Finding("weights_damaged", True, "the final weights are damaged", disk.weights, advice)
    faults, over = [fault for _, fault in disk.checkpoints if fault], is_complete(run, disk)
    if faults and (disk.newest or over):
        instead = f"{disk.newest} is used instead" if disk.newest else "the final weights do not need it"
        yield Finding(
            "checkpoint_damaged",
            False,
            "a checkpoint is damaged",
            list_some(faults, 3),
            f"nothing: {instead}; but check the disk",
        )
    elif faults:
        yield Finding(
            "checkpoint_damaged", True, "every checkpoint is damaged", list_some(faults, 3),
            "a new run, in another folder; and check the disk",
        )  # fmt: skip
    if best_fault := dict(disk.best).get(str(run.folder.best_evaluation().get("file"))):
        yield Finding(
            "best_damaged", True, "the best weights are damaged", best_fault,
            "--checkpoint last, with eval and predict, uses the last weights",
        )  # fmt: skip
    elif run.recipe.train.patience and (bad := [fault for _, fault in disk.best if fault]):
        yield Finding(
            "best_damaged", not over, "the best weights saved for train.patience are damaged", list_some(bad, 3),
            "nothing: the run is finished" if over
            else f"{resume_command(run)} --train.patience 0 --allow-change train.patience "
            "finishes with the last weights",
        )  # fmt: skip


def data(run: RunData, disk: RunFiles) -> Iterator[Finding]:
    """Whether the data is readable, unchanged, balanced, and has a held-out part."""
    over = is_complete(run, disk)
    if run.dataset is None:
        advice = (
            f"vitrail eval {run.folder.path} --data FOLDER evaluates on other data"
            if over
            else f"put it back; then {resume_command(run)}"
        )
        yield Finding("data_gone", not over, "the data of the run cannot be read", run.absent, advice)
    if disk.changed:
        yield Finding(
            "data_changed", not over, "the data has changed since the run began", "; ".join(disk.changed),
            "the saved metrics are those of the old data" if over
            else "restore it, or start a new run: --resume is refused",
        )  # fmt: skip
    if disk.unlisted:
        yield Finding(
            "data_unlisted", not over, "it cannot be checked whether the data has changed", disk.unlisted,
            "nothing: the run is finished" if over else "a new run: --resume is refused",
        )  # fmt: skip
    parts = run.about["data"].get("parts", {})
    if parts and not {"val", "test"} & set(parts):
        cut = run.about["data"].get("layout") in ("imagefolder", "table")
        yield Finding(
            "no_held_out_part", True, "the run was evaluated on its training images",
            f"the data has these parts: {list_some(list(parts))}; such metrics do not hold for new images",
            "give the data a part called val or test" + ("; or a new run with --data.held-out 0.2" if cut else ""),
        )  # fmt: skip
    yield from imbalance(run)


def imbalance(run: RunData) -> Iterator[Finding]:
    if run.dataset is None or not run.task.is_classifier or run.dataset.classes != tuple(run.classes):
        return
    labels = run.dataset.splits["train"].labels
    counts = labels.sum(0) if labels.ndim == 2 else np.bincount(labels, minlength=len(run.classes))
    is_balanced = run.recipe.data.sampler == "balanced" or run.recipe.task.keys.get("class_weights") == "balanced"
    least, most = int(counts.argmin()), int(counts.argmax())
    if counts[most] < UNEVEN * counts[least] or (is_balanced and counts[least]):
        return
    way = (
        "--task.class-weights balanced"
        if run.is_multi_label
        else "--data.sampler balanced, or --task.class-weights balanced"
    )
    yield Finding(
        "imbalance", False, "some classes have far fewer training images than others",
        f"{run.classes[most]} has {int(counts[most]):,}, {run.classes[least]} {int(counts[least]):,}",
        f"a new run with {way}; more images of the rare classes help more",
    )  # fmt: skip


def predictions(run: RunData) -> Iterator[Finding]:
    """The predictions on the main part: classes that are never predicted, and whether it is better than chance."""
    if run.evaluation is None or not run.task.is_classifier:
        return
    part, metrics = run.evaluation.part, run.evaluation.metrics
    confusion = metrics.get("confusion")
    if confusion is not None and len(confusion) == len(run.classes):
        counts = np.array(confusion)
        yield from never_predicted(run, counts.sum(0), counts.sum(1), part)
        yield from chance_level(run, counts, part)
    elif run.is_multi_label and "per_class" in metrics:
        recall, count = (np.array(metrics["per_class"][key]) for key in ("recall", "count"))
        yield from never_predicted(run, recall, count, part)


def never_predicted(run: RunData, predicted: np.ndarray, count: np.ndarray, part: str) -> Iterator[Finding]:
    """Classes that occur often enough but are never predicted (multi-label: never correctly). predicted, count: [K]."""
    silent = np.flatnonzero((count >= SEEN) & (predicted == 0))
    if len(silent):
        names = [f"{run.classes[i]} ({int(count[i]):,} images)" for i in silent]
        correctly = "correctly " if run.is_multi_label else ""
        yield Finding(
            "never_predicted", len(silent) > len(run.classes) / 4,
            f"{len(silent):,} of {len(run.classes):,} classes are never {correctly}predicted",
            f"in the {part} part: {list_some(names)}",
            "more steps, more images of them, --data.sampler balanced; vitrail check counts the images of each class",
        )  # fmt: skip


def chance_level(run: RunData, confusion: np.ndarray, part: str) -> Iterator[Finding]:
    """confusion [K K], rows true."""
    count = int(confusion.sum())
    if not count or len(confusion) < 2:
        return
    right, most = confusion.diagonal().sum() / count, confusion.sum(1).max() / count
    if right > most + 2 * float(np.sqrt(most * (1 - most) / count)):
        return
    if wilson_interval(float(right), count)[1] > (1 + most) / 2:  # so few images do not tell it from a good model
        return
    name = run.classes[int(confusion.sum(1).argmax())]
    yield Finding(
        "guessing", True, "the model is no better than chance",
        f"{right:.1%} of {count:,} images of the {part} part are correct; "
        f"always predicting {name} would give {most:.1%}",
        "do images and labels match (vitrail check)? Else more steps, or another learning rate (vitrail tune-lr)",
    )  # fmt: skip
