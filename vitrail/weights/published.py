"""Information on published weights, and loading them into a model."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from torch import nn

from vitrail import catalog
from vitrail.contracts import HeadedModel, trunk_of
from vitrail.errors import UsageError
from vitrail.recipe import Choice
from vitrail.validation import as_path
from vitrail.weights.clues import Clues
from vitrail.weights.load import LoadOptions, choose_source, load_tensors
from vitrail.weights.preprocessing import IMAGENET, Assumed, Preprocessing
from vitrail.weights.read import read_weights
from vitrail.weights.report import LoadReport


def load_weights(
    model: nn.Module,
    path: str | Path,
    source: str = "auto",
    options: LoadOptions | None = None,
    sha256: str | None = None,
) -> LoadReport:
    """Loads a file into a model or a backbone. Errors: `CheckpointError`; the model is then unchanged."""
    if not isinstance(model, nn.Module):
        raise UsageError(f"a {type(model).__name__} is not a model", "vitrail.create(NAME) builds one")
    raw = read_weights(as_path(path), sha256)
    return load_tensors(
        model, raw, choose_source(model, raw, load_table(family_of(model)).sources, source), options or LoadOptions()
    )


def family_of(model: nn.Module) -> str:
    """The name of a model's family."""
    if isinstance(model, HeadedModel) and isinstance(model.origin, Choice):
        return model.origin.name.partition("/")[0]
    return type(trunk_of(model)).__module__.split(".")[-1]


@dataclass(frozen=True)
class PublishedInfo:
    """Information on the published weights of a family, by source."""

    sources: dict[str, Any] = field(default_factory=dict)
    preprocessing: dict[str, Preprocessing] = field(default_factory=dict)
    settings: dict[str, dict[str, Any]] = field(default_factory=dict)
    infer: Callable[[Clues], dict[str, Any] | None] | None = None  # the config of a file, None where it is another's
    assume: Callable[[Clues, Mapping[str, Any], Preprocessing], Assumed] | None = None  # where nothing states mean, std
    config_names: dict[str, tuple[str, ...]] = field(default_factory=dict)  # fields of ours in config.json


def load_table(name: str) -> PublishedInfo:
    """The table of a family; an empty one for a family without, which reads vitrail's names only."""
    if name not in catalog.list_modules("weights/tables"):
        return PublishedInfo()
    table = catalog.load_module("weights/tables", name)
    parts = vars(table)
    return PublishedInfo(
        table.SOURCES,
        parts.get("PREPROCESSING", {}),
        parts.get("SETTINGS", {}),
        parts.get("infer"),
        parts.get("ASSUME"),
        parts.get("CONFIG_NAMES", {}),
    )


def assume_input(info: PublishedInfo, clues: Clues, fields: Mapping[str, Any]) -> Assumed:
    """The preprocessing of a file of a source that nothing beside it states."""
    usual = lookup_by_source(info.preprocessing, clues.source, IMAGENET)
    return Assumed(usual, clues.source) if info.assume is None else info.assume(clues, fields, usual)


def lookup_by_source(by_source: dict[str, Any], source: str, otherwise: Any) -> Any:
    """The value for the most specific key: "timm:dinov2-swiglu", else "timm:dinov2", else "timm"."""
    while source:
        if source in by_source:
            return by_source[source]
        source = source[: max(source.rfind("-"), source.rfind(":"), 0)]
    return otherwise
