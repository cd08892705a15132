"""Cached latents of an autoencoder: mean and standard deviation of each latent, and latents sampled from them.

They are cached for an image and its flipped copies: the latent of a flipped image is not the flipped latent.
"""

import json
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from vitrail.data.dataset import Split
from vitrail.data.sampling import Keys, derive_seed
from vitrail.data.transforms.base import Transform, load_each
from vitrail.data.transforms.preprocess import Preprocess
from vitrail.errors import DataError


@dataclass(frozen=True)
class LatentReader:
    """Reads the cached latents of image i: float32 [T 2 c h w], T flipped copies, itself first; mean, std.

    shards: files, and the byte offset of their first image; each: images per shard, except the last.
    """

    shards: tuple[tuple[Path, int], ...]
    each: int
    shape: tuple[int, ...]

    def __call__(self, index: int) -> np.ndarray:
        shard, position = divmod(int(index), self.each)
        path, start = self.shards[shard]
        count = int(np.prod(self.shape))
        try:
            values = np.fromfile(path, np.float32, count, offset=start + position * count * 4)
        except OSError as error:
            raise DataError(
                f"{path} cannot be read: {error.strerror or error}", "vitrail train --resume RUN computes it again"
            ) from None
        if len(values) < count:
            raise DataError(f"{path} was truncated while it was in use", "vitrail train --resume RUN computes it again")
        return values.reshape(self.shape)


def data_offset(path: Path) -> int:
    """The byte offset of the tensor in a .safetensors file with one tensor."""
    with path.open("rb") as file:
        length = int.from_bytes(file.read(8), "little")
        header: dict[str, Any] = json.loads(file.read(length))
    (offsets,) = (value["data_offsets"] for name, value in header.items() if name != "__metadata__")
    return 8 + length + int(offsets[0])


@dataclass(frozen=True)
class LatentTransform(Transform):
    """The transform of cached latents, instead of an `Augmentation`.

    is_random: samples one of the flipped copies and a latent of it, by (seed, epoch, image) only, as in training;
    otherwise the mean of the image itself. preprocess: the transform of images before they were encoded.
    """

    preprocess: Preprocess
    seed: int
    is_random: bool = True

    @property
    def works_per_image(self) -> bool:
        return True

    def load(self, split: Split, keys: Keys) -> tuple[Tensor, Tensor]:
        """Latents float32 [B c h w] and labels."""
        return load_each(split, keys, self.image)

    def image(self, distributions: np.ndarray, epoch: int, index: int) -> Tensor:
        """float32 [T 2 c h w] -> [c h w]."""
        if not self.is_random:
            return torch.from_numpy(distributions[0, 0])
        generator = torch.Generator("cpu").manual_seed(derive_seed(self.seed, epoch, index))
        mean, deviation = torch.from_numpy(
            distributions[int(torch.randint(len(distributions), (), generator=generator, device="cpu"))]
        )
        return mean + deviation * torch.randn(mean.shape, generator=generator, device="cpu")

    def batch(self, images: Tensor, keys: Keys | None = None) -> Tensor:
        """Latents [B c h w] are the input of the model already."""
        return images

    def deterministic(self) -> "LatentTransform":
        return replace(self, is_random=False)
