"""A backbone and what stands on it: the one kind of model that is made of two."""

from abc import ABC, abstractmethod
from typing import Any

from torch import Tensor, nn


class ModelWithHead(nn.Module, ABC):
    """Images [B C H W] -> answers, by a head on the features of `backbone`."""

    backbone: Any  # a `Backbone`
    origin: object  # how it was made, so that it can be saved

    def __init__(self, backbone: Any, classes: int):
        super().__init__()
        self.backbone, self.classes, self.origin = backbone, classes, None

    @abstractmethod
    def forward(self, images: Tensor) -> Any:
        """One type of answer, in training and out of it alike."""
