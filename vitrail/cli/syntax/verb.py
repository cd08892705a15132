"""A command: its own options, and the keys of a recipe that it takes."""

from collections.abc import Callable
from dataclasses import dataclass, fields
from typing import Annotated, Generic, Literal, NamedTuple, TypeVar

import tyro

from vitrail.cli.syntax.flags import Flag
from vitrail.cli.syntax.source import Option, Sources

T = TypeVar("T")


class Verb(NamedTuple, Generic[T]):
    name: str
    kind: type[T]  # its own options; docstring: summary, notes, examples (lines that begin with vitrail)
    run: Callable[[list[str]], int | None]
    flags: tuple[Flag, ...] = ()  # those of the fifteen that are keys of a recipe
    sections: tuple[str, ...] = ()  # sections of a recipe whose keys it takes
    changes: str = ""  # for the message about keys of other sections: they do not change it
    module: str = ""  # its Config has more options, its docstring is that of the command; read, not imported

    @property
    def prog(self) -> str:
        return f"vitrail {self.name}"

    def options(self, sources: Sources) -> list[Option]:
        """Positional arguments in order; then its own options, and those shared with other commands."""
        options = {o.name: o for o in sources.options(self.module)} if self.module else {}
        for cls in self.kind.__mro__[:-1]:
            for option in sources.options(cls.__module__, cls.__name__):
                options.setdefault(option.name, option)
        in_order = [f.name for f in fields(self.kind)]  # type: ignore[arg-type]
        arguments = sorted((o for o in options.values() if o.positional), key=lambda o: in_order.index(o.name))
        return [*arguments, *(o for o in options.values() if not o.positional)]


@dataclass(kw_only=True)
class OnDevice:
    device: str = "auto"
    """auto, cpu, cuda, mps or a GPU's number (default: auto)."""


@dataclass(kw_only=True)
class AsJson:
    json: bool = False
    """Print JSON."""


@dataclass
class OfRun:
    run: Annotated[str, tyro.conf.Positional, tyro.conf.arg(metavar="RUN")]
    """A run, a model folder or a .safetensors file."""


@dataclass(kw_only=True)
class OfWeights:
    checkpoint: Literal["best", "last"] = "best"
    """Weights of a run: of its best evaluation, if it kept them, or the last."""


@dataclass(kw_only=True)
class Merging:
    merge: str = ""
    """Merge 8 tokens in each block of a ViT; or half of all."""


@dataclass(kw_only=True)
class OnData:
    data: str = ""
    """Another data set (default: the one it was trained on)."""
    split: str = ""
    """test, val, train or all (default: test if there is one, else val)."""
