"""A number that was not finite: saves the batch, and explains the cause, the trend before it and remedies."""

import contextlib
import statistics
from collections import deque
from pathlib import Path
from typing import Any

import torch

from vitrail.contracts import trunk_of
from vitrail.engine import checkpoint
from vitrail.engine.log import read_rows
from vitrail.engine.train import NonFiniteError, StepReport
from vitrail.errors import RunError
from vitrail.storage.atomic import write_file
from vitrail.storage.json_text import to_json
from vitrail.storage.tensors import stream
from vitrail.training.session import Session

HISTORY = 8  # rows of the log that a trend is computed from
NAMED = 4  # images that the error names; the file names all
EXPLOSION = 100  # times the median norm
MEMORY, LEAST = 200, 20  # most and least steps of the median


def explain_divergence(error: NonFiniteError, session: Session, lr: float) -> RunError:
    """The error with its cause as far as it is known, the last checkpoint and the images; saves the batch in the run
    folder."""
    history = [row for row in read_log(session) if row["step"] < error.step][-HISTORY:]
    trend, names = describe_trend(history), session.dataset.splits["train"].names
    images = [names[int(i)] for i in error.keys.ids]
    saved = checkpoint.list_checkpoints(session.folder.checkpoints)
    advice = suggest_remedies(error, session, trend, bool(saved))
    facts = {
        "step": error.step,
        "what": error.what,
        "finding": {"kind": error.finding.kind, "message": error.finding.message, "where": list(error.finding.where)},
        "trend": trend,
        "history": history,
        "lr": lr,
        "peak": session.recipe.optim.lr,
        "precision": session.recipe.train.precision,
        "images": images,
        "epochs": error.keys.epochs.tolist(),
        "suggestions": advice,
    }
    file = write_batch(error, session, facts)
    last = f"the last checkpoint is {saved[0].name}" if saved else "there was no checkpoint yet"
    share = lr / (session.recipe.optim.lr or 1.0)
    where = f"the batch is in {file.relative_to(session.folder.path)}" if file else "the batch could not be written"
    what = (
        f"{error.what}: {error.finding.message}; {trend}; lr {lr:.2g}, {share:.0%} of the peak; {last}; {where}: "
        f"{', '.join(images[:NAMED])}{', ...' if images[NAMED:] else ''}"
    )
    return RunError(what, f"{error.fix}; {'; '.join(advice)}")


def read_log(session: Session) -> list[dict[str, Any]]:
    """The rows of the log that have a loss and a norm."""
    with contextlib.suppress(OSError):
        rows = [row for row in read_rows(session.folder.log) if isinstance(row, dict) and row.get("kind") == "train"]
        keys = ("step", "loss", "grad_norm", "lr")
        numbers = [{key: row.get(key) for key in keys} for row in rows]
        return [row for row in numbers if all(isinstance(v, int | float) for v in row.values())]
    return []


def describe_trend(history: list[dict[str, Any]]) -> str:
    """Whether loss or gradient norm had been rising over the rows, or the failure was sudden."""
    if not history:
        return "no steps were logged before it"
    last = history[-1]
    now = f"loss {last['loss']:.3g}, gradient norm {last['grad_norm']:.3g} at step {last['step']}"
    if len(history) < 4:
        return f"before it {now}"
    half = len(history) // 2
    growth = [
        statistics.median(row[key] for row in history[half:])
        / max(1e-12, statistics.median(row[key] for row in history[:half]))
        for key in ("loss", "grad_norm")
    ]
    if growth[0] > 1.3 or growth[1] > 5:
        return f"rising since step {history[half]['step']}, to {now}"
    return f"sudden, after {now}"


def suggest_remedies(error: NonFiniteError, session: Session, trend: str, saved: bool) -> list[str]:
    """Remedies that fit the finding, at most two."""
    o, p = session.recipe.optim, session.recipe.train
    kind, where, remedies = error.finding.kind, error.finding.where, []
    if kind == "images":
        remedies.append("check input.mean, input.std and the images that are named")
    if p.precision == "fp16" and kind in ("forward", "gradient", "norm"):
        remedies.append("--precision bf16, or fp32: fp16 overflows at 65,504")
    if p.precision == "bf16" and session.world.device.type == "cpu" and kind == "gradient":
        remedies.append("--precision fp32: torch's bf16 convolutions err on maps smaller than their kernel")
    settings = vars(trunk_of(session.bundle.model).config)
    if kind == "forward" and ".attn" in where[0] and not settings.get("qk_norm", True):
        remedies.append("a new run with --model.qk-norm true bounds the attention logits")
    if not o.clip_grad:
        remedies.append("--optim.clip-grad 1")
    if trend.startswith("sudden") and o.name in ("adamw", "lamb") and o.betas and o.betas[1] > 0.99:
        remedies.append(f"--optim.betas {o.betas[0]:g} 0.95, which forgets outliers sooner")
    lower = f"--lr {(o.lr or 1.0) / 3:.2g}"
    again = f"vitrail train --resume {session.folder.path} {lower} --allow-change optim.lr"
    remedies.append(f"a lower learning rate: {again}" if saved else f"a lower learning rate: {lower}")
    if (o.warmup_steps or 0) < session.steps // 20:
        remedies.append(f"--optim.warmup-steps {session.steps // 20}")
    return remedies[:2]


def write_batch(error: NonFiniteError, session: Session, facts: dict[str, Any]) -> Path | None:
    """Each process writes its own part of the batch; None where it cannot be written."""
    rank = f"-process-{session.world.rank}" if session.world.rank else ""
    path = session.folder.divergence / f"{checkpoint.checkpoint_name(error.step)}{rank}"
    try:
        session.folder.divergence.mkdir(exist_ok=True)
        file = path.with_suffix(".safetensors")
        write_file(file, stream(error.finding.batch, {"step": error.step}))
        write_file(path.with_suffix(".json"), to_json(facts, indent=1, ensure_ascii=False).encode())
        return file
    except OSError:
        return None


class NormMonitor:
    """Gradient norms of the last steps, to detect an explosion."""

    def __init__(self) -> None:
        self.recent: deque[float] = deque(maxlen=MEMORY)
        self.last_warning = -MEMORY

    def check(self, reports: list[StepReport]) -> str:
        """A warning about the new steps, or "" ; at most one every `MEMORY` steps. With fp16 an infinite norm is
        routine."""
        warning = ""
        for report, norm in zip(reports, torch.stack([r.grad_norm for r in reports]).tolist(), strict=True):
            median = statistics.median(self.recent) if len(self.recent) >= LEAST else float("inf")
            if EXPLOSION * median < norm < float("inf") and report.step - self.last_warning >= MEMORY:
                warning = (
                    f"the gradient norm was {norm:.3g} at step {report.step}, the median is {median:.3g}: "
                    "the learning rate may be too high"
                )
                self.last_warning = report.step
            if norm < float("inf"):
                self.recent.append(norm)
        return warning
