"""`vitrail import`: a file of published weights becomes a model folder."""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import tyro

from vitrail.cli.syntax.arguments import Given, arguments, take_keys
from vitrail.errors import UsageError
from vitrail.validation import parse, place


@dataclass
class Import:
    """Turn published weights (.safetensors, .pth, .npz) into a model folder that predict, eval and vitrail.load take.

    vitrail import vit_b16.npz --model vit/base --out vit-base

    vitrail import dinov2s.pt --model vit/small --model.patch 14 --model.size 518 518 --model.layer-scale 1.0 --leave-head --out dino

    Keys of the model (--model.patch 14) must be those of the file; keys of the pictures (--input.mean 0.5 0.5 0.5) are known for
    most sources and can be said. No file is ever executed: what is not plain tensors is refused.
    """

    file: Annotated[str, tyro.conf.Positional, tyro.conf.arg(metavar="FILE")]
    """The file of weights."""
    model: str = ""
    """The model it is for, such as vit/base; `vitrail models` lists them."""
    out: Path | None = None
    """The folder to write; it must not be there yet."""
    source: str = "auto"
    """Who named the tensors: timm, transformers, torchvision, google, original; "auto" takes the one that fits best, and says which."""
    classes: str = ""
    """How many classes, or a text file with one name a line; by default as many as the file's head has."""
    leave_head: bool = False
    """Load all but the head, which starts anew."""
    resize: bool = False
    """Resample position tables, patches and channels to those of the model."""
    grid: tuple[int, int] | None = None
    """Rows and columns of patches that the file's position table was made for; by default a square."""
    not_strict: bool = False
    """Load what fits, even where names are missing or unexpected."""
    licence: str = ""
    """The licence of the weights, kept with them."""
    sha256: str = ""
    """What the file must hash to."""


ARGUMENTS: dict[str, type] = {"import": Import}


def bring(words: list[str]) -> None:
    rest, keys = take_keys(words)
    given = arguments(Import, rest, "vitrail import")
    if not given.model or given.out is None:
        missing = "--model vit/base" if not given.model else "--out FOLDER"
        raise UsageError(f"vitrail import needs {missing}", "vitrail import FILE --model vit/base --out FOLDER")
    own = sections(keys)
    from vitrail.assembly.convert import Wish
    from vitrail.assembly.convert import bring as make
    from vitrail.recipe import Choice
    from vitrail.weights.load import Options

    options = Options(not given.not_strict, given.resize, given.leave_head, given.grid)
    made = make(Wish(place(given.file), Choice(given.model, own["model"]), place(given.out), given.source, classes(given.classes),
                     own["input"], given.licence, given.sha256 or None, options))  # fmt: skip
    print("\n".join(made.lines()))


def sections(keys: Given) -> dict[str, dict[str, Any]]:
    """The keys of the model and of its pictures. Errors: `UsageError` for keys of anything else."""
    own: dict[str, dict[str, Any]] = {"model": {}, "input": {}}
    for section, values in keys:
        if section not in own:
            raise UsageError(f"--{section}.{next(iter(values))} does not change what is imported", "keys of --model and --input go here")
        own[section].update(values)
    return own


def classes(said: str) -> int | tuple[str, ...] | None:
    """A number, or the lines of a text file. Errors: `UsageError`."""
    if not said:
        return None
    if isinstance(number := parse(said), int) and not isinstance(number, bool):
        return number
    path = place(said)
    try:
        return tuple(line.strip() for line in path.read_text(encoding="utf-8").splitlines() if line.strip())
    except (OSError, UnicodeDecodeError):
        raise UsageError(f"--classes takes a number, or a text file with one name a line; {said!r} is neither", "--classes 1000") from None
