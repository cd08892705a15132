"""`vitrail eval`: evaluates a trained model on held-out images."""

import sys
from dataclasses import dataclass
from typing import Literal

from vitrail.cli.output import sample_quality
from vitrail.cli.output.evaluation import show_change, show_metrics
from vitrail.cli.output.new_paths import fresh_path
from vitrail.cli.syntax.arguments import device, merging, read
from vitrail.cli.syntax.keys import keys_of
from vitrail.cli.syntax.verb import AsJson, Merging, OfRun, OfWeights, OnData, OnDevice, Verb
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
    from vitrail.engine.processes import world as worlds
    from vitrail.evaluation.evaluate import write_evaluation
    from vitrail.evaluation.image_table import write_csv
    from vitrail.evaluation.subject import SubjectRequest, evaluate_again, evaluate_readable
    from vitrail.inference.load_any import is_exported, load_any
    from vitrail.inference.predictor import Predictor, at_size

    file = fresh_path(given.csv, "--csv") if given.csv else None
    world = worlds.join(given.device)
    device_name = given.device if is_exported(given.run, given.engine) else str(world.device)
    predictor = load_any(given.run, given.engine, device_name, weights=given.checkpoint, vae=given.vae,
                         precision=given.precision, merge=merge)  # fmt: skip
    is_own = isinstance(predictor, Predictor) and predictor.choice.name == "fp32" and merge is None
    sample_quality.check(given, predictor)
    another = at_size(predictor, given.img_size) if given.img_size else None
    request = SubjectRequest(given.run, given.data, given.split, keys_of("data", keys), given.skip_unknown)
    subject, result = evaluate_readable(request, predictor, world)
    metrics = own_metrics = result.metrics
    if world.is_first and subject.folder is not None and subject.is_kept and is_own:
        write_evaluation(subject.folder, subject.part, result)
    if another is not None:
        result = evaluate_again(subject, another, world)
        metrics = result.metrics
    if world.is_first and file is not None:
        write_csv(file, result, subject.scope.model_classes)
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
            show_metrics(part, subject.scope.sentence(), metrics, subject.scope.model_classes)
            if given.img_size:
                show_change(given.img_size, predictor, result.images.task.metric.name, own_metrics, metrics)
    worlds.leave(world)


VERB = Verb("eval", Eval, evaluate, sections=("data",), changes="what a trained model is")
