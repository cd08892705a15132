"""The classification head: one linear layer per summary vector; the prediction is the mean of their logits."""

from typing import Any

import torch
from torch import Tensor, nn

from vitrail.contracts import HeadedModel
from vitrail.shapes import Float


class Classifier(HeadedModel):
    """Images [B C H W] -> logits [B K], in training and out of it alike."""

    def __init__(self, backbone: Any, classes: int, init_std: float = 0.02):
        super().__init__(backbone, classes)
        self.heads = nn.ModuleList(nn.Linear(width, classes) for width in backbone.summary_widths)
        for head in self.heads.children():
            assert isinstance(head, nn.Linear)
            nn.init.trunc_normal_(head.weight, std=init_std)
            nn.init.zeros_(head.bias)

    def forward(self, images: Float[Tensor, "B C H W"]) -> Float[Tensor, "B K"]:
        return self.forward_all(images).mean(1)

    def forward_all(self, images: Float[Tensor, "B C H W"]) -> Float[Tensor, "B S K"]:
        """Logits of every summary's own head [B S K]; distillation trains them separately."""
        summaries = self.backbone(images).summaries
        return torch.stack([head(x) for head, x in zip(self.heads, summaries, strict=True)], dim=1)
