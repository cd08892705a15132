"""Diagnoses the log of a run: loss, overfitting, gradient norm, learning rate, data waiting time, length."""

import statistics
from collections import Counter
from collections.abc import Iterator
from typing import Any

from vitrail.assembly.defaults import default_lr
from vitrail.assembly.resolve import Names
from vitrail.engine.teacher import MeanTeacher
from vitrail.metrics.intervals import chance_difference, chance_loss
from vitrail.recipe import with_defaults
from vitrail.report.doctor.finding import Finding, Value, logged_values, quarter_medians
from vitrail.report.run_data import RunData

LEAST = 4  # values needed for a trend
FALL = 0.97  # of the first loss: above this fraction it has not fallen
LEARNED = 0.5  # of the chance-level loss: weights that start below it were pre-trained
RISE = 1.2  # times the lowest quarter of the loss
WORSE = 1.05  # times the lowest held-out loss
POINT = 0.01  # of accuracy
GROWN = 5.0  # times the gradient norm of the second quarter
ALWAYS, FAR = 0.9, 2.0  # fraction of log lines over the clipping threshold; median norm over the threshold
FAR_LR, FAR_FINE_TUNE_LR = 10.0, 100.0  # times above or below the default lr; times below it when fine-tuning
WAIT = 0.25  # fraction of the step time
FEW = 100  # steps
GAIN = 0.02  # of accuracy in the last quarter of a run


def examine_curves(run: RunData) -> Iterator[Finding]:
    yield from loss(run)
    yield from overfitting(run)
    yield from gradient(run)
    yield from examine_lr(run)
    yield from waiting(run)
    yield from length(run)


def loss(run: RunData) -> Iterator[Finding]:
    """Whether the training loss fell, and stayed down."""
    values = logged_values(run.training, "loss")
    if len(values) < LEAST:
        return
    parts, first, last = quarter_medians(values), values[0], values[-1]
    chance = run.task.chance_loss or 0.0
    evidence = f"{first.value:.3g} at step {first.step:,}, {parts[3]:.3g} in the last quarter, up to step {last.step:,}"
    if chance and isinstance(run.task, MeanTeacher) and parts[3] > FALL * chance:
        yield Finding(
            "at_chance", True, "the training loss ended at that of chance",
            f"{evidence}; chance is {chance:.3g}", run.task.chance_advice,
        )  # fmt: skip
    elif min(parts) > FALL * first.value:
        if parts[3] < LEARNED * chance:
            return
        comparison = f"; chance level for {len(run.classes)} classes is {chance:.3g}" if chance else ""
        yield Finding(
            "never_fell", True, "the training loss never fell", f"{evidence}{comparison}",
            f"vitrail tune-lr {run.folder.recipe_file} suggests a learning rate; "
            "vitrail check shows whether images and labels match",
        )  # fmt: skip
    elif parts[3] > RISE * min(parts) and parts[3] - min(parts) > (1 - FALL) * first.value:
        yield Finding(
            "rose_again", True, "the training loss fell and rose again",
            f"{evidence}; it was {min(parts):.3g} in the best quarter",
            f"{lower_lr_advice(run)}; if it follows a change that the log shows, undo that change",
        )  # fmt: skip


def lower_lr_advice(run: RunData) -> str:
    lower = f"--lr {(run.recipe.optim.lr or 1.0) / 3:.2g}"
    warmup = run.steps // 10
    more = f", --optim.warmup-steps {warmup}" if (run.recipe.optim.warmup_steps or 0) < warmup // 2 else ""
    return f"a new run with a lower learning rate: {lower}{more}" + (
        "" if run.recipe.optim.clip_grad else ", --optim.clip-grad 1"
    )


def held_out_rows(run: RunData) -> list[dict[str, Any]]:
    """The evaluations of the part that was evaluated most often, other than the training part."""
    parts = Counter(row.get("part") for row in run.evals if row.get("part") != "train")
    part = parts.most_common(1)[0][0] if parts else None
    return [row for row in run.evals if parts and row.get("part") == part]


