"""The contracts between floors: what a backbone, a denoiser and a task are to whoever uses them."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Literal, NamedTuple, final

import numpy as np
from torch import Tensor, nn

from vitrail.data.dataset import AnnotationKind, Split
from vitrail.data.transforms.base import Transform
from vitrail.data.transforms.preprocess import Preprocess
from vitrail.errors import UsageError
from vitrail.facts import Choices
from vitrail.recipe import Recipe
from vitrail.types import Batch, Features

__all__ = [
    "Backbone",
    "Defaults",
    "Denoiser",
    "DenseTask",
    "Evaluator",
    "GenerativeTask",
    "HeadedModel",
    "ImageReader",
    "Metric",
    "Predictions",
    "StatelessTask",
    "Task",
    "Transform",
    "Trunk",
    "Windows",
]  # fmt: skip

Output = Literal[
    "classes", "masks", "boxes", "images"
]  # what a prediction is to its user: the key of tables, never compared


class Trunk(nn.Module, ABC):
    """The part of a model that holds its blocks: what layer decay, freezing, sharding, checkpointing and analysis walk over."""

    config: Any  # the family's frozen `Config`

    if TYPE_CHECKING:  # a list of modules or a property, whichever its weights' names ask for

        @property
        def blocks(self) -> Any:
            """A sequence of modules in order of depth."""
            ...


class Backbone(Trunk):
    """Images [B C H W] -> `Features`."""

    summary_widths: tuple[int, ...]
    map_widths: tuple[int, ...]
    strides: tuple[int, ...]
    has_distillation_token: bool = False  # its second summary listens to a teacher; CrossViT's two are its branches

    @abstractmethod
    def forward(self, images: Tensor) -> Features: ...


class Denoiser(Trunk):
    """Noisy images [B C H W], times [B], labels int64 [B] -> [B C H W], or twice the channels with a learned variance."""

    null: int  # the label of no class, one above the last; 0 for a model without classes
    learns_variance: bool = False  # twice the channels in the output

    @final  # type: ignore[misc]  # torch declares it an attribute
    def forward(self, x: Tensor, t: Tensor, label: Tensor) -> Tensor:
        """`denoise(x, condition(t, label))`."""
        return self.denoise(x, self.condition(t, label))

    @abstractmethod
    def condition(self, t: Tensor, label: Tensor) -> Any:
        """What of it depends on no image, as a `vitrail.layers.adaln.Conditioning`."""

    @abstractmethod
    def denoise(self, x: Tensor, conditioning: Any) -> Tensor:
        """The rest."""


class HeadedModel(nn.Module, ABC):
    """A backbone with the head of a task, which lies below the name `backbone`."""

    backbone: Backbone
    classes: int
    takes_sizes: bool = False  # beside images [B C H W] the sizes [B 2] of what of them is no padding
    origin: object = None  # how `vitrail.create` was called, so that `vitrail.save` can say it

    def __init__(self, backbone: Any, classes: int):
        super().__init__()
        self.backbone, self.classes = backbone, classes

    @abstractmethod
    def forward(self, images: Tensor) -> Any:
        """One type of output, in training and out of it alike."""


def trunk_of(net: nn.Module) -> Trunk:
    """The backbone under a head, or a trunk as a whole. Errors: `UsageError` for a model that is neither."""
    if isinstance(net, HeadedModel):
        return net.backbone
    if isinstance(net, Trunk):
        return net
    raise UsageError(
        f"a {type(net).__name__} has no blocks that are known",
        "a family's model is a Backbone or a Denoiser, or has one",
    )


class Metric(NamedTuple):
    """The number that ranks two models."""

    name: str
    higher_is_better: bool = True

    @property
    def sign(self) -> int:
        """1 where more of it is better, -1 where less is."""
        return 1 if self.higher_is_better else -1


class Predictions(NamedTuple):
    """Row i is what was predicted of the i-th image, and what is true of it."""

    rows: Tensor
    targets: Tensor
    annotations: Sequence[Any] = ()  # of boxes, where what is true of an image is no tensor


class Windows(ABC):
    """A model that predicts whole images of any size, in windows. What an evaluator or predictor of masks or boxes is handed."""

    @abstractmethod
    def label_maps(self, images: Sequence[np.ndarray]) -> list[np.ndarray]:
        """uint8 [H W C] each -> a label map uint8 [H W] each."""

    @abstractmethod
    def boxes(self, images: Sequence[np.ndarray], decode: Callable[[Any, Tensor], Tensor]) -> list[np.ndarray]:
        """uint8 [H W C] each -> boxes float32 [n 6] each: left, top, right, bottom in the image's pixels, score, class; the best first."""


