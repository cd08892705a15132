"""Two engines of one model on the same images: accuracy, answers, time."""

from pathlib import Path

from vitrail.assembly.model import ModelBundle, build_preprocess
from vitrail.contracts import Predictions
from vitrail.data.dataset import Split
from vitrail.evaluation.difference import Change, measure_change
from vitrail.evaluation.engine_reader import EngineReader
from vitrail.export.compare import COMPARE
from vitrail.export.images import ProofImages
from vitrail.export.proof import Timing, as_inputs, one_thread, take, time_both
from vitrail.inference.engine import Engine
from vitrail.inference.exported import ExportedPredictor

BATCH = 4  # images at a time


def predict_split(engine: Engine, bundle: ModelBundle, split: Split) -> Predictions:
    """The predictions of an engine for the evaluator of the model's task."""
    predictor = ExportedPredictor(engine, bundle.classes, bundle.recipe, bundle.task, Path(engine.name))
    return bundle.task.evaluator().predictions(EngineReader(predictor, split))


def compare_accuracy(before: Engine, after: Engine, bundle: ModelBundle, split: Split) -> Change:
    """The metric that ranks models, by two engines on the same images."""
    return measure_change(bundle.task, *(predict_split(engine, bundle, split) for engine in (before, after)))


def count_changed(before: Engine, after: Engine, bundle: ModelBundle, images: ProofImages) -> tuple[int, int]:
    """How many answers to some images there are, and how many of them differ between two engines."""
    answers = changed = 0
    for start in range(0, len(images.pixels), BATCH):
        inputs = as_inputs(build_preprocess(bundle.recipe.input), images.pixels[start : start + BATCH], bundle)
        ours, theirs = after.run(*inputs), before.run(*inputs)
        for name in theirs:
            difference = COMPARE[name](ours, theirs, bundle.task.multi_label)
            answers, changed = answers + difference.answers, changed + difference.changed
    return answers, changed


def time_files(before: Engine, after: Engine, bundle: ModelBundle, images: ProofImages, batch: int) -> Timing:
    """Both in turns on one thread; the first one as `torch_ms`."""
    inputs = as_inputs(build_preprocess(bundle.recipe.input), take(images.pixels, batch), bundle)
    with one_thread():
        return time_both(after, before, inputs)