def held_out_values(run: RunData, key: str) -> list[Value]:
    return logged_values(held_out_rows(run), key)


def held_out_count(run: RunData) -> int:
    """The images of that part, 0 where the log does not tell."""
    return max((int(row.get("count") or 0) for row in held_out_rows(run)), default=0)


def is_accuracy(run: RunData) -> bool:
    """Whether the metric is one of right answers; the rank of features learned without labels is none, and tells of
    neither overfitting nor a run that is too short."""
    return not run.is_lower_better and run.task.selects_best


def overfitting(run: RunData) -> Iterator[Finding]:
    """The held-out loss rises while the training loss falls, by more than so many images explain by chance."""
    held_out = held_out_values(run, run.metric if run.is_lower_better else "nll")
    training = logged_values(run.training, "loss")
    scores = held_out_values(run, run.metric) if is_accuracy(run) else []
    badness = held_out or [Value(s.step, 1 - s.value) for s in scores]
    if len(badness) < LEAST or len(training) < LEAST:
        return
    best = min(badness, key=lambda v: v.value)
    after = [v for v in badness if v.step > best.step]
    then = [v.value for v in training if v.step <= best.step] or [training[0].value]
    falls = quarter_medians(training)[3] < statistics.median(then[-LEAST:])
    if len(after) < 2 or not falls:
        return
    now = statistics.median(v.value for v in after[-2:])
    count = held_out_count(run)
    chance = chance_loss(best.value, count) if held_out else chance_difference(1 - best.value, count)
    if now < WORSE * best.value or now - best.value < max(POINT, chance):
        return
    top, end = max(scores, key=lambda v: v.value, default=None), scores[-1] if scores else None
    grave = bool(top and end and top.value - end.value > max(POINT, chance_difference(top.value, count)))
    also = f"; {run.metric} is {end.value:.3g}, at best {top.value:.3g} (step {top.step:,})" if top and end else ""
    name = "loss" if held_out else f"1 - {run.metric}"
    yield Finding(
        "overfitting", grave,
        "possible overfitting" if grave else "possible overfitting: the loss rises, the metric does not fall",
        f"the held-out {name} was {best.value:.3g} at step {best.step:,} and is {now:.3g} now, "
        f"while the training loss fell from {statistics.median(then[-LEAST:]):.3g} "
        f"to {quarter_medians(training)[3]:.3g}{also}",
        "a new run with --train.patience 5 (keeps the best weights), fewer steps, or more regularisation: "
        "--augment.auto-augment trivialaugment, --augment.mixup 0.2, a higher --weight-decay",
    )  # fmt: skip


def gradient(run: RunData) -> Iterator[Finding]:
    """Whether the gradient norm grows, or is always above the clipping threshold. Warm-up is skipped."""
    o = run.recipe.optim
    norms = [v for v in logged_values(run.training, "grad_norm") if v.step > (o.warmup_steps or 0)]
    if len(norms) < 2 * LEAST:
        return
    parts = quarter_medians(norms)
    if parts[3] > GROWN * parts[1]:
        yield Finding(
            "gradient_grows", True, "the gradient norm keeps growing",
            f"its norm was {parts[1]:.3g} in the second quarter and is {parts[3]:.3g} in the last",
            lower_lr_advice(run),
        )  # fmt: skip
    over = sum(v.value > o.clip_grad for v in norms) / len(norms)
    median = statistics.median(v.value for v in norms)
    if o.clip_grad and over >= ALWAYS and median > FAR * o.clip_grad:
        sgd = o.name == "sgd"
        meaning = (
            "every step has the length that clipping allows, whatever the gradient"
            if sgd
            else f"{o.name} normalises its steps: little harm"
        )
        yield Finding(
            "always_clipped", sgd, "the gradient is clipped nearly all the time",
            f"its norm is over optim.clip_grad = {o.clip_grad:g} in {over:.0%} of the log lines, median {median:.3g}",
            f"{meaning}; a new run with --optim.clip-grad {2 * median:.2g} clips bursts only",
        )  # fmt: skip


