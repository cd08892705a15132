"""Self-distillation without labels, DINO: a student that sees parts of an image predicts what a teacher, the average of
the student's own weights, makes of nearly all of it (Caron et al. 2021, arxiv.org/abs/2104.14294).

The teacher's outputs are centred, so that no prototype is that of every image, and sharpened by a low temperature, so
that not all are alike. The centre is a moving average of them, as published, or each batch is balanced over the
prototypes by Sinkhorn-Knopp, as in DINOv2. The teacher is the run's average of weights (`optim.ema_decay`, which rises
to 1): it is what is evaluated and kept. The centre is the task's own state.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from vitrail.data.dataset import AnnotationKind
from vitrail.data.transforms.multi_crop import MultiCrop
from vitrail.data.transforms.preprocess import Preprocess
from vitrail.engine.teacher import MeanTeacher
from vitrail.errors import CheckpointError
from vitrail.heads.projection import ProjectedModel, PrototypeHead
from vitrail.recipe import Recipe
from vitrail.tasks import _views
from vitrail.tasks._defaults.views import DistillationDefaults
from vitrail.tasks._features import FeatureTask
from vitrail.types import Batch, Views
from vitrail.validation import EDITED, Count, Fraction, NonNegative, Positive, PositiveFloat, UnitInterval

ANNOTATIONS: AnnotationKind = "none"
GLOBAL_BLUR, LOCAL_BLUR, SOLARIZED = (1.0, 0.1), 0.5, (0.0, 0.2)  # as published: of the two global crops, of local ones

SINKHORN_ROUNDS = 3  # as published
CHANCE_ADVICE = {  # all images have the same targets, so that there is nothing to learn
    "mean": "a new run with --task.centering sinkhorn --task.teacher-temperature-start 0.02 --task.teacher-temperature "
    "0.02 --optim.ema-decay 0.9",
    "sinkhorn": "a new run with half the teacher's temperature (--task.teacher-temperature-start and "
    "--task.teacher-temperature), or fewer --task.prototypes, or more steps",
}


@dataclass(frozen=True)
class Config:
    prototypes: Positive = 65_536  # outputs of the head
    hidden: Positive = 2048  # width of the head's MLP
    bottleneck: Positive = 256  # width in which the head compares with prototypes
    norm_last_layer: bool = True  # prototypes have length 1; False: their lengths are learned, as published for ViT-S
    freeze_last_layer: UnitInterval = 0.01  # fraction of the run in which prototypes do not learn; published: an epoch
    student_temperature: PositiveFloat = 0.1
    teacher_temperature: PositiveFloat = 0.04
    teacher_temperature_start: PositiveFloat = 0.04  # of the first step, for a rise over `temperature_warmup`
    temperature_warmup: UnitInterval = 0.3  # fraction of the run
    centering: Literal["mean", "sinkhorn"] = "mean"  # of the teacher's outputs; "sinkhorn": see `sinkhorn`
    center_momentum: Fraction = 0.9  # of the mean
    local_crops: Count = 8
    local_size: Count = 96  # pixels along a side of a local crop
    global_scale: tuple[UnitInterval, UnitInterval] = (0.4, 1.0)  # area of a global crop as a fraction of the image
    local_scale: tuple[UnitInterval, UnitInterval] = (0.05, 0.4)
    color_jitter: NonNegative = 0.4
    grayscale: UnitInterval = 0.2  # probability of a view without colour
    blur: UnitInterval = 1.0  # times the published probabilities: 1 and 0.1 of the global crops, 0.5 of local ones
    solarize: UnitInterval = 1.0  # times the published probability: 0.2 of the second global crop

    @property
    def global_crops(self) -> int:
        """Two, which each other's targets are of."""
        return 2


