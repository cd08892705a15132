"""The training images nearest to generated ones, to detect copying: by pixels at the end of a run, by the features of a
classifier in `vitrail eval --features`."""

import dataclasses
import io
import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from vitrail.data.dataset import Dataset, Split
from vitrail.data.loader import Fetcher, default_workers, evaluation_requests, load_batches
from vitrail.data.sampling import Keys
from vitrail.data.splits import evaluation_part
from vitrail.data.subset import evenly_spaced
from vitrail.data.transforms.preprocess import Preprocess
from vitrail.engine.processes.world import World
from vitrail.metrics.copying import Nearest, compare_distances, nearest_neighbors
from vitrail.storage.atomic import write_file
from vitrail.storage.json_text import to_json

SHOWN, NEIGHBOURS = 6, 3  # generated images, and training images beside each
MOST, LEAST = 50_000, 1000  # training images to compare with
PART = 20  # and at most one twentieth of the images that a run has trained on
HELD_OUT = 500  # held-out images to compare with
SIDE = 64  # pixels of a side to which images are reduced before they are compared
BATCH = 256
SIGNIFICANT = 3.0  # standard deviations of a significant difference


@dataclass(frozen=True)
class CopyingReport:
    """The result. by: "pixels" or a classifier; part: the split of the held-out images; train: how many training images
    were compared, of how many; rows: for a few generated images the names of the nearest and their distances, relative
    to the median of held-out ones. The other numbers are those of `metrics.copying.CopyingStatistics`."""

    by: str
    part: str
    made: int
    held_out: int
    train: int
    of: int
    relative: float
    closer: float
    deviations: float
    nearer: int
    rows: tuple[dict[str, Any], ...]


@dataclass(frozen=True)
class CopyingResult:
    """The same with the images, uint8 [n 1+k H W C]: a generated one, then its neighbours."""

    report: CopyingReport
    images: np.ndarray


