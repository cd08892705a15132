"""Images that cannot be read, met in mid-run: by `data.on_error` the run ends, or another image stands in for each, up
to the fraction `data.max_errors`. Each process counts those that it met."""

import contextlib
from collections.abc import Iterator

from vitrail.data.dataset import Split
from vitrail.data.loader import LoadedBatch
from vitrail.data.survey.unreadable import StandIns
from vitrail.errors import BadImage, DataError, many
from vitrail.evaluation.evaluate import most_unreadable
from vitrail.storage.printable import shell_word
from vitrail.training.session import Session

LISTED = 5  # images that are named in the log


class SkippedImages:
    """The images of a split that a run could not read. stand_ins: for its `Fetcher`; None where none may be skipped."""

    def __init__(self, session: Session, split: Split):
        self.session, self.count = session, len(split)
        self.most = most_unreadable(session.recipe.data, self.count)
        self.stand_ins = StandIns() if self.most else None
        self.lost: dict[int, str] = {}

    def add(self, loaded: LoadedBatch) -> None:
        """Counts what is new in a batch, for the log. Errors: `DataError` where it is more than the recipe allows."""
        for one in loaded.lost:
            if one.number in self.lost:
                continue
            self.lost[one.number] = one.reason
            if len(self.lost) <= LISTED:
                self.session.news.append(f"another image stands in for one that cannot be read: {one.reason}")
            elif len(self.lost) == LISTED + 1:
                self.session.news.append(f"more images cannot be read; {self.listing} lists them all")
        if len(self.lost) > self.most:
            first = next(iter(self.lost.values()))
            allowed = f"{self.most:,} of {self.count:,} may be skipped (data.max_errors)"
            what = f"{many(len(self.lost), 'image')} cannot be read, and {allowed}; the first: {first}"
            raise DataError(what, f"{self.listing} lists them all; repair or remove them, and start a new run")

    @property
    def listing(self) -> str:
        data = self.session.recipe.data
        return f"vitrail check {shell_word(str(data.keys.get('path') or data.name))}"

    @contextlib.contextmanager
    def explain(self) -> Iterator[None]:
        """Adds to the error of an image how the run goes on without it."""
        try:
            yield
        except BadImage as error:
            run = shell_word(str(self.session.folder.path))
            skip = f"vitrail train --resume {run} --data.on-error skip --allow-change data.on-error"
            fix = f"{self.listing} lists all such images; without them: {skip}"
            raise BadImage(error.what, fix if self.stand_ins is None else error.fix) from None
