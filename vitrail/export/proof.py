"""The proof of an export: the file's outputs on real images against those of torch, in a table that is kept."""

import dataclasses
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from typing import Any, NamedTuple

import numpy as np
import torch

from vitrail.assembly.model import ModelBundle, build_preprocess
from vitrail.data.transforms.preprocess import Preprocess
from vitrail.errors import RunError
from vitrail.export.compare import COMPARE, TOLERANCE
from vitrail.export.images import ProofImages
from vitrail.inference.engine import Arrays, Engine
from vitrail.inference.graph import InferenceGraph
from vitrail.inference.torch_engine import TorchEngine

FILE = "proof.json"
BATCHES = (1, 5)  # beside one of all images
VALUES = 2**26  # largest number of logits of a batch
TIMED, LEAST_ROUNDS, MOST_ROUNDS, SECONDS = 4, 3, 9, 6.0  # images of a timed batch, rounds, and their bound


class Inputs(NamedTuple):
    images: np.ndarray  # uint8 [B C h w]
    sizes: np.ndarray  # int64 [B 2]


@dataclass(frozen=True)
class Row:
    """One output of one case, as `compare.Difference` has it."""

    output: str
    batch: int
    size: tuple[int, int]
    error: float
    answers: int
    changed: int
    beyond: int


@dataclass(frozen=True)
class Timing:
    """Milliseconds of processor time of an image, on one thread, the least of some rounds in turns."""

    torch_ms: float
    file_ms: float
    batch: int


@dataclass(frozen=True)
class Proof:
    images: str  # which, in a sentence
    rows: tuple[Row, ...]
    timing: Timing
    bytes_before: int  # of the weights
    bytes_after: int  # of the file

    @property
    def failures(self) -> list[str]:
        """What is wrong, an output each; none where the file is as good as torch."""
        reasons = []
        for name in dict.fromkeys(row.output for row in self.rows):
            rows = [row for row in self.rows if row.output == name]
            worst = max(rows, key=lambda row: (np.isnan(row.error), row.error))
            if not worst.error <= TOLERANCE:
                where = f"batch {worst.batch}, {worst.size[0]} x {worst.size[1]}"
                reasons.append(f"{name} differ by {worst.error:.1e} of their largest value ({where})")
            if beyond := sum(row.beyond for row in rows):
                reasons.append(f"{beyond:,} of {sum(row.answers for row in rows):,} {name} are other answers")
        return reasons

    def to_dict(self) -> dict[str, Any]:
        return {"tolerance": TOLERANCE, "passed": not self.failures, **asdict(self)}


def prove(engine: Engine, graph: InferenceGraph, bundle: ModelBundle, images: ProofImages, file_bytes: int) -> Proof:
    """Compares an engine with torch in fp32 on the same images, at other sizes too where the graph takes any."""
    reference, pre = TorchEngine(bundle, graph=graph), build_preprocess(bundle.recipe.input)
    sizes = other_sizes(pre.size, graph.least_size) if graph.any_size else []
    rows: list[Row] = []
    with one_thread():
        for inputs in cases(pre, images.pixels, bundle, sizes):
            theirs = reference.run(*inputs)
            check_finite(theirs)
            rows += compare(engine.run(*inputs), theirs, inputs, bundle.task.multi_label)
        timing = time_both(engine, reference, as_inputs(pre, take(images.pixels, TIMED), bundle))
    state = bundle.model.state_dict().values()
    return Proof(images.sentence, tuple(rows), timing, sum(t.numel() * t.element_size() for t in state), file_bytes)


def check_finite(outputs: Arrays) -> None:
    """Errors: `RunError` for a model whose own answers prove nothing."""
    for name, values in outputs.items():
        if not np.isfinite(values).all():
            raise RunError(
                f"the {name} of the model itself are not finite, also in torch; nothing was written",
                "its weights or its training went wrong: try --checkpoint last, or train again with a smaller --lr",
            )


