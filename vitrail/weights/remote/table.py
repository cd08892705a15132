"""The table of published weights, by short name: `vit/small:augreg-in21k-1k`, and `vit/small` for the recommended
one.

The data is `published.toml` beside this file, where its columns are explained. Reading it imports nothing heavy and
asks nobody.
"""

import tomllib
from collections.abc import Iterable
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import Any

TIMM = "timm/"  # the hub's organisation of timm's repositories


@dataclass(frozen=True)
class PublishedWeights:
    """A row of the table. size: (height, width) in pixels; sha256: the first digits of the file's, or all of them."""

    name: str
    format: str
    file: str
    licence: str
    training: str
    classes: int
    size: tuple[int, int]
    mean: tuple[float, ...]
    std: tuple[float, ...]
    crop_ratio: float
    interpolation: str
    resize_mode: str = "crop"
    keys: dict[str, Any] = field(default_factory=dict)
    repo: str = ""
    url: str = ""
    torchvision: str = ""
    sha256: str = ""
    parameters: int = 0  # 0: not known before the file is read
    top1: float | None = None
    recommended: bool = False
    verified: bool = True

    @property
    def model(self) -> str:
        """The name of its model, such as vit/small."""
        return self.name.partition(":")[0]

    @property
    def source(self) -> str:
        """Where it comes from, as it can be typed as well."""
        if self.repo.startswith(TIMM):
            return f"timm:{self.repo.removeprefix(TIMM)}"
        return f"hf:{self.repo}" if self.repo else f"torchvision:{self.torchvision}" if self.torchvision else self.url

    @property
    def preprocessing(self) -> dict[str, Any]:
        """The keys of [input] that belong to the weights."""
        return {
            "mean": self.mean, "std": self.std, "resize_mode": self.resize_mode, "crop_ratio": self.crop_ratio,
            "interpolation": self.interpolation,
        }  # fmt: skip


@lru_cache(maxsize=1)
def read_table() -> tuple[PublishedWeights, ...]:
    """Every row, those of a model together, its recommended one first."""
    tables = tomllib.loads((Path(__file__).parents[1] / "published.toml").read_text(encoding="utf-8"))
    return tuple(parse_row(name, row, tables["norms"]) for name, row in tables["weights"].items())


def parse_row(name: str, row: dict[str, Any], norms: dict[str, dict[str, list[float]]]) -> PublishedWeights:
    norm = norms[row["norm"]]
    rest = {key: value for key, value in row.items() if key not in ("norm", "size")}
    height, width = row["size"]
    return PublishedWeights(name, size=(height, width), mean=tuple(norm["mean"]), std=tuple(norm["std"]), **rest)


def rows_of(family: str) -> list[PublishedWeights]:
    """The rows of a family or of one model, or the one of its whole name; of an empty name all."""
    return [row for row in read_table() if not family or family in (row.name, row.model, row.model.partition("/")[0])]


def find_row(name: str) -> PublishedWeights | None:
    """The row of a short name, or the recommended one of a model; None where there is none."""
    return next((row for row in read_table() if row.name == name or (row.recommended and row.model == name)), None)


def find_repo(repo: str, file: str = "") -> PublishedWeights | None:
    """The row of a repository of the hub, which is spelt in any case."""
    wanted = repo.casefold()
    return next((r for r in read_table() if r.repo.casefold() == wanted and file in ("", r.file)), None)


def find_url(url: str) -> PublishedWeights | None:
    return next((row for row in read_table() if row.url == url), None)


def find_hash(sha256: str) -> PublishedWeights | None:
    """The row whose file has this hash, where its first digits are known."""
    return next((row for row in read_table() if row.sha256 and sha256.startswith(row.sha256)), None)


def find_torchvision(name: str) -> list[PublishedWeights]:
    """The rows of a name of torchvision's: "vit_b_16", "vit_b_16.IMAGENET1K_V1" or "ViT_B_16_Weights.IMAGENET1K_V1"."""
    architecture, _, weights = name.partition(".")
    wanted = architecture.casefold().removesuffix("_weights").replace("resnet_", "resnet")
    rows = [row for row in read_table() if row.torchvision.partition(".")[0] == wanted]
    return rows if weights.upper() in ("", "DEFAULT") else [
        row for row in rows if row.torchvision.partition(".")[2] == weights.upper()
    ]  # fmt: skip


def known_names() -> Iterable[str]:
    """Every spelling that is a name in the table, for suggestions."""
    for row in read_table():
        yield row.name
        yield row.source
        if row.recommended:
            yield row.model
