"""What the log of a run tells of its course: whether it learned, steadily, fast enough, long enough."""

import statistics
from collections import Counter
from collections.abc import Iterator

from vitrail.assembly.defaults import default_lr
from vitrail.assembly.resolve import Names
from vitrail.report.doctor.finding import Finding, Value, logged_values, quarter_medians
from vitrail.report.run_data import RunData

LEAST = 4  # numbers that a trend is read from
FALL = 0.97  # of the first loss: what has not fallen below this has not fallen
LEARNED = 0.5  # of the loss of guessing: weights that begin below this had learned before
RISE = 1.2  # times the lowest quarter of the loss
WORSE = 1.05  # times the least loss on held-out images
POINT = 0.01  # of accuracy
GROWN = 5.0  # times the gradient's norm of the second quarter
ALWAYS, FAR = 0.9, 2.0  # share of the lines whose norm is over the bound; how far over it the median is
RATES, GENTLE = 10.0, 100.0  # times above or below the usual; further below it where trained weights are finished
WAIT = 0.25  # share of the time
FEW = 100  # steps
GAIN = 0.02  # of accuracy in the last quarter of a run


def examine_curves(known: RunData) -> Iterator[Finding]:
    yield from loss(known)
    yield from overfitting(known)
    yield from gradient(known)
    yield from examine_lr(known)
    yield from waiting(known)
    yield from length(known)


def loss(known: RunData) -> Iterator[Finding]:
    """Whether the training loss fell, and stayed down."""
    found = logged_values(known.training, "loss")
    if len(found) < LEAST:
        return
    parts, first, last = quarter_medians(found), found[0], found[-1]
    guess = known.task.chance_loss or 0.0
    seen = f"{first.value:.3g} at step {first.step:,}, {parts[3]:.3g} in the last quarter, up to step {last.step:,}"
    if min(parts) > FALL * first.value:
        if parts[3] < LEARNED * guess:
            return
        guessing = f"; guessing among {len(known.classes)} classes costs {guess:.3g}" if guess else ""
        yield Finding(
            "never_fell", True, "the training loss never fell", f"{seen}{guessing}",
            f"vitrail tune-lr {known.folder.recipe_file} finds a rate; vitrail check looks whether images and labels belong together",
        )  # fmt: skip
    elif parts[3] > RISE * min(parts) and parts[3] - min(parts) > (1 - FALL) * first.value:
        yield Finding(
            "rose_again", True, "the training loss fell and rose again",
            f"{seen}; it was {min(parts):.3g} in the best quarter",
            f"{slower(known)}; if it happens after a change in the log, undo that change",
        )  # fmt: skip


def slower(known: RunData) -> str:
    lower = f"--lr {(known.recipe.optim.lr or 1.0) / 3:.2g}"
    warmup = known.steps // 10
    more = f", --optim.warmup-steps {warmup}" if (known.recipe.optim.warmup_steps or 0) < warmup // 2 else ""
    return f"a new run with a lower rate: {lower}{more}" + (
        "" if known.recipe.optim.clip_grad else ", --optim.clip-grad 1"
    )


def while_training(known: RunData, key: str) -> list[Value]:
    """A number of the part that most evaluations were of, where that is no training part."""
    parts = Counter(row.get("part") for row in known.evals if row.get("part") != "train")
    if not parts:
        return []
    part = parts.most_common(1)[0][0]
    return logged_values([row for row in known.evals if row.get("part") == part], key)


def overfitting(known: RunData) -> Iterator[Finding]:
    """Held-out images cost more and more while those of the training cost less and less."""
    held, training = (
        while_training(known, known.metric if known.is_lower_better else "nll"),
        logged_values(known.training, "loss"),
    )
    scores = [] if known.is_lower_better else while_training(known, known.metric)
    badness = held or [Value(s.step, 1 - s.value) for s in scores]
    if len(badness) < LEAST or len(training) < LEAST:
        return
    best = min(badness, key=lambda v: v.value)
    after = [v for v in badness if v.step > best.step]
    then = [v.value for v in training if v.step <= best.step] or [training[0].value]
    falls = quarter_medians(training)[3] < statistics.median(then[-LEAST:])
    if len(after) < 2 or not falls:
        return
    now = statistics.median(v.value for v in after[-2:])
    if now < WORSE * best.value or now - best.value < POINT:
        return
    top, end = max(scores, key=lambda v: v.value, default=None), scores[-1] if scores else None
    grave = bool(top and end and top.value - end.value > POINT)
    also = f"; {known.metric} is {end.value:.3g}, at best {top.value:.3g} (step {top.step:,})" if top and end else ""
    name = "loss" if held else f"1 - {known.metric}"
    yield Finding(
        "overfitting", grave, "it learns its training images by heart" if grave else "it grows surer of its mistakes, not worse",
        f"the {name} of held-out images was {best.value:.3g} at step {best.step:,} and is {now:.3g} now, while the training loss fell "
        f"from {statistics.median(then[-LEAST:]):.3g} to {quarter_medians(training)[3]:.3g}{also}",
        "a new run with --train.patience 5 (keeps the best weights), fewer steps, or more variety: --augment.auto-augment trivialaugment, "
        "--augment.mixup 0.2, a higher --weight-decay",
    )  # fmt: skip


