"""Weights by name: the one door through which files of weights come in, each verified before it is used.

What is on this machine is used first: a folder that VITRAIL_WEIGHTS names, then the caches of the hub and of torch. A
licence that restricts the use of weights is named before a byte of them is fetched.
"""

import contextlib
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from vitrail.errors import CheckpointError, UsageError, many
from vitrail.recipe import Choice
from vitrail.storage.hashing import hash_file
from vitrail.weights.remote import folder, hub
from vitrail.weights.remote.address import cache_path, obtain_url
from vitrail.weights.remote.answers import WeightsName
from vitrail.weights.remote.hub import NAMES, HubFile, choose_main, find_hub_pin, pins_of
from vitrail.weights.remote.licences import check_licence, describe_licence, is_permissive, licence_of_repo
from vitrail.weights.remote.lock import find_pin, lock_path, read_lock
from vitrail.weights.remote.names import Kind, Reference, parse_name
from vitrail.weights.remote.repository import (
    LocalFile,
    obtain_hub_file,
    obtain_shards,
    obtain_sidecar,
    read_repository,
)
from vitrail.weights.remote.shards import is_index
from vitrail.weights.remote.table import PublishedWeights, find_hash, read_table
from vitrail.weights.sidecars import read_sidecar, reads_texts

ENDINGS = (".safetensors", ".pth", ".pt", ".npz", ".bin", ".ckpt")
OTHER_PARTS = ("optimizer", "scheduler", "training_args", "rng_state", "adapter_model")  # of a trainer, not of a model


@dataclass(frozen=True)
class Located:
    """Weights on this machine. files: the file, or the folder of a run; folder: where its config.json may lie.

    model: by the table, None where the file itself has to say; format: a key of the family's table of names, "auto"
    where it is not known; preprocessing: keys of [input]. reasons: what was taken and why, in lines for the user.
    """

    files: Path
    kind: Kind
    name: str  # as it can be typed again
    folder: Path | None = None
    model: Choice | None = None
    format: str = "auto"
    source: str = ""
    licence: str = ""
    revision: str = ""
    sha256: str = ""
    preprocessing: dict[str, Any] = field(default_factory=dict)
    classes: int | None = None
    reasons: tuple[str, ...] = ()

    @property
    def origin(self) -> dict[str, Any]:
        """What is kept with everything that is made from the weights; no paths of this machine."""
        name = "" if self.kind in ("run", "file", "folder") else self.name
        own = {"name": name, "source": self.source, "licence": self.licence, "revision": self.revision,
               "sha256": self.sha256}  # fmt: skip
        return {key: value for key, value in own.items() if value}


def locate(name: str, accept: str = "", runs: Path = Path("runs")) -> Located:
    """The weights of a name, fetched if they are not here. accept: names of licences that the user accepts, with
    commas.

    Errors: `UsageError` for a name that is none, and for a licence that was not accepted; `CheckpointError` for weights
    that cannot be had, or are not what they should be.
    """
    reference = parse_name(name, runs)
    if reference.kind == "run":
        assert reference.path is not None
        return Located(reference.path, "run", reference.name)
    if reference.path is not None:
        return locate_on_disk(reference)
    if reference.repo:
        got, reference = obtain_from_repo(reference, accept, name)
    else:
        got = obtain_from_address(reference, accept, name)
    return describe(reference, got)


def check_name(name: str, runs: Path = Path("runs")) -> None:
    """Errors: `UsageError`, `CheckpointError` for a name that means nothing; nothing is read or fetched."""
    parse_name(name, runs)


def fetch_to(name: str, accept: str, target: Path | None) -> Located:
    """The weights of a name, copied into a folder of `vitrail fetch` where one is given. Errors: as `locate`, and
    `UsageError` for what is on this machine already."""
    reference = parse_name(name)
    if reference.path is not None:
        raise UsageError(
            f"{name} is on this machine already", "names of published weights are fetched: vitrail weights"
        )
    if reference.repo:
        got, reference = obtain_from_repo(reference, accept, name)
        wanted = HubFile(reference.repo, reference.file, reference.revision)
        place = f"{folder.place_of_repo(reference.repo, reference.revision)}/{reference.file}"
        keys = [*(wanted.beside(part.path.name, got.revision).key for part in got.parts), wanted.key]
    else:
        got, keys = obtain_from_address(reference, accept, name), [reference.url]
        place = folder.place_of_address(reference.url, reference.file, reference.row is not None)
    located = describe(reference, got)
    if target is not None:
        for key, one in zip(keys, (*got.parts, got), strict=True):  # an index comes last: what it names is there then
            beside = Path(place).with_name(one.path.name)
            path = folder.copy_to_folder(target, key, beside, replace(one, licence=located.licence))
        located = replace(located, files=path)
    return located


