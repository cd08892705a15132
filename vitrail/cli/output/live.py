"""What is shown while a run goes on: a bar and a table that are redrawn in place, on a terminal or in a notebook."""

import sys
from dataclasses import dataclass, field
from typing import Any

from vitrail.cli.output.terminal import rich_console

GAP = 2  # columns between the cells of the table


@dataclass
class RunView:
    """The numbers to show. per_epoch: steps of an epoch; trained, evaluated: values of the newest events, with "step";
    metric: that ranks models; best: its best value so far and the step, None where the best is not kept."""

    steps: int = 0
    per_epoch: float = 1.0
    metric: str = ""
    trained: dict[str, Any] = field(default_factory=dict)
    evaluated: dict[str, Any] = field(default_factory=dict)
    best: tuple[float, int] | None = None

    @property
    def step(self) -> int:
        return int(max(self.trained.get("step", 0), self.evaluated.get("step", 0)))

    def cells(self) -> list[tuple[str, str]]:
        """Headings and values, the most important first."""
        v, e = self.trained, self.evaluated
        cells = [
            ("epoch", f"{self.step / self.per_epoch:.1f}/{self.steps / self.per_epoch:.1f}"),
            ("step", f"{self.step}/{self.steps}"),
            ("time left", clock(v["eta_s"]) if "eta_s" in v else "-"),
            ("loss", f"{v['loss']:.4f}" if "loss" in v else "-"),
        ]
        shown = f"{e[self.metric]:.4f}" if isinstance(e.get(self.metric), float) else "-"
        cells.append((f"{self.metric}, {e['part']}" if "part" in e else self.metric or "metric", shown))
        if self.best is not None:
            cells.append(("best", f"{self.best[0]:.4f} (step {self.best[1]})"))
        cells.append(("lr", f"{v['lr']:.2e}" if "lr" in v else "-"))
        cells.append(("img/s", f"{v['images_per_s']:,.0f}" if "images_per_s" in v else "-"))
        cells.append(("data wait", f"{v['data_wait']:.0%}" if "data_wait" in v else "-"))
        return cells

    def render(self, width: int) -> Any:
        """A bar over the steps, and below it one row of the cells that fit into so many columns."""
        from rich.progress_bar import ProgressBar
        from rich.table import Table

        cells = self.cells()
        while len(cells) > 2 and sum(max(map(len, cell)) + GAP for cell in cells) > width:
            cells.pop()
        table = Table(show_edge=False, pad_edge=False, box=None, padding=(0, GAP, 0, 0))
        for name, _ in cells:
            table.add_column(name, justify="right", no_wrap=True)
        table.add_row(*(text for _, text in cells))
        whole = Table.grid()  # a notebook can show a table, which a group of renderables is not
        whole.add_row(ProgressBar(total=max(1, self.steps), completed=self.step, width=min(width, 96)))
        whole.add_row(table)
        return whole


class NotebookDisplay:
    """An output of a notebook that is replaced by each update. It needs no widgets, as rich's own does."""

    def __init__(self, view: RunView):
        self.view, self.handle = view, None
        self.console = rich_console(notebook=False)

    def start(self) -> None:
        from IPython.display import display

        self.handle = display(self.view.render(96), display_id=True)

    def update(self, renderable: Any) -> None:
        if self.handle is not None:
            self.handle.update(renderable)

    def stop(self) -> None:
        """The last state stays."""


def is_notebook() -> bool:
    """Whether Python runs in a notebook, without importing what only notebooks have."""
    return "IPython" in sys.modules and bool(rich_console().is_jupyter)


def open_display(view: RunView) -> Any:
    """A display, started; None where stdout is a pipe or a file."""
    display: Any = None
    if is_notebook():
        display = NotebookDisplay(view)
    elif sys.stdout.isatty():
        from rich.live import Live

        console = rich_console()
        display = Live(view.render(console.width), console=console, refresh_per_second=4, transient=True)
    if display is not None:
        display.start()
    return display


def clock(seconds: float) -> str:
    minutes, rest = divmod(int(seconds + 0.5), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{rest:02d}" if hours else f"{minutes}:{rest:02d}"