def gradient(known: RunData) -> Iterator[Finding]:
    """Whether the norm of the gradient grows, or is always over the bound that it is clipped to. Warm-up is passed over."""
    o = known.recipe.optim
    found = [v for v in logged_values(known.training, "grad_norm") if v.step > (o.warmup_steps or 0)]
    if len(found) < 2 * LEAST:
        return
    parts = quarter_medians(found)
    if parts[3] > GROWN * parts[1]:
        yield Finding(
            "gradient_grows", True, "the gradient grows and grows",
            f"its norm was {parts[1]:.3g} in the second quarter and is {parts[3]:.3g} in the last",
            slower(known),
        )  # fmt: skip
    over = sum(v.value > o.clip_grad for v in found) / len(found)
    usual = statistics.median(v.value for v in found)
    if o.clip_grad and over >= ALWAYS and usual > FAR * o.clip_grad:
        sgd = o.name == "sgd"
        meaning = (
            "every step is as long as the clip allows, whatever the gradient"
            if sgd
            else f"{o.name} scales steps itself: little harm"
        )
        yield Finding(
            "always_clipped", sgd, "the gradient is clipped nearly all the time",
            f"its norm is over optim.clip_grad = {o.clip_grad:g} in {over:.0%} of the lines, usually {usual:.3g}",
            f"{meaning}; a new run with --optim.clip-grad {2 * usual:.2g} clips bursts only",
        )  # fmt: skip


def examine_lr(known: RunData) -> Iterator[Finding]:
    """Whether the peak rate is far from what the family's recipes have at such a batch."""
    lr, usual = (
        known.recipe.optim.lr,
        default_lr(known.recipe, known.task.defaults(), Names().model_config(known.recipe.model)),
    )
    if lr is None:
        return
    least = usual / (GENTLE if known.recipe.init.weights else RATES)
    if least <= lr <= RATES * usual:
        return
    high = lr > usual
    times = f"{lr / usual:.3g} times" if high else f"{usual / lr:.3g} times less than" if lr else "nothing of"
    yield Finding(
        "rate", False, f"the learning rate is unusually {'high' if high else 'low'}",
        f"optim.lr = {lr:g} is {times} the usual {usual:.2g} for {known.recipe.model.name} with {known.recipe.optim.name} at batch "
        f"{known.recipe.train.batch_size}",
        f"vitrail tune-lr {known.folder.recipe_file} finds one; left out, --lr is chosen",
    )  # fmt: skip


def waiting(known: RunData) -> Iterator[Finding]:
    """Whether steps wait for their images."""
    found, m = (
        logged_values(known.training, "data_wait")[1:],
        known.recipe.runtime,
    )  # the first line counts the start of the readers
    if len(found) < 2 or (share := statistics.median(v.value for v in found)) < WAIT:
        return
    speed = statistics.median([v.value for v in logged_values(known.training, "images_per_s")] or [0.0])
    advice = [f"--workers N, more than {m.workers}" if m.workers else "--workers N, as many as there are cores"]
    advice += [] if m.cache_images else ["--runtime.cache-images, which keeps decoded images in memory"]
    yield Finding(
        "waiting", False, "training waits for its images",
        f"{share:.0%} of the time of a step (median of {len(found)} lines), at {speed:,.0f} images a second",
        f"{'; or '.join(advice)}; or smaller images on the disk; --resume takes these without changing the result",
    )  # fmt: skip


def length(known: RunData) -> Iterator[Finding]:
    """Whether there were too few steps, or fewer than planned."""
    p, shown = known.recipe.train, known.steps * (known.recipe.train.batch_size or 1)
    count = known.about["data"].get("parts", {}).get("train", 0)
    if known.steps < FEW or shown < count:
        yield Finding(
            "few_steps", known.steps < FEW, "it is a short training",
            f"{known.steps:,} steps of {p.batch_size} show {shown:,} images, {shown / max(1, count):.2g} epochs of {count:,}",
            "a new run with more: --epochs 20; left out, it is chosen from the data",
        )  # fmt: skip
    scores = while_training(known, known.metric)
    if not known.is_finished or len(scores) < LEAST:
        return
    best, last = max(scores, key=lambda v: -v.value if known.is_lower_better else v.value), scores[-1]
    if p.patience and known.steps_done < known.steps:
        yield Finding(
            "stopped_early", False, "it stopped early, as train.patience asks",
            f"at step {known.steps_done:,} of {known.steps:,}; {known.metric} was best, {best.value:.3g}, at step {best.step:,}",
            f"nothing, if that is good enough; else a new run with --train.patience {2 * p.patience}, or a lower rate",
        )  # fmt: skip
    elif (
        not known.is_lower_better
        and last.value >= best.value
        and last.value - scores[3 * len(scores) // 4 - 1].value > GAIN
    ):
        before = scores[3 * len(scores) // 4 - 1]
        yield Finding(
            "still_improving", False, "it was still getting better when it ended",
            f"{known.metric} rose from {before.value:.3g} at step {before.step:,} to {last.value:.3g} at the end, step {last.step:,}",
            f"a new run with --steps {2 * known.steps}",
        )  # fmt: skip
