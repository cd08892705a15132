"""A folder of weights for machines without a network: `vitrail fetch NAME... --to FOLDER` writes it, and
VITRAIL_WEIGHTS=FOLDER uses it before anything else.

FOLDER/weights.lock has the hash, the licence and the place of every file. Files that somebody put there by hand are
found too: ORG--REPO/FILE, ORG/REPO/FILE or REPO/FILE of the hub's, the name of the file for addresses.
"""

import hashlib
import os
import shutil
from collections.abc import Iterable
from pathlib import Path
from urllib.parse import urlsplit

from vitrail.errors import CheckpointError, UsageError
from vitrail.storage.hashing import hash_file
from vitrail.weights.remote.hub import HubFile, find_hub_pin, pins_of
from vitrail.weights.remote.lock import NAME, Pin, find_pin, read_lock, save_pin
from vitrail.weights.remote.repository import LocalFile
from vitrail.weights.remote.shards import AGAIN, is_index, read_index
from vitrail.weights.remote.table import PublishedWeights
from vitrail.weights.sidecars import CONFIG, OPEN_CLIP

VARIABLE = "VITRAIL_WEIGHTS"
SIDECARS = (CONFIG, "preprocessor_config.json")
LONGEST_TOKENIZER = 64 * 2**20  # bytes; the largest published one has 34 MB
OF_TEXTS = ("tokenizer.json", "tokenizer_config.json")  # of models that read texts too


def sidecars_of(file: str) -> tuple[str, ...]:
    """The names of files that may lie beside a file of weights and say what it is."""
    if file.endswith(".npz"):
        return ()
    return (OPEN_CLIP, *SIDECARS) if file.rpartition("/")[2].startswith("open_clip") else SIDECARS


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


def place_of_address(url: str, name: str, in_table: bool) -> str:
    """Where `vitrail fetch` puts a file of an address: one of the table by its name alone, which is distinct."""
    apart = "" if in_table else f"{hashlib.sha256(url.encode(errors='surrogateescape')).hexdigest()[:8]}/"
    return f"{urlsplit(url).hostname}/{apart}{name}"


def places_of_repo(repo: str, revision: str) -> tuple[str, ...]:
    """Where the files of a repository may lie in the user's folder, as `vitrail fetch` or a person put them there."""
    return place_of_repo(repo, revision), repo, repo.partition("/")[2]


def places_of_address(url: str, name: str) -> tuple[str, ...]:
    return f"{urlsplit(url).hostname}/{name}", name


def find_path(key: str, row: PublishedWeights) -> Path | None:
    """Where the file of a row of the table lies in the user's folder; it is not verified. key: its name in a lock."""
    folder = weights_folder()
    if folder is None:
        return None
    above = places_of_repo(row.repo, "main") if row.repo else ()
    places = [f"{place}/{row.file}" for place in above] or places_of_address(row.url, row.file)
    own = read_lock(folder / NAME).get(key)
    paths = (folder / place for place in list_places(own, places))
    return next((path for path in paths if path.is_file()), None)


def names_by_hand(repo: str, revision: str) -> list[str]:
    """The files of a repository in the first of these places that is there; none without a folder."""
    folder = weights_folder()
    places = [folder / place for place in places_of_repo(repo, revision)] if folder else []
    return next((sorted(p.name for p in place.iterdir() if p.is_file()) for place in places if place.is_dir()), [])


def find_hub_file(wanted: HubFile, expected: str) -> LocalFile | None:
    """A file of a repository in the user's folder, verified; with an index the files that it names. Errors:
    `CheckpointError` where one is another, or is not there."""
    places = places_of_repo(wanted.repo, wanted.revision)
    got = find_hub_file_at(wanted, [f"{place}/{wanted.file}" for place in places], expected)
    if got is None or not is_index(wanted.file):
        return got
    parts = []
    for file in read_index(got.path).files:
        beside = got.path.parent / file
        part = find_hub_file_at(wanted.beside(file, got.revision), [str(beside.absolute())], "")
        if part is None:
            raise CheckpointError(f"{got.path} names {file}, which is not there", AGAIN)
        parts.append(part)
    return got.with_parts(parts)


def find_hub_file_at(wanted: HubFile, places: list[str], expected: str) -> LocalFile | None:
    folder = weights_folder()
    if folder is None:
        return None
    own = pins_of(read_lock(folder / NAME), wanted.repo, wanted.revision).get(wanted.file)
    return find_in_folder(folder, own, own or find_hub_pin(wanted), places, expected)


def find_address(url: str, name: str, expected: str) -> LocalFile | None:
    folder = weights_folder()
    if folder is None:
        return None
    own = read_lock(folder / NAME).get(url)
    return find_in_folder(folder, own, own or find_pin(url), places_of_address(url, name), expected)


def find_in_folder(
    folder: Path, own: Pin | None, pin: Pin | None, places: Iterable[str], expected: str
) -> LocalFile | None:
    """The first file that is there, verified. own: its row in the folder's lock; pin: that or the user's; places: where
    else it may lie in the folder; expected: its SHA-256 by the table, or the first digits."""
    for place in list_places(own, places):
        path = folder / place
        if not path.is_file():
            continue
        digest = hash_file(path)
        pinned = expected if len(expected) == 64 or pin is None else pin.sha256
        if not digest.startswith(pinned or expected):
            raise CheckpointError(
                f"{path} is not the file that it should be: its SHA-256 is {digest}, expected {pinned or expected}",
                "copy it again; vitrail fetch NAME --to FOLDER writes it anew",
            )
        return LocalFile(path, digest, pin.revision if pin else "", pin.licence if pin else "")
    return None


def list_places(own: Pin | None, places: Iterable[str]) -> list[str]:
    """That of the folder's lock comes first."""
    return [*([own.path] if own and is_inside(own.path) else []), *places]


def is_inside(path: str) -> bool:
    """Whether a path of the lock, which somebody else may have written, stays in its folder."""
    return bool(path) and not Path(path).is_absolute() and ".." not in Path(path).parts


def copy_to_folder(folder: Path, key: str, place: Path, got: LocalFile) -> Path:
    """Copies a verified file and the sidecars beside it into a folder of `vitrail fetch`, and writes its row of the
    lock. place: of the file in the folder. Errors: `CheckpointError` where the disk refuses, or damages it."""
    target = folder / place
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        copy_file(got.path, target, got.sha256)
        for name in (OPEN_CLIP, *SIDECARS, *OF_TEXTS):
            if (beside := got.path.parent / name).is_file():
                copy_file(beside, target.parent / name, hash_file(beside))
        size = target.stat().st_size
    except OSError as error:
        raise CheckpointError(
            f"{target} cannot be written: {error.strerror or error}", "free some space, or choose another --to"
        ) from None
    pin = Pin(got.sha256, size, got.revision, got.licence, True, target.relative_to(folder).as_posix())
    save_pin(key, pin, folder / NAME)
    return target


def copy_file(source: Path, target: Path, sha256: str) -> None:
    """A copy that has its name when it is whole and right. Errors: `CheckpointError` where it is not."""
    temporary = target.with_name(f".{target.name}.tmp-{os.getpid()}")
    try:
        shutil.copyfile(source, temporary)
        if (digest := hash_file(temporary)) != sha256:
            raise CheckpointError(
                f"{target} was written damaged and was removed: its SHA-256 is {digest}, expected {sha256}",
                "is that disk healthy? choose another --to",
            )
        os.replace(temporary, target)
    finally:
        temporary.unlink(missing_ok=True)
