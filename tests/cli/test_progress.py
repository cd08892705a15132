"""What is shown while a run goes on: a bar on a terminal or in a notebook, plain lines in a pipe; and the last line."""

import io
import sys
import types
from pathlib import Path
from types import SimpleNamespace

import pytest

from vitrail.cli.output import live
from vitrail.cli.output.console import Console
from vitrail.cli.output.live import RunView

TRAINED = {"step": 30, "loss": 0.5, "lr": 1e-3, "images_per_s": 1234.0, "data_wait": 0.1, "eta_s": 125.0}
EVALUATED = {"step": 25, "part": "val", "top1": 0.8125, "count": 64}


def drawn(view, width):
    from rich.console import Console as Rich

    console = Rich(file=io.StringIO(), width=width, force_terminal=False)
    console.print(view.render(width))
    return console.file.getvalue()


def test_the_bar_has_epoch_step_time_left_loss_evaluation_best_and_lr():
    view = RunView(100, 10.0, "top1", TRAINED, EVALUATED, (0.84, 20))
    text = drawn(view, 140)
    for piece in ("epoch", "3.0/10.0", "30/100", "time left", "2:05", "0.5000", "top1, val", "0.8125", "best",
                  "0.8400 (step 20)", "1.00e-03", "1,234", "━"):  # fmt: skip
        assert piece in text
    narrow = drawn(view, 50)
    assert "3.0/10.0" in narrow
    assert "2:05" in narrow
    assert all(len(line.rstrip()) <= 50 for line in narrow.splitlines())
    assert "data wait" not in narrow


def test_before_the_first_numbers_there_is_a_bar_too():
    assert "0/100" in drawn(RunView(100, 10.0, "miou"), 100)


def session(selects=True):
    return SimpleNamespace(
        steps=100,
        selects_best=selects,
        dataset=SimpleNamespace(splits={"train": range(160)}),
        recipe=SimpleNamespace(train=SimpleNamespace(batch_size=16)),
        bundle=SimpleNamespace(
            task=SimpleNamespace(metric=SimpleNamespace(name="top1", sign=1), is_generative=False, output="classes")
        ),
        folder=SimpleNamespace(path=Path("runs/a")),
        state=SimpleNamespace(early_stopping=SimpleNamespace(value=0.84, step=20)),
    )


def event(kind, step, **values):
    return SimpleNamespace(kind=kind, step=step, values=values)


def test_a_pipe_gets_plain_lines_and_the_last_has_metric_interval_and_report(capsys):
    console = Console()
    console.start(session())
    console.event(event("train", **TRAINED))
    console.event(event("eval", **EVALUATED))
    console.event(
        event("done", 100, part="test", top1=0.9, count=200, interval={"metric": "top1", "low": 0.85, "high": 0.94},
              weights={"checkpoint": "best", "step": 20, "part": "val"})
    )  # fmt: skip
    console.finished(session(), Path("runs/a/report.html"))
    out = capsys.readouterr().out
    assert "\x1b" not in out
    assert "step  30/100  loss 0.5000  lr 1.00e-03  1,234 img/s  wait 10%  eta 2:05" in out
    assert out.splitlines()[-1] == (
        "top1 0.9000 (95 % interval 0.8500 to 0.9400) on the test part, 200 images; best weights, of step 20; "
        "report: runs/a/report.html"
    )
    assert console.view.best == (0.84, 20)


@pytest.mark.parametrize(
    ("outcome", "words"),
    [
        ({"part": "val", "top1": 0.5, "weights": {"checkpoint": "best", "step": 20, "part": "val"}}, "chosen on this"),
        ({"part": "train", "top1": 0.5, "weights": {"checkpoint": "last"}}, "the model was trained on these images"),
        ({}, "not evaluated: vitrail eval runs/a"),
    ],
)
def test_the_last_line_says_what_the_number_is_not(outcome, words):
    console = Console()
    console.outcome = outcome
    line = console.outcome_line(session(), None)
    assert words in line
    assert "test" not in line


def test_a_notebook_gets_one_output_that_is_replaced(monkeypatch):
    shown = []

    class Handle:
        def update(self, renderable):
            shown.append(renderable)

    display = types.ModuleType("IPython.display")
    display.display = lambda renderable, display_id: shown.append(renderable) or Handle()
    monkeypatch.setitem(sys.modules, "IPython", types.ModuleType("IPython"))
    monkeypatch.setitem(sys.modules, "IPython.display", display)
    monkeypatch.setattr(live, "is_notebook", lambda: True)
    console = Console()
    console.start(session())
    console.event(event("train", **TRAINED))
    console.event(event("eval", **EVALUATED))
    console.stop()
    assert len(shown) == 3, "one display, replaced twice"
    assert "30/100" in drawn(SimpleNamespace(render=lambda _: shown[-1]), 120)
    html = shown[-1]._repr_mimebundle_([], [])["text/html"]
    assert "0.8125" in html


def test_without_a_notebook_nothing_of_one_is_imported():
    assert "IPython" not in sys.modules
    assert not live.is_notebook()
