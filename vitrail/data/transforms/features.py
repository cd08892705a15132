"""Features of a frozen backbone in place of images: they are computed once, and training reads rows of a table."""

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from vitrail.data.dataset import Split
from vitrail.data.sampling import Keys
from vitrail.data.transforms.base import Transform, labels_of
from vitrail.data.transforms.preprocess import Preprocess


@dataclass(frozen=True)
class FeatureReader:
    """Reads the features of image i, float32 [D]."""

    rows: np.ndarray  # float32 [N D]

    def __call__(self, index: int) -> np.ndarray:
        return self.rows[index]


@dataclass(frozen=True)
class FeatureTransform(Transform):
    """Features [B D] as they are. preprocess: of the images that they are of."""

    preprocess: Preprocess

    @property
    def works_per_image(self) -> bool:
        return False

    def load(self, split: Split, keys: Keys) -> tuple[Tensor, Tensor]:
        """float32 [B D] and labels."""
        rows = np.stack([split.read(int(i)) for i in keys.ids]) if len(keys.ids) else np.zeros((0, 0), np.float32)
        return torch.from_numpy(rows), labels_of(split, keys)

    def batch(self, images: Tensor, keys: Keys | None = None) -> Tensor:
        """Features are the input of the head already."""
        return images

    def deterministic(self) -> Preprocess:
        """That of images: everything after training begins with those."""
        return self.preprocess
