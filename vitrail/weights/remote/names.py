"""What a typed name of weights means: ours, the hub's, timm's, torchvision's, an address, a path or a run.

Nothing is asked here but the disk: a name that is no path and not known is never sent to anybody, unless its prefix
says where it belongs.
"""

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from vitrail import catalog
from vitrail.errors import CheckpointError, UsageError, nearest
from vitrail.foreign_names import translate
from vitrail.storage.printable import shell_word
from vitrail.validation import as_path
from vitrail.weights.remote.address import check_url, file_name
from vitrail.weights.remote.hub import NAME, parse_repo
from vitrail.weights.remote.table import (
    TIMM,
    PublishedWeights,
    find_repo,
    find_row,
    find_torchvision,
    find_url,
    known_names,
    read_table,
)

Kind = Literal["run", "file", "folder", "hub", "url", "torchvision", "published"]
PREFIXES = ("hf:", "timm:", "torchvision:", "https:", "http:")
OTHERS = {  # what other tools write before a name: what stands here
    "hf-hub:": "hf:", "hf_hub:": "hf:", "huggingface:": "hf:", "hf://": "hf:", "local-dir:": "", "file://": "",
    "tv:": "torchvision:",
}  # fmt: skip
CALLED = {
    "sam": "samvit",
    "segment-anything": "samvit",
    "siglip2": "siglip",
    "openclip": "clip",
    "eva02": "eva/02",
    "swinv2": "swin_v2",
    "pvtv2": "pvt_v2",
    "tinyvit": "tiny_vit",
}  # by others: our family
PAGE = re.compile(
    r"https://(?:huggingface\.co|hf\.co)/(?P<repo>[\w.-]+/[\w.-]+)"
    r"(?:/(?:resolve|blob|tree|raw)/(?P<rest>[^?#]+))?/?(?:[?#].*)?"
)


@dataclass(frozen=True)
class Reference:
    """Where weights are. why: how the name was understood, in a phrase; "" where it says so itself."""

    kind: Kind
    why: str = ""
    path: Path | None = None
    repo: str = ""
    revision: str = "main"
    file: str = ""
    url: str = ""
    row: PublishedWeights | None = None

    @property
    def name(self) -> str:
        """As it can be typed again, and means the same."""
        if self.path is not None:
            return self.path.absolute().as_posix()
        if self.kind == "published" and self.row is not None:
            return self.row.name
        if self.row is not None and self.row.torchvision:
            return self.row.source
        at = "" if self.revision == "main" else f"@{self.revision}"
        end = "" if not self.file or (self.row and self.file == self.row.file) else f"/{self.file}"
        return f"hf:{self.repo}{at}{end}" if self.repo else self.url


def parse_name(text: str, runs: Path = Path("runs")) -> Reference:
    """The weights that a name means. Errors: `UsageError`, `CheckpointError` with the nearest names."""
    start = next((own for own in OTHERS if text.lower().startswith(own)), "")
    if start:
        return parse_name(OTHERS[start] + text[len(start) :].lstrip("/" if OTHERS[start] else ""), runs)
    lower = text.lower()
    if lower.startswith("hf:"):
        return hub_reference(text[3:].strip("/"), "")
    if lower.startswith("timm:"):
        return timm_reference(text[5:].removeprefix(TIMM))
    if lower.startswith("torchvision:"):
        return torchvision_reference(text[12:])
    if lower.startswith(("https://", "http://")):
        return url_reference(text)
    return find_path(text, runs) or find_known(text) or refuse(text, runs)


def find_path(text: str, runs: Path) -> Reference | None:
    """What lies on the disk by that name; a run of runs/ too."""
    path = as_path(text)
    also = f"{text} of this folder; the published weights of that name are hf: or timm:" if find_row(text) else ""
    if path.is_file():
        return Reference("file", also, path)
    if path.is_dir():
        return Reference("run" if is_run(path) else "folder", also, path)
    if is_run(runs / path) or (runs / path / "model.safetensors").is_file():
        return Reference("run", "", runs / path)
    return None


