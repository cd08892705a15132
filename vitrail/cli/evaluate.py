"""`vitrail eval`: evaluates a trained model on held-out images."""

import sys
from dataclasses import dataclass
from typing import Any, Literal

from vitrail.cli.output import sample_quality
from vitrail.cli.output.evaluation import show_change, show_metrics
from vitrail.cli.output.new_paths import fresh_path
from vitrail.cli.syntax.arguments import device, merging, read
from vitrail.cli.syntax.keys import keys_of
from vitrail.cli.syntax.verb import AsJson, Merging, OfRun, OfWeights, OnData, OnDevice, Verb
from vitrail.errors import UsageError
from vitrail.storage.json_text import to_json


@dataclass
class Eval(OfRun, OfWeights, OnData, OnDevice, AsJson, Merging):
    """Evaluate a trained model on held-out images.

    vitrail eval runs/photos
    vitrail eval runs/photos --data other --csv predictions.csv
    vitrail eval runs/photos/export/onnx
    vitrail eval runs/photos --data other.csv --data.label-column kind --split test
    vitrail eval runs/flow --features runs/classifier --count 1000
    vitrail eval runs/flow --features runs/classifier --sweep-guidance 1 2 3
    """

    img_size: tuple[int, int] | None = None
    """Evaluate at this height and width as well."""
    features: str = ""
    """Generative models: the run of a classifier, for FID."""
    sweep_guidance: tuple[float, ...] = ()
    """With --features: each of these guidance scales."""
    sweep_ema: tuple[Literal[1, 2], ...] = ()
    """With --features: each of these averages."""
    count: int = 1000
    """With --features: images to generate."""
    csv: str = ""
    """A new file, one line an image."""
    skip_unknown: bool = False
    """With --data: leave out classes unknown to the model."""
    engine: str = ""
    """torch, onnx, ... (default: by the file)."""
    precision: Literal["auto", "fp32", "bf16"] = "fp32"
    """bf16 is faster where the processor has it; auto: there."""
    vae: str = ""
    """Latent models: where the autoencoder is now."""


def evaluate(words: list[str]) -> None:
    given, keys = read(VERB, words)
    device(given.device)
    merge = merging(given.merge)
    from vitrail.engine import world as worlds
    from vitrail.engine.precision import Precision
    from vitrail.evaluation.evaluate import evaluate as evaluate_split
    from vitrail.evaluation.evaluate import with_interval, with_weights, write_evaluation
    from vitrail.evaluation.image_table import write_csv
    from vitrail.evaluation.subject import SubjectRequest, evaluate_readable
    from vitrail.inference.load_any import is_exported, load_any
    from vitrail.inference.predictor import Predictor

    file = fresh_path(given.csv, "--csv") if given.csv else None
    world = worlds.join(given.device)
    device_name = given.device if is_exported(given.run, given.engine) else str(world.device)
    predictor = load_any(given.run, given.engine, device_name, weights=given.checkpoint, vae=given.vae,
                         precision=given.precision, merge=merge)  # fmt: skip
    is_own = isinstance(predictor, Predictor) and predictor.choice.name == "fp32" and merge is None
    if given.img_size and not isinstance(predictor, Predictor):
        raise UsageError("--img-size takes a model in torch, not an exported file", "leave --img-size out")
    sample_quality.check(given, predictor)
    request = SubjectRequest(given.run, given.data, given.split, keys_of("data", keys), given.skip_unknown)
    subject, result = evaluate_readable(request, predictor, world)
    metrics = own_metrics = result.metrics
    if world.is_first and subject.folder is not None and subject.is_kept and is_own:
        write_evaluation(subject.folder, subject.part, result)
    if given.img_size:
        resized = evaluate_split(with_input_size(predictor, given.img_size), subject.split, world,
                                 precision=Precision(predictor.choice.name, world.device.type))  # fmt: skip
        result = with_weights(with_interval(resized), subject.scope.weights)
        metrics = result.metrics
    if world.is_first and file is not None:
        write_csv(file, result, predictor.classes)
    dataset, part, folder = subject.dataset, subject.part, subject.folder
    if sample_quality.has_sweep(given):
        metrics = {**metrics, "sweep": sample_quality.sweep(given, predictor, dataset, part, folder, world)}
    elif given.features:
        metrics = {**metrics, "made": sample_quality.once(given, predictor, dataset, part, folder, world)}
    if world.is_first:
        if given.json:
            sys.stdout.write(to_json({**subject.scope.numbers(), "precision": predictor.choice.name, **metrics}) + "\n")
        elif not sample_quality.has_sweep(given):
            if given.precision != "fp32":
                print(f"precision {predictor.choice.name}: {predictor.choice.reason}")
            show_metrics(part, subject.scope.sentence(), metrics, predictor.classes)
            if given.img_size:
                show_change(given.img_size, predictor, own_metrics, metrics)
    worlds.leave(world)


def with_input_size(predictor: Any, size: tuple[int, int]) -> Any:
    """The model with images of another size. Errors: `UsageError` for a size that the model cannot take."""
    import dataclasses

    import torch

    if min(size) < 1:
        raise UsageError(f"images of {size[0]}x{size[1]} are not possible", "--img-size HEIGHT WIDTH")
    recipe = dataclasses.replace(predictor.recipe, input=dataclasses.replace(predictor.recipe.input, size=size))
    device = next(predictor.model.parameters()).device
    try:
        with torch.no_grad():
            predictor.model(torch.zeros(1, predictor.preprocess.channels, *size, device=device))
    except (RuntimeError, AssertionError) as error:
        raise UsageError(
            f"the model cannot take images of {size[0]}x{size[1]}: {str(error).splitlines()[0][:160]}",
            "give another --img-size",
        ) from None
    return dataclasses.replace(predictor.bundle, recipe=recipe)


VERB = Verb("eval", Eval, evaluate, sections=("data",), changes="what a trained model is")
