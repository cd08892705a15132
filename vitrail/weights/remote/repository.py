"""Files of the hub's repositories: asked for by the hub's protocol, kept in the hub's cache, verified at every use."""

import contextlib
import hashlib
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, NamedTuple

from vitrail.errors import CheckpointError, VitrailError, many
from vitrail.storage.hashing import hash_file
from vitrail.storage.json_text import from_json
from vitrail.weights.remote import hub
from vitrail.weights.remote.answers import WeightsName, explain_hub, offline_error
from vitrail.weights.remote.download import (
    RemoteFile,
    check_size,
    describe_difference,
    disk_errors,
    download,
    locked,
)
from vitrail.weights.remote.hub import COMMIT, SHA256, HubFile, endpoint, hub_server
from vitrail.weights.remote.licences import is_permissive
from vitrail.weights.remote.lock import Pin, lock_path, save_pin
from vitrail.weights.remote.progress import download_bar
from vitrail.weights.remote.shards import join_hashes, read_index
from vitrail.weights.remote.web import StatusError, UnreachedError, ask

LONGEST_SIDECAR = 16 * 2**20  # bytes


@dataclass(frozen=True)
class LocalFile:
    """A file on this machine whose SHA-256 was checked. fetched: bytes that were moved for it; parts: of an index, the
    files that it names."""

    path: Path
    sha256: str
    revision: str = ""
    licence: str = ""
    fetched: int = 0
    notes: tuple[str, ...] = ()
    parts: tuple["LocalFile", ...] = ()

    @property
    def sha256_of_weights(self) -> str:
        """The hash of the weights: of several files that of their names and hashes."""
        return join_hashes({part.path.name: part.sha256 for part in self.parts}) if self.parts else self.sha256

    def with_parts(self, parts: list["LocalFile"]) -> "LocalFile":
        fetched = self.fetched + sum(part.fetched for part in parts)
        notes = dict.fromkeys(note for one in (self, *parts) for note in one.notes)
        return replace(self, parts=tuple(parts), fetched=fetched, notes=tuple(notes))


@dataclass(frozen=True)
class Repository:
    """What the hub says of a repository. files: their sizes, 0 where that is not said."""

    commit: str
    files: dict[str, int] = field(default_factory=dict)
    licence: str = ""


class Stated(NamedTuple):
    """What the hub states of a file."""

    commit: str
    etag: str
    size: int

    @property
    def sha256(self) -> str:
        return self.etag if SHA256.fullmatch(self.etag) else ""


def read_repository(repo: str, revision: str, name: WeightsName) -> Repository:
    """The files and the licence of a repository; one request. Errors: `CheckpointError`."""
    wanted = HubFile(repo, "", revision)
    if hub.is_offline():
        raise offline_error(name)
    where = "" if revision == "main" else f"/revision/{hub.quote(revision, safe='')}"
    try:
        _, body = ask(hub_server(), "GET", f"{endpoint()}/api/models/{repo}{where}?blobs=true")
        about: Any = from_json(body)
        files = {str(one["rfilename"]): int(one.get("size") or 0) for one in about.get("siblings") or []}
        tags = [str(tag) for tag in about.get("tags") or []]
        card = about.get("cardData") or {}
        stated = card.get("license") or next((t[8:] for t in tags if t.startswith("license:")), "")
        if stated == "other" and card.get("license_name"):
            stated = card["license_name"]
        return Repository(str(about.get("sha") or ""), files, str(stated if isinstance(stated, str) else stated[0]))
    except (StatusError, UnreachedError) as error:
        raise explain_hub(error, wanted, name, []) from None
    except (ValueError, TypeError, KeyError, AttributeError, IndexError) as error:
        raise CheckpointError(
            f"{endpoint()} does not answer as the hub does ({' '.join(str(error).split())[:80]})", "check HF_ENDPOINT"
        ) from None


def state_file(wanted: HubFile, revision: str) -> Stated:
    """What the hub states of a file: one request without a body. Errors: `StatusError`, `UnreachedError`,
    `CheckpointError`."""
    headers, _ = ask(hub_server(), "HEAD", wanted.url(revision), follow=False)
    commit, etag = headers.get("x-repo-commit", ""), headers.get("x-linked-etag") or headers.get("etag", "")
    size = headers.get("x-linked-size") or headers.get("content-length", "")
    etag = etag.removeprefix("W/").strip('"')
    if not COMMIT.fullmatch(commit):
        raise CheckpointError(f"{endpoint()} does not answer as the hub does: it names no commit", "check HF_ENDPOINT")
    whole = size.isdecimal() and ("x-linked-size" in headers or "location" not in headers)
    return Stated(commit, etag if etag.isalnum() else "", int(size) if whole else 0)


def obtain_hub_file(wanted: HubFile, expected: str, licence: str, name: WeightsName, index: str = "") -> LocalFile:
    """A file of weights, out of the cache or fetched into it, and pinned. expected: its SHA-256 by the table, or the
    first digits. licence: as it was shown and accepted. index: the file that named it. Errors: `CheckpointError`."""
    pin = hub.find_hub_pin(wanted)
    pinned = pin.sha256 if pin and pin.sha256.startswith(expected) else expected
    revision = pin.revision if pin and pin.revision else wanted.revision
    notes: list[str] = []
    if cached := hub.find_cached(wanted, revision):
        path, commit = cached
        digest, wrong = hub.check_cached(path, pinned)
        if not wrong:
            return pinned_file(wanted, LocalFile(path, digest, commit, licence), pin)
        hub.remove_cached(path)
        notes.append(f"the copy in the cache was damaged and was removed: {wrong}")
        if hub.is_offline():
            raise CheckpointError(
                f"{name.typed}: {notes[0]}", "HF_HUB_OFFLINE forbids to fetch it again: unset it once"
            )
    if hub.is_offline():
        raise offline_error(name)
    try:
        stated = state_file(wanted, revision)
        refuse_replaced(wanted, stated, pinned, name)
        got = fetch_blob(wanted, stated, pinned, name)
    except (StatusError, UnreachedError) as error:
        if index and is_missing(error):
            raise CheckpointError(
                f"{name.before(wanted.repo)}{wanted.repo} has no {wanted.file}, which its {index} names",
                f"the repository is not whole: take another revision (hf:{wanted.repo}@REVISION), or other weights",
            ) from None
        raise explain_hub(error, wanted, name, list_files(wanted, error, name)) from None
    return pinned_file(wanted, LocalFile(*got[:2], stated.commit, licence, got[2], tuple(notes)), pin)


