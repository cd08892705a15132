"""The contracts between rooms: backbones, denoisers, tasks, evaluators, as their users see them."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Literal, NamedTuple, final

import numpy as np
from torch import Tensor, nn

from vitrail.data.dataset import AnnotationKind, Split
from vitrail.data.transforms.base import Transform
from vitrail.data.transforms.preprocess import Preprocess
from vitrail.errors import UsageError
from vitrail.facts import Defaults
from vitrail.layers.describe import describe_model
from vitrail.recipe import Choice, Recipe
from vitrail.types import Batch, Features

__all__ = [
    "Backbone", "Defaults", "Denoiser", "DenseTask", "Evaluator", "GenerativeTask", "HeadedModel", "ImageReader",
    "Metric", "Predictions", "StatelessTask", "Task", "Transform", "Trunk", "Windows",
]  # fmt: skip

Output = Literal["classes", "masks", "boxes", "images", "features"]  # a key of tables, never compared


class Trunk(nn.Module, ABC):
    """The part of a model that has its blocks: layer decay, freezing, sharding and analysis go through them."""

    config: Any  # the family's frozen `Config`

    if TYPE_CHECKING:  # a list of modules or a property, depending on the names of its weights

        @property
        def blocks(self) -> Any:
            """A sequence of modules in order of depth."""

    def __repr__(self) -> str:
        return describe_model(self, f"{len(self.blocks)} blocks")


class Backbone(Trunk):
    """Images [B C H W] -> `Features`."""

    summary_widths: tuple[int, ...]
    map_widths: tuple[int, ...]
    strides: tuple[int, ...]
    any_size_from: int = 0  # pixels along a side from which one traced program holds for images of any size; 0: none
    has_distillation_token: bool = False  # its second summary learns from a teacher; CrossViT's two are its branches

    @abstractmethod
    def forward(self, images: Tensor) -> Features: ...


class Denoiser(Trunk):
    """Noisy images [B C H W], times [B], labels int64 [B] -> [B C H W], or 2 C channels with a learned variance."""

    null: int  # the label of no class, one above the last; 0 for a model without classes
    learns_variance: bool = False  # twice the channels in the output

    @final  # type: ignore[misc]  # torch declares it an attribute
    def forward(self, x: Tensor, t: Tensor, label: Tensor) -> Tensor:
        """`denoise(x, condition(t, label))`."""
        return self.denoise(x, self.condition(t, label))

    @abstractmethod
    def condition(self, t: Tensor, label: Tensor) -> Any:
        """The part that depends on no image, as a `vitrail.layers.adaln.Conditioning`."""

    @abstractmethod
    def denoise(self, x: Tensor, conditioning: Any) -> Tensor:
        """The part that depends on the images."""


class HeadedModel(nn.Module, ABC):
    """A backbone, in the attribute `backbone`, with the head of a task."""

    backbone: Backbone
    classes: int
    any_size_from: int = 0  # as that of a backbone, with the head
    takes_sizes: bool = False  # takes images [B C H W] and their sizes [B 2] without padding
    origin: object = None  # how `vitrail.create` was called, for `vitrail.save`
    loaded: object = None  # the weights by name that it was created with, for `vitrail.save`

    def __init__(self, backbone: Any, classes: int):
        super().__init__()
        self.backbone, self.classes = backbone, classes

    @abstractmethod
    def forward(self, images: Tensor) -> Any:
        """The same type of output in training and in evaluation."""

    def __repr__(self) -> str:
        name = f"{self.origin.name} with " if isinstance(self.origin, Choice) else ""
        return describe_model(self, f"{name}{self.classes} classes on {type(self.backbone).__name__}")


def trunk_of(net: nn.Module) -> Trunk:
    """The backbone under a head, or a trunk as a whole. Errors: `UsageError` for a model that is neither."""
    if isinstance(net, HeadedModel | Trunk):
        return net.backbone if isinstance(net, HeadedModel) else net
    raise UsageError(f"a {type(net).__name__} has no known blocks", "a model is a Backbone or a Denoiser, or has one")


class Metric(NamedTuple):
    """The number that ranks two models."""

    name: str
    higher_is_better: bool = True

    @property
    def sign(self) -> int:
        """1 if higher is better, else -1."""
        return 1 if self.higher_is_better else -1


class Predictions(NamedTuple):
    """Row i is the prediction of the i-th image, and its target."""

    rows: Tensor
    targets: Tensor
    annotations: Sequence[Any] = ()  # of boxes, where the annotation of an image is no tensor


class Windows(ABC):
    """A model that predicts whole images of any size, in windows, for evaluators and predictors of masks or boxes."""

    @abstractmethod
    def label_maps(self, images: Sequence[np.ndarray]) -> list[np.ndarray]:
        """uint8 [H W C] each -> a label map uint8 [H W] each."""

    @abstractmethod
    def boxes(self, images: Sequence[np.ndarray], nms_iou: float | None = None) -> list[np.ndarray]:
        """uint8 [H W C] each -> float32 [n 6] each: left, top, right, bottom in pixels, score, class; best first."""


class ImageReader(ABC):
    """The images of a split, read as an evaluator needs them: each is counted once on any number of processes."""

    split: Split

    @abstractmethod
    def by_batch(self, row: Callable[[nn.Module, Tensor, Tensor, np.ndarray], Tensor], width: int) -> Predictions:
        """Batches at the model's size: row(model, images [B C H W], labels [B ...], ids [B]) -> rows [B width]."""

    @abstractmethod
    def by_image(self, row: Callable[[Any, Any], Tensor], none: Tensor, keep_annotations: bool) -> Predictions:
        """Whole images, each at its own size: row(prediction, annotation) -> [W]. none: the rows of no image, [0 W]."""

    @abstractmethod
    def predict(self, index: int) -> np.ndarray:
        """The prediction of one whole image of the split, as `DenseTask.predict_images` returns it."""


