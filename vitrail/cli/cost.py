"""`vitrail cost`: parameters, multiply-adds and memory of models."""

import sys
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, Any

import tyro

from vitrail.analysis.cost_growth import Grown
from vitrail.cli.output.cost_tables import growth_lines, parts_lines, side_by_side, sizes, with_joined_size
from vitrail.cli.syntax.arguments import read
from vitrail.cli.syntax.flags import expand_short_flags
from vitrail.cli.syntax.keys import keys_of
from vitrail.cli.syntax.verb import AsJson, Verb
from vitrail.errors import UsageError, nearest
from vitrail.storage.json_text import to_json
from vitrail.validation import as_path

ENDINGS = (".svg", ".png")


@dataclass
class Cost(AsJson):
    """Parameters, multiply-adds and memory of models, for one image size or several.

    vitrail cost vit/base
    vitrail cost vit/base swin/base --img-size 224,384,512 --plot cost.svg
    vitrail cost vit/base --model.depth 6 --batch-size 64
    """

    names: Annotated[tuple[str, ...], tyro.conf.Positional, tyro.conf.arg(metavar="MODEL...")]
    """A model such as vit/base, or a run; several are compared."""
    img_size: str = ""
    """224 (a square), 224 320 or 224x320 (height, width), or several: 224,384x512 (default: the model's own)."""
    batch_size: int = 1
    """Images that memory is counted for; multiply-adds are per image."""
    parts: bool = False
    """Show the multiply-adds of each part of the model."""
    plot: str = ""
    """Plot the cost of several sizes into this file, .svg or .png."""
    classes: int = 1000
    """Number of classes of a model by name."""


def cost(words: list[str]) -> None:
    given, keys = read(VERB, with_joined_size(expand_short_flags(words)))
    if not given.names:
        raise UsageError(
            "vitrail cost needs MODEL: a model such as vit/base, or a run", "vitrail models lists them all"
        )
    if given.batch_size < 1:
        raise UsageError(
            f"memory cannot be counted for {given.batch_size} images", "--batch-size takes a whole number from 1 up"
        )
    image_sizes = sizes(given.img_size)
    changes = keys_of("model", keys)
    if given.plot:
        check_plot(given.plot, image_sizes)
    growths = []
    for name in dict.fromkeys(given.names):
        model = build_named(name, given.classes, changes)
        growths.append(
            Grown(name, [count_cost(name, model, size, given.batch_size) for size in image_sizes or (None,)])
        )
    if given.plot:
        from vitrail.report.plots.cost import draw

        draw(growths, given.plot)
    single = len(growths) == 1 and len(growths[0].costs) == 1
    if given.json:
        entries = [entry for grown in growths for entry in grown.entries()]
        sys.stdout.write(to_json(entries[0] if single else entries) + "\n")
        return
    lines = (
        growths[0].costs[0].lines()
        if single
        else growth_lines(growths)
        if len(image_sizes) > 1
        else side_by_side(growths)
    )
    print("\n".join(lines + (parts_lines(growths) if given.parts else [])))


def count_cost(name: str, model: Any, size: tuple[int, int] | None, batch: int) -> Any:
    """The cost of an image. Errors: `UsageError` for a size that the model cannot take."""
    from vitrail.analysis import cost as analysis

    try:
        return analysis.cost(model, size, batch)
    except (RuntimeError, OverflowError) as error:
        if size is None:
            raise
        why = "too many numbers to count" if "overflow" in str(error) else (str(error).splitlines() or [""])[0]
        raise UsageError(
            f"{name} cannot take an image of {size[0]} x {size[1]} pixels: {why}", "give another --img-size"
        ) from None


def build_named(name: str, classes: int, keys: dict[str, Any]) -> Any:
    """A model by name (on the meta device: no memory for its weights), or the model of a run."""
    from vitrail import catalog
    from vitrail.analysis.cost import on_meta_device
    from vitrail.assembly import model
    from vitrail.inference.predictor import load_predictor

    if name.partition("/")[0] in catalog.list_modules("models") and not as_path(name).exists():
        with on_meta_device():
            return model.create_model(name, classes, keys)
    if keys:
        raise UsageError(
            "the model of a run cannot be changed; keys go with a model by name",
            "vitrail cost vit/base --model.depth 6",
        )
    if not as_path(name).exists():
        catalog.refuse_foreign_names(name)
    if not as_path(name).exists() and (near := nearest(name, catalog.list_names("models"))):
        raise UsageError(
            f"{name} is neither a model nor a run", f"did you mean {' or '.join(near)}? vitrail models lists them all"
        )
    return load_predictor(name).model


def check_plot(file: str, sizes: Sequence[tuple[int, int]]) -> None:
    """Errors: `UsageError` for what cannot be plotted, or not to this file."""
    path = as_path(file)
    if path.suffix.lower() not in ENDINGS:
        raise UsageError(
            f"{file} is no image file that can be written", f"--plot takes a name that ends in {' or '.join(ENDINGS)}"
        )
    if len({h * w for h, w in sizes}) < 2:
        raise UsageError("one size is not enough for a plot", "give several with --plot: --img-size 224,384,512")
    if path.exists():
        raise UsageError(f"there is already a {file}", "give another name, or move it away")
    if not path.absolute().parent.is_dir():
        raise UsageError(f"there is no folder {path.parent}", "create it first, or give another name")


VERB = Verb("cost", Cost, cost, sections=("model",), changes="the cost of a model")