class ImageReader(ABC):
    """The images of a split on their way to an evaluator, which says how it wants them. Every image is counted once on any number of
    processes."""

    split: Split

    @abstractmethod
    def by_batch(self, row: Callable[[nn.Module, Tensor, Tensor, np.ndarray], Tensor], width: int) -> Predictions:
        """Of a model's own size, many at once: row(model, images [B C H W], labels [B ...], ids [B]) -> rows [B width]."""

    @abstractmethod
    def by_image(self, row: Callable[[Any, Any], Tensor], none: Tensor, keep_annotations: bool) -> Predictions:
        """Whole images, each at its own size: row(prediction, annotation) -> [W]. none: the rows of no image, [0 W]."""

    @abstractmethod
    def predict(self, index: int) -> np.ndarray:
        """The prediction of one whole image of the split, as `DenseTask.predict_images` gives it."""


class Evaluator(ABC):
    """What is measured of a trained model, and what of it is kept for reports."""

    @abstractmethod
    def predictions(self, images: ImageReader) -> Predictions:
        """Of every image of a split."""

    @abstractmethod
    def metrics(self, predictions: Predictions) -> Mapping[str, Any]:
        """Scalars by name, "count" among them, and whatever reports draw, such as "per_class"."""

    @abstractmethod
    def arrays(self, predictions: Predictions) -> dict[str, np.ndarray]:
        """What is kept of every image, by name; row i belongs to image i."""

    @abstractmethod
    def files(self, predictions: Predictions, images: ImageReader) -> Mapping[str, bytes]:
        """Further files by name, of a few images; none of most tasks."""


class Defaults(ABC):
    """What a task fills into a recipe that leaves things open, each choice with its reason, and what it refuses."""

    max_epochs: float

    @abstractmethod
    def choose_input(self, c: Choices) -> None:
        """Size, channels, and how images are resized."""

    @abstractmethod
    def choose_model(self, c: Choices) -> None:
        """The model, and keys of it and of the task."""

    @abstractmethod
    def choose_optimizer(self, c: Choices) -> None:
        """What of it differs from `vitrail.recipe.DEFAULTS`; the number of steps is known by now."""

    @abstractmethod
    def choose_augmentation(self, c: Choices) -> None: ...

    @abstractmethod
    def images_shown(self, gpu: bool) -> int:
        """How many images a training from scratch is worth, repetitions included."""

    @abstractmethod
    def peak_lr(self, recipe: Recipe, model_config: Any) -> float:
        """The peak learning rate of AdamW at the recipe's batch, for weights drawn by chance."""

    @abstractmethod
    def check(self, recipe: Recipe) -> None:
        """Errors: `UsageError` for settings that cannot be with such annotations or such a model."""


