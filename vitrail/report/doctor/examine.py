"""What is wrong with a run and what to do about it, from what is known of it. Nothing is read here, and nothing is changed."""

from collections.abc import Iterator
from typing import Any

import numpy as np

from vitrail.report.doctor.files import RunFiles
from vitrail.report.doctor.finding import Finding, list_some
from vitrail.report.doctor.learning_curve import examine_curves
from vitrail.report.run_data import RunData

UNEVEN = 10  # times as many training images of one class as of another
LEAST_FREE = 2**30  # bytes
SAVES = 3  # checkpoints that must fit, at least


def examine_run(known: RunData, disk: RunFiles) -> list[Finding]:
    """All there is to say, what is grave first."""
    found = [*files(known, disk), *data(known, disk), *examine_curves(known), *answers(known)]
    return sorted(found, key=lambda finding: not finding.grave)


def describe_state(known: RunData, disk: RunFiles) -> str:
    """Where the run stands, in a word or two."""
    if disk.worker:
        return f"going on ({disk.worker})"
    return "finished" if ended(known, disk) else "stopped"


def ended(known: RunData, disk: RunFiles) -> bool:
    """Whether all was done. Finished weights alone do not say it: the run may have been given more steps since."""
    done = max(known.steps_done, int(disk.newest.rpartition("-")[2] or 0))
    return known.is_finished and (done >= known.steps or known.recipe.train.patience > 0)


def resume(known: RunData) -> str:
    return f"vitrail train --resume {known.folder.path}"


def files(known: RunData, disk: RunFiles) -> Iterator[Finding]:
    failed = [facts for facts in disk.divergences if facts["step"] > known.steps_done]  # others have been overcome
    if failed and not disk.worker:
        yield diverged(known, failed[-1])
    elif not disk.worker:
        yield from interrupted(known, disk)
    yield from damaged(known, disk)
    need = max(LEAST_FREE, SAVES * disk.need)
    if disk.free < need:
        yield Finding(
            "disk", not ended(known, disk), "the disk is nearly full",
            f"{disk.free / 2**30:.2f} GiB are free at {known.folder.path}; a checkpoint takes {disk.need / 2**30:.2f} GiB",
            "free some space; --runtime.keep-checkpoints 2 keeps fewer checkpoints",
        )  # fmt: skip


def diverged(known: RunData, facts: dict[str, Any]) -> Finding:
    told, images = facts.get("finding", {}).get("message", ""), [str(name) for name in facts.get("images", [])]
    where = f"; {told}" if told else ""
    return Finding(
        "diverged", True, "a number was not finite, and the run ended there",
        f"{facts.get('what', '')}{where}; {facts.get('trend', '')}; images: {list_some(images, 3)}; more in {known.folder.divergence}",
        "; ".join(facts.get("suggestions", [])) or f"{resume(known)} with a lower rate: --lr X --allow-change optim.lr",
    )  # fmt: skip


def interrupted(known: RunData, disk: RunFiles) -> Iterator[Finding]:
    """A run that nobody works on and that is not at its end."""
    if ended(known, disk):
        if known.evaluation is None:
            yield Finding(
                "unjudged", False, "the finished weights have not been judged", f"there is nothing in {known.folder.evaluation}",
                f"vitrail eval {known.folder.path}",
            )  # fmt: skip
        return
    if not disk.newest and disk.checkpoints:
        return  # told with the damage
    begun = f"step {known.steps_done:,} of {known.steps:,} is logged"
    if disk.newest:
        yield Finding(
            "interrupted", True, "the run was interrupted", f"{begun}; the newest sound checkpoint is {disk.newest}; nobody works on it",
            f"{resume(known)} goes on as if nothing had happened",
        )  # fmt: skip
    else:
        lost = known.steps_done >= known.recipe.runtime.save_every
        yield Finding(
            "interrupted", True, f"the run was interrupted{', and its checkpoints are gone' if lost else ' before its first checkpoint'}",
            f"{begun}; {known.folder.checkpoints} holds none, and every {known.recipe.runtime.save_every:,} steps one is saved",
            f"{resume(known)} begins again at step 0" + ("" if lost else "; --runtime.save-every saves more often"),
        )  # fmt: skip


def damaged(known: RunData, disk: RunFiles) -> Iterator[Finding]:
    if disk.weights:
        rewritten = (
            f"{resume(known)} writes them anew from {disk.newest}"
            if disk.newest
            else "no checkpoint is left to write them from"
        )
        yield Finding("weights_damaged", True, "the finished weights are damaged", disk.weights, rewritten)
    faults, over = [fault for _, fault in disk.checkpoints if fault], ended(known, disk)
    if faults and (disk.newest or over):
        instead = f"{disk.newest} is used instead" if disk.newest else "the finished weights do not need it"
        yield Finding(
            "checkpoint_damaged",
            False,
            "a checkpoint is damaged",
            list_some(faults, 3),
            f"nothing: {instead}; but look after the disk",
        )
    elif faults:
        yield Finding(
            "checkpoint_damaged", True, "every checkpoint is damaged", list_some(faults, 3),
            "a new run, in another folder; and look after the disk",
        )  # fmt: skip
    if known.recipe.train.patience and (bad := [fault for _, fault in disk.best if fault]):
        yield Finding(
            "best_damaged", not over, "the best weights that train.patience kept are damaged", list_some(bad, 3),
            "nothing: the run is finished" if over
            else f"{resume(known)} --train.patience 0 --allow-change train.patience finishes with the last weights",
        )  # fmt: skip