class Evaluator(ABC):
    """Measures a trained model, and keeps what reports need."""

    @abstractmethod
    def predictions(self, images: ImageReader) -> Predictions:
        """The predictions of every image of a split."""

    @abstractmethod
    def metrics(self, predictions: Predictions) -> Mapping[str, Any]:
        """Scalars by name, "count" among them; what reports plot, as "per_class"; "notes", each shown once a run."""

    @abstractmethod
    def arrays(self, predictions: Predictions) -> dict[str, np.ndarray]:
        """Arrays to keep, by name; row i belongs to image i. "probabilities" [N K] and "targets" [N] or [N K] are of
        the images as the data set has them: reports show the images with them."""

    @abstractmethod
    def files(self, predictions: Predictions, images: ImageReader) -> Mapping[str, bytes]:
        """Further files by name, of a few images; none of most tasks."""


class Task(ABC):
    """What is learned: a head for a trunk, a loss, metrics. It has no optimiser, device or loop.
    Its module has ANNOTATIONS, the value of `annotations`; DEFAULT_FOR, the kind of model whose default task it is, if
    any; `Config`, whose fields `classes` and `multi_label`, if it has them, are set from the data; `build(config)`."""

    config: Any
    annotations: AnnotationKind  # what it learns from; "none": images of any data set
    metric: Metric
    output: Output
    trains: str = "backbone"  # the kind of model that it puts a head on
    chance_loss: float | None = None  # of a model that guesses; None if unknown
    multi_label: bool = False  # whether an image may have any number of the classes
    is_generative: bool = False  # whether it is a `GenerativeTask`
    is_dense: bool = False  # whether it is a `DenseTask`
    selects_best: bool = True  # whether its metric tells which weights of a run are best; else the last ones are kept
    nms_iou: float | None = None  # of boxes: above which two of a class are the same object; None: no two boxes are
    keeps_settings: bool = False  # whether initial weights of the same task need its settings, as towers of texts do
    takes_features: bool = False  # its loss sees images through the model alone: features of a frozen one do as well
    teacher: str | None = None  # of distillation: the model whose logits of the same images are joined to the targets
    path_keys: tuple[str, ...] = ()  # keys of its config that name files or folders: never in a weights file

    @final
    def learns_from(self, kind: AnnotationKind) -> bool:
        """Whether it can learn from such annotations."""
        return self.annotations in ("none", kind)

    @property
    @final
    def is_classifier(self) -> bool:
        """Whether `predict` returns class probabilities of whole images."""
        return self.output == "classes"

    @abstractmethod
    def output_names(self, classes: tuple[str, ...]) -> tuple[str, ...]:
        """The names of the columns of `predict`, for a data set with such classes."""

    @abstractmethod
    def assemble(self, trunk: nn.Module) -> nn.Module:
        """The trunk with its head. Errors: `UsageError` for a trunk that does not fit."""

    @abstractmethod
    def transform(self, recipe: Recipe, preprocess: Preprocess) -> Transform:
        """The transform of images and their annotations in training."""

    @abstractmethod
    def targets(self, labels: Any) -> Any:
        """The targets of a batch, as `loss` takes them; those of classes can be mixed."""

    @abstractmethod
    def count_targets(self, labels: Any, batch: int, all_reduce_sum: Callable[[Tensor], Tensor]) -> Any:
        """The labels of one process, with the counts over the global batch that the loss needs."""

    @abstractmethod
    def fit_class_weights(self, labels: Tensor) -> None:
        """Sets the class weights of a loss that has them from all training labels, before the first step."""

    @abstractmethod
    def loss(self, model: nn.Module, batch: Batch) -> dict[str, Tensor]:
        """Named terms, each a scalar; training descends their sum. Random numbers: torch's global generator alone."""

    @abstractmethod
    def predict(self, model: nn.Module, images: Tensor) -> Tensor:
        """The prediction of each image, one row an image [B ...]."""

    @abstractmethod
    def defaults(self) -> Defaults: ...

    @abstractmethod
    def evaluator(self) -> Evaluator: ...

    @abstractmethod
    def after_step(self, model: nn.Module, step: int) -> None:
        """Runs after an update of the weights, such as updating a teacher."""

    @abstractmethod
    def state(self) -> dict[str, Tensor]:
        """Its own tensors that a checkpoint must have, such as a teacher's centre."""

    @abstractmethod
    def load_state(self, tensors: Mapping[str, Tensor]) -> None: ...


