"""Where the bytes of shards are: a folder here, or a store on a network (`http.py`)."""

import os
import threading
from abc import ABC, abstractmethod
from pathlib import Path

from vitrail.errors import BadImage

MOST_OPEN = 64  # files at a time


class Store(ABC):
    """Files that are read by offset, in any process and thread. Picklable."""

    @abstractmethod
    def read(self, name: str, offset: int, length: int, sha256: bytes) -> bytes:
        """Some bytes of a file, those with that hash. Raises `BadImage` where they are others or cannot be had."""

    @abstractmethod
    def describe(self, name: str) -> str:
        """What a file is called in messages."""


class OpenFile:
    """A file that is open as long as somebody has it."""

    def __init__(self, path: Path):
        self.handle = os.open(path, os.O_RDONLY)

    def __del__(self) -> None:
        if "handle" in vars(self):  # it could be opened
            os.close(self.handle)


class LocalStore(Store):
    """The files of a folder. A forked process reads by the same handles: reading by offset moves nothing."""

    def __init__(self, root: Path):
        self.root, self.lock = root, threading.Lock()
        self.open: dict[str, OpenFile] = {}

    def __reduce__(self) -> tuple[type, tuple[Path]]:
        return LocalStore, (self.root,)

    def describe(self, name: str) -> str:
        return str(self.root / name)

    def read(self, name: str, offset: int, length: int, sha256: bytes) -> bytes:
        try:
            if "pread" not in vars(os):  # Windows
                with open(self.root / name, "rb") as whole:
                    whole.seek(offset)
                    return whole.read(length)
            file = self.find(name)
            data = os.pread(file.handle, length, offset)
            while len(data) < length and (more := os.pread(file.handle, length - len(data), offset + len(data))):
                data += more  # a call gives 2 GB at most
            return data
        except OSError as error:
            why = (error.strerror or str(error)).lower()
            raise BadImage(f"{self.describe(name)} cannot be read: {why}", "are the shards all there?") from None

    def find(self, name: str) -> OpenFile:
        """The open file; whoever reads it holds it, so that dropping it here closes it under nobody."""
        with self.lock:
            if name not in self.open:
                while len(self.open) >= MOST_OPEN:
                    self.open.pop(next(iter(self.open)))
                self.open[name] = OpenFile(self.root / name)
            return self.open[name]
