"""A run, new or resumed: a start that fails before its first step leaves nothing behind and takes no name."""

from collections.abc import Iterator

from vitrail.errors import VitrailError
from vitrail.training.events import Event
from vitrail.training.loop import run_training
from vitrail.training.session import Session


def run_session(session: Session, is_new: bool) -> Iterator[Event]:
    """Trains a run to its end. Where a new one fails at once, by anything but an error that says how to go on, such as
    too little memory for a batch, its folder is removed."""
    try:
        yield from run_training(session)
    except Exception as error:
        has_begun = session.state.step > 0 or session.folder.has_checkpoint
        if is_new and not has_begun and session.world.size == 1 and not isinstance(error, VitrailError):
            session.folder.discard()
        raise
