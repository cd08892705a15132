"""The few shapes of thing that cross floors. What a model returns are named tuples, so torch's pytrees see through them."""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple, Protocol, runtime_checkable

from torch import Tensor, nn


class Features(NamedTuple):
    """What a backbone makes of a batch of images."""

    summaries: tuple[Tensor, ...]  # one or more vectors per image, each [B D]
    maps: tuple[Tensor, ...]  # one or more feature maps, each [B C H W], fine to coarse


class Batch(NamedTuple):
    """Images on their way into a model, [B C H W] floats, and what is to be said of them."""

    inputs: Tensor
    targets: Any


@runtime_checkable
class Backbone(Protocol):
    """Images [B C H W] -> `Features`. What heads, layer decay, freezing, sharding and analysis walk over."""

    summary_widths: tuple[int, ...]
    map_widths: tuple[int, ...]
    strides: tuple[int, ...]

    @property
    def blocks(self) -> Sequence[nn.Module]:
        """In order of depth."""
        ...

    def __call__(self, images: Tensor) -> Features: ...


class Task(Protocol):
    """What is learned: a head for a backbone, a loss, numbers that judge it. It holds no optimiser, device or loop."""

    config: Any
    higher_is_better: str  # the name of the metric that ranks two runs

    def assemble(self, backbone: nn.Module) -> nn.Module:
        """The backbone with its head."""
        ...

    def targets(self, labels: Tensor) -> Tensor:
        """Labels as `loss` wants them and mixing can blend them."""
        ...

    def weigh(self, labels: Tensor) -> None:
        """Looks at all labels of the training part before the first step, for a loss that depends on them."""
        ...

    def loss(self, model: nn.Module, batch: Batch) -> dict[str, Tensor]:
        """Named terms, each a scalar; training descends their sum."""
        ...

    def predict(self, model: nn.Module, images: Tensor) -> Tensor:
        """What the model says of each image, as one row of numbers an image [B ...]."""
        ...

    def metrics(self, predictions: Tensor, targets: Tensor) -> Mapping[str, Any]:
        """Judgement of a whole set: scalars by name, and whatever the report draws."""
        ...
