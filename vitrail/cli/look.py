"""`vitrail look`: attention maps and other inspections of a trained model."""

import sys
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Annotated, Any

import tyro

from vitrail.cli.syntax.arguments import device, merging, read
from vitrail.cli.syntax.verb import Merging, OfRun, OnData, OnDevice, Verb
from vitrail.errors import BadImage, UsageError
from vitrail.validation import Positive, as_path, validate


@dataclass
class Look(OfRun, OnData, OnDevice, Merging):
    """Show attention maps of a trained model on images, and inspect its layers.

    vitrail look runs/photos cat.jpg --layers 0 5 -1 --heads 0 3
    vitrail look runs/photos cat.jpg --merge 8
    vitrail look runs/photos --distance --positions --tokens
    """

    images: Annotated[tuple[str, ...], tyro.conf.Positional, tyro.conf.arg(metavar="IMAGE...")] = ()
    """Files, or folders of images: attention, rollout and relevance, or Grad-CAM."""
    layers: tuple[str, ...] = ()
    """Layers by number in order of depth (-1: the last), or by name (default: four)."""
    heads: tuple[str, ...] = ("mean",)
    """Heads by number; or mean, min or max over them; or all."""
    label: str = ""
    """Class of relevance and Grad-CAM (default: the predicted one)."""
    times: tuple[float, ...] = ()
    """Generative models: times between 0 (noise) and 1 (image) (default: 0.2 0.5 0.8)."""
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


OF_DATA = ("distance", "tokens", "cka", "gradients")  # inspections that need images of the data


def look(words: list[str]) -> int:
    given, _ = read(VERB, words)
    device(given.device)
    validate(given.count, Positive, "--count")
    requested = [name for name in (*OF_DATA, "positions", "filters") if getattr(given, name) not in (False, None)]
    check_request(given, requested)
    merge = merging(given.merge)
    layers, heads = parse_layers(given.layers), parse_heads(given.heads)
    from vitrail.cli.output.new_paths import fresh, stems
    from vitrail.inference.sources import list_sources

    files = [source.item for source in list_sources(given.images).sources]
    folder = fresh(given.out, "looking")
    from vitrail.evaluation import look as inspecting
    from vitrail.inference.predictor import load_predictor
    from vitrail.report import inspection as reporting

    predictor, failed = load_predictor(given.run, given.device, merge=merge), list[str]()
    inspecting.noise_times(predictor, given.times)
    check_task(predictor, requested)
    inspections = [inspect(name, given, predictor, layers) for name in requested]
    if files:
        print(inspecting.available_maps(predictor, layers).reason)
    for name, file in zip(stems(files), files, strict=True):
        try:
            (maps,) = inspecting.compute_maps(predictor, [file], layers, heads, given.label, given.times)
        except BadImage as error:
            failed.append(error.what)
            continue
        write(reporting.image_files(folder, name, maps))
        if predictor.recipe.model.keys.get("merge"):
            show_merged(file, folder, name, predictor)
        show_drawings(file, folder, name, predictor)
        prediction = f"{maps.prediction}, " if maps.prediction else ""
        print(f"{file}: {prediction}{len(maps.maps)} maps in {folder / f'{name}-sheet.png'}")
    for inspection in inspections:
        write(reporting.inspection_files(folder, inspection))
        print("\n".join((f"{inspection.name}:", *(f"  {sentence}" for sentence in inspection.sentences))))
    if folder.exists():
        print(f"written to {folder}")
    if failed:
        sys.stderr.write(
            "".join(f"{what}\n" for what in failed)
            + f"vitrail: {len(failed)} of {len(files)} images could not be read\n"
        )
    return BadImage.code if failed else 0


def check_request(given: Look, requested: list[str]) -> None:
    """Errors: `UsageError` where nothing, or too much, is to be inspected."""
    if not given.images and not requested:
        raise UsageError(
            "nothing to inspect was given",
            "vitrail look RUN IMAGE..., or --distance, --positions, --filters, --tokens, --cka, --gradients",
        )
    if given.cka and len(given.cka) > 1:
        raise UsageError(
            f"--cka is given {len(given.cka)} runs", "it compares with one: --cka OTHER_RUN; images stand before it"
        )


