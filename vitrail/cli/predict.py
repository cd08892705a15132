"""`vitrail predict`: predictions of a trained model on images."""

import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import tyro

from vitrail.cli.syntax.arguments import device, read
from vitrail.cli.syntax.verb import AsJson, OfRun, OnDevice, Verb
from vitrail.errors import BadImage, DataError, UsageError, nearest
from vitrail.storage.json_text import to_json
from vitrail.validation import as_path


@dataclass
class Predict(OfRun, OnDevice, AsJson):
    """Predict classes, masks or boxes of images.

    vitrail predict runs/photos cat.jpg dog.jpg
    vitrail predict runs/photos folder --json
    vitrail predict runs/boxes street.jpg --score 0.3 --out boxes
    """

    images: Annotated[tuple[str, ...], tyro.conf.Positional, tyro.conf.arg(metavar="IMAGE...")]
    """Files, or folders of images."""
    top: int = 3
    """How many classes to print, the most likely first."""
    out: str = ""
    """Masks and boxes: a new folder for label maps and overlays (default: predictions)."""
    score: float = 0.5
    """Boxes: lowest score of an object that is drawn and counted."""


IMAGE_ENDINGS = {".jpg", ".jpeg", ".png", ".webp", ".bmp", ".gif", ".tif", ".tiff"}


def predict(words: list[str]) -> int:
    given, _ = read(VERB, words)
    device(given.device)
    if not 0 <= given.score <= 1:
        raise UsageError(f"--score is {given.score}", "a score is between 0 and 1")
    if given.top < 1:
        raise UsageError(f"--top is {given.top}", "--top takes a whole number from 1 up")
    if as_path(given.run).suffix.lower() in IMAGE_ENDINGS:
        raise UsageError(f"{given.run} is an image; the run comes first", "vitrail predict RUN IMAGE...")
    files = expand_folders(given.images)
    from vitrail.inference.predictor import load_predictor
    from vitrail.inference.records import as_json, as_line

    predictor = load_predictor(given.run, given.device)
    if predictor.task.is_generative:
        raise UsageError(f"{given.run} is a generative model and predicts no classes", f"vitrail sample {given.run}")
    if predictor.task.is_dense:
        from vitrail.cli.output import predict_dense

        return predict_dense.predict(predictor, files, given.out, given.score, given.json)
    failed = 0
    for start in range(0, len(files), 64):
        for path, row in predict_files(predictor, files[start : start + 64]):
            failed += isinstance(row, BadImage)
            print(to_json(as_json(path, row, predictor)) if given.json else as_line(path, row, predictor, given.top))
    if failed:
        sys.stderr.write(f"vitrail: {failed} of {len(files)} images could not be read\n")
    return BadImage.code if failed else 0


def expand_folders(names: tuple[str, ...]) -> list[Path]:
    """Files as they are; folders as the images below them, in order. Errors: `DataError`."""
    files: list[Path] = []
    for name in names:
        path = as_path(name)
        if path.is_dir():
            inside = sorted(
                p for p in path.rglob("*") if p.suffix.lower() in IMAGE_ENDINGS and not p.name.startswith(".")
            )
            if not inside:
                raise DataError(f"there is no image in {path}", "images end in .jpg, .png, .webp, .bmp, .gif or .tiff")
            files += inside
        elif path.exists():
            files.append(path)
        else:
            siblings = sorted(p.name for p in path.absolute().parent.glob("*"))
            near = nearest(path.name, siblings) or siblings[:5]
            raise DataError(f"there is no {name}", f"beside it: {', '.join(near)}" if near else "check the path")
    if not files:
        raise UsageError("no image was given", "vitrail predict RUN IMAGE...")
    return files


def predict_files(predictor: Any, files: list[Path]) -> list[tuple[Path, Any]]:
    """A row of probabilities per file, or its error: one image that cannot be read does not stop the others."""
    from vitrail.data.decode import decode

    pre, readable, rows = predictor.preprocess, [], {}
    for path in files:
        try:
            readable.append(
                (path, decode(path, pre.channels if pre.channels in (1, 3, 4) else 3, background=pre.background))
            )
        except BadImage as error:
            rows[path] = error
    if readable:
        probabilities = predictor.predict([pixels for _, pixels in readable]).probabilities
        rows.update({path: row for (path, _), row in zip(readable, probabilities, strict=True)})
    return [(path, rows[path]) for path in files]


VERB = Verb("predict", Predict, predict)
