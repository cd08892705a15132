"""What goes wrong on the way to a file, in a sentence each with its remedy."""

from collections.abc import Callable
from dataclasses import dataclass

from vitrail.errors import CheckpointError, nearest
from vitrail.storage.printable import shell_word
from vitrail.weights.remote.hub import HubFile, endpoint, read_token
from vitrail.weights.remote.table import read_table
from vitrail.weights.remote.web import BUSY, StatusError, UnreachedError


@dataclass(frozen=True)
class WeightsName:
    """A name of weights in messages: as it was typed, and where they come from. list_here: names of weights on this
    machine, which are looked up for a message alone."""

    typed: str
    source: str = ""
    list_here: Callable[[], list[str]] = list

    def __str__(self) -> str:
        return f"{self.typed} ({self.source})" if self.source not in ("", self.typed) else self.typed

    def before(self, repo: str) -> str:
        """What a sentence about a repository begins with, where that is not what was typed."""
        return "" if repo.casefold() in self.typed.casefold() or not self.typed else f"{self.typed}: "

    def of_file(self, repo: str, file: str) -> str:
        """A file in messages that have two hashes, which leave little room."""
        return f"{self.typed}: {file}" if self.before(repo) else f"{repo}/{file}"

    @property
    def how_to_carry(self) -> str:
        fetch = f"vitrail fetch {shell_word(self.typed)} --to FOLDER"
        return f"{fetch} where there is a network, then VITRAIL_WEIGHTS=FOLDER here, brings them"

    def here(self, label: str) -> str:
        names = self.list_here()
        return f"{label} {', '.join(names[:3])}{', ...' if names[3:] else ''}; " if names else ""


def explain_hub(error: Exception, wanted: HubFile, name: WeightsName, files: list[str]) -> CheckpointError:
    """files: those of the repository, where they are known."""
    host = endpoint().partition("://")[2]
    if isinstance(error, UnreachedError):
        return unreached_error(host, str(error), name)
    assert isinstance(error, StatusError)
    code = error.headers.get("x-error-code", "")
    page, own = f"{endpoint()}/{wanted.repo}", f"{name.before(wanted.repo)}{wanted.repo}"
    if code == "GatedRepo" or (error.status == 403 and code != "RepoNotFound"):
        token = "" if read_token() else " and set HF_TOKEN (or: hf auth login)"
        return CheckpointError(
            f"{own} is given to those only who have accepted its terms ({error.status})",
            f"accept them at {page}{token}",
        )
    if code == "RepoNotFound" or (error.status in (401, 404) and code not in ("EntryNotFound", "RevisionNotFound")):
        repos = [row.repo for row in read_table() if row.repo]
        near = nearest(wanted.repo, repos) if wanted.repo not in repos else []
        named = f"did you mean {', '.join(f'hf:{repo}' for repo in near)}?" if near else f"look at {page}"
        token = "" if read_token() else "; a private one needs HF_TOKEN"
        what = f"{name.before(wanted.repo)}there is no repository {wanted.repo} at {host}, or it is private"
        return CheckpointError(what, f"{named}{token}")
    if code == "RevisionNotFound":
        return CheckpointError(
            f"{own} has no revision {wanted.revision}", f"{page}/commits lists them; without @ it is main"
        )
    if error.status == 404:
        near = nearest(wanted.file, files) or files[:3]
        named = f"there are {', '.join(near)}: hf:{wanted.repo}/FILE takes one" if near else f"look at {page}/tree/main"
        return CheckpointError(f"{own} has no {wanted.file}", named)
    return status_error(host, error, str(name))


def explain_url(error: Exception, url: str, name: WeightsName) -> CheckpointError:
    host = url.partition("://")[2].partition("/")[0]
    if isinstance(error, UnreachedError):
        return unreached_error(host, str(error), name)
    assert isinstance(error, StatusError)
    own = name.before(url)
    if error.status in (404, 410):
        return CheckpointError(f"{own}{host} has no file there: {url}", "check the address; does it open in a browser?")
    if error.status in (401, 403):
        return CheckpointError(
            f"{own}{host} does not give {url} to anybody ({error.status})",
            "download it with your account and give its path",
        )
    return status_error(host, error, str(name))


def unreached_error(host: str, why: str, name: WeightsName) -> CheckpointError:
    if why.startswith("the connection broke"):
        return CheckpointError(
            f"{host} does not give {name} whole: {why}", "run it again later: what has arrived is taken up again"
        )
    return CheckpointError(
        f"{host} cannot be reached ({why}), and {name} is not on this machine",
        f"{name.here('on this machine:')}{name.how_to_carry}",
    )


def offline_error(name: WeightsName) -> CheckpointError:
    return CheckpointError(
        f"{name} is not on this machine, and HF_HUB_OFFLINE forbids to fetch it",
        f"{name.here('here are')}unset it once, or: {name.how_to_carry}",
    )


def status_error(host: str, error: StatusError, what: str) -> CheckpointError:
    if error.status in BUSY:
        return CheckpointError(
            f"{host} is busy or broken (answer {error.status}, asked again several times) for {what}",
            "run it again later: what has arrived is taken up again",
        )
    return CheckpointError(f"{host} answers {error.status} for {what}", "try again later, or give the path of a file")