def locate_on_disk(reference: Reference) -> Located:
    """A file, or a folder as timm or transformers save it, whose weights may be in several files."""
    assert reference.path is not None
    from vitrail.weights.folders import list_files

    path = reference.path
    try:
        files = list_files(path)
        if not files:
            choose_file(sorted(p.name for p in path.iterdir()), str(path), "give the path of one")
        digest = hash_file(files[0]) if len(files) == 1 else ""
    except OSError as error:
        raise CheckpointError(f"{path} cannot be read: {error.strerror or error}", "check its permissions") from None
    row = find_hash(digest) if digest else None
    if row is None:
        reasons = (f"weights = {reference.name}: {reference.why}",) if reference.why else ()
        return Located(path, reference.kind, reference.name, path if path.is_dir() else path.parent, reasons=reasons)
    return replace(describe(replace(reference, row=row), LocalFile(files[0], digest)), files=path, source=row.source)


def obtain_from_repo(reference: Reference, accept: str, typed: str) -> tuple[LocalFile, Reference]:
    """The weights of a repository of the hub; the reference with the file that was chosen in it."""
    row, name = reference.row, name_in_messages(reference, typed)
    file, licence, revision = reference.file, row.licence if row else "", reference.revision
    wanted = HubFile(reference.repo, file or known_file(reference), revision)
    expected = row.sha256 if row and wanted.file == row.file and revision == "main" else ""
    if wanted.file and (got := folder.find_hub_file(wanted, expected)):
        return replace(got, licence=licence or got.licence), replace(reference, file=wanted.file)
    pin = find_hub_pin(wanted) if wanted.file else None
    if row is None and pin is None and not (wanted.file and hub.find_cached(wanted, revision)):
        listed = read_repository(reference.repo, revision, name)
        remedy = f"hf:{reference.repo}/FILE takes one"
        chosen = wanted.file or choose_file(list(listed.files), reference.repo, remedy)
        wanted = replace(wanted, file=chosen)
        licence = licence_of_repo(reference.repo, listed.licence)
        pin = find_hub_pin(wanted)
    licence = licence or (pin.licence if pin else licence_of_repo(reference.repo, ""))
    if not (pin and pin.accepted and pin.licence == licence):
        check_licence(licence, accept, str(name))
    got = obtain_hub_file(wanted, expected, licence, name)
    if is_index(wanted.file):
        got = obtain_shards(wanted, got, name)
    for sidecar in folder.sidecars_of(wanted.file):
        obtain_sidecar(wanted.beside(sidecar, got.revision))
    with contextlib.suppress(CheckpointError):  # a damaged one is reported where it is read
        for file in folder.OF_TEXTS if reads_texts(read_sidecar(got.path.parent, got.path.name)) else ():
            obtain_sidecar(wanted.beside(file, got.revision), folder.LONGEST_TOKENIZER)
    return got, replace(reference, file=wanted.file)


def known_file(reference: Reference) -> str:
    """The file of a repository that was chosen before: in a user's folder, in the lock, or in the cache; else ""."""
    own = folder.weights_folder()
    pins = {**read_lock(lock_path()), **(read_lock(own / folder.NAME) if own else {})}
    if names := list(pins_of(pins, reference.repo, reference.revision)):
        return choose_file(names, reference.repo, f"hf:{reference.repo}/FILE takes one")
    cached = hub.snapshot_files(reference.repo, reference.revision)
    return choose_main(folder.names_by_hand(reference.repo, reference.revision)) or choose_main(cached)


