"""`vitrail predict`: predictions of a trained model on images."""

import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

import tyro

from vitrail.cli.output.new_paths import fresh, fresh_path
from vitrail.cli.syntax.arguments import device, merging, read
from vitrail.cli.syntax.verb import AsJson, Merging, OfRun, OfWeights, OnDevice, Verb
from vitrail.cli.texts.labels import read_labels
from vitrail.errors import BadImage, UsageError
from vitrail.storage.json_text import to_json
from vitrail.validation import as_path


@dataclass
class Predict(OfRun, OfWeights, OnDevice, AsJson, Merging):
    """Predict classes, masks or boxes of images.

    vitrail predict runs/photos cat.jpg dog.jpg
    vitrail predict runs/photos folder 'more/**/*.jpg' --csv predictions.csv
    vitrail predict runs/photos clip.mp4 --every 30 --json
    vitrail predict runs/captions cat.jpg --labels "a cat,a dog"
    vitrail predict runs/boxes street.jpg --score 0.3 --out boxes
    """

    images: Annotated[tuple[str, ...], tyro.conf.Positional, tyro.conf.arg(metavar="IMAGE...")]
    """Files, folders, globs, videos, or addresses (https://...)."""
    labels: str = ""
    """Of a model with a text tower: the classes, as texts with commas between them, or a .txt file."""
    top: int = 3
    """How many classes to print, the most likely first."""
    csv: str = ""
    """A new file: a row an image, of boxes a row an object."""
    out: str = ""
    """A new folder: the table; of masks and boxes also label maps and overlays (default then: predictions)."""
    img_size: tuple[int, int] | None = None
    """Height and width that images are resized to (default: as the model was trained)."""
    score: float = 0.5
    """Boxes: lowest score of an object that is drawn and counted."""
    engine: str = ""
    """What runs it: torch, or onnx and others for an exported file (default: by the file)."""
    precision: Literal["auto", "fp32", "bf16"] = "fp32"
    """bf16 is faster on processors that have it; auto: there, if the model is large."""
    every: int = 1
    """Videos: every N-th frame."""


def predict(words: list[str]) -> int:
    given, _ = read(VERB, words)
    check(given)
    merge = merging(given.merge)
    from vitrail.inference.sources import list_sources

    sources, notes = list_sources(given.images)
    if not sources:
        raise UsageError("no image was given", "vitrail predict RUN IMAGE...")
    table = fresh_path(given.csv, "--csv") if given.csv else None
    folder = fresh(given.out) if given.out else None
    for note in notes:
        sys.stderr.write(f"vitrail: note: {note}\n")
    from vitrail.cli.output.prediction_files import DEFAULT_FOLDER, PredictionFiles
    from vitrail.inference.load_any import load_any
    from vitrail.inference.predictor import at_size
    from vitrail.inference.stream import BATCH, predict_each, read_each

    predictor = load_any(given.run, given.engine, given.device, weights=given.checkpoint, precision=given.precision,
                         merge=merge)  # fmt: skip
    if given.precision != "fp32":
        sys.stderr.write(f"vitrail: note: precision {predictor.choice.name}: {predictor.choice.reason}\n")
    if given.img_size and not predictor.task.is_generative:
        predictor = at_size(predictor, given.img_size)
    predictor = name_labels(predictor, given.labels)
    task = predictor.task
    if task.is_generative:
        raise UsageError(f"{given.run} is a generative model and predicts no classes", f"vitrail sample {given.run}")
    if folder is None and table is None and task.output in DEFAULT_FOLDER:
        folder = fresh("", DEFAULT_FOLDER[task.output])
    images = read_each(sources, predictor.preprocess, given.every)
    with PredictionFiles(folder, table, predictor, sources, given.score) as files:
        count, failed = print_each(predict_each(predictor.predict_pixels, images, BATCH), files, given)
        written = files.finish()
    if written and not given.json:
        print(f"written to {' and '.join(written)}")
    if failed:
        sys.stderr.write(f"vitrail: {failed} of {count} images could not be read\n")
    return BadImage.code if failed else 0


def name_labels(predictor: Any, labels: str) -> Any:
    """The predictor of the classes that texts name; a note where there are none and could be."""
    from vitrail.inference.embeddings import reads_texts, with_labels

    if labels:
        return with_labels(predictor, read_labels(labels))
    if reads_texts(predictor):
        sys.stderr.write('vitrail: note: these are embeddings; --labels "a cat,a dog" tells apart what you name\n')
    return predictor


def check(given: Predict) -> None:
    """Errors: `UsageError` for what is certainly wrong, before torch is imported."""
    device(given.device)
    if not 0 <= given.score <= 1:
        raise UsageError(f"--score is {given.score}", "a score is between 0 and 1")
    for name, value in (("top", given.top), ("every", given.every)):
        if value < 1:
            raise UsageError(f"--{name} is {value}", f"--{name} takes a whole number from 1 up")
    if not as_path(given.run).is_dir() and is_image(given.run):
        raise UsageError(f"{given.run} is an image; the run comes first", "vitrail predict RUN IMAGE...")


def is_image(name: str) -> bool:
    from vitrail.data.formats import image_suffixes

    return Path(name).suffix.lower() in image_suffixes()


def print_each(predictions: Any, files: Any, given: Predict) -> tuple[int, int]:
    """Writes and prints each prediction as it comes. Returns the number of images, and of those that were not read."""
    from vitrail.inference.records import as_line, to_record

    count = failed = 0
    for one in predictions:
        record = to_record(one, files.predictor)
        files.write(one, record)
        print(to_json(record) if given.json else as_line(record, given.top, given.score))
        count, failed = count + 1, failed + (one.error is not None)
    return count, failed


VERB = Verb("predict", Predict, predict)