def is_run(path: Path) -> bool:
    """Whether a folder is that of a run or in one, or has a model or a checkpoint of ours."""
    if not path.is_dir():
        return False
    if (path / "manifest.json").is_file() or (path / "state.json").is_file():
        return True
    above = [] if (path / "config.json").is_file() else list(path.absolute().parents)[:2]
    return any((p / "recipe.toml").is_file() and (p / "run.json").is_file() for p in (path, *above))


def find_known(text: str) -> Reference | None:
    """Short names, and names of other libraries as they stand where only one thing can be meant."""
    if row := find_row(text):
        why = "" if row.name == text else f"{text} stands for {row.name}, the recommended one"
        return Reference("published", why, repo=row.repo, file=row.file, url=row.url, row=row)
    match = NAME.fullmatch(text)
    repo = match["repo"] if match else ""
    if repo and find_repo(repo):
        return hub_reference(text, f"{text} is a repository of the hub")
    organisation, _, model = repo.partition("/")
    is_path = organisation in catalog.list_modules("models") or Path(organisation).exists()  # misspelt
    if repo and not is_path and translate(model, catalog.list_names("models")):
        return hub_reference(text, f"{text} is the name of a repository of the hub")
    if "/" in text:
        return None
    timm = [r for r in read_table() if r.repo.startswith(TIMM) and text.lower() in timm_spellings(r.repo)]
    others = find_torchvision(text)
    if len(timm) == 1 and not others:
        return timm_reference(timm[0].repo.removeprefix(TIMM), f"{text} is a name of timm's")
    if others and not timm and (len(others) == 1 or "." not in text):
        return torchvision_reference(text, f"{text} is a name of torchvision's")
    return None


def timm_spellings(repo: str) -> tuple[str, str]:
    """A name of timm's with its tag, and without."""
    name = repo.removeprefix(TIMM).lower()
    return name, name.partition(".")[0]


def hub_reference(text: str, why: str) -> Reference:
    repo, revision, file = parse_repo(text)
    row = find_repo(repo, file)
    return Reference(
        "hub", why, repo=row.repo if row else repo, revision=revision, file=file or (row.file if row else ""), row=row
    )


def timm_reference(text: str, why: str = "") -> Reference:
    """timm:NAME.TAG is the repository timm/NAME.TAG. Errors: `UsageError` for a name with several tags."""
    name, _, revision = text.partition("@")
    if not re.fullmatch(r"[\w-]+(\.[\w.-]+)?", name):
        raise UsageError(
            f"{text[:120]!r} is no name of timm's", "timm:NAME.TAG, such as timm:vit_small_patch16_224.dino"
        )
    if "." not in name:
        rows = [r for r in read_table() if r.repo.startswith(TIMM) and timm_spellings(r.repo)[1] == name.lower()]
        if len(rows) != 1:
            tags = [r.source for r in rows[:4]] or [f"timm:{n}" for n in nearest(name, timm_names())]
            known = f"did you mean {', '.join(tags)}?" if tags else "timm:NAME.TAG; vitrail weights lists what is known"
            raise UsageError(
                f"timm has several weights of {name}, by tags" if rows else f"timm:{name} has no tag", known
            )
        name = rows[0].repo.removeprefix(TIMM)
        why = why or f"the only tag of timm:{text} in the table"
    row = find_repo(f"{TIMM}{name}")
    file = row.file if row else ""
    return Reference(
        "hub", why, repo=row.repo if row else f"{TIMM}{name}", revision=revision or "main", file=file, row=row
    )


def timm_names() -> list[str]:
    return [row.repo.removeprefix(TIMM) for row in read_table() if row.repo.startswith(TIMM)]


