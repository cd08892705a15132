"""Images as an autoencoder sees them: means and standard deviations of their latents, kept in files, and what training draws of them.

Both moments are kept, of an image and of its mirror images: the latent of a mirror image is not the mirror image of a latent.
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
    """Reads what was kept of image i: float32 [T 2 c h w], T mirror images, the image itself first, their means and deviations.

    shards: files, and the byte at which the numbers of their first image begin; each: images in all of them but the last.
    """

    shards: tuple[tuple[Path, int], ...]
    each: int
    shape: tuple[int, ...]

    def __call__(self, index: int) -> np.ndarray:
        shard, place = divmod(int(index), self.each)
        path, start = self.shards[shard]
        count = int(np.prod(self.shape))
        try:
            found = np.fromfile(path, np.float32, count, offset=start + place * count * 4)
        except OSError as error:
            raise DataError(
                f"{path} cannot be read: {error.strerror or error}", "vitrail train --resume RUN computes it again"
            ) from None
        if len(found) < count:
            raise DataError(f"{path} was cut short while it was used", "vitrail train --resume RUN computes it again")
        return found.reshape(self.shape)


def data_offset(path: Path) -> int:
    """The byte at which the numbers of a .safetensors file with one tensor begin."""
    with path.open("rb") as file:
        length = int.from_bytes(file.read(8), "little")
        header: dict[str, Any] = json.loads(file.read(length))
    (offsets,) = (value["data_offsets"] for name, value in header.items() if name != "__metadata__")
    return 8 + length + int(offsets[0])


@dataclass(frozen=True)
class LatentTransform(Transform):
    """What becomes of kept moments, in place of an `Augmentation`. drawn: one of the mirror images and a latent of it, by chance that
    comes from (seed, epoch, image) alone, as in training; otherwise the mean of the image as it is.

    preprocess: what an image became before it was encoded.
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

    def image(self, moments: np.ndarray, epoch: int, index: int) -> Tensor:
        """float32 [T 2 c h w] -> [c h w]."""
        if not self.is_random:
            return torch.from_numpy(moments[0, 0])
        chance = torch.Generator("cpu").manual_seed(derive_seed(self.seed, epoch, index))
        mean, deviation = torch.from_numpy(
            moments[int(torch.randint(len(moments), (), generator=chance, device="cpu"))]
        )
        return mean + deviation * torch.randn(mean.shape, generator=chance, device="cpu")

    def batch(self, images: Tensor, keys: Keys | None = None) -> Tensor:
        """Latents [B c h w] are what the model takes."""
        return images

    def deterministic(self) -> "LatentTransform":
        return replace(self, is_random=False)
