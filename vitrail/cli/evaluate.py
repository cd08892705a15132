"""`vitrail eval`: evaluates a trained model on held-out images."""

import sys
from dataclasses import dataclass
from typing import Any, Literal

from vitrail.cli.output import sample_quality
from vitrail.cli.syntax.arguments import device, read
from vitrail.cli.syntax.verb import AsJson, OfRun, OnData, OnDevice, Verb
from vitrail.errors import UsageError
from vitrail.storage.json_text import to_json


@dataclass
class Eval(OfRun, OnData, OnDevice, AsJson):
    """Evaluate a trained model on held-out images.

    vitrail eval runs/photos
    vitrail eval runs/photos --data other --split test --img-size 256
    vitrail eval runs/flow --features runs/classifier --count 1000
    vitrail eval runs/flow --features runs/classifier --sweep-guidance 1 2 3
    """

    img_size: tuple[int, int] | None = None
    """Evaluate at this height and width too, and print the change."""
    features: str = ""
    """Generative models: a classifier's run, for Fréchet distance, precision and recall of generated images."""
    sweep_guidance: tuple[float, ...] = ()
    """With --features: evaluate at each of these guidance scales."""
    sweep_ema: tuple[Literal[1, 2], ...] = ()
    """With --features: evaluate each of these weight averages."""
    count: int = 1000
    """With --features: how many images to generate."""
    vae: str = ""
    """Latent models: where the autoencoder lies now, if moved."""


WIDE = 9  # columns of a number


def evaluate(words: list[str]) -> None:
    given, _ = read(VERB, words)
    device(given.device)
    from vitrail.assembly.data import choose_part, open_data_of
    from vitrail.data.splits import evaluation_part
    from vitrail.engine import world as worlds
    from vitrail.evaluation import evaluate as evaluation
    from vitrail.inference.predictor import load_predictor

    world = worlds.join(given.device)
    predictor = load_predictor(given.run, str(world.device), vae=given.vae)
    sample_quality.check(given, predictor)
    dataset, folder = open_data_of(given.run, given.data, predictor.task.annotations)
    evaluation.match_classes(dataset, predictor.classes, predictor.task)
    part = given.split or evaluation_part(dataset, final=True)
    split = choose_part(dataset, given.split, part)
    result = evaluation.evaluate(predictor.bundle, split, world)
    metrics = own_metrics = result.metrics
    if world.is_first and folder is not None:
        evaluation.write_evaluation(folder, part, result)
    if given.img_size:
        metrics = evaluation.evaluate(
            predictor.bundle, split, world, with_input_size(predictor, given.img_size)
        ).metrics
    if sample_quality.has_sweep(given):
        metrics = {**metrics, "sweep": sample_quality.sweep(given, predictor, dataset, part, folder, world)}
    elif given.features:
        metrics = {**metrics, "made": sample_quality.once(given, predictor, dataset, part, folder, world)}
    if world.is_first and (given.json or not sample_quality.has_sweep(given)):
        show_metrics(given, part, metrics, predictor.classes)
        if given.img_size and not given.json:
            show_change(given.img_size, predictor, own_metrics, metrics)
    worlds.leave(world)


def with_input_size(predictor: Any, size: tuple[int, int]) -> Any:
    """The model's preprocessing at another image size. Errors: `UsageError` for a size that the model cannot take."""
    import dataclasses

    import torch

    if min(size) < 1:
        raise UsageError(f"images of {size[0]}x{size[1]} are not possible", "--img-size HEIGHT WIDTH")
    pre = dataclasses.replace(predictor.preprocess, size=size)
    device = next(predictor.model.parameters()).device
    try:
        with torch.no_grad():
            predictor.model(torch.zeros(1, pre.channels, *size, device=device))
    except (RuntimeError, AssertionError) as error:
        raise UsageError(
            f"the model cannot take images of {size[0]}x{size[1]}: {str(error).splitlines()[0][:160]}",
            "give another --img-size",
        ) from None
    return pre


def show_change(size: tuple[int, int], predictor: Any, own_metrics: Any, metrics: Any) -> None:
    """Prints how the metric that ranks models changes at another size than the model's own."""
    name, own = predictor.task.metric.name, "x".join(map(str, predictor.preprocess.size))
    change = 100 * (metrics[name] - own_metrics[name])
    print(
        f"\n  {name} at {own} {own_metrics[name]:.4f}, at {size[0]}x{size[1]} {metrics[name]:.4f}: {change:+.2f} points"
    )


def show_metrics(given: Eval, part: str, metrics: Any, classes: tuple[str, ...]) -> None:
    from vitrail.evaluation.evaluate import scalar_metrics

    if given.json:
        sys.stdout.write(to_json({"part": part, **metrics}) + "\n")
        return
    print(f"{part}: {metrics['count']:,} images")
    for name, value in scalar_metrics(metrics).items():
        if name != "count":
            print(f"  {name:<18} {value:.4f}")
    if "made" in metrics:
        sample_quality.show(metrics["made"])
    table, wide = metrics["per_class"], min(32, max([5, *map(len, classes)]))
    columns = [key for key, values in table.items() if len(values) == len(classes)]
    print(f"\n  {'class':<{wide}} " + " ".join(f"{key:>{WIDE}}" for key in columns))
    for i, name in enumerate(classes):
        numbers = " ".join(f"{format_number(table[key][i]):>{WIDE}}" for key in columns)
        print(f"  {name[:32]:<{wide}} {numbers}")


def format_number(value: float) -> str:
    """Counts as whole numbers, fractions with four decimals."""
    return f"{value:,}" if isinstance(value, int) else f"{value:.4f}"


VERB = Verb("eval", Eval, evaluate)
