"""`vitrail eval`, `vitrail predict` and `vitrail report`: what one does with a trained model."""

import json
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

import tyro

from vitrail.checks import place
from vitrail.cli import made
from vitrail.cli.words import arguments, device
from vitrail.errors import BadImage, DataError, UsageError, nearest


@dataclass
class Eval:
    """Judge a trained model on held-out pictures."""

    run: Annotated[str, tyro.conf.Positional, tyro.conf.arg(metavar="RUN")]
    """A run, a model folder or a .safetensors file."""
    data: str = ""
    """Another data set; by default the one it was trained on."""
    split: str = ""
    """Which part: test, val or train; by default the test part, else the validation part."""
    size: tuple[int, int] | None = None
    """Height and width to judge at instead of the model's own; what that costs is said."""
    features: str = ""
    """Of a model that makes pictures: a run of a classifier, by whose features made pictures are compared with real ones."""
    sweep_guidance: tuple[float, ...] = ()
    """With --features: judge at each of these strengths of guidance; a table and a figure in evaluation/ of the run."""
    sweep_ema: tuple[Literal[1, 2], ...] = ()
    """With --features: judge by these averages of the weights, 1 the usual, 2 the shorter."""
    vae: str = ""
    """Of a model that makes latents: where its autoencoder lies now, if it was moved."""
    count: int = 1000
    """With --features: how many pictures to make, of all classes together."""
    device: str = "auto"
    """"auto", "cpu", "cuda", "cuda:1", "mps"."""
    json: bool = False
    """Print JSON."""


@dataclass
class Predict:
    """Say what is in pictures."""

    run: Annotated[str, tyro.conf.Positional, tyro.conf.arg(metavar="RUN")]
    """A run, a model folder or a .safetensors file."""
    pictures: Annotated[tuple[str, ...], tyro.conf.Positional, tyro.conf.arg(metavar="PICTURE...")]
    """Files, or folders of pictures."""
    top: int = 3
    """How many classes to name."""
    json: bool = False
    """Print one JSON object a line."""
    out: str = ""
    """For masks and boxes: a new folder for label maps and drawings; by default predictions."""
    score: float = 0.5
    """For boxes: the least score of what is drawn and counted."""
    device: str = "auto"
    """"auto", "cpu", "cuda", "cuda:1", "mps"."""


@dataclass
class Report:
    """Write the page that tells a run."""

    run: Annotated[str, tyro.conf.Positional, tyro.conf.arg(metavar="RUN")]
    """A run."""


ARGUMENTS: dict[str, type] = {"eval": Eval, "predict": Predict, "report": Report}
WIDE = 9  # columns of a number
PICTURES = {".jpg", ".jpeg", ".png", ".webp", ".bmp", ".gif", ".tif", ".tiff"}


def evaluate(words: list[str]) -> None:
    given = arguments(Eval, words, "vitrail eval")
    device(given.device)
    from vitrail.engine import world as worlds
    from vitrail.run import evaluate as judging
    from vitrail.run.predict import load
    from vitrail.run.prepare import data_of, held_out, part_of

    world = worlds.join(given.device)
    predictor = load(given.run, str(world.device), vae=given.vae)
    made.check(given, predictor)
    dataset, folder = data_of(given.run, given.data, predictor.task.annotations)
    judging.match_classes(dataset, predictor.classes, predictor.task)
    part = given.split or held_out(dataset, final=True)
    split = part_of(dataset, given.split, part)
    found = judging.evaluate(predictor.described, split, world)
    metrics = usual = found.metrics
    if world.first and folder is not None:
        judging.keep(folder, part, found)
    if given.size:
        metrics = judging.evaluate(predictor.described, split, world, resized(predictor, given.size)).metrics
    if made.swept(given):
        metrics = {**metrics, "sweep": made.sweep(given, predictor, dataset, part, folder, world)}
    elif given.features:
        metrics = {**metrics, "made": made.once(given, predictor, dataset, part, folder, world)}
    if world.first and (given.json or not made.swept(given)):
        show_metrics(given, part, metrics, predictor.classes)
        if given.size and not given.json:
            show_change(given.size, predictor, usual, metrics)
    worlds.leave(world)


def resized(predictor: Any, size: tuple[int, int]) -> Any:
    """The model's preprocessing to another size. Errors: `UsageError` where the model cannot take that."""
    import dataclasses

    import torch

    if min(size) < 1:
        raise UsageError(f"pictures of {size[0]}x{size[1]} cannot be", "--size HEIGHT WIDTH")
    pre = dataclasses.replace(predictor.preprocess, size=size)
    device = next(predictor.model.parameters()).device
    try:
        with torch.no_grad():
            predictor.model(torch.zeros(1, pre.channels, *size, device=device))
    except (RuntimeError, AssertionError) as error:
        raise UsageError(
            f"the model cannot take pictures of {size[0]}x{size[1]}: {str(error).splitlines()[0][:160]}", "another --size"
        ) from None
    return pre


