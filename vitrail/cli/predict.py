"""`vitrail predict`: what a trained model predicts of images."""

import json
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import tyro

from vitrail.cli.syntax.arguments import arguments, device
from vitrail.errors import BadImage, DataError, UsageError, nearest
from vitrail.inference.records import as_json, as_line
from vitrail.validation import place


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


ARGUMENTS: dict[str, type] = {"predict": Predict}
PICTURES = {".jpg", ".jpeg", ".png", ".webp", ".bmp", ".gif", ".tif", ".tiff"}


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
    from vitrail.inference.predictor import load

    predictor = load(given.run, given.device)
    if predictor.task.is_generative:
        raise UsageError(f"{given.run} makes pictures and does not tell what is in them", f"vitrail sample {given.run}")
    if predictor.task.is_dense:
        from vitrail.cli.output import predict_dense

        return predict_dense.predict(predictor, files, given.out, given.score, given.json)
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
