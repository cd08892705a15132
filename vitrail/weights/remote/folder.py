"""A folder of weights for machines without a network: `vitrail fetch NAME... --to FOLDER` writes it, and
VITRAIL_WEIGHTS=FOLDER uses it before anything else.

FOLDER/weights.lock has the hash, the licence and the place of every file. Files that somebody put there by hand are
found too: ORG--REPO/FILE, ORG/REPO/FILE or REPO/FILE of the hub's, the name of the file for addresses.
"""

import os
import shutil
from pathlib import Path
from urllib.parse import urlsplit

from vitrail.errors import CheckpointError, UsageError
from vitrail.weights.remote.download import hash_file
from vitrail.weights.remote.hub import HubFile
from vitrail.weights.remote.lock import NAME, Pin, find_pin, read_lock, save_pin
from vitrail.weights.remote.repository import LocalFile

VARIABLE = "VITRAIL_WEIGHTS"
SIDECARS = ("config.json", "preprocessor_config.json")


def weights_folder() -> Path | None:
    """The folder that the user has set. Errors: `UsageError` where it is none."""
    text = os.environ.get(VARIABLE, "")
    path = Path(text).expanduser()
    if text and not path.is_dir():
        raise UsageError(
            f"{VARIABLE} is {text}, and there is no such folder", f"unset {VARIABLE}, or set it to a folder"
        )
    return path if text else None


def place_of_repo(repo: str, revision: str = "main") -> str:
    at = "" if revision == "main" else f"@{revision.replace('/', '-')}"
    return f"{repo.replace('/', '--')}{at}"


def find_hub_file(wanted: HubFile, expected: str) -> LocalFile | None:
    """A file of a repository in the user's folder, verified. Errors: `CheckpointError` where it is another."""
    organisation, _, name = wanted.repo.partition("/")
    places = (place_of_repo(wanted.repo, wanted.revision), f"{organisation}/{name}", name)
    return find_in_folder(wanted.key, [f"{place}/{wanted.file}" for place in places], expected)


def find_address(url: str, name: str, expected: str) -> LocalFile | None:
    return find_in_folder(url, [f"{urlsplit(url).hostname}/{name}", name], expected)


def find_in_folder(key: str, places: list[str], expected: str) -> LocalFile | None:
    folder = weights_folder()
    if folder is None:
        return None
    own = read_lock(folder / NAME).get(key)
    pin = own or find_pin(key)
    inside = [own.path] if own and own.path and ".." not in Path(own.path).parts else []
    for place in [*inside, *places]:
        path = folder / place
        if not path.is_file():
            continue
        digest = hash_file(path)
        pinned = expected if len(expected) == 64 or pin is None else pin.sha256
        if not digest.startswith(pinned or expected):
            raise CheckpointError(
                f"{path} is not the file that it should be: its SHA-256 is {digest}, expected {pinned or expected}",
                "copy it again: vitrail fetch NAME --to FOLDER on a machine with a network writes it anew",
            )
        return LocalFile(path, digest, pin.revision if pin else "", pin.licence if pin else "")
    return None


def copy_to_folder(folder: Path, key: str, place: str, got: LocalFile) -> Path:
    """Copies a verified file and the sidecars beside it into a folder of `vitrail fetch`, and writes its row of the
    lock. Errors: `CheckpointError` where the disk refuses."""
    target = folder / place / got.path.name
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        copy_file(got.path, target)
        for name in SIDECARS:
            if (beside := got.path.parent / name).is_file():
                copy_file(beside, target.parent / name)
        digest, size = hash_file(target), target.stat().st_size
    except OSError as error:
        raise CheckpointError(
            f"{target} cannot be written: {error.strerror or error}", "free some space, or choose another --to"
        ) from None
    if digest != got.sha256:
        raise CheckpointError(f"{target} was written damaged: its SHA-256 is {digest}", "is that disk healthy?")
    pin = Pin(digest, size, got.revision, got.licence, True, target.relative_to(folder).as_posix())
    save_pin(key, pin, folder / NAME)
    return target


def copy_file(source: Path, target: Path) -> None:
    """A copy that is whole or not there."""
    temporary = target.with_name(f".{target.name}.tmp-{os.getpid()}")
    try:
        shutil.copyfile(source, temporary)
        os.replace(temporary, target)
    finally:
        temporary.unlink(missing_ok=True)
