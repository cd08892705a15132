"""Atomic writes of files and folders: written under a temporary name beside the target, then renamed."""

import hashlib
import json
import os
import shutil
from pathlib import Path

from vitrail.errors import CheckpointError
from vitrail.storage.json_text import to_json
from vitrail.storage.litter import clear_litter

MANIFEST = "manifest.json"


def write_file(path: Path, content: bytes) -> None:
    """Writes a file atomically: to a temporary file, fsync, rename."""
    temporary = path.with_name(f".{path.name}.tmp-{os.getpid()}")
    try:
        write_through(temporary, content)
        os.replace(temporary, path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
    sync_folder(path.parent)


def write_through(path: Path, content: bytes) -> None:
    with path.open("wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())


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


def write_folder(path: Path, files: dict[str, bytes]) -> None:
    """Writes `files` as the folder `path`, which must not exist yet. Until the last rename it is invisible.

    Errors: `OSError` as the disk gives it (full, read-only); then the disk is as before.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.tmp-{os.getpid()}")
    clear_litter(path)
    shutil.rmtree(temporary, ignore_errors=True)
    temporary.mkdir()
    try:
        for name, content in files.items():
            write_through(temporary / name, content)
        write_through(temporary / MANIFEST, manifest(files))
        sync_folder(temporary)
        os.rename(temporary, path)
    except BaseException:
        shutil.rmtree(temporary, ignore_errors=True)
        raise
    sync_folder(path.parent)


def manifest(files: dict[str, bytes]) -> bytes:
    rows = {
        name: {"bytes": len(content), "sha256": hashlib.sha256(content).hexdigest()}
        for name, content in sorted(files.items())
    }
    return to_json({"files": rows}, indent=1).encode()


def verify_folder(path: Path) -> None:
    """Errors: `CheckpointError` that names the first file that is missing, unlisted, of another size or altered."""
    try:
        rows = json.loads((path / MANIFEST).read_bytes())["files"]
        expected = {name: (row["bytes"], row["sha256"]) for name, row in rows.items()}
    except FileNotFoundError:
        raise CheckpointError(f"{path} has no {MANIFEST}, so it cannot be trusted", "use another checkpoint") from None
    except (ValueError, KeyError, TypeError, AttributeError, OSError):
        raise CheckpointError(f"{path / MANIFEST} is damaged", "use another checkpoint") from None
    try:
        present = {p.name for p in path.iterdir()} - {MANIFEST}
    except OSError:  # removed while it was looked at
        raise CheckpointError(f"{path} is gone", "use another checkpoint") from None
    for name in sorted(present ^ set(expected)):
        raise CheckpointError(
            f"{path / name} is {'not listed' if name in present else 'missing'}", "use another checkpoint"
        )
    for name, (size, sha256) in expected.items():
        try:
            content = (path / name).read_bytes()
        except OSError as error:
            raise CheckpointError(
                f"{path / name} cannot be read ({error.strerror})", "use another checkpoint"
            ) from None
        if len(content) != size:
            raise CheckpointError(
                f"{path / name} has {len(content)} bytes, not {size}", "it is truncated; use another checkpoint"
            )
        if hashlib.sha256(content).hexdigest() != sha256:
            raise CheckpointError(f"{path / name} was altered: its SHA-256 does not match", "use another checkpoint")


def clean_folder(path: Path) -> list[Path]:
    """Removes and returns the temporary files of interrupted writes. Only for folders of our own."""
    leftovers = list(path.glob(".*.tmp-*")) if path.is_dir() else []
    for p in leftovers:
        if p.is_dir():
            shutil.rmtree(p, ignore_errors=True)
        else:
            p.unlink(missing_ok=True)
    return leftovers
