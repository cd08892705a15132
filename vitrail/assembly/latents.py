"""Latents of a data set: computed once by an autoencoder, cached in files beside the run, and reused while nothing has
changed.

The cache key is a hash over all that the latents depend on: the autoencoder's weights and config, the images and their
preprocessing, and which flips are cached. So latents of two autoencoders are never mixed, and runs on the same data
share a cache.
"""

import dataclasses
import hashlib
import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from vitrail.assembly.autoencoder import AT_ONCE, Autoencoder, open_own_autoencoder
from vitrail.assembly.model import build_preprocess
from vitrail.data.dataset import Dataset, Split
from vitrail.data.fingerprint import fingerprint
from vitrail.data.loader import Fetcher, default_workers, evaluation_requests, load_batches
from vitrail.data.sampling import Keys
from vitrail.data.transforms.base import Transform
from vitrail.data.transforms.latents import LatentReader, data_offset
from vitrail.data.transforms.preprocess import Preprocess
from vitrail.engine.processes.world import World
from vitrail.errors import CheckpointError, DataError
from vitrail.recipe import InputConfig, Recipe
from vitrail.storage.atomic import write_file
from vitrail.storage.tensors import stream, unpack
from vitrail.validation import as_path

SHARD = 1024  # images in a file: 67 MB of 256 x 256 pixels with flips
PLAIN: tuple[int, ...] = ()  # no axis is flipped

Progress = Callable[[int, int], None]


@dataclass(frozen=True)
class EncodeTransform(Transform):
    """Images as the means of their latents, for evaluation."""

    preprocess: Preprocess
    encode: Callable[[Tensor], Tensor]  # images float [B C H W] -> means and deviations [B 2 c h w]

    @property
    def works_per_image(self) -> bool:
        return False

    def load(self, split: Split, keys: Keys) -> tuple[Tensor, Any]:
        return self.preprocess.load(split, keys)

    def batch(self, images: Tensor, keys: Keys | None = None) -> Tensor:
        return self.encode(self.preprocess.batch(images))[:, 0]

    def deterministic(self) -> "EncodeTransform":
        return self


def evaluation_transform(given: InputConfig, device: torch.device) -> Transform:
    """From decoded images to the inputs of a model, in evaluation."""
    pre = build_preprocess(given)
    return (
        pre if given.vae_hash is None else EncodeTransform(pre, open_own_autoencoder(given, device).encode_distribution)
    )


def with_cached_latents(
    dataset: Dataset, recipe: Recipe, parts: list[str], run: Path, world: World, progress: Progress | None = None
) -> tuple[Dataset, list[str]]:
    """The data set with latents in place of the images of some parts, and notes. Every process computes its own files.

    Errors: `DataError` where they cannot be written, `CheckpointError` for the autoencoder.
    """
    vae, pre = open_own_autoencoder(recipe.input, world.device), build_preprocess(recipe.input)
    folder = as_path(recipe.runtime.latents_dir) if recipe.runtime.latents_dir else run.absolute().parent / "latents"
    splits, notes = dict(dataset.splits), []
    for name in parts:
        mirrors = flip_axes(recipe) if name == "train" else [PLAIN]
        about = describe_latents(vae.hash, pre, mirrors, dataset, splits[name])
        cache = LatentCache(folder, about, vae, pre, mirrors)
        try:
            count, damaged = cache.fill(splits[name], world, progress)
            world.on_rank_zero(lambda: None)  # a barrier: all files are written
            reader = cache.reader(splits[name])
        except OSError as error:
            raise DataError(
                f"latents cannot be written to {folder}: {error.strerror or error}",
                "--runtime.latents-dir FOLDER names another folder",
            ) from None
        notes += [f"latents computed again: {reason}" for reason in damaged]
        state = f"{count:,} computed" if count else "all cached already"
        notes.append(f"latents of {len(splits[name]):,} images of {name}: {state}, in {cache.folder}")
        splits[name] = Split(splits[name].names, splits[name].labels, reader)
    return dataclasses.replace(dataset, splits=splits), notes


