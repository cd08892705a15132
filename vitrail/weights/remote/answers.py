"""What goes wrong on the way to a file, in a sentence each with its remedy."""

from vitrail.errors import CheckpointError, nearest
from vitrail.weights.remote.hub import HubFile, endpoint, read_token
from vitrail.weights.remote.table import read_table
from vitrail.weights.remote.web import BUSY, StatusError, UnreachedError

CARRY = "vitrail fetch {name} --to FOLDER where there is a network, then VITRAIL_WEIGHTS=FOLDER here, brings them"


def explain_hub(error: Exception, wanted: HubFile, here: list[str], files: list[str]) -> CheckpointError:
    """here: names of weights on this machine; files: those of the repository, where they are known."""
    host = endpoint().partition("://")[2]
    if isinstance(error, UnreachedError):
        return unreached_error(host, str(error), f"hf:{wanted.repo}", here)
    assert isinstance(error, StatusError)
    code = error.headers.get("x-error-code", "")
    page = f"{endpoint()}/{wanted.repo}"
    if code == "GatedRepo" or (error.status == 403 and code != "RepoNotFound"):
        token = "" if read_token() else " and set HF_TOKEN (or: hf auth login)"
        return CheckpointError(
            f"{wanted.repo} is given to those only who have accepted its terms ({error.status})",
            f"accept them at {page}{token}",
        )
    if code == "RepoNotFound" or (error.status in (401, 404) and code not in ("EntryNotFound", "RevisionNotFound")):
        near = nearest(wanted.repo, [row.repo for row in read_table() if row.repo])
        named = f"did you mean {', '.join(f'hf:{repo}' for repo in near)}?" if near else f"look at {page}"
        token = "" if read_token() else "; a private one needs HF_TOKEN"
        return CheckpointError(f"there is no repository {wanted.repo} at {host}, or it is private", f"{named}{token}")
    if code == "RevisionNotFound":
        return CheckpointError(
            f"{wanted.repo} has no revision {wanted.revision}", f"{page}/commits lists them; without @ it is main"
        )
    if error.status == 404:
        near = nearest(wanted.file, files) or files[:3]
        named = f"there are {', '.join(near)}: hf:{wanted.repo}/FILE takes one" if near else f"look at {page}/tree/main"
        return CheckpointError(f"{wanted.repo} has no {wanted.file}", named)
    return status_error(host, error, wanted.repo)


def explain_url(error: Exception, url: str, here: list[str]) -> CheckpointError:
    host = url.partition("://")[2].partition("/")[0]
    if isinstance(error, UnreachedError):
        return unreached_error(host, str(error), url, here)
    assert isinstance(error, StatusError)
    if error.status in (404, 410):
        return CheckpointError(f"{host} has no file there: {url}", "check the address; does it open in a browser?")
    if error.status in (401, 403):
        return CheckpointError(
            f"{host} does not give {url} to anybody ({error.status})", "download it with your account and give its path"
        )
    return status_error(host, error, url)


def unreached_error(host: str, why: str, what: str, here: list[str]) -> CheckpointError:
    if why.startswith("the connection broke"):
        return CheckpointError(
            f"{host} does not give {what} whole: {why}", "run it again later: what has arrived is taken up again"
        )
    cached = f"on this machine: {', '.join(here[:3])}{', ...' if here[3:] else ''}; " if here else ""
    return CheckpointError(
        f"{host} cannot be reached ({why}), and {what} is not on this machine", f"{cached}{CARRY.format(name=what)}"
    )


def offline_error(what: str, here: list[str]) -> CheckpointError:
    cached = f"here are {', '.join(here[:3])}{', ...' if here[3:] else ''}; " if here else ""
    return CheckpointError(
        f"{what} is not on this machine, and HF_HUB_OFFLINE forbids to fetch it",
        f"{cached}unset it once, or: {CARRY.format(name=what)}",
    )


def status_error(host: str, error: StatusError, what: str) -> CheckpointError:
    if error.status in BUSY:
        return CheckpointError(
            f"{host} is busy or broken (answer {error.status}, asked again several times) for {what}",
            "run it again later: what has arrived is taken up again",
        )
    return CheckpointError(f"{host} answers {error.status} for {what}", "try again later, or give the path of a file")
