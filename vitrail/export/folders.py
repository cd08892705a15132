"""The folder of an export: where it is, and how it appears at once and whole."""

import contextlib
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from vitrail.assembly.run_directory import RunFolder
from vitrail.errors import UsageError
from vitrail.export.request import ExportRequest
from vitrail.inference.exported import INFO
from vitrail.inference.load_any import EXPORTS, LABELLED, MERGED
from vitrail.storage.atomic import sync_folder
from vitrail.storage.litter import clear_litter
from vitrail.validation import as_path


def choose_folder(request: ExportRequest, out: Path | None, source: str | Path, path: Path) -> Path:
    """Where an export goes."""
    if out is not None:
        return out
    name = f"{request.format}-int8" if request.int8 else request.format
    if request.merge is not None:
        name += f"{MERGED}{request.merge}"
    name += LABELLED if request.labels else ""
    typed = as_path(source)
    parents = [path if path.is_dir() else path.parent, *path.absolute().parents]
    run = next((one for one in parents if RunFolder(one).is_run), None)
    if run is not None:
        return run / EXPORTS / name
    home = typed if typed.is_dir() else typed.parent if typed.is_file() else Path()
    return home / EXPORTS / name


def refuse_existing(folder: Path, overwrite: bool) -> None:
    """Errors: `UsageError` where something is there that is no earlier export, or that is not to be replaced."""
    if not (folder.exists() or folder.is_symlink()):
        return
    if folder.is_symlink() or not (folder / INFO).is_file():
        raise UsageError(f"{folder} is there already and is no export", "choose another --out")
    if not overwrite:
        raise UsageError(f"{folder} is there already", "--overwrite replaces it, once the new one has its proof")


@contextmanager
def new_folder(folder: Path) -> Iterator[Path]:
    """A temporary folder, which becomes `folder` at the end, and goes where anything goes wrong. Errors: `UsageError`
    where the disk refuses."""
    temporary = folder.with_name(f".{folder.name}.tmp-{os.getpid()}")
    made = [parent for parent in folder.absolute().parents if not parent.exists()]
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        clear_litter(folder)
        shutil.rmtree(temporary, ignore_errors=True)
        temporary.mkdir()
        yield temporary
        replace_folder(temporary, folder)
    except OSError as error:
        what = f"{folder} cannot be written: {error.strerror or error}"
        raise UsageError(what, "choose another --out, or free the space it needs") from None
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
        remove_empty(made)


def remove_empty(folders: list[Path]) -> None:
    """Removes folders that were made for an export, the inner ones first, where nothing came into them."""
    with contextlib.suppress(OSError):
        for folder in folders:
            folder.rmdir()


def replace_folder(temporary: Path, folder: Path) -> None:
    """The new folder in its place; one that was there goes when the new one stands."""
    sync_folder(temporary)
    if not folder.exists():
        os.rename(temporary, folder)
    else:
        old = folder.with_name(f".{folder.name}.tmp-{os.getpid()}0")
        try:
            os.rename(folder, old)
            os.rename(temporary, folder)
        finally:  # also after Ctrl-C
            if old.exists() and not folder.exists():
                os.rename(old, folder)
            shutil.rmtree(old, ignore_errors=True)
    sync_folder(folder.parent)
