"""The index of a search: an embedding of each image, kept in the cache by the model and the place of the images. What
is new or has changed is embedded at the next search, what is gone is dropped."""

import hashlib
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

from vitrail.assembly.load import hash_weights
from vitrail.data.index.arrays import check_arrays, encode_arrays, map_arrays
from vitrail.data.index.names import Names, pack_names
from vitrail.data.loader import Fetcher, default_workers, evaluation_requests, load_batches
from vitrail.data.survey.unreadable import StandIns
from vitrail.engine.evaluate import predict
from vitrail.errors import BadImage, DataError, RunError, VitrailError
from vitrail.inference.embeddings import embed
from vitrail.inference.predictor import Predictor
from vitrail.inference.search.images import SearchedImages
from vitrail.storage.cache_folder import cache_folder, keep_file, touch
from vitrail.storage.json_text import to_json

FORMAT = "vitrail-search-1"
NEWEST = 16  # indices that are kept
BATCH = 128
AT_ONCE = 20_000  # images after which the index is written, so that little is lost when it is stopped
KINDS = {
    "names.text": np.uint8, "names.starts": np.int64, "names.ends": np.int64, "stamps": np.int64,
    "embeddings": np.float32, "unread": np.uint8,
}  # fmt: skip
Progress = Callable[[int, int], None]


@dataclass(frozen=True)
class SearchIndex:
    """names, stamps [N 2]: of the images; embeddings: float32 [N E], zeros of an image that cannot be read; unread:
    bool [N]."""

    names: Names
    stamps: np.ndarray
    embeddings: np.ndarray
    unread: np.ndarray


class IndexChanges(NamedTuple):
    """How many images were new since the last search, how many had changed, how many were gone; reasons: why images
    could not be read, of those that were tried now. is_new: there was no index; is_kept: there is one now."""

    new: int
    changed: int
    gone: int
    reasons: tuple[str, ...] = ()
    is_new: bool = False
    is_kept: bool = True


def index_path(predictor: Predictor, images: SearchedImages) -> Path:
    """Named after all that embeddings depend on, but for the images themselves."""
    about = [
        FORMAT,
        hash_weights(predictor.source),
        asdict(predictor.preprocess),
        predictor.choice.name,
        images.location,
    ]
    digest = hashlib.sha256(to_json(about, default=str).encode()).hexdigest()
    return cache_folder() / "search" / f"{digest[:32]}.index"


def read_index(path: Path) -> SearchIndex | None:
    """The index in a file; None where there is none, or it is damaged, or that of another model or other images."""
    try:
        about, arrays = map_arrays(path)
        check_arrays(arrays, KINDS, str(path))
        if (about["format"], about["name"]) != (FORMAT, path.stem):
            return None
        names = Names(*(arrays[f"names.{key}"] for key in ("text", "starts", "ends")))
        rows = {len(names), len(names.ends), *(len(arrays[key]) for key in ("stamps", "embeddings", "unread"))}
        if len(rows) != 1 or arrays["embeddings"].ndim != 2 or arrays["stamps"].shape[1:] != (2,):
            return None
    except (VitrailError, OSError, KeyError, TypeError, ValueError):
        return None
    touch(path)
    return SearchIndex(names, arrays["stamps"], arrays["embeddings"], np.asarray(arrays["unread"]).astype(bool))


def write_index(path: Path, index: SearchIndex) -> bool:
    """Whether it could be written."""
    arrays = {
        "names.text": index.names.text, "names.starts": index.names.starts, "names.ends": index.names.ends,
        "stamps": index.stamps, "embeddings": index.embeddings, "unread": index.unread.astype(np.uint8),
    }  # fmt: skip
    return keep_file(path, encode_arrays(to_json({"format": FORMAT, "name": path.stem}), arrays), NEWEST)