def torchvision_reference(text: str, why: str = "") -> Reference:
    """torchvision:vit_b_16 is its newest weights that anybody may use, with .IMAGENET1K_V1 it is that one."""
    rows = find_torchvision(text)
    if not rows:
        known = list(
            dict.fromkeys(
                n
                for row in read_table()
                if row.torchvision
                for n in (row.torchvision.partition(".")[0], row.torchvision)
            )
        )
        near = [f"torchvision:{name}" for name in nearest(text, known)] or [f"torchvision:{name}" for name in known[:3]]
        raise UsageError(f"no weights torchvision:{text} are known", f"did you mean {', '.join(near)}?")
    row = max((r for r in rows if not r.licence), key=lambda r: r.torchvision, default=rows[0])
    if len(rows) > 1:
        why = "; ".join(
            p for p in (why, f"{row.torchvision} of {', '.join(r.torchvision.partition('.')[2] for r in rows)}") if p
        )
    return Reference("torchvision", why, file=row.file, url=row.url, row=row)


def url_reference(text: str) -> Reference:
    """An address; a page of the hub is its repository."""
    if match := PAGE.fullmatch(text):
        revision, _, file = (match["rest"] or "").strip("/").partition("/")
        at = f"@{revision}" if revision and revision != "main" else ""
        return hub_reference(
            f"{match['repo']}{at}{f'/{file}' if file else ''}", f"the page of {match['repo']} on the hub"
        )
    check_url(text)
    row = find_url(text)
    return Reference("url", "", file=file_name(text), url=text, row=row)


def refuse(text: str, runs: Path) -> Reference:
    """Errors: `CheckpointError` always, with the nearest three of everything that is known."""
    model = text.partition(":")[0]
    here = sorted(p.parent.name for p in runs.glob("*/recipe.toml"))
    near = names_like(text, [*here, *timm_names()])
    what = f"there is no run {text}, no file or folder, and no published weights of that name"
    family = model.partition("/")[0]
    is_ours = family in catalog.list_modules("models")
    if near:
        suggestion = f"did you mean {', '.join(shell_word(n) for n in near)}?"
    elif is_ours:
        suggestion = f"of {family} none are known by name; hf:ORG/REPO takes a repository of the hub"
    elif here:
        suggestion = f"runs here: {', '.join(here[-4:])}"
    else:
        suggestion = "vitrail weights lists what is known"
    if NAME.fullmatch(text) and "/" in text and not is_ours:
        suggestion += f"; a repository of the hub is hf:{text}"
    raise CheckpointError(what, suggestion)


def names_like(text: str, others: list[str]) -> list[str]:
    """The names, at most three, that a text most likely means. others: that are not of the table."""
    model, _, tag = text.partition(":")
    table = read_table()
    if moved := names_in_family(tag, model.partition("/")[2]):
        return moved
    rows = [row.name for row in table if row.model == model]
    if tag and rows:
        return rows[:3]
    family = model.lower().partition("/")[0]
    same = [row.model for row in table if row.recommended and row.model.partition("/")[0] == family]
    if same or family in catalog.list_modules("models"):
        return same[:3] if "/" not in model else nearest(model, same) or same[:3]
    theirs = [row.source for row in find_torchvision(text)] + [
        f"timm:{name}" for name in timm_names() if text.lower() == name.partition(".")[0].lower()
    ]
    tagged = [row.name for row in table if text and row.name.partition(":")[2].startswith(text.lower())]
    return (theirs or tagged)[:3] or names_in_family(text, "") or nearest(text, [*known_names(), *others])[:3]


def names_in_family(text: str, variant: str) -> list[str]:
    """The weights of the family that a text begins with, nearest to a variant: what papers call "DINOv3, small" is
    `dinov3/small` here and not `vit/small:dinov3`."""
    wanted = text.lower()
    wanted = next((own + wanted[len(other) :] for other, own in CALLED.items() if wanted.startswith(other)), wanted)
    models = [row.model for row in read_table() if row.recommended]
    family = max((f for f in {m.partition("/")[0] for m in models} if wanted.startswith(f)), key=len, default="")
    rest = re.sub(r"[\W_]+", "_", wanted[len(family) :]).strip("_")
    own = [model for model in models if family and model.startswith(f"{family}/")]
    return nearest(f"{family}/{'_'.join(filter(None, (variant, rest)))}", own) if variant else own[:3]
