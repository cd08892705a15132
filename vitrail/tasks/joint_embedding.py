"""Joint embeddings without labels and without a teacher, LeJEPA: all views of an image shall have the embedding of its
large ones, and embeddings over all images be those of an isotropic Gaussian (Balestriero and LeCun 2025,
arxiv.org/abs/2511.08544).

The second term, SIGReg, is what prevents a collapse: it projects the embeddings of a batch onto random directions and
compares the distribution along each with that of a standard normal, by their characteristic functions (Epps and Pulley
1983). It is of the whole batch, so it is computed over all micro-batches and processes.
"""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn

from vitrail.data.dataset import AnnotationKind
from vitrail.data.sampling import derive_seed
from vitrail.data.transforms.multi_crop import MultiCrop
from vitrail.data.transforms.preprocess import Preprocess
from vitrail.engine.joint import JointOutputs, JointTask
from vitrail.errors import CheckpointError
from vitrail.heads.projection import ProjectedModel, build_mlp
from vitrail.recipe import Recipe
from vitrail.tasks import _views
from vitrail.tasks._defaults.views import EmbeddingDefaults
from vitrail.tasks._features import FeatureTask
from vitrail.types import Batch
from vitrail.validation import EDITED, Count, NonNegative, Positive, PositiveFloat, UnitInterval

ANNOTATIONS: AnnotationKind = "none"
DIRECTIONS = 0x51  # purpose of the random numbers of directions


@dataclass(frozen=True)
class Config:
    embedding: Positive = 64  # numbers of an embedding
    hidden: Positive = 2048  # width of the head's MLP
    sigreg: UnitInterval = 0.05  # weight of SIGReg; that of the other term is 1 less it
    directions: Positive = 1024  # random ones, others in every step
    knots: Positive = 17  # points at which characteristic functions are compared
    largest_knot: PositiveFloat = 3.0
    global_crops: Positive = 2
    local_crops: Count = 6
    local_size: Count = 96  # pixels along a side of a local crop
    global_scale: tuple[UnitInterval, UnitInterval] = (0.3, 1.0)  # area of a global crop as a fraction of the image
    local_scale: tuple[UnitInterval, UnitInterval] = (0.05, 0.3)
    color_jitter: NonNegative = 0.8
    grayscale: UnitInterval = 0.2  # probability of a view without colour
    blur: UnitInterval = 0.5  # probability of a blurred view
    solarize: UnitInterval = 0.2


class JointEmbedding(FeatureTask, JointTask):
    """LeJEPA's loss of the embeddings of all views."""

    def __init__(self, config: Config):
        _views.check_views(config)
        self.config = config
        self.step = torch.zeros(1, dtype=torch.int64)  # updates done, which the directions are a function of

    def assemble(self, trunk: nn.Module) -> ProjectedModel:
        """Errors: `UsageError` for a trunk that does not take local crops."""
        c, backbone = self.config, _views.as_backbone(trunk)
        if c.local_crops:
            _views.check_local_size(backbone, c.local_size)
        self.width = sum(backbone.summary_widths)
        return ProjectedModel(backbone, build_mlp((self.width, c.hidden, c.hidden, c.embedding), normed=True))

    def transform(self, recipe: Recipe, preprocess: Preprocess) -> MultiCrop:
        c = self.config
        return _views.build_multi_crop(recipe, preprocess, c, [c.blur], [c.solarize])

    def outputs(self, model: nn.Module, batch: Batch) -> JointOutputs:
        """The embeddings of all views, global ones first, [B V D]."""
        return JointOutputs((_views.project_views(model, batch.inputs),))

    def joint_loss(self, own: JointOutputs, everyone: tuple[Tensor, ...], first: int) -> dict[str, Tensor]:
        c, embeddings = self.config, everyone[0]
        directions = draw_directions(c.embedding, c.directions, int(self.step)).to(embeddings)
        return {
            "invariance": (1 - c.sigreg) * invariance_loss(embeddings, c.global_crops),
            "sigreg": c.sigreg * sigreg_loss(embeddings, directions, c.knots, c.largest_knot),
        }

    def after_step(self, model: nn.Module, step: int) -> None:
        self.step.fill_(step)

    def state(self) -> dict[str, Tensor]:
        return {"step": self.step}

    def load_state(self, tensors: Mapping[str, Tensor]) -> None:
        """Errors: `CheckpointError` for a checkpoint of another task."""
        if "step" not in tensors or tensors["step"].shape != self.step.shape:
            raise CheckpointError("the checkpoint does not have the step of this task's directions", EDITED)
        self.step.copy_(tensors["step"])

    def held_out(self, model: nn.Module, images: Tensor, ids: np.ndarray) -> Tensor:
        """None: [B 0]. The loss is of a whole batch."""
        return images.new_zeros(len(images), 0)

    def defaults(self) -> EmbeddingDefaults:
        return EmbeddingDefaults()


def draw_directions(width: int, count: int, step: int) -> Tensor:
    """Random unit vectors [D S], a function of the step: the same on every process and for every micro-batch."""
    random = torch.Generator().manual_seed(derive_seed(0, step, DIRECTIONS))
    vectors = torch.randn(width, count, generator=random)
    return vectors / vectors.norm(dim=0)


def invariance_loss(embeddings: Tensor, global_crops: int) -> Tensor:
    """The mean squared distance of all views from the mean of the global ones, of [B V D]."""
    return (embeddings - embeddings[:, :global_crops].mean(1, keepdim=True)).square().mean()


def sigreg_loss(embeddings: Tensor, directions: Tensor, knots: int = 17, largest: float = 3.0) -> Tensor:
    """The Epps-Pulley statistic of [B V D] along directions [D S], of the images of each view, averaged over views and
    directions: B times the integral of the squared distance of characteristic functions, weighted by exp(-t^2 / 2)."""
    t = torch.linspace(0, largest, knots, dtype=embeddings.dtype, device=embeddings.device)
    normal = torch.exp(-t.square() / 2)  # its characteristic function, and the weight
    steps = torch.full_like(t, 2 * largest / (knots - 1))  # the trapezoidal rule, over both signs of t
    steps[[0, -1]] /= 2
    with torch.autocast(embeddings.device.type, enabled=False):  # products of 16 bits would round the loss
        along = (embeddings.transpose(0, 1) @ directions)[..., None] * t  # [V B S T]
        error = (along.cos().mean(1) - normal).square() + along.sin().mean(1).square()
        return (error @ (steps * normal)).mean() * len(embeddings)


def build(config: Config) -> JointEmbedding:
    """The task. Errors: `UsageError` for crops that cannot be."""
    return JointEmbedding(config)
