"""A classifier of images whose classes are texts, from a model of images with texts: nothing of it is trained."""

from torch import Tensor

from vitrail.contracts import HeadedModel
from vitrail.heads.image_text import ImageTextModel
from vitrail.shapes import Float


class TextClassifier(HeadedModel):
    """Images [B C H W] -> logits [B K] of K texts."""

    texts: Tensor

    def __init__(self, model: ImageTextModel, texts: Float[Tensor, "K E"]):
        """texts: their embeddings, of unit length."""
        super().__init__(model.backbone, len(texts))
        self.any_size_from = model.any_size_from
        self.model = model
        self.register_buffer("texts", texts)

    def forward(self, images: Float[Tensor, "B C H W"]) -> Float[Tensor, "B K"]:
        return self.model.compare(self.model(images), self.texts)