def build_index(
    predictor: Predictor, images: SearchedImages, rebuild: bool = False, progress: Progress | None = None
) -> tuple[SearchIndex, IndexChanges]:
    """The index of the images as they are now, in their order. rebuild: nothing of an index that is there is used.
    Errors: `DataError` where no image can be read."""
    path, count = index_path(predictor, images), len(images.split)
    before = None if rebuild else read_index(path)
    known = {} if before is None else {name: i for i, name in enumerate(before.names)}
    at = np.fromiter((known.get(name, -1) for name in images.split.names), np.int64, count)
    same = at >= 0
    if before is not None:
        same[same] = (np.asarray(before.stamps)[at[same]] == images.stamps[same]).all(1)
    todo = np.flatnonzero(~same)
    gone = len(known) - int((at >= 0).sum())
    changes = IndexChanges(int((at < 0).sum()), int((~same & (at >= 0)).sum()), gone, (), before is None)
    if before is not None and not len(todo) and not gone and (at == np.arange(count)).all():
        return readable(before), changes
    width = before.embeddings.shape[1] if before is not None else probe_width(predictor)
    embeddings, unread = np.zeros((count, width), np.float32), np.zeros(count, bool)
    if before is not None:
        embeddings[same], unread[same] = before.embeddings[at[same]], before.unread[at[same]]
    reasons, done = list[str](), same.copy()
    for start in range(0, len(todo), AT_ONCE):
        part = todo[start : start + AT_ONCE]
        embeddings[part], lost = embed_part(predictor, images, part, shift_progress(progress, start, len(todo)))
        unread[list(lost)] = True
        reasons += lost.values()
        done[part] = True
        if start + AT_ONCE < len(todo):
            keep(path, images, np.flatnonzero(done), embeddings, unread)
    index, is_kept = keep(path, images, np.arange(count), embeddings, unread)
    return readable(index, *reasons[:1]), changes._replace(reasons=tuple(reasons), is_kept=is_kept)


def readable(index: SearchIndex, reason: str = "") -> SearchIndex:
    """The index, of which at least one image can be read. Errors: `DataError` otherwise; reason: why not, of one."""
    if index.unread.all():
        what = f"no image can be read, the first: {reason or index.names[0]}"
        raise DataError(what, "repair them, or give a folder with others")
    return index


def shift_progress(progress: Progress | None, first: int, total: int) -> Progress | None:
    """The progress of a part that begins behind `first` images of `total`."""
    return None if progress is None else (lambda done, _: progress(first + done, total))


def keep(
    path: Path, images: SearchedImages, own: np.ndarray, embeddings: np.ndarray, unread: np.ndarray
) -> tuple[SearchIndex, bool]:
    """The index of the images at some indices, and whether it could be written."""
    names = pack_names([images.split.names[i] for i in own.tolist()])
    index = SearchIndex(names, images.stamps[own], embeddings[own], unread[own])
    return index, write_index(path, index)


@torch.no_grad()
def probe_width(predictor: Predictor) -> int:
    """The numbers of an embedding."""
    pre = predictor.preprocess
    blank = torch.zeros(1, pre.channels, *pre.size, device=next(predictor.model.parameters()).device)
    predictor.model.eval()
    return embed(predictor.model, blank).shape[1]


def embed_part(
    predictor: Predictor, images: SearchedImages, own: np.ndarray, progress: Progress | None
) -> tuple[np.ndarray, dict[int, str]]:
    """The embeddings float32 [n E] of the images at some indices, zeros of those that cannot be read, and why by their
    indices in all. Errors: `RunError` for embeddings that are no numbers."""
    split = images.split.select(own)
    workers = default_workers(split, False, 1) if len(split) > 4 * BATCH else 0
    fetch = Fetcher(split, predictor.preprocess, StandIns())
    rows, lost, done = list[np.ndarray](), dict[int, str](), 0
    try:
        batches = load_batches(fetch, evaluation_requests(split, np.arange(len(split)), BATCH), workers)
        for loaded, part in predict(predictor.model, row, batches, predictor.preprocess.batch, predictor.precision):
            values = part.numpy().copy()
            for one in loaded.lost:
                values[one.position] = 0
                lost[int(own[one.number])] = one.reason
            rows.append(values)
            done += len(values)
            if progress:
                progress(done, len(split))
    except BadImage:  # none of them stands in for the others: each by itself
        return embed_each(predictor, images, own)
    found = np.concatenate(rows)
    if not np.isfinite(found).all():
        raise RunError("the embeddings of images are not finite", "these weights cannot be used; try --checkpoint last")
    return found, lost


def row(model: nn.Module, images: Tensor, labels: Tensor, ids: np.ndarray) -> Tensor:
    return embed(model, images)


def embed_each(predictor: Predictor, images: SearchedImages, own: np.ndarray) -> tuple[np.ndarray, dict[int, str]]:
    """As `embed_part`, image by image, where nearly none can be read."""
    found, lost = np.zeros((len(own), probe_width(predictor)), np.float32), dict[int, str]()
    for place, number in enumerate(own.tolist()):
        split = images.split.select(np.array([number]))
        try:
            batches = load_batches(Fetcher(split, predictor.preprocess), evaluation_requests(split, np.arange(1), 1), 0)
            parts = predict(predictor.model, row, batches, predictor.preprocess.batch, predictor.precision)
            found[place] = next(iter(parts))[1][0].numpy()
        except BadImage as error:
            lost[number] = error.what
    return found, lost