def measure_by_pixels(
    made: np.ndarray, dataset: Dataset, pre: Preprocess, shown: int, mirrored: bool, world: World
) -> CopyingResult | None:
    """Of generated images [N H W C]. shown: images that the run has trained on; mirrored: whether also flipped. None
    where nothing is held out."""
    part = evaluation_part(dataset, final=True)
    if part == "train":
        return None
    train, held_out = dataset.splits["train"], dataset.splits[part]
    indices = evenly_spaced(len(train), min(MOST, max(LEAST, shown // PART)))
    reference = evenly_spaced(len(held_out), HELD_OUT)
    images = torch.from_numpy(np.ascontiguousarray(made.transpose(0, 3, 1, 2)))
    queries = torch.cat([flatten_images(images), *(rows for rows, _ in read_rows(held_out, reference, pre))]).to(
        world.device
    )
    if mirrored:
        others = torch.cat(
            [flatten_images(images.flip(3)), *(rows for rows, _ in read_rows(held_out, reference, pre, mirrored=True))]
        ).to(world.device)
        queries = torch.stack([queries, others])
    batches = ((rows.to(world.device), where) for rows, where in read_rows(train, indices, pre))
    nearest = nearest_neighbors(queries, batches, NEIGHBOURS)
    return build_report("pixels", part, made, nearest, train, len(indices), pre)


def measure_by_features(
    by: str,
    made: np.ndarray,
    features: tuple[Tensor, Tensor, Tensor],
    indices: np.ndarray,
    dataset: Dataset,
    part: str,
    pre: Preprocess,
) -> CopyingResult:
    """The same by features of generated images, of training images at `indices` and of held-out ones of `part`, [N D]
    each."""
    of_made, of_train, of_held_out = features
    queries = torch.cat([of_made, of_held_out])
    nearest = nearest_neighbors(queries, [(of_train, torch.from_numpy(indices))], NEIGHBOURS)
    return build_report(by, part, made, nearest, dataset.splits["train"], len(indices), pre)


def build_report(
    by: str, part: str, made: np.ndarray, nearest: Nearest, train: Split, compared: int, pre: Preprocess
) -> CopyingResult:
    """The first rows of `nearest` are those of generated images, the others of held-out ones."""
    count = len(made)
    first = nearest.distances[:, 0].cpu()
    median = float(first[count:].median().clamp(min=1e-12))
    shown = evenly_spaced(count, SHOWN)
    chosen = torch.from_numpy(shown)
    near, far = nearest.indices.cpu()[chosen].numpy(), (nearest.distances.cpu()[chosen] / median).tolist()
    rows = [
        {"names": [train.names[i] for i in some.tolist()], "distances": parts}
        for some, parts in zip(near, far, strict=True)
    ]
    neighbours = (
        Fetcher(train, pre)(Keys(np.zeros(near.size, np.int64), near.ravel())).images.permute(0, 2, 3, 1).numpy()
    )
    images = np.concatenate([made[shown][:, None], neighbours.reshape(*near.shape, *neighbours.shape[1:])], axis=1)
    values = compare_distances(first[:count], first[count:])
    return CopyingResult(
        CopyingReport(by, part, count, len(first) - count, compared, len(train), *values, rows=tuple(rows)), images
    )


def read_rows(
    split: Split, indices: np.ndarray, pre: Preprocess, mirrored: bool = False
) -> Iterator[tuple[Tensor, Tensor]]:
    """Batches of images at some indices as rows to compare, and the indices."""
    workers = default_workers(split, False, 1) if len(indices) > 4 * BATCH else 0
    for loaded in load_batches(Fetcher(split, pre), evaluation_requests(split, indices, BATCH), workers):
        yield flatten_images(loaded.images.flip(3) if mirrored else loaded.images), torch.from_numpy(loaded.keys.ids)


def flatten_images(images: Tensor) -> Tensor:
    """uint8 [B C h w] -> [B D], scaled so that distances are root mean squared differences in [-1, 1]."""
    x = images.float() / 127.5 - 1
    times = -(-max(x.shape[2:]) // SIDE)
    if times > 1:
        x = F.avg_pool2d(x, times, ceil_mode=True)
    return x.flatten(1) / x[0].numel() ** 0.5


def describe_copying(report: CopyingReport) -> str:
    """The result in words."""
    kind = "pixels" if report.by == "pixels" else f"the features of {report.by}"
    how = (
        ("closer to" if report.deviations > 0 else "farther from")
        if abs(report.deviations) > SIGNIFICANT
        else "about as close to"
    )
    than = "as" if how.startswith("about") else "than"
    some = (
        f"{report.train:,} of {report.of:,} training images"
        if report.train < report.of
        else f"all {report.of:,} training images"
    )
    each = f"{report.nearer:,} are" if report.nearer > 1 else "1 is" if report.nearer else "none is"
    return (
        f"By {kind}, generated images are {how} training images {than} held-out ones are: "
        f"at {report.relative:.2f} times their distance (median), "
        f"and closer in {report.closer:.0%} of pairs; {each} closer than any held-out one. "
        f"{report.made:,} generated and {report.held_out:,} held-out images ({report.part}), compared with {some}."
    )


def write_copying(folder: Path, kind: str, copied: CopyingResult | None) -> None:
    """Writes copying-KIND.json and .npz, if there is a result."""
    if copied is None:
        return
    folder.mkdir(exist_ok=True)
    packed = io.BytesIO()
    np.savez_compressed(packed, images=copied.images)
    write_file(folder / f"copying-{kind}.npz", packed.getvalue())
    text = to_json(dataclasses.asdict(copied.report), indent=1, ensure_ascii=False)
    write_file(folder / f"copying-{kind}.json", text.encode(errors="surrogateescape"))


def read_copying(folder: Path, kinds: Sequence[str] = ("pixels", "features")) -> list[CopyingResult]:
    """The results that were written, as far as they can be read."""
    results = []
    for kind in kinds:
        try:
            values = json.loads((folder / f"copying-{kind}.json").read_text(encoding="utf-8"))
            with (folder / f"copying-{kind}.npz").open("rb") as file, np.load(file) as arrays:
                results.append(CopyingResult(CopyingReport(**values), arrays["images"]))
        except (OSError, ValueError, KeyError, TypeError, EOFError):
            continue
    return results