def data(known: RunData, disk: RunFiles) -> Iterator[Finding]:
    """Whether the data is there, as it was, evenly spread, and partly held out."""
    over = ended(known, disk)
    if known.dataset is None:
        advice = (
            f"vitrail eval {known.folder.path} --data FOLDER judges on other data"
            if over
            else f"put it back; then {resume(known)}"
        )
        yield Finding("data_gone", not over, "the data of the run cannot be read", known.absent, advice)
    if disk.changed:
        yield Finding(
            "data_changed", not over, "the data has changed since the run began", "; ".join(disk.changed),
            "what is there now is not what it was judged on" if over else "restore it, or begin a new run: a resumption is refused",
        )  # fmt: skip
    if disk.unlisted:
        yield Finding(
            "data_unlisted", not over, "it cannot be known whether the data has changed", disk.unlisted,
            "nothing: the run is finished" if over else "a new run: a resumption is refused",
        )  # fmt: skip
    parts = known.about["data"].get("parts", {})
    if parts and not {"val", "test"} & set(parts):
        cut = known.about["data"].get("layout") in ("imagefolder", "table")
        yield Finding(
            "nothing_held_out", True, "it was judged on the images that it was trained on",
            f"the data has these parts: {list_some(list(parts))}; such numbers say nothing of new images",
            "give the data a part called val or test" + ("; or a new run with --data.held-out 0.2" if cut else ""),
        )  # fmt: skip
    yield from uneven(known)


def uneven(known: RunData) -> Iterator[Finding]:
    if known.dataset is None or not known.task.is_classifier or known.dataset.classes != tuple(known.classes):
        return
    labels = known.dataset.splits["train"].labels
    counts = labels.sum(0) if labels.ndim == 2 else np.bincount(labels, minlength=len(known.classes))
    met = known.recipe.data.sampler == "balanced" or known.recipe.task.keys.get("class_weights") == "balanced"
    least, most = int(counts.argmin()), int(counts.argmax())
    if counts[most] < UNEVEN * counts[least] or (met and counts[least]):
        return
    way = (
        "--task.class-weights balanced"
        if known.is_multi_label
        else "--data.sampler balanced, or --task.class-weights balanced"
    )
    yield Finding(
        "imbalance", False, "some classes have far fewer training images than others",
        f"{known.classes[most]} has {int(counts[most]):,}, {known.classes[least]} {int(counts[least]):,}",
        f"a new run with {way}; more images of the rare classes are worth more",
    )  # fmt: skip


def answers(known: RunData) -> Iterator[Finding]:
    """What the model says of the part that counts: classes that it never says, and whether it is better than a guess."""
    if known.evaluation is None or not known.task.is_classifier:
        return
    part, metrics = known.evaluation.part, known.evaluation.metrics
    confusion = metrics.get("confusion")
    if confusion is not None and len(confusion) == len(known.classes):
        counts = np.array(confusion)
        yield from never_predicted(known, counts.sum(0), counts.sum(1), part)
        yield from guessing(known, counts, part)
    elif known.is_multi_label and "per_class" in metrics:
        found, count = (np.array(metrics["per_class"][key]) for key in ("recall", "count"))
        yield from never_predicted(known, found, count, part)


def never_predicted(known: RunData, predicted: np.ndarray, count: np.ndarray, part: str) -> Iterator[Finding]:
    """Classes that occur and are not said, or where an image has several, not where they are; said, count [K]."""
    silent = np.flatnonzero((count > 0) & (predicted == 0))
    if len(silent):
        told = [f"{known.classes[i]} ({int(count[i]):,} images)" for i in silent]
        rightly = "rightly " if known.is_multi_label else ""
        yield Finding(
            "never_said", len(silent) > len(known.classes) / 4,
            f"{len(silent):,} of {len(known.classes):,} classes are never {rightly}said", f"in the {part} part: {list_some(told)}",
            "more steps, more images of them, --data.sampler balanced; vitrail check shows how many there are",
        )  # fmt: skip


def guessing(known: RunData, confusion: np.ndarray, part: str) -> Iterator[Finding]:
    """confusion [K K], rows true."""
    count = int(confusion.sum())
    if not count or len(confusion) < 2:
        return
    right, most = confusion.diagonal().sum() / count, confusion.sum(1).max() / count
    if right > most + 2 * float(np.sqrt(most * (1 - most) / count)):
        return
    name = known.classes[int(confusion.sum(1).argmax())]
    yield Finding(
        "guessing", True, "it is no better than a guess",
        f"{right:.1%} of {count:,} images of the {part} part are right; always saying {name} would give {most:.1%}",
        "do images and labels belong together (vitrail check)? Else more steps, or another rate (vitrail tune-lr)",
    )  # fmt: skip