def show_change(size: tuple[int, int], predictor: Any, usual: Any, metrics: Any) -> None:
    """What another size than the model's own did to the metric that ranks models."""
    name, own = predictor.task.metric.name, "x".join(map(str, predictor.preprocess.size))
    change = 100 * (metrics[name] - usual[name])
    print(f"\n  {name} at {own} {usual[name]:.4f}, at {size[0]}x{size[1]} {metrics[name]:.4f}: {change:+.2f} points")


def show_metrics(given: Eval, part: str, metrics: Any, classes: tuple[str, ...]) -> None:
    from vitrail.run.evaluate import scalars

    if given.json:
        sys.stdout.write(json.dumps({"part": part, **metrics}) + "\n")
        return
    print(f"{part}: {metrics['count']:,} pictures")
    for name, value in scalars(metrics).items():
        if name != "count":
            print(f"  {name:<18} {value:.4f}")
    if "made" in metrics:
        made.show(metrics["made"])
    table, wide = metrics["per_class"], min(32, max([5, *map(len, classes)]))
    columns = [key for key, values in table.items() if len(values) == len(classes)]
    print(f"\n  {'class':<{wide}} " + " ".join(f"{key:>{WIDE}}" for key in columns))
    for i, name in enumerate(classes):
        numbers = " ".join(f"{number(table[key][i]):>{WIDE}}" for key in columns)
        print(f"  {name[:32]:<{wide}} {numbers}")


def number(value: float) -> str:
    """Counts as they are, shares with four places."""
    return f"{value:,}" if isinstance(value, int) else f"{value:.4f}"


def predict(words: list[str]) -> int:
    given = arguments(Predict, words, "vitrail predict")
    device(given.device)
    if not 0 <= given.score <= 1:
        raise UsageError(f"--score is {given.score}", "a score is a share: 0 to 1")
    if given.top < 1:
        raise UsageError(f"--top is {given.top}", "name at least one class")
    if place(given.run).suffix.lower() in PICTURES:
        raise UsageError(f"{given.run} is a picture; the run comes first", "vitrail predict RUN PICTURE...")
    files = expanded(given.pictures)
    from vitrail.run.predict import load

    predictor = load(given.run, given.device)
    if predictor.task.is_generative:
        raise UsageError(f"{given.run} makes pictures and does not tell what is in them", f"vitrail sample {given.run}")
    if predictor.task.is_dense:
        from vitrail.cli import scenes

        return scenes.predict(predictor, files, given.out, given.score, given.json)
    failed = 0
    for start in range(0, len(files), 64):
        for path, row in each(predictor, files[start : start + 64]):
            failed += isinstance(row, BadImage)
            print(json.dumps(as_json(path, row, predictor)) if given.json else as_line(path, row, predictor, given.top))
    if failed:
        sys.stderr.write(f"vitrail: {failed} of {len(files)} pictures could not be read\n")
    return BadImage.code if failed else 0


def expanded(names: tuple[str, ...]) -> list[Path]:
    """Files as they are; folders as the pictures below them, in order. Errors: `DataError`."""
    found: list[Path] = []
    for name in names:
        path = place(name)
        if path.is_dir():
            inside = sorted(p for p in path.rglob("*") if p.suffix.lower() in PICTURES and not p.name.startswith("."))
            if not inside:
                raise DataError(f"there is no picture in {path}", "pictures end in .jpg, .png, .webp, .bmp, .gif or .tiff")
            found += inside
        elif path.exists():
            found.append(path)
        else:
            there = sorted(p.name for p in path.absolute().parent.glob("*"))
            near = nearest(path.name, there) or there[:5]
            raise DataError(f"there is no {name}", f"beside it: {', '.join(near)}" if near else "check the path")
    if not found:
        raise UsageError("no picture was given", "vitrail predict RUN PICTURE...")
    return found


def each(predictor: Any, files: list[Path]) -> list[tuple[Path, Any]]:
    """A row of probabilities per file, or the reason why there is none: one bad picture does not cost the others."""
    from vitrail.data.decode import decode

    pre, good, rows = predictor.preprocess, [], {}
    for path in files:
        try:
            good.append((path, decode(path, pre.channels if pre.channels in (1, 3, 4) else 3, background=pre.background)))
        except BadImage as error:
            rows[path] = error
    if good:
        said = predictor.predict([pixels for _, pixels in good]).probabilities
        rows.update({path: row for (path, _), row in zip(good, said, strict=True)})
    return [(path, rows[path]) for path in files]


def as_json(path: Path, row: Any, predictor: Any) -> dict[str, Any]:
    if isinstance(row, BadImage):
        return {"path": str(path), "error": row.what}
    probabilities = {name: round(float(p), 6) for name, p in zip(predictor.classes, row, strict=True)}
    return {"path": str(path), "label": predictor.label(row), "probabilities": probabilities}


def as_line(path: Path, row: Any, predictor: Any, top: int) -> str:
    if isinstance(row, BadImage):
        return row.what
    best = row.topk(min(top, len(predictor.classes)))
    told = ", ".join(f"{predictor.classes[i]} {p:.1%}" for p, i in zip(best.values.tolist(), best.indices.tolist(), strict=True))
    return f"{path}: {told}"


def report(words: list[str]) -> None:
    given = arguments(Report, words, "vitrail report")
    from vitrail.report.build import build
    from vitrail.run.folder import find

    print(build(find(given.run).path))
