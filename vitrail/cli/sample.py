"""`vitrail sample`: writes images sampled from a trained generative model."""

import dataclasses
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

import tyro

from vitrail.cli.output.console import Console
from vitrail.cli.syntax.arguments import device, read
from vitrail.cli.syntax.verb import OfRun, OnDevice, Verb
from vitrail.errors import UsageError
from vitrail.recipe import Seed
from vitrail.storage.json_text import to_json
from vitrail.validation import NonNegative, Positive, validate

MIN_SIDE = 128  # pixels; smaller images are enlarged in a film
LAST_FRAME_MS = 1000
FRAME_MS = 60


@dataclass
class Sample(OfRun, OnDevice):
    """Generate images with a trained generative model.

    vitrail sample runs/flow --class cat --count 16
    vitrail sample runs/flow --class 3 --class 5 --guidance 2 --steps 50 --seed 0
    vitrail sample runs/flow --interpolate-classes cat dog --count 9
    """

    class_: Annotated[tuple[str, ...], tyro.conf.UseAppendAction, tyro.conf.arg(name="class")] = ()
    """A class by name or number, repeatable (default: all)."""
    count: int = 8
    """Images of each class, or between two."""
    guidance: float | None = None
    """Classifier-free guidance scale; 1: none (default: 2)."""
    steps: int = 50
    """Steps from noise to image."""
    sampler: Literal["ddpm", "ddim", "heun", "euler"] | None = None
    """(default: ddpm for Gaussian diffusion, heun for flows)"""
    seed: int = 0
    """The same seed gives the same images."""
    ema: Literal[1, 2] = 1
    """Which averaged weights: 1: optim.ema-decay, 2: optim.ema-decay-2."""
    interpolate_seeds: tuple[int, int] | None = None
    """Images between the noise of two seeds."""
    interpolate_classes: tuple[str, str] | None = None
    """Images between two classes, all from the same noise."""
    vae: str = ""
    """Latent models: where the autoencoder lies now, if moved."""
    film: bool = False
    """Also film.webp: how the images emerge from noise."""
    batch_size: int = 64
    """Images at a time; affects memory, not the images."""
    out: str = ""
    """A new folder (default: samples)."""


