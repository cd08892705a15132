"""A number that was not finite: the batch kept, what is known of how it came to that, and what may help."""

import contextlib
import json
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
from vitrail.storage.tensors import pack
from vitrail.training.session import Session

SEEN = 8  # rows of the log that a trend is read from
NAMED = 4  # images that the error names; the file names all
EXPLODED = 100  # times the median norm
MEMORY, LEAST = 200, 20  # steps that the median is of


def explain_divergence(error: NonFiniteError, session: Session, lr: float) -> RunError:
    """The error with its cause as far as it is known, the last checkpoint and the images; the batch is written to the folder."""
    history = [row for row in read_log(session) if row["step"] < error.step][-SEEN:]
    how, names = describe_trend(history), session.dataset.splits["train"].names
    images = [names[int(i)] for i in error.keys.ids]
    saved = checkpoint.list_checkpoints(session.folder.checkpoints)
    help_ = suggestions(error, session, how, bool(saved))
    facts = {
        "step": error.step,
        "what": error.what,
        "finding": {"kind": error.finding.kind, "told": error.finding.message, "where": list(error.finding.where)},
        "trend": how,
        "history": history,
        "rate": lr,
        "peak": session.recipe.optim.lr,
        "precision": session.recipe.train.precision,
        "images": images,
        "epochs": error.keys.epochs.tolist(),
        "suggestions": help_,
    }
    file = write(error, session, facts)
    last = f"the last checkpoint is {saved[0].name}" if saved else "there was no checkpoint yet"
    share = lr / (session.recipe.optim.lr or 1.0)
    where = f"the batch is in {file.relative_to(session.folder.path)}" if file else "the batch could not be written"
    what = (
        f"{error.what}: {error.finding.message}; {how}; rate {lr:.2g}, {share:.0%} of the peak; {last}; {where}: "
        f"{', '.join(images[:NAMED])}{', ...' if images[NAMED:] else ''}"
    )
    return RunError(what, f"{error.fix}; {'; '.join(help_)}")


def read_log(session: Session) -> list[dict[str, Any]]:
    """The rows of the log that have a loss and a norm."""
    with contextlib.suppress(OSError):
        found = [row for row in read_rows(session.folder.log) if isinstance(row, dict) and row.get("kind") == "train"]
        keys = ("step", "loss", "grad_norm", "lr")
        numbers = [{key: row.get(key) for key in keys} for row in found]
        return [row for row in numbers if all(isinstance(v, int | float) for v in row.values())]
    return []


def describe_trend(history: list[dict[str, Any]]) -> str:
    """Whether loss or gradient had been rising over the rows, or it came out of the blue."""
    if not history:
        return "nothing was logged before it"
    last = history[-1]
    now = f"loss {last['loss']:.3g}, gradient norm {last['grad_norm']:.3g} at step {last['step']}"
    if len(history) < 4:
        return f"before it {now}"
    half = len(history) // 2
    grown = [
        statistics.median(row[key] for row in history[half:])
        / max(1e-12, statistics.median(row[key] for row in history[:half]))
        for key in ("loss", "grad_norm")
    ]
    if grown[0] > 1.3 or grown[1] > 5:
        return f"rising since step {history[half]['step']}, to {now}"
    return f"sudden, after {now}"


def suggestions(error: NonFiniteError, session: Session, how: str, saved: bool) -> list[str]:
    """What fits the finding, at most two."""
    o, p = session.recipe.optim, session.recipe.train
    kind, where, found = error.finding.kind, error.finding.where, []
    if kind == "images":
        found.append("look at input.mean, input.std and the images that are named")
    if p.precision == "fp16" and kind in ("forward", "gradient", "norm"):
        found.append("--precision bf16, or fp32: fp16 ends at 65,504")
    settings = vars(trunk_of(session.bundle.model).config)
    if kind == "forward" and ".attn" in where[0] and not settings.get("qk_norm", True):
        found.append("a new run with --model.qk-norm true holds the attention's logits")
    if not o.clip_grad:
        found.append("--optim.clip-grad 1")
    if how.startswith("sudden") and o.name in ("adamw", "lamb") and o.betas and o.betas[1] > 0.99:
        found.append(f"--optim.betas {o.betas[0]:g} 0.95, which forgets a burst sooner")
    lower = f"--lr {(o.lr or 1.0) / 3:.2g}"
    again = f"vitrail train --resume {session.folder.path} {lower} --allow-change optim.lr"
    found.append(f"a lower rate: {again}" if saved else f"a lower rate: {lower}")
    if (o.warmup_steps or 0) < session.steps // 20:
        found.append(f"--optim.warmup-steps {session.steps // 20}")
    return found[:2]


def write(error: NonFiniteError, session: Session, facts: dict[str, Any]) -> Path | None:
    """Each process writes its own share of the batch; None where the disk refuses."""
    rank = f"-process-{session.world.rank}" if session.world.rank else ""
    place = session.folder.divergence / f"{checkpoint.checkpoint_name(error.step)}{rank}"
    try:
        session.folder.divergence.mkdir(exist_ok=True)
        file = place.with_suffix(".safetensors")
        write_file(file, pack(error.finding.batch, {"step": error.step}))
        write_file(place.with_suffix(".json"), json.dumps(facts, indent=1, ensure_ascii=False).encode())
        return file
    except OSError:
        return None


class NormMonitor:
    """Gradient norms of the last steps, to notice one that is far above them."""

    def __init__(self) -> None:
        self.recent: deque[float] = deque(maxlen=MEMORY)
        self.warned = -MEMORY

    def check(self, reports: list[StepReport]) -> str:
        """What there is to say of the steps since the last look, once in a while; "" mostly. With fp16 an infinite norm is routine."""
        said = ""
        for report, norm in zip(reports, torch.stack([r.grad_norm for r in reports]).tolist(), strict=True):
            usual = statistics.median(self.recent) if len(self.recent) >= LEAST else float("inf")
            if EXPLODED * usual < norm < float("inf") and report.step - self.warned >= MEMORY:
                said = f"the norm of the gradient was {norm:.3g} at step {report.step}, usual is {usual:.3g}: the rate may be too high"
                self.warned = report.step
            if norm < float("inf"):
                self.recent.append(norm)
        return said
