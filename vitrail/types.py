"""The few shapes of thing that cross floors. What a model returns are named tuples, so torch's pytrees see through them."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple, Protocol, runtime_checkable

from torch import Tensor, nn

Grid = tuple[int, int]  # (height, width) in cells, or (down, across)


class Features(NamedTuple):
    """What a backbone makes of a batch of images."""

    summaries: tuple[Tensor, ...]  # one or more vectors per image, each [B D]
    maps: tuple[Tensor, ...]  # one or more feature maps, each [B C H W], fine to coarse


class Groups(ABC):
    """How the cells of a map are parted into sequences, each of which attends within itself. They stand beside each other in the batch."""

    @abstractmethod
    def index(self, grid: Grid) -> Tensor:
        """The cell that stands at each place of each sequence, in raster order of the map; -1 for padding: [g n]."""


class TokenLayout(NamedTuple):
    """Which token of a sequence stands where on the image: `leading` tokens without a place (class, distillation, registers), the cells of
    `grid` in raster order, `trailing` tokens without a place.

    A family hands it to its blocks and attentions beside the tokens; a block that is handed none works on maps [B D h w]. Sequences that
    are joined (several maps, several images in one row) have one layout each, in a tuple.
    """

    grid: Grid  # (0, 0): no token has a place
    stride: tuple[float, float]  # height and width of a cell in pixels of the image
    leading: int = 0
    summaries: int = 0  # how many of the leading tokens, the first of them, are read out as summaries; 0: the cells' mean is
    trailing: int = 0
    kept: Tensor | None = None  # [B n] the cells that are there, where an image has lost the others; None: all of them
    groups: Groups | None = None  # None: all tokens attend to each other

    @property
    def cells(self) -> int:
        return self.grid[0] * self.grid[1] if self.kept is None else self.kept.shape[1]

    @property
    def tokens(self) -> int:
        return self.leading + self.cells + self.trailing


def unplaced_tokens(count: int) -> TokenLayout:
    """Tokens of which none has a place, such as the queries of a decoder."""
    return TokenLayout((0, 0), (0.0, 0.0), count)


class Batch(NamedTuple):
    """Images on their way into a model, [B C H W] floats, and what is to be said of them."""

    inputs: Tensor
    targets: Any


class Objects(NamedTuple):
    """What is to be found in the pictures of a batch, padded to the most that any of them has."""

    boxes: Tensor  # [B M 4] left, top, right, bottom in pixels of the batch's canvas
    labels: Tensor  # [B M] class indices, -1 where there is no object
    sizes: Tensor  # [B 2] height and width of the picture, which lies at the top left of the canvas; the rest is padding
    usual: Tensor  # [B] objects per picture, the mean over the whole batch of all processes: what losses are divided by


def each_tensor(change: Callable[[Tensor], Tensor], value: Any) -> Any:
    """A tensor changed, or a named tuple with every one of its tensors changed."""
    return change(value) if isinstance(value, Tensor) else type(value)(*map(change, value))


class Found(NamedTuple):
    """What a detector says of a batch of pictures, by query."""

    logits: Tensor  # [B Q K+1], the last for "nothing"
    boxes: Tensor  # [B Q 4] centre x, centre y, width, height as shares of the picture, its padding left out


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


class Denoiser(Protocol):
    """Noisy pictures [B C H W], times [B], labels int64 [B] -> [B C H W], or twice the channels with a learned variance."""

    config: Any
    null: int  # the label of no class, one above the last; 0 for a model without classes

    @property
    def blocks(self) -> Sequence[nn.Module]:
        """In order of depth."""
        ...

    def __call__(self, x: Tensor, t: Tensor, label: Tensor) -> Tensor:
        """`denoise(x, told(t, label))`."""
        ...

    def told(self, t: Tensor, label: Tensor) -> Any:
        """What of it depends on no picture, as a `vitrail.layers.condition.Told`."""
        ...

    def denoise(self, x: Tensor, told: Any) -> Tensor:
        """The rest."""
        ...


def denoises(model: Any) -> bool:
    """Whether a model is a `Denoiser`. isinstance would not do: from Python 3.12 on it does not see the parts of a module."""
    return all(hasattr(model, part) for part in ("config", "null", "blocks"))


class Task(Protocol):
    """What is learned: a head for a backbone, a loss, numbers that judge it. It holds no optimiser, device or loop."""

    config: Any
    truth: str  # the kind of data that it learns from: "classes", "masks" or "boxes"
    higher_is_better: str  # the name of the metric that ranks two runs; or else `lower_is_better`

    def assemble(self, backbone: nn.Module) -> nn.Module:
        """The backbone with its head."""
        ...

    def targets(self, labels: Any) -> Any:
        """What is true of the pictures of a batch, as `loss` wants it and, of classes, as mixing can blend it."""
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

    def metrics(self, predictions: Tensor, targets: Any) -> Mapping[str, Any]:
        """Judgement of a whole set: scalars by name, and whatever the report draws."""
        ...


def ranks(task: Any) -> tuple[str, int]:
    """The metric of a task that ranks two runs, and 1 where more of it is better, -1 where less is."""
    lower = getattr(task, "lower_is_better", "")
    return (lower, -1) if lower else (task.higher_is_better, 1)


def generates(task: Any) -> bool:
    """Whether a task makes pictures. It has `sample`, and is judged by `held_out(model, images, labels, ids)`, a row [B 1]."""
    return hasattr(task, "sample")


class SceneTask(Task, Protocol):
    """A task that is judged picture by picture at the pictures' own sizes: of masks or boxes."""

    def nothing(self) -> Tensor:
        """The rows of no picture, [0 W]."""
        ...

    def row(self, said: Any, true: Any) -> Tensor:
        """What `metrics` needs of one picture, [W]: of a label map and a mask, or of found boxes [n 6] and `Boxes`."""
        ...

    def scores(self, rows: Tensor, truths: Any) -> Tensor:
        """How good each picture's prediction is, [N] in [0, 1], to show the worst."""
        ...