def show_merged(file: Any, folder: Any, name: str, predictor: Any) -> None:
    """Writes and prints which patches of an image became one token."""
    from vitrail.evaluation.merged import find_merged
    from vitrail.inference.inputs import read_pixels
    from vitrail.report.inspection import merging_files

    merged = find_merged(predictor, read_pixels(file, predictor.preprocess))
    write(merging_files(folder, name, merged))
    print(f"{file}: {merged.patches} patches become {merged.tokens} tokens, in {folder / f'{name}-merged.png'}")


def show_drawings(file: Any, folder: Any, name: str, predictor: Any) -> None:
    """Writes what the task draws of an image, and prints where it is; nothing of a task that draws nothing."""
    from vitrail.evaluation.drawings import draw_images
    from vitrail.inference.inputs import read_pixels
    from vitrail.report.inspection import drawing_files

    for drawings in draw_images(predictor, [read_pixels(file, predictor.preprocess)], [0]):
        write(drawing_files(folder, name, drawings))
        print(f"{file}: {', '.join(drawings.panels)} in {folder / name}")


def check_task(predictor: Any, requested: list[str]) -> None:
    """Errors: `UsageError` for inspections that a generative model does not have."""
    for name in (name for name in OF_DATA if name in requested and predictor.task.is_generative):
        raise UsageError(f"{predictor.recipe.model.name} is a generative model, which --{name} does not support",
                         "vitrail look RUN IMAGE..., or --positions and --filters")  # fmt: skip


def parse_layers(words: tuple[str, ...]) -> list[int | str] | None:
    """Layers by number or by name; None where none is given."""
    return [int(w) if w.lstrip("-").isdecimal() else w for w in words] or None


def parse_heads(words: tuple[str, ...]) -> Any:
    """Heads by number, or one way of joining them. Errors: `UsageError`."""
    from vitrail.errors import choose

    if all(w.isdecimal() for w in words) and words:
        return [int(w) for w in words]
    if len(words) != 1 or words[0].lstrip("-").isdecimal():
        raise UsageError(
            f"--heads cannot be {' '.join(words) or 'nothing'}",
            "numbers from 0, as in --heads 0 3; or mean, min, max or all",
        )
    joining = choose(
        words[0], ("mean", "min", "max", "all"), "way of joining heads", "--heads 0 3 names heads by number"
    )
    return None if joining == "all" else joining


def inspect(name: str, given: Look, predictor: Any, layers: list[int | str] | None) -> Any:
    """One inspection of the whole model."""
    from vitrail.analysis import inspection
    from vitrail.evaluation import look as inspecting
    from vitrail.evaluation.subject import SubjectRequest, open_source, open_subject
    from vitrail.inference.predictor import load_predictor

    net = predictor.model
    if name == "positions":
        return inspection.inspect_positions(net)
    if name == "filters":
        return inspection.inspect_filters(net)
    request = SubjectRequest(given.run, given.data, given.split)
    split = open_source(request, predictor.task).split
    if name == "gradients":
        split = open_subject(request, predictor).split  # with labels that the model knows
        return inspection.inspect_gradients(net, inspecting.loss_on_batch(predictor, split, min(given.count, 32)))
    batches = inspecting.read_batches(predictor, split, given.count)
    if name == "distance":
        return inspection.inspect_distance(net, batches, layers)
    if name == "tokens":
        images = [
            image
            for _, image in inspecting.read_images(
                split, inspecting.spaced_indices(split, given.count)[: inspection.MAX_SHOWN]
            )
        ]
        return inspection.inspect_tokens(net, batches, images)
    if not given.cka:
        return inspection.inspect_cka(net, batches)
    other = inspecting.check_same_inputs(predictor, load_predictor(given.cka[0], given.device))
    return inspection.inspect_cka(net, batches, other.model, (given.run, given.cka[0]))


def write(files: Iterator[tuple[Any, bytes]]) -> None:
    for path, content in files:
        as_path(path.parent).mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)


VERB = Verb("look", Look, look)
