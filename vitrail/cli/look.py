"""`vitrail look`: what a trained model looks at, and how it is made inside."""

import sys
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Annotated, Any

import tyro

from vitrail.cli.syntax.arguments import device, read
from vitrail.cli.syntax.verb import OfRun, OnData, OnDevice, Verb
from vitrail.errors import BadImage, UsageError
from vitrail.validation import Positive, as_path, validate


@dataclass
class Look(OfRun, OnData, OnDevice):
    """Show what a trained model attends to in images, and what it is like inside.

    vitrail look runs/photos cat.jpg --layers 0 5 -1 --heads 0 3
    vitrail look runs/photos --distance --positions --tokens
    """

    images: Annotated[tuple[str, ...], tyro.conf.Positional, tyro.conf.arg(metavar="IMAGE...")] = ()
    """Files, or folders of images: attention, rollout and relevance, or Grad-CAM."""
    layers: tuple[str, ...] = ()
    """Numbers in order of depth (-1 the last), or names (default: four)."""
    heads: tuple[str, ...] = ("mean",)
    """Numbers of heads; or mean, min or max over them; or all."""
    label: str = ""
    """Class of relevance and Grad-CAM (default: the predicted one)."""
    times: tuple[float, ...] = ()
    """Generative models: times from 0, noise, to 1 (default: 0.2 0.5 0.8)."""
    distance: bool = False
    """Mean attention distance of each head, over images of the data."""
    positions: bool = False
    """Similarity of position embeddings; the position encoding."""
    filters: bool = False
    """Principal components of the patch-embedding filters."""
    tokens: bool = False
    """Similarity of patch tokens by depth, and PCA of them in colours."""
    cka: tuple[str, ...] | None = None
    """CKA similarity of the blocks, or with those of OTHER_RUN."""
    gradients: bool = False
    """Norms of activations and gradients by depth, on one batch."""
    count: int = 64
    """How many images of the data are used."""
    out: str = ""
    """A new folder for images, arrays and tables (default: looking)."""


OF_DATA = ("distance", "tokens", "cka", "gradients")  # what needs images of the data


def look(words: list[str]) -> int:
    given, _ = read(VERB, words)
    device(given.device)
    validate(given.count, Positive, "--count")
    asked = [name for name in (*OF_DATA, "positions", "filters") if getattr(given, name) not in (False, None)]
    if not given.images and not asked:
        raise UsageError("there is nothing to look at",
                         "vitrail look RUN IMAGE..., or --distance, --positions, --filters, --tokens, --cka, --gradients")  # fmt: skip
    if given.cka and len(given.cka) > 1:
        raise UsageError(
            f"--cka is given {len(given.cka)} runs", "it compares with one: --cka OTHER_RUN; images stand before it"
        )
    layers, heads = numbers(given.layers), of_heads(given.heads)
    from vitrail.cli.output.predict_dense import fresh, stems
    from vitrail.cli.predict import expand_folders

    files = expand_folders(given.images) if given.images else []
    folder = fresh(given.out, "looking")
    from vitrail.evaluation import look as seeing
    from vitrail.inference.predictor import load_predictor
    from vitrail.report import inspection as looks

    predictor, failed = load_predictor(given.run, given.device), list[str]()
    seeing.noise_times(predictor, given.times)
    fit(predictor, asked)
    made = [one for name in asked for one in [inside(name, given, predictor, layers)]]
    if files:
        print(seeing.available_maps(predictor, layers).reason)
    for name, file in zip(stems(files), files, strict=True):
        try:
            (sight,) = seeing.compute_maps(predictor, [file], layers, heads, given.label, given.times)
        except BadImage as error:
            failed.append(error.what)
            continue
        write(looks.image_files(folder, name, sight))
        print(
            f"{file}: {f'{sight.prediction}, ' if sight.prediction else ''}{len(sight.maps)} maps in {folder / f'{name}-sheet.png'}"
        )
    for one in made:
        write(looks.inspection_files(folder, one))
        print("\n".join((f"{one.name}:", *(f"  {sentence}" for sentence in one.sentences))))
    if folder.exists():
        print(f"written to {folder}")
    if failed:
        sys.stderr.write(
            "".join(f"{what}\n" for what in failed)
            + f"vitrail: {len(failed)} of {len(files)} images could not be read\n"
        )
    return BadImage.code if failed else 0


def fit(predictor: Any, asked: list[str]) -> None:
    """Errors: `UsageError` for what is not for generative models."""

    for name in (name for name in OF_DATA if name in asked and predictor.task.is_generative):
        raise UsageError(f"{predictor.recipe.model.name} is a generative model, and --{name} is for the others",
                         "vitrail look RUN IMAGE..., or --positions and --filters")  # fmt: skip


def numbers(words: tuple[str, ...]) -> list[int | str] | None:
    """Layers by number or by name; None where none is said."""
    return [int(w) if w.lstrip("-").isdecimal() else w for w in words] or None


def of_heads(words: tuple[str, ...]) -> Any:
    """Errors: `UsageError` for what are neither numbers nor one way of joining heads."""
    from vitrail.errors import choose

    if all(w.isdecimal() for w in words) and words:
        return [int(w) for w in words]
    if len(words) != 1 or words[0].lstrip("-").isdecimal():
        raise UsageError(
            f"--heads cannot be {' '.join(words) or 'nothing'}",
            "numbers from 0, as in --heads 0 3; or mean, min, max or all",
        )
    found = choose(words[0], ("mean", "min", "max", "all"), "way of joining heads", "--heads 0 3 names heads by number")
    return None if found == "all" else found


def inside(name: str, given: Look, predictor: Any, layers: list[int | str] | None) -> Any:
    """One look at the whole model."""
    from vitrail.analysis import inspection as look_at
    from vitrail.assembly.data import choose_part, open_data_of
    from vitrail.data.splits import evaluation_part
    from vitrail.evaluation import look as seeing
    from vitrail.inference.predictor import load_predictor

    net = predictor.model
    if name == "positions":
        return look_at.inspect_positions(net)
    if name == "filters":
        return look_at.inspect_filters(net)
    dataset, _ = open_data_of(given.run, given.data)
    split = choose_part(dataset, given.split, evaluation_part(dataset, final=True))
    if name == "gradients":
        return look_at.inspect_gradients(net, seeing.loss_on_batch(predictor, split, min(given.count, 32)))
    batches = seeing.read_batches(predictor, split, given.count)
    if name == "distance":
        return look_at.inspect_distance(net, batches, layers)
    if name == "tokens":
        shown = [
            image
            for _, image in seeing.read_images(split, seeing.spaced_indices(split, given.count)[: look_at.MAX_SHOWN])
        ]
        return look_at.inspect_tokens(net, batches, shown)
    if not given.cka:
        return look_at.inspect_cka(net, batches)
    other = seeing.check_same_inputs(predictor, load_predictor(given.cka[0], given.device))
    return look_at.inspect_cka(net, batches, other.model, (given.run, given.cka[0]))


def write(files: Iterator[tuple[Any, bytes]]) -> None:
    for path, content in files:
        as_path(path.parent).mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)


VERB = Verb("look", Look, look)
