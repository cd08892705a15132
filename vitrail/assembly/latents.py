"""Latents of a data set: computed once by an autoencoder, kept in files beside the run, and taken again wherever nothing has changed.

A file is known by a hash over all that its numbers depend on: the autoencoder's weights and config, the pictures and their preparation,
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

from vitrail.assembly.autoencoder import AT_ONCE, Autoencoder, opened
from vitrail.assembly.model import preprocess
from vitrail.data.dataset import Dataset, Split
from vitrail.data.fingerprint import fingerprint
from vitrail.data.loader import Fetch, default_workers, evaluation, load
from vitrail.data.sampling import Keys
from vitrail.data.transforms.base import Transform
from vitrail.data.transforms.latents import LatentReader, begins
from vitrail.data.transforms.preprocess import Preprocess
from vitrail.engine.world import World
from vitrail.errors import CheckpointError, DataError
from vitrail.facts import Coded
from vitrail.recipe import Input, Recipe
from vitrail.storage.atomic import write_file
from vitrail.storage.tensors import pack, unpack
from vitrail.validation import place

SHARD = 1024  # pictures in a file: 67 MB of 256 x 256 pixels with mirror images
PLAIN: tuple[int, ...] = ()  # no axis is mirrored

Progress = Callable[[int, int], None]


def known(recipe: Recipe) -> tuple[Recipe, Coded | None]:
    """The recipe with the hash and the whole path of its autoencoder, and what that makes of pictures. Errors: `CheckpointError`."""
    if recipe.input.vae is None:
        if recipe.input.vae_hash is not None:
            raise CheckpointError(
                "the run begins with a model of latents, and nothing says where its autoencoder lies", "--input.vae FOLDER"
            )
        return recipe, None
    path = place(recipe.input.vae).absolute()
    vae = opened(path, wanted=recipe.input.vae_hash)
    given = dataclasses.replace(recipe.input, vae=str(path), vae_hash=vae.hash)
    return dataclasses.replace(recipe, input=given), Coded(vae.channels, vae.latents, vae.factor)


def autoencoder(given: Input, device: torch.device) -> Autoencoder:
    """That of a model. Errors: `CheckpointError` where nobody knows where it lies, or another lies there."""
    if given.vae is None:
        raise CheckpointError("the model makes latents, and this file does not say where its autoencoder lies", "--vae FOLDER says it")
    path = place(given.vae)
    if not path.is_dir():
        raise CheckpointError(f"the autoencoder of the model is not at {path} any more", "--vae FOLDER says where it is")
    return opened(path, device, given.vae_hash)


def elsewhere(recipe: Recipe, vae: str) -> Recipe:
    """The recipe with its autoencoder at another place, where one is said. Errors: `CheckpointError` for a model without one."""
    if not vae:
        return recipe
    if recipe.input.vae_hash is None:
        raise CheckpointError("the model was trained on pixels and has no autoencoder", "leave --vae out")
    return dataclasses.replace(recipe, input=dataclasses.replace(recipe.input, vae=vae))


def decoder(given: Input, device: torch.device) -> Callable[[Tensor], Tensor]:
    """From what a model makes to pictures in [-1, 1]: nothing to do for a model of pixels."""
    return (lambda made: made) if given.vae_hash is None else autoencoder(given, device).decode


@dataclass(frozen=True)
class Encoded(Transform):
    """Pictures as the means of their latents, for looking at each once."""

    preprocess: Preprocess
    encode: Callable[[Tensor], Tensor]  # images float [B C H W] -> means and deviations [B 2 c h w]

    @property
    def works_per_image(self) -> bool:
        return False

    def load(self, split: Split, keys: Keys) -> tuple[Tensor, Any]:
        return self.preprocess.load(split, keys)

    def batch(self, images: Tensor, keys: Keys | None = None) -> Tensor:
        return self.encode(self.preprocess.batch(images))[:, 0]

    def deterministic(self) -> "Encoded":
        return self


def evaluation_transform(given: Input, device: torch.device) -> Transform:
    """From pictures as they are read to what a model takes, as evaluation sees them."""
    pre = preprocess(given)
    return pre if given.vae_hash is None else Encoded(pre, autoencoder(given, device).moments)


def laid_up(dataset: Dataset, recipe: Recipe, parts: list[str], run: Path, world: World,
            progress: Progress | None = None) -> tuple[Dataset, list[str]]:  # fmt: skip
    """The data set with latents in place of the pictures of some parts, and what there is to say. Every process computes its own files.

    Errors: `DataError` where they cannot be kept, `CheckpointError` for the autoencoder.
    """
    vae, pre = autoencoder(recipe.input, world.device), preprocess(recipe.input)
    where = place(recipe.machine.latents) if recipe.machine.latents else run.absolute().parent / "latents"
    splits, notes = dict(dataset.splits), []
    for name in parts:
        mirrors = mirrored(recipe) if name == "train" else [PLAIN]
        about = described(vae.hash, pre, mirrors, dataset, splits[name])
        shelf = Shelf(where, about, vae, pre, mirrors)
        try:
            made, damaged = shelf.fill(splits[name], world, progress)
            world.once(lambda: None)  # all files are there
            reader = shelf.reader(splits[name])
        except OSError as error:
            raise DataError(
                f"latents cannot be kept at {where}: {error.strerror or error}", "--machine.latents FOLDER says where"
            ) from None
        notes += [f"latents computed again: {reason}" for reason in damaged]
        told = f"{made:,} computed" if made else "all there already"
        notes.append(f"latents of {len(splits[name]):,} pictures of {name}: {told}, in {shelf.folder}")
        splits[name] = Split(splits[name].names, splits[name].labels, reader)
    return dataclasses.replace(dataset, splits=splits), notes


def mirrored(recipe: Recipe) -> list[tuple[int, ...]]:
    """The axes of a batch that are mirrored in each kept image, the picture itself first."""
    across: list[tuple[int, ...]] = [PLAIN, (3,)] if recipe.augment.flip else [PLAIN]
    return across + ([(2, *axes) for axes in across] if recipe.augment.flip_vertical else [])


def described(vae: str, pre: Preprocess, mirrors: list[tuple[int, ...]], dataset: Dataset, split: Split) -> dict[str, Any]:
    """Everything that latents depend on, as it is read back. Files are told apart by name, size and time of change, as on resuming."""
    names = hashlib.sha256("\0".join(split.names).encode(errors="surrogateescape")).hexdigest()
    said = {"vae": vae, "preprocess": dataclasses.asdict(pre), "mirrors": mirrors, "data": fingerprint(dataset.entries), "names": names}
    return json.loads(json.dumps(said))


class Shelf:
    """The files of one part."""

    def __init__(self, where: Path, about: dict[str, Any], vae: Autoencoder, pre: Preprocess, mirrors: list[tuple[int, ...]]):
        self.folder = where / hashlib.sha256(json.dumps(about, sort_keys=True).encode()).hexdigest()[:24]
        self.about, self.vae, self.pre, self.mirrors = about, vae, pre, mirrors
        height, width = pre.size
        self.shape = (len(mirrors), 2, vae.latents, height // vae.factor, width // vae.factor)  # of one picture

    def file(self, number: int) -> Path:
        return self.folder / f"{number:05d}.safetensors"

    def fill(self, split: Split, world: World, progress: Progress | None) -> tuple[int, list[str]]:
        """Computes the files of this process that are missing or damaged: how many pictures, and what was damaged."""
        self.folder.mkdir(parents=True, exist_ok=True)
        missing, damaged = [], []
        for number in range(world.rank, -(-len(split) // SHARD), world.size):
            reason = self.wrong(number, len(split))
            if reason is not None:
                missing.append(members(number, len(split)))
                damaged += [reason] if reason else []
        done, total = 0, sum(map(len, missing))
        batches = [keys for some in missing for keys in evaluation(split, some, AT_ONCE)]
        loaded = load(Fetch(split, self.pre), batches, default_workers(split, False, world.size) if total > 4 * AT_ONCE else 0)
        for some in missing:
            rows = []
            for _ in range(0, len(some), AT_ONCE):
                rows.append(self.encoded(next(loaded).pictures.to(world.device)))
                done += len(rows[-1])
                if progress:
                    progress(done, total)
            write_file(self.file(int(some[0]) // SHARD), pack({"moments": torch.cat(rows)}, self.about))
        return total, damaged

    def encoded(self, pictures: Tensor) -> Tensor:
        """uint8 [B C H W] -> [B T 2 c h w], on the CPU."""
        images = self.pre.batch(pictures)
        return torch.stack([self.vae.moments(images.flip(axes) if axes else images) for axes in self.mirrors], dim=1).cpu()

    def wrong(self, number: int, count: int) -> str | None:
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
        return LatentReader(tuple((path, begins(path)) for path in self.files(len(split))), SHARD, self.shape)

    def files(self, count: int) -> Iterator[Path]:
        return (self.file(number) for number in range(-(-count // SHARD)))


def members(number: int, count: int) -> np.ndarray:
    """The pictures of a file."""
    return np.arange(number * SHARD, min(count, (number + 1) * SHARD))
