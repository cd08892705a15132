"""From a built session to its first step: weights, cached features, the start of a new head, micro-batches."""

import dataclasses

from vitrail.assembly import pretrained
from vitrail.assembly.pretrained import WeightsOrigin
from vitrail.assembly.restore import read_origin
from vitrail.engine.checkpoint import SavedCheckpoint
from vitrail.evaluation.features import Progress
from vitrail.training.needs import estimate_needs, fit_micro_batch
from vitrail.training.processes.division import divide_session, load_divided
from vitrail.training.session import Session
from vitrail.training.transfer.cached_features import cache_features, write_features
from vitrail.training.transfer.initial_weights import fit_head, load_initial_weights


def begin(session: Session, origin: WeightsOrigin | None, progress: Progress | None = None) -> None:
    """A new run, before it has a folder."""
    load_initial_weights(session, origin)
    cache_features(session, is_resumed=False, progress=progress)
    session.notes += fit_head(session, progress)
    fit_micro_batch(session)


def begin_again(session: Session) -> None:
    """A resumed run that ended before its first checkpoint."""
    restore_origin(session)
    origin = pretrained.find_weights(session.recipe.init, session.recipe.model)
    if origin is not None:
        pretrained.check_same(origin, session.bundle.origin)
    load_initial_weights(session, origin)
    cache_features(session, is_resumed=True)
    fit_head(session)
    fit_micro_batch(session)
    divide_session(session)


def go_on(session: Session, saved: SavedCheckpoint) -> None:
    """A resumed run with the state of a checkpoint."""
    if session.parallel.shards == 1:
        session.state.load(saved.parts, saved.numbers)
    restore_origin(session)
    cache_features(session, is_resumed=True)
    fit_micro_batch(session)
    divide_session(session)
    if session.parallel.shards > 1:
        load_divided(session, saved)


def restore_origin(session: Session) -> None:
    """The origin of the weights that a resumed run began with, as its folder has it."""
    origin = read_origin(session.folder.about().get("origin"))
    session.bundle = dataclasses.replace(session.bundle, origin=origin)


def keep_features(session: Session) -> None:
    """Writes the features of a new run into its folder, on the first process."""
    session.world.on_rank_zero(lambda: write_features(session))


def plan(session: Session, origin: WeightsOrigin | None) -> str:
    """Loads the weights alone; what the run will need, in words. Errors: `DataError` where the disk is too small."""
    load_initial_weights(session, origin)
    fit_micro_batch(session)
    return estimate_needs(session)
