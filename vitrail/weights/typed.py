"""A file read as the model that was typed, whether or not all of it fits: by the table of names that matches best."""

import dataclasses
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from vitrail import catalog
from vitrail.contracts import Denoiser
from vitrail.heads.linear import Classifier
from vitrail.recipe import Choice, InputConfig
from vitrail.validation import update_config
from vitrail.weights.load import choose_source, full_name
from vitrail.weights.preprocessing import IMAGENET
from vitrail.weights.published import load_table, lookup_by_source
from vitrail.weights.read import RawWeights
from vitrail.weights.resize import geometry_of


class TypedModel:
    """The model of a name and keys, on the meta device."""

    def __init__(self, given: Choice):
        entry = catalog.find("models", given.name)
        self.given = given
        self.config: Any = update_config(entry.config, given.keys, given.name)
        with torch.device("meta"):
            trunk = entry.module.build(self.config)
            self.net: nn.Module = trunk if isinstance(trunk, Denoiser) else Classifier(trunk, 1)


def read_as_typed(tensors: Mapping[str, Tensor], given: Choice, source: str) -> tuple[Choice, str, InputConfig, int]:
    """The model with the keys that its source and its tensors decide, unless typed: settings, patch, size; the source,
    the usual preprocessing, and how many outputs the head has (0: there is none)."""
    typed = TypedModel(given)
    info = load_table(given.name.partition("/")[0])
    chosen = choose_source(typed.net, RawWeights(dict(tensors), {}, ""), info.sources, source)
    names, keys = {key.replace("-", "_") for key in given.keys}, dict(given.keys)
    fields = {f.name for f in dataclasses.fields(typed.config)}
    settings = lookup_by_source(info.settings, chosen.source, {})
    keys |= {k: v for k, v in settings.items() if k in fields and k not in names}
    own = geometry_of(typed.net, chosen.tensors)
    keys |= {k: v for k, v in own.items() if k == "patch" and k not in names}
    size = typed.config.size if {"size", "patch"} & names else own.get("size", typed.config.size)
    usual = lookup_by_source(info.preprocessing, chosen.source, IMAGENET)
    given_input = InputConfig(size, typed.config.channels, **usual._asdict())
    head = chosen.tensors.get(full_name("heads.0.weight", typed.net))
    return Choice(given.name, keys), chosen.source, given_input, head.shape[0] if head is not None else 0
