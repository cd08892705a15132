"""The hub on this machine: its settings in the environment, and its cache, which timm and transformers share.

models--ORG--NAME/refs/main          the commit that a branch or tag was
                 /snapshots/COMMIT/  links to blobs, by the names of files
                 /blobs/HASH         the files; HASH is the SHA-256 of large ones, git's SHA-1 of small ones
                 /.no_exist/COMMIT/  files that a commit is known not to have
"""

import contextlib
import os
import re
import shutil
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import quote

from vitrail.errors import UsageError
from vitrail.storage.hashing import hash_file
from vitrail.weights.remote.download import git_hash_of
from vitrail.weights.remote.lock import Pin, lock_path, read_lock
from vitrail.weights.remote.shards import INDEX, is_index
from vitrail.weights.remote.web import Server

TRUE = ("1", "on", "yes", "true")
COMMIT = re.compile(r"[0-9a-f]{40}")
SHA256 = re.compile(r"[0-9a-f]{64}")
NAMES = (  # files of weights in a repository or a folder, best first
    "model.safetensors", "diffusion_pytorch_model.safetensors", "open_clip_model.safetensors", "pytorch_model.bin",
    "diffusion_pytorch_model.bin", "open_clip_pytorch_model.bin",
)  # fmt: skip
NAME = re.compile(
    r"(?P<repo>[A-Za-z0-9][\w.-]*/[\w.-]+)(?:@(?P<revision>refs/pr/\d+|[^/\s@]+))?(?:/(?P<file>[^\s@]+))?"
)


@dataclass(frozen=True)
class HubFile:
    """A file of a repository. revision: a branch, a tag or a commit."""

    repo: str
    file: str
    revision: str = "main"

    @property
    def key(self) -> str:
        """Its name in weights.lock."""
        return f"hf:{self.repo}{'' if self.revision == 'main' else f'@{self.revision}'}/{self.file}"

    @property
    def folder(self) -> Path:
        return repo_folder(self.repo)

    def beside(self, name: str, commit: str) -> "HubFile":
        """A file in the same folder of the repository, as it was in a commit."""
        above, slash, _ = self.file.rpartition("/")
        return HubFile(self.repo, f"{above}{slash}{name}", commit or self.revision)

    def url(self, revision: str) -> str:
        return f"{endpoint()}/{self.repo}/resolve/{quote(revision, safe='')}/{quote(self.file)}"


def parse_repo(text: str) -> tuple[str, str, str]:
    """Repository, revision and file of ORG/REPO[@REV][/FILE]. Errors: `UsageError`."""
    match = NAME.fullmatch(text)
    if not match or ".." in text or "\\" in text or "%" in text:
        raise UsageError(
            f"{text[:120]!r} is no repository of the hub", "hf:ORG/REPO, hf:ORG/REPO@REVISION or hf:ORG/REPO/FILE"
        )
    return match["repo"], match["revision"] or "main", match["file"] or ""


def choose_main(names: Iterable[str]) -> str:
    """The file of weights, or their index, by its usual name among the names of files; else the only index that is
    there; "" where neither is."""
    known = set(names)
    usual = next((n for name in NAMES for n in (name, name + INDEX) if n in known), "")
    indices = [n for n in known if is_index(n) and "/" not in n]
    return usual or (indices[0] if len(indices) == 1 else "")


def pins_of(pins: Mapping[str, Pin], repo: str, revision: str) -> dict[str, Pin]:
    """The pins of a repository's files at a revision, by file. A commit has those too that were pinned by the name of a
    branch when it was that commit."""
    found: dict[str, Pin] = {}
    for key, pin in pins.items():
        match = NAME.fullmatch(key.removeprefix("hf:")) if key.startswith(f"hf:{repo}") else None
        if match and match["repo"] == repo and match["file"]:
            if (match["revision"] or "main") == revision:
                found[match["file"]] = pin
            elif pin.revision == revision:
                found.setdefault(match["file"], pin)
    return found


def find_hub_pin(wanted: HubFile) -> Pin | None:
    pins = read_lock(lock_path())
    return pins.get(wanted.key) or pins_of(pins, wanted.repo, wanted.revision).get(wanted.file)


def endpoint() -> str:
    """The address of the hub or of its mirror. Errors: `UsageError` for a HF_ENDPOINT that is none."""
    text = (os.environ.get("HF_ENDPOINT") or "https://huggingface.co").rstrip("/")
    if not text.startswith(("https://", "http://")):
        raise UsageError(f"HF_ENDPOINT is {text!r}, which is no address", f"HF_ENDPOINT=https://{text}")
    return text