def other_sizes(size: tuple[int, int], least: int) -> list[tuple[int, int]]:
    """Three other sizes, two of them odd, none of them square."""
    height, width = size
    return [(height + 5, width + 11), (max(least + 1, height * 3 // 4 | 1), width + 2), (height + 16, width * 5 // 4)]


def cases(pre: Preprocess, pixels: Sequence[np.ndarray], bundle: ModelBundle,
          sizes: Sequence[tuple[int, int]]) -> Iterator[Inputs]:  # fmt: skip
    """One image, five, then all; and two at each of the other sizes."""
    for count in BATCHES:
        yield as_inputs(pre, take(pixels, count), bundle)
    step = max(1, min(len(pixels), VALUES // (max(1, len(bundle.classes)) * pre.size[0] * pre.size[1])))
    for start in range(0, len(pixels), step):
        yield as_inputs(pre, pixels[start : start + step], bundle)
    for size in sizes:
        yield as_inputs(dataclasses.replace(pre, size=size), take(pixels, 2), bundle)


def take(pixels: Sequence[np.ndarray], count: int) -> Sequence[np.ndarray]:
    """So many images, from the first on again where there are fewer."""
    return [pixels[i % len(pixels)] for i in range(count)]


def as_inputs(pre: Preprocess, pixels: Sequence[np.ndarray], bundle: ModelBundle) -> Inputs:
    """Images as the file takes them: resized; of masks and boxes the first window of each."""
    if not bundle.task.is_dense:
        batch = torch.stack([pre.image(one) for one in pixels])
        return Inputs(batch.numpy(), np.array([batch.shape[-2:]] * len(pixels), np.int64))
    windows = [pre.windows(one)[0] for one in pixels]
    return Inputs(torch.stack([w.image for w in windows]).numpy(), np.array([w.size for w in windows], np.int64))


def compare(ours: Arrays, theirs: Arrays, inputs: Inputs, multi_label: bool) -> list[Row]:
    count, size = len(inputs.images), (inputs.images.shape[2], inputs.images.shape[3])
    return [Row(name, count, size, *COMPARE[name](ours, theirs, multi_label)) for name in theirs]


def time_both(engine: Engine, reference: Engine, inputs: Inputs) -> Timing:
    """Both in turns, so that what else the machine does slows both. For the table: nothing depends on it."""
    best = {True: float("inf"), False: float("inf")}
    begin = time.monotonic()
    for done in range(MOST_ROUNDS):
        for is_file, one in ((False, reference), (True, engine)):
            before = time.process_time()
            one.run(*inputs)
            best[is_file] = min(best[is_file], time.process_time() - before)
        if done + 1 >= LEAST_ROUNDS and time.monotonic() - begin > SECONDS:
            break
    each = 1000 / len(inputs.images)
    return Timing(best[False] * each, best[True] * each, len(inputs.images))


@contextmanager
def one_thread() -> Iterator[None]:
    """torch on one thread, as the engines of a proof."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)


@dataclass(frozen=True)
class Summary:
    """All cases of one output. error: the largest; answers, changed: of all cases, an image in several of them."""

    output: str
    batches: str
    sizes: str
    error: float
    answers: int
    changed: int


def summarise(proof: Proof) -> list[Summary]:
    """A row an output, as tables show it."""
    summaries = []
    for name in dict.fromkeys(row.output for row in proof.rows):
        rows = [row for row in proof.rows if row.output == name]
        batches, sizes = (", ".join(map(str, dict.fromkeys(one))) for one in (
            (row.batch for row in rows), (f"{row.size[0]}x{row.size[1]}" for row in rows)))  # fmt: skip
        error = max(row.error for row in rows)
        answers, changed = sum(row.answers for row in rows), sum(row.changed for row in rows)
        summaries.append(Summary(name, batches, sizes, error, answers, changed))
    return summaries