def obtain_shards(wanted: HubFile, got: LocalFile, name: WeightsName) -> LocalFile:
    """The files that an index names, each as `obtain_hub_file` has it, of the commit of the index. wanted, got: the
    index. Errors: `CheckpointError`, before a byte of them is fetched where they do not fit on the disk."""
    index = read_index(got.path)
    parts = [wanted.beside(file, got.revision) for file in index.files]
    cached = (hub.find_cached(part, part.revision) for part in parts)
    missing = index.size - sum(path.stat().st_size for path, _ in filter(None, cached))
    check_size(
        RemoteFile("", f"{name.before(wanted.repo)}{wanted.repo} ({many(len(parts), 'file')})", max(missing, 0)),
        got.path,
    )
    return got.with_parts([obtain_hub_file(part, "", got.licence, name, wanted.file) for part in parts])


def pinned_file(wanted: HubFile, got: LocalFile, pin: Pin | None) -> LocalFile:
    """The file, which is pinned from now on."""
    licence = got.licence or (pin.licence if pin else "")
    new = Pin(got.sha256, got.path.stat().st_size, got.revision, licence, not is_permissive(licence))
    if new != pin:
        save_pin(wanted.key, new)
    return replace(got, licence=licence)


def refuse_replaced(wanted: HubFile, stated: Stated, pinned: str, name: WeightsName) -> None:
    """Errors: `CheckpointError` where the hub has another file than the pinned one; nothing is fetched then."""
    if stated.sha256 and not stated.sha256.startswith(pinned):
        raise CheckpointError(
            f"{name.of_file(wanted.repo, wanted.file)} is another file now: "
            f"SHA-256 {stated.sha256}, pinned {pinned}; not fetched",
            f'if that is meant, remove ["{wanted.key}"] from {lock_path()}, or name one: hf:{wanted.repo}@REVISION',
        )


def fetch_blob(wanted: HubFile, stated: Stated, pinned: str, name: WeightsName) -> tuple[Path, str, int]:
    """The path of a fetched file in its snapshot, its SHA-256 and the bytes that were moved."""
    expected = stated.sha256 if len(stated.sha256) > len(pinned) else pinned
    git_hash = stated.etag if COMMIT.fullmatch(stated.etag) else ""
    label = name.of_file(wanted.repo, wanted.file)
    remote = RemoteFile(wanted.url(stated.commit), label, stated.size, expected, git_hash)
    blob = wanted.folder / "blobs" / (stated.etag or unstated_name(wanted, stated))
    lock = hub.hub_cache() / ".locks" / wanted.folder.name / f"{blob.name}.lock"
    with locked(lock, remote):
        moved = 0
        digest = hash_file(blob) if blob.is_file() else ""
        if not digest or describe_difference(remote, blob, digest):
            blob.unlink(missing_ok=True)
            with download_bar(remote.name, remote.size) as progress:
                digest = download(hub_server(), remote, blob, progress)
            moved = blob.stat().st_size
        with disk_errors(blob, remote):
            return hub.link_snapshot(wanted, stated.commit, blob), digest, moved


def unstated_name(wanted: HubFile, stated: Stated) -> str:
    """The name of a blob whose hash the server does not state: one for each file of a commit."""
    return f"unstated-{hashlib.sha256(f'{stated.commit}/{wanted.file}'.encode()).hexdigest()[:16]}"


def is_missing(error: Exception) -> bool:
    """Whether a repository is there, and lacks the file."""
    return isinstance(error, StatusError) and error.headers.get("x-error-code") == "EntryNotFound"


def list_files(wanted: HubFile, error: Exception, name: WeightsName) -> list[str]:
    """The files of a repository that lacks one; none where it cannot be asked."""
    if not is_missing(error):
        return []
    with contextlib.suppress(VitrailError):
        return list(read_repository(wanted.repo, wanted.revision, name).files)
    return []


def obtain_sidecar(wanted: HubFile, most: int = LONGEST_SIDECAR) -> Path | None:
    """A file of at most so many bytes beside the weights, of the same commit; None where there is none, or it cannot be
    had. It is verified by the hash that git, or the hub, has of it."""
    with contextlib.suppress(OSError):
        if hub.absence_marker(wanted, wanted.revision).exists():
            return None
    if cached := hub.find_cached(wanted, wanted.revision):
        if not hub.check_cached(cached[0], "")[1]:
            return cached[0]
        hub.remove_cached(cached[0])
    if hub.is_offline():
        return None
    try:
        stated = state_file(wanted, wanted.revision)
        return fetch_blob(wanted, stated, "", WeightsName(""))[0] if stated.size <= most else None
    except StatusError as error:
        if error.status == 404:
            with contextlib.suppress(OSError):
                marker = hub.absence_marker(wanted, wanted.revision)
                marker.parent.mkdir(parents=True, exist_ok=True)
                marker.touch()
        return None
    except (UnreachedError, CheckpointError):
        return None
