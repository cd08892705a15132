"""Atomic writes of files and folders: written under a temporary name beside the target, then renamed."""

import errno
import hashlib
import json
import os
import shutil
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path

from vitrail.errors import CheckpointError
from vitrail.storage.hashing import hash_file
from vitrail.storage.json_text import to_json
from vitrail.storage.large import write_synced
from vitrail.storage.litter import clear_litter

MANIFEST = "manifest.json"
Content = bytes | Iterable[bytes | memoryview]  # of a file: whole, or in pieces that are made while they are written


def write_file(path: Path, content: Content) -> None:
    """Writes a file atomically: to a temporary file, fsync, rename."""
    temporary = path.with_name(f".{path.name}.tmp-{os.getpid()}")
    try:
        write_through(temporary, content)
        os.replace(temporary, path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
    sync_folder(path.parent)


def write_through(path: Path, content: Content) -> None:
    write_synced(path, pieces_of(content))


def pieces_of(content: Content) -> Iterable[bytes | memoryview]:
    return (content,) if isinstance(content, bytes) else content


def sync_folder(path: Path) -> None:
    """Makes a rename durable: fsync of the folder."""
    try:
        handle = os.open(path, os.O_RDONLY)
    except OSError:  # Windows opens no folders, and needs no sync of them
        return
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def write_folder(path: Path, files: Mapping[str, Content]) -> None:
    """Writes `files` as the folder `path`, which must not exist yet. Until the last rename it is invisible.

    Errors: `OSError` as the disk gives it (full, read-only); then the disk is as before.
    """
    temporary = begin_folder(path)
    try:
        rows = {name: write_entry(temporary / name, content) for name, content in files.items()}
        finish_folder(temporary, path, rows)
    except BaseException:
        shutil.rmtree(temporary, ignore_errors=True)
        raise


def begin_folder(path: Path) -> Path:
    """A new empty folder beside `path`, invisible until `finish_folder` renames it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.tmp-{os.getpid()}")
    clear_litter(path)
    shutil.rmtree(temporary, ignore_errors=True)
    temporary.mkdir()
    return temporary


def write_entry(path: Path, content: Content) -> dict[str, int | str]:
    """Writes a file of such a folder; its row of the manifest."""
    entry = Entry()
    write_through(path, entry.count(content))
    return entry.row()


def finish_folder(temporary: Path, path: Path, rows: Mapping[str, Mapping[str, int | str]]) -> None:
    """Adds the manifest of files that several processes may have written, and gives the folder its name. Errors:
    `OSError` where a file is not there as its row says."""
    for name, row in rows.items():
        if (temporary / name).stat().st_size != row["bytes"]:
            raise OSError(errno.EIO, f"{name} is not there as it was written")
    write_through(temporary / MANIFEST, format_manifest(rows))
    sync_folder(temporary)
    os.rename(temporary, path)
    sync_folder(path.parent)


class Entry:
    """What a manifest says of a file, from the pieces that pass."""

    def __init__(self) -> None:
        self.bytes, self.sha256 = 0, hashlib.sha256()

    def count(self, content: Content) -> Iterator[bytes | memoryview]:
        """The pieces of a file as they are."""
        for piece in pieces_of(content):
            self.bytes += len(piece)
            self.sha256.update(piece)
            yield piece

    def row(self) -> dict[str, int | str]:
        return {"bytes": self.bytes, "sha256": self.sha256.hexdigest()}


def manifest(files: Mapping[str, bytes]) -> bytes:
    return format_manifest(
        {
            name: {"bytes": len(content), "sha256": hashlib.sha256(content).hexdigest()}
            for name, content in files.items()
        }
    )


def format_manifest(rows: Mapping[str, Mapping[str, int | str]]) -> bytes:
    return to_json({"files": {name: rows[name] for name in sorted(rows)}}, indent=1).encode()


def read_manifest(path: Path) -> dict[str, tuple[int, str]]:
    """Size and SHA-256 of each file of a folder, as its manifest has them. Errors: `CheckpointError`."""
    try:
        rows = json.loads((path / MANIFEST).read_bytes())["files"]
        return {name: (row["bytes"], row["sha256"]) for name, row in rows.items()}
    except FileNotFoundError:
        raise CheckpointError(f"{path} has no {MANIFEST}, so it cannot be trusted", "use another checkpoint") from None
    except (ValueError, KeyError, TypeError, AttributeError, OSError):
        raise CheckpointError(f"{path / MANIFEST} is damaged", "use another checkpoint") from None


def verify_folder(path: Path) -> None:
    """Errors: `CheckpointError` that names the first file that is missing, unlisted, of another size or altered."""
    expected = read_manifest(path)
    try:
        present = {p.name for p in path.iterdir()} - {MANIFEST}
    except OSError:  # removed while it was looked at
        raise CheckpointError(f"{path} is gone", "use another checkpoint") from None
    for name in sorted(present ^ set(expected)):
        raise CheckpointError(
            f"{path / name} is {'not listed' if name in present else 'missing'}", "use another checkpoint"
        )
    for name, row in expected.items():
        verify_content(path / name, *row)


def verify_file(path: Path) -> None:
    """One file of a folder with a manifest. Errors: `CheckpointError` where it is unlisted, of another size or
    altered."""
    expected = read_manifest(path.parent)
    if path.name not in expected:
        raise CheckpointError(f"{path} is not listed in the {MANIFEST} beside it", "use another checkpoint")
    verify_content(path, *expected[path.name])


def verify_content(path: Path, size: int, sha256: str) -> None:
    try:
        digest, found = hash_file(path), path.stat().st_size
    except OSError as error:
        raise CheckpointError(f"{path} cannot be read ({error.strerror})", "use another checkpoint") from None
    if found != size:
        raise CheckpointError(f"{path} has {found} bytes, not {size}", "it is truncated; use another checkpoint")
    if digest != sha256:
        raise CheckpointError(f"{path} was altered: its SHA-256 does not match", "use another checkpoint")


def clean_folder(path: Path) -> list[Path]:
    """Removes and returns the temporary files of interrupted writes. Only for folders of our own."""
    leftovers = list(path.glob(".*.tmp-*")) if path.is_dir() else []
    for p in leftovers:
        if p.is_dir():
            shutil.rmtree(p, ignore_errors=True)
        else:
            p.unlink(missing_ok=True)
    return leftovers
