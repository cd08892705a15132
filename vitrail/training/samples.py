"""Sample snapshots of a denoiser: a few images, always from the same noise, generated and saved at a few steps of a
run.

The steps, and whether the run is long enough for any, are a function of the recipe alone, so a resumed run generates
the same ones. They have their own random numbers: training is not changed by them.
"""

from collections.abc import Iterator
from pathlib import Path

from vitrail.assembly.model import ModelBundle
from vitrail.data.subset import evenly_spaced
from vitrail.engine.checkpoint import checkpoint_name
from vitrail.evaluation.generation.frechet import STEP_COST, fast_sampling
from vitrail.inference.sample import SampleRequest, encode_sheet, null_label, sample_images
from vitrail.recipe import Recipe
from vitrail.storage.atomic import write_file
from vitrail.training.events import Event
from vitrail.training.session import Session

MOST = 6  # snapshots
WIDE, STEPS = 8, 10  # images in a snapshot, and sampling steps
SHARE = 0.02  # of the network's work in a run; small batches are slower, so it may take up to a twentieth of the time


def snapshot_steps(recipe: Recipe) -> tuple[int, ...]:
    """The steps after which images are generated: the last, half of it, a quarter and so on, as many as the run has
    time for."""
    steps, batch = recipe.train.steps or 0, recipe.train.batch_size or 1
    each = WIDE * STEPS * 2  # with a class and without one, for guidance
    affordable = min(MOST, int(SHARE * STEP_COST * steps * batch / each))
    return tuple(sorted({steps >> i for i in range(affordable)} - {0}))


def snapshot_labels(classes: int) -> tuple[int, ...]:
    """The classes of the images in a snapshot, `WIDE` of them: each of a few classes equally often, or some of many."""
    if not classes:
        return (0,) * WIDE
    some = evenly_spaced(classes, WIDE).tolist()
    return tuple(sorted((some * WIDE)[:WIDE]))


class SampleSnapshots:
    """Generates the images of a snapshot, on rank 0."""

    def __init__(self, session: Session):
        self.session = session
        self.at = snapshot_steps(session.recipe) if session.bundle.task.is_generative else ()

    def write_missed(self) -> Iterator[Event]:
        """The snapshot of the step that a run is resumed from, where a signal came before it."""
        if self.session.state.step in self.at and not self.session.world.on_rank_zero(self.file.is_file):
            yield from self.write()

    @property
    def file(self) -> Path:
        return self.session.folder.snapshots / f"{checkpoint_name(self.session.state.step)}.png"

    def is_due(self, step: int) -> bool:
        return step in self.at

    def write(self) -> Iterator[Event]:
        """Saves the images; a failure is only reported."""
        session = self.session
        session.state.gather()
        if not session.world.is_first:
            session.state.release()
            return
        bundle = ModelBundle(session.state.best_model, session.bundle.task, session.recipe, session.bundle.classes)
        try:
            self.file.parent.mkdir(parents=True, exist_ok=True)
            write_file(self.file, draw_samples(bundle))
        except OSError as error:
            reason = error.strerror or error
            text = f"the images of step {session.state.step} could not be saved: {reason}; the run continues"
            yield Event("note", session.state.step, {"text": text})
        session.state.release()


def draw_samples(bundle: ModelBundle) -> bytes:
    """A PNG of one row of images."""
    images = sample_images(
        bundle, SampleRequest(snapshot_labels(null_label(bundle)), tuple(range(WIDE))), fast_sampling(bundle, STEPS)
    )
    return encode_sheet(images, WIDE)
