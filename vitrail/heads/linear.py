"""The classification head: one linear layer per summary vector; the prediction is the mean of their logits."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from vitrail.contracts import HeadedModel
from vitrail.shapes import Float


class Classifier(HeadedModel):
    """Images [B C H W] -> logits [B K], in training and out of it alike."""

    def __init__(self, backbone: Any, classes: int, init_std: float = 0.02):
        super().__init__(backbone, classes)
        self.any_size_from = backbone.any_size_from
        self.heads = nn.ModuleList(nn.Linear(width, classes) for width in backbone.summary_widths)
        for head in self.heads.children():
            assert isinstance(head, nn.Linear)
            nn.init.trunc_normal_(head.weight, std=init_std)
            nn.init.zeros_(head.bias)

    def forward(self, images: Float[Tensor, "B C H W"]) -> Float[Tensor, "B K"]:
        return self.forward_all(images).mean(1)

    def forward_all(self, images: Float[Tensor, "B C H W"]) -> Float[Tensor, "B S K"]:
        """Logits of every summary's own head [B S K]; distillation trains them separately."""
        return self.classify(self.backbone(images).summaries)

    def classify(self, summaries: Sequence[Tensor]) -> Float[Tensor, "B S K"]:
        """The same of the summaries of a backbone, each [B D]."""
        return torch.stack([head(x) for head, x in zip(self.heads, summaries, strict=True)], dim=1)


class FeatureClassifier(nn.Module):
    """The heads of a classifier for features of its frozen backbone [B D], all summaries side by side, in place of
    images. Its parameters are the classifier's own."""

    def __init__(self, model: Classifier):
        super().__init__()
        self.model = model
        self.widths = list(model.backbone.summary_widths)

    def forward(self, features: Float[Tensor, "B D"]) -> Float[Tensor, "B K"]:
        return self.model.classify(features.split(self.widths, dim=1)).mean(1)
