"""Output of a run: a live table on a terminal, plain lines in a pipe or file. A closed pipe does not stop the run."""

import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from vitrail.cli.output.terminal import rich_console
from vitrail.storage.printable import printable


class Console:
    """Shows events of a run. `quiet`: shows only the end."""

    def __init__(self, quiet: bool = False):
        self.quiet = quiet
        self.live: Any = None
        self.total = 0
        self.latest: dict[str, Any] = {}
        self.evaluated: dict[str, Any] = {}
        self.terminal = sys.stdout.isatty()

    def say(self, text: str) -> None:
        """One line, whatever happens to stdout."""
        if self.quiet:
            return
        try:
            if self.live is not None:
                self.live.console.print(printable(text), markup=False, highlight=False, soft_wrap=True)
            else:
                sys.stdout.write(text + "\n")
                sys.stdout.flush()
        except (BrokenPipeError, ValueError):
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
            self.quiet = True

    def progress(self, label: str) -> Callable[[int, int], None] | None:
        """A progress bar on a terminal: a function of (done, of)."""
        if self.quiet or not sys.stderr.isatty():
            return None
        from rich.progress import Progress

        bar = Progress(console=rich_console(stderr=True), transient=True)
        task = bar.add_task(label)

        def show(done: int, of: int) -> None:
            if not bar.live.is_started:
                bar.start()
            bar.update(task, completed=done, total=of)
            if done >= of:
                bar.stop()

        return show

    def prepared(self, prepared: Any) -> None:
        """The data and what was chosen, before the first step."""
        data, recipe = prepared.dataset, prepared.recipe
        parts = ", ".join(f"{len(split):,} {name}" for name, split in data.splits.items())
        self.say(f"data: {data.layout}, {parts}; {len(data.classes)} classes")
        for note in [*data.notes, *prepared.notes]:
            self.say(f"  note: {note}")
        self.say(f"model: {recipe.model.name}")
        for reason in prepared.reasons:
            self.say(f"  {reason}")

    def weights_report(self, report: Any) -> None:
        """Which weights the run starts from were loaded, and which were not."""
        for line in report.lines() if report else ():
            self.say(f"  {line}")

    def start(self, session: Any) -> None:
        self.total = session.steps
        self.say(f"run: {session.folder.path}")
        if self.terminal and not self.quiet:
            from rich.live import Live

            self.live = Live(self.table(), console=rich_console(), refresh_per_second=4, transient=True)
            self.live.start()

    def stop(self) -> None:
        if self.live is not None:
            self.live.stop()
            self.live = None

    def event(self, event: Any) -> None:
        if event.kind == "train":
            self.latest = {"step": event.step, **event.values}
        elif event.kind == "eval":
            self.evaluated = {"step": event.step, **event.values}
            self.say(self.evaluation_line(event.step))
        elif event.kind in ("note", "stopped"):
            self.say(event.values["text"])
        if self.live is not None:
            self.live.update(self.table())
        elif event.kind == "train":
            self.say(self.line())

    def line(self) -> str:
        v = self.latest
        return (
            f"step {v['step']:>{len(str(self.total))}}/{self.total}  loss {v['loss']:.4f}  lr {v['lr']:.2e}  "
            f"{v['images_per_s']:,.0f} img/s  wait {v['data_wait']:.0%}  eta {clock(v['eta_s'])}"
        )

    def evaluation_line(self, step: int) -> str:
        names = ("top1", "top5", "miou", "pixel_accuracy", "dice", "mAP", "AP50", "macro_f1", "calibration_error",
                 "held_out_loss",
                 "frechet")  # fmt: skip
        numbers = "  ".join(f"{k} {self.evaluated[k]:.4f}" for k in names if k in self.evaluated)
        return f"step {step}/{self.total}  {self.evaluated['part']}: {numbers}"

    def table(self) -> Any:
        """The live table: step, loss, metric, learning rate, speed, time left."""
        from rich.table import Table

        v, j = self.latest, self.evaluated
        cells = [
            ("step", f"{v.get('step', 0)}/{self.total}"),
            ("loss", f"{v['loss']:.4f}" if v else "-"),
            next(((k, f"{j[k]:.4f}") for k in ("top1", "miou", "mAP", "held_out_loss") if k in j), ("accuracy", "-")),
            ("lr", f"{v['lr']:.2e}" if v else "-"),
            ("img/s", f"{v['images_per_s']:,.0f}" if v else "-"),
            ("data wait", f"{v['data_wait']:.0%}" if v else "-"),
            ("eta", clock(v["eta_s"]) if v else "-"),
        ]
        table = Table(show_edge=False, pad_edge=False)
        for name, _ in cells:
            table.add_column(name, justify="right", no_wrap=True)
        table.add_row(*(text for _, text in cells))
        return table

    def finished(self, session: Any, page: Path | None) -> None:
        """The end: the metrics, the files, and the next three commands."""
        quiet, self.quiet = self.quiet, False
        run = session.folder.path
        if quiet:
            self.say(self.evaluation_line(self.evaluated["step"]))
        self.say(f"done: {run}" + (f"\nreport: {page}" if page else ""))
        self.say("next:")
        steps = {
            f"vitrail eval {run}": "evaluate it on held-out images",
            **(
                {f"vitrail sample {run}": "generate images"}
                if session.bundle.task.is_generative
                else {f"vitrail predict {run} IMAGE...": "predict classes, masks or boxes of your images"}
            ),
            "vitrail train --data FOLDER": "train on your own folder of class folders",
        }
        for command, what in steps.items():
            self.say(f"  {command:<{max(map(len, steps))}}  {what}")
        self.quiet = quiet


def clock(seconds: float) -> str:
    minutes, rest = divmod(int(seconds + 0.5), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{rest:02d}" if hours else f"{minutes}:{rest:02d}"
