"""What is known of published weights, and loading a file of them into a model."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from torch import nn

from vitrail import catalog
from vitrail.contracts import HeadedModel, trunk_of
from vitrail.errors import UsageError
from vitrail.recipe import Choice
from vitrail.validation import as_path
from vitrail.weights.load import LoadOptions, choose_source, load_tensors
from vitrail.weights.preprocessing import Preprocessing
from vitrail.weights.read import read_weights
from vitrail.weights.report import LoadReport


def load_weights(made: nn.Module, path: str | Path, source: str = "auto", options: LoadOptions | None = None,
                 sha256: str | None = None) -> LoadReport:  # fmt: skip
    """Loads a file into a model or a backbone. Errors: `CheckpointError`, and then the model is as it was."""
    if not isinstance(made, nn.Module):
        raise UsageError(f"a {type(made).__name__} is not a model", "vitrail.create(NAME) makes one")
    raw = read_weights(as_path(path), sha256)
    return load_tensors(
        made, raw, choose_source(made, raw, load_table(family_of(made)).sources, source), options or LoadOptions()
    )


def family_of(made: nn.Module) -> str:
    """The name of the family that a model is of."""
    if isinstance(made, HeadedModel) and isinstance(made.origin, Choice):
        return made.origin.name.partition("/")[0]
    return type(trunk_of(made)).__module__.split(".")[-1]


@dataclass(frozen=True)
class PublishedInfo:
    """What is known of the published weights of a family, by source."""

    sources: dict[str, Any] = field(default_factory=dict)
    preprocessing: dict[str, Preprocessing] = field(default_factory=dict)
    settings: dict[str, dict[str, Any]] = field(default_factory=dict)


def load_table(name: str) -> PublishedInfo:
    """The table of a family; an empty one for a family without, which still reads its own names."""
    if name not in catalog.list_modules("weights/tables"):
        return PublishedInfo()
    found = catalog.load_module("weights/tables", name)
    return PublishedInfo(found.SOURCES, vars(found).get("IMAGES", {}), vars(found).get("SETTINGS", {}))


def lookup_by_source(by_source: dict[str, Any], source: str, otherwise: Any) -> Any:
    """What is known for "timm:dinov2-swiglu", or else for "timm:dinov2", or else for "timm"."""
    while source:
        if source in by_source:
            return by_source[source]
        source = source[: max(source.rfind("-"), source.rfind(":"), 0)]
    return otherwise