def sample(words: list[str]) -> None:
    given, _ = read(VERB, words)
    check(given)
    device(given.device)
    from vitrail.cli.output.new_paths import fresh
    from vitrail.inference.predictor import load_predictor
    from vitrail.inference.sample import default_sampling, resolve_classes, sample_images

    folder = fresh(given.out, "samples")
    predictor = load_predictor(given.run, given.device, given.ema, given.vae)
    bundle = predictor.bundle
    labels = resolve_classes(bundle, given.class_)
    settings = dataclasses.replace(default_sampling(bundle, None, given.guidance, given.steps), sampler=given.sampler)
    request, names = build_request(given, bundle, labels)
    next(iter(sample_or_explain(bundle, request, settings)))  # what cannot be done is refused before a folder is made
    images = sample_images(bundle, request, settings, given.batch_size, Console().progress("generating images"))
    folder.mkdir(parents=True)
    write(folder, images, names, given.count)
    if given.film:
        write_film(folder, bundle, request, settings, given.count)
    manifest = {
        "run": str(given.run),
        "seed": request.seed,
        "sampling": dataclasses.asdict(settings),
        "ema": given.ema,
        "classes": list(dict.fromkeys(names)),
    }
    (folder / "sampling.json").write_text(to_json(manifest, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    print(f"{len(images)} images in {folder}: grid.png, one PNG each" + (", film.webp" if given.film else ""))


def check(given: Sample) -> None:
    """Errors: `UsageError` for invalid numbers, and flags that exclude each other."""
    for name, kind in (("count", Positive), ("steps", Positive), ("batch_size", Positive), ("seed", Seed)):
        validate(getattr(given, name), kind, f"--{name.replace('_', '-')}")
    if given.guidance is not None:
        validate(given.guidance, NonNegative, "--guidance")
    if given.interpolate_seeds and given.interpolate_classes:
        raise UsageError("images lie between two seeds or between two classes, not both", "give one of the two")
    if given.interpolate_seeds and len(given.class_) > 1:
        raise UsageError("between two seeds there is one class", "--class once")
    if given.interpolate_classes and given.class_:
        raise UsageError("--interpolate-classes already names the classes", "leave --class out")
    if (given.interpolate_seeds or given.interpolate_classes) and given.count < 2:
        raise UsageError(f"--count is {given.count}, and an interpolation has two ends", "--count 9")


def build_request(given: Sample, bundle: Any, labels: list[int]) -> tuple[Any, list[str]]:
    """The request, and a name for each image."""
    from vitrail.inference.sample import SampleRequest, request_per_class, resolve_classes

    class_names = [name if bundle.model.null else "image" for name in bundle.classes] or ["image"]
    positions = tuple(i / max(1, given.count - 1) for i in range(given.count))
    if given.interpolate_seeds:
        first, last = (validate(seed, Seed, "--interpolate-seeds") for seed in given.interpolate_seeds)
        label = labels[0]
        return SampleRequest((label,) * given.count, (0,) * given.count, first, positions, other=last), [
            class_names[label]
        ] * given.count
    if given.interpolate_classes:
        first_class, last_class = resolve_classes(bundle, given.interpolate_classes)
        return SampleRequest(
            (first_class,) * given.count, (0,) * given.count, given.seed, positions, towards=last_class
        ), [f"{class_names[first_class]}-{class_names[last_class]}"] * given.count
    return request_per_class(labels, given.count, given.seed), [
        class_names[label] for label in labels for _ in range(given.count)
    ]


def sample_or_explain(bundle: Any, request: Any, settings: Any) -> Any:
    """The first step of the first image."""
    from vitrail.inference.sample import denoise_batch, slice_request

    return denoise_batch(bundle, slice_request(request, slice(0, 1)), settings)


def write(folder: Path, images: Any, names: list[str], columns: int) -> None:
    """grid.png, a row for each class, and CLASS-00000.png and so on."""
    from vitrail.inference.sample import image_grid

    numbers: dict[str, int] = {}
    for one, name in zip(images, names, strict=True):
        number = numbers[name] = numbers.get(name, -1) + 1
        as_pil(one).save(folder / f"{as_filename(name)}-{number:05d}.png")
    as_pil(image_grid(images, grid_columns(len(images), columns))).save(folder / "grid.png")


def grid_columns(count: int, each: int) -> int:
    """Columns of a grid: a row for each class, unless that would be too long."""
    return each if count > each and each <= 16 else min(count, max(8, round(count**0.5)))


def as_filename(name: str) -> str:
    """A name that every file system accepts."""
    return "".join(ch if ch.isalnum() or ch in "-_" else "_" for ch in name)[:60] or "_"


def as_pil(pixels: Any) -> Any:
    """uint8 [H W C] as a PIL image: the first channel of two, the first three of more."""
    from PIL import Image

    channels = pixels.shape[2]
    return Image.fromarray(pixels[:, :, 0] if channels < 3 else pixels[:, :, :3].copy())


def write_film(folder: Path, bundle: Any, request: Any, settings: Any, columns: int) -> None:
    """The images of the first rows, frame by frame."""
    from PIL import Image

    from vitrail.inference.sample import BATCH, image_grid, sample_steps, slice_request

    some = slice_request(request, slice(0, BATCH))
    per_row = grid_columns(len(some.labels), columns)
    progress = Console().progress("filming")
    frames = [as_pil(image_grid(one, per_row)) for one in sample_steps(bundle, some, settings, progress)]
    times = max(1, MIN_SIDE // max(bundle.recipe.input.size))
    large = [f.convert("RGB").resize((f.width * times, f.height * times), Image.Resampling.NEAREST) for f in frames]
    durations = [FRAME_MS] * (len(large) - 1) + [LAST_FRAME_MS]
    large[0].save(
        folder / "film.webp", save_all=True, append_images=large[1:], duration=durations, loop=0, lossless=True
    )


VERB = Verb("sample", Sample, sample)
