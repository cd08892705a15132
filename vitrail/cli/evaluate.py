"""`vitrail eval`: a trained model on held-out images."""

import json
import sys
from dataclasses import dataclass
from typing import Annotated, Any, Literal

import tyro

from vitrail.cli.output import sample_quality
from vitrail.cli.syntax.arguments import arguments, device
from vitrail.errors import UsageError

WIDE = 9  # columns of a number


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


ARGUMENTS: dict[str, type] = {"eval": Eval}


def evaluate(words: list[str]) -> None:
    given = arguments(Eval, words, "vitrail eval")
    device(given.device)
    from vitrail.assembly.data import data_of, part_of
    from vitrail.data.splits import held_out
    from vitrail.engine import world as worlds
    from vitrail.evaluation import evaluate as judging
    from vitrail.inference.predictor import load

    world = worlds.join(given.device)
    predictor = load(given.run, str(world.device), vae=given.vae)
    sample_quality.check(given, predictor)
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
    if sample_quality.swept(given):
        metrics = {**metrics, "sweep": sample_quality.sweep(given, predictor, dataset, part, folder, world)}
    elif given.features:
        metrics = {**metrics, "made": sample_quality.once(given, predictor, dataset, part, folder, world)}
    if world.first and (given.json or not sample_quality.swept(given)):
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
    from vitrail.evaluation.evaluate import scalars

    if given.json:
        sys.stdout.write(json.dumps({"part": part, **metrics}) + "\n")
        return
    print(f"{part}: {metrics['count']:,} pictures")
    for name, value in scalars(metrics).items():
        if name != "count":
            print(f"  {name:<18} {value:.4f}")
    if "made" in metrics:
        sample_quality.show(metrics["made"])
    table, wide = metrics["per_class"], min(32, max([5, *map(len, classes)]))
    columns = [key for key, values in table.items() if len(values) == len(classes)]
    print(f"\n  {'class':<{wide}} " + " ".join(f"{key:>{WIDE}}" for key in columns))
    for i, name in enumerate(classes):
        numbers = " ".join(f"{number(table[key][i]):>{WIDE}}" for key in columns)
        print(f"  {name[:32]:<{wide}} {numbers}")


def number(value: float) -> str:
    """Counts as they are, shares with four places."""
    return f"{value:,}" if isinstance(value, int) else f"{value:.4f}"
