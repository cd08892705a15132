"""The names of a recipe, each looked up in the catalogue once and cached."""

import dataclasses
from typing import Annotated, Any

from annotated_types import Ge, Le
from torch import nn

from vitrail import catalog
from vitrail.catalog import Entry
from vitrail.contracts import Task
from vitrail.errors import UsageError
from vitrail.recipe import Choice
from vitrail.validation import Count, Fraction, Positive, PositiveFloat, format_value, update_config, validate

VOCABULARY = {  # the valid values of fields that all families share
    **dict.fromkeys(("width", "heads", "patch", "size", "channels"), Positive),
    **dict.fromkeys(("tokens", "registers"), Count),
    "depth": Annotated[int, Ge(0), Le(1000)],
    **dict.fromkeys(("dropout", "attention_dropout", "drop_path"), Fraction),
    **dict.fromkeys(("mlp_ratio", "eps", "rope_base"), PositiveFloat),
}


LARGEST, LONGEST = 2**20, 2**16  # the largest whole number, and the longest list, in the config of a model or task


class Names:
    """The entries of names, cached. Passed on from a recipe to its model."""

    def __init__(self) -> None:
        self.entries: dict[tuple[str, str], Entry] = {}

    def find(self, floor: str, name: str) -> Entry:
        """Errors: `UsageError` with the nearest names."""
        if (floor, name) not in self.entries:
            self.entries[floor, name] = catalog.find(floor, name)
        return self.entries[floor, name]

    def model_config(self, choice: Choice) -> Any:
        """The config of a name and its keys. Errors: `UsageError` for unknown keys, wrong types and invalid numbers."""
        config = update_config(self.find("models", choice.name).config, choice.keys, choice.name)
        for name, kind in VOCABULARY.items():
            value = vars(config).get(name)
            for one in value if isinstance(value, tuple) else (value,):
                if isinstance(one, int | float):
                    validate(one, kind, f"{choice.name}.{name}")
        check_numbers(config, choice.name)
        return config

    def model(self, choice: Choice, size: tuple[int, int] | None = None, channels: int = 0) -> nn.Module:
        """The backbone or denoiser of a name and its keys, with random weights. Errors: `UsageError`."""
        keys = dict(choice.keys)
        if size is not None:
            keys.setdefault("size", list(size))
        if channels:
            keys.setdefault("channels", channels)
        model: nn.Module = self.find("models", choice.name).module.build(self.model_config(Choice(choice.name, keys)))
        return model

    def task(self, choice: Choice, classes: int, multi_label: bool = False) -> Task:
        """The task of a name and its keys. Errors: `UsageError` for unknown or wrong keys."""
        entry = self.find("tasks", choice.name)
        fields = {f.name for f in dataclasses.fields(entry.config)}
        own = {key: value for key, value in (("classes", classes), ("multi_label", multi_label)) if key in fields}
        config = update_config(entry.config, {**own, **choice.keys}, choice.name)
        for key, value in own.items():
            if vars(config)[key] != value:
                what = (
                    f"{choice.name}.{key} is {format_value(vars(config)[key])}, but the data has {format_value(value)}"
                )
                raise UsageError(what, "leave it out")
        check_numbers(config, choice.name)
        task: Task = entry.module.build(config)
        return task


def check_numbers(config: Any, where: str) -> None:
    """Errors: `UsageError` for a whole number, or a list, of a size that no model has: building it would not end."""
    for name, value in vars(config).items():
        values = value if isinstance(value, tuple | list) else (value,)
        large = [n for n in values if isinstance(n, int) and abs(n) > LARGEST]
        if large or len(values) > LONGEST:
            what = format_value(large[0]) if large else f"a list of {len(values):,}"
            raise UsageError(f"{where}.{name} is {what}", f"it takes at most {LARGEST if large else LONGEST:,}")