def flip_axes(recipe: Recipe) -> list[tuple[int, ...]]:
    """The flipped axes of each cached version of an image, none first."""
    across: list[tuple[int, ...]] = [PLAIN, (3,)] if recipe.augment.hflip else [PLAIN]
    return across + ([(2, *axes) for axes in across] if recipe.augment.vflip else [])


def describe_latents(
    vae: str, pre: Preprocess, mirrors: list[tuple[int, ...]], dataset: Dataset, split: Split
) -> dict[str, Any]:
    """Everything that latents depend on, as read back from JSON. Files are identified by name, size and time, as on
    resuming."""
    names = hashlib.sha256("\0".join(split.names).encode(errors="surrogateescape")).hexdigest()
    about = {
        "vae": vae,
        "preprocess": dataclasses.asdict(pre),
        "mirrors": mirrors,
        "data": fingerprint(dataset.entries),
        "names": names,
    }
    return json.loads(json.dumps(about))


class LatentCache:
    """The files of one part."""

    def __init__(
        self, where: Path, about: dict[str, Any], vae: Autoencoder, pre: Preprocess, mirrors: list[tuple[int, ...]]
    ):
        self.folder = where / hashlib.sha256(json.dumps(about, sort_keys=True).encode()).hexdigest()[:24]
        self.about, self.vae, self.pre, self.mirrors = about, vae, pre, mirrors
        height, width = pre.size
        self.shape = (len(mirrors), 2, vae.latents, height // vae.factor, width // vae.factor)  # of one image

    def file(self, number: int) -> Path:
        return self.folder / f"{number:05d}.safetensors"

    def fill(self, split: Split, world: World, progress: Progress | None) -> tuple[int, list[str]]:
        """Computes the files of this process that are missing or damaged: the number of images, and the damage."""
        self.folder.mkdir(parents=True, exist_ok=True)
        missing, damaged = [], []
        for number in range(world.rank, -(-len(split) // SHARD), world.size):
            reason = self.find_damage(number, len(split))
            if reason is not None:
                missing.append(members(number, len(split)))
                damaged += [reason] if reason else []
        done, total = 0, sum(map(len, missing))
        batches = [keys for some in missing for keys in evaluation_requests(split, some, AT_ONCE)]
        loaded = load_batches(
            Fetcher(split, self.pre),
            batches,
            default_workers(split, False, world.per_machine) if total > 4 * AT_ONCE else 0,
        )
        for some in missing:
            rows = []
            for _ in range(0, len(some), AT_ONCE):
                rows.append(self.encode(next(loaded).images.to(world.device)))
                done += len(rows[-1])
                if progress:
                    progress(done, total)
            write_file(self.file(int(some[0]) // SHARD), stream({"moments": torch.cat(rows)}, self.about))
        return total, damaged

    def encode(self, pixels: Tensor) -> Tensor:
        """uint8 [B C H W] -> [B T 2 c h w], on the CPU."""
        images = self.pre.batch(pixels)
        return torch.stack(
            [self.vae.encode_distribution(images.flip(axes) if axes else images) for axes in self.mirrors], dim=1
        ).cpu()

    def find_damage(self, number: int, count: int) -> str | None:
        """Why a file must be computed: "" where it is missing, None where it is valid."""
        path = self.file(number)
        if not path.is_file():
            return ""
        try:
            tensors, about = unpack(path)
        except CheckpointError as error:
            return error.what
        shape = (len(members(number, count)), *self.shape)
        return None if about == self.about and tensors["moments"].shape == shape else f"{path} has other contents"

    def reader(self, split: Split) -> LatentReader:
        return LatentReader(tuple((path, data_offset(path)) for path in self.files(len(split))), SHARD, self.shape)

    def files(self, count: int) -> Iterator[Path]:
        return (self.file(number) for number in range(-(-count // SHARD)))


def members(number: int, count: int) -> np.ndarray:
    """The images of a file."""
    return np.arange(number * SHARD, min(count, (number + 1) * SHARD))