def obtain_from_address(reference: Reference, accept: str, typed: str) -> LocalFile:
    row, url, name = reference.row, reference.url, name_in_messages(reference, typed)
    licence, expected = (row.licence, row.sha256) if row else ("", "")
    if got := folder.find_address(url, reference.file, expected):
        return replace(got, licence=licence or got.licence)
    pin = find_pin(url)
    if not (pin and pin.accepted and pin.licence == licence):
        check_licence(licence, accept, str(name))
    return obtain_url(url, expected, licence, row is not None, name)


def name_in_messages(reference: Reference, typed: str) -> WeightsName:
    source = reference.row.source if reference.row else reference.name
    return WeightsName(typed, source, lambda: cached_names(reference))


def choose_file(names: list[str], where: str, remedy: str) -> str:
    """The file of weights among the names of a folder or a repository. Errors: `CheckpointError`."""
    if main := choose_main(names):
        return main
    own = [n for n in names if n.endswith(ENDINGS) and not n.rpartition("/")[2].startswith(OTHER_PARTS)]
    for candidates in ([n for n in own if n.endswith(ENDINGS[0])], own):
        top = [n for n in candidates if "/" not in n] or candidates
        if len(top) == 1:
            return top[0]
    if own:
        raise CheckpointError(f"{where} has {len(own)} files of weights: {', '.join(own[:4])}", remedy)
    there = f"there are {', '.join(names[:4])}" if names else "it is empty"
    raise CheckpointError(
        f"{where} has no weights: {there}", f"wanted is {NAMES[0]}, {NAMES[3]} or one file of {', '.join(ENDINGS[:4])}"
    )


def cached_names(reference: Reference) -> list[str]:
    """Published weights that are on this machine, of the same family first."""
    family = (reference.row.name if reference.row else "").partition("/")[0]
    here = [row.name for row in read_table() if is_here(row)]
    return sorted(here, key=lambda name: name.partition("/")[0] != family)


def is_here(row: PublishedWeights) -> bool:
    """Whether the file of a row is on this machine. Nothing is asked, and nothing is verified yet."""
    return path_here(row) is not None


def path_here(row: PublishedWeights) -> Path | None:
    """The file of a row in a cache, or in the user's folder."""
    if row.repo:
        cached = hub.find_cached(HubFile(row.repo, row.file), "main")
        path = cached[0] if cached else None
    else:
        path = cache_path(row.url, True)
    return path if path is not None and path.is_file() else folder.find_path(key_of(row), row)


def bytes_of(row: PublishedWeights) -> int:
    """The size of the file of a row, where it is or was on this machine; 0 where that is not known."""
    if path := path_here(row):
        return path.stat().st_size
    pin = find_pin(key_of(row))
    return pin.size if pin else 0


def key_of(row: PublishedWeights) -> str:
    return HubFile(row.repo, row.file).key if row.repo else row.url


def describe(reference: Reference, got: LocalFile) -> Located:
    """What was found, with the reasons in lines for the user."""
    row = reference.row if reference.row and reference.file in ("", reference.row.file) else None
    source = row.source if row else f"hf:{reference.repo}" if reference.repo else reference.url
    licence = got.licence or (row.licence if row else "")
    facts = [source if reference.path is None else "known by its SHA-256"]
    facts += [f"commit {got.revision[:12]}"] if got.revision else []
    facts += [many(len(got.parts), "file")] if got.parts else []
    facts += [f"SHA-256 {got.sha256_of_weights[:16]}", f"licence {describe_licence(licence) or 'not stated'}"]
    facts.append(f"{got.fetched / 1e6:,.1f} MB were fetched" if got.fetched else "it was on this machine")
    reasons = [
        *([f"weights: {reference.why}"] if reference.why else []),
        f"weights = {reference.name}: {'; '.join(facts)}",
    ]
    if not is_permissive(licence):
        reasons.append(f"the licence {licence} holds for whatever is made from these weights")
    if row is None:
        revision = reference.revision if reference.revision != "main" else got.revision
        pinned = replace(reference, revision=revision or "main") if reference.repo else reference
        name = pinned.name
    else:
        name = reference.name
    choice = Choice(row.model, dict(row.keys)) if row else None
    return Located(
        got.path, reference.kind, name, got.path.parent, choice, row.format if row and choice else "auto", source,
        licence, got.revision, got.sha256_of_weights, row.preprocessing if row else {}, row.classes if row else None,
        (*got.notes, *reasons),
    )  # fmt: skip
