"""An answer that is no prediction: its status, what is wrong, and what to do."""

from typing import Any

from vitrail.storage.json_text import to_json


class Refused(Exception):
    """A request that is not answered with a prediction. `status` is HTTP's."""

    def __init__(self, status: int, what: str, fix: str = "", retry: int = 0):
        super().__init__(what)
        self.status, self.what, self.fix = status, what, fix
        self.retry = retry  # seconds after which it is worth trying again; 0: says nothing of it

    @property
    def body(self) -> bytes:
        return error_body(self.what, self.fix)


def error_body(what: str, fix: str = "") -> bytes:
    content: dict[str, Any] = {"error": what, **({"fix": fix} if fix else {})}
    return to_json(content).encode()


def busy(what: str, retry: int = 1) -> Refused:
    return Refused(503, what, "try again in a moment", retry)
