"""The members of a tar shard by their places, and nothing that a shard should not have: every path that leaves it,
link, device, program or second member of a name is refused. Nothing is extracted."""

import tarfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

from vitrail.data.shards.left_out import LeftOut
from vitrail.errors import DataError

END = 1024  # zero bytes at the end of a tar file
COMPRESSED = {b"\x1f\x8b": "gzip", b"BZh": "bzip2", b"\xfd7zXZ\0": "xz", b"\x28\xb5\x2f\xfd": "zstd"}  # by first bytes
LARGEST = 2**30  # bytes of a member: no image is larger, and each is read into memory
UNSAFE = ("pkl", "pickle", "pt", "pth", "pyd", "npy", "npz", "py", "so")  # endings of what may hold code when decoded
AGAIN = "write the shard again"
OURS = "remove it from the shard: a shard holds images and their .cls, .json, .txt and .mask.png"


class Member(NamedTuple):
    """A file in a shard: its key (up to the first dot of its name), its ending, and where its bytes are."""

    key: str
    ending: str
    offset: int
    length: int


def list_members(path: Path, left: LeftOut) -> Iterator[Member]:
    """The files of a shard, in order. left: gets those that are refused. Errors: `DataError`."""
    with as_data_error(path):
        size = path.stat().st_size
        with open(path, "rb") as file:
            first = file.read(6)
            if how := next((word for begin, word in COMPRESSED.items() if first.startswith(begin)), ""):
                what = f"{path} is compressed ({how}), and images are read from a shard by their places"
                raise DataError(what, f"decompress it: {how} -d")
            file.seek(max(0, size - END))
            is_whole = size >= END and not any(file.read(END))
            file.seek(0)
            with tarfile.open(fileobj=file, mode="r:") as tar:
                yield from read_members(path, tar, size, left)
    if not is_whole:
        raise DataError(f"{path} is cut short: it has no end", AGAIN)


@contextmanager
def as_data_error(path: Path) -> Iterator[None]:
    """Turns what reading a shard raises into `DataError`."""
    try:
        yield
    except tarfile.TarError as error:
        raise DataError(f"{path} is no tar file or is damaged: {str(error)[:120]}", AGAIN) from None
    except OSError as error:
        what = f"{path} cannot be read: {error.strerror or error}"
        raise DataError(what, "check its permissions and its disk") from None


def read_members(path: Path, tar: tarfile.TarFile, size: int, left: LeftOut) -> Iterator[Member]:
    seen: set[str] = set()
    for info in tar:
        if info.isdir():
            continue
        if why := refuse_member(info, seen):
            left.add(DataError(f"{path}: member {info.name[:120]!r} {why}", OURS))
            continue
        seen.add(info.name)
        if info.offset_data + info.size > size:
            raise DataError(f"{path} is cut short within {info.name[:120]}", AGAIN)
        key, ending = split_name(info.name)
        yield Member(key, ending, info.offset_data, info.size)


def refuse_member(info: tarfile.TarInfo, seen: set[str]) -> str:
    """Why a member is not read; "" where it is."""
    if info.issym() or info.islnk():
        return "is a link"
    if not info.isreg() or info.issparse():
        return "is no plain file"
    if info.name.startswith(("/", "\\")) or ".." in info.name.replace("\\", "/").split("/") or ":" in info.name:
        return "has a path that leaves the shard"
    if not info.name.isprintable():
        return "has a name that cannot be printed"
    if info.name in seen:
        return "is there twice"
    if info.name.lower().rpartition(".")[2] in UNSAFE:
        return "may hold code, which is never read"
    if info.size > LARGEST:
        return f"is larger than any image: {info.size:,} bytes"
    return ""


def split_name(name: str) -> tuple[str, str]:
    """Key and ending of a member, as WebDataset has them.

    >>> split_name("train/000012.mask.png")
    ('train/000012', 'mask.png')
    """
    folder, _, file = name.rpartition("/")
    stem, _, ending = file.partition(".")
    return (f"{folder}/{stem}" if folder else stem), ending.lower()
