"""DiT: scalable diffusion models with transformers (Peebles & Xie 2022, arxiv.org/abs/2212.09748).

A denoiser predicts the noise in a noisy image or latent from its time and class. The trunk is a plain ViT; time and
class shift and scale the input of each block (adaLN-Zero), initialised at zero, so that a new block is the identity.
Sizes are those of latents: 32 x 32 for an image of 256 pixels; `nano` is for small images in pixel space.
"""

from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from vitrail.contracts import Denoiser
from vitrail.layers.adaln import ClassEmbed, Conditioning, Modulation, PatchOut, TimeEmbed, initialise, modulate
from vitrail.layers.attention import SelfAttention
from vitrail.layers.mlp import Mlp
from vitrail.layers.patch import PatchEmbed, grid_of
from vitrail.layers.position import SinCos
from vitrail.types import TokenLayout
from vitrail.validation import Count

KIND = "denoiser"


@dataclass(frozen=True)
class Config:
    width: int = 1152
    depth: int = 28
    heads: int = 16
    mlp_ratio: float = 4.0
    patch: int = 2
    size: tuple[int, int] = (32, 32)  # (height, width) of the position table; any other size works too
    channels: int = 4
    classes: Count = 1000  # label `classes` is "no class"; 0: unconditional
    learn_sigma: bool = True  # twice the output channels: the second half is the variance
    eps: float = 1e-6


VARIANTS = {
    "nano":    Config(width=128,  depth=6,  heads=4,  patch=4, size=(28, 28), channels=3),
    "small_8": Config(width=384,  depth=12, heads=6,  patch=8),
    "small_4": Config(width=384,  depth=12, heads=6,  patch=4),
    "small_2": Config(width=384,  depth=12, heads=6,  patch=2),
    "base_8":  Config(width=768,  depth=12, heads=12, patch=8),
    "base_4":  Config(width=768,  depth=12, heads=12, patch=4),
    "base_2":  Config(width=768,  depth=12, heads=12, patch=2),
    "large_8": Config(width=1024, depth=24, heads=16, patch=8),
    "large_4": Config(width=1024, depth=24, heads=16, patch=4),
    "large_2": Config(width=1024, depth=24, heads=16, patch=2),
    "xl_8":    Config(width=1152, depth=28, heads=16, patch=8),
    "xl_4":    Config(width=1152, depth=28, heads=16, patch=4),
    "xl_2":    Config(width=1152, depth=28, heads=16, patch=2),
}  # fmt: skip


class Block(nn.Module):
    """x + gate attention, x + gate MLP, on norms without weights that the conditioning shifts and scales."""

    def __init__(self, config: Config):
        super().__init__()
        width = config.width
        self.norm1, self.norm2 = (bare_norm(config) for _ in range(2))
        self.attn = SelfAttention(width, config.heads)
        self.mlp = Mlp(width, int(width * config.mlp_ratio), "tanh")
        self.modulation = Modulation(width, 6)

    def forward(self, x: Tensor, moves: Tensor, layout: TokenLayout) -> Tensor:
        """moves: the output of `modulation` for the conditioning."""
        shift1, scale1, gate1, shift2, scale2, gate2 = moves.chunk(6, dim=-1)
        x = torch.addcmul(x, gate1, self.attn(modulate(self.norm1(x), shift1, scale1), layout))
        return torch.addcmul(x, gate2, self.mlp(modulate(self.norm2(x), shift2, scale2)))


class AdaLNDenoiser(Denoiser):
    """A denoiser whose blocks and output layer are each modulated by a `Modulation` of time and class. The family
    defines the rest."""

    time: TimeEmbed
    label: ClassEmbed
    blocks: nn.ModuleList
    out: PatchOut

    def condition(self, t: Tensor, label: Tensor) -> Conditioning:
        """The modulation of all blocks for times [B] and labels [B]."""
        embedded = self.label(label)
        c = F.silu(self.time(t) + embedded)  # [B D]
        blocks: Any = self.blocks
        return Conditioning((*(block.modulation(c) for block in blocks), self.out.modulation(c)), embedded)


class DiT(AdaLNDenoiser):
    """Noisy images [B C H W], times [B], labels [B] -> noise [B C H W], with `learn_sigma` [B 2C H W]: the second half
    interpolates between the least and the greatest variance of a step, from -1 to 1."""

    def __init__(self, config: Config):
        super().__init__()
        self.config = config
        patch = (config.patch, config.patch)
        self.patch_embed = PatchEmbed(config.channels, config.width, patch)
        self.position = SinCos(grid_of(config.size, patch), config.width)
        self.time = TimeEmbed(config.width)
        self.label = ClassEmbed(config.classes, config.width)
        self.null, self.learns_variance = self.label.null, config.learn_sigma
        self.blocks = nn.ModuleList(Block(config) for _ in range(config.depth))
        self.out = PatchOut(bare_norm(config), config.width, config.patch, config.channels * (1 + config.learn_sigma))
        initialise(self)

    def denoise(self, x: Tensor, conditioning: Conditioning) -> Tensor:
        """The prediction for noisy images [B C H W], given the `condition` of their times and classes."""
        tokens = self.position(self.patch_embed(x))  # [B h w D]
        layout = TokenLayout((tokens.shape[1], tokens.shape[2]), self.patch_embed.patch)
        tokens = tokens.flatten(1, 2).contiguous()  # [B hw D]; contiguous, or every norm would copy it
        for block, moves in zip(self.blocks, conditioning.moves, strict=False):
            tokens = block(tokens, moves, layout)
        return self.out(tokens, conditioning.moves[-1], (x.shape[2], x.shape[3]))


def bare_norm(config: Config) -> nn.LayerNorm:
    return nn.LayerNorm(config.width, config.eps, elementwise_affine=False)


def build(config: Config) -> DiT:
    """A DiT, freshly initialised."""
    return DiT(config)