class StatelessTask(Task):
    """A task without state of its own: most of them."""

    @final
    def after_step(self, model: nn.Module, step: int) -> None:
        """Nothing to do."""

    @final
    def state(self) -> dict[str, Tensor]:
        return {}

    @final
    def load_state(self, tensors: Mapping[str, Tensor]) -> None:
        """There is nothing to load."""


class DenseTask(StatelessTask):
    """A task that predicts masks or boxes of whole images at their own sizes."""

    is_dense = True

    @abstractmethod
    def predict_windows(self, model: nn.Module, images: Tensor, sizes: Tensor) -> Tensor:
        """Preprocessed windows [B C h w], their sizes without padding [B 2] -> logits [B K h w] or boxes [B Q 6]."""

    @abstractmethod
    def predict_images(self, windows: Windows, images: Sequence[np.ndarray]) -> list[np.ndarray]:
        """uint8 [H W C] each -> the prediction of each."""


class GenerativeTask(StatelessTask):
    """A task whose model generates images."""

    is_generative = True
    selects_best = False  # a loss does not rank the images

    @abstractmethod
    def states(self, model: nn.Module, noise: Tensor, labels: Tensor, sampling: Any, draw: Callable[[], Tensor]) -> Any:
        """From unscaled noise [B C H W], step by step; `draw()` gives a step's noise. Errors: `UsageError`."""

    @abstractmethod
    def add_noise_at(self, x: Tensor, share: float, noise: Tensor) -> tuple[Tensor, Tensor]:
        """Noisy images [B C H W], and the times [B] of their conditioning: from pure noise at 0 to the image at 1."""
