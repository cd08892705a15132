"""Latents of a data set: computed once by an autoencoder, kept in files beside the run, and taken again wherever nothing has changed.

A file is known by a hash over all that its numbers depend on: the autoencoder's weights and config, the images and their preparation,
and which mirror images are kept. So latents of two autoencoders never come together, and runs on the same data share theirs.
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

from vitrail.assembly.autoencoder import AT_ONCE, Autoencoder, open_autoencoder
from vitrail.assembly.model import build_preprocess
from vitrail.data.dataset import Dataset, Split
from vitrail.data.fingerprint import fingerprint
from vitrail.data.loader import Fetcher, default_workers, evaluation_requests, load_batches
from vitrail.data.sampling import Keys
from vitrail.data.transforms.base import Transform
from vitrail.data.transforms.latents import LatentReader, data_offset
from vitrail.data.transforms.preprocess import Preprocess
from vitrail.engine.world import World
from vitrail.errors import CheckpointError, DataError
from vitrail.facts import LatentShape
from vitrail.recipe import InputConfig, Recipe
from vitrail.storage.atomic import write_file
from vitrail.storage.tensors import pack, unpack
from vitrail.validation import as_path

SHARD = 1024  # images in a file: 67 MB of 256 x 256 pixels with mirror images
PLAIN: tuple[int, ...] = ()  # no axis is mirrored

Progress = Callable[[int, int], None]


def resolve_autoencoder(recipe: Recipe) -> tuple[Recipe, LatentShape | None]:
    """The recipe with the hash and the whole path of its autoencoder, and what that makes of images. Errors: `CheckpointError`."""
    if recipe.input.vae is None:
        if recipe.input.vae_hash is not None:
            raise CheckpointError(
                "the run begins with a model of latents, and nothing says where its autoencoder lies",
                "--input.vae FOLDER",
            )
        return recipe, None
    path = as_path(recipe.input.vae).absolute()
    vae = open_autoencoder(path, wanted=recipe.input.vae_hash)
    given = dataclasses.replace(recipe.input, vae=str(path), vae_hash=vae.hash)
    return dataclasses.replace(recipe, input=given), LatentShape(vae.channels, vae.latents, vae.factor)


def autoencoder(given: InputConfig, device: torch.device) -> Autoencoder:
    """That of a model. Errors: `CheckpointError` where nobody knows where it lies, or another lies there."""
    if given.vae is None:
        raise CheckpointError(
            "the model makes latents, and this file does not say where its autoencoder lies", "--vae FOLDER says it"
        )
    path = as_path(given.vae)
    if not path.is_dir():
        raise CheckpointError(
            f"the autoencoder of the model is not at {path} any more", "--vae FOLDER says where it is"
        )
    return open_autoencoder(path, device, given.vae_hash)


def relocate_autoencoder(recipe: Recipe, vae: str) -> Recipe:
    """The recipe with its autoencoder at another place, where one is said. Errors: `CheckpointError` for a model without one."""
    if not vae:
        return recipe
    if recipe.input.vae_hash is None:
        raise CheckpointError("the model was trained on pixels and has no autoencoder", "leave --vae out")
    return dataclasses.replace(recipe, input=dataclasses.replace(recipe.input, vae=vae))


def build_decoder(given: InputConfig, device: torch.device) -> Callable[[Tensor], Tensor]:
    """From what a model makes to images in [-1, 1]: nothing to do for a model of pixels."""
    return (lambda made: made) if given.vae_hash is None else autoencoder(given, device).decode


@dataclass(frozen=True)
class EncodeTransform(Transform):
    """Images as the means of their latents, for looking at each once."""

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
    """From images as they are read to what a model takes, as evaluation sees them."""
    pre = build_preprocess(given)
    return pre if given.vae_hash is None else EncodeTransform(pre, autoencoder(given, device).encode_moments)


def with_cached_latents(dataset: Dataset, recipe: Recipe, parts: list[str], run: Path, world: World,
            progress: Progress | None = None) -> tuple[Dataset, list[str]]:  # fmt: skip
    """The data set with latents in place of the images of some parts, and what there is to say. Every process computes its own files.

    Errors: `DataError` where they cannot be kept, `CheckpointError` for the autoencoder.
    """
    vae, pre = autoencoder(recipe.input, world.device), build_preprocess(recipe.input)
    where = as_path(recipe.runtime.latents_dir) if recipe.runtime.latents_dir else run.absolute().parent / "latents"
    splits, notes = dict(dataset.splits), []
    for name in parts:
        mirrors = uses_mirrors(recipe) if name == "train" else [PLAIN]
        about = describe_latents(vae.hash, pre, mirrors, dataset, splits[name])
        shelf = LatentCache(where, about, vae, pre, mirrors)
        try:
            made, damaged = shelf.fill(splits[name], world, progress)
            world.on_rank_zero(lambda: None)  # all files are there
            reader = shelf.reader(splits[name])
        except OSError as error:
            raise DataError(
                f"latents cannot be kept at {where}: {error.strerror or error}",
                "--runtime.latents-dir FOLDER says where",
            ) from None
        notes += [f"latents computed again: {reason}" for reason in damaged]
        told = f"{made:,} computed" if made else "all there already"
        notes.append(f"latents of {len(splits[name]):,} images of {name}: {told}, in {shelf.folder}")
        splits[name] = Split(splits[name].names, splits[name].labels, reader)
    return dataclasses.replace(dataset, splits=splits), notes


def uses_mirrors(recipe: Recipe) -> list[tuple[int, ...]]:
    """The axes of a batch that are mirrored in each kept image, the image itself first."""
    across: list[tuple[int, ...]] = [PLAIN, (3,)] if recipe.augment.hflip else [PLAIN]
    return across + ([(2, *axes) for axes in across] if recipe.augment.vflip else [])


def describe_latents(
    vae: str, pre: Preprocess, mirrors: list[tuple[int, ...]], dataset: Dataset, split: Split
) -> dict[str, Any]:
    """Everything that latents depend on, as it is read back. Files are told apart by name, size and time of change, as on resuming."""
    names = hashlib.sha256("\0".join(split.names).encode(errors="surrogateescape")).hexdigest()
    said = {
        "vae": vae,
        "preprocess": dataclasses.asdict(pre),
        "mirrors": mirrors,
        "data": fingerprint(dataset.entries),
        "names": names,
    }
    return json.loads(json.dumps(said))


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
        """Computes the files of this process that are missing or damaged: how many images, and what was damaged."""
        self.folder.mkdir(parents=True, exist_ok=True)
        missing, damaged = [], []
        for number in range(world.rank, -(-len(split) // SHARD), world.size):
            reason = self.is_damaged(number, len(split))
            if reason is not None:
                missing.append(members(number, len(split)))
                damaged += [reason] if reason else []
        done, total = 0, sum(map(len, missing))
        batches = [keys for some in missing for keys in evaluation_requests(split, some, AT_ONCE)]
        loaded = load_batches(
            Fetcher(split, self.pre), batches, default_workers(split, False, world.size) if total > 4 * AT_ONCE else 0
        )
        for some in missing:
            rows = []
            for _ in range(0, len(some), AT_ONCE):
                rows.append(self.encode(next(loaded).images.to(world.device)))
                done += len(rows[-1])
                if progress:
                    progress(done, total)
            write_file(self.file(int(some[0]) // SHARD), pack({"moments": torch.cat(rows)}, self.about))
        return total, damaged

    def encode(self, pictures: Tensor) -> Tensor:
        """uint8 [B C H W] -> [B T 2 c h w], on the CPU."""
        images = self.pre.batch(pictures)
        return torch.stack(
            [self.vae.encode_moments(images.flip(axes) if axes else images) for axes in self.mirrors], dim=1
        ).cpu()

    def is_damaged(self, number: int, count: int) -> str | None:
        """Why a file must be computed: "" where there is none, None where it is whole."""
        path = self.file(number)
        if not path.is_file():
            return ""
        try:
            tensors, about = unpack(path)
        except CheckpointError as error:
            return error.what
        shape = (len(members(number, count)), *self.shape)
        return None if about == self.about and tensors["moments"].shape == shape else f"{path} holds others"

    def reader(self, split: Split) -> LatentReader:
        return LatentReader(tuple((path, data_offset(path)) for path in self.files(len(split))), SHARD, self.shape)

    def files(self, count: int) -> Iterator[Path]:
        return (self.file(number) for number in range(-(-count // SHARD)))


def members(number: int, count: int) -> np.ndarray:
    """The images of a file."""
    return np.arange(number * SHARD, min(count, (number + 1) * SHARD))
