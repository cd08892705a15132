"""What happened since the last line of the log, as one row."""

from collections.abc import Iterator
from typing import Any

from vitrail.engine.train import StepReport
from vitrail.training import divergence
from vitrail.training.events import Event
from vitrail.training.session import Session


class MetricsWindow:
    """What happened since the last line of the log."""

    def __init__(self, session: Session):
        self.session = session
        self.reports: list[StepReport] = []
        self.spent, self.done = 0.0, 0
        self.norms = divergence.NormMonitor()

    def add(self, report: StepReport) -> None:
        self.reports.append(report)
        self.spent += report.step_s
        self.done += 1

    def news(self, report: StepReport) -> Iterator[Event]:
        """What happened in a step beside the step."""
        while self.session.news:
            yield Event("note", report.step, {"text": self.session.news.pop(0)})

    def close(self, report: StepReport) -> Iterator[Event]:
        """The row of the log, and a warning where a gradient was far above the recent ones."""
        warning = self.norms.check(self.reports)
        yield Event("train", report.step, self.values(report))
        if warning:
            yield Event("note", report.step, {"text": warning})

    def values(self, report: StepReport) -> dict[str, Any]:
        """Means over the window; `eta_s` from the mean step since the start."""
        n, seconds = len(self.reports), sum(r.step_s for r in self.reports)
        terms = {name: sum(float(r.terms[name]) for r in self.reports) / n for name in report.terms}
        values = {
            "loss": sum(terms.values()),
            **(terms if len(terms) > 1 else {}),
            "lr": report.lr,
            "grad_norm": float(report.grad_norm),
            "images_per_s": round(n * self.session.feed.batch / max(seconds, 1e-9), 1),
            "data_wait": round(sum(r.wait_s for r in self.reports) / max(seconds, 1e-9), 4),
            "epoch": round(report.step * self.session.feed.batch / len(self.session.dataset.splits["train"]), 3),
            "eta_s": round((self.session.steps - report.step) * self.spent / self.done, 1),
        }
        self.reports = []
        return values