def examine_lr(run: RunData) -> Iterator[Finding]:
    """Whether the peak learning rate is far from the default of the model family at this batch size."""
    lr = run.recipe.optim.lr
    default = default_lr(run.recipe, run.task.defaults(), Names().model_config(run.recipe.model))
    if lr is None:
        return
    least = default / (FAR_FINE_TUNE_LR if run.recipe.init.weights else FAR_LR)
    if least <= lr <= FAR_LR * default:
        return
    high = lr > default
    times = f"{lr / default:.3g} times" if high else f"{default / lr:.3g} times less than" if lr else "nothing of"
    yield Finding(
        "learning_rate", False, f"the learning rate is unusually {'high' if high else 'low'}",
        f"optim.lr = {lr:g} is {times} the default {default:.2g} for {run.recipe.model.name} with "
        f"{with_defaults(run.recipe.optim).name} at batch size {run.recipe.train.batch_size}",
        f"vitrail tune-lr {run.folder.recipe_file} suggests one; without --lr it is chosen automatically",
    )  # fmt: skip


def waiting(run: RunData) -> Iterator[Finding]:
    """Whether training waits for data loading."""
    runtime = run.recipe.runtime
    values = logged_values(run.training, "data_wait")[1:]  # the first line includes the start of the workers
    if len(values) < 2 or (share := statistics.median(v.value for v in values)) < WAIT:
        return
    speed = statistics.median([v.value for v in logged_values(run.training, "images_per_s")] or [0.0])
    advice = [f"--workers N, more than {runtime.workers}" if runtime.workers else "--workers N, one per CPU core"]
    advice += [] if runtime.cache_images else ["--runtime.cache-images, which keeps decoded images in memory"]
    yield Finding(
        "waiting", False, "training waits for data loading",
        f"{share:.0%} of the step time (median of {len(values)} log lines), at {speed:,.0f} images a second",
        f"{'; or '.join(advice)}; or smaller images on the disk; --resume accepts these without changing the result",
    )  # fmt: skip


def length(run: RunData) -> Iterator[Finding]:
    """Whether there were too few steps, or fewer than planned."""
    p, images = run.recipe.train, run.steps * (run.recipe.train.batch_size or 1)
    count = run.about["data"].get("parts", {}).get("train", 0)
    if run.steps < FEW or images < count:
        yield Finding(
            "few_steps", run.steps < FEW, "the training is short",
            f"{run.steps:,} steps at batch size {p.batch_size} are {images:,} images, "
            f"{images / max(1, count):.2g} epochs of {count:,}",
            "a new run with more: --epochs 20; without it, the length is chosen from the data",
        )  # fmt: skip
    scores = held_out_values(run, run.metric)
    if not run.is_finished or len(scores) < LEAST:
        return
    best, last = max(scores, key=lambda v: -v.value if run.is_lower_better else v.value), scores[-1]
    if p.patience and run.steps_done < run.steps:
        yield Finding(
            "stopped_early", False, "early stopping ended the run (train.patience)",
            f"at step {run.steps_done:,} of {run.steps:,}; "
            f"the best {run.metric}, {best.value:.3g}, was at step {best.step:,}",
            f"nothing, if that is good enough; else a new run with --train.patience {2 * p.patience}, or a lower --lr",
        )  # fmt: skip
    elif (
        is_accuracy(run)
        and last.value >= best.value
        and last.value - scores[3 * len(scores) // 4 - 1].value
        > max(GAIN, chance_difference(last.value, held_out_count(run)))
    ):
        before = scores[3 * len(scores) // 4 - 1]
        yield Finding(
            "still_improving", False, "the metric was still improving when the run ended",
            f"{run.metric} rose from {before.value:.3g} at step {before.step:,} "
            f"to {last.value:.3g} at the last step, {last.step:,}",
            f"a new run with --steps {2 * run.steps}",
        )  # fmt: skip
