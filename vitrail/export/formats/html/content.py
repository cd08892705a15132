"""What the page knows beside the graph: facts of the run, and some of its held-out images to begin with."""

import base64
import io
import json
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
from PIL import Image

from vitrail.assembly.model import ModelBundle, build_preprocess
from vitrail.assembly.run_directory import find_run
from vitrail.data.dataset import Dataset, Split
from vitrail.data.encode import encode_png, to_rgb
from vitrail.data.subset import evenly_spaced
from vitrail.errors import BadImage, CheckpointError, VitrailError
from vitrail.evaluation.subject import SubjectRequest, open_source
from vitrail.inference.page.about import Example, Fact, input_facts, score_facts

PARTS = ("test", "val")  # whose evaluation is shown: the first there is
SIDE, QUALITY = 320, 82  # of example images: pixels of the longer side, of JPEG
TINY = 64  # pixels up to which they are PNG, and enlarged without smoothing
HEAVY = 40_000  # bytes of an example


def collect_facts(bundle: ModelBundle, source: str, metadata: Mapping[str, str], size: int) -> list[Fact]:
    """In the order in which they are shown. size: bytes of the graph."""
    parameters = sum(p.numel() for p in bundle.model.parameters())
    facts = list[Fact]()
    for part in PARTS:
        if not facts and (metrics := read_metrics(source, part)):
            facts = score_facts(bundle.task, part, metrics)
    facts += [
        Fact("Model", bundle.recipe.model.name, f"for {bundle.recipe.task.name}" if bundle.recipe.task.name else "")
    ]
    facts += input_facts(bundle.classes, build_preprocess(bundle.recipe.input), parameters)
    origin = bundle.origin.get("name")
    licence = metadata.get("licence") or str(bundle.origin.get("licence") or "not stated")
    facts.append(Fact("Licence of the weights", licence, f"began as {origin}" if origin else ""))
    if digest := metadata.get("source_sha256"):
        facts.append(Fact("Weights", f"{size / 1e6:.1f} MB", f"SHA-256 {digest[:12]}…"))
    facts.append(Fact("Exported by", metadata.get("version", "vitrail"), "ONNX, checked against PyTorch"))
    return facts


def read_metrics(source: str, part: str) -> dict[str, Any]:
    """The evaluation that a run keeps of a part; empty where there is none."""
    try:
        metrics = json.loads((find_run(source).evaluation / f"{part}.json").read_text(encoding="utf-8"))
    except (CheckpointError, OSError, ValueError):
        return {}
    return metrics if isinstance(metrics, dict) else {}


def collect_examples(bundle: ModelBundle, source: str, count: int) -> list[Example]:
    """Held-out images of the run's data, of as many classes as there are; none where they cannot be read."""
    try:
        dataset, _, split, _ = open_source(SubjectRequest(source), bundle.task)
    except (VitrailError, OSError, IndexError):
        return []
    examples = list[Example]()
    for index in candidates(split, count):
        if len(examples) == count:
            break
        try:
            pixels = split.read(index)
        except BadImage:
            continue
        if example := encode_example(pixels, f"example {len(examples) + 1}", label_of(split, index, dataset)):
            examples.append(example)
    return examples


def candidates(split: Split, count: int) -> Iterator[int]:
    """Indices evenly spaced over the split, those of classes that did not occur yet first."""
    spaced = [int(i) for i in evenly_spaced(len(split), min(len(split), 60 * count))] if len(split) else []
    if split.annotation is not None or split.labels.ndim > 1:
        yield from spaced[:: max(1, len(spaced) // count)] if count else ()
        return
    first = [spaced[i] for i in np.unique(split.labels[spaced], return_index=True)[1]]
    yield from first
    rest = [i for i in spaced if i not in set(first)]
    yield from rest[:: max(1, len(rest) // max(1, count))]


def label_of(split: Split, index: int, dataset: Dataset) -> str:
    """The label of an image; of several, those that it has; "" where it has masks or boxes."""
    if split.annotation is not None:
        return ""
    row = split.labels[index]
    chosen = np.flatnonzero(row) if split.labels.ndim > 1 else [int(row)]
    return "|".join(dataset.classes[i] for i in chosen)


def encode_example(pixels: np.ndarray, name: str, label: str) -> Example | None:
    """An image in a few kilobytes; None for more than four channels."""
    if pixels.ndim == 3 and pixels.shape[2] > 4:
        return None
    image = Image.fromarray(to_rgb(pixels))
    tiny = max(image.size) <= TINY
    if tiny:
        grey = pixels.ndim == 2 or pixels.shape[2] == 1
        content, kind = encode_png(image.convert("L") if grey else image), "image/png"
    else:
        image.thumbnail((SIDE, SIDE), Image.Resampling.LANCZOS)
        content, kind = encode_jpeg(image, QUALITY), "image/jpeg"
        content = content if len(content) <= HEAVY else encode_jpeg(image, 50)
    return Example(name, kind, base64.b64encode(content).decode(), label, tiny)


def encode_jpeg(image: Image.Image, quality: int) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, "JPEG", quality=quality, optimize=True)
    return buffer.getvalue()