class SelfDistillation(FeatureTask, MeanTeacher):
    """DINO's loss of student logits of all views against the teacher's of the global ones."""

    def __init__(self, config: Config):
        _views.check_views(config)
        self.config = config
        self.balances_targets = config.centering == "sinkhorn"
        self.chance_loss, self.chance_advice = math.log(config.prototypes), CHANCE_ADVICE[config.centering]
        self.center = torch.zeros(config.prototypes)
        self.total, self.count = torch.zeros(config.prototypes), 0  # of the teacher's logits in this step
        self.temperature, self.is_frozen = config.teacher_temperature, False

    def assemble(self, trunk: nn.Module) -> ProjectedModel:
        """Errors: `UsageError` for a trunk that does not take local crops."""
        c, backbone = self.config, _views.as_backbone(trunk)
        if c.local_crops:
            _views.check_local_size(backbone, c.local_size)
        self.width = sum(backbone.summary_widths)
        return ProjectedModel(
            backbone, PrototypeHead(self.width, c.hidden, c.bottleneck, c.prototypes, not c.norm_last_layer)
        )

    def transform(self, recipe: Recipe, preprocess: Preprocess) -> MultiCrop:
        c = self.config
        blur = [c.blur * p for p in (*GLOBAL_BLUR, LOCAL_BLUR)]
        return _views.build_multi_crop(recipe, preprocess, c, blur, [c.solarize * p for p in (*SOLARIZED, 0.0)])

    def decay(self, base: float, step: int, steps: int) -> float:
        """From `base` to 1 along a cosine."""
        return 1 - (1 - base) * 0.5 * (1 + math.cos(math.pi * min(1.0, step / steps)))

    def begin_step(self, step: int, steps: int) -> None:
        c = self.config
        rise = min(1.0, step / max(1.0, c.temperature_warmup * steps))
        self.temperature = c.teacher_temperature_start + rise * (c.teacher_temperature - c.teacher_temperature_start)
        self.is_frozen = step < c.freeze_last_layer * steps
        self.total, self.count = torch.zeros_like(self.total), 0

    def teach(self, teacher: nn.Module, batch: Batch) -> Batch:
        """The targets are the teacher's probabilities of the global crops, [B G K]; its logits where `balance` is to
        follow."""
        logits = _views.project_views(teacher, Views(batch.inputs.global_crops, batch.inputs.local_crops[:, :0]))
        self.center = self.center.to(logits.device)
        self.total = self.total.to(logits.device) + logits.sum((0, 1))
        self.count += logits.shape[0] * logits.shape[1]
        if self.balances_targets:
            return Batch(batch.inputs, logits)
        return Batch(batch.inputs, F.softmax((logits - self.center) / self.temperature, dim=-1))

    def balance(self, targets: Sequence[Tensor], all_reduce_sum: Callable[[Tensor], Tensor]) -> list[Tensor]:
        logits = torch.cat(list(targets))  # [B G K]
        balanced = sinkhorn(logits.flatten(0, 1), self.temperature, all_reduce_sum).view_as(logits)
        return list(balanced.split([len(part) for part in targets]))

    def loss(self, model: Any, batch: Batch) -> dict[str, Tensor]:
        model.head.is_frozen = self.is_frozen
        logits = _views.project_views(model, batch.inputs)
        return {"self_distillation": dino_loss(logits / self.config.student_temperature, batch.targets)}

    def end_step(self, all_reduce_sum: Callable[[Tensor], Tensor]) -> None:
        """Moves the centre towards the mean of the teacher's logits over the global batch."""
        row = all_reduce_sum(torch.cat([self.total, self.total.new_tensor([self.count])]))
        self.center = torch.lerp(row[:-1] / row[-1], self.center, self.config.center_momentum)

    def after_step(self, model: nn.Module, step: int) -> None:
        """All is done in `end_step`."""

    def state(self) -> dict[str, Tensor]:
        return {"center": self.center}

    def load_state(self, tensors: Mapping[str, Tensor]) -> None:
        """Errors: `CheckpointError` for another centre than that of so many prototypes."""
        center = tensors.get("center")
        if center is None or center.shape != self.center.shape:
            have = "no centre" if center is None else f"a centre of {center.numel():,} prototypes"
            raise CheckpointError(f"the checkpoint has {have}, not of {len(self.center):,} prototypes", EDITED)
        self.center = center.to(self.center.device, copy=True)

    def held_out(self, model: nn.Module, images: Tensor, ids: np.ndarray) -> Tensor:
        """None: [B 0]. The loss falls as features collapse, too."""
        return images.new_zeros(len(images), 0)

    def defaults(self) -> DistillationDefaults:
        return DistillationDefaults()


def dino_loss(logits: Tensor, targets: Tensor) -> Tensor:
    """Cross-entropy of student logits [B V K], divided by their temperature, against the teacher's probabilities of the
    first of the views [B T K], over all pairs of different views."""
    with torch.autocast(logits.device.type, enabled=False):  # products of 16 bits would round the loss
        pairs = -torch.einsum("btk,bvk->tv", targets, F.log_softmax(logits, dim=-1))
    count = pairs.numel() - pairs.diagonal().numel()
    return (pairs.sum() - pairs.diagonal().sum()) / (count * len(logits))


def sinkhorn(logits: Tensor, temperature: float, all_reduce_sum: Callable[[Tensor], Tensor]) -> Tensor:
    """Probabilities [N K] of logits [N K] of cosines: softmax, but over the images of all processes every prototype is
    used equally often, nearly, after three rounds of Sinkhorn-Knopp (Caron et al. 2020, arxiv.org/abs/2006.09882, as in
    DINOv2). In fp64: at a temperature of 0.01 fp32 has no exponential of a cosine."""
    shares = torch.exp(logits.double() / temperature)
    for _ in range(SINKHORN_ROUNDS):
        shares = shares / all_reduce_sum(shares.sum(0))
        shares = shares / shares.sum(1, keepdim=True)
    return shares.to(logits.dtype)


def build(config: Config) -> SelfDistillation:
    """The task. Errors: `UsageError` for crops that cannot be."""
    return SelfDistillation(config)
