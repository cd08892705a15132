"""How the pictures of a denoiser come about in a run: a few of them, always from the same noise, made at a few moments of it and kept.

When they are made, and whether the run is long enough for that, is a function of the recipe alone, so a run that was cut and taken up
again makes the same ones. They have noise of their own: nothing that training draws moves by them.
"""

from collections.abc import Iterator
from pathlib import Path

from vitrail.assembly.model import Described
from vitrail.data.subset import spaced
from vitrail.engine.checkpoint import name_of
from vitrail.evaluation.generation.frechet import STEP_COST, quick
from vitrail.inference.sample import Wish, null_label, pictures, sheet
from vitrail.recipe import Recipe
from vitrail.storage.atomic import write_file
from vitrail.training.events import Event
from vitrail.training.session import Session

MOST = 6  # moments
WIDE, STEPS = 8, 10  # pictures at a moment, and steps to make one
SHARE = 0.02  # of the network's work in a run; what is slow about few pictures at a time has room up to a twentieth


def moments(recipe: Recipe) -> tuple[int, ...]:
    """The steps after which pictures are made: the last, half of it, a quarter and so on, as many as the run has time for."""
    steps, batch = recipe.plan.steps or 0, recipe.plan.batch or 1
    each = WIDE * STEPS * 2  # with a class and without one, for guidance
    affordable = min(MOST, int(SHARE * STEP_COST * steps * batch / each))
    return tuple(sorted({steps >> i for i in range(affordable)} - {0}))


def labels(classes: int) -> tuple[int, ...]:
    """The classes of the pictures at a moment, `WIDE` of them: each of a few classes equally often, or some of many."""
    if not classes:
        return (0,) * WIDE
    some = spaced(classes, WIDE).tolist()
    return tuple(sorted((some * WIDE)[:WIDE]))


class Moments:
    """Makes the pictures of a moment, in the process that writes."""

    def __init__(self, session: Session):
        self.session = session
        self.at = moments(session.recipe) if session.described.task.is_generative else ()

    def missed(self) -> Iterator[Event]:
        """Those of the step that a run goes on from, where a signal came before them."""
        if self.session.state.step in self.at and not self.file.is_file():
            yield from self.make()

    @property
    def file(self) -> Path:
        return self.session.folder.moments / f"{name_of(self.session.state.step)}.png"

    def due(self, step: int) -> bool:
        return step in self.at and self.session.world.first

    def make(self) -> Iterator[Event]:
        """Keeps the pictures; a disk that refuses costs a message."""
        session = self.session
        if not session.world.first:
            return
        described = Described(session.state.best, session.described.task, session.recipe, session.described.classes)
        try:
            self.file.parent.mkdir(parents=True, exist_ok=True)
            write_file(self.file, drawn(described))
        except OSError as error:
            text = f"the pictures of step {session.state.step} could not be kept: {error.strerror or error}; going on"
            yield Event("note", session.state.step, {"text": text})


def drawn(described: Described) -> bytes:
    """A PNG of one row of pictures."""
    made = pictures(described, Wish(labels(null_label(described)), tuple(range(WIDE))), quick(described, STEPS))
    return sheet(made, WIDE)
