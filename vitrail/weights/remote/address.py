"""Files at addresses of the web: those of torchvision, and what else a person types."""

import hashlib
import os
import re
from pathlib import Path
from urllib.parse import unquote, urlsplit

from vitrail.errors import CheckpointError, UsageError
from vitrail.storage.hashing import hash_file
from vitrail.weights.remote import hub
from vitrail.weights.remote.answers import WeightsName, explain_url, offline_error
from vitrail.weights.remote.download import RemoteFile, download, locked
from vitrail.weights.remote.lock import Pin, find_pin, own_folder, save_pin
from vitrail.weights.remote.progress import download_bar
from vitrail.weights.remote.repository import LocalFile
from vitrail.weights.remote.web import Server, StatusError, UnreachedError, ask, is_loopback

ENDINGS = (".safetensors", ".npz", ".pth", ".pt", ".bin", ".ckpt", ".th")
NAMED_BY_HASH = ("download.pytorch.org", "dl.fbaipublicfiles.com", "download.openmmlab.com")  # the end of a name
HASH = re.compile(r"-([0-9a-f]{8})\.\w+$")


def check_url(url: str) -> None:
    """Errors: `UsageError` for an address that is no file of weights, or is not https."""
    parts = urlsplit(url)
    name = file_name(url)
    if parts.scheme.lower() != "https" and not is_loopback(url):
        raise UsageError(f"{url} is not https: on its way anybody could change it", f"https{url[url.find(':') :]}")
    if not name.lower().endswith(ENDINGS):
        raise UsageError(
            f"{url} is not the address of a file of weights", f"the name at its end has to be {', '.join(ENDINGS)}"
        )


def file_name(url: str) -> str:
    """The name of the file at an address, without folders.

    >>> file_name("https://example.org/models/vit%20b.pth?download=1")
    'vit b.pth'
    """
    name = unquote(urlsplit(url).path).rpartition("/")[2]
    return re.sub(r'[\\:*?"<>|\x00-\x1f]', "_", name)


def torch_folder() -> Path:
    """Where torch.hub keeps files, and with it torchvision and timm."""
    cache = os.environ.get("XDG_CACHE_HOME") or "~/.cache"
    return Path(os.environ.get("TORCH_HOME") or f"{cache}/torch").expanduser() / "hub" / "checkpoints"


def hash_in_name(url: str) -> str:
    """The first digits of a file's SHA-256, where its server writes them into the name; else ""."""
    match = HASH.search(file_name(url))
    return match[1] if match and urlsplit(url).hostname in NAMED_BY_HASH else ""


def cache_path(url: str, in_table: bool) -> Path:
    """Files of the table and those named by their hash lie where torch.hub has them. The names of others are not
    distinct enough, so each lies in a folder of its own."""
    if in_table or hash_in_name(url):
        return torch_folder() / file_name(url)
    folder = hashlib.sha256(url.encode(errors="surrogateescape")).hexdigest()[:16]
    return own_folder() / "files" / folder / file_name(url)


def obtain_url(url: str, expected: str, licence: str, in_table: bool, name: WeightsName) -> LocalFile:
    """The file at an address, out of the cache or fetched into it, and pinned. Errors: `CheckpointError`."""
    pin, path = find_pin(url), cache_path(url, in_table)
    expected = expected or hash_in_name(url)
    pinned = pin.sha256 if pin and pin.sha256.startswith(expected) else expected
    notes: list[str] = []
    if path.is_file():
        digest = hash_file(path)
        if digest.startswith(pinned):
            return pinned_file(url, LocalFile(path, digest, "", licence), pin)
        path.unlink()
        notes.append(f"the copy in the cache was damaged and was removed: its SHA-256 is {digest}, expected {pinned}")
        if hub.is_offline():
            raise CheckpointError(
                f"{name.typed}: {notes[0]}", "HF_HUB_OFFLINE forbids to fetch it again: unset it once"
            )
    if hub.is_offline():
        raise offline_error(name)
    digest, moved = fetch(url, pinned, path, name)
    return pinned_file(url, LocalFile(path, digest, "", licence, moved, tuple(notes)), pin)


def fetch(url: str, pinned: str, path: Path, name: WeightsName) -> tuple[str, int]:
    """The SHA-256 of the fetched file, and the bytes that were moved."""
    server, label = Server(url), f"{name.before(url)}{file_name(url)}"
    try:
        with locked(path.with_name(f".{path.name}.lock"), RemoteFile(url, label)):
            if path.is_file() and pinned and (digest := hash_file(path)).startswith(pinned):
                return digest, 0  # another process fetched it meanwhile
            remote = RemoteFile(url, label, size_at(server, url), pinned)
            with download_bar(label, remote.size) as progress:
                return download(server, remote, path, progress), path.stat().st_size
    except (StatusError, UnreachedError) as error:
        raise explain_url(error, url, name) from None


def size_at(server: Server, url: str) -> int:
    """Bytes of a file; 0 where the server does not say, as those that answer no HEAD."""
    try:
        length = ask(server, "HEAD", url)[0].get("content-length", "")
    except StatusError as error:
        if error.status in (403, 405, 501):
            return 0
        raise
    return int(length) if length.isdecimal() else 0


def pinned_file(url: str, got: LocalFile, pin: Pin | None) -> LocalFile:
    from vitrail.weights.remote.licences import is_permissive

    new = Pin(got.sha256, got.path.stat().st_size, "", got.licence, not is_permissive(got.licence))
    if new != pin:
        save_pin(url, new)
    return got
