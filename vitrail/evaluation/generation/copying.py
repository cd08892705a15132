"""The training images nearest to made ones, to see whether a denoiser copies: by pixels at the end of a run, by the features of a
classifier where one judges."""

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
from vitrail.engine.world import World
from vitrail.metrics.copying import Nearest, compare_distances, nearest_neighbors
from vitrail.storage.atomic import write_file

SHOWN, NEIGHBOURS = 6, 3  # made images, and training images beside each
MOST, LEAST = 50_000, 1000  # training images that are looked at
PART = 20  # and of the images that a run has seen no more than so many parts
HELD_OUT = 500  # images to compare with
SIDE = 64  # pixels of a side to which images are reduced before they are compared
BATCH = 256
CLEAR = 3.0  # standard deviations from which on a difference is called one


@dataclass(frozen=True)
class CopyingReport:
    """What was found. by: "pixels" or a classifier; part: where held-out images come from; train: how many training images were looked
    at, of how many; rows: for a few made images the names of the nearest and their distances, in parts of the usual of held-out ones.
    The other numbers are those of `metrics.copying.CopyingStatistics`."""

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
    """The same with the images, uint8 [n 1+k H W C]: a made one, then its neighbours."""

    report: CopyingReport
    images: np.ndarray


def measure_by_pixels(
    made: np.ndarray, dataset: Dataset, pre: Preprocess, shown: int, mirrored: bool, world: World
) -> CopyingResult | None:
    """Of made images [N H W C] as the model makes them. seen: images that the run has been shown; mirrored: whether it saw them the
    other way round too. None where nothing is held out."""
    part = evaluation_part(dataset, final=True)
    if part == "train":
        return None
    train, held = dataset.splits["train"], dataset.splits[part]
    places, asked = evenly_spaced(len(train), min(MOST, max(LEAST, shown // PART))), evenly_spaced(len(held), HELD_OUT)
    images = torch.from_numpy(np.ascontiguousarray(made.transpose(0, 3, 1, 2)))
    queries = torch.cat([flatten_images(images), *(rows for rows, _ in read(held, asked, pre))]).to(world.device)
    if mirrored:
        others = torch.cat(
            [flatten_images(images.flip(3)), *(rows for rows, _ in read(held, asked, pre, mirrored=True))]
        ).to(world.device)
        queries = torch.stack([queries, others])
    pieces = ((rows.to(world.device), where) for rows, where in read(train, places, pre))
    return build_report("pixels", part, made, nearest_neighbors(queries, pieces, NEIGHBOURS), train, len(places), pre)


def measure_by_features(by: str, made: np.ndarray, features: tuple[Tensor, Tensor, Tensor], places: np.ndarray, dataset: Dataset, part: str,
                pre: Preprocess) -> CopyingResult:  # fmt: skip
    """The same by features of made images, of training images at `places` and of held-out ones of `part`, [N D] each."""
    of_made, of_train, of_held = features
    found = nearest_neighbors(torch.cat([of_made, of_held]), [(of_train, torch.from_numpy(places))], NEIGHBOURS)
    return build_report(by, part, made, found, dataset.splits["train"], len(places), pre)


def build_report(
    by: str, part: str, made: np.ndarray, found: Nearest, train: Split, looked: int, pre: Preprocess
) -> CopyingResult:
    """The first rows of `found` are those of made images, the others of held-out ones."""
    count = len(made)
    first = found.distances[:, 0].cpu()
    usual = float(first[count:].median().clamp(min=1e-12))
    shown = evenly_spaced(count, SHOWN)
    chosen = torch.from_numpy(shown)
    near, far = found.indices.cpu()[chosen].numpy(), (found.distances.cpu()[chosen] / usual).tolist()
    rows = [
        {"names": [train.names[i] for i in some.tolist()], "distances": parts}
        for some, parts in zip(near, far, strict=True)
    ]
    beside = Fetcher(train, pre)(Keys(np.zeros(near.size, np.int64), near.ravel())).images.permute(0, 2, 3, 1).numpy()
    images = np.concatenate([made[shown][:, None], beside.reshape(*near.shape, *beside.shape[1:])], axis=1)
    values = compare_distances(first[:count], first[count:])
    return CopyingResult(
        CopyingReport(by, part, count, len(first) - count, looked, len(train), *values, rows=tuple(rows)), images
    )


def read(split: Split, places: np.ndarray, pre: Preprocess, mirrored: bool = False) -> Iterator[tuple[Tensor, Tensor]]:
    """Piece by piece the images at some places as numbers to compare, and the places."""
    workers = default_workers(split, False, 1) if len(places) > 4 * BATCH else 0
    for loaded in load_batches(Fetcher(split, pre), evaluation_requests(split, places, BATCH), workers):
        yield flatten_images(loaded.images.flip(3) if mirrored else loaded.images), torch.from_numpy(loaded.keys.ids)


def flatten_images(images: Tensor) -> Tensor:
    """uint8 [B C h w] -> [B D], in which a distance is the root of the mean squared difference in [-1, 1]."""
    x = images.float() / 127.5 - 1
    times = -(-max(x.shape[2:]) // SIDE)
    if times > 1:
        x = F.avg_pool2d(x, times, ceil_mode=True)
    return x.flatten(1) / x[0].numel() ** 0.5


def describe_copying(found: CopyingReport) -> str:
    """What the numbers say, plainly."""
    kind = "pixels" if found.by == "pixels" else f"the features of {found.by}"
    how = (
        ("closer to" if found.deviations > 0 else "farther from")
        if abs(found.deviations) > CLEAR
        else "about as close to"
    )
    than = "as" if how.startswith("about") else "than"
    some = (
        f"{found.train:,} of {found.of:,} training images"
        if found.train < found.of
        else f"all {found.of:,} training images"
    )
    each = f"{found.nearer:,} lie" if found.nearer > 1 else "1 lies" if found.nearer else "none lies"
    return (
        f"By {kind}, made images lie {how} training images {than} held-out ones do: at {found.relative:.2f} times their distance "
        f"(median), and closer in {found.closer:.0%} of pairs; {each} closer than any held-out one. {found.made:,} made and "
        f"{found.held_out:,} held-out images ({found.part}), compared with {some}."
    )


def write_copying(folder: Path, kind: str, copied: CopyingResult | None) -> None:
    """Into copying-KIND.json and .npz; nothing where nothing was found."""
    if copied is None:
        return
    folder.mkdir(exist_ok=True)
    packed = io.BytesIO()
    np.savez_compressed(packed, images=copied.images)
    write_file(folder / f"copying-{kind}.npz", packed.getvalue())
    said = json.dumps(dataclasses.asdict(copied.report), indent=1, ensure_ascii=False)
    write_file(folder / f"copying-{kind}.json", said.encode(errors="surrogateescape"))


def read_copying(folder: Path, kinds: Sequence[str] = ("pixels", "features")) -> list[CopyingResult]:
    """What was written, as far as it can be read."""
    found = []
    for kind in kinds:
        try:
            said = json.loads((folder / f"copying-{kind}.json").read_text(encoding="utf-8"))
            with (
                (folder / f"copying-{kind}.npz").open("rb") as file,
                np.load(file) as kept,
            ):  # numpy leaves what is damaged open
                found.append(CopyingResult(CopyingReport(**said), kept["images"]))
        except (OSError, ValueError, KeyError, TypeError, EOFError):
            continue
    return found