def hub_server() -> Server:
    return Server(endpoint(), read_token(), is_hub=True)


def is_offline() -> bool:
    """Whether the user has forbidden requests."""
    return any(os.environ.get(k, "").lower() in TRUE for k in ("HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE"))


def hub_home() -> Path:
    cache = os.environ.get("XDG_CACHE_HOME") or "~/.cache"
    return Path(os.environ.get("HF_HOME") or f"{cache}/huggingface").expanduser()


def hub_cache() -> Path:
    own = os.environ.get("HF_HUB_CACHE") or os.environ.get("HUGGINGFACE_HUB_CACHE")
    return Path(own).expanduser() if own else hub_home() / "hub"


def read_token() -> str:
    """The user's access token: of the environment, else as `hf auth login` keeps it."""
    for name in ("HF_TOKEN", "HUGGING_FACE_HUB_TOKEN"):
        if token := os.environ.get(name, "").strip():
            return token
    if os.environ.get("HF_HUB_DISABLE_IMPLICIT_TOKEN", "").lower() in TRUE:
        return ""
    path = Path(os.environ.get("HF_TOKEN_PATH") or hub_home() / "token").expanduser()
    with contextlib.suppress(OSError, UnicodeDecodeError):
        return path.read_text(encoding="utf-8").strip()
    return ""


def repo_folder(repo: str) -> Path:
    return hub_cache() / f"models--{repo.replace('/', '--')}"


def cached_commit(repo: str, revision: str) -> str:
    """The commit that a revision was when it was last asked for; "" where it never was."""
    if COMMIT.fullmatch(revision):
        return revision
    with contextlib.suppress(OSError, UnicodeDecodeError):
        commit = (repo_folder(repo) / "refs" / revision).read_text(encoding="utf-8").strip()
        return commit if COMMIT.fullmatch(commit) else ""
    return ""


def find_cached(wanted: HubFile, revision: str) -> tuple[Path, str] | None:
    """The file in the cache and its commit; None where it is not there."""
    commit = cached_commit(wanted.repo, revision)
    path = wanted.folder / "snapshots" / commit / wanted.file
    return (path, commit) if commit and path.is_file() else None


def stated_hash(path: Path) -> tuple[str, str]:
    """What the hub stated of a cached file, out of the name of its blob: its SHA-256, or git's SHA-1, or neither."""
    name = path.resolve().name if path.is_symlink() else ""
    return (name, "") if SHA256.fullmatch(name) else ("", name) if COMMIT.fullmatch(name) else ("", "")


def check_cached(path: Path, pinned: str) -> tuple[str, str]:
    """The SHA-256 of a cached file, and what is wrong with it: "" where it is as pinned, else as the hub stated it."""
    digest = hash_file(path)
    sha256, git_hash = stated_hash(path)
    if not digest.startswith(pinned or sha256):
        return digest, f"its SHA-256 is {digest}, expected {pinned or sha256}"
    if git_hash and not pinned and (own := git_hash_of(path)) != git_hash:
        return digest, f"its hash in git is {own}, expected {git_hash}"
    return digest, ""


def remove_cached(path: Path) -> None:
    """Removes a file from the cache, with its blob."""
    for one in {path.resolve(), path}:
        one.unlink(missing_ok=True)


def link_snapshot(wanted: HubFile, commit: str, blob: Path) -> Path:
    """Gives a blob its name in the snapshot of a commit, as huggingface_hub does; where a disk has no links the file
    itself goes there."""
    path = wanted.folder / "snapshots" / commit / wanted.file
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.is_symlink() or path.exists():
        path.unlink()
    try:
        path.symlink_to(os.path.relpath(blob, path.parent))
    except (OSError, NotImplementedError):
        shutil.move(blob, path)
    if not COMMIT.fullmatch(wanted.revision):
        ref = wanted.folder / "refs" / wanted.revision
        ref.parent.mkdir(parents=True, exist_ok=True)
        ref.write_text(commit, encoding="utf-8")
    return path


def absence_marker(wanted: HubFile, commit: str) -> Path:
    return wanted.folder / ".no_exist" / commit / wanted.file


def snapshot_files(repo: str, revision: str) -> list[str]:
    """The names of the cached files of a revision."""
    folder = repo_folder(repo) / "snapshots" / (cached_commit(repo, revision) or "none")
    return sorted(p.relative_to(folder).as_posix() for p in folder.rglob("*") if p.is_file())
