"""Contrastive learning of images with texts: an image and its caption are alike, and unlike those of all other pairs of
the batch. By the softmax of CLIP (Radford et al. 2021, arxiv.org/abs/2103.00020) or the sigmoid of SigLIP (Zhai et al.
2023, arxiv.org/abs/2303.15343).

Pairs are compared over the whole batch, of all processes and micro-batches. A frozen image tower (`--optim.freeze
backbone`) is locked-image tuning (Zhai et al. 2022, arxiv.org/abs/2111.07991).
"""

import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from vitrail.contracts import Backbone, Metric, Output
from vitrail.data.dataset import AnnotationKind
from vitrail.data.texts.captions import CaptionTransform
from vitrail.data.texts.tokenizer import Tokenizer
from vitrail.data.transforms.preprocess import Preprocess
from vitrail.engine.joint import JointOutputs, JointTask
from vitrail.errors import UsageError, choose
from vitrail.heads.image_text import ImageTextConfig, ImageTextModel, TextTask
from vitrail.models import _text
from vitrail.recipe import Recipe
from vitrail.tasks._defaults.pairs import PairDefaults, make_tokenizer
from vitrail.tasks._transforms import build_augmentation
from vitrail.tasks.contrastive.evaluator import RetrievalEvaluator
from vitrail.types import Batch
from vitrail.validation import Count, Fraction, PositiveFloat, UnitInterval

ANNOTATIONS: AnnotationKind = "captions"
DEFAULT_FOR = "backbone"
LARGEST_SCALE = math.log(100)  # of CLIP's softmax: the logarithm of the scale is not let above it


@dataclass(frozen=True)
class Config:
    loss: Literal["sigmoid", "softmax"] = "sigmoid"  # SigLIP's, CLIP's
    text: str = "nano"  # the text tower: nano, tiny, small, clip_base, siglip_base, ...
    outputs: Count = 0  # width of the embeddings; 0: of the image tower, which then has no projection
    scale: PositiveFloat | None = None  # the initial factor of the cosines; None: 10, or 1/0.07 with softmax
    bias: float | None = None  # sigmoid: the initial logit of a pair at a right angle; None: -10
    prompts: tuple[str, ...] = ("a photo of a {}", "{}")  # templates of texts for names of classes
    tokenizer: str = ""  # a tokenizer.json; empty: trained on the captions
    vocabulary: Count = 0  # tokens; 0: at most as many as the text tower's, fewer of few captions
    context: Count = 0  # tokens of a text, the rest is cut; 0: as the captions need, at most as the text tower's
    tokenizer_size: Count = 0  # bytes of the tokenizer in the model
    tokenizer_hash: str = ""  # their SHA-256
    text_width: Count = 0  # 0: of the text tower's variant, as the following
    text_depth: Count = 0
    text_heads: Count = 0
    text_mlp_ratio: PositiveFloat | None = None
    text_end: Count | None = None  # the id of the token that ends a text
    text_dropout: Fraction = 0.0
    text_drop_path: Fraction = 0.0
    subword_dropout: UnitInterval = 0.0  # probability that two pieces of a word stay apart, anew each time it is seen


