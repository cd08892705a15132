"""What is left out of shards, where `data.on_error` is "skip": samples that cannot be read or should not be there, up
to the fraction `data.max_errors`; the first that cannot ends the work otherwise."""

from collections.abc import Iterator
from contextlib import contextmanager

from vitrail.data.survey.assess import most_left_out
from vitrail.errors import DataError, many

LISTED = 3  # that are named in a sentence


class LeftOut:
    """Why samples were left out, or shards, whatever `what` says they are."""

    def __init__(self, is_allowed: bool, what: str = "sample"):
        self.is_allowed, self.what = is_allowed, what
        self.reasons: list[str] = []

    def add(self, error: DataError) -> None:
        """Notes the reason. Errors: `error` itself, where nothing may be left out."""
        if not self.is_allowed:
            raise error
        self.reasons.append(error.what)

    @contextmanager
    def leave_out(self) -> Iterator[None]:
        """What is inside is left out where it ends with `DataError`."""
        try:
            yield
        except DataError as error:
            self.add(error)

    def check(self, total: int, max_errors: float) -> None:
        """Errors: `DataError` where more of `total` are left out than may be."""
        if len(self.reasons) > most_left_out(total, max_errors):
            count, whole = many(len(self.reasons), self.what), f"{total:,}"
            what = f"{count} of {whole} cannot be packed, the first: {self.reasons[0]}"
            least = min(1.0, -(-len(self.reasons) * 1000 // max(1, total)) / 1000)
            raise DataError(what, f"repair or remove them; or --data.max-errors {least:g} leaves them out")

    def notes(self) -> list[str]:
        """A sentence for the user, where something was left out."""
        listed = "; ".join(self.reasons[:LISTED]) + ("; ..." if self.reasons[LISTED:] else "")
        return [f"left out, as they cannot be packed: {many(len(self.reasons), self.what)}: {listed}"][
            : len(self.reasons)
        ]
