"""The features of a frozen model, computed once and cached in the run's folder."""

import dataclasses
import hashlib
import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from vitrail.contracts import trunk_of
from vitrail.data.dataset import ArrayReader, Dataset, Split
from vitrail.data.fingerprint import fingerprint
from vitrail.data.loader import Fetcher, default_workers, evaluation_requests, load_batches
from vitrail.data.transforms.preprocess import Preprocess
from vitrail.engine.evaluate import predict
from vitrail.engine.precision import Precision
from vitrail.engine.processes.world import World
from vitrail.errors import CheckpointError, DataError, RunError
from vitrail.inference.predictor import Predictor
from vitrail.storage.atomic import write_file
from vitrail.storage.json_text import to_json
from vitrail.storage.tensors import digest, stream, unpack
from vitrail.version import __version__

BATCH = 256

Progress = Callable[[int, int], None]


def summaries(net: Any, images: Tensor, labels: Tensor, ids: np.ndarray) -> Tensor:
    """The backbone's summaries side by side, [B D]."""
    return torch.cat(net.backbone(images).summaries, dim=1)


def part_features(
    predictor: Predictor,
    dataset: Dataset,
    part: str,
    cache_dir: Path | None,
    world: World,
    progress: Progress | None = None,
) -> tuple[Tensor, list[str]]:
    """The features of a split [N D], in the order of its images, and notes; from the cache if it has them."""
    split = dataset.splits[part]
    if not len(split):
        raise DataError(f"there is nothing to probe with: the part {part} is empty", "--split names another part")
    notes: list[str] = []
    if cache_dir is not None:
        file, about = feature_file(predictor, dataset, part, cache_dir)
        cached, notes = read_features(file, about, len(split))
        if cached is not None:
            return cached, notes
    features = compute_features(predictor.model, split, predictor.preprocess, world, progress)
    if not torch.isfinite(features).all():
        bad = (~torch.isfinite(features).all(1)).nonzero()[:, 0]
        raise RunError(
            f"the features of {len(bad):,} images are not finite, the first: {split.names[int(bad[0])]}",
            "these weights cannot be used; use an earlier checkpoint",
        )
    if cache_dir is not None:
        notes += save_features(predictor, dataset, part, cache_dir, features)
    return features, notes


def feature_file(predictor: Predictor, dataset: Dataset, part: str, cache_dir: Path) -> tuple[Path, dict[str, Any]]:
    """The file of the features of a split, named after all that they depend on, which is the second."""
    about = describe_features(predictor, dataset, part)
    name = hashlib.sha256(to_json(about, sort_keys=True).encode()).hexdigest()[:32]
    return cache_dir / f"{name}.safetensors", about


def save_features(predictor: Predictor, dataset: Dataset, part: str, cache_dir: Path, features: Tensor) -> list[str]:
    """Writes features that were computed into the cache; returns notes."""
    file, about = feature_file(predictor, dataset, part, cache_dir)
    return write_features(file, features, about)


def image_features(
    predictor: Predictor, images: np.ndarray, labels: Sequence[int], world: World
) -> tuple[Split, Tensor]:
    """Images uint8 [N H W C] as a split, and its features [N D]."""
    split = Split([str(i) for i in range(len(images))], np.array(labels, np.int64), ArrayReader(images))
    return split, compute_features(predictor.model, split, predictor.preprocess, world)


def compute_features(
    net: nn.Module, split: Split, pre: Preprocess, world: World, progress: Progress | None = None
) -> Tensor:
    """The backbone's summaries of every image, fp32 on the CPU."""
    workers = default_workers(split, False, 1) if len(split) > 4 * BATCH else 0
    batches = load_batches(Fetcher(split, pre), evaluation_requests(split, np.arange(len(split)), BATCH), workers)
    parts, done = [], 0
    for _, rows in predict(net, summaries, batches, pre.batch, Precision("fp32", world.device.type)):
        parts.append(rows)
        done += len(rows)
        if progress is not None:
            progress(done, len(split))
    return torch.cat(parts)


def describe_features(predictor: Predictor, dataset: Dataset, part: str) -> dict[str, Any]:
    """Everything that features depend on. Files are identified by name, size and time, as on resuming."""
    backbone = trunk_of(predictor.model)
    config = dataclasses.asdict(backbone.config)
    names = hashlib.sha256("\0".join(dataset.splits[part].names).encode(errors="surrogateescape")).hexdigest()
    about = {
        "model": {"name": predictor.recipe.model.name, **config},
        "weights": digest({k: v.cpu() for k, v in backbone.state_dict().items()}, {}),
        "preprocess": dataclasses.asdict(predictor.preprocess),
        "data": fingerprint(dataset.entries),
        "part": part,
        "names": names,
        "version": __version__,
    }
    return json.loads(to_json(about, default=str))  # as it is read back


def read_features(file: Path, about: dict[str, Any], count: int) -> tuple[Tensor | None, list[str]]:
    """The features in a file; None where it is missing, damaged or has others."""
    if not file.is_file():
        return None, []
    try:
        tensors, metadata = unpack(file)
    except CheckpointError as error:
        return None, [f"the cached features are computed again: {error.what}"]
    features = tensors.get("features")
    if metadata != about or features is None or len(features) != count:
        return None, [f"the cached features are computed again: {file} has others"]
    return features, [f"features from {file}"]


def write_features(file: Path, features: Tensor, about: dict[str, Any]) -> list[str]:
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        write_file(file, stream({"features": features}, about))
    except OSError as error:
        return [f"the features could not be cached: {error.strerror or error} at {file.parent}"]
    return [f"features cached in {file}"]
