"""An image tower and a text tower whose embeddings of unit length are compared: CLIP, SigLIP and their kind."""

import hashlib
import math
from abc import abstractmethod
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from vitrail.contracts import HeadedModel, Task
from vitrail.data.texts.tokenizer import Tokenizer
from vitrail.errors import CheckpointError
from vitrail.layers.modes import evaluation_mode
from vitrail.shapes import Float, Int

BATCH = 256  # texts that `embed` passes through the tower at once


@dataclass(frozen=True)
class ImageTextConfig:
    """Of what stands between the towers. outputs: width of the embedding, 0 for that of the image tower, which then has
    no projection. scale: the initial factor of the cosines; bias: what is added to them, None for none."""

    outputs: int = 0
    scale: float = 10.0
    bias: float | None = -10.0
    tokenizer_size: int = 0  # bytes
    tokenizer_hash: str = ""  # SHA-256 of them


class StoredTokenizer(nn.Module):
    """A tokenizer inside a model: its bytes are a tensor, so that checkpoints and weights files have it."""

    content: Tensor

    def __init__(self, size: int, sha256: str):
        super().__init__()
        self.sha256 = sha256
        self.register_buffer("content", torch.zeros(size, dtype=torch.uint8))
        self.opened: Tokenizer | None = None

    @property
    def is_filled(self) -> bool:
        """Whether it has the bytes that the model was made for."""
        return hashlib.sha256(self.content.cpu().numpy().tobytes()).hexdigest() == self.sha256

    def fill(self, tokenizer: Tokenizer) -> None:
        """Errors: `CheckpointError` for another tokenizer than the model was made with."""
        facts = tokenizer.facts
        if facts.sha256 != self.sha256:
            raise other_tokenizer(facts.sha256, self.sha256)
        self.content.copy_(torch.frombuffer(bytearray(tokenizer.content), dtype=torch.uint8))
        self.opened = tokenizer

    def open(self) -> Tokenizer:
        """The tokenizer. Errors: `CheckpointError` where its bytes are not those that the model was trained with."""
        if self.opened is None:
            content = self.content.cpu().numpy().tobytes()
            found = hashlib.sha256(content).hexdigest()
            if found != self.sha256:
                raise other_tokenizer(found, self.sha256)
            self.opened = Tokenizer(content)
        return self.opened


def other_tokenizer(found: str, known: str) -> CheckpointError:
    what = f"this is the tokenizer of another model: its SHA-256 is {found[:12]}, that of this model's {known[:12]}"
    return CheckpointError(what, "use the one that is stored with the model")


class TextTask(Task):
    """A task whose model has a tokenizer, which is made before the first step of a run."""

    @abstractmethod
    def make_tokenizer(self, texts: Iterable[str]) -> Tokenizer:
        """The tokenizer for a data set with such captions; the same whenever it is asked for. Errors: `UsageError`,
        `CheckpointError`."""


class ImageTextModel(HeadedModel):
    """Images [B C H W] -> embeddings [B E] of unit length, which those of texts are compared with."""

    def __init__(self, backbone: Any, text: nn.Module, config: ImageTextConfig):
        """text: token ids int64 [B N] -> [B E]."""
        super().__init__(backbone, 0)
        width = sum(backbone.summary_widths)
        self.width = config.outputs or width  # of the embeddings
        self.proj = nn.Linear(width, config.outputs, bias=False) if config.outputs else nn.Identity()
        if isinstance(self.proj, nn.Linear):
            nn.init.normal_(self.proj.weight, std=width**-0.5)
        self.text = text
        self.log_scale = nn.Parameter(torch.tensor([math.log(config.scale)]))
        self.bias = None if config.bias is None else nn.Parameter(torch.tensor([config.bias]))
        self.tokenizer = StoredTokenizer(config.tokenizer_size, config.tokenizer_hash)

    def forward(self, images: Float[Tensor, "B C H W"]) -> Float[Tensor, "B E"]:
        return F.normalize(self.proj(torch.cat(self.backbone(images).summaries, dim=1)), dim=1)

    def embed_tokens(self, tokens: Int[Tensor, "B N"]) -> Float[Tensor, "B E"]:
        """Embeddings of texts, of unit length."""
        return F.normalize(self.text(tokens), dim=1)

    def compare(self, images: Float[Tensor, "B E"], texts: Float[Tensor, "C E"]) -> Float[Tensor, "B C"]:
        """Logits of every image with every text, from their embeddings."""
        logits = self.log_scale.exp() * (images @ texts.mT)
        return logits if self.bias is None else logits + self.bias

    def embed_classes(self, names: Sequence[str], templates: Sequence[str]) -> Float[Tensor, "K E"]:
        """The embedding of each class for zero-shot classification, of unit length: the mean over the templates, in
        which its name replaces {} (CLIP, section 3.1.4). Errors: as `embed_texts`."""
        texts = self.embed_texts(prompt_texts(names, templates))
        return F.normalize(texts.unflatten(0, (len(names), -1)).mean(1), dim=1)

    @torch.no_grad()
    def embed_texts(self, texts: Sequence[str]) -> Float[Tensor, "N E"]:
        """Embeddings of texts, of unit length, float32, for use outside of training. Errors: `CheckpointError` for a
        tokenizer of another model."""
        tokenizer, device = self.tokenizer.open(), self.log_scale.device
        rows = [torch.zeros(0, self.width)]
        with evaluation_mode(self):
            for start in range(0, len(texts), BATCH):
                tokens = torch.from_numpy(tokenizer.encode(texts[start : start + BATCH])).to(device)
                rows.append(self.embed_tokens(tokens).float().cpu())
        return torch.cat(rows)


def prompt_texts(names: Sequence[str], templates: Sequence[str]) -> list[str]:
    """Every name in every template, in which it replaces {}: those of the first name first. A template without braces
    is put before the name."""
    return [t.replace("{}", name) if "{}" in t else f"{t} {name}" for name in names for t in templates or ("{}",)]
