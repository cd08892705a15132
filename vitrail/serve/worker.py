"""A worker process: holds the models, decodes images in threads, and predicts them in batches.

It is asked on its standard input and answers on its standard output (`frames.py`). It ends when its input does, that is
with the front process. Signals to stop are for the front process alone, which lets it finish its work.
"""

import contextlib
import os
import signal
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from importlib import import_module
from typing import Any, BinaryIO, NamedTuple

from vitrail.errors import DataError, UsageError, VitrailError
from vitrail.serve.frames import Frame, pack_frame, read_frame
from vitrail.serve.lane import Lane
from vitrail.serve.refusal import Refused, error_body
from vitrail.storage.json_text import to_json
from vitrail.storage.printable import printable

FAILED = error_body("the model could not answer")


class Item(NamedTuple):
    """A request whose image is decoded."""

    header: dict[str, Any]
    pixels: Any  # uint8 [H W C]
    size: tuple[int, int]  # of the image as it was sent
    decoded: float  # seconds that reading it took
    queued: float

    @property
    def key(self) -> tuple[str, str]:
        """Requests of one key go into a batch."""
        return self.header["model"], self.header["kind"]


class Worker:
    def __init__(self, source: BinaryIO, target: BinaryIO):
        self.source, self.target = source, target
        self.writing = threading.Lock()
        self.present: set[int] = set()  # requests that have no answer yet
        self.dropped: set[int] = set()  # those of them that nobody waits for
        self.models: dict[str, Any] = {}

    def run(self) -> int:
        """Until the end of the input. Returns the exit code."""
        first = read_frame(self.source)
        if first is None:
            return 0
        try:
            self.load(first.header)
        except BaseException as error:
            self.send({"type": "failed", **describe_failure(error)})
            return 1
        self.limits = first.header["limits"]
        decoders = first.header["decoders"] or (4 if self.batch > 1 else 2)
        lane = Lane(self.predict, self.batch, first.header["delay"])
        pool = ThreadPoolExecutor(decoders)
        while (frame := read_frame(self.source)) is not None:
            number = frame.header["id"]
            with self.writing:
                if frame.header["kind"] == "drop":
                    self.dropped |= {number} & self.present
                    continue
                self.present.add(number)
            pool.submit(self.prepare, frame, lane)
        pool.shutdown(wait=False, cancel_futures=True)
        return 0

    def load(self, work: dict[str, Any]) -> None:
        """Opens the models and says so."""
        for name in work["modules"]:
            import_module(name)
        import torch

        from vitrail.data.stderr import silence_pillow
        from vitrail.serve.served import open_model, weight_files
        from vitrail.serve.watching import fingerprint

        silence_pillow()
        torch.set_num_threads(work["threads"])
        torch.set_grad_enabled(True)
        files: list[Any] = []
        about = []
        for row in work["models"]:
            model = open_model(row["name"], row["source"], work)
            files += [fingerprint(path) for path in weight_files(model.predictor.source)]
            model.warm_up()
            self.models[model.name] = model
            about.append(model.describe())
        self.batch = max(model.batch for model in self.models.values())
        self.send({"type": "loaded", "models": about, "files": files, "batch": self.batch})

    def prepare(self, frame: Frame, lane: "Lane[Item]") -> None:
        """Reads the image of a request, and hands it to the lane."""
        header, start = frame.header, time.monotonic()
        try:
            if self.is_late(header):
                return
            from vitrail.serve.uploads import read_upload

            content = read_upload(frame.body, header["type"], header["encoding"], self.limits["body"])
            pixels, size = self.models[header["model"]].read(content, self.limits["pixels"])
        except Exception as error:
            self.refuse(header, error)
            return
        now = time.monotonic()
        lane.put(Item(header, pixels, size, now - start, now))

    def predict(self, items: list[Item]) -> None:
        """Answers the requests of one batch, which are all of one model and kind."""
        items = [one for one in items if not self.is_late(one.header)]
        if not items:
            return
        start = time.monotonic()
        model = self.models[items[0].header["model"]]
        try:
            if items[0].header["kind"] == "attention":
                contents = [explain(model, one) for one in items]
            else:
                values = model.predict([one.pixels for one in items])
                contents = [
                    model.answer(v, one.size, options(one.header)) for v, one in zip(values, items, strict=True)
                ]
        except Exception as error:
            if len(items) == 1:
                self.refuse(items[0].header, error)
                return
            for one in items:  # one of them is to blame, the others have their answer
                self.predict([one])
            return
        took = time.monotonic() - start
        for one, content in zip(items, contents, strict=True):
            stages = {"decode": one.decoded, "batch": start - one.queued, "predict": took}
            self.send({"type": "answer", "id": one.header["id"], "status": 200, "stages": stages, "batch": len(items)},
                      to_json(content).encode())  # fmt: skip

    def is_late(self, header: dict[str, Any]) -> bool:
        """Whether nobody waits for an answer any more; then the front process gets an empty one."""
        if header["id"] not in self.dropped and time.monotonic() < header["deadline"]:
            return False
        self.send({"type": "answer", "id": header["id"], "status": 504, "stages": {}, "batch": 0})
        return True

    def refuse(self, header: dict[str, Any], error: Exception) -> None:
        """The answer to a request that failed: its client's mistake, or ours, of which the log has the kind alone."""
        if isinstance(error, Refused):
            status, body = error.status, error.body
        elif isinstance(error, DataError | UsageError):
            status, body = 422, error_body(error.what, error.fix)
        else:
            is_memory = isinstance(error, MemoryError) or type(error).__name__ == "OutOfMemoryError"
            print(f"vitrail: {type(error).__name__} while a request was answered", file=sys.stderr)
            status, body = (503, error_body("out of memory", "send a smaller image")) if is_memory else (500, FAILED)
        self.send({"type": "answer", "id": header["id"], "status": status, "stages": {}, "batch": 0}, body)

    def send(self, header: dict[str, Any], body: bytes = b"") -> None:
        with self.writing, contextlib.suppress(BrokenPipeError):  # the front process is gone: the input ends too
            self.present.discard(header.get("id", 0))
            self.dropped.discard(header.get("id", 0))
            self.target.write(pack_frame(header, body))
            self.target.flush()


def options(header: dict[str, Any]) -> Any:
    from vitrail.serve.answers import Options

    return Options(header["top"], header["score"])


def explain(model: Any, one: Item) -> Any:
    return model.explain(one.pixels, one.size, header_text(one.header, "map"), header_text(one.header, "label"))


def header_text(header: dict[str, Any], name: str) -> str:
    return str(header.get(name, ""))


def describe_failure(error: BaseException) -> dict[str, Any]:
    """What the front process prints, and its exit code."""
    if isinstance(error, VitrailError):
        return {"what": error.what, "fix": error.fix, "code": error.code}
    why = (str(error).splitlines() or [""])[0][:200]
    return {"what": f"the model cannot be opened: {type(error).__name__}: {printable(why)}", "fix": "", "code": 1}


def main() -> int:
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_IGN)
    target = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)  # what libraries print is no message
    return Worker(sys.stdin.buffer, target).run()


if __name__ == "__main__":
    os._exit(main())  # nobody waits for what its threads still do
