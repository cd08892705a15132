"""Output of a run: a bar and a table on a terminal and in a notebook, plain lines in a pipe or file. A closed pipe does
not stop the run."""

import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from vitrail.cli.output.live import RunView, clock, open_display
from vitrail.cli.output.terminal import rich_console
from vitrail.errors import many
from vitrail.storage.printable import printable


class Console:
    """Shows events of a run. `quiet`: shows only the end."""

    def __init__(self, quiet: bool = False):
        self.quiet = quiet
        self.live: Any = None
        self.view = RunView()
        self.session: Any = None
        self.outcome: dict[str, Any] = {}  # of the final evaluation
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
        self.say(f"data: {data.layout}, {parts}; {f'{len(data.classes)} classes' if data.classes else 'no classes'}")
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
        images, batch = len(session.dataset.splits["train"]), session.recipe.train.batch_size or 1
        self.session = session
        self.view = RunView(session.steps, max(1.0, images / batch), session.bundle.task.metric.name)
        self.say(f"run: {session.folder.path}")
        if not self.quiet:
            self.live = open_display(self.view)

    def stop(self) -> None:
        if self.live is not None:
            self.live.stop()
            self.live = None

    def event(self, event: Any) -> None:
        if event.kind == "train":
            self.view.trained = {"step": event.step, **event.values}
        elif event.kind == "eval":
            self.view.evaluated = {"step": event.step, **event.values}
            self.say(self.evaluation_line(event.step))
        elif event.kind in ("note", "stopped"):
            self.say(event.values["text"])
        elif event.kind == "done":
            self.outcome = event.values
        self.view.best = self.best_so_far()
        if self.live is not None:
            self.live.update(self.view.render(self.live.console.width))
        elif event.kind == "train":
            self.say(self.line())

    def best_so_far(self) -> tuple[float, int] | None:
        """The best value of the metric and its step, where the best weights are kept."""
        session = self.session
        if session is None or not session.selects_best or session.state.early_stopping.value is None:
            return None
        best = session.state.early_stopping
        return session.bundle.task.metric.sign * best.value, best.step

    def line(self) -> str:
        v, total = self.view.trained, self.view.steps
        return (
            f"step {v['step']:>{len(str(total))}}/{total}  loss {v['loss']:.4f}  lr {v['lr']:.2e}  "
            f"{v['images_per_s']:,.0f} img/s  wait {v['data_wait']:.0%}  eta {clock(v['eta_s'])}"
        )

    def evaluation_line(self, step: int) -> str:
        names = ("top1", "top5", "miou", "pixel_accuracy", "dice", "mAP", "AP50", "macro_f1", "calibration_error",
                 "held_out_loss", "mean_recall", "image_to_text_r1", "text_to_image_r1",
                 "knn_top1", "probe_top1", "probe_mAP", "effective_rank", "frechet")  # fmt: skip
        values = self.view.evaluated
        numbers = "  ".join(f"{k} {values[k]:.4f}" for k in names if k in values)
        return f"step {step}/{self.view.steps}  {values['part']}: {numbers}"

    def outcome_line(self, session: Any, page: Path | None) -> str:
        """The metric with its interval, what it is of, and where the report is."""
        values, name = self.outcome, session.bundle.task.metric.name
        report = f"; report: {page}" if page else ""
        if name not in values:
            return f"not evaluated: vitrail eval {session.folder.path}{report}"
        interval, weights = values.get("interval", {}), values.get("weights", {})
        spread = f" (95 % interval {interval['low']:.4f} to {interval['high']:.4f})" if interval else ""
        count = f", {many(values['count'], 'image')}" if "count" in values else ""
        of = "best weights, of step {step:,}".format(**weights) if "step" in weights else "last weights"
        facts = [f"{name} {values[name]:.4f}{spread} on the {values['part']} part{count}", of]
        if weights.get("part") == values["part"]:
            facts.append("chosen on this part, so new images may do a little worse")
        elif values["part"] == "train":
            facts.append("the model was trained on these images")
        return "; ".join(facts) + report

    def finished(self, session: Any, page: Path | None) -> None:
        """The end: the folder, the next three commands, and last the metric and the report."""
        quiet, self.quiet = self.quiet, False
        run = session.folder.path
        if quiet and self.view.evaluated:
            self.say(self.evaluation_line(self.view.evaluated["step"]))
        self.say(f"done: {run}")
        self.say("next:")
        from vitrail.heads.image_text import TextTask  # torch is there by now

        task = session.bundle.task
        uses = WITH_TEXTS if isinstance(task, TextTask) else USES.get(task.output, PREDICT)
        steps = {
            f"vitrail eval {run}": "evaluate it on held-out images",
            **{text.format(run=run): what for text, what in uses.items()},
            "vitrail train --data FOLDER": "train on your own folder of class folders",
        }
        for command, what in steps.items():
            self.say(f"  {command:<{max(map(len, steps))}}  {what}")
        self.say(self.outcome_line(session, page))
        self.quiet = quiet


# what one does with a finished run, by the output of its task: commands, and what they do
PREDICT = {"vitrail predict {run} IMAGE...": "predict classes, masks or boxes of your images"}
WITH_TEXTS = {
    'vitrail search {run} FOLDER "a red car"': "find images by words",
    'vitrail predict {run} IMAGE... --labels "a cat,a dog"': "tell classes apart that you name",
    "vitrail train --data FOLDER --weights {run}": "learn labels from these weights",
}
USES = {
    "images": {"vitrail sample {run}": "generate images"},
    "features": {
        "vitrail probe {run} --data FOLDER": "measure what a linear classifier makes of the features",
        "vitrail train --data FOLDER --weights {run}": "learn labels from these weights",
    },
}