class Contrastive(JointTask, TextTask):
    """Loss of the embeddings of images and of their captions, of unit length; token ids int64 [B N] are the targets."""

    annotations: AnnotationKind = ANNOTATIONS
    output: Output = "features"
    metric = Metric("mean_recall")
    path_keys = ("tokenizer",)
    keeps_settings = True

    def __init__(self, config: Config):
        self.config, self.text = config, text_config(config)
        self.open_tokenizer: Callable[[], Tokenizer] = no_tokenizer
        self.width = 0  # of the embeddings, once the model is assembled

    def output_names(self, classes: tuple[str, ...]) -> tuple[str, ...]:
        """None: the numbers of an embedding have no names."""
        return ()

    def assemble(self, trunk: nn.Module) -> ImageTextModel:
        """Errors: `UsageError` for a model that is no backbone."""
        if not isinstance(trunk, Backbone):
            raise UsageError(f"a {type(trunk).__name__} has no embedding of an image", "--model vit/nano")
        c = self.config
        is_sigmoid = c.loss == "sigmoid"
        scale = c.scale or (10.0 if is_sigmoid else 1 / 0.07)
        bias = (-10.0 if c.bias is None else c.bias) if is_sigmoid else None
        self.width = c.outputs or sum(trunk.summary_widths)
        tower = _text.build(replace(self.text, outputs=self.width))
        model = ImageTextModel(
            trunk, tower, ImageTextConfig(c.outputs, scale, bias, c.tokenizer_size, c.tokenizer_hash)
        )
        self.open_tokenizer = model.tokenizer.open
        return model

    def make_tokenizer(self, texts: Iterable[str]) -> Tokenizer:
        return make_tokenizer(self.config, self.text, texts)

    def transform(self, recipe: Recipe, preprocess: Preprocess) -> CaptionTransform:
        return CaptionTransform(build_augmentation(recipe, preprocess), recipe.train.seed, self.open_tokenizer,
                                self.config.subword_dropout)  # fmt: skip

    def targets(self, labels: Tensor) -> Tensor:
        """Token ids as they are, int64 [B N]."""
        return labels

    def count_targets(self, labels: Tensor, batch: int, all_reduce_sum: Callable[[Tensor], Tensor]) -> Tensor:
        return labels

    def fit_class_weights(self, labels: Tensor) -> None:
        """There are no classes."""

    def outputs(self, model: Any, batch: Batch) -> JointOutputs:
        shared = (model.log_scale,) if model.bias is None else (model.log_scale, model.bias)
        return JointOutputs((model(batch.inputs), model.embed_tokens(batch.targets)), shared)

    def joint_loss(self, own: JointOutputs, everyone: tuple[Tensor, ...], first: int) -> dict[str, Tensor]:
        """Of pairs of which one side is in this process. In fp32, as published."""
        (images, texts), (all_images, all_texts) = (tuple(t.float() for t in rows) for rows in (own.rows, everyone))
        scale = own.shared[0].float().exp()
        places = torch.arange(len(images), device=images.device) + first
        logits = scale * images @ all_texts.T
        if self.config.loss == "softmax":
            backward = scale * texts @ all_images.T
            return {"softmax": (F.cross_entropy(logits, places) + F.cross_entropy(backward, places)) / 2}
        logits = logits + own.shared[1].float()
        signs = 2 * F.one_hot(places, len(all_texts)) - 1
        return {"sigmoid": F.softplus(-signs * logits).sum() / len(images)}

    def predict(self, model: nn.Module, images: Tensor) -> Tensor:
        """Embeddings of unit length, [B E]."""
        embedded: Tensor = model(images).float()
        return embedded

    def defaults(self) -> PairDefaults:
        return PairDefaults(self.config, text_config)

    def evaluator(self) -> RetrievalEvaluator:
        return RetrievalEvaluator(self.predict, self.width)

    @torch.no_grad()
    def after_step(self, model: Any, step: int) -> None:
        """CLIP's bound of the scale."""
        if self.config.loss == "softmax":
            model.log_scale.clamp_(max=LARGEST_SCALE)

    def state(self) -> dict[str, Tensor]:
        return {}

    def load_state(self, tensors: Mapping[str, Tensor]) -> None:
        """It has none: the tokenizer is in the model."""


def no_tokenizer() -> Tokenizer:
    raise UsageError("the tokenizer is in the model, which is not assembled yet", "assemble it first")


def text_config(config: Config) -> _text.Config:
    """The text tower of a config. Errors: `UsageError` for an unknown one."""
    variant = _text.VARIANTS[choose(config.text, list(_text.VARIANTS), "text tower")]
    given = {
        "vocabulary": config.vocabulary, "context": config.context, "width": config.text_width,
        "depth": config.text_depth, "heads": config.text_heads, "mlp_ratio": config.text_mlp_ratio,
        "dropout": config.text_dropout, "drop_path": config.text_drop_path,
    }  # fmt: skip
    changed: dict[str, Any] = {name: value for name, value in given.items() if value}
    if config.text_end is not None:
        changed["end"] = config.text_end
    return replace(variant, **changed)


def build(config: Config) -> Contrastive:
    """The task. Errors: `UsageError`."""
    if config.loss == "softmax" and config.bias is not None:
        raise UsageError("the softmax loss has no bias: it adds the same to all logits", "leave --task.bias out")
    if any(not template.strip() for template in config.prompts):
        raise UsageError("a prompt is empty", '--task.prompts "a photo of a {}"')
    return Contrastive(config)