class Task(ABC):
    """What is learned: a head for a trunk, a loss, numbers that measure it. It holds no optimiser, device or loop.

    Its module has ANNOTATIONS, which are `annotations`; DEFAULT_FOR, the kind of model for which it is the task where none is named,
    or none; `Config`, whose fields `classes` and `multi_label`, where there are such, are filled from the data; `build(config)`.
    """

    config: Any
    annotations: AnnotationKind  # what it learns from; "none": any data set's images will do
    metric: Metric
    output: Output
    trains: str = "backbone"  # the kind of model that it puts a head on
    chance_loss: float | None = None  # of a model that guesses; None where it is not known
    multi_label: bool = False  # whether an image may have any number of the classes
    is_generative: bool = False  # whether it is a `GenerativeTask`
    is_dense: bool = False  # whether it is a `DenseTask`
    teacher: str | None = (
        None  # of a task that learns from one: the model whose logits of the same images are joined to the targets
    )
    path_keys: tuple[str, ...] = ()  # keys of its config that name files or folders: never in a weights file

    @final
    def learns_from(self, kind: AnnotationKind) -> bool:
        """Whether data with such annotations will do."""
        return self.annotations in ("none", kind)

    @property
    @final
    def is_classifier(self) -> bool:
        """Whether `predict` gives probabilities of classes of whole images."""
        return self.output == "classes"

    @abstractmethod
    def output_names(self, classes: tuple[str, ...]) -> tuple[str, ...]:
        """What the model tells apart, of a data set with such classes: the columns of `predict`."""

    @abstractmethod
    def assemble(self, trunk: nn.Module) -> nn.Module:
        """The trunk with its head. Errors: `UsageError` for a trunk that it cannot be for."""

    @abstractmethod
    def transform(self, recipe: Recipe, preprocess: Preprocess) -> Transform:
        """What training does to images and their annotations."""

    @abstractmethod
    def targets(self, labels: Any) -> Any:
        """What is true of the images of a batch, as `loss` wants it and, of classes, as mixing can blend it."""

    @abstractmethod
    def count_targets(self, labels: Any, batch: int, all_reduce_sum: Callable[[Tensor], Tensor]) -> Any:
        """The labels of a process's share of a batch with what the loss must know of the whole batch of all processes."""

    @abstractmethod
    def fit_class_weights(self, labels: Tensor) -> None:
        """Looks at all labels of the training part before the first step, for a loss that depends on them."""

    @abstractmethod
    def loss(self, model: nn.Module, batch: Batch) -> dict[str, Tensor]:
        """Named terms, each a scalar; training descends their sum. Chance comes from torch's global generator alone."""

    @abstractmethod
    def predict(self, model: nn.Module, images: Tensor) -> Tensor:
        """What the model predicts of each image, as one row of numbers an image [B ...]."""

    @abstractmethod
    def defaults(self) -> Defaults: ...

    @abstractmethod
    def evaluator(self) -> Evaluator: ...

    @abstractmethod
    def after_step(self, model: nn.Module, step: int) -> None:
        """What follows an update of the weights, such as that of a teacher."""

    @abstractmethod
    def state(self) -> dict[str, Tensor]:
        """Tensors of its own that a checkpoint must hold, such as a teacher's centre."""

    @abstractmethod
    def load_state(self, tensors: Mapping[str, Tensor]) -> None: ...


class StatelessTask(Task):
    """A task that is nothing but its config: most."""

    @final
    def after_step(self, model: nn.Module, step: int) -> None:
        """Nothing follows."""

    @final
    def state(self) -> dict[str, Tensor]:
        return {}

    @final
    def load_state(self, tensors: Mapping[str, Tensor]) -> None:
        """There is nothing to load."""


class DenseTask(StatelessTask):
    """A task whose predictions are of whole images at their own sizes: masks or boxes."""

    is_dense = True

    @abstractmethod
    def predict_images(self, windows: Windows, images: Sequence[np.ndarray]) -> list[np.ndarray]:
        """uint8 [H W C] each -> what is predicted of each."""


class GenerativeTask(StatelessTask):
    """A task whose model makes images."""

    is_generative = True

    @abstractmethod
    def states(self, model: nn.Module, noise: Tensor, labels: Tensor, sampling: Any, draw: Callable[[], Tensor]) -> Any:
        """From noise [B C H W], not scaled yet, step by step; `draw()` gives the noise of a step. Errors: `UsageError`."""

    @abstractmethod
    def add_noise_at(self, x: Tensor, share: float, noise: Tensor) -> tuple[Tensor, Tensor]:
        """Images [B C H W] with noise in them, and the times [B] that the model is conditioned on: from noise alone at 0 to the
        image at 1."""
