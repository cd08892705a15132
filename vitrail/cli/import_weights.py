"""`vitrail import`: converts published weights into a model folder."""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro

from vitrail.cli.syntax.arguments import read
from vitrail.cli.syntax.keys import import_typed_names, keys_of
from vitrail.cli.syntax.verb import Verb
from vitrail.errors import UsageError
from vitrail.validation import as_path, parse_value


@dataclass
class Import:
    """Convert published weights into a model folder for predict, eval and vitrail.load. Only plain tensors are read.

    vitrail import vit/small
    vitrail import vit_b16.npz --out vit-base
    vitrail import dinov2s.pt --new-head --classes 10 --out dino
    vitrail import swinv2.pth --model swin_v2/tiny_w8 --input.mean 0.5 0.5 0.5 --out swin
    """

    name: Annotated[str, tyro.conf.Positional, tyro.conf.arg(metavar="WEIGHTS")]
    """A name (vitrail weights), hf:ORG/REPO, an address, a file, or a folder of timm or transformers."""
    model: str = ""
    """The architecture, such as vit/base, where the file leaves it open."""
    out: Path | None = None
    """The folder to write (default: one here, called like the weights)."""
    format: str = "auto"
    """Naming of the tensors: timm, transformers, torchvision, google, original; auto: the best match."""
    classes: str = ""
    """Number of classes, or a text file with one name a line (default: as the head in the file)."""
    new_head: bool = False
    """Load all but the classifier head, which is re-initialised."""
    resize: bool = False
    """Resample position tables, patches and channels to the model's."""
    grid: tuple[int, int] | None = None
    """Rows and columns of patches of the file's position table (default: a square)."""
    strict: bool = True
    """Load what fits, even if names are missing or unexpected."""
    licence: str = ""
    """The licence of the weights, kept with them, where it is not known."""
    accept_licence: str = ""
    """Accept a licence that restricts the use of the weights, by its name."""
    sha256: str = ""
    """The expected SHA-256 of the file."""


def import_weights(words: list[str]) -> None:
    given, keys = read(VERB, words)
    from vitrail.assembly.convert import ImportRequest
    from vitrail.assembly.convert import import_weights as convert
    from vitrail.recipe import Choice
    from vitrail.weights.load import LoadOptions

    import_typed_names([("model", {"name": given.model})] if given.model else [])
    options = LoadOptions(given.strict, given.resize, given.new_head, given.grid)
    model = Choice(given.model, keys_of("model", keys))
    classes = parse_classes(given.classes)
    out = as_path(given.out) if given.out is not None else None
    request = ImportRequest(given.name, model, out, given.format, classes, keys_of("input", keys), given.licence,
                            given.accept_licence, given.sha256 or None, options)  # fmt: skip
    imported = convert(request)
    print("\n".join(imported.lines()))


def parse_classes(text: str) -> int | tuple[str, ...] | None:
    """A number, or the lines of a text file. Errors: `UsageError`."""
    if not text:
        return None
    if isinstance(number := parse_value(text), int) and not isinstance(number, bool):
        return number
    path = as_path(text)
    try:
        return tuple(line.strip() for line in path.read_text(encoding="utf-8").splitlines() if line.strip())
    except (OSError, UnicodeDecodeError):
        raise UsageError(
            f"--classes takes a number, or a text file with one name a line; {text!r} is neither", "--classes 1000"
        ) from None


VERB = Verb("import", Import, import_weights, sections=("model", "input"), changes="imported weights")
