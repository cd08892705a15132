"""`vitrail push`: publishes the model of a run on the hub, with a card; dry unless told otherwise."""

import os
import tempfile
import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import tyro

from vitrail.cli.syntax.arguments import read
from vitrail.cli.syntax.verb import OfWeights, Verb
from vitrail.errors import CheckpointError, UsageError, many


@dataclass
class Push(OfWeights):
    """Publish the model of a run on the hub. Nothing is sent without --yes: the card and the files are shown.

    vitrail push runs/first hf:me/first
    vitrail push runs/first hf:me/first --licence mit --yes
    """

    run: Annotated[str, tyro.conf.Positional, tyro.conf.arg(metavar="RUN")]
    """A run."""
    repo: Annotated[str, tyro.conf.Positional, tyro.conf.arg(metavar="hf:ORG/REPO")]
    """The repository; it is made if there is none."""
    licence: str = ""
    """The licence of your weights, such as apache-2.0."""
    public: bool = False
    """Make a new repository public (default: private)."""
    yes: bool = False
    """Send it."""


def push(words: list[str]) -> None:
    given, _ = read(VERB, words)
    repo = parse_target(given.repo)
    from vitrail.assembly.load import load_bundle
    from vitrail.assembly.model import describe_bundle
    from vitrail.assembly.run_directory import find_run
    from vitrail.heads.image_text import TextTask
    from vitrail.report.model_card import model_card
    from vitrail.storage.tensors import pack

    run = find_run(given.run)
    bundle, _ = load_bundle(run.path, weights=given.checkpoint)
    licence = choose_licence(given.licence, str(bundle.origin.get("licence", "")))
    kind = "captions" if isinstance(bundle.task, TextTask) else str(bundle.task.output)
    card = model_card(run, repo, licence, kind, bundle.origin)
    content = pack(dict(bundle.model.state_dict()), describe_bundle(bundle))
    print(card)
    classes = f", {many(len(bundle.classes), 'class', 'classes')}" if bundle.classes else ""
    print(f"model.safetensors: {len(content) / 1e6:,.1f} MB{classes}")
    if not licence:
        print("no licence is stated; --licence NAME states that of your weights")
    if not given.yes:
        print(f"nothing was sent; --yes sends the card and the model to {repo}")
        return
    with tempfile.TemporaryDirectory(prefix="vitrail-") as place:
        (Path(place) / "README.md").write_text(card, encoding="utf-8")
        (Path(place) / "model.safetensors").write_bytes(content)
        print(f"published: {send(Path(place), repo, given.public)}")


def parse_target(text: str) -> str:
    """ORG/REPO of hf:ORG/REPO. Errors: `UsageError`."""
    from vitrail.weights.remote.hub import parse_repo

    repo, revision, file = parse_repo(text.removeprefix("hf:"))
    if revision != "main" or file:
        raise UsageError(f"{text} is more than a repository", f"vitrail push RUN hf:{repo}")
    return repo


def choose_licence(own: str, theirs: str) -> str:
    """The licence of the weights: that of those they were made from, where it restricts their use. Errors:
    `UsageError` for another."""
    from vitrail.weights.remote.licences import describe_licence, is_permissive

    if own and not is_permissive(theirs) and own.casefold() != theirs:
        raise UsageError(
            f"the weights of this run began with some under {describe_licence(theirs)}, which holds for them too",
            f"leave --licence out, or: --licence {theirs}",
        )
    return own or theirs


def send(folder: Path, repo: str, public: bool) -> str:
    """Uploads a folder; the address of the repository. Errors: `UsageError`, `CheckpointError`."""
    from vitrail.weights.remote.hub import endpoint, is_offline, read_token

    if is_offline():
        raise UsageError("HF_HUB_OFFLINE forbids to send anything", "unset it for this command")
    token = read_token()
    if not token:
        raise UsageError("publishing needs an access token of the hub", "HF_TOKEN=... vitrail push, or: hf auth login")
    os.environ["HF_HUB_DISABLE_TELEMETRY"] = "1"  # before the import, which reads it
    os.environ.setdefault("HF_HUB_DISABLE_XET", "1")  # plain LFS works with every mirror
    os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")
    try:
        import huggingface_hub
    except ImportError:
        raise UsageError("publishing needs the library huggingface_hub", "pip install 'vitrail[hub]'") from None
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", DeprecationWarning)  # the library's own, of the way it sends files
            api: Any = huggingface_hub.HfApi(endpoint=endpoint(), token=token, library_name="vitrail")
            api.create_repo(repo, private=not public, exist_ok=True)
            api.upload_folder(repo_id=repo, folder_path=folder, commit_message="Model and card, by vitrail push")
    except Exception as error:  # the library has many kinds, and none of them is a mistake of ours
        cause: BaseException = error
        while cause.__cause__ is not None:
            cause = cause.__cause__
        first = (str(cause).splitlines() or [type(cause).__name__])[0][:200]
        raise CheckpointError(
            f"{repo} could not be published at {endpoint()}: {first}",
            "is that address reached from here, and may your token write there? what was sent can be sent again",
        ) from None
    return f"{endpoint()}/{repo}"


VERB = Verb("push", Push, push)
