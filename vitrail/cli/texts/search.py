"""`vitrail search`: the images of a folder that a text describes, or that are like another image."""

import sys
from dataclasses import dataclass
from typing import Annotated, Any, Literal

import tyro

from vitrail.cli.output.console import Console
from vitrail.cli.output.new_paths import fresh_path
from vitrail.cli.syntax.arguments import device, read
from vitrail.cli.syntax.verb import AsJson, OfRun, OfWeights, OnDevice, Verb
from vitrail.errors import UsageError, many
from vitrail.storage.json_text import to_json
from vitrail.storage.printable import printable


@dataclass
class Search(OfRun, OfWeights, OnDevice, AsJson):
    """Find the images of a folder that a text describes, with a model of images and texts.

    The embeddings of the images are kept in the cache; the next search embeds what is new or has changed.

    vitrail search runs/photos holidays "a red car"
    vitrail search runs/photos holidays "a red car" "ein Hund" --top 20 --out found.png
    vitrail search runs/photos holidays --image car.jpg
    """

    folder: Annotated[str, tyro.conf.Positional, tyro.conf.arg(metavar="FOLDER")]
    """A folder of images at any depth, or what --data takes."""
    texts: Annotated[tuple[str, ...], tyro.conf.Positional, tyro.conf.arg(metavar="TEXT...")] = ()
    """What to look for; each text is a search of its own."""
    image: str = ""
    """An image to look for, in place of a text: any model does."""
    top: int = 10
    """How many images to print of each search."""
    out: str = ""
    """A new .png with the images that were found, a row each search."""
    precision: Literal["auto", "fp32", "bf16"] = "fp32"
    """bf16 is faster on processors that have it; auto: there, if the model is large."""
    rebuild: bool = False
    """Embed all images again."""


def search(words: list[str]) -> None:
    given, _ = read(VERB, words)
    device(given.device)
    check(given)
    out = fresh_path(given.out, "--out") if given.out else None
    if out is not None and out.suffix.lower() != ".png":
        raise UsageError(f"--out is {out.name}", "--out takes the name of a new .png")
    from vitrail.inference.embeddings import embed_texts, in_torch
    from vitrail.inference.load_any import load_any
    from vitrail.inference.search.images import open_images
    from vitrail.inference.search.index import build_index
    from vitrail.inference.search.query import search as find

    predictor = in_torch(load_any(given.run, "", given.device, weights=given.checkpoint, precision=given.precision))
    queries = embed_image(predictor, given.image) if given.image else embed_texts(predictor, given.texts)
    images = open_images(given.folder, predictor.preprocess.channels)
    index, changes = build_index(predictor, images, given.rebuild, Console(given.json).progress("embedding images"))
    found = find(index, queries, given.top)
    names = [given.image] if given.image else list(given.texts)
    report(given, names, [[(images.shown[one.number], one.score) for one in own] for own in found], changes)
    if out is not None:
        from vitrail.inference.search.sheet import write_sheet

        write_sheet(out, images.split, [[one.number for one in own] for own in found])
        sys.stderr.write(f"written to {out}\n")


def check(given: Search) -> None:
    """Errors: `UsageError`, before torch is imported."""
    if given.top < 1:
        raise UsageError(f"--top is {given.top}", "--top takes a whole number from 1 up")
    if bool(given.image) == bool(given.texts):
        what = "a text and --image are given" if given.image else "there is nothing to look for"
        raise UsageError(what, f'vitrail search RUN {given.folder} "a red car", or --image FILE')
    if not all(text.strip() for text in given.texts):
        raise UsageError("a text is empty", "give at least one word")


def embed_image(predictor: Any, image: str) -> Any:
    """The embedding [1 E] of an image file. Errors: `UsageError` for what is several, such as a folder or a video."""
    from vitrail.inference.embeddings import embed_images
    from vitrail.inference.sources import list_sources

    sources, _ = list_sources((image,))
    if len(sources) != 1 or sources[0].is_video:
        what = "a video" if len(sources) == 1 else many(len(sources), "image")
        raise UsageError(f"--image {image} is {what}", "--image takes the file of one image")
    return embed_images(predictor, image)


def report(given: Search, names: list[str], found: list[list[tuple[str, float]]], changes: Any) -> None:
    """Prints what was found; notes on the index go to the other stream."""
    for line in describe_changes(changes):
        sys.stderr.write(f"vitrail: note: {printable(line)}\n")
    if given.json:
        results = [
            {"query": name, "results": [{"path": path, "score": round(score, 6)} for path, score in own]}
            for name, own in zip(names, found, strict=True)
        ]
        print(to_json({"searches": results, "index": changes._asdict()}))
        return
    for name, own in zip(names, found, strict=True):
        if len(names) > 1:
            print(printable(name))
        for path, score in own:
            print(f"{score:7.3f}  {printable(path)}")


def describe_changes(changes: Any) -> list[str]:
    """What was embedded now, in a sentence; nothing where the index was up to date."""
    lines = []
    lost = "as the index cannot be kept in the cache (XDG_CACHE_HOME sets its folder)"
    next_time, follows = "uses the index of these", "the index follows"
    if not changes.is_kept:
        next_time, follows = f"embeds them again, {lost}", f"the next search embeds them again, {lost}"
    if changes.is_new and changes.new:
        lines.append(f"{many(changes.new, 'image')} embedded; the next search {next_time}")
    elif changes.new or changes.changed or changes.gone:
        counts = [(changes.new, "new"), (changes.changed, "changed"), (changes.gone, "gone")]
        listed = ", ".join(f"{n:,} {word}" for n, word in counts if n)
        lines.append(f"the images have changed since the last search: {listed}; {follows}")
    if changes.reasons:
        first = changes.reasons[0]
        lines.append(f"left out, as they cannot be read: {many(len(changes.reasons), 'image')}, the first: {first}")
    return lines


VERB = Verb("search", Search, search)
